"""Pins that are set by clicking: what a plan gives to tensors whatever is best, in as few globs as say it."""

import glob
from collections.abc import Iterable, Mapping, Sequence

from quantlab.planning.wishes import Pin, parse_pin
from quantlab.shipping.recipe import matches
from quantlab.ui import kinds


def given(pins: Iterable[Pin], names: Sequence[str]) -> dict[str, str]:
    """What tensors are pinned to: name -> slug or "copy"; of two pins of one tensor the later.

    >>> given([parse_pin("h.*=fp16"), parse_pin("h.1=copy")], ["h.0", "h.1", "head"])
    {'h.0': 'fp16', 'h.1': 'copy'}
    """
    found: dict[str, str] = {}
    for pin in pins:
        found |= {name: pin.rule.word for name in names if matches(name, pin.pattern)}
    return {name: found[name] for name in names if name in found}


def toggled(pins: Sequence[Pin], names: Sequence[str], chosen: Sequence[str], word: str) -> list[Pin]:
    """Pins after a click: the chosen tensors get `word`; where all of them had it, they are free again.

    Pins of nothing among `names` stay as they are.

    >>> names = ["h.0.up", "h.1.up", "h.0.down"]
    >>> [str(pin) for pin in toggled([], names, names[:2], "fp16")]
    ['h.*.up=fp16']
    >>> [str(pin) for pin in toggled([parse_pin("h.*.up=fp16")], names, ["h.1.up"], "fp16")]
    ['h.0.up=fp16']
    """
    had = given(pins, names)
    free = all(had.get(name) == word for name in chosen)
    now = had | dict.fromkeys(chosen, word)
    return [
        *(pin for pin in pins if not any(matches(name, pin.pattern) for name in names)),
        *said({name: now[name] for name in names if name in now and not (free and name in chosen)}, names),
    ]


def said(choices: Mapping[str, str], names: Sequence[str]) -> list[Pin]:
    """Pins that give these choices, and nothing to the others of `names`: a glob where all of a kind get the same."""
    of_kind: dict[str, set[str | None]] = {}
    for name in names:
        of_kind.setdefault(kinds.kind(name), set()).add(choices.get(name))
    patterns = {}
    for name, word in choices.items():
        kind = kinds.kind(name)
        alike = of_kind[kind] == {word} and all(kinds.kind(other) == kind for other in names if matches(other, kind))
        patterns[kind if alike else glob.escape(name)] = word
    return [parse_pin(f"{pattern}={word}") for pattern, word in patterns.items()]
