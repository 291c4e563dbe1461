"""audit(): two checkpoints side by side, tensor by tensor: what a quantized file lost, and what it could have been.

Every tensor is found by its name, read, and compared with its source. One that its program could have had smaller and
better is dominated, and the better configuration is named: measured on the source here and now, not estimated.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from ..core import pool
from ..core.config import QuantConfig, listed
from ..formats import Checkpoint, open_checkpoint
from ..late import pandas as pd
from ..wording import counted
from .auditing import BROKEN, COLUMNS, COMPARED, DOMINATED, IDENTICAL, KEPT, RESHAPED, UNJUDGED, Auditor, Judged
from .matching import Matching, match
from .rivals import Rivals, target_of
from .stored import Stored
from .targets import TARGETS
from .whole import Whole, whole_of

OnProgress = Callable[[int, int, str], object]
Opened = Checkpoint | str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Audit:
    """What two checkpoints have in common.

    Attributes
    ----------
    title, source : what the two are called.
    target : the program that the file is for, of `TARGETS`; "" for plain tensors, of which nothing is judged.
    frame : a row per tensor, in the file's order, of the columns `COLUMNS`; figures that there are none of are NaN:
        layout, nbytes, bits_per_weight : as it is stored, scales and all.
        sqnr_db : of the source's values over the difference. weighted_sqnr_db : with the importance of every input.
        rescaled_sqnr_db : after the scales of its columns are undone, where these explain the difference: where at most
        a quarter of the squared error is left.
        equal_fraction : of the values that are the source's.
        verdict, note : one of `VERDICTS`, and why.
        better, better_nbytes, better_sqnr_db : of what dominates it, the configuration of the least error.
    rivals : what was measured of the source: rows of a sweep under the names of the file, with the file's bytes.
    matching : which tensor is which, and which are not.
    whole : of all tensors that are judged; None where none is.
    notes : what else is to be said, in sentences.
    """

    title: str
    source: str
    target: str
    frame: pd.DataFrame
    rivals: pd.DataFrame
    matching: Matching
    whole: Whole | None
    notes: tuple[str, ...]

    def count(self, verdict: str) -> int:
        """How many tensors have a verdict."""
        return int((self.frame["verdict"] == verdict).sum())

    def failing(self, least_db: float) -> pd.DataFrame:
        """Rows of matrices that are not known to have an SQNR, rescaled where they are, of `least_db` or more.

        And of all that is broken, of another shape, or cannot be read: what is not known is no proof.
        """
        sqnr = self.frame["rescaled_sqnr_db"].fillna(self.frame["sqnr_db"])
        asked = self.frame["shape"].str.contains("x") | self.frame["verdict"].isin([BROKEN, RESHAPED, UNJUDGED])
        return self.frame[~(sqnr >= least_db) & asked & (self.frame["verdict"] != IDENTICAL)]


def audit(
    quantized: Opened,
    source: Opened,
    *,
    importance: Mapping[str, np.ndarray] | None = None,
    against: Iterable[QuantConfig] | None = None,
    on_progress: OnProgress | None = None,
    cancel: Callable[[], bool] | None = None,
) -> Audit:
    """Compare a quantized checkpoint with what it was made of; or two versions of a model, or two quantizations.

    Parameters
    ----------
    quantized, source : checkpoints, or their paths. Two tensors are in memory at a time.
    importance : what every input of a tensor counts, by the source's names: [inputs], or [experts, inputs].
    against : configurations to compare with. Default: the menu of the program that the file is for; () compares with
        none.
    on_progress : called as on_progress(done, total, label), with a count of finished values.
    cancel : asked several times a second; once it returns True, Cancelled is raised.

    Raises CheckpointError where no tensor of the two has one name, and what `open_checkpoint` raises.
    """
    with ExitStack() as stack:
        opened = [_opened(each, stack) for each in (quantized, source)]
        with pool.limits(cancel=cancel):
            return _audited(Stored(opened[0]), Stored(opened[1]), importance or {}, against, on_progress)


def _opened(given: Opened, stack: ExitStack) -> Checkpoint:
    return given if isinstance(given, Checkpoint) else stack.enter_context(open_checkpoint(given))


def _audited(
    stored: Stored,
    origin: Stored,
    importance: Mapping[str, np.ndarray],
    against: Iterable[QuantConfig] | None,
    on_progress: OnProgress | None,
) -> Audit:
    matching, target = match(stored, origin), target_of(stored)
    asked = None if against is None else listed("against", against)
    rivals = Rivals(target, origin.checkpoint, asked) if target and asked != [] else None
    auditor = Auditor(stored, origin, matching, rivals, importance)
    judged = _each(auditor, matching, stored, on_progress)
    frame = pd.DataFrame([each.row for each in judged], columns=COLUMNS)
    measured = pd.DataFrame([row for each in judged for row in each.rivals])
    return Audit(
        stored.checkpoint.title,
        origin.checkpoint.title,
        target.name if target else "",
        frame,
        measured,
        matching,
        whole_of(judged, target, origin.checkpoint) if target else None,
        tuple(auditor.notes()),
    )


def _each(auditor: Auditor, matching: Matching, stored: Stored, on_progress: OnProgress | None) -> list[Judged]:
    sizes = [int(np.prod(stored.shape(pair.name), dtype=object)) for pair in matching.pairs]
    total, done, found = sum(sizes), 0, list[Judged]()
    for pair, size in zip(matching.pairs, sizes, strict=True):
        if on_progress is not None:
            on_progress(done, total, pair.name)
        pool.check_cancel()
        found.append(auditor.judged(pair))
        done += size
    if on_progress is not None:
        on_progress(total, total, "done")
    return found


def told(found: Audit) -> list[str]:
    """What came of it, in sentences, the most important first."""
    judged = found.count(DOMINATED) + found.count(KEPT)
    lines = [
        f"{counted(len(found.frame), 'tensor')} compared, {found.count(IDENTICAL):,} of them identical to the source"
    ]
    if judged:
        lines.append(
            f"{found.count(DOMINATED):,} of {judged:,} quantized tensors are dominated: {TARGETS[found.target].label} "
            f"loads something no larger and better in their place{_by_how_much(found.frame)}"
        )
    lines += _differing(found.frame)
    for verdict in (BROKEN, RESHAPED, UNJUDGED):
        if count := found.count(verdict):
            lines.append(f"{counted(count, 'tensor')} {verdict}")
    lines += found.whole.told() if found.whole else []
    return [*lines, *_unmatched(found.matching), *found.notes]


def _by_how_much(frame: pd.DataFrame) -> str:
    """What dominates is better by so much, at the median: next to nothing may be dominated, too."""
    gain = (frame["better_sqnr_db"] - frame["sqnr_db"])[frame["verdict"] == DOMINATED]
    return f", by {gain.median():.2g} dB at the median" if len(gain) and math.isfinite(gain.median()) else ""


def _differing(frame: pd.DataFrame) -> list[str]:
    """How far plain tensors are from the source, of those that are compared and not judged."""
    plain = frame[(frame["verdict"] == COMPARED) & frame["sqnr_db"].notna()]
    worst, name = min(zip(plain["sqnr_db"].tolist(), plain["tensor"].tolist(), strict=True), default=(math.inf, ""))
    if worst == math.inf:
        return []
    return [f"{counted(len(plain), 'tensor')} differ, {name} the most: by {10 ** (-worst / 20):.3%} ({worst:.2f} dB)"]


def _unmatched(matching: Matching) -> list[str]:
    lines = []
    for names, where in ((matching.alone, "the file alone has"), (matching.missing, "the source alone has")):
        if names:
            lines.append(f"{counted(len(names), 'tensor')} {where}: {_listed(names)}")
    if matching.tied:
        lines.append(f"{_listed(matching.tied)}: the embedding again, under its own name in one of the two")
    return lines + ([f"matched {matching.how}"] if matching.how else [])


def _listed(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
