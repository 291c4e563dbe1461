"""What the pages compute once and share between sessions.

A key is (path, size, mtime_ns) of the file, the tensor's name and the configuration's slug: never an array, which
Streamlit would hash from a sample, and never a configuration, which it would hash by its field values alone. What is
not part of the key is passed with a leading underscore. Every cache has a limit. Arrays that come out are shared and
read-only.
"""

import numpy as np
import streamlit as st

from quantlab import statistics
from quantlab.config import QuantConfig
from quantlab.errors import CheckpointError
from quantlab.formats import Checkpoint, open_checkpoint
from quantlab.statistics import ChannelStatistics, TensorStatistics
from quantlab.tensor import QuantizedTensor, quantize
from quantlab.ui import sources

Key = tuple[str, int, int]


def identity(source: str) -> Key | None:
    """(path, size in bytes, mtime in ns) of the file behind a source word; None when it cannot be reached."""
    try:
        return _identity(source)
    except CheckpointError:
        return None


def checkpoint(source: str) -> tuple[Key, Checkpoint]:
    """The open checkpoint behind a source word, and its key; QuantlabError when it is refused."""
    key = _identity(source)
    return key, _checkpoint(key)


def values(key: Key, checkpoint: Checkpoint, tensor: str) -> np.ndarray:
    """One tensor's values, float32 in C order, read-only; QuantlabError when it cannot be quantized."""
    return _values(key, tensor, checkpoint)


def tensor_statistics(key: Key, checkpoint: Checkpoint, tensor: str) -> TensorStatistics:
    """What `quantlab.statistics.describe` says about one tensor."""
    return _tensor_statistics(key, tensor, checkpoint)


def channel_statistics(key: Key, checkpoint: Checkpoint, tensor: str, axis: int) -> ChannelStatistics:
    """What `quantlab.statistics.describe_channels` says about one tensor along `axis`."""
    return _channel_statistics(key, tensor, axis, checkpoint)


def quantized(key: Key, checkpoint: Checkpoint, tensor: str, config: QuantConfig) -> QuantizedTensor:
    """One tensor quantized with one configuration; QuantlabError when they do not go together."""
    return _quantized(key, tensor, str(config), checkpoint)


def _identity(source: str) -> Key:
    path = sources.locate(source)
    try:
        status = path.stat()
    except OSError as error:
        raise CheckpointError(f"{sources.title(source)} is not there any more, or may not be read: {path}") from error
    return str(path), status.st_size, status.st_mtime_ns


@st.cache_resource(max_entries=16, show_spinner="Opening the file …")
def _checkpoint(key: Key) -> Checkpoint:
    return open_checkpoint(key[0])


@st.cache_resource(max_entries=4, show_spinner="Reading the tensor …")
def _values(key: Key, tensor: str, _checkpoint: Checkpoint) -> np.ndarray:
    array = _checkpoint.load(tensor)
    array.flags.writeable = False
    return array


@st.cache_resource(max_entries=4096, show_spinner=False)
def _tensor_statistics(key: Key, tensor: str, _checkpoint: Checkpoint) -> TensorStatistics:
    return statistics.describe(values(key, _checkpoint, tensor))


@st.cache_resource(max_entries=64, show_spinner="Looking at every channel …")
def _channel_statistics(key: Key, tensor: str, axis: int, _checkpoint: Checkpoint) -> ChannelStatistics:
    return statistics.describe_channels(values(key, _checkpoint, tensor), axis)


@st.cache_resource(max_entries=8, show_spinner="Quantizing …")
def _quantized(key: Key, tensor: str, slug: str, _checkpoint: Checkpoint) -> QuantizedTensor:
    # The file's own dtype: the compression ratio counts the bytes of the source, not of float32.
    return quantize(_checkpoint.raw(tensor), QuantConfig.parse(slug))
