"""What is odd in a whole model, and how much its remedies help: measured, in the one read that each tensor takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from ..core import findings as core
from ..core import memory, pool
from ..core.arrays import as_float32
from ..core.config import QuantConfig
from ..core.findings import BETTER, GROUPS, Finding, Remedy, most_uneven
from ..core.metrics import ErrorReport, evaluate_each
from ..core.statistics import ChannelRanges, TensorStatistics, channel_ranges, describe
from ..errors import Cancelled, NonFiniteError, QuantlabError
from ..formats.checkpoint import Checkpoint
from ..late import pandas as pd
from ..wording import after_name, shown, size_text
from .readahead import ReadAhead
from .sources import Source, as_source, checked_names
from .sweep import Progress, by_granularity, shape_text
from .weights import EMBEDDING, can_be_taken, left_alone

DB_PER_BIT = 20 * math.log10(2)  # what a bit more gives every configuration
# Told without a gain: nothing is lost on zeros, and what is not a number has no error. Others must be worth `BETTER`.
NOT_FINITE, UNREAD, DEAD, DEAD_PART, LARGE = UNMEASURED = ("NaN/inf", "unread", "dead", "dead part", "large")
# Of nearly every tensor there is something of this to say: scales of groups gain 5 to 9 dB on it.
COMMON = ("outliers",)
WAYS_OUT = {
    NOT_FINITE: "mend it, or copy it as it is",
    UNREAD: "mend the file",
    DEAD: "without it",
    DEAD_PART: "without them",
    LARGE: "not float16: bfloat16 or float32",
}
COLUMNS = ["tensor", "shape", "odd", "what", "axis", "remedy", "config", "instead", "gain_db", "more_bits"]


@dataclass(frozen=True)
class Gain:
    """What a remedy gives.

    db : SQNR with it less that without, in dB. more_bits : per weight, that its scales take.
    """

    remedy: Remedy
    db: float
    more_bits: float

    @property
    def net(self) -> float:
        """The same at equal size, in dB: every bit more would give 6 dB anyway."""
        return self.db - DB_PER_BIT * self.more_bits


@dataclass(frozen=True)
class Oddity:
    """Something odd that is worth telling of a whole model.

    gains : of its remedies, measured, see `measured`; () where there is nothing to measure.
    nbytes : that would be saved in the file by leaving out what is dead.
    """

    finding: Finding
    gains: tuple[Gain, ...] = ()
    nbytes: int = 0

    @property
    def best(self) -> Gain | None:
        """The gain of the remedy to take."""
        return self.gains[0] if self.gains else None

    @property
    def remedy(self) -> str:
        """What helps, with its measured gain: "scales along axis 1: +16.3 dB at int8 (axis 0: +0.2)"."""
        if self.best is None:
            saved = f": {size_text(self.nbytes)} less" if self.nbytes else ""
            return WAYS_OUT[self.finding.word] + saved
        return told(self.gains)


@dataclass(frozen=True)
class Look:
    """What a tensor looks like: `figures`, or `fault`, the sentence of why there are none; and what is odd about it.

    uneven : the axis whose channels differ most (`most_uneven`); None where none do.
    """

    figures: TensorStatistics | None
    oddities: tuple[Oddity, ...] = ()
    fault: str = ""
    uneven: int | None = None


def findings(
    source: Source,
    tensors: Iterable[str] | None = None,
    workers: int | None = None,
    on_progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
) -> pd.DataFrame:
    """What is odd about the tensors of a model, and what it gains to heed that.

    Every gain is measured, by quantizing the whole tensor with and without the remedy; what gains less than 3 dB is not
    told. A tensor is read once, and two are in memory at a time.

    Parameters
    ----------
    source : an array, a mapping of names to arrays, or a Checkpoint.
    tensors : names to look at. Default: all. Of those that are no weights and no embeddings, only values that are not
        finite are told.
    workers : threads to compute with at most; default one per core.
    on_progress : called as on_progress(done, total, name) with bytes.
    cancel : asked several times a second; once it returns True, Cancelled is raised.

    Returns
    -------
    DataFrame : one row per finding, what cannot be quantized first, then by gain: `odd` (a word: "NaN/inf", "dead",
        "axis 1", "one-sided" ...), `what` (the fact with its number), `remedy` (in words, with gains), `config` and
        `instead` (slugs of the best remedy and of what it is compared with), `gain_db` (SQNR, dB) and `more_bits` (per
        weight). `attrs["tensors"]` is the number of tensors that were looked at.

    >>> x = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    >>> x[:, 7] *= 50
    >>> findings(x)[["odd", "config"]].values.tolist()
    [['axis 1', 'int8-sym-ch1-minmax']]
    """
    opened = as_source(source)
    names = list(opened.names) if tensors is None else checked_names(opened, tensors)
    sizes = {name: opened.spec(name).nbytes for name in names}
    done, looks = 0, {}
    with pool.limits(workers, cancel):
        reader = ReadAhead(lambda name: _read(opened, name), names)
        with reader:
            for name in names:
                if on_progress is not None:
                    on_progress(done, sum(sizes.values()), name)
                looks[name] = look(name, opened.spec(name), reader.take)
                done += sizes[name]
    found = table({name: (opened.spec(name).shape, look.oddities) for name, look in looks.items()})
    found.attrs["tensors"] = len(names)
    return found


def table(oddities: dict[str, tuple[tuple[int, ...], tuple[Oddity, ...]]]) -> pd.DataFrame:
    """The rows of `findings`, from {tensor: (shape, what is odd about it)}."""
    pairs = [(name, shape, odd) for name, (shape, every) in oddities.items() for odd in every]
    rows = [
        {
            "tensor": name, "shape": shape_text(shape), "odd": odd.finding.word, "what": odd.finding.what,
            "axis": odd.finding.axis, "remedy": odd.remedy,
            "config": odd.best.remedy.config if odd.best else None,
            "instead": odd.best.remedy.instead if odd.best else None,
            "gain_db": odd.best.db if odd.best else math.nan,
            "more_bits": odd.best.more_bits if odd.best else math.nan,
        }
        for name, shape, odd in sorted(pairs, key=lambda pair: rank(pair[2]))
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS).astype({"axis": "Int64"})


def rank(odd: Oddity) -> tuple[int, float]:
    """In which order oddities are told: what cannot be quantized, what gains, and what loses nothing."""
    word = odd.finding.word
    if odd.best is not None:
        return 1, -odd.best.db
    return (0, 0.0) if word in (NOT_FINITE, UNREAD) else (2, UNMEASURED.index(word))


def look(name: str, spec: Any, load: Callable[[], np.ndarray], bins: int | None = None) -> Look:
    """What a tensor looks like; `load` gives its values, float32 in C order, and `bins` are those of its histogram."""
    try:
        with memory.asked(0, f"to describe {shown(name)}"):
            x = load()
            figures = describe(x, bins)
            if not _matters(spec):
                return Look(figures)
            ranges = channel_ranges(x)
            uneven = most_uneven(ranges)
            found = _worth_telling(x, figures, ranges, spec.nbytes)
            return Look(figures, found, uneven=None if uneven is None else uneven.axis)
    except Cancelled:
        raise
    except NonFiniteError as error:
        return _fault(name, spec, NOT_FINITE, error)
    except QuantlabError as error:
        return _fault(name, spec, UNREAD, error)


def measured(x: np.ndarray, finding: Finding) -> tuple[Gain, ...]:
    """The gain of every remedy of a finding that serves `x`, float32, the one to take first.

    That is the best at equal size; of axes that which the finding is about, unless another is clearly better. Groups
    help against anything: beside scales along an axis they come last.
    """
    remedies = finding.remedies
    slugs = dict.fromkeys(chain.from_iterable((remedy.instead, remedy.config) for remedy in remedies))
    reports: dict[str, ErrorReport] = {}
    for _, configs in by_granularity(map(QuantConfig.parse, slugs)):
        try:
            outcomes = evaluate_each(x, configs, x.nbytes)
        except Cancelled:
            raise
        except QuantlabError:  # an axis of too many channels, or too large to be turned: it is no remedy then
            continue
        pairs = zip(configs, outcomes, strict=True)
        reports |= {config.slug: found for config, found in pairs if isinstance(found, ErrorReport)}
    gains = [
        _gain(remedy, reports[remedy.config], reports[remedy.instead])
        for remedy in remedies
        if remedy.config in reports and remedy.instead in reports
    ]
    own = f"axis {finding.axis}"

    def place(gain: Gain) -> tuple[bool, float]:
        beside = finding.axis is not None and gain.remedy is GROUPS
        return beside, -gain.net - BETTER * (gain.remedy.short == own)

    return tuple(sorted(gains, key=place))


def told(gains: Sequence[Gain]) -> str:
    """Gains in words, the first in full."""
    best, others = gains[0], beside(gains)
    return f"{best.remedy.words}: {best.db:+.1f} dB at {best.remedy.at}{f' ({others})' if others else ''}"


def beside(gains: Sequence[Gain]) -> str:
    """Gains but for the first, in short."""
    return ", ".join(f"{gain.remedy.short}: {gain.db:+.1f}" for gain in gains[1:])


def _read(source: Any, name: str) -> np.ndarray:
    if isinstance(source, Checkpoint):
        return source.load(name)
    return as_float32(source.raw(name), f"tensor {shown(name)}")


def _gain(remedy: Remedy, better: ErrorReport, worse: ErrorReport) -> Gain:
    nothing = better.sqnr_db == worse.sqnr_db  # also where both are exact
    more_bits = (better.bits_per_weight or 0.0) - (worse.bits_per_weight or 0.0)
    return Gain(remedy, 0.0 if nothing else better.sqnr_db - worse.sqnr_db, more_bits)


def _worth_telling(
    x: np.ndarray, figures: TensorStatistics, ranges: Sequence[ChannelRanges], nbytes: int
) -> tuple[Oddity, ...]:
    found = []
    for finding in core.findings(figures, ranges):
        if finding.word in UNMEASURED:
            found.append(Oddity(finding, (), _dead_bytes(finding, ranges, nbytes)))
        elif finding.remedies and finding.word not in COMMON:
            gains = measured(x, finding)
            if gains and gains[0].net >= BETTER:
                found.append(Oddity(finding, gains))
    return tuple(found)


def _dead_bytes(finding: Finding, ranges: Sequence[ChannelRanges], nbytes: int) -> int:
    if finding.word == DEAD:
        return nbytes
    return next((nbytes * each.dead.size // each.count for each in ranges if each.axis == finding.axis), 0)


def _matters(spec: Any) -> bool:
    """Whether a tensor is quantized by somebody: a weight or an embedding; of arrays, whatever has rows."""
    if not hasattr(spec, "aside"):
        return len(spec.shape) > 1
    return left_alone(spec) in (None, EMBEDDING)


def _fault(name: str, spec: Any, word: str, error: QuantlabError) -> Look:
    """A tensor without figures: odd if it has floats."""
    sentence = str(error)
    if not can_be_taken(spec):
        return Look(None, (), sentence)
    what = after_name(sentence, name).partition(":")[0]
    return Look(None, (Oddity(Finding(word, word, what)),), sentence)
