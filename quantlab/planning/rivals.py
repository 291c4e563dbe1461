"""What else the program that loads a file would have loaded, and what became of a tensor under it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

from ..core.config import QuantConfig
from ..core.inputs import Weighting
from ..core.slices import measure_slices
from ..core.tensor import packed_nbytes, quantize
from ..formats import Checkpoint
from ..formats.checkpoint import TensorSpec
from ..formats.output.layout import Layout
from ..shipping.recipe import Item
from ..shipping.rehearsal import bound, unquantized
from ..sweeping.sweep import Row, checked_configs, tensor_rows
from .stored import Stored
from .targets import TARGETS, Target

# The program that a file is for, by the format whose layout it is in. Plain tensors are for none in particular.
FOR = {"gguf": "llama.cpp", "onnx": "onnxruntime", "compressed-tensors": "vllm", "mlx": "mlx", "safetensors": "any"}
NOISE_DB = 1e-4  # two sums of one tensor's errors agree to 1e-6 of them, whoever adds them up


def target_of(stored: Stored) -> Target | None:
    """The program whose file a checkpoint is; None for plain tensors, which are as many bytes as their dtype says."""
    return TARGETS[FOR[stored.format]] if stored.is_packed and stored.format in FOR else None


class Rivals:
    """The configurations that a program loads, measured on the source.

    Attributes
    ----------
    target : the program. configs : those that are compared with what is stored.
    """

    def __init__(self, target: Target, source: Checkpoint, against: Iterable[QuantConfig] | None = None) -> None:
        self.target, self._source = target, source
        self.configs = tuple(target.menu(source) if against is None else checked_configs(against))

    @cached_property
    def _layout(self) -> Layout | None:
        return bound(self._source, self.target.format)

    def allowed(self, spec: TensorSpec) -> list[QuantConfig]:
        """Those that the program can load a tensor in. `spec` has its name there, and all else of the source."""
        stored = [self._layout.stored(config, spec.dtype) if self._layout else config for config in self.configs]
        return [config for config in dict.fromkeys(stored) if not self.target.refuses(spec, config, self._source)]

    def nbytes(self, spec: TensorSpec, config: QuantConfig) -> int:
        """Bytes of a tensor in the program's file, counted as those of `Stored.read` are."""
        parts = self._layout.specs(unquantized(Item(spec, config))) if self._layout else {}
        return sum(part.nbytes for part in parts.values()) or packed_nbytes(spec.shape, config)

    def rows(self, spec: TensorSpec, x: np.ndarray, weighting: Weighting | None = None) -> list[Row]:
        """A row of a sweep for every configuration that can serve the tensor, with the bytes of the program's file.

        Errors are those of codes and scales, before the program rounds what it decodes to a dtype of its own.
        """
        rows = tensor_rows(
            spec.name, x, spec.nbytes, self.allowed(spec), channel_axis=spec.channel_axis, weighting=weighting
        )
        found = [(QuantConfig.parse(row["config"]), row) for row in rows if "reason" not in row]
        return [{**row, **_size(self.nbytes(spec, config), spec)} for config, row in found]

    def decoded_db(self, spec: TensorSpec, x: np.ndarray, row: Row) -> float:
        """The SQNR of the values that the program computes: some round what they decode."""
        config = QuantConfig.parse(row["config"])
        if self._layout is None or not self._layout.rounds(config, spec.dtype):
            return float(row["sqnr_db"])
        q = quantize(x, config)
        return measure_slices(x, q, self._layout.decoded, channel_axis=spec.channel_axis).sqnr_db


def _size(nbytes: int, spec: TensorSpec) -> Row:
    ratio = spec.nbytes / nbytes
    return {"nbytes": nbytes, "bits_per_weight": 8 * nbytes / spec.size, "compression_ratio": ratio}


def better(rows: Sequence[Row], nbytes: int, sqnr_db: float, column: str = "sqnr_db") -> list[Row]:
    """The rows of what is no larger and no worse than what is stored, and one of both for certain; the best first."""
    found = [row for row in rows if row["nbytes"] <= nbytes and row[column] >= sqnr_db - NOISE_DB]
    found = [row for row in found if row["nbytes"] < nbytes or row[column] > sqnr_db + NOISE_DB]
    return sorted(found, key=lambda row: (-row[column], row["nbytes"]))
