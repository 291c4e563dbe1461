"""Which tensors of a checkpoint are its weights: the one answer that sweeps, exports and the app start from.

A weight is floating-point, of two dimensions or more, and none of what quantizers leave alone by habit: `left_alone`
says which and why. Whatever holds floats can still be taken by naming it.
"""

import fnmatch
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..core.arrays import FLOATS
from ..errors import ConfigError
from ..formats.checkpoint import Checkpoint, TensorSpec
from ..wording import shown

DEFINITION = (
    "every floating-point tensor of two dimensions or more but norms, biases, embeddings, what an optimizer keeps, "
    "vectors in disguise (1x64x1x1), and what lies in a branch of an ONNX graph"
)


class Kind(NamedTuple):
    """What a tensor is in place of a weight: of one, and of several behind their number."""

    one: str
    many: str


INTEGERS = Kind("not floating point", "without floating-point values")
EMPTY = Kind("empty", "empty")
SHORT = Kind("of fewer than two dimensions", "of fewer than two dimensions")
SINGLE = Kind("a single value", "single values")
VECTOR = Kind("a vector, all of its lengths but one being 1", "vectors, all of their lengths but one being 1")
OPTIMIZER = Kind("an optimizer's state", "of an optimizer's state")
EMBEDDING = Kind("an embedding", "embeddings")

# Compared with the lower-case name. Small, or felt by the whole model.
BY_NAME = {
    "*norm*": Kind("a norm", "norms"),
    "*bias": Kind("a bias", "biases"),
    "*embed*": EMBEDDING,
    "*wte.weight": EMBEDDING,
}
# A part of a path such as optimizer.state.0.exp_avg, optimizer_weights/adam/m or generator_optim; not "optimus".
_OPTIMIZER_PART = re.compile(r"(?:^|_)optim(?:i[sz]er)?s?(?:$|_|\d)|^opt_state$")
# What torch.optim keeps of every parameter, by names that nothing else has: an optimizer's file alone has no such part.
_MOMENTS = re.compile(
    r"(?:max_)?exp_avg(?:_sq)?(?:_row|_col)?|exp_inf|momentum_buffer|square_avg|grad_avg|acc_delta",
)
# A layer of one output, [1, in], is as much a vector as a reshaped bias is; its name tells them apart.
_MULTIPLIED = frozenset({"weight", "kernel"})


def left_alone(spec: TensorSpec) -> Kind | None:
    """What a tensor is if it is no weight by default; None if it is one.

    Copies of weights that training averages (EMA) are weights: they are what is shipped, and often alone in a file.
    """
    parts = re.split(r"[./]", spec.name.lower())
    if spec.dtype not in FLOATS:
        return INTEGERS
    if not spec.size:
        return EMPTY
    if spec.aside:
        return Kind(spec.aside, spec.aside)
    if _MOMENTS.fullmatch(parts[-1]) or any(map(_OPTIMIZER_PART.search, parts)):
        return OPTIMIZER
    if len(spec.shape) < 2:
        return SHORT
    if named := next((kind for glob, kind in BY_NAME.items() if fnmatch.fnmatchcase(spec.name.lower(), glob)), None):
        return named
    if spec.size == 1:
        return SINGLE
    is_vector = spec.size == max(spec.shape) and not (spec.multiplied or parts[-1] in _MULTIPLIED)
    return VECTOR if is_vector else None


def is_weight(spec: TensorSpec) -> bool:
    """Whether a tensor is one of the weights of its checkpoint, which are taken where nothing is named."""
    return left_alone(spec) is None


def can_be_taken(spec: TensorSpec) -> bool:
    """Whether a tensor can be quantized at all, as far as its file says: it has floats."""
    return spec.dtype in FLOATS and spec.size > 0


@dataclass(frozen=True)
class Weights:
    """The weights of a checkpoint.

    Attributes
    ----------
    names : of the weights, in the file's order.
    left : the other tensors and what they are.
    """

    names: Sequence[str]
    left: dict[str, Kind]

    def told(self) -> str:
        """How many tensors are left alone, and why; "" where none is.

        >>> Weights((), {"a.bias": SHORT, "steps": INTEGERS, "b.bias": SHORT}).told()
        '2 of fewer than two dimensions, 1 not floating point'
        """
        counts = Counter(self.left.values())
        return ", ".join(f"{n:,} {kind.many if n > 1 else _without_article(kind.one)}" for kind, n in counts.items())


def _without_article(what: str) -> str:
    return re.sub(r"^an? ", "", what)


def weights_of(checkpoint: Checkpoint) -> Weights:
    """The weights of a checkpoint, and what its other tensors are. Nothing is read but the tensors' specs."""
    kinds = {name: left_alone(checkpoint.spec(name)) for name in checkpoint.names}
    return Weights([name for name, kind in kinds.items() if not kind], {n: kind for n, kind in kinds.items() if kind})


def names_of_weights(checkpoint: Checkpoint) -> list[str]:
    """The names of the weights. ConfigError, which says what there is instead, if there is none."""
    found = weights_of(checkpoint)
    if not found.names:
        raise ConfigError(why_none(checkpoint, found))
    return list(found.names)


def why_none(checkpoint: Checkpoint, found: Weights) -> str:
    """The sentence about a checkpoint without weights: what it has instead, and the way out."""
    specs = [checkpoint.spec(name) for name in found.left]
    largest = max(filter(can_be_taken, specs), key=lambda spec: spec.size, default=None)
    if largest is None:
        return f"{checkpoint} has no floating-point values, and only those are quantized: open another file"
    return (
        f"{checkpoint} has no weights that are taken unasked, but {found.told()}: name what you mean, such as "
        f"{shown(largest.name)}, or * for all"
    )


def channel_axes(checkpoint: Checkpoint) -> list[int]:
    """The axes along which output channels of the weights lie, as the file knows or PyTorch has them; [0] of none."""
    return sorted({spec.channel_axis for spec in _specs(checkpoint) if is_weight(spec)}) or [0]


def _specs(checkpoint: Checkpoint) -> Iterable[TensorSpec]:
    return map(checkpoint.spec, checkpoint.names)
