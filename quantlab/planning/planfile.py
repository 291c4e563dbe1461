"""Plans from files: strangers' data until every field is checked, and then against the model that they are for."""

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

from ..core.config import QuantConfig
from ..errors import CheckpointError, LimitError, QuantlabError
from ..formats import Checkpoint
from ..formats.input.files import MAX_NAME, MAX_TENSORS, InputFile
from ..formats.output.manifest import is_text
from ..wording import shown
from .damage import BY_ROLE, EQUAL, MEASURED, OBJECTIVES
from .plan import Plan, PlannedUnit, Step, Uniform
from .planjson import FORMAT, VERSION
from .targets import TARGETS
from .units import COPY, Unit

Value = TypeVar("Value")
Read = Callable[[Any], Value]

MAX_FILE = 64 << 20  # bytes
MOST = 1 << 60  # bytes of a model
MAX_TEXT = 10_000  # characters of a sentence


class _Wrong(ValueError):
    """What a value is not; the message says what it must be."""


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """The plan in a file that `Plan.save` wrote. Everything in it is checked: it may come from anywhere.

    Raises
    ------
    CheckpointError : it is no plan, or contradicts itself; the sentence names the field.
    LimitError : it is larger than plans are.
    """
    with closing(InputFile(path)) as file:
        what = str(file)
        if file.size > MAX_FILE:
            raise LimitError(f"{what} has {file.size:,} bytes, and quantlab reads plans of up to {MAX_FILE:,}")
        data = bytes(file.read(0, file.size))
    content = _json(data, what)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f'{what} is no plan: one is an object with "format": "{FORMAT}"; "quantlab plan" makes it'
        )
    if type(content.get("version")) is not int or content["version"] != VERSION:
        raise CheckpointError(
            f"{what} is a plan of version {shown(content.get('version'))}, and this quantlab reads version {VERSION}: "
            f"use the one that made it, or make the plan again"
        )
    found = _plan(_Fields(content, f"the plan {what}"))
    _check_whole(found, f"the plan {what}")
    return found


def signed_for(plan: Plan, checkpoint: Checkpoint) -> Plan:
    """A plan of this very model, with the model's digest, which one that was never saved may lack.

    Raises CheckpointError as `check_model` does.
    """
    if not plan.source.get("sha256"):
        plan = replace(plan, source={**plan.source, "sha256": checkpoint.sha256()})
    check_model(plan, checkpoint)
    return plan


def check_model(plan: Plan, checkpoint: Checkpoint) -> None:
    """CheckpointError unless a plan is for this very model. Names are compared first, then the digest of its files."""
    made_for = f"the plan is for {shown(str(plan.source['name']))}"
    known, ours = {*plan.choices, *plan.kept}, set(checkpoint.names)
    if known != ours:
        name = min(known ^ ours)
        where = f"{checkpoint} has no tensor {shown(name)}" if name in known else f"{checkpoint} also has {shown(name)}"
        raise CheckpointError(f"{made_for}, and {where}: give that model, or make a plan of this one")
    if checkpoint.sha256() != plan.source["sha256"]:
        raise CheckpointError(
            f"{made_for}, whose tensors have the same names, and {checkpoint} holds other bytes, so it is another "
            f"version: give that one, or make a plan of this one"
        )


def _json(data: bytes, what: str) -> Any:
    try:
        return json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse)
    # UnicodeDecodeError, JSONDecodeError and integers of more than 4300 digits are ValueErrors.
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} is not valid JSON: {str(error)[:100]}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def _refuse(token: str) -> NoReturn:
    raise ValueError(f"{token} is not a number")


# -- values


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or not is_text(value):
        raise _Wrong(f"text of up to {MAX_TEXT:,} characters")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME or not is_text(value):
        raise _Wrong(f"a name of up to {MAX_NAME} characters")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("true or false")
    return value


