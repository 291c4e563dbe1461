"""What the Compare page and the error histograms of a sweep are drawn from, computed once and shared between sessions.

Cached as in `cache`: by the file's key, the tensor's name and the configuration's slug. Results are small: the
quantized tensors themselves are kept by `cache.quantized` alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import streamlit as st

from quantlab.core.config import QuantConfig
from quantlab.core.metrics import METRICS, ErrorReport, error_histogram
from quantlab.formats import Checkpoint
from quantlab.plots.compare import Histogram, code_counts, code_entropy
from quantlab.ui import cache
from quantlab.ui.cache import Key
from quantlab.ui.state import Session

SAMPLED = 3000  # points of the scatter of original and decoded values
EXTREMES = 100  # of which the largest magnitudes: a random sample would miss the outliers


@dataclass(frozen=True)
class Usage:
    """How a tensor uses its codes: how many of how many occur, and the entropy of the codes in bits."""

    used: int
    levels: int
    entropy: float
    bits: int


@dataclass(frozen=True, eq=False)
class Side:
    """One configuration on one tensor: figures, bytes of every part, code usage, a sample of (original, decoded)."""

    config: QuantConfig
    report: ErrorReport
    parts: dict[str, int]
    usage: Usage
    sample: tuple[np.ndarray, np.ndarray]


def side(session: Session, tensor: str, config: QuantConfig) -> Side:
    """One configuration on one tensor of the open file; QuantlabError when they do not go together."""
    return _side(session.key, tensor, str(config), session.checkpoint)


def histograms(session: Session, tensor: str, configs: Sequence[QuantConfig]) -> dict[str, Histogram]:
    """Error histograms on one axis, by slug: as wide as the largest error of them all."""
    reports = [cache.report(session.key, session.checkpoint, tensor, config) for config in configs]
    limit = max((report.max_abs_error for report in reports), default=0.0)
    return {str(config): _histogram(session.key, tensor, str(config), limit, session.checkpoint) for config in configs}


def channel_errors(session: Session, tensor: str, configs: Sequence[QuantConfig], axis: int) -> dict[str, np.ndarray]:
    """Root mean squared error of every channel along `axis`, float64 [channels], by slug."""
    return {
        str(config): _channel_errors(session.key, tensor, str(config), axis, session.checkpoint) for config in configs
    }


def winners(reports: Sequence[ErrorReport], metric: str) -> list[bool]:
    """Which reports have the best value of a metric; none where all are equal, so nothing is won."""
    values = [getattr(report, metric) for report in reports]
    known = [value for value in values if value is not None]
    best = max(known, default=None) if METRICS[metric].higher_is_better else min(known, default=None)
    won = [value == best for value in values]
    return [False] * len(won) if all(won) else won


@st.cache_resource(max_entries=256, show_spinner="Measuring …")
def _side(key: Key, tensor: str, slug: str, _checkpoint: Checkpoint) -> Side:
    config, x = QuantConfig.parse(slug), cache.values(key, _checkpoint, tensor)
    q = cache.quantized(key, _checkpoint, tensor, config)
    counts = code_counts(q)[1]
    report = cache.report(key, _checkpoint, tensor, config)
    usage = Usage(int(np.count_nonzero(counts)), counts.size, code_entropy(counts), config.codec.bits)
    chosen = _sample(key, tensor, _checkpoint)
    pair = x.reshape(-1)[chosen], q.dequantize().reshape(-1)[chosen]
    return Side(config, report, {name: part.nbytes for name, part in q.parts.items()}, usage, pair)


@st.cache_resource(max_entries=64, show_spinner=False)
def _sample(key: Key, tensor: str, _checkpoint: Checkpoint) -> np.ndarray:
    return sample_of(cache.values(key, _checkpoint, tensor))


@st.cache_resource(max_entries=256, show_spinner="Counting errors …")
def _histogram(key: Key, tensor: str, slug: str, limit: float, _checkpoint: Checkpoint) -> Histogram:
    q = cache.quantized(key, _checkpoint, tensor, QuantConfig.parse(slug))
    return error_histogram(cache.values(key, _checkpoint, tensor), q, limit=limit)


@st.cache_resource(max_entries=128, show_spinner="Looking at every channel …")
def _channel_errors(key: Key, tensor: str, slug: str, axis: int, _checkpoint: Checkpoint) -> np.ndarray:
    x = cache.values(key, _checkpoint, tensor)
    error = x - cache.quantized(key, _checkpoint, tensor, QuantConfig.parse(slug)).dequantize()
    rows = np.moveaxis(error, axis, 0).reshape(error.shape[axis], -1)
    return np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64) / rows.shape[1])


def sample_of(x: np.ndarray) -> np.ndarray:
    """Indices into flattened x, the same every time: a random sample, and the largest magnitudes."""
    if x.size <= SAMPLED:
        return np.arange(x.size)
    spread = np.random.default_rng(0).integers(0, x.size, SAMPLED - EXTREMES)
    return np.union1d(spread, largest(x.reshape(-1), EXTREMES))


def largest(flat: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` largest magnitudes of a 1-D array of more values than that.

    What the largest of `count` blocks reach is reached by no fewer values: only those have to be ordered.
    """
    width = max(flat.size // (16 * count), 1)
    blocks = flat[: flat.size // width * width].reshape(-1, width)
    bound = np.partition(np.maximum(blocks.max(axis=1), -blocks.min(axis=1)), -count)[-count]
    far = np.flatnonzero((flat >= bound) | (flat <= -bound))
    return far[np.argpartition(np.abs(flat[far]), -count)[-count:]]
