"""Where the error of weights says nothing against a tensor: it was made larger on purpose, or is of another basis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.inputs import Weighting
from ..formats import Checkpoint
from ..formats.checkpoint import TensorSpec
from ..formats.gguf.read import GGUFCheckpoint
from ..wording import shown
from .comparing import Comparison
from .rounding import is_calibrated
from .scaling import Scaling
from .stored import Reading, Stored, model_config

# Types of ggml that are made without looking at an importance matrix, though one was given.
UNAWARE = frozenset({"q8_0", "float32", "fp16", "bf16", "mxfp4", "nvfp4", "tq1_0", "tq2_0"})
# Methods that choose codes by what a layer computes, as config.json calls them.
CALIBRATED = {"gptq": "GPTQ", "awq": "AWQ", "auto-round": "AutoRound", "auto_round": "AutoRound"}
ROTATED = {"exl3": "EXL3", "quip": "QuIP#", "spinquant": "SpinQuant", "higgs": "HIGGS"}
ON_PURPOSE = "which raises the error of weights to lower that of outputs"


@dataclass(frozen=True, eq=False)
class Case:
    """A tensor that is to be judged.

    Attributes
    ----------
    spec : of the source, under the file's name. x : its values, as the file would have them.
    reading, found : what is stored, and how far it is off. scaling : scales of columns that explain that.
    weighting : what its inputs count, where that is known.
    """

    spec: TensorSpec
    x: np.ndarray
    reading: Reading
    found: Comparison
    scaling: Scaling
    weighting: Weighting | None = None


class Fairness:
    """What a file says of the method behind it, and what its codes show."""

    def __init__(self, stored: Stored) -> None:
        self._layout = stored.layout
        self._imatrix = imatrix_of(stored.checkpoint)
        self._calibration, self._rotation = methods_of(stored.checkpoint)

    def why_not(self, case: Case) -> str:
        """Why the error of a tensor's weights says nothing against it, in a sentence; "" where it does."""
        if self._rotation:
            return f"its weights were rotated by {self._rotation}, so they are not to be compared one by one"
        if case.scaling.words:
            return "its layer computes with rescaled columns"
        if case.found.relative > 1:
            return "it has nothing in common with its source: another model, rotated weights, or rows in another order"
        if self._imatrix and case.weighting is None and case.reading.label not in UNAWARE:
            return f"it was rounded by an importance matrix ({self._imatrix} in its metadata), {ON_PURPOSE}; give it"
        if self._calibration:
            return f"it was rounded with {self._calibration}, {ON_PURPOSE}"
        if self._layout and case.reading.quantized is not None and is_calibrated(case.x, case.reading.quantized):
            return f"its codes are not the nearest ones, as GPTQ and others choose them, {ON_PURPOSE}"
        return ""


def imatrix_of(checkpoint: Checkpoint) -> str:
    """What a GGUF file says of the importance matrix that it was made with; "" where nothing."""
    keys = checkpoint.metadata if isinstance(checkpoint, GGUFCheckpoint) else ()
    return next((shown(key) for key in keys if key.startswith("quantize.imatrix.")), "")


def methods_of(checkpoint: Checkpoint) -> tuple[str, str]:
    """The methods that a config.json names: one that calibrates codes, and one that rotates weights; "" for none."""
    settings = {} if isinstance(checkpoint, GGUFCheckpoint) else model_config(checkpoint).get("quantization_config")
    if not isinstance(settings, dict):
        return "", ""
    method = str(settings.get("quant_method", "")).lower()
    turned = "a transform (transform_config in its config.json)" if settings.get("transform_config") else ""
    return CALIBRATED.get(method, ""), ROTATED.get(method, turned)
