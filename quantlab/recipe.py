"""Which tensors of a checkpoint get which configuration.

A recipe is a list of rules, each a glob over tensor names and a configuration. Where several match the last one counts,
so a general rule comes first and its exceptions after it::

    int4-sym-g128-mse        every weight
    lm_head*=fp16            but these as fp16
    *.gate.weight=skip       and these not at all
"""

import difflib
import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .config import QuantConfig
from .errors import ConfigError, QuantlabError
from .formats.base import FLOATS, Checkpoint, TensorSpec
from .formats.files import shown
from .tensor import packed_nbytes

WEIGHTS = ""  # the pattern for every weight: floating point, two dimensions or more
SKIP = "skip"  # written in place of a configuration


@dataclass(frozen=True)
class Rule:
    """The tensors that a pattern names get a configuration; None leaves them out.

    The pattern is a glob for the whole name (`*`, `?`, `[abc]`; case counts), a name as it is, or `WEIGHTS`. Biases and
    norms are small and sensitive: they are quantized only where a glob names them.

    >>> [str(Rule.parse(text)) for text in ("lm_head*=float16", "w4_g32", "*.bias=skip")]
    ['lm_head*=fp16', 'int4-sym-g32-mse-sfp16', '*.bias=skip']
    """

    pattern: str
    config: QuantConfig | None

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """The rule of `GLOB=SLUG`, `GLOB=skip`, or `SLUG` alone for every weight. Raises ConfigError."""
        pattern, _, word = text.rpartition("=")
        return cls(pattern, None if word == SKIP else QuantConfig.parse(word))

    def __str__(self) -> str:
        return f"{self.pattern}={self.config or SKIP}" if self.pattern else str(self.config or SKIP)

    def matches(self, spec: TensorSpec) -> bool:
        """Whether the rule speaks of this tensor."""
        return is_weight(spec) if self.pattern == WEIGHTS else matches(spec.name, self.pattern)


@dataclass(frozen=True)
class Item:
    """One tensor and what becomes of it: `config`, or None and the `reason` why it is left out.

    `rule` is the index of the rule that decided, None if none did; `nbytes` are those of the packed tensor.
    """

    spec: TensorSpec
    config: QuantConfig | None
    rule: int | None
    nbytes: int = 0
    reason: str = ""

    @property
    def source_nbytes(self) -> int:
        """Bytes of the tensor where it comes from."""
        return self.spec.nbytes


@dataclass(frozen=True)
class Assignment:
    """The tensors of a checkpoint, in its order: those that are quantized and those that are left out."""

    taken: tuple[Item, ...]
    left: tuple[Item, ...]

    @property
    def size(self) -> int:
        """Number of weights that are quantized."""
        return sum(item.spec.size for item in self.taken)

    @property
    def nbytes(self) -> int:
        """Bytes of all packed tensors."""
        return sum(item.nbytes for item in self.taken)

    @property
    def source_nbytes(self) -> int:
        """Bytes of the same tensors in their own dtypes."""
        return sum(item.source_nbytes for item in self.taken)

    @property
    def bits_per_weight(self) -> float:
        """8 * nbytes / weights."""
        return 8 * self.nbytes / self.size

    @property
    def compression_ratio(self) -> float:
        """Bytes of the source over packed bytes."""
        return self.source_nbytes / self.nbytes


def is_weight(spec: TensorSpec) -> bool:
    """Whether a tensor is what people quantize: floating point, two dimensions or more, not empty."""
    return spec.dtype in FLOATS and len(spec.shape) >= 2 and spec.size > 0


def matches(name: str, pattern: str) -> bool:
    """Whether a name is the pattern itself, or matches it as a glob. Names may hold brackets: `a[0]` matches `a[0]`."""
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


def assign(checkpoint: Checkpoint, rules: Sequence[Rule]) -> Assignment:
    """What the rules make of every tensor. Nothing is read but the tensors' specs.

    Raises
    ------
    ConfigError : a pattern that matches no tensor, or nothing left to quantize.
    ShapeError : a configuration that a tensor's shape does not allow; the message names the tensor.
    """
    items = [_item(spec, rules) for spec in _specs(checkpoint, rules)]
    taken = tuple(item for item in items if item.config)
    left = tuple(item for item in items if not item.config)
    if not taken:
        meant = [item for item in left if item.rule is not None] or left
        example = f": {shown(meant[0].spec.name)} is {meant[0].reason}" if meant else ""
        raise ConfigError(f"the rules leave no tensor of {checkpoint} to quantize{example}")
    return Assignment(taken, left)


def select(checkpoint: Checkpoint, patterns: Iterable[str]) -> list[str]:
    """The names that match any of the globs, in the checkpoint's order; without a glob, every weight.

    Raises ConfigError for a glob that matches no tensor.
    """
    rules = [Rule(pattern, None) for pattern in patterns] or [Rule(WEIGHTS, None)]
    return [spec.name for spec in _specs(checkpoint, rules) if any(rule.matches(spec) for rule in rules)]


def _specs(checkpoint: Checkpoint, rules: Iterable[Rule]) -> list[TensorSpec]:
    """Every tensor's spec. ConfigError for a rule that speaks of none: a typing error must not go unnoticed."""
    specs = [checkpoint.spec(name) for name in checkpoint.names]
    for rule in rules:
        if not any(map(rule.matches, specs)):
            raise ConfigError(_nothing_like(rule.pattern, checkpoint))
    return specs


def _nothing_like(pattern: str, checkpoint: Checkpoint) -> str:
    """The sentence about a pattern that matches no tensor."""
    if pattern == WEIGHTS:
        return (
            f"{checkpoint} has no floating-point tensor of two dimensions or more, which is what is quantized by "
            "default: name the tensors you mean, or * for all"
        )
    close = difflib.get_close_matches(pattern, checkpoint.names[:1000], n=1, cutoff=0.5)
    hint = f": did you mean {shown(close[0])}?" if close else ""
    return f"no tensor of {checkpoint} matches {shown(pattern)}{hint}"


def _item(spec: TensorSpec, rules: Sequence[Rule]) -> Item:
    """What becomes of one tensor: the last rule that matches decides."""
    rule = max((i for i, rule in enumerate(rules) if rule.matches(spec)), default=None)
    if spec.dtype not in FLOATS:
        return Item(spec, None, rule, reason=f"{spec.dtype}, not floating point")
    if not spec.size:
        return Item(spec, None, rule, reason="empty")
    if rule is None:
        return Item(spec, None, None, reason=f"{len(spec.shape)}-dimensional, and not asked for by name")
    config = rules[rule].config
    if config is None:
        return Item(spec, None, rule, reason="left out by a rule")
    return Item(spec, config, rule, _packed_nbytes(spec, config))


def _packed_nbytes(spec: TensorSpec, config: QuantConfig) -> int:
    try:
        return packed_nbytes(spec.shape, config)
    except QuantlabError as error:
        raise type(error)(f"tensor {shown(spec.name)} cannot have {config}: {error}; or leave it out") from error
