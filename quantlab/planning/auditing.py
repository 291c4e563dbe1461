"""One tensor of an audit: read, compared with its source, and judged where that is fair."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..core.arrays import FLOATS
from ..core.inputs import Weighting
from ..core.memory import NoMemory
from ..errors import Cancelled, QuantlabError
from ..formats.checkpoint import TensorSpec
from ..formats.output.packed import same_bits
from ..sweeping.sweep import WEIGHTED, Row, shape_text
from ..sweeping.weights import is_weight
from ..wording import counted, shown
from .comparing import Comparison, compare, to_db
from .converting import Converted
from .fairness import Case, Fairness
from .matching import Matching
from .rivals import Rivals, better
from .scaling import Norms, Scaling, scaling
from .stored import Pair, Reading, Stored

COLUMNS = [
    "tensor",
    "source",
    "shape",
    "layout",
    "nbytes",
    "bits_per_weight",
    "source_nbytes",
    "sqnr_db",
    "weighted_sqnr_db",
    "rescaled_sqnr_db",
    "equal_fraction",
    "verdict",
    "note",
    "better",
    "better_nbytes",
    "better_sqnr_db",
    "better_weighted_sqnr_db",
]

DOMINATED, KEPT, IDENTICAL, COMPARED = "dominated", "not dominated", "identical", "compared"
UNJUDGED, BROKEN, RESHAPED = "not judged", "broken", "other shape"
VERDICTS = {
    DOMINATED: "The same program loads a configuration that is no larger and no worse, and one of both for certain.",
    KEPT: "None of the configurations that were measured is no larger and better.",
    IDENTICAL: "The source's values, in as many bytes.",
    COMPARED: "Compared, with nothing to compare the loss with: a plain tensor, or one that is never quantized.",
    UNJUDGED: "The error of weights alone says nothing for or against it, or it cannot be measured; the note says why.",
    BROKEN: "It holds NaN or infinite values that its source has not.",
    RESHAPED: "It has another shape than its source.",
}


@dataclass
class Judged:
    """A row of an audit, the tensor that it is of, and the rows of a sweep that it was judged by."""

    row: dict[str, Any]
    spec: TensorSpec | None = None
    rivals: list[Row] = field(default_factory=list)
    column: str = "sqnr_db"  # of the rivals: what is compared
    own_db: float = math.nan  # the same figure of the tensor, which its row has after any rounding of the program

    @property
    def judged(self) -> bool:
        """Whether it was compared with anything."""
        return self.row["verdict"] in (DOMINATED, KEPT)


class Auditor:
    """Judges tensors one at a time; nothing of a tensor is kept but its figures."""

    def __init__(
        self,
        stored: Stored,
        origin: Stored,
        matching: Matching,
        rivals: Rivals | None,
        importance: Mapping[str, np.ndarray],
    ) -> None:
        self._stored, self._origin = stored, origin
        self._rivals, self._importance = rivals, importance
        self._fairness, self._norms = Fairness(stored), Norms(stored, origin, matching)
        self._converted = Converted(stored.checkpoint, origin.checkpoint)

    def notes(self) -> list[str]:
        """What holds for several tensors, in sentences."""
        found = self._converted.found.items()
        return [f"{counted(count, 'tensor')} compared with the source changed so: {words}" for words, count in found]

    def judged(self, pair: Pair) -> Judged:
        """A tensor's row. What cannot be read has one too, which says so; Cancelled and NoMemory are raised."""
        try:
            return self._judged(pair)
        except (Cancelled, NoMemory):
            raise
        except QuantlabError as error:
            return without(pair, UNJUDGED, str(error))

    def _judged(self, pair: Pair) -> Judged:
        if self._stored.is_exact(pair.name) and self._origin.is_exact(pair.source):
            return self._exact(pair)
        if fault := self._stored.fault(pair.name):
            return without(pair, UNJUDGED, f"it {fault}")
        if fault := next(filter(None, map(self._origin.fault, pair.sources)), ""):
            return without(pair, UNJUDGED, f"its source {fault}")
        shape, own = self._origin.shape_of(pair), self._stored.shape(pair.name)
        if squeezed(shape) != squeezed(own):
            return without(pair, RESHAPED, f"{shape_text(own)}, and in the source {shape_text(shape)}")
        spec = self._spec(pair, own)
        reading = self._stored.read(pair.name, spec.dtype)
        x, found, changed = self._converted.closest(pair, spec, self._origin.values_of(pair).reshape(own), reading)
        undone = self._scaling(pair, spec, x, reading, found)
        case = Case(spec, x, reading, found, undone, self._weighting(pair, spec))
        judged = Judged(_row(pair, case), spec)
        verdict, why = self._verdict(pair, case)
        if verdict == KEPT:
            verdict, why = self._compete(judged, case)
        judged.row |= {"verdict": verdict, "note": "; ".join(filter(None, [changed, undone.words, why]))}
        return judged

    def _scaling(self, pair: Pair, spec: TensorSpec, x: np.ndarray, reading: Reading, found: Comparison) -> Scaling:
        """Scales of columns, and of rows, that explain how far a matrix is from its source."""
        turned = spec.channel_axis % 2 == 1
        if x.ndim != 2:
            return Scaling()

        def again(columns: np.ndarray) -> Comparison:
            scales = columns.astype(np.float32)
            scaled = x.astype(np.float32) * (scales[:, None] if turned else scales)
            return compare(scaled, reading.parts(), int(not turned))

        return scaling(found, self._norms.of(pair.name), again)

    def _exact(self, pair: Pair) -> Judged:
        """The row of integers, which are the source's or are not."""
        now, before = self._stored.checkpoint, self._origin.checkpoint
        same = same_bits(now.raw(pair.name), before.raw(pair.source))
        spec = now.spec(pair.name)
        found = without(pair, IDENTICAL if same else COMPARED, "" if same else "its integers are not the source's")
        found.row |= {"shape": shape_text(spec.shape), "layout": spec.dtype, "nbytes": spec.nbytes}
        return found

    def _spec(self, pair: Pair, shape: tuple[int, ...]) -> TensorSpec:
        """The source's tensor, under the name and in the shape that the file has."""
        about = [self._origin.about(name) for name in pair.sources]
        nbytes = sum(each.nbytes for each in about)
        if pair.expert is not None:
            nbytes //= self._origin.shape(pair.source)[0]
        return replace(about[0], name=pair.name, shape=shape, nbytes=nbytes)

    def _weighting(self, pair: Pair, spec: TensorSpec) -> Weighting | None:
        """The importance of a tensor's inputs, if it is known of all of it. ShapeError for that of another tensor."""
        parts = [self._importance[name] for name in pair.sources if name in self._importance]
        if len(parts) < len(pair.sources):
            return None
        given = parts[0] if len(parts) == 1 else np.stack(parts)
        if pair.expert is not None and given.ndim == 2:
            given = given[pair.expert]
        return Weighting.of(given, spec.shape, spec.channel_axis, shown(pair.source))

    def _verdict(self, pair: Pair, case: Case) -> tuple[str, str]:
        """What can be said without measuring anything else; `KEPT` for what is to be judged."""
        spec, found = case.spec, case.found
        if found.worse:
            return BROKEN, found.faults
        if found.bad:
            return UNJUDGED, found.faults
        if found.equal == found.size and case.reading.nbytes == spec.nbytes:
            return IDENTICAL, ""
        if self._origin.is_quantized(pair.source):
            return COMPARED, "its source is quantized itself"
        if self._rivals is None or len(spec.shape) < 2 or spec.dtype not in FLOATS:
            return COMPARED, ""
        if not (is_weight(spec) or self._stored.is_quantized(spec.name)):
            return COMPARED, ""
        why = self._fairness.why_not(case)
        return (UNJUDGED, why) if why else (KEPT, "")

    def _compete(self, judged: Judged, case: Case) -> tuple[str, str]:
        """Compare a tensor with what its program would have loaded in its place."""
        assert self._rivals is not None
        judged.rivals = self._rivals.rows(case.spec, case.x, case.weighting)
        if not judged.rivals:
            return COMPARED, f"{self._rivals.target.label} can load none of the configurations that were to be compared"
        unrounded, axis = case.reading.unrounded, case.spec.channel_axis
        plain = compare(case.x, unrounded(), axis) if unrounded else case.found
        judged.own_db = plain.sqnr_db
        if case.weighting is not None:
            judged.column, judged.own_db = WEIGHTED, to_db(plain.weighted(case.weighting.weights))
        best = next(iter(better(judged.rivals, case.reading.nbytes, judged.own_db, judged.column)), None)
        if best is None:
            return KEPT, ""
        decoded = self._rivals.decoded_db(case.spec, case.x, best)
        judged.row |= {"better": best["config"], "better_nbytes": best["nbytes"], "better_sqnr_db": decoded}
        judged.row |= {"better_weighted_sqnr_db": best.get(WEIGHTED, math.nan)}
        return DOMINATED, ""


