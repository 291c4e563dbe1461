"""Inputs of a weight, and errors weighted by them, against NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quantlab as ql
from quantlab.core import kernels
from quantlab.core.granularity import PerChannel, PerGroup, PerTensor
from quantlab.core.inputs import Inputs, Weighting

from . import reference

RNG = np.random.default_rng(2)


@pytest.mark.parametrize(
    "shape, channel_axis, found",
    [
        ((5, 7), 0, (1, 7, 1)),
        ((5, 7), -2, (1, 7, 1)),
        ((5, 7), 1, (0, 5, 1)),  # as ONNX and Keras have them, [in, out]
        ((5, 7), -1, (0, 5, 1)),
        ((3, 5, 7), 0, (2, 7, 3)),
        ((3, 5, 7), 1, (2, 7, 3)),
        ((3, 5, 7), 2, (1, 5, 3)),
    ],
)
def test_inputs_lie_along_the_axis_that_is_not_of_channels(shape, channel_axis, found):
    assert Inputs.of(shape, channel_axis) == Inputs(*found)


@given(st.data())
def test_weights_are_spread_as_in_numpy(data):
    stacks, inputs = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    run, between = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    first, count = data.draw(st.integers(0, 300)), data.draw(st.integers(0, 200))
    weights = RNG.random((stacks, inputs), np.float32)
    stack_run = run * inputs * between if stacks > 1 else first + count + 1
    out = np.empty(count, np.float32)
    kernels.weighting.spread(weights, first, run, stack_run, out)
    np.testing.assert_array_equal(out, reference.spread(weights, first, run, stack_run, count))


@pytest.mark.parametrize("count", [0, 1, 7, 2047, 2048, 2049, 10_000])
def test_weighted_sums_are_those_of_numpy(count):
    x, decoded, weights = RNG.standard_t(3, count), RNG.standard_t(3, count), RNG.random(count) ** 9
    x, decoded, weights = (values.astype(np.float32) for values in (x, decoded, weights))
    # Every term is rounded twice, and their sum, all of one sign, once for each.
    near = {"rel": (count + 3) * 2.0**-53}
    assert kernels.weighting.weighted_squares(x, weights) == pytest.approx(
        reference.weighted_squares(x, weights), **near
    )
    assert kernels.weighting.weighted_distance(x, decoded, weights) == pytest.approx(
        reference.weighted_squares(x.astype(np.float64) - decoded, weights), **near
    )


@pytest.mark.parametrize("granularity", [PerTensor(), PerGroup(4), PerChannel(0), PerChannel(1), PerChannel(-1)])
@pytest.mark.parametrize("shape, axis", [((5, 7), 0), ((5, 7), 1), ((3, 5, 7), 0), ((3, 5, 7), 1), ((3, 5, 7), 2)])
def test_every_value_has_the_weight_of_its_input(shape, axis, granularity):
    inputs = Inputs.of(shape, axis)
    weights = RNG.random((inputs.stacks, inputs.count), np.float32)
    each = np.expand_dims(weights, [i for i in range(1, len(shape)) if i != inputs.axis])
    each = np.broadcast_to(each if len(shape) == 3 else np.expand_dims(weights[0], 1 - inputs.axis), shape)
    values = granularity.to_groups(np.ascontiguousarray(each)).matrix
    values = np.ascontiguousarray(values[:, :]).reshape(-1)
    found = Weighting.of(weights if inputs.stacks > 1 else weights[0], shape, axis)
    for first in (0, 1, 17):
        np.testing.assert_array_equal(found.spread(first, values.size - first, granularity), values[first:])
    rows = np.array([0, 2])
    taken = found.taken(rows, (2, *shape[1:]))
    np.testing.assert_array_equal(taken.spread(0, each[rows].size), each[rows].reshape(-1))


@pytest.mark.parametrize(
    "weights, error, word",
    [
        (np.ones(6), ql.ShapeError, r"has shape \(6,\), and must have \(7,\) for a tensor of shape \(5, 7\)"),
        (np.ones((5, 7)), ql.ShapeError, r"must have \(7,\)"),
        (1.0, ql.ShapeError, r"has shape \(\)"),
        (["a"] * 7, ql.DTypeError, "give one float for each input"),
        ([1] * 6 + [np.nan], ql.NonFiniteError, "must be finite"),
        ([1] * 6 + [1e39], ql.NonFiniteError, "must be finite"),
        ([1] * 6 + [-1], ql.NonFiniteError, "not below 0"),
        ([0] * 7, ql.NonFiniteError, "not all 0"),
    ],
)
def test_what_cannot_be_weights_is_refused_in_one_sentence(weights, error, word):
    with pytest.raises(error, match=word):
        Weighting.of(weights, (5, 7), 0, "'w'")


@pytest.mark.parametrize("shape", [(), (7,), (2, 3, 3, 3)])
def test_what_is_no_matrix_has_no_inputs(shape):
    with pytest.raises(ql.ShapeError, match="has no inputs to weight by"):
        Weighting.of(np.ones(7), shape)
