"""What is said to be odd about a tensor, and that the advice is right: against the errors that are measured."""

import numpy as np
import pytest

import quantlab as ql
from quantlab.core.findings import findings, most_uneven
from quantlab.core.statistics import DEAD, channel_ranges, describe

RNG = np.random.default_rng(11)
PLAIN = RNG.standard_normal((256, 512), dtype=np.float32)


def told(x: np.ndarray) -> str:
    return "\n".join(map(str, findings(describe(x), channel_ranges(x))))


def planted(**channels: int) -> np.ndarray:
    """Gaussian weights with a row or a column of fifty times the others."""
    x = PLAIN.copy()
    for where, index in channels.items():
        x[(index, ...) if where == "row" else (..., index)] *= 50
    return x


@pytest.mark.parametrize(
    "x, word, number",
    [
        (np.append(RNG.standard_normal(4095, dtype=np.float32), np.float32(1e6)), "Outliers", "it, 1e+06, is"),
        (np.append(RNG.standard_normal(4095, dtype=np.float32), np.float32(1e6)), "Heavy tails", "kurtosis"),
        (np.append(RNG.standard_normal(4095, dtype=np.float32), np.float32([60, 70])), "Outliers", "2 values"),
        (np.float32([0.5, 1, 1.5]), "One-sided", "0.5 to 1.5"),
        (np.float32([-3, -2, -1]), "One-sided", "none is positive"),
        (np.float32([-0.1, 0.3, 1]), "Lopsided", "45 %"),
        (np.float32([0, 0, 1, -2]), "Sparse", "50 %"),
        (np.float32([-3e38, 3e38, 1e38, 0]), "Large", "3e+38"),
        (np.float32([[1, -1], [1, -1], [9, -9]]), "Uneven channels", "9 times"),
    ],
)
def test_what_is_odd_is_said_with_its_number(x, word, number):
    found = next(f for f in findings(describe(x), channel_ranges(x)) if f.name == word)
    assert number in str(found)


def test_one_value_lies_and_several_lie():
    one = np.append(RNG.standard_normal(4095, dtype=np.float32), np.float32(1e6))
    assert "1 value (0.0244 %) lies more than" in told(one) and "it sets the step" in told(one)
    two = np.append(one, np.float32(-1e6))
    assert "2 values (0.0488 %) lie more than" in told(two) and "they set the step" in told(two)


def test_a_plain_gaussian_is_not_odd():
    assert told(PLAIN) == ""


@pytest.mark.parametrize("value", [0.3, 0.0, -1e38, 1e-45])
def test_of_a_constant_there_is_one_thing_to_say(value):
    x = np.full((10, 7), value, np.float32)
    assert told(x) == f"Every value is {float(x[0, 0]):.6g}: any configuration stores it exactly."


@pytest.mark.parametrize("x, axis", [(planted(column=123), 1), (planted(row=45), 0)])
def test_the_axis_that_is_named_is_that_whose_scales_help(x, axis):
    """An input channel of large weights spoils every output channel, and the other way about."""
    found = most_uneven(channel_ranges(x))
    assert found is not None and found.axis == axis
    assert f"channel {123 if axis else 45} along axis {axis}" in told(x) and f"(ch{axis})" in told(x)
    assert f"along axis {1 - axis} it helps less" in told(x)
    each = [ql.evaluate(x, ql.QuantConfig(granularity=ql.PerChannel(a))).sqnr_db for a in (0, 1)]
    assert each[axis] > each[1 - axis] + 10


def test_a_scale_per_channel_gains_what_the_ranges_say():
    """Channels of several widths, none so narrow that one scale for all rounds it to 0: uniform rounding error."""
    x = PLAIN * np.repeat(np.float32([1, 2, 4, 8]), 64)[:, None]
    channels = channel_ranges(x)[0]
    all_alike, each = (
        ql.evaluate(x, ql.QuantConfig(granularity=granularity)) for granularity in (ql.PerTensor(), ql.PerChannel(0))
    )
    # Rounding errors of 131,072 values, uniform within a step: their mean square is good to a few percent.
    assert abs(channels.gain_db - (each.sqnr_db - all_alike.sqnr_db)) < 0.3


def test_dead_channels_are_said_along_every_axis():
    x = PLAIN.copy()
    x[7], x[:, 3], x[:, 5] = 0, 0, DEAD / 2 * np.abs(x).max()
    assert "1 of 256 along axis 0 is zero throughout, or nearly so: 7" in told(x)
    assert "2 of 512 along axis 1 are zero throughout, or nearly so: 3, 5" in told(x)


@pytest.mark.parametrize("shape", [(), (9,), (1, 9), (9, 1, 1)])
def test_without_several_channels_of_several_values_none_is_uneven(shape):
    assert channel_ranges(np.arange(9, dtype=np.float32)[: np.prod(shape, dtype=int)].reshape(shape)) == []
    assert most_uneven([]) is None


@pytest.mark.parametrize(
    "x, words",
    [
        (np.zeros((4, 4), np.float32), ["dead"]),
        (np.zeros(16, np.float32), ["constant"]),
        (np.ones((4, 4), np.float32), ["constant"]),
        (planted(row=3), ["extreme", "heavy tails", "axis 0"]),
        (planted(column=3), ["extreme", "heavy tails", "axis 1"]),
        (np.where(np.arange(PLAIN.size).reshape(PLAIN.shape) == 99, np.float32(20), PLAIN)[:, :99], []),
        (np.abs(PLAIN[:16, :64]), ["one-sided"]),
        (np.abs(PLAIN[:16, :64]) * np.where(np.arange(16) < 4, 1, -1)[:, None].astype(np.float32), ["one-sided"]),
        (PLAIN[:64, :8], []),  # some of so short rows have one sign by chance
    ],
)
def test_a_word_for_what_stands_out(x, words):
    assert [found.word for found in findings(describe(x), channel_ranges(x))] == words


def test_extreme_means_that_int8_with_one_scale_makes_zeros():
    x = planted(row=3)
    figures = describe(x)
    zeros = np.mean(ql.quantize(x, ql.QuantConfig()).codes == 0)
    # The scale is rounded to float32: a value on the very edge may fall on the other side.
    assert abs(zeros - figures.zeros - figures.vanishing) < 1e-4
    assert f"int8 rounds {100 * figures.vanishing:.3g} % of them to 0" in told(x)
