"""Which tensors of a checkpoint get which configuration.

A recipe is a list of rules, each a glob over tensor names and a configuration. Where several match the last one counts,
so a general rule comes first and its exceptions after it::

    int4-sym-g128-mse        every weight
    lm_head*=fp16            but these as fp16
    *.gate.weight=skip       and these not at all
    *.bias=copy              and these as they are
"""

import difflib
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..core.config import PRESETS, QuantConfig
from ..core.granularity import PerChannel
from ..core.tensor import packed_nbytes
from ..errors import ConfigError, QuantlabError
from ..formats.checkpoint import Checkpoint, TensorSpec
from ..sweeping.weights import INTEGERS, SHORT, can_be_taken, is_weight, left_alone, names_of_weights
from ..wording import shown

WEIGHTS = ""  # the pattern for every weight, as `sweeping.weights` knows them
SKIP, COPY = "skip", "copy"  # written in place of a configuration: not in the file, or in it as it is
OWN = "channel"  # written in a slug in place of an axis: channels as the file has them


FIRST = PerChannel(0)


@dataclass(frozen=True)
class Rule:
    """The tensors that a pattern names get a configuration, are copied, or (with neither) are left out.

    The pattern is a glob for the whole name (`*`, `?`, `[abc]`; case counts), a name as it is, or `WEIGHTS`. What is
    no weight, such as biases and norms, is quantized only where a glob names it.

    In place of an axis a slug may say `channel`, and the presets for output channels mean it: along the axis that the
    file knows a tensor's own to be (`TensorSpec.channel_axis`), which `follows` says here; `ch0` is always the first.

    >>> [str(Rule.parse(text)) for text in ("lm_head*=float16", "w4_g32", "*.bias=copy", "w8_channel")]
    ['lm_head*=fp16', 'int4-sym-g32-mse-sfp16', '*.bias=copy', 'int8-sym-channel-minmax-sfp16']
    """

    pattern: str
    config: QuantConfig | None
    copy: bool = False
    follows: bool = False

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """The rule of `GLOB=SLUG`, `GLOB=copy`, `GLOB=skip`, or one of these without a glob. Raises ConfigError."""
        pattern, equals, word = text.rpartition("=")
        config = None if word in (SKIP, COPY) else QuantConfig.parse(word.replace(f"-{OWN}-", f"-{FIRST.slug}-"))
        if equals and not pattern:
            raise ConfigError(f"the rule {shown(text)} has no glob before the =: write *{text} for every tensor")
        if config is None:
            return cls(pattern, None, word == COPY)
        by_name = word in PRESETS and config.granularity == FIRST
        return cls(pattern, config, follows=f"-{OWN}-" in word or by_name)

    @property
    def word(self) -> str:
        """What stands behind the pattern: a slug, `copy` or `skip`."""
        slug = str(self.config) if self.config else COPY if self.copy else SKIP
        return slug.replace(f"-{FIRST.slug}-", f"-{OWN}-") if self.follows else slug

    def config_for(self, spec: TensorSpec) -> QuantConfig | None:
        """The configuration that a tensor gets."""
        if self.config and self.follows and spec.channel_axis:
            return replace(self.config, granularity=PerChannel(spec.channel_axis))
        return self.config

    def __str__(self) -> str:
        return f"{self.pattern}={self.word}" if self.pattern else self.word

    def speaks_of(self, spec: TensorSpec) -> bool:
        """Whether the pattern takes in this tensor."""
        if self.pattern == WEIGHTS:
            return is_weight(spec)
        return matches(spec.name, self.pattern)


@dataclass(frozen=True)
class Item:
    """One tensor and what becomes of it: `config`, or a copy, or neither and the `reason` why.

    `asked` says whether a rule speaks of it; `nbytes` are those in the file, 0 if it is left out. `refused` marks a
    copy of what was to be quantized and cannot be, for the `reason`.
    """

    spec: TensorSpec
    config: QuantConfig | None = None
    nbytes: int = 0
    reason: str = ""
    asked: bool = True
    refused: bool = False

    @property
    def source_nbytes(self) -> int:
        """Bytes of the tensor where it comes from."""
        return self.spec.nbytes


@dataclass(frozen=True)
class Assignment:
    """The tensors of a checkpoint, in its order: those that are quantized, those copied, and those left out.

    `remarks` are sentences about the file to be that its reader should know beforehand.
    """

    taken: tuple[Item, ...]
    copied: tuple[Item, ...]
    left: tuple[Item, ...]
    remarks: tuple[str, ...] = ()

    def changed(self, configs: Mapping[str, QuantConfig]) -> "Assignment":
        """The same with other configurations for the tensors that are named."""
        taken = (
            _taken(item.spec, configs[item.spec.name]) if item.spec.name in configs else item for item in self.taken
        )
        return replace(self, taken=tuple(taken))

    def copying(self, refused: Mapping[str, str]) -> "Assignment":
        """The same with the tensors that are named copied, for the reasons that are given."""
        kept = tuple(_kept(item.spec, refused[item.spec.name]) for item in self.taken if item.spec.name in refused)
        taken = tuple(item for item in self.taken if item.spec.name not in refused)
        return replace(self, taken=taken, copied=self.copied + kept)

    @property
    def refused(self) -> tuple[Item, ...]:
        """What is copied because it cannot be quantized as it was to be."""
        return tuple(item for item in self.copied if item.refused)

    def keeping_all(self) -> "Assignment":
        """The same for a file that keeps whatever is not quantized; `reason` still says why it is not."""
        kept = tuple(replace(item, nbytes=item.spec.nbytes) for item in self.left)
        return replace(self, copied=self.copied + kept, left=())

    @property
    def size(self) -> int:
        """Number of weights that are quantized."""
        return sum(item.spec.size for item in self.taken)

    @property
    def nbytes(self) -> int:
        """Bytes of all quantized tensors."""
        return sum(item.nbytes for item in self.taken)

    @property
    def copied_nbytes(self) -> int:
        """Bytes of all copies."""
        return sum(item.nbytes for item in self.copied)

    @property
    def source_nbytes(self) -> int:
        """Bytes of the tensors that are quantized, where they come from."""
        return sum(item.source_nbytes for item in self.taken)

    @property
    def bits_per_weight(self) -> float:
        """8 * nbytes / weights, of what is quantized."""
        return 8 * self.nbytes / self.size

    @property
    def compression_ratio(self) -> float:
        """Bytes of the source over packed bytes, of what is quantized."""
        return self.source_nbytes / self.nbytes


