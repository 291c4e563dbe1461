"""Calibration over batches of data: Observer; and per call: DynamicQuantizer."""

import numpy as np

from ..errors import CalibrationRequiredError, ConfigError, LimitError, ShapeError, check_integer
from .arrays import as_float32, as_values
from .calibration import EMA, MinMax
from .config import QuantConfig, check_config
from .dtypes import DTYPES, IntegerCodec
from .granularity import Groups, PerGroup, PerTensor
from .kernels.records import Fitted
from .tensor import QuantizedTensor, encode, quantize

DEFAULT_BUDGET = 1 << 30


class Observer:
    """Parameters from any number of batches, under the configuration's calibration.

    All batches together are calibrated as if they were one tensor: min-max and EMA keep running ranges (for EMA each
    `update` is one batch), the others, and scales that are powers of two, keep the values, up to `max_bytes`.

    >>> observer = Observer(QuantConfig(dtype="int8"))
    >>> observer.update(np.float32([1.0, -2.0])); observer.update(np.float32([0.5, 12.7]))
    >>> round(float(observer.params().scale[0, 0]), 6)
    0.1
    """

    def __init__(self, config: QuantConfig, max_bytes: int = DEFAULT_BUDGET) -> None:
        check_config(config)
        if DTYPES[config.dtype].block:
            raise ConfigError(
                f"{config} chooses the scale of a block from that block alone: use quantize(), or an int dtype"
            )
        self.config = config
        self.max_bytes = check_integer("max_bytes", max_bytes, 0, 1 << 62)
        self.batches = 0
        self._layout: tuple[int, ...] | None = None
        self._range: tuple[np.ndarray, np.ndarray] | None = None
        self._kept: list[Groups] = []
        self._fitted: Fitted | None = None  # until the next batch

    def update(self, batch: np.ndarray) -> None:
        """Take in one batch (as `quantize` takes a tensor).

        Raises
        ------
        ShapeError : its channels, or for per group its shape, are not those of the first batch.
        LimitError : the values kept would exceed `max_bytes`. After any error the observer is as it was.
        """
        x = as_float32(batch, "the batch")
        groups = self.config.granularity.to_groups(x)
        lo, hi = groups.extents
        layout = groups.shape if not isinstance(self.config.granularity, PerGroup) else x.shape
        if self._layout is not None and layout != self._layout:
            raise ShapeError(
                f"a batch of shape {x.shape} does not go with the earlier ones under {self.config.granularity}: "
                f"their layout is {self._layout}, this one's {layout}"
            )
        self._fitted = None
        if not self._streams or self._searches_exponents:
            self._keep(groups)
        if self._streams:
            self._range = self._merged(lo, hi)
        self._layout = layout
        self.batches += 1

    @property
    def _streams(self) -> bool:
        """Whether running ranges say all there is to know of the range."""
        return isinstance(self.config.calibration, MinMax | EMA) or not self.config.codec.has_scale

    @property
    def _searches_exponents(self) -> bool:
        """Whether the scale is the power of two of least error, which only the values tell."""
        codec = self.config.codec
        return isinstance(codec, IntegerCodec) and codec.pow2_scale

    def _merged(self, lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        calibration = self.config.calibration
        if self._range is None:
            return lo, hi
        if isinstance(calibration, EMA):
            return calibration.step(self._range, lo, hi)
        return np.minimum(self._range[0], lo), np.maximum(self._range[1], hi)

    def _keep(self, groups: Groups) -> None:
        total = sum(kept.matrix.nbytes for kept in self._kept) + groups.matrix.nbytes
        if total > self.max_bytes:
            raise LimitError(
                f"{self.config} needs all values of all batches, {total:,} bytes by now: the budget is "
                f"{self.max_bytes:,}; pass a larger max_bytes to Observer, fewer batches, or minmax or ema with plain "
                "scales"
            )
        # A copy: the caller may reuse the batch's memory.
        self._kept.append(Groups(groups.matrix.copy(), groups.size))

    def params(self) -> Fitted:
        """(scale, zero_point, offset), float32 [rows, groups per row]. Raises CalibrationRequiredError without data."""
        return Fitted(*(values.copy() for values in self._params()))

    def _params(self) -> Fitted:
        if not self.batches:
            raise CalibrationRequiredError("the observer has seen no data: call update(batch) at least once first")
        if self._fitted is None:
            self._fitted = self._fit()
        return self._fitted

    def _fit(self) -> Fitted:
        codec = self.config.codec
        groups = joined(self._kept) if self._kept else None
        if self._range is not None:
            return codec.fit(groups, *self._range)
        assert groups is not None
        assert isinstance(codec, IntegerCodec)
        return self.config.calibration.fit(groups, codec)

    def quantize(self, x: np.ndarray) -> QuantizedTensor:
        """Quantize a tensor with the parameters observed, in one pass. Raises ShapeError if its layout is another."""
        fitted = self._params()
        single = as_values(x)
        groups = self.config.granularity.to_groups(single)
        if self.config.codec.has_scale and groups.shape != fitted.scale.shape:
            raise ShapeError(
                f"a tensor of shape {single.shape} needs {groups.shape} scales, the observer has {fitted.scale.shape}"
            )
        return encode(groups, fitted, self.config, single.shape, np.asarray(x).dtype.name)


def joined(kept: list[Groups]) -> Groups:
    """The groups of several batches, each group's values one after another."""
    if len(kept) == 1:
        return kept[0]
    first = kept[0]
    if first.shape[1] == 1:
        matrix = np.concatenate([groups.matrix for groups in kept], axis=1)
        return Groups(matrix, matrix.shape[1])
    starts = range(0, first.matrix.shape[1], first.size)
    parts = [groups.matrix[:, start : start + first.size] for start in starts for groups in kept]
    return Groups(np.concatenate(parts, axis=1), first.size * len(kept))


class DynamicQuantizer:
    """Quantizes every tensor by its own range, per tensor, under any calibration.

    Raises ConfigError for a configuration that is not per tensor: then the scales would have to be known in advance.
    """

    def __init__(self, config: QuantConfig) -> None:
        check_config(config)
        if not isinstance(config.granularity, PerTensor):
            raise ConfigError(
                f"dynamic quantization is per tensor, but {config} is {config.granularity}: use PerTensor(), or "
                "quantize()"
            )
        self.config = config

    def quantize(self, x: np.ndarray) -> QuantizedTensor:
        """`quantize(x, config)`."""
        return quantize(x, self.config)
