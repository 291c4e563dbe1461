"""What one tensor adds to a file of each format, and what the rest of the file is at least."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np

from ..core.config import QuantConfig
from ..errors import QuantlabError
from ..formats.checkpoint import Checkpoint
from ..formats.gguf import write as gguf
from ..formats.numpy import npz
from ..formats.onnx import rewrite
from ..formats.onnx import write as onnx
from ..formats.output.layout import Layout
from ..formats.output.manifest import as_json, compose, entry
from ..formats.output.outgoing import Outgoing
from ..formats.safetensors import file as safetensors
from ..formats.safetensors import shards
from ..formats.safetensors.beside import read_config
from ..formats.writing import unhashed
from .arrays import Arrays
from .choices import STEM, Case, Choices, escaped, spelt, text_length
from .told import Told


class Parts(Protocol):
    """What a file is made of: `nbytes`, int64 [T, K + 1], that options add up to, and a rest that is no sum.

    `schemes`, int64 [T, K + 1], is what the file says something of once for all that share it; -1 for nothing.
    `unsharded` : what options may add up to at most in a plan that is not cut into shards; None where none is.
    """

    nbytes: np.ndarray
    schemes: np.ndarray

    @property
    def unsharded(self) -> int | None:
        """See above."""

    def least(self, allowed: np.ndarray, case: Case) -> int:
        """What the rest takes at least in any plan of a case with choices among bool [T, K + 1] `allowed`."""


class Whole:
    """A file whose rest is the same whatever is chosen."""

    unsharded: int | None = None

    def __init__(self, nbytes: np.ndarray, rest: int) -> None:
        self.nbytes, self._rest = nbytes, rest
        self.schemes = np.full(nbytes.shape, -1)

    def least(self, allowed: np.ndarray, case: Case) -> int:
        """The rest."""
        return self._rest


def gguf_parts(choices: Choices, source: Checkpoint) -> Parts:
    """GGUF: the padded data of every tensor. What the header says of it is as long whatever it is."""
    alignment = gguf.alignment_of(source)

    def padded(tensor: Outgoing) -> int:
        try:
            return -(-gguf.Target(tensor, source, 0).nbytes // alignment) * alignment
        except (QuantlabError, KeyError):  # a copy of a type that GGUF lacks, or a dtype that is none of its own
            return 0

    groups = np.array([[padded(t) if t and t.config else 0 for t in row] for row in choices.forms], np.int64)
    nbytes = groups.reshape(len(choices.forms), -1)[choices.group]
    copy = nbytes.shape[1] - 1
    nbytes[:, copy] = [padded(choices.outgoing(t, copy)) for t in range(len(nbytes))]
    tensors = choices.chosen(np.full(len(nbytes), copy))
    return Whole(nbytes, gguf.nbytes(tensors, source) - int(nbytes[:, copy].sum()))


def own_parts(choices: Choices, source: Checkpoint, exact: Callable[[np.ndarray], int]) -> Parts:
    """quantlab's own safetensors: arrays, and a manifest in the header's metadata."""
    manifest = compose([], {}, unhashed(source), safetensors.BFLOAT16)
    rest = 8 + len(safetensors.header_text({}, {safetensors.METADATA: manifest})) - 1  # a comma less than tensors

    def said(form: Outgoing) -> str:
        return escaped("," + described(form, form.name, safetensors.BFLOAT16))

    return Arrays(choices, safetensors.own_specs, rest, said=said)


def layout_parts(choices: Choices, layout: Layout, beside: Mapping[str, bytes], limit: int | None) -> Parts:
    """Another program's layout in safetensors files, with what lies beside them; `limit`: bytes of a shard."""
    told = Told(choices, layout, read_config(beside.get("config.json"))) if layout.settings else None
    rest = sum(len(content) for name, content in beside.items() if not (told and name == "config.json"))
    head = 8 + len(safetensors.header_text({}, shards.METADATA))
    return Arrays(choices, layout.specs, rest + head, head, told, limit=limit)


