"""The levels drawn are the values that decoding gives."""

import numpy as np
import pytest

from quantlab.core.config import QuantConfig, grid
from quantlab.core.tensor import quantize
from quantlab.errors import ConfigError
from quantlab.plots.levels import levels

CONFIGS = grid(["int2", "int4", "int8"], ["symmetric", "affine", "uniform"], ["tensor", "ch0", "ch1", "g48"])
CONFIGS += grid(["int2", "int4"], ["symmetric", "affine"], ["ch0", "g48"], ["exact"])


@pytest.mark.parametrize("which", ["widest", "median", "narrowest"])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_every_decoded_value_of_the_group_is_one_of_its_levels(config, which, rng):
    x = (rng.standard_normal((6, 100)) * np.arange(1, 7)[:, None]).astype(np.float32)
    q = quantize(x, config)
    found, values = levels(x, q, which)
    groups = config.granularity.to_groups(q.dequantize())
    row, column = divmod(found.group, groups.shape[1])
    decoded = groups.matrix[row, column * groups.size : (column + 1) * groups.size]
    assert found.groups == q.scale.size
    assert values.shape == decoded.shape
    distance = np.abs(decoded[:, None].astype(np.float64) - found.values).min(axis=1)
    # Decoding rounds a product and a sum to float32, each by half a spacing of at most the largest intermediate.
    largest = np.abs(found.values).max() + np.ptp(found.values)
    assert distance.max() <= np.spacing(np.float32(largest))
    assert np.all(np.diff(found.values) > 0)


def test_the_group_is_chosen_by_its_range_and_zeros_are_passed_over():
    x = np.float32([[0, 0], [-1, 1], [-9, 9], [-3, 3]])
    q = quantize(x, QuantConfig.parse("int4-sym-ch0-minmax"))
    assert [levels(x, q, which)[0].group for which in ("widest", "median", "narrowest")] == [2, 3, 1]


def test_a_tensor_of_zeros_still_has_levels():
    x = np.zeros((2, 4), np.float32)
    assert levels(x, quantize(x, QuantConfig()))[0].values.size == 256


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_a_float_format_has_no_grid(dtype):
    x = np.ones(4, np.float32)
    with pytest.raises(ConfigError, match="float format"):
        levels(x, quantize(x, QuantConfig(dtype=dtype)))


def test_an_unknown_group_is_refused_with_the_legal_ones():
    x = np.ones(4, np.float32)
    with pytest.raises(ConfigError, match="widest, median, narrowest"):
        levels(x, quantize(x, QuantConfig()), "biggest")