def _bytes(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MOST:
        raise _Wrong("a number of bytes")
    return value


def _change(value: Any) -> int:
    if type(value) is not int or not -MOST <= value <= MOST:
        raise _Wrong("a number of bytes")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise _Wrong("a finite number")
    return float(value)


def _positive(value: Any) -> float:
    if _number(value) < 0:
        raise _Wrong("a number from 0 up")
    return float(value)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_TENSORS:
        raise _Wrong(f"a whole number from 0 to {MAX_TENSORS:,}")
    return value


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise _Wrong("64 hexadecimal digits")
    return value


def _one_of(*legal: str) -> Read[str]:
    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in legal:
            raise _Wrong(f"one of {', '.join(legal)}")
        return value

    return read


class _Slugs:
    """Choices: "copy", or a slug that is written as quantlab writes it. Each is parsed once."""

    def __init__(self) -> None:
        self._known = {COPY}

    def __call__(self, value: Any) -> str:
        if not isinstance(value, str):
            raise _Wrong(f'a configuration such as int4-sym-g128-mse, or "{COPY}"')
        if value not in self._known:
            try:
                config = QuantConfig.parse(value)
            except QuantlabError as error:
                raise _Wrong(f'a configuration, or "{COPY}": {error}') from error
            if config.slug != value:
                raise _Wrong(f"a configuration by its slug, {config.slug}")
            self._known.add(value)
        return value


def _maybe(read: Read[Value]) -> Read[Value | None]:
    return lambda value: None if value is None else read(value)


def _list(read: Read[Value], most: int = MAX_TENSORS) -> Read[tuple[Value, ...]]:
    def each(value: Any) -> tuple[Value, ...]:
        if not isinstance(value, list) or len(value) > most:
            raise _Wrong(f"a list of at most {most:,}")
        return tuple(map(read, value))

    return each


def _mapping(read: Read[Value], most: int = MAX_TENSORS, key: Read[str] = _name) -> Read[dict[str, Value]]:
    def each(value: Any) -> dict[str, Value]:
        if not isinstance(value, dict) or len(value) > most:
            raise _Wrong(f"an object of at most {most:,} entries")
        return {key(name): read(item) for name, item in value.items()}

    return each


class _Fields:
    """An object of a plan: every field is asked for once, and there must be no other."""

    def __init__(self, content: Any, what: str) -> None:
        if not isinstance(content, dict):
            raise CheckpointError(f"{what} is {shown(content)}: it must be an object")
        self._content, self._what, self._asked = content, what, {"format", "version"}

    def __call__(self, name: str, read: Read[Value]) -> Value:
        self._asked.add(name)
        if name not in self._content:
            raise CheckpointError(f"{self._what} lacks {shown(name)}: make the plan again")
        value = self._content[name]
        try:
            return read(value)
        except _Wrong as wrong:
            raise CheckpointError(f"{self._what} has {shown(value)} as {shown(name)}: it must be {wrong}") from wrong

    def end(self) -> None:
        """Nothing else may be there."""
        if unknown := self._content.keys() - self._asked:
            raise CheckpointError(f"{self._what} has {shown(min(unknown))}, which no plan of version {VERSION} has")


# -- a plan


def _plan(fields: _Fields) -> Plan:
    slugs, objectives = _Slugs(), _one_of(*OBJECTIVES)
    damages = _mapping(_positive, len(OBJECTIVES), objectives)
    uniform = _maybe(lambda value: _uniform(value, slugs, damages))
    units = fields("units", _list(lambda value: _unit(value, slugs)))
    found = Plan(
        choices=fields("choices", _mapping(slugs)),
        nbytes=fields("nbytes", _bytes),
        damage=fields("damage", _positive),
        bound=fields("bound", _number),
        gap=fields("gap", _positive),
        target=fields("target", _one_of(*TARGETS)),
        format=fields("file_format", _one_of(*{name: None for t in TARGETS.values() for name in t.formats})),
        objective=fields("objective", objectives),
        weighting=fields("weighting", _one_of(MEASURED, BY_ROLE, EQUAL)),
        importance=fields("importance", _flag),
        weights={unit.unit.name: unit.weight for unit in units},
        damages=fields("damages", damages),
        budget=fields("budget", _text),
        limit=fields("limit", _bytes),
        bits_per_weight=fields("bits_per_weight", _number),
        units=units,
        kept=fields("kept", _list(_name)),
        uniform=fields("uniform", uniform),
        above=fields("above", uniform),
        source=fields("source", _source),
        versions=fields("versions", _mapping(_text, 10)),
    )
    fields.end()
    return found


def _source(value: Any) -> Mapping[str, str | int]:
    fields = _Fields(value, "the source")
    found: dict[str, str | int] = {}
    found |= {"name": fields("name", _text), "sha256": fields("sha256", _digest), "tensors": fields("tensors", _count)}
    fields.end()
    return found


def _unit(value: Any, slugs: Read[str]) -> PlannedUnit:
    fields = _Fields(value, "a unit")
    step = _maybe(lambda value: _step(value, slugs))
    found = PlannedUnit(
        unit=Unit(fields("name", _name), fields("members", _list(_name)), fields("reason", _text)),
        choice=fields("choice", slugs),
        nbytes=fields("nbytes", _bytes),
        damage=fields("damage", _positive),
        weight=fields("weight", _positive),
        low=fields("low", _maybe(_change)),
        high=fields("high", _maybe(_change)),
        up=fields("up", step),
        down=fields("down", step),
        pinned=fields("pinned", _text),
    )
    fields.end()
    return found


def _step(value: Any, slugs: Read[str]) -> Step:
    fields = _Fields(value, "a step")
    found = Step(fields("choice", slugs), fields("nbytes", _change), fields("damage", _number))
    fields.end()
    return found


def _uniform(value: Any, slugs: Read[str], damages: Read[dict[str, float]]) -> Uniform:
    fields = _Fields(value, "a uniform configuration")
    found = Uniform(
        fields("config", slugs),
        fields("nbytes", _bytes),
        fields("damage", _positive),
        fields("copied", _count),
        fields("damages", damages),
    )
    fields.end()
    return found


def _check_whole(plan: Plan, what: str) -> None:
    """CheckpointError where a plan contradicts itself."""
    members = [name for unit in plan.units for name in unit.unit.members]
    if sorted(members) != sorted(plan.choices) or any(name in plan.choices for name in plan.kept):
        raise CheckpointError(f"{what} contradicts itself: its units are not of the tensors that it chooses for")
    for unit in plan.units:
        if any(plan.choices[name] != unit.choice for name in unit.unit.members):
            raise CheckpointError(f"{what} contradicts itself: {shown(unit.unit.name)} has two choices")
    if len(plan.choices) + len(plan.kept) != plan.source["tensors"]:
        raise CheckpointError(f"{what} contradicts itself: it does not speak of all tensors of its model")
    if plan.format not in TARGETS[plan.target].formats:
        raise CheckpointError(f"{what} contradicts itself: {plan.target} does not load {plan.format}")
    if plan.objective not in plan.damages:
        raise CheckpointError(f"{what} contradicts itself: it has no damage under its own objective")
    if wrong := _wrong_claim(plan):
        raise CheckpointError(f"{what} contradicts itself: {wrong}; make the plan again")


def _wrong_claim(plan: Plan) -> str:
    """What a plan says of its own goodness that its other figures deny; "". Reports and pages repeat such claims."""
    each = [unit.damage for unit in plan.units]
    total = max(each, default=0.0) if OBJECTIVES[plan.objective].largest else math.fsum(each)
    if plan.damages[plan.objective] != plan.damage:
        return f"its damage is {plan.damage:.6g}, and {plan.damages[plan.objective]:.6g} under the same objective"
    # Numbers are written with all their digits, so that sums come out the same; the margin is for other versions' sums.
    if not math.isclose(total, plan.damage, rel_tol=1e-9):
        return f"its damage is {plan.damage:.6g}, and its units come to {total:.6g}"
    if plan.nbytes > plan.limit:
        return f"it has {plan.nbytes:,} bytes, and is for {plan.limit:,}"
    if plan.bound > plan.damage:
        return f"its damage is {plan.damage:.6g}, and no plan can be below {plan.bound:.6g}"
    if not math.isclose(plan.damage - plan.bound, plan.gap, rel_tol=1e-6, abs_tol=1e-12 * plan.damage):
        return f"its gap is {plan.gap:.6g}, and from its bound to its damage it is {plan.damage - plan.bound:.6g}"
    return ""
