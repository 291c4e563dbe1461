"""What the pages compute once and share between sessions.

A key is (path, size, mtime_ns) of the file, the tensor's name and the configuration's slug: never an array, which
Streamlit would hash from a sample, and never a configuration, which it would hash by its field values alone. What is
not part of the key is passed with a leading underscore. Every cache has a limit. Arrays that come out are shared:
nobody writes to them. They are not marked read-only, for which Numba would compile every kernel a second time.
"""

import time
from collections.abc import Callable, Iterable

import numpy as np
import streamlit as st

from quantlab.core import pool, statistics
from quantlab.core.arrays import FLOATS
from quantlab.core.config import QuantConfig
from quantlab.core.findings import Finding
from quantlab.core.findings import findings as oddities
from quantlab.core.metrics import ErrorReport, evaluate_quantized
from quantlab.core.statistics import ChannelRanges, ChannelStatistics, Histogram, TensorStatistics
from quantlab.core.tensor import QuantizedTensor, quantize
from quantlab.errors import CheckpointError, QuantlabError
from quantlab.formats import Checkpoint, open_checkpoint
from quantlab.plots.levels import Levels, levels
from quantlab.shipping.rehearsal import limits
from quantlab.sweeping import findings
from quantlab.sweeping.findings import Gain, Look
from quantlab.ui import jobs, sources
from quantlab.ui.jobs import Job, Progress

Key = tuple[str, int, int]
TABLE_BINS = 24  # bins of the small histograms of the table: bars of two pixels and more
PUBLISHED_EVERY = 0.5  # seconds between partial results


def identity(source: str) -> Key | None:
    """(path, size in bytes, mtime in ns) of the file behind a source word; None when it cannot be reached."""
    try:
        return _identity(source)
    except CheckpointError:
        return None


def checkpoint(source: str) -> tuple[Key, Checkpoint]:
    """The open checkpoint behind a source word, and its key; QuantlabError when it is refused."""
    key = _identity(source)
    return key, _checkpoint(key, sources.title(source), sources.is_upload(source))


def values(key: Key, checkpoint: Checkpoint, tensor: str) -> np.ndarray:
    """One tensor's values, float32 in C order; QuantlabError when it cannot be quantized."""
    return _values(key, tensor, checkpoint)


def tensor_statistics(key: Key, checkpoint: Checkpoint, tensor: str) -> TensorStatistics:
    """What `quantlab.core.statistics.describe` says about one tensor."""
    return _tensor_statistics(key, tensor, checkpoint)


def channel_statistics(key: Key, checkpoint: Checkpoint, tensor: str, axis: int) -> ChannelStatistics:
    """What `quantlab.core.statistics.describe_channels` says about one tensor along `axis`."""
    return _channel_statistics(key, tensor, axis, checkpoint)


def channel_ranges(key: Key, checkpoint: Checkpoint, tensor: str) -> list[ChannelRanges]:
    """What `quantlab.core.statistics.channel_ranges` says about one tensor, along every axis."""
    return _channel_ranges(key, tensor, checkpoint)


def statistics_job(key: Key, checkpoint: Checkpoint) -> Job:
    """The job that looks at every tensor of a file, started on first asking.

    Its result, and its partial result meanwhile, is {name: Look}: its figures, what is odd, and what helps.
    """
    return _statistics_job(key, checkpoint)


def gains(key: Key, checkpoint: Checkpoint, tensor: str) -> dict[Finding, tuple[Gain, ...]]:
    """How much the remedies of what is odd about one tensor help, measured."""
    return _gains(key, tensor, checkpoint)


def value_histogram(key: Key, checkpoint: Checkpoint, tensor: str, central: bool) -> Histogram:
    """Histogram of one tensor's values: of all, or of the central 99 %."""
    return _value_histogram(key, tensor, central, checkpoint)


def channel_histograms(
    key: Key, checkpoint: Checkpoint, tensor: str, axis: int, channels: Iterable[int]
) -> list[Histogram]:
    """Histograms of a few of the channels along `axis`, in the order given."""
    return _channel_histograms(key, tensor, axis, tuple(map(int, channels)), checkpoint)


def group_levels(
    key: Key, checkpoint: Checkpoint, tensor: str, config: QuantConfig, which: str
) -> tuple[Levels, Histogram]:
    """The quantization grid of the widest, median or narrowest group, and the histogram of that group's values."""
    return _group_levels(key, tensor, str(config), which, checkpoint)


def quantized(key: Key, checkpoint: Checkpoint, tensor: str, config: QuantConfig) -> QuantizedTensor:
    """One tensor quantized with one configuration; QuantlabError when they do not go together."""
    return _quantized(key, tensor, str(config), checkpoint)


def report(key: Key, checkpoint: Checkpoint, tensor: str, config: QuantConfig) -> ErrorReport:
    """Error and size of one tensor under one configuration; QuantlabError when they do not go together."""
    return _report(key, tensor, str(config), checkpoint)


def _identity(source: str) -> Key:
    path = sources.locate(source)
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no {path}: check the path") from error
    except OSError as error:
        raise CheckpointError(f"{path} may not be read: {error.strerror}") from error
    return str(path), status.st_size, status.st_mtime_ns


