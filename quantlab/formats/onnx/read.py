"""ONNX models: initializers and constants as named tensors (https://onnx.ai).

The file is walked as protocol buffers, from field to field: weights are stepped over, so that a model of gigabytes
opens as fast as a small one.
"""

import re

from ..checkpoint import Checkpoint, Entry, StoredCheckpoint, TensorSpec
from ..input.files import InputFile
from . import tensor as onnxtensor
from .companions import Companions
from .graph import Found, find_tensors
from .protobuf import Wire

# There is no magic. Every writer puts the version first, then another field of a model: producer, graph, opsets ...
_START = re.compile(rb"\x08[\x01-\x7f](?:[\x12\x1a\x22\x28\x32\x3a\x42\x72]|[\xa2\xca]\x01)", re.DOTALL)


def sniff(head: bytes, size: int) -> bool:
    """A version and a plausible field; not the eight bytes of a length with a JSON header behind them (safetensors)."""
    return _START.match(head) is not None and not (head[4:8] == bytes(4) and head[8:9] in b"{ \t\r\n")


def open_file(file: InputFile) -> Checkpoint:
    """Walk the graphs and check every tensor against the file, or the file beside it that holds its data.

    CheckpointError or LimitError if something does not hold.
    """
    wire, companions = Wire(file), Companions(file)
    try:
        entries = {found.name: _entry(found, wire, companions) for found in find_tensors(wire)}
    except BaseException:
        companions.close()
        raise
    return StoredCheckpoint(file.path, "onnx", entries, [file, *companions.files.values()])


def _entry(found: Found, wire: Wire, companions: Companions) -> Entry:
    multiplied = found.axis is not None
    spec = TensorSpec(found.name, (), "", 0, found.note, found.axis or 0, found.aside, multiplied)
    return onnxtensor.entry(found.proto, spec, wire, companions)
