"""What is odd about a tensor and matters for quantizing it: for a table, for a page, and what should help."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..wording import counted
from .statistics import OUTLIER_SIGMAS, ChannelRanges, TensorStatistics

UNEVEN = 4.0  # times the median channel
BETTER = 3.0  # dB between two axes that are worth a word
EXTREME = 0.25  # of the values vanish: Gaussian weights reach it with a value 80 standard deviations out
SIDED = 0.25  # of the channels
ENOUGH = 16  # values of a channel: one in 32,768 Gaussian ones has them all on one side
ONE_SCALE = "int8-sym-tensor-minmax"


@dataclass(frozen=True)
class Remedy:
    """A configuration that should serve a tensor better than another does; how much better is to be measured.

    words, short : what it does otherwise: "scales along axis 1", and beside such "axis 1".
    config, instead : their slugs.
    at : what both share: "int8".
    """

    words: str
    short: str
    config: str
    instead: str
    at: str


@dataclass(frozen=True)
class Finding:
    """Something odd; as text, a sentence with the number behind it.

    word : for a table: "dead", "axis 1".
    name : for a page, before a colon: "Uneven channels".
    what : the fact, with its number.
    advice : what follows from it, as the sentence goes on.
    axis : along which the channels lie that it is about; None where it is about the whole tensor.
    remedies : what should help; what does not always help is told only where it does.
    """

    word: str
    name: str
    what: str
    advice: str = "."
    axis: int | None = None
    remedies: tuple[Remedy, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}: {self.what}{self.advice}"


def findings(figures: TensorStatistics, channels: Sequence[ChannelRanges] = ()) -> list[Finding]:
    """What is odd, each with the number behind it; `channels` as of `channel_ranges`."""
    if figures.minimum == figures.maximum:
        word = "dead" if figures.minimum == 0 and len(figures.shape) > 1 else "constant"
        return [Finding(word, f"Every value is {figures.minimum:.6g}", "any configuration stores it exactly")]
    uneven = list(_uneven(channels))
    return [
        *([] if (outliers := _outliers(figures, bool(uneven))) is None else [outliers]),
        *(found for rule in _RULES if (found := rule(figures))),
        *_dead_channels(channels),
        *_one_sided_channels(figures, channels),
        *uneven,
    ]


def most_uneven(channels: Iterable[ChannelRanges]) -> ChannelRanges | None:
    """The axis along which a scale per channel gains most, if some channel there reaches `UNEVEN` times the median."""
    uneven = (axis for axis in channels if np.nan_to_num(axis.relative_range).max(initial=0.0) >= UNEVEN)
    return max(uneven, key=lambda axis: axis.gain_db, default=None)


def _outliers(figures: TensorStatistics, uneven: bool) -> Finding | None:
    if not figures.outliers:
        return None
    count = round(figures.outliers * figures.size)
    extreme = max(figures.minimum, figures.maximum, key=lambda value: abs(value - figures.mean))
    far = abs(extreme - figures.mean) / figures.std
    lie, farthest, they = ("lies", "it", "it sets") if count == 1 else ("lie", "the farthest", "they set")
    lost = f": int8 rounds {_percent(figures.vanishing)} of them to 0" if figures.vanishing >= EXTREME else ""
    return Finding(
        "extreme" if lost else "outliers", "Outliers",
        f"{counted(count, 'value')} ({_percent(figures.outliers)}) {lie} more than {OUTLIER_SIGMAS:g} "
        f"standard deviations from the mean; {farthest}, {extreme:.4g}, is {far:.3g} away",
        f". With one scale for the whole tensor, {they} the step for all the others{lost}.",
        # Where a channel has them all, that is what there is to say.
        remedies=() if uneven else (GROUPS, _CLIPPING),
    )  # fmt: skip


def _heavy_tails(figures: TensorStatistics) -> Finding | None:
    if figures.kurtosis < 10:
        return None
    kurtosis = f"{figures.kurtosis:,.0f}" if figures.kurtosis > 100 else f"{figures.kurtosis:.1f}"
    return Finding(
        "heavy tails", "Heavy tails",
        f"the excess kurtosis is {kurtosis} (0 for a Gaussian), so most values crowd into a small part of the range",
        ". A calibration that clips, or small groups, will pay.",
        remedies=(Remedy("mse instead of minmax", "mse", "int4-sym-g128-mse", "int4-sym-g128-minmax", "int4 g128"),),
    )  # fmt: skip


def _one_sided(figures: TensorStatistics) -> Finding | None:
    low, high = figures.minimum, figures.maximum
    share = 0.5 - min(-low, high) / (2 * figures.amax)
    if low >= 0 or high <= 0:
        name, share = "One-sided", 0.5
        which = f" and none is {'negative' if low >= 0 else 'positive'}"
    elif share < 0.2:
        return None
    else:
        name, which = "Lopsided", ""
    return Finding(
        name.lower(), name, f"the values run from {low:.4g} to {high:.4g}{which}",
        f", so a symmetric mapping leaves {'half' if which else _percent(share)} of its codes unused; affine or "
        "uniform uses them all.", remedies=_mappings("g128"),
    )  # fmt: skip


def _many_zeros(figures: TensorStatistics) -> Finding | None:
    if figures.zeros < 0.05:
        return None
    return Finding(
        "sparse", "Sparse", f"{_percent(figures.zeros)} of the values are exactly 0",
        "; a uniform mapping does not keep them exact.",
    )  # fmt: skip


def _beyond_half(figures: TensorStatistics) -> Finding | None:
    if figures.amax <= 65504:
        return None
    what = f"the largest magnitude, {figures.amax:.4g}, is beyond what float16 can hold (65,504)"
    return Finding("large", "Large", what)


def _dead_channels(channels: Iterable[ChannelRanges]) -> Iterator[Finding]:
    for axis in channels:
        dead = axis.dead
        if dead.size:
            listed = ", ".join(map(str, dead[:8])) + (" …" if dead.size > 8 else "")
            yield Finding(
                "dead part", "Dead channels",
                f"{dead.size:,} of {axis.count:,} along axis {axis.axis} {'is' if dead.size == 1 else 'are'} zero "
                f"throughout, or nearly so: {listed}", axis=axis.axis,
            )  # fmt: skip


def _one_sided_channels(figures: TensorStatistics, channels: Iterable[ChannelRanges]) -> Iterator[Finding]:
    for axis in channels:
        sided = axis.one_sided.size
        # Where all are of one side, that is said of the tensor; of a few values, all may be so by chance.
        if sided < SIDED * axis.count or figures.size < axis.count * ENOUGH or figures.minimum * figures.maximum >= 0:
            continue
        yield Finding(
            "one-sided", "One-sided channels",
            f"{sided:,} of {axis.count:,} along axis {axis.axis} hold values of one sign",
            ", of which a symmetric mapping leaves half of the codes unused; affine or uniform uses them all.",
            axis.axis, _mappings(f"ch{axis.axis}"),
        )  # fmt: skip


def _uneven(channels: Sequence[ChannelRanges]) -> Iterator[Finding]:
    found = most_uneven(channels)
    if found is None:
        return
    widest = int(found.amax.argmax())
    others = [axis for axis in channels if axis is not found]
    worse = [axis for axis in others if axis.gain_db < found.gain_db - BETTER]
    less = f"; along axis {' or '.join(str(axis.axis) for axis in worse)} it helps less" if worse else ""
    yield Finding(
        f"axis {found.axis}", "Uneven channels",
        f"channel {widest} along axis {found.axis} reaches {found.amax[widest]:.4g}, "
        f"{found.relative_range[widest]:.3g} times the median channel",
        f". One scale per channel of axis {found.axis} (ch{found.axis}) keeps it from setting everyone's step{less}.",
        found.axis, (*map(_along, [found, *others]), GROUPS),
    )  # fmt: skip


def _along(channels: ChannelRanges) -> Remedy:
    return Remedy(
        f"scales along axis {channels.axis}",
        f"axis {channels.axis}",
        f"int8-sym-ch{channels.axis}-minmax",
        ONE_SCALE,
        "int8",
    )


def _mappings(where: str) -> tuple[Remedy, ...]:
    return tuple(
        Remedy(f"{name} instead of symmetric", name, f"int4-{token}-{where}-minmax", f"int4-sym-{where}-minmax",
               f"int4 {where}")
        for name, token in (("affine", "aff"), ("uniform", "uni"))
    )  # fmt: skip


GROUPS = Remedy("scales of groups of 128", "groups of 128", "int8-sym-g128-minmax", ONE_SCALE, "int8")
_CLIPPING = Remedy("clipping for the least squared error", "clipping", "int8-sym-tensor-mse", ONE_SCALE, "int8")
# The order is the order in which they are told.
_RULES = (_heavy_tails, _one_sided, _many_zeros, _beyond_half)


def _percent(share: float) -> str:
    """A share as a percentage with three digits that count."""
    return f"{100 * share:.3g} %"