@st.cache_resource(max_entries=16, show_spinner="Opening the file …")
def _checkpoint(key: Key, name: str, alone: bool) -> Checkpoint:
    return open_checkpoint(key[0], name=name, alone=alone)


@st.cache_resource(max_entries=4, show_spinner="Reading the tensor …")
def _values(key: Key, tensor: str, _checkpoint: Checkpoint) -> np.ndarray:
    return _checkpoint.load(tensor)


@st.cache_resource(max_entries=4096, show_spinner=False)
def _tensor_statistics(key: Key, tensor: str, _checkpoint: Checkpoint) -> TensorStatistics:
    return statistics.describe(values(key, _checkpoint, tensor))


@st.cache_resource(max_entries=64, show_spinner=False)
def _channel_ranges(key: Key, tensor: str, _checkpoint: Checkpoint) -> list[ChannelRanges]:
    return statistics.channel_ranges(values(key, _checkpoint, tensor))


@st.cache_resource(max_entries=64, show_spinner="Measuring what helps …")
def _gains(key: Key, tensor: str, _checkpoint: Checkpoint) -> dict[Finding, tuple[Gain, ...]]:
    found = oddities(_tensor_statistics(key, tensor, _checkpoint), _channel_ranges(key, tensor, _checkpoint))
    x = values(key, _checkpoint, tensor)
    return {finding: findings.measured(x, finding) for finding in found if finding.remedies}


@st.cache_resource(max_entries=64, show_spinner="Looking at every channel …")
def _channel_statistics(key: Key, tensor: str, axis: int, _checkpoint: Checkpoint) -> ChannelStatistics:
    return statistics.describe_channels(values(key, _checkpoint, tensor), axis)


@st.cache_resource(max_entries=64, show_spinner=False)
def _value_histogram(key: Key, tensor: str, central: bool, _checkpoint: Checkpoint) -> Histogram:
    if not central:
        return _tensor_statistics(key, tensor, _checkpoint).histogram
    x = values(key, _checkpoint, tensor)
    return statistics.histogram(x, *statistics.central_range(x))


@st.cache_resource(max_entries=64, show_spinner=False)
def _channel_histograms(
    key: Key, tensor: str, axis: int, channels: tuple[int, ...], _checkpoint: Checkpoint
) -> list[Histogram]:
    return statistics.channel_histograms(values(key, _checkpoint, tensor), axis, channels, TABLE_BINS)


@st.cache_resource(max_entries=64, show_spinner=False)
def _group_levels(key: Key, tensor: str, slug: str, which: str, _checkpoint: Checkpoint) -> tuple[Levels, Histogram]:
    found, group = levels(values(key, _checkpoint, tensor), _quantized(key, tensor, slug, _checkpoint), which)
    return found, statistics.histogram(group, float(group.min()), float(group.max()))


@st.cache_resource(max_entries=8, show_spinner="Quantizing …")
def _quantized(key: Key, tensor: str, slug: str, _checkpoint: Checkpoint) -> QuantizedTensor:
    # The file's own dtype: the compression ratio counts the bytes of the source, not of float32.
    return quantize(_checkpoint.raw(tensor), QuantConfig.parse(slug))


@st.cache_resource(max_entries=1024, show_spinner=False)
def _report(key: Key, tensor: str, slug: str, _checkpoint: Checkpoint) -> ErrorReport:
    q = _quantized(key, tensor, slug, _checkpoint)
    spec = _checkpoint.spec(tensor)
    return evaluate_quantized(values(key, _checkpoint, tensor), q, spec.nbytes, spec.channel_axis)


@st.cache_resource(max_entries=16, show_spinner=False)
def _statistics_job(key: Key, _checkpoint: Checkpoint) -> Job:
    return jobs.start("statistics", "Figures of every tensor", lambda *job: _describe_all(_checkpoint, *job))


def _describe_all(checkpoint: Checkpoint, progress: Progress, cancel: Callable[[], bool]) -> dict[str, Look]:
    found: dict[str, Look] = {}
    sizes = {name: checkpoint.spec(name).nbytes for name in checkpoint.names}
    done, total, published = 0, sum(sizes.values()), 0.0
    for name, nbytes in sizes.items():
        progress(done, total, name)
        with pool.limits(cancel=cancel):
            found[name] = _look(checkpoint, name)
        done += nbytes
        if time.monotonic() - published > PUBLISHED_EVERY:
            progress.publish(dict(found))
            published = time.monotonic()
    return found


def _look(checkpoint: Checkpoint, name: str) -> Look:
    """What a tensor looks like: one bad tensor does not keep the others from their figures."""
    spec = checkpoint.spec(name)
    found = findings.look(name, spec, lambda: checkpoint.load(name), TABLE_BINS)
    if found.fault and spec.dtype not in FLOATS:
        return findings.Look(None, fault=f"{spec.dtype} is not a float type, so it is not quantized")
    return found


@st.cache_data(max_entries=64, show_spinner=False)
def limits_of(key: Key, _checkpoint: Checkpoint) -> str:
    """What an export in the file's own format cannot hold, in a sentence; "" where nothing, or where nobody can say."""
    try:
        return limits(_checkpoint)
    except QuantlabError:
        return ""