def npz_parts(choices: Choices, source: Checkpoint, exact: Callable[[np.ndarray], int]) -> Parts:
    """.npz: members, each named twice, and a manifest. What is known by its place in the archive has a name of its own.

    Beyond 4 GB the directory has wider numbers; how many of them depends on the order.
    """
    names = [choices.members[spec.name] for spec in choices.specs]
    texts, sizes = [], []
    for row in choices.forms:
        forms = [replace(form, name=STEM) if form else None for form in row]
        texts.append([("," + described(f, MEMBER, npz.BFLOAT16)) if f and f.config else "" for f in forms])
        sizes.append([npz.members_nbytes(form, MEMBER) if form else (0, 0) for form in forms])
    table = np.array(sizes, np.int64).reshape(len(sizes), -1, 2)[choices.group]
    longer = np.array([len(name) for name in names], np.int64)[:, None] - len(MEMBER)
    nbytes = table[..., 0] + 2 * table[..., 1] * longer
    lengths = {
        escaped(STEM): [text_length(spec.name) for spec in choices.specs],
        escaped(MEMBER): [len(name) for name in names],
    }
    nbytes += spelt(texts, choices, lengths)
    return _summed(nbytes, exact)


MEMBER = "\x01"  # in place of a member's name


def onnx_parts(choices: Choices, exact: Callable[[np.ndarray], int]) -> Parts:
    """An ONNX file of tensors alone: initializers, nodes and outputs. The size before them is longer if they are."""

    def adds(t: int, k: int) -> int:
        try:
            piece = onnx.Piece(choices.outgoing(t, k))
        except (QuantlabError, AssertionError, KeyError):  # what the format refuses is not asked for
            return 0
        return sum(map(len, piece.nodes)) + piece.nbytes + len(piece.output)

    return _summed(
        np.array([[adds(t, k) for k in choices.options] for t in range(len(choices.specs))], np.int64), exact
    )


def model_parts(choices: Choices, exact: Callable[[np.ndarray], int]) -> Parts:
    """An ONNX model that is written again: what stands for a weight, or what it is in the model."""
    everything = [replace(choices.outgoing(t, -1), config=_ANY) for t in range(len(choices.specs))]
    outline = rewrite.outlined(everything, choices.checkpoint)

    def adds(t: int, k: int) -> int:
        name = choices.specs[t].name.encode()
        if choices.stored(t, k) is None:
            return outline.spared.get(name, 0)
        try:
            piece = onnx.Piece(choices.outgoing(t, k), outline.weights.get(name))
        except (QuantlabError, AssertionError, KeyError):
            return 0
        return sum(map(len, piece.nodes)) + piece.nbytes

    nbytes = np.array([[adds(t, k) for k in choices.options] for t in range(len(choices.specs))], np.int64)
    # With all weights copied there are no new inputs, which old versions of ONNX want; the size in front has 1 to 5.
    copies = np.full(len(nbytes), -1)
    return Whole(nbytes, exact(copies) - int(nbytes[:, -1].sum()) - 4)


_ANY = QuantConfig()


def _summed(nbytes: np.ndarray, exact: Callable[[np.ndarray], int]) -> Whole:
    """A file whose rest does not shrink where its parts grow: that of its smallest plan is the least."""
    smallest = np.where(nbytes > 0, nbytes, np.iinfo(np.int64).max).argmin(1)
    return Whole(nbytes, exact(smallest) - int(nbytes[np.arange(len(nbytes)), smallest].sum()))


def copy_held(choices: Choices, t: int, format: str) -> None:
    """ExportError for a tensor that a file of a format cannot hold as it is."""
    tensor, source = choices.outgoing(t, -1), choices.checkpoint
    if format == "npz":
        npz.check_copied(tensor, choices.members[tensor.name])
    elif format == "gguf":
        gguf.Target(tensor, source, 0)
    elif format != "onnx":
        safetensors.copied_spec(tensor)
    elif not rewrite.rewrites(source):
        onnx.Piece(tensor)


def described(tensor: Outgoing, prefix: str, bfloat16: str) -> str:
    """What a manifest says of a tensor; "" of what its shape does not allow."""
    try:
        return as_json(entry(tensor, prefix, bfloat16))
    except QuantlabError:
        return ""
