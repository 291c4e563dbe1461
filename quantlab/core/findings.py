"""What is odd about a tensor and matters for quantizing it: a word for a table, sentences for a page."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ..wording import counted
from .statistics import OUTLIER_SIGMAS, ChannelRanges, TensorStatistics

UNEVEN = 4.0  # times the median channel
BETTER = 3.0  # dB between two axes that are worth a word
EXTREME = 0.25  # of the values vanish: Gaussian weights reach it with a value 80 standard deviations out


def oddity(figures: TensorStatistics) -> str | None:
    """A word for what makes a tensor stand out among others; None for most.

    - "dead": a matrix of zeros, which an unused layer leaves (biases of zeros are usual).
    - "extreme": values so far out that int8 with one scale rounds a quarter of the others, or more, to 0.
    """
    if len(figures.shape) < 2:
        return None
    return "dead" if figures.amax == 0 else "extreme" if figures.vanishing >= EXTREME else None


def findings(figures: TensorStatistics, channels: Sequence[ChannelRanges] = ()) -> list[str]:
    """What is odd, one sentence each, with the number behind it; `channels` as of `channel_ranges`."""
    if figures.minimum == figures.maximum:
        return [f"Every value is {figures.minimum:.6g}: any configuration stores it exactly."]
    return [
        *(sentence for rule in _RULES if (sentence := rule(figures))),
        *_dead_channels(channels),
        *_uneven(channels),
    ]


def most_uneven(channels: Iterable[ChannelRanges]) -> ChannelRanges | None:
    """The axis along which a scale per channel gains most, if some channel there reaches `UNEVEN` times the median."""
    uneven = (axis for axis in channels if np.nan_to_num(axis.relative_range).max(initial=0.0) >= UNEVEN)
    return max(uneven, key=lambda axis: axis.gain_db, default=None)


def _outliers(figures: TensorStatistics) -> str | None:
    if not figures.outliers:
        return None
    count = round(figures.outliers * figures.size)
    extreme = max(figures.minimum, figures.maximum, key=lambda value: abs(value - figures.mean))
    far = abs(extreme - figures.mean) / figures.std
    lie, farthest, they = ("lies", "it", "it sets") if count == 1 else ("lie", "the farthest", "they set")
    lost = f": int8 rounds {_percent(figures.vanishing)} of them to 0" if figures.vanishing >= EXTREME else ""
    return (
        f"Outliers: {counted(count, 'value')} ({_percent(figures.outliers)}) {lie} more than {OUTLIER_SIGMAS:g} "
        f"standard deviations from the mean; {farthest}, {extreme:.4g}, is {far:.3g} away. With one scale for the "
        f"whole tensor, {they} the step for all the others{lost}."
    )


def _heavy_tails(figures: TensorStatistics) -> str | None:
    if figures.kurtosis < 10:
        return None
    kurtosis = f"{figures.kurtosis:,.0f}" if figures.kurtosis > 100 else f"{figures.kurtosis:.1f}"
    return (
        f"Heavy tails: the excess kurtosis is {kurtosis} (0 for a Gaussian), so most values crowd into a small part of "
        f"the range. A calibration that clips, or small groups, will pay."
    )


def _one_sided(figures: TensorStatistics) -> str | None:
    low, high = figures.minimum, figures.maximum
    if low >= 0 or high <= 0:
        sign = "negative" if low >= 0 else "positive"
        return (
            f"One-sided: the values run from {low:.4g} to {high:.4g} and none is {sign}, so a symmetric mapping leaves "
            f"half of its codes unused; affine or uniform uses them all."
        )
    share = 0.5 - min(-low, high) / (2 * figures.amax)
    if share < 0.2:
        return None
    return (
        f"Lopsided: the values run from {low:.4g} to {high:.4g}, so a symmetric mapping leaves {_percent(share)} of "
        f"its codes unused; affine or uniform uses them all."
    )


def _many_zeros(figures: TensorStatistics) -> str | None:
    if figures.zeros < 0.05:
        return None
    return f"Sparse: {_percent(figures.zeros)} of the values are exactly 0; a uniform mapping does not keep them exact."


def _beyond_half(figures: TensorStatistics) -> str | None:
    if figures.amax <= 65504:
        return None
    return f"Large: the largest magnitude, {figures.amax:.4g}, is beyond what float16 can hold (65,504)."


def _dead_channels(channels: Iterable[ChannelRanges]) -> Iterator[str]:
    for axis in channels:
        dead = axis.dead
        if dead.size:
            listed = ", ".join(map(str, dead[:8])) + (" …" if dead.size > 8 else "")
            yield (
                f"Dead channels: {dead.size:,} of {axis.count:,} along axis {axis.axis} "
                f"{'is' if dead.size == 1 else 'are'} zero throughout or as good as ({listed})."
            )


def _uneven(channels: Sequence[ChannelRanges]) -> Iterator[str]:
    found = most_uneven(channels)
    if found is None:
        return
    widest = int(found.amax.argmax())
    others = [axis for axis in channels if axis is not found and axis.gain_db < found.gain_db - BETTER]
    along = " or ".join(str(axis.axis) for axis in others)
    less = f"; along axis {along} it helps less" if others else ""
    yield (
        f"Uneven channels: channel {widest} along axis {found.axis} reaches {found.amax[widest]:.4g}, "
        f"{found.relative_range[widest]:.3g} times the median channel. One scale per channel of axis {found.axis} "
        f"(ch{found.axis}) keeps it from setting everyone's step{less}."
    )


# The order is the order in which they are told.
_RULES = (_outliers, _heavy_tails, _one_sided, _many_zeros, _beyond_half)


def _percent(share: float) -> str:
    """A share as a percentage with three digits that count."""
    return f"{100 * share:.3g} %"
