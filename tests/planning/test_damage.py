"""How much each tensor counts: by its role, by a file, or alike; and files of weights that come from anywhere."""

import json
import math

import numpy as np
import pytest

from quantlab.errors import CheckpointError, ConfigError, LimitError, QuantlabError
from quantlab.formats.checkpoint import TensorSpec
from quantlab.planning import damage
from quantlab.planning.damage import BY_ROLE, EMBEDDING, EQUAL, MEASURED, PRIOR, prior_of, read_weights, weighting

LAYER = "model.layers.0."
NAMES = {
    "self_attn.q_proj": "q", "self_attn.k_proj": "k", "self_attn.v_proj": "v", "self_attn.o_proj": "o",
    "mlp.gate_proj": "gate", "mlp.up_proj": "up", "mlp.down_proj": "down",
}  # fmt: skip


def spec(name, shape=(64, 64)):
    return TensorSpec(name, shape, "float32", 4 * int(np.prod(shape)))


def test_the_prior_is_the_published_table_and_what_it_does_not_know_is_the_median():
    specs = [spec(f"{LAYER}{name}.weight") for name in NAMES]
    others = [spec("lm_head.weight"), spec("stem.conv.weight"), spec("model.embed_tokens.weight")]
    found = prior_of([*specs, *others])
    assert found[: len(specs)].tolist() == [PRIOR[role] for role in NAMES.values()]
    assert found[len(specs) :].tolist() == [PRIOR["o"], PRIOR["o"], EMBEDDING]  # .4 is the median of the seven
    assert prior_of(others, tied=["model.embed_tokens.weight"]).tolist() == [1.0, 1.0, 1.0]


def test_fused_layers_count_as_the_mean_of_their_parts_by_parameters():
    """96 outputs of 64 inputs: 64 are q's, 16 each k's and v's."""
    found = prior_of([spec(f"{LAYER}self_attn.qkv_proj.weight", (96, 64)), spec(f"{LAYER}mlp.gate_up_proj.weight")])
    own = (64 * PRIOR["q"] + 16 * PRIOR["k"] + 16 * PRIOR["v"]) / 96
    assert found == pytest.approx([own, (PRIOR["gate"] + PRIOR["up"]) / 2], rel=1e-12)


def test_the_experts_of_a_layer_count_as_one_tensor():
    experts = [spec(f"{LAYER}mlp.experts.{i}.down_proj.weight") for i in range(8)]
    stacked = spec("model.layers.1.mlp.experts.down_proj", (8, 64, 64))
    found = prior_of([*experts, stacked])
    assert found[:8].sum() == pytest.approx(PRIOR["down"])
    assert found[8] == PRIOR["down"]


def test_weights_of_a_file_come_before_the_prior_and_what_does_not_match_is_said():
    specs = [spec("a.weight"), spec("b.weight"), spec("c.weight")]
    found = weighting(specs, weights={"a": 2.0, "b.weight": 6.0, "nothing": 1.0}, prior=True)
    assert found.values.tolist() == [2.0, 6.0, 4.0]
    assert found.word == MEASURED
    assert "'nothing'" in found.notes[0] and "'c.weight'" in found.notes[1]
    assert weighting(specs, weights=None, prior=True).word == BY_ROLE
    equal = weighting(specs, weights=None, prior=False)
    assert (equal.word, equal.values.tolist()) == (EQUAL, [1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    "weights",
    [
        {"a": math.nan},
        {"a": -1.0},
        {"a": math.inf},
        {"a": "much"},
        {"a": None},
        {"a": True},
        {"a": 0.0},
        {"z": 1},
        {},
        3,
    ],
    ids=str,
)
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ConfigError):
        weighting([spec("a.weight")], weights=weights, prior=True)


@pytest.mark.parametrize(
    "text",
    [
        "tensor,weight\na.weight,2\n\"b,c\",0.5\n",
        "a.weight,2\r\n\"b,c\",.5",
        '{"a.weight": 2, "b,c": 0.5}',
        '[["a.weight", 2], ["b,c", 5e-1]]',
        '[{"tensor": "a.weight", "weight": 2}, {"weight": 0.5, "tensor": "b,c"}]',
        "\ufeffa.weight, 2\nb\u002cc, 0.5".replace("b,c", '"b,c"'),
    ],
)  # fmt: skip
def test_weights_are_read_from_csv_and_json(text, tmp_path):
    (tmp_path / "weights").write_text(text, encoding="utf-8")
    assert read_weights(tmp_path / "weights") == {"a.weight": 2.0, "b,c": 0.5}


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff\xfe\x00", b"tensor,weight\n", b"a,nan", b"a,1\na,2", b"a,1\nb", b"a,1\nb,2,3", b"a;1", b"a,1\nb,x",
        b'{"a": NaN}', b'{"a": 1, "a": 2}', b'{"a": "1"}', b'{"a": [1]}', b'[["a"]]', b"[1, 2]", b"[[1, 2]]", b"{",
        b"[]",
        b'{"a": 1e999}', b'{"a": ' + b"9" * 5000 + b"}", b"[" * 100_000, b'"a\n', b'{"a": -0.1}', b'{"a": true}',
    ],
    ids=lambda data: str(data[:20]),
)  # fmt: skip
def test_hostile_files_of_weights_are_refused_in_one_sentence(data, tmp_path):
    (tmp_path / "weights").write_bytes(data)
    with pytest.raises(QuantlabError) as caught:
        read_weights(tmp_path / "weights")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_files_of_weights_have_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(damage, "MAX_FILE", 100)
    monkeypatch.setattr(damage, "MAX_TENSORS", 2)
    (tmp_path / "long").write_text("a" * 101)
    (tmp_path / "many.csv").write_text("a,1\nb,1\nc,1")
    (tmp_path / "many.json").write_text(json.dumps({"a": 1, "b": 1, "c": 1}))
    for name, error in (("long", LimitError), ("many.csv", LimitError), ("many.json", ConfigError)):
        with pytest.raises(error):
            read_weights(tmp_path / name)
    with pytest.raises(CheckpointError):
        read_weights(tmp_path / "absent")
