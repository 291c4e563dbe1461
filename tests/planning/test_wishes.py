"""Pins, ties and floors: as they are written, and what is said where they cannot be."""

import pytest

import quantlab as ql
from quantlab.formats import TensorSpec
from quantlab.planning.targets import TARGETS
from quantlab.planning.wishes import Floor, Tie, check_patterns, parse_floor, parse_pin, parse_tie, pinned
from quantlab.sweeping.weights import names_of_weights

from .models import LLAMA, MOE, saved

INT4, INT8 = "int4-sym-g32-mse-sbf16", "int8-sym-ch0-mse-sbf16"
UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def llama(tmp_path):
    with ql.open_checkpoint(saved(tmp_path / "llama", LLAMA)) as source:
        yield source


@pytest.mark.parametrize("text", [f"*v_proj*={INT8}", "lm_head*=copy", "a=b=q8_0", "*=int8-sym-channel-mse"])
def test_a_pin_is_written_as_a_rule(text):
    assert str(parse_pin(text)) == text


def test_a_pin_along_the_channels_follows_the_file():
    spec = TensorSpec("w", (4, 4), "float32", 64, channel_axis=1)
    assert parse_pin("*=w8_channel").choice(spec) == "int8-sym-ch1-minmax-sfp16"
    assert parse_pin("*=int8-sym-ch0-mse").choice(spec) == "int8-sym-ch0-mse"
    assert parse_pin("w=copy").choice(spec) == "copy"


@pytest.mark.parametrize("text", ["", "copy", INT4, "lm_head", "lm_head=", "lm_head=skip", f"={INT4}", "a=none"])
def test_what_is_no_pin_is_refused_in_a_sentence(text):
    with pytest.raises(ql.ConfigError):
        parse_pin(text)


@pytest.mark.parametrize(
    ("text", "floor"),
    [
        ("*v_proj*>=int4", Floor("*v_proj*", "int4")),
        ("a>=b>=q5_0", Floor("a>=b", "q5_0")),
        ("sqnr>=20", Floor("*", sqnr_db=20.0)),
        ("*down*:sqnr>=25.5", Floor("*down*", sqnr_db=25.5)),
        ("onnx::MatMul_1:sqnr>=-3", Floor("onnx::MatMul_1", sqnr_db=-3.0)),
    ],
)
def test_a_floor_is_read_and_written(text, floor):
    assert parse_floor(text) == floor
    assert str(floor) == text


@pytest.mark.parametrize(
    "text",
    ["", "int4", ">=int4", "a>=", "a>=4", "a>=int4-sym-g32-mse", "sqnr>=", "sqnr>=x", "sqnr>=nan", "a:sqnr>=inf"],
)
def test_what_is_no_floor_is_refused_with_what_is_one(text):
    with pytest.raises(ql.ConfigError, match=r"write GLOB>=DTYPE such as '\*v_proj\*>=int4', sqnr>=20"):
        parse_floor(text)


def test_a_floor_allows_what_is_at_it():
    bits, decibels = parse_floor("*>=int4"), parse_floor("sqnr>=20")
    four, three, half = map(ql.QuantConfig.parse, (INT4, "int3-sym-g32-mse", "fp16"))
    assert (bits.allows(four, -99.0), bits.allows(three, 99.0), bits.allows(half, 0.0)) == (True, False, True)
    assert (decibels.allows(four, 20.0), decibels.allows(four, 19.99), decibels.allows(four, float("nan"))) == (
        True,
        False,
        False,
    )
    assert not parse_floor("*>=q5_0").allows_bits(ql.QuantConfig(dtype="q4_1"))


