"""Totals over tensors are those of all weights as one vector; files that leave quantlab are safe and exact."""

import csv
import io
import json
import math

import numpy as np
import pandas as pd
import pytest

from quantlab.core.config import QuantConfig, grid
from quantlab.core.metrics import measure
from quantlab.core.tensor import fake_quantize, quantize
from quantlab.sweeping import tables
from quantlab.sweeping.sweep import COLUMNS, sweep
from quantlab.sweeping.tables import TOTAL

CONFIGS = grid(["int4", "int8"], ["symmetric", "affine"], ["tensor", "g32"], ["minmax"])
HOSTILE = ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"]


@pytest.fixture(scope="module")
def tensors():
    rng = np.random.default_rng(11)
    return {
        "large": rng.standard_normal((64, 96)).astype(np.float32),
        "small": 100 * rng.standard_t(3, 50).astype(np.float32),
        "half": rng.standard_normal((8, 32)).astype(np.float16),
        "zeros": np.zeros((4, 4), np.float32),
    }


@pytest.fixture(scope="module")
def frame(tensors):
    return sweep(tensors, CONFIGS)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_total_is_measured_as_if_all_tensors_were_one(frame, tensors, config):
    row = tables.total(frame).set_index("config").loc[str(config)]
    x = np.concatenate([np.asarray(t, np.float32).reshape(-1) for t in tensors.values()])
    decoded = np.concatenate([fake_quantize(t, config).reshape(-1) for t in tensors.values()])
    whole = measure(x, decoded)
    for name in ("sqnr_db", "mse", "rmse", "mae", "max_abs_error"):
        assert row[name] == pytest.approx(getattr(whole, name), rel=1e-9), name
    nbytes = sum(quantize(t, config).nbytes for t in tensors.values())
    assert row["nbytes"] == nbytes
    assert row["bits_per_weight"] == pytest.approx(8 * nbytes / x.size)
    assert row["compression_ratio"] == pytest.approx(sum(t.nbytes for t in tensors.values()) / nbytes)


def test_a_total_has_the_columns_of_a_sweep_and_one_row_per_configuration(frame):
    total = tables.total(frame)
    assert list(total.columns) == COLUMNS
    assert list(total["config"]) == [str(config) for config in CONFIGS]
    assert set(total["tensor"]) == {TOTAL}


def test_a_lossless_total_is_infinitely_good():
    exact = np.float16([[1, 2], [3, 4]])
    row = tables.total(sweep({"a": exact, "b": exact}, [QuantConfig(dtype="fp16")])).iloc[0]
    assert (row["sqnr_db"], row["mse"]) == (math.inf, 0)


def test_a_tensor_that_is_lossless_under_one_configuration_still_counts_in_its_signal():
    exact, other = np.float32([[1, -1, 1, 1]]), np.float32([[0.3, 0.7, -0.1, 0.9]])
    configs = [QuantConfig(dtype="int8"), QuantConfig(dtype="fp16")]
    total = tables.total(sweep({"a": exact, "b": other}, configs)).set_index("config")
    x = np.concatenate([exact, other])
    for config in configs:
        decoded = np.concatenate([fake_quantize(exact, config), fake_quantize(other, config)])
        assert total.loc[str(config), "sqnr_db"] <= measure(x, decoded).sqnr_db + 1e-9


def test_a_total_is_over_the_tensors_that_every_configuration_accepts(tensors):
    configs = [QuantConfig.parse("int8-sym-tensor-minmax"), QuantConfig.parse("int8-sym-ch1-minmax")]
    frame = sweep(tensors, configs)  # "small" has no axis 1
    assert tables.common_tensors(frame) == ["large", "half", "zeros"]
    total = tables.total(frame)
    assert len(total) == 2
    assert total["shape"].nunique() == 1


def test_a_configuration_that_accepts_no_tensor_does_not_empty_the_total(tensors):
    configs = [QuantConfig.parse("int8-sym-tensor-minmax"), QuantConfig.parse("int8-sym-ch5-minmax")]
    total = tables.total(sweep(tensors, configs))
    assert list(total["config"]) == ["int8-sym-tensor-minmax"]


@pytest.fixture(scope="module")
def hostile(tensors):
    return sweep(dict.fromkeys(HOSTILE, tensors["half"] - 0.5), CONFIGS[:1])


def test_a_csv_cannot_start_a_formula_and_its_numbers_stay_numbers(hostile):
    shifted = hostile.assign(sqnr_db=-hostile["sqnr_db"])
    rows = list(csv.DictReader(io.StringIO(tables.to_csv(shifted).decode(), newline="")))
    assert [row["tensor"] for row in rows] == [f"'{name}" for name in HOSTILE]
    assert [float(row["sqnr_db"]) for row in rows] == list(shifted["sqnr_db"])
    assert not any(str(cell).startswith(("=", "+", "@", "\t", "\r")) for row in rows for cell in row.values())


def test_a_csv_leaves_harmless_names_alone(frame):
    rows = list(csv.DictReader(io.StringIO(tables.to_csv(frame).decode())))
    assert [row["tensor"] for row in rows] == list(frame["tensor"])
    assert [float(row["mse"]) for row in rows] == list(frame["mse"])


def test_json_has_no_words_that_json_does_not_know(frame):
    refused = sweep({"a": np.float32([1, np.nan])}, CONFIGS[:1])
    lossless = frame[frame["tensor"] == "zeros"]
    both = pd.concat([refused, lossless])

    def unknown(word):
        raise AssertionError(word)

    rows = json.loads(tables.to_json(both), parse_constant=unknown)
    assert [row["tensor"] for row in rows] == list(both["tensor"])
    assert rows[0]["mse"] is None and rows[1]["sqnr_db"] is None
    assert rows[1]["nbytes"] == lossless["nbytes"].iloc[0]


def test_parquet_brings_back_the_same_table(frame):
    back = pd.read_parquet(io.BytesIO(tables.to_parquet(frame)))
    pd.testing.assert_frame_equal(back, frame, check_dtype=False, check_column_type=False)