def _row(pair: Pair, case: Case) -> dict[str, Any]:
    found, reading, spec = case.found, case.reading, case.spec
    known = not (found.bad or found.worse)
    weighted = to_db(found.weighted(case.weighting.weights)) if known and case.weighting else math.nan
    return {
        **dict.fromkeys(COLUMNS, math.nan),
        "tensor": pair.name,
        "source": pair.source,
        "shape": shape_text(spec.shape),
        "layout": reading.label,
        "nbytes": reading.nbytes,
        "bits_per_weight": 8 * reading.nbytes / spec.size,
        "source_nbytes": spec.nbytes,
        "sqnr_db": found.sqnr_db if known else math.nan,
        WEIGHTED: weighted,
        "rescaled_sqnr_db": to_db(case.scaling.relative) if case.scaling.words else math.nan,
        "equal_fraction": found.equal / spec.size,
        "better": "",
    }


def without(pair: Pair, verdict: str, note: str) -> Judged:
    """A row without figures."""
    row = dict.fromkeys(COLUMNS, math.nan) | {"tensor": pair.name, "source": pair.source, "shape": "", "layout": ""}
    return Judged({**row, "better": "", "verdict": verdict, "note": note})


def squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without axes of length 1, which programs add and drop."""
    return tuple(length for length in shape if length != 1)
