"""Which tensor gets what: the last rule that matches, and nothing that nobody asked for."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantlab.core.config import PRESETS, QuantConfig
from quantlab.core.tensor import quantize
from quantlab.errors import ConfigError, ShapeError
from quantlab.formats import open_checkpoint
from quantlab.shipping.recipe import Rule, assign, matches, select

INT4, FP16 = PRESETS["w4_g32"], PRESETS["float16"]


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "model.npz"
    arrays = {
        "fc1.weight": np.ones((4, 40), np.float32),
        "fc1.bias": np.ones(4, np.float32),
        "fc2.weight": np.ones((2, 4), np.float16),
        "steps": np.arange(6).reshape(2, 3),
        "none": np.ones((0, 4), np.float32),
        "a[0]": np.ones((2, 2), np.float64),
    }
    np.savez(path, **arrays)
    with open_checkpoint(path) as opened:
        yield opened


def given(checkpoint, *texts):
    return {item.spec.name: str(item.config) for item in assign(checkpoint, [Rule.parse(t) for t in texts]).taken}


@pytest.mark.parametrize(
    "text",
    [
        "lm_head*=fp16",
        "int4-sym-g32-mse",
        "*.bias=skip",
        "a=b=int8-uni-ch-1-minmax",
        "int8-sym-channel-minmax",
        "skip",
        "copy",
    ],
)
def test_a_rule_reads_as_it_is_written(text):
    assert str(Rule.parse(text)) == text
    assert Rule.parse(str(Rule.parse(text))) == Rule.parse(text)


@pytest.mark.parametrize("text", ["*=int44", "*=", "", "="])
def test_a_rule_without_a_configuration_is_refused(text):
    with pytest.raises(ConfigError, match="is no configuration"):
        Rule.parse(text)


def test_by_default_the_floats_of_two_dimensions_or_more_are_quantized(checkpoint):
    assert list(given(checkpoint, "w4_g32")) == ["fc1.weight", "fc2.weight", "a[0]"]
    assert select(checkpoint, []) == ["fc1.weight", "fc2.weight", "a[0]"]


def test_a_glob_names_biases_too(checkpoint):
    assert list(given(checkpoint, "fc1*=w4_g32")) == ["fc1.weight", "fc1.bias"]


def test_the_last_rule_that_matches_counts(checkpoint):
    assert given(checkpoint, "w4_g32", "fc*=float16", "fc2*=skip") == {
        "fc1.weight": "fp16", "fc1.bias": "fp16", "a[0]": str(INT4)
    }  # fmt: skip
    assert given(checkpoint, "fc*=float16", "w4_g32")["fc1.weight"] == str(INT4)


def test_every_tensor_is_either_taken_or_left_out_with_a_reason(checkpoint):
    found = assign(checkpoint, [Rule.parse("*=fp16"), Rule.parse("fc2*=skip")])
    assert {item.spec.name: item.reason for item in found.left} == {
        "fc2.weight": "left out by a rule",
        "steps": "int64, not floating point",
        "none": "empty",
    }
    assert len(found.taken) + len(found.left) == len(checkpoint.names)
    assert all(item.config is None for item in found.left)


def test_a_copy_keeps_the_bytes_and_what_no_other_rule_can_take(checkpoint):
    found = assign(
        checkpoint, [Rule.parse(text) for text in ("*=copy", "*=int8-sym-ch0-minmax", "fc1.bias=skip", "a?0?=copy")]
    )
    assert [item.spec.name for item in found.taken] == ["fc1.weight", "fc2.weight"]
    assert {item.spec.name: item.nbytes for item in found.copied} == {"steps": 48, "none": 0, "a[0]": 32}
    assert [item.spec.name for item in found.left] == ["fc1.bias"]
    assert found.copied_nbytes == 80


def test_sizes_are_those_of_the_quantized_tensors(checkpoint):
    found = assign(checkpoint, [Rule.parse("w4_g32"), Rule.parse("fc2*=int8-aff-ch0-minmax")])
    made = {item.spec.name: quantize(checkpoint.raw(item.spec.name), item.config) for item in found.taken}
    assert [item.nbytes for item in found.taken] == [q.nbytes for q in made.values()]
    assert found.nbytes == sum(q.nbytes for q in made.values())
    assert found.source_nbytes == sum(checkpoint.raw(name).nbytes for name in made)
    assert found.bits_per_weight == 8 * found.nbytes / sum(q.size for q in made.values())
    assert found.compression_ratio == found.source_nbytes / found.nbytes


@pytest.mark.parametrize(
    "name, pattern, expected",
    [
        ("a[0]", "a[0]", True),
        ("a0", "a[0]", True),
        ("A", "a", False),
        ("x.weight", "weight", False),
        ("x.weight", "*weight", True),
    ],
)
def test_a_pattern_is_the_name_itself_or_a_glob_of_the_whole_name(name, pattern, expected):
    assert matches(name, pattern) is expected


def test_names_are_selected_in_the_files_order_and_once(checkpoint):
    assert select(checkpoint, ["fc2*", "*weight", "steps"]) == ["fc1.weight", "fc2.weight", "steps"]


@pytest.mark.parametrize("use", [lambda c: select(c, ["fc1.wieght"]), lambda c: assign(c, [Rule("fc1.wieght", FP16)])])
def test_a_pattern_without_a_match_is_refused_with_the_nearest_name(checkpoint, use):
    with pytest.raises(ConfigError, match=r"no tensor .* matches 'fc1.wieght': did you mean 'fc1.weight'"):
        use(checkpoint)


def test_a_configuration_that_a_shape_does_not_allow_names_the_tensor(checkpoint):
    with pytest.raises(ShapeError, match=r"'fc1.bias' cannot have int8-sym-ch1-minmax: axis 1"):
        assign(checkpoint, [Rule("*", QuantConfig.parse("int8-sym-ch1-minmax"))])


@pytest.mark.parametrize("rules", [["*=skip"], ["steps=fp16"], ["w4_g32", "*=skip"]])
def test_rules_that_leave_nothing_are_refused(checkpoint, rules):
    with pytest.raises(ConfigError, match="leave no tensor"):
        given(checkpoint, *rules)


def test_a_file_without_weights_says_how_to_take_others(tmp_path):
    np.save(tmp_path / "bias.npy", np.ones(4, np.float32))
    with open_checkpoint(tmp_path / "bias.npy") as checkpoint:
        with pytest.raises(ConfigError, match=r"1 of fewer than two dimensions: name .* such as 'bias', or \* for all"):
            select(checkpoint, [])
        assert given(checkpoint, "bias=fp16") == {"bias": "fp16"}


@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "encoder.LayerNorm.weight", "h.0.ln_1.bias", "wte.weight"]
)
def test_what_quantizers_leave_alone_by_habit_is_left_visible_and_can_be_named(tmp_path, name):
    save_file({name: np.ones((4, 8), np.float32), "fc.weight": np.ones((4, 8), np.float32)}, tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as checkpoint:
        plain = assign(checkpoint, [Rule.parse("w4_g32")])
        assert [item.spec.name for item in plain.taken] == ["fc.weight"]
        assert "not asked for by name" in plain.left[0].reason
        named = assign(checkpoint, [Rule.parse("w4_g32"), Rule.parse(f"{name}=w8_channel")])
        assert {item.spec.name for item in named.taken} == {"fc.weight", name}
