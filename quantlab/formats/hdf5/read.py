"""HDF5 files of weights: Keras's `.h5` and `.keras`, and others. Names are paths, such as "layers/dense/vars/0".

A `.keras` file is a zip archive in which the HDF5 file is stored as it is. The rest of it, the model's configuration,
is never read: rebuilding a model from it can run code.
"""

import re

from ...errors import CheckpointError
from ..checkpoint import Checkpoint, StoredCheckpoint
from ..input import ziparchive
from ..input.files import InputFile
from .process import Section
from .tree import read_entries

MAGIC = b"\x89HDF\r\n\x1a\n"
WEIGHTS = "model.weights.h5"  # the member of a .keras file

_DEPTHWISE = re.compile("depthwise|separable")
_TRANSPOSED = re.compile(r"conv\dd_transpose")
_KERNELS = {"kernel", "recurrent_kernel", "pointwise_kernel", "depthwise_kernel"}


def sniff(head: bytes, size: int) -> bool:
    """The signature's first half; HDF5 would allow it behind other data, too, where this reader does not look."""
    return head.startswith(MAGIC[:4])


def accepts_keras(file: InputFile) -> bool:
    """Whether a zip archive has weights where Keras puts them."""
    return WEIGHTS in ziparchive.member_names(file)


def open_file(file: InputFile) -> Checkpoint:
    """Read the structure of an HDF5 file. CheckpointError or LimitError if it does not hold."""
    return StoredCheckpoint(file.path, "hdf5", read_entries(Section(file, 0, file.size), channel_axis), [file])


def open_keras(file: InputFile) -> Checkpoint:
    """Read the structure of the weights in a .keras file. CheckpointError or LimitError if it does not hold."""
    member = next(member for member in ziparchive.read_directory(file) if member.name == WEIGHTS)
    if member.deflated:
        raise CheckpointError(f"{member} is compressed, which Keras never does: unpack it and open it as a .h5 file")
    if member.open().read(min(len(MAGIC), member.size)) != MAGIC:
        raise CheckpointError(f"{member} is not an HDF5 file")
    return StoredCheckpoint(
        file.path, "keras", read_entries(Section(file, member.start, member.size), channel_axis), [file]
    )


def channel_axis(parts: list[str], rank: int) -> int:
    """The axis of a tensor's output channels, by what Keras 3 (LAYER/vars/NUMBER) and Keras 2 (.../kernel:0) call it.

    Dense layers multiply by [in, out] and convolutions by [height, width, in, out]; a transposed convolution has
    [..., out, in], a depthwise one [..., channels, multiplier], an embedding [words, features].

    >>> channel_axis(["layers", "dense", "vars", "0"], 2), channel_axis(["conv2d_transpose", "kernel:0"], 4)
    (1, 2)
    """
    leaf = parts[-1].partition(":")[0]
    numbered = len(parts) > 2 and parts[-2] == "vars"
    layer = parts[-3] if numbered else "/".join(parts[:-1])
    kernel = (numbered and "embedding" not in layer) or leaf in _KERNELS
    if rank < 2 or not kernel or parts[0].startswith("optimizer"):
        return 0
    depthwise = leaf == "depthwise_kernel" or (leaf in ("0", "kernel") and _DEPTHWISE.search(layer))
    return rank - 2 if depthwise or _TRANSPOSED.search(layer) else rank - 1