def matches(name: str, pattern: str) -> bool:
    """Whether a name is the pattern itself, or matches it as a glob. Names may hold brackets: `a[0]` matches `a[0]`."""
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


def assign(checkpoint: Checkpoint, rules: Sequence[Rule], *, copy_refused: bool = False) -> Assignment:
    """What the rules make of every tensor. Nothing is read but the tensors' specs.

    With `copy_refused`, tensors whose shapes do not allow their configuration are copied.

    Raises
    ------
    ConfigError : a pattern that matches no tensor, or nothing left to quantize.
    ShapeError : a configuration that a tensor's shape does not allow; the message names the tensor.
    """
    items = [_item(spec, rules, copy_refused) for spec in _specs(checkpoint, rules)]
    taken = tuple(item for item in items if item.config)
    copied = tuple(item for item in items if not item.config and (item.refused or not item.reason))
    left = tuple(item for item in items if item.reason and not item.refused)
    if not taken:
        if any(rule.pattern == WEIGHTS for rule in rules):
            names_of_weights(checkpoint)  # where there is none, says what there is instead
        meant = [item for item in left if item.asked] or left
        example = f": {shown(meant[0].spec.name)} is {meant[0].reason}" if meant else ""
        raise ConfigError(f"the rules leave no tensor of {checkpoint} to quantize{example}")
    return Assignment(taken, copied, left)


def select(checkpoint: Checkpoint, patterns: Iterable[str]) -> list[str]:
    """The names that match any of the globs, in the checkpoint's order; without a glob, every weight.

    Raises ConfigError for a glob that matches no tensor.
    """
    rules = [Rule(pattern, None) for pattern in patterns]
    specs = _specs(checkpoint, rules)
    if rules:
        return [spec.name for spec in specs if any(rule.speaks_of(spec) for rule in rules)]
    return names_of_weights(checkpoint)


def _specs(checkpoint: Checkpoint, rules: Iterable[Rule]) -> list[TensorSpec]:
    """Every tensor's spec. ConfigError for a rule that speaks of none: a typing error must not go unnoticed."""
    specs = [checkpoint.spec(name) for name in checkpoint.names]
    for rule in rules:
        # A file of embeddings has no weights, and its rules may take them all the same.
        if rule.pattern != WEIGHTS and not any(map(rule.speaks_of, specs)):
            raise ConfigError(nothing_like(rule.pattern, checkpoint))
    return specs


def nothing_like(pattern: str, checkpoint: Checkpoint) -> str:
    """The sentence about a pattern that matches no tensor."""
    close = difflib.get_close_matches(pattern, checkpoint.names[:1000], n=1, cutoff=0.5)
    hint = f": did you mean {shown(close[0])}?" if close else ""
    return f"no tensor of {checkpoint} matches {shown(pattern)}{hint}"


def _item(spec: TensorSpec, rules: Sequence[Rule], copy_refused: bool) -> Item:
    """What becomes of one tensor: the last rule that speaks of it and can be followed decides."""
    asked = [rule for rule in rules if rule.speaks_of(spec)]
    fit = can_be_taken(spec)
    rule = next((rule for rule in reversed(asked) if fit or not rule.config), None)
    if rule is None:
        return Item(spec, reason=_why_left(spec), asked=bool(asked))
    if config := rule.config_for(spec):
        return _taken(spec, config, copy_refused)
    return Item(spec, nbytes=spec.nbytes) if rule.copy else Item(spec, reason="left out by a rule")


def _why_left(spec: TensorSpec) -> str:
    """Why no rule takes a tensor."""
    kind = left_alone(spec)
    if not can_be_taken(spec):
        return f"{spec.dtype}, {kind.one}" if kind is INTEGERS else "empty"
    what = f"{len(spec.shape)}-dimensional" if kind is SHORT else kind.one if kind else "a weight"
    return f"{what}, and not asked for by name"


def _taken(spec: TensorSpec, config: QuantConfig, copy_refused: bool = False) -> Item:
    """A tensor that gets a configuration; its copy where it cannot have it, or the sentence that says so."""
    try:
        return Item(spec, config, packed_nbytes(spec.shape, config))
    except QuantlabError as error:
        why = f"tensor {shown(spec.name)} cannot have {config}: {error}"
        if copy_refused:
            return _kept(spec, why)
        raise type(error)(f"{why}; or leave it out") from error


def _kept(spec: TensorSpec, why: str) -> Item:
    return Item(spec, nbytes=spec.nbytes, reason=why, refused=True)
