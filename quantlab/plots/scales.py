"""Figures of METRICS on axes and in cells: words, logarithms, and a place for what has no number (infinity, zero)."""

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..core.config import QuantConfig
from ..core.dtypes import DTYPES
from ..core.granularity import Granularity, PerChannel, PerTensor, parse_granularity
from ..core.metrics import METRICS, Metric
from ..sweeping.tables import WHOLE

FIGURED = METRICS | WHOLE  # of one tensor, and of all together
# These range over many powers of ten between int2 and int16: compared by ratio, not by difference.
LOGARITHMIC = frozenset({"mse", "rmse", "mae", "max_abs_error", "nbytes", "compression_ratio"})
UNITS = {"share": "%", "x": "×"}


def title(metric: str) -> str:
    """A metric as an axis title, with its unit.

    >>> title("sqnr_db"), title("mse"), title("clipped_fraction")
    ('SQNR (dB)', 'MSE', 'Clipped (%)')
    """
    entry = FIGURED[metric]
    unit = UNITS.get(entry.unit, entry.unit)
    return f"{entry.label} ({unit})" if unit and unit not in entry.label.lower() else entry.label


def figures(metric: str, values: Iterable[float]) -> list[str]:
    """Values as a reader wants them: three digits that count, percent for shares, without the unit.

    >>> figures("sqnr_db", [31.46, math.inf]), figures("mse", [1.234e-7]), figures("clipped_fraction", [0.0123])
    (['31.5', '∞'], ['1.23e−07'], ['1.23'])
    """
    factor = 100 if FIGURED[metric].unit == "share" else 1
    return [_figure(factor * value) for value in values]


def _figure(value: float) -> str:
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    digits = f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"
    return digits.replace("-", "−")


def position(metric: str, values: ArrayLike) -> np.ndarray:
    """Where values lie on a metric's scale: float64, the logarithm for LOGARITHMIC ones, percent for shares.

    Infinity, and zero on a logarithmic scale, lie a little beyond the other values: lossless results are drawn, at the
    edge. NaN stays NaN.
    """
    values = np.asarray(values, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = np.log10(values) if metric in LOGARITHMIC else values * (100 if FIGURED[metric].unit == "share" else 1)
    finite = at[np.isfinite(at)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    margin = 0.08 * (high - low) or 1.0
    return np.where(at == np.inf, high + margin, np.where(at == -np.inf, low - margin, at))


def ticks(metric: str, at: np.ndarray) -> dict:
    """Axis options that write 10^k under positions that are logarithms; nothing for other metrics."""
    return log_ticks(at) if metric in LOGARITHMIC else {}


def log_ticks(at: np.ndarray) -> dict:
    """Axis options that write 10^k under decimal logarithms, of whatever figure."""
    at = at[np.isfinite(at)]
    if not at.size:
        return {}
    low, high = math.floor(at.min()), math.ceil(at.max())
    step = max(1, math.ceil((high - low) / 8))
    # Less than three decades leave too few powers of ten to read values by.
    within = [1.0] if high - low > 3 else [1.0, 2.0, 5.0]
    places = [k + math.log10(m) for k in range(low, high + 1, step) for m in within]
    return {"tickvals": places, "ticktext": [_figure(10**place) for place in places]}


def scheme(config: QuantConfig) -> str:
    """What of a configuration is neither granularity nor calibration.

    >>> scheme(QuantConfig.parse("int4-aff-g32-mse-sfp16")), scheme(QuantConfig.parse("bf16"))
    ('int4 affine, fp16 scales', 'bf16')
    """
    if not DTYPES[config.dtype].configurable:
        return config.dtype
    stored = f", {config.scale_dtype} scales" if config.scale_dtype != "fp32" else ""
    return f"{config.dtype} {config.mapping}{stored}{', powers of two' if config.pow2_scale else ''}"


def granularity_label(slug: str) -> str:
    """A granularity's slug in words.

    >>> granularity_label("tensor"), granularity_label("ch-1"), granularity_label("g128")
    ('tensor', 'channel −1', 'group 128')
    """
    granularity = parse_granularity(slug)
    if isinstance(granularity, PerTensor):
        return "tensor"
    if isinstance(granularity, PerChannel):
        return f"channel {granularity.axis}".replace("-", "−")
    return f"group {granularity.group_size}"


def coarseness(granularity: Granularity) -> tuple[int, int]:
    """Sort key: per tensor first, then channels, then groups, the finest last."""
    if isinstance(granularity, PerTensor):
        return 0, 0
    return (1, granularity.axis % 64) if isinstance(granularity, PerChannel) else (2, -granularity.group_size)


def better(metric: str | Metric) -> str:
    """Which direction is better, in words."""
    entry = FIGURED[metric] if isinstance(metric, str) else metric
    return "higher is better" if entry.higher_is_better else "lower is better"


def best_first(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows from best to worst by a metric; NaN last, ties in the table's order."""
    return frame.sort_values(metric, ascending=not FIGURED[metric].higher_is_better, kind="stable")
