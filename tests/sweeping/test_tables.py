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


def errors_of(tensors, config):
    """(sum e^2 / sum x^2, values) of every tensor; nothing lost of nothing is 0."""
    found = []
    for x in tensors.values():
        x = np.asarray(x, np.float64)
        squared = ((x - fake_quantize(x.astype(np.float32), config)) ** 2).sum()
        found.append((squared / (x**2).sum() if squared else 0.0, x.size))
    return np.array(found).T


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_total_is_the_weighted_mean_of_what_each_tensor_loses(frame, tensors, config):
    row = tables.total(frame).set_index("config").loc[str(config)]
    relative, sizes = errors_of(tensors, config)
    assert row["sqnr_db"] == pytest.approx(-10 * math.log10(np.average(relative, weights=sizes)), rel=1e-9)
    assert row["worst_sqnr_db"] == pytest.approx(-10 * math.log10(relative.max()), rel=1e-9)
    assert row["worst_tensor"] == list(tensors)[relative.argmax()]
    x = np.concatenate([np.asarray(t, np.float32).reshape(-1) for t in tensors.values()])
    decoded = np.concatenate([fake_quantize(t, config).reshape(-1) for t in tensors.values()])
    whole = measure(x, decoded)
    for name in ("mse", "rmse", "mae", "max_abs_error"):
        assert row[name] == pytest.approx(getattr(whole, name), rel=1e-9), name
    nbytes = sum(quantize(t, config).nbytes for t in tensors.values())
    assert row["nbytes"] == nbytes
    assert row["bits_per_weight"] == pytest.approx(8 * nbytes / x.size)
    assert row["compression_ratio"] == pytest.approx(sum(t.nbytes for t in tensors.values()) / nbytes)


def test_no_tensor_of_large_values_hides_the_others(tensors):
    """One weight of 6e4 in a model of small ones: of all weights as one vector it is nearly all of the power."""
    config = [QuantConfig.parse("int4-sym-g32-minmax")]
    loud = np.zeros((8, 32), np.float32)
    loud[0, 0] = 59904
    without = tables.total(sweep({"large": tensors["large"], "quiet": 0.01 * tensors["large"]}, config)).iloc[0]
    with_it = tables.total(sweep({"large": tensors["large"], "loud": loud}, config)).iloc[0]
    share = 10 * math.log10(1 + loud.size / tensors["large"].size)  # what it adds: values that lose nothing
    assert with_it["sqnr_db"] == pytest.approx(without["sqnr_db"] + share)
    assert (with_it["worst_tensor"], with_it["median_sqnr_db"]) == ("large", with_it["worst_sqnr_db"])


def test_percentiles_count_every_tensor_once_and_are_those_of_numpy():
    rng = np.random.default_rng(3)
    tensors = {str(i): rng.standard_t(3 + i, (4, 8 + i)).astype(np.float32) for i in range(47)}
    frame = sweep(tensors, CONFIGS)
    found = tables.total(frame).set_index("config")
    for slug, rows in frame.groupby("config"):
        for column, share in (("p5_sqnr_db", 5), ("median_sqnr_db", 50)):
            assert found.loc[slug, column] == np.percentile(rows["sqnr_db"], share, method="lower")


def test_a_total_has_the_columns_of_a_sweep_and_one_row_per_configuration(frame):
    total = tables.total(frame)
    assert [column for column in total.columns if column not in tables.OVER_TENSORS] == COLUMNS
    assert list(total["config"]) == [str(config) for config in CONFIGS]
    assert set(total["tensor"]) == {TOTAL}


def test_what_later_versions_measure_of_every_tensor_is_totalled_too(frame):
    more = frame.assign(
        zeroed_fraction=frame["mse"] / frame["mse"].max(),
        worst_channel_sqnr_db=frame["sqnr_db"],
        channels_sqnr_db=frame["sqnr_db"] - 3,
    )
    total = tables.total(more)
    np.testing.assert_allclose(total["channels_sqnr_db"], total["sqnr_db"] - 3)  # whose relative errors are averaged
    np.testing.assert_allclose(total["zeroed_fraction"], total["mse"] / frame["mse"].max())
    np.testing.assert_array_equal(total["worst_channel_sqnr_db"], total["worst_sqnr_db"])


def test_a_lossless_total_is_infinitely_good():
    exact = np.float16([[1, 2], [3, 4]])
    row = tables.total(sweep({"a": exact, "b": exact}, [QuantConfig(dtype="fp16")])).iloc[0]
    assert (row["sqnr_db"], row["worst_sqnr_db"], row["median_sqnr_db"], row["mse"]) == (math.inf,) * 3 + (0,)


def test_a_configuration_that_refuses_a_tensor_has_no_total_and_the_others_keep_theirs(tensors):
    configs = [QuantConfig.parse("int8-sym-tensor-minmax"), QuantConfig.parse("int8-sym-ch1-minmax")]
    frame = sweep(tensors | {"nan": np.float32([[1, np.nan]])}, configs)  # "small" has no axis 1
    assert tables.scope(frame) == tables.Scope(list(tensors), [str(configs[0])], {str(configs[1]): 1})
    alone = tables.total(sweep(tensors, configs[:1]))
    pd.testing.assert_frame_equal(tables.total(frame), alone)
    (why,) = tables.why_no_total(frame)
    assert why.startswith("int8-sym-ch1-minmax refuses 1 of 4 tensors: axis 1 does not exist")


def test_a_configuration_that_accepts_no_tensor_does_not_empty_the_total(tensors):
    configs = [QuantConfig.parse("int8-sym-tensor-minmax"), QuantConfig.parse("int8-sym-ch5-minmax")]
    total = tables.total(sweep(tensors, configs))
    assert list(total["config"]) == ["int8-sym-tensor-minmax"]


def test_where_every_configuration_refuses_something_there_is_no_total_and_a_reason_each(tensors):
    frame = sweep(tensors, [QuantConfig.parse(f"int8-sym-ch{axis}-minmax") for axis in (1, 2)])
    frame = pd.concat([frame, sweep({"small": tensors["small"]}, CONFIGS[:1])])
    frame.attrs["refused"] = [{"tensor": "small", "config": "int8-sym-ch1-minmax", "reason": "axis 1 ..."}]
    assert tables.total(frame).empty and "worst_sqnr_db" in tables.total(frame)
    assert len(tables.why_no_total(frame)) == 3


def test_a_table_without_figures_has_an_empty_total():
    frame = sweep({"nan": np.float32([[np.nan]])}, CONFIGS)
    assert tables.total(frame).empty and tables.why_no_total(frame) == []


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
