"""One tensor of an audit: read, compared with its source, and judged where that is fair."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..core.arrays import FLOATS
from ..core.memory import NoMemory
from ..errors import Cancelled, QuantlabError
from ..formats.checkpoint import TensorSpec
from ..formats.gguf.read import GGUFCheckpoint
from ..formats.output.packed import same_bits
from ..sweeping.sweep import Row, shape_text
from ..sweeping.weights import is_weight
from .comparing import Comparison, compare, to_db
from .converting import Heads, changes
from .matching import Matching, Pair
from .rivals import Rivals, better
from .roles import role_of
from .rounding import is_calibrated
from .scaling import Scaling, scaling
from .stored import Reading, Stored, said_of_rotation, said_of_rounding

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

TRIED = 100.0  # times that a change must lower the squared error to be what was done
TRIED_FROM_NOISE = 10.0  # the same where the error was larger than the tensor: at 2 bits no more can be left of it
SHUFFLED = 0.25  # relative error of a matrix from which on its rows may be in another order
# Types of ggml that are made without looking at an importance matrix, though one was given.
UNAWARE = frozenset({"q8_0", "float32", "fp16", "bf16", "mxfp4", "nvfp4", "tq1_0", "tq2_0"})


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
        self._stored, self._origin, self._matching = stored, origin, matching
        self._rivals, self._importance = rivals, importance
        self._rotation, self._rounding = said_of_rotation(stored.checkpoint), said_of_rounding(stored.checkpoint)
        self._heads = self._heads_of()
        self._norms: dict[int | None, list[tuple[str, np.ndarray]]] = {}
        self._changed: dict[str, int] = {}

    def notes(self) -> list[str]:
        """What holds for several tensors, in sentences."""
        return [f"{count:,} compared {words}" for words, count in self._changed.items()]

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
        shape, own = self._source_shape(pair), self._stored.shape(pair.name)
        if squeezed(shape) != squeezed(own):
            return without(pair, RESHAPED, f"{shape_text(own)}, and in the source {shape_text(shape)}")
        spec = self._spec(pair, own)
        reading = self._stored.read(pair.name, spec.dtype)
        x, found, changed = self._closest(pair, spec, self._values(pair).reshape(own), reading)
        scaling = self._scaling(pair, found)
        judged = Judged(self._row(pair, spec, reading, found, scaling), spec)
        verdict, why = self._verdict(pair, spec, x, reading, found, scaling)
        if verdict == KEPT:
            verdict, why = self._compete(judged, spec, x, reading, found)
        judged.row |= {"verdict": verdict, "note": "; ".join(filter(None, [changed, scaling.words, why]))}
        return judged

    def _exact(self, pair: Pair) -> Judged:
        """The row of integers, which are the source's or are not."""
        now, before = self._stored.checkpoint, self._origin.checkpoint
        same = same_bits(now.raw(pair.name), before.raw(pair.source))
        spec = now.spec(pair.name)
        found = without(pair, IDENTICAL if same else COMPARED, "" if same else "its integers are not the source's")
        found.row |= {"shape": shape_text(spec.shape), "layout": spec.dtype, "nbytes": spec.nbytes}
        return found

    # -- reading

    def _source_shape(self, pair: Pair) -> tuple[int, ...]:
        shape = self._origin.shape(pair.source)
        if len(pair.sources) > 1:
            return (len(pair.sources), *shape)
        return shape if pair.expert is None else shape[1:]

    def _spec(self, pair: Pair, shape: tuple[int, ...]) -> TensorSpec:
        """The source's tensor, under the name and in the shape that the file has."""
        about = [self._origin.about(name) for name in pair.sources]
        nbytes = sum(each.nbytes for each in about)
        if pair.expert is not None:
            nbytes //= self._origin.shape(pair.source)[0]
        return replace(about[0], name=pair.name, shape=shape, nbytes=nbytes)

    def _values(self, pair: Pair) -> np.ndarray:
        parts = [self._origin.values(name) for name in pair.sources]
        whole = parts[0] if len(parts) == 1 else np.stack(parts)
        return whole if pair.expert is None else whole[pair.expert]

    def _closest(
        self, pair: Pair, spec: TensorSpec, x: np.ndarray, reading: Reading
    ) -> tuple[np.ndarray, Comparison, str]:
        """The source's values, their comparison, and the change that was made to them, if one explains a difference."""
        found = compare(x, reading.parts(), spec.channel_axis)
        if self._heads is None or not found.relative or (x.ndim > 1 and found.relative < SHUFFLED):
            return x, found, ""
        back = not isinstance(self._stored.checkpoint, GGUFCheckpoint)
        for change in changes(pair.source if back else pair.name, x.shape, self._heads, back):
            other = change.make(x)
            tried = compare(other, reading.parts(), spec.channel_axis)
            if tried.relative * (TRIED_FROM_NOISE if found.relative >= 1 else TRIED) <= found.relative:
                self._changed[change.words] = self._changed.get(change.words, 0) + 1
                return other, tried, change.words
        return x, found, ""

    def _heads_of(self) -> Heads | None:
        """Of a GGUF file beside one that is none; None of other pairs."""
        pair = self._stored.checkpoint, self._origin.checkpoint
        for gguf, other in (pair, pair[::-1]):
            if isinstance(gguf, GGUFCheckpoint) and not isinstance(other, GGUFCheckpoint):
                return Heads.of(gguf, other)
        return None

    # -- scales of columns

    def _scaling(self, pair: Pair, found: Comparison) -> Scaling:
        if not found.relative or not math.isfinite(found.relative):
            return Scaling()
        return scaling(found, self._norms_of(role_of(pair.name).block))

    def _norms_of(self, block: int | None) -> list[tuple[str, np.ndarray]]:
        """The norms of a layer that are not as in the source: name -> what each of their columns was divided by."""
        if block not in self._norms:
            norms = [p for p in self._matching.pairs if "norm" in p.name.lower() and role_of(p.name).block == block]
            ratios = ((pair.name, self._ratio(pair)) for pair in norms)
            self._norms[block] = [(name, ratio) for name, ratio in ratios if ratio is not None]
        return self._norms[block]

    def _ratio(self, pair: Pair) -> np.ndarray | None:
        if len(self._stored.shape(pair.name)) != 1 or self._stored.fault(pair.name) or self._origin.fault(pair.source):
            return None
        before, now = self._values(pair).astype(np.float64), self._stored.values(pair.name).astype(np.float64)
        if before.shape != now.shape or np.array_equal(before, now):
            return None
        with np.errstate(all="ignore"):
            ratio = before / now
        return ratio if np.isfinite(ratio).all() and ratio.all() else None

    # -- what comes of it

    def _row(
        self, pair: Pair, spec: TensorSpec, reading: Reading, found: Comparison, scaling: Scaling
    ) -> dict[str, Any]:
        known = not (found.bad or found.worse)
        weights = self._weights(pair, found)
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
            "weighted_sqnr_db": to_db(found.weighted(weights)) if known and weights is not None else math.nan,
            "rescaled_sqnr_db": to_db(scaling.relative) if scaling.words else math.nan,
            "equal_fraction": found.equal / spec.size,
            "better": "",
        }

    def _weights(self, pair: Pair, found: Comparison) -> np.ndarray | None:
        """The importance of a tensor's inputs, where there is one of its shape."""
        given = next((self._importance[name] for name in (*pair.sources, pair.name) if name in self._importance), None)
        if (
            given is None
            or given.shape[-1] != found.power.shape[-1]
            or given.size
            not in (
                found.power.shape[-1],
                found.power.size,
            )
        ):
            return None
        return np.asarray(given, np.float64).reshape(-1, found.power.shape[-1])

    def _verdict(
        self, pair: Pair, spec: TensorSpec, x: np.ndarray, reading: Reading, found: Comparison, scaling: Scaling
    ) -> tuple[str, str]:
        """What can be said without measuring anything else; `KEPT` for what is to be judged."""
        if found.worse:
            return BROKEN, found.faults
        if found.bad:
            return UNJUDGED, found.faults
        if found.equal == found.size and reading.nbytes == spec.nbytes:
            return IDENTICAL, ""
        if self._origin.is_quantized(pair.source):
            return COMPARED, "its source is quantized itself"
        if self._rivals is None or len(spec.shape) < 2 or spec.dtype not in FLOATS:
            return COMPARED, ""
        if not (is_weight(spec) or self._stored.is_quantized(spec.name)):
            return COMPARED, ""
        why = self._unfair(x, reading, found, scaling)
        return (UNJUDGED, why) if why else (KEPT, "")

    def _unfair(self, x: np.ndarray, reading: Reading, found: Comparison, scaling: Scaling) -> str:
        """Why the error of a tensor's weights says nothing against it; "" where it does."""
        if self._rotation:
            return f"its weights were rotated by {self._rotation}, so they are not to be compared one by one"
        if found.relative > 1 and not scaling.words:
            return "it has nothing in common with its source: another model, rotated weights, or rows in another order"
        if scaling.words:
            return "its layer computes with rescaled columns"
        if self._rounding and reading.label not in UNAWARE:
            return f"it was rounded with {self._rounding}, which raises the error of weights to lower that of outputs"
        if reading.quantized is not None and self._stored.layout is not None and is_calibrated(x, reading.quantized):
            return (
                "its codes are not the nearest ones, as GPTQ and others choose them: that raises the error of weights "
                "to lower that of outputs"
            )
        return ""

    def _compete(
        self, judged: Judged, spec: TensorSpec, x: np.ndarray, reading: Reading, found: Comparison
    ) -> tuple[str, str]:
        """Compare a tensor with what its program would have loaded in its place."""
        assert self._rivals is not None
        judged.rivals = self._rivals.rows(spec, x)
        if not judged.rivals:
            return COMPARED, f"{self._rivals.target.label} can load none of the configurations that were to be compared"
        plain = compare(x, reading.unrounded(), spec.channel_axis) if reading.unrounded else found
        judged.own_db = plain.sqnr_db
        best = next(iter(better(judged.rivals, reading.nbytes, judged.own_db)), None)
        if best is None:
            return KEPT, ""
        decoded = self._rivals.decoded_db(spec, x, best)
        judged.row |= {"better": best["config"], "better_nbytes": best["nbytes"], "better_sqnr_db": decoded}
        return DOMINATED, ""


def without(pair: Pair, verdict: str, note: str) -> Judged:
    """A row without figures."""
    row = dict.fromkeys(COLUMNS, math.nan) | {"tensor": pair.name, "source": pair.source, "shape": "", "layout": ""}
    return Judged({**row, "better": "", "verdict": verdict, "note": note})


def squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without axes of length 1, which programs add and drop."""
    return tuple(length for length in shape if length != 1)
