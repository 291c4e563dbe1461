"""What is odd in a whole model: found where it was planted and nowhere else, and its gains are those of real codes."""

import math

import numpy as np
import pytest
from safetensors.numpy import save_file

import quantlab as ql
from quantlab.errors import Cancelled, ConfigError
from quantlab.sweeping.findings import COLUMNS, DB_PER_BIT

RNG = np.random.default_rng(8)
PLAIN = RNG.standard_normal((256, 512)).astype(np.float32)


def planted(where, factor=50.0):
    x = PLAIN.copy()
    x[where] *= factor
    return x


MODEL = {
    "layers.0.q_proj.weight": PLAIN,
    "layers.0.up_proj.weight": planted((slice(None), 123)),
    "layers.1.up_proj.weight": planted((45, slice(None))),
    "layers.1.gate_proj.weight": np.abs(PLAIN),
    "layers.1.o_proj.weight": -5 + PLAIN / 10,
    "layers.2.q_proj.weight": np.zeros((64, 64), np.float32),
    "layers.2.k_proj.weight": planted((slice(None), [3, 5]), 0.0),
    "layers.2.v_proj.weight": np.where(np.arange(PLAIN.size).reshape(PLAIN.shape) == 777, np.float32("nan"), PLAIN),
    "layers.2.down_proj.weight": 1e5 * PLAIN / np.abs(PLAIN).max(),
    "layers.3.q_proj.weight": np.abs(PLAIN) * np.where(np.arange(256) % 2, 1, -1)[:, None].astype(np.float32),
    "layers.3.k_proj.weight": np.abs(PLAIN) * np.where(np.arange(512) % 2, 1, -1).astype(np.float32),
    "embed_tokens.weight": planted((slice(None), 9)),
    "layers.0.norm.weight": np.abs(PLAIN[0]),
    "layers.0.bias": np.zeros(512, np.float32),
    "steps": np.arange(4),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("odd") / "model.safetensors"
    save_file(MODEL, path)
    with ql.open_checkpoint(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def found(checkpoint):
    return ql.findings(checkpoint)


def test_what_was_planted_is_found_and_nothing_else(found):
    assert list(found.columns) == COLUMNS and found.attrs["tensors"] == len(MODEL)
    assert {row["tensor"]: row["odd"] for row in found.to_dict("records")} == {
        "layers.0.up_proj.weight": "axis 1",
        "layers.1.up_proj.weight": "axis 0",
        "layers.1.gate_proj.weight": "one-sided",
        "layers.1.o_proj.weight": "one-sided",
        "layers.2.q_proj.weight": "dead",
        "layers.2.k_proj.weight": "dead part",
        "layers.2.v_proj.weight": "NaN/inf",
        "layers.2.down_proj.weight": "large",
        "layers.3.q_proj.weight": "one-sided",
        "layers.3.k_proj.weight": "one-sided",
        "embed_tokens.weight": "axis 1",
    }


def test_every_gain_is_that_of_the_codes_themselves(found):
    """SQNR of what comes back out of packed codes, with the remedy and without, in plain NumPy."""

    def sqnr(x, slug):
        back = ql.quantize(x, ql.QuantConfig.parse(slug)).dequantize().astype(np.float64)
        return 10 * math.log10(np.sum(x.astype(np.float64) ** 2) / np.sum((x - back) ** 2))

    rows = found[found["gain_db"].notna()].to_dict("records")
    assert len(rows) == 7
    for row in rows:
        x = MODEL[row["tensor"]]
        assert row["gain_db"] == pytest.approx(sqnr(x, row["config"]) - sqnr(x, row["instead"]), abs=1e-6)
        assert f"{row['gain_db']:+.1f} dB at int" in row["remedy"]
        sizes = [ql.quantize(x, ql.QuantConfig.parse(row[which])).bits_per_weight for which in ("config", "instead")]
        assert row["more_bits"] == sizes[0] - sizes[1]
        assert row["gain_db"] - DB_PER_BIT * row["more_bits"] >= 3


def test_the_remedy_is_for_the_axis_that_has_the_outliers(found):
    remedies = found.set_index("tensor")[["what", "axis", "config"]]
    assert tuple(remedies.loc["layers.0.up_proj.weight"])[1:] == (1, "int8-sym-ch1-minmax")
    assert "channel 123 along axis 1" in remedies.loc["layers.0.up_proj.weight", "what"]
    assert tuple(remedies.loc["layers.1.up_proj.weight"])[1:] == (0, "int8-sym-ch0-minmax")
    assert tuple(remedies.loc["layers.3.q_proj.weight"]) == (
        "256 of 256 along axis 0 hold values of one sign", 0, "int4-aff-ch0-minmax"
    )  # fmt: skip
    assert tuple(remedies.loc["layers.3.k_proj.weight"])[1:] == (1, "int4-aff-ch1-minmax")
    # Values that 0 is far from: a range that must hold 0 wastes most codes, an offset none.
    assert remedies.loc["layers.1.o_proj.weight", "config"] == "int4-uni-g128-minmax"


def test_what_cannot_be_quantized_comes_first_then_what_gains_most(found):
    assert found["odd"][0] == "NaN/inf" and "1 NaN and 0 infinite" in found["what"][0]
    gains = found["gain_db"].dropna()
    assert gains.is_monotonic_decreasing and list(gains.index) == [1, 2, 3, 4, 5, 6, 7]


def test_what_is_dead_says_what_leaving_it_out_saves(found):
    remedies = found.set_index("tensor")["remedy"]
    assert remedies["layers.2.q_proj.weight"] == "without it: 16.4 kB less"  # 64 x 64 x 4 bytes
    assert remedies["layers.2.k_proj.weight"] == "without them: 2.0 kB less"  # 2 columns of 256 x 4 bytes


def test_a_gain_that_its_own_bits_would_give_is_none():
    """Scales of two values each make no error; they take 16 bits for each."""
    x = PLAIN[:2].copy()
    x[:, 7] *= 50
    assert not (ql.findings(x)["config"] == "int8-sym-ch1-minmax").any()


def test_a_plain_model_has_no_findings_and_the_same_columns():
    found = ql.findings({"a": PLAIN, "b": PLAIN.T.copy()})
    assert found.empty and list(found.columns) == COLUMNS and found.attrs["tensors"] == 2


def test_names_choose_and_unknown_ones_are_refused(checkpoint):
    assert list(ql.findings(checkpoint, ["layers.2.q_proj.weight"])["odd"]) == ["dead"]
    with pytest.raises(ConfigError, match="unknown tensor 'nothing'"):
        ql.findings(checkpoint, ["nothing"])


def test_progress_counts_bytes_and_a_cancel_is_heard(checkpoint):
    told = []
    ql.findings(checkpoint, on_progress=lambda *step: told.append(step))
    assert [name for _, _, name in told] == checkpoint.names
    assert told[0][0] == 0 and all(done < total for done, total, _ in told)
    with pytest.raises(Cancelled):
        ql.findings(checkpoint, cancel=lambda: len(told) > 0)