def test_a_tie_is_a_glob():
    assert parse_tie("*.experts.*") == Tie("*.experts.*")
    with pytest.raises(ql.ConfigError, match="glob"):
        parse_tie("")


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("model.layers.0.mlp.upp_proj.weight", f"did you mean '{UP}'"),
        ("*layers.9*", "no tensor of 'model.safetensors' matches|no tensor of .* matches"),
        ("*embed*", "a plan keeps as they are: 'model.embed_tokens.weight' is an embedding; name weights"),
    ],
)
def test_a_glob_that_takes_in_no_weight_is_refused(pattern, why, llama):
    with pytest.raises(ql.ConfigError, match=why):
        check_patterns(["*", pattern], names_of_weights(llama), llama)


def test_a_copy_that_the_target_does_not_load_is_refused(tmp_path):
    with ql.open_checkpoint(saved(tmp_path / "moe", MOE)) as source:
        for target in ("vllm", "transformers"):
            names = names_of_weights(source)
            units, must = TARGETS[target].ties(source, names), TARGETS[target].must
            pins = [parse_pin("*experts*=copy")]
            if target == "vllm":
                assert len(pinned(units, pins, [], source, lambda spec, config: "", must)) == 2
                continue
            with pytest.raises(ql.ConfigError, match=r"'\*experts\*=copy' cannot be: transformers loads experts"):
                pinned(units, pins, [], source, lambda spec, config: "", must)


def decided(source, pins=(), floors=(), target="vllm", ties=()):
    chosen = TARGETS[target]
    units = chosen.ties(source, names_of_weights(source), ties)
    return pinned(
        units,
        [parse_pin(text) for text in pins],
        [parse_floor(text) for text in floors],
        source,
        lambda spec, config: chosen.refuses(spec, config, source),
    )


def test_a_pin_of_one_member_is_that_of_its_unit(llama):
    found = decided(llama, [f"*.0.self_attn.k_proj*={INT8}", "lm_head*=copy", f"*o_proj*={INT4}"], ["*k_proj*>=int8"])
    assert {name: each.choice for name, each in found.items()} == {
        "model.layers.0.self_attn.k_proj.weight": INT8,
        "model.layers.0.self_attn.o_proj.weight": INT4,
        "model.layers.1.self_attn.o_proj.weight": INT4,
        "lm_head.weight": "copy",
    }
    assert found["lm_head.weight"].reason == "pinned by you: lm_head*=copy"


def test_pins_of_one_unit_that_agree_are_one(llama):
    found = decided(llama, [f"*q_proj*={INT8}", f"*[kv]_proj*={INT8}"])
    assert {each.choice for each in found.values()} == {INT8} and len(found) == 2


@pytest.mark.parametrize(
    ("pins", "floors", "why"),
    [
        ([f"*up_proj*={INT4}", f"{UP}=copy"], [], f"give '{UP}' two choices: take one away"),
        (
            [f"*q_proj*={INT4}", f"*k_proj*={INT8}"],
            [],
            r"'model.layers.0.self_attn.k_proj.weight' int8.* which share one choice \(vLLM fuses q, k and v\)",
        ),
        (
            [f"*up_proj*={INT4}"],
            ["*mlp*>=int8"],
            r"is below the floor '\*mlp\*>=int8' of 'model.layers.0.mlp.gate_proj",
        ),
        (["*up_proj*=int4-sym-g32-mse"], [], "scales as bf16, in which this model runs: measure"),
        (["*up_proj*=int4-aff-g32-mse-sbf16"], [], "cannot be: .*only where all are symmetric"),
        (["*up_proj*=q8_0"], [], "cannot be: .*int2, int4 and int8"),
        (["*upp_proj*=copy"], [], "no tensor of"),
        ([], ["*upp_proj*>=int4"], "no tensor of"),
    ],
)
def test_wishes_that_contradict_each_other_or_the_target_are_refused(pins, floors, why, llama):
    with pytest.raises(ql.ConfigError, match=why):
        decided(llama, pins, floors)


def test_what_the_user_tied_is_named_where_pins_of_it_differ(llama):
    with pytest.raises(ql.ConfigError, match=r"\(tied by you\): pin them alike"):
        decided(llama, [f"*o_proj*={INT4}", f"*down_proj*={INT8}"], ties=["*[on]_proj*"], target="transformers")
