"""What a user wants of a plan whatever is optimal: tensors that are given their choice, tied, or kept above a floor.

Written as on the command line::

    pin    lm_head*=int8-sym-ch0-mse   *.o_proj.weight=copy
    tie    *.experts.*
    floor  *v_proj*>=int4   sqnr>=20   *down_proj*:sqnr>=25
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..core.config import QuantConfig
from ..core.dtypes import DTYPES
from ..errors import ConfigError
from ..formats.checkpoint import Checkpoint, TensorSpec
from ..shipping.recipe import Rule, matches, nothing_like
from ..sweeping.weights import left_alone
from ..wording import counted, shown
from .units import COPY, Unit

_SQNR = re.compile(r"(?:(?P<pattern>.+):)?sqnr>=(?P<least>[^:>]*)")

# (tensor, configuration) -> why the target cannot load it so; "" if it can. The same of a copy.
Refuses = Callable[[TensorSpec, QuantConfig], str]
Must = Callable[[TensorSpec], str]


@dataclass(frozen=True)
class Pin:
    """Tensors that get one choice: `rule` says which and what, as in a recipe."""

    rule: Rule

    @property
    def pattern(self) -> str:
        """The glob."""
        return self.rule.pattern

    def choice(self, spec: TensorSpec) -> str:
        """What it gives to a tensor: a slug, or "copy"."""
        config = self.rule.config_for(spec)
        return str(config) if config else COPY

    def __str__(self) -> str:
        return str(self.rule)


@dataclass(frozen=True)
class Tie:
    """Tensors that share one choice."""

    pattern: str

    def __str__(self) -> str:
        return self.pattern


@dataclass(frozen=True)
class Floor:
    """The least that tensors must have: a number format, by its bits, or decibels of signal to noise.

    Attributes
    ----------
    pattern : a glob; "*" where none was given.
    dtype : of `DTYPES`; "" for a floor of `sqnr_db`.
    """

    pattern: str
    dtype: str = ""
    sqnr_db: float = -math.inf

    def allows(self, config: QuantConfig, sqnr_db: float) -> bool:
        """Whether a tensor may have a configuration that leaves it so many decibels. A copy is always allowed."""
        if self.dtype:
            return self.allows_bits(config)
        return sqnr_db >= self.sqnr_db

    def allows_bits(self, config: QuantConfig) -> bool:
        """Whether the bits of a configuration are enough; True for a floor of decibels."""
        return not self.dtype or config.codec.bits >= QuantConfig(dtype=self.dtype).codec.bits

    def __str__(self) -> str:
        least = f"sqnr>={self.sqnr_db:g}"
        return (
            f"{self.pattern}>={self.dtype}"
            if self.dtype
            else least
            if self.pattern == "*"
            else f"{self.pattern}:{least}"
        )


@dataclass(frozen=True)
class Pinned:
    """What a unit has been given, and by which wish, in a sentence."""

    choice: str
    reason: str


def parse_pin(text: str) -> Pin:
    """The pin of `GLOB=SLUG` or `GLOB=copy`. Raises ConfigError."""
    rule = Rule.parse(text) if "=" in text and text.rpartition("=")[2] != "skip" else None
    if rule is None or not rule.pattern:
        raise ConfigError(
            f"the pin {shown(text)} does not say what a tensor gets: write GLOB=SLUG or GLOB=copy, such as "
            f"'lm_head*=int8-sym-ch0-mse'"
        )
    return Pin(rule)


def parse_tie(text: str) -> Tie:
    """The tie of a glob. Raises ConfigError for an empty one."""
    if not text:
        raise ConfigError("a tie is a glob over the names of tensors, such as '*.experts.*', and this is empty")
    return Tie(text)


def parse_floor(text: str) -> Floor:
    """The floor of `GLOB>=DTYPE`, `sqnr>=DECIBELS` or `GLOB:sqnr>=DECIBELS`. Raises ConfigError."""
    if found := _SQNR.fullmatch(text):
        least = _decibels(found["least"])
        if math.isfinite(least):
            return Floor(found["pattern"] or "*", sqnr_db=least)
    pattern, least_dtype = text.rpartition(">=")[::2]
    if not found and pattern and least_dtype in DTYPES:
        return Floor(pattern, least_dtype)
    raise ConfigError(
        f"the floor {shown(text)} is none: write GLOB>=DTYPE such as '*v_proj*>=int4', sqnr>=20 for decibels of every "
        f"tensor, or GLOB:sqnr>=20"
    )


def _decibels(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def check_patterns(patterns: Iterable[str], names: Sequence[str], checkpoint: Checkpoint) -> None:
    """ConfigError for a glob that takes in none of the tensors that a plan decides on: a typing error must be seen."""
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            raise ConfigError(_nothing(pattern, checkpoint))


def _nothing(pattern: str, checkpoint: Checkpoint) -> str:
    """The sentence about a glob that matches no weight: what it matches instead, or what may have been meant."""
    others = [name for name in checkpoint.names if matches(name, pattern)]
    if not others:
        return nothing_like(pattern, checkpoint)
    kind = left_alone(checkpoint.spec(others[0]))
    what = f"{shown(others[0])} is {kind.one}" if kind else f"such as {shown(others[0])}"
    return (
        f"{shown(pattern)} takes in {counted(len(others), 'tensor')} of {checkpoint} that a plan keeps as they are: "
        f"{what}; name weights"
    )


def pinned(
    units: Sequence[Unit],
    pins: Sequence[Pin],
    floors: Sequence[Floor],
    checkpoint: Checkpoint,
    refuses: Refuses,
    must: Must = lambda spec: "",
) -> Mapping[str, Pinned]:
    """What units are given, by their names; the members of a unit share what any of them is given.

    Raises
    ------
    ConfigError : a glob that takes in no weight, two pins of one unit that differ, a pin below a floor of bits, or one
        that the target refuses for a member. Floors of decibels need the sweep, and are not asked here.
    """
    names = [name for unit in units for name in unit.members]
    check_patterns([pin.pattern for pin in pins] + [floor.pattern for floor in floors], names, checkpoint)
    found: dict[str, Pinned] = {}
    for unit in units:
        asked = [(pin, name) for pin in pins for name in unit.members if matches(name, pin.pattern)]
        choices = {pin.choice(checkpoint.spec(name)): (pin, name) for pin, name in asked}
        if not choices:
            continue
        if len(choices) > 1:
            raise ConfigError(_differ(unit, *list(choices.items())[:2]))
        ((choice, (pin, _)),) = choices.items()
        if choice != COPY:
            _check(unit, pin, QuantConfig.parse(choice), floors, checkpoint, refuses)
        elif why := next(filter(None, (must(checkpoint.spec(name)) for name in unit.members)), ""):
            raise ConfigError(f"the pin {shown(str(pin))} cannot be: {why}")
        found[unit.name] = Pinned(choice, f"pinned by you: {pin}")
    return found


def _differ(unit: Unit, one: tuple[str, tuple[Pin, str]], other: tuple[str, tuple[Pin, str]]) -> str:
    (choice, (pin, name)), (second, (second_pin, second_name)) = one, other
    if name == second_name:
        return f"the pins {shown(str(pin))} and {shown(str(second_pin))} give {shown(name)} two choices: take one away"
    return (
        f"the pins {shown(str(pin))} and {shown(str(second_pin))} give {shown(name)} {choice} and {shown(second_name)} "
        f"{second}, which share one choice ({unit.reason}): pin them alike"
    )


def _check(
    unit: Unit, pin: Pin, config: QuantConfig, floors: Sequence[Floor], checkpoint: Checkpoint, refuses: Refuses
) -> None:
    for name in unit.members:
        for floor in floors:
            if matches(name, floor.pattern) and not floor.allows_bits(config):
                raise ConfigError(
                    f"the pin {shown(str(pin))} is below the floor {shown(str(floor))} of {shown(name)}: take one away"
                )
        if why := refuses(checkpoint.spec(name), config):
            raise ConfigError(f"the pin {shown(str(pin))} cannot be: {shown(name)} as {config}: {why}")
