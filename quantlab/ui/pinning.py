"""Pins that are set by clicking: what a plan gives to tensors whatever is best, in as few globs as say it."""

import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence

from quantlab.errors import LimitError
from quantlab.planning.wishes import Pin, parse_pin
from quantlab.shipping.recipe import matches
from quantlab.ui import kinds

MOST = 100  # pins: they stand in the link, and browsers take some thousand letters


def given(pins: Iterable[Pin], names: Sequence[str]) -> dict[str, str]:
    """What tensors are pinned to: name -> slug or "copy"; of two pins of one tensor the later.

    >>> given([parse_pin("h.*=fp16"), parse_pin("h.1=copy")], ["h.0", "h.1", "head"])
    {'h.0': 'fp16', 'h.1': 'copy'}
    """
    found: dict[str, str] = {}
    for pin in pins:
        found |= dict.fromkeys(_taken(pin.pattern, names), pin.rule.word)
    return {name: found[name] for name in names if name in found}


def toggled(pins: Sequence[Pin], names: Sequence[str], chosen: Iterable[str], word: str) -> list[Pin]:
    """Pins after a click: the chosen tensors get `word`; where all of them had it, they are free again.

    Pins of nothing among `names` stay as they are. LimitError where it takes more than `MOST` to say it.

    >>> names = ["h.0.up", "h.1.up", "h.0.down"]
    >>> [str(pin) for pin in toggled([], names, names[:2], "fp16")]
    ['h.*.up=fp16']
    >>> [str(pin) for pin in toggled([parse_pin("h.*.up=fp16")], names, ["h.1.up"], "fp16")]
    ['h.0.up=fp16']
    """
    had, clicked = given(pins, names), frozenset(chosen)
    now = had | dict.fromkeys(clicked, word)
    if all(had.get(name) == word for name in clicked):
        now = {name: word for name, word in now.items() if name not in clicked}
    others = [pin for pin in pins if not any(True for _ in _taken(pin.pattern, names))]
    found = [*others, *said({name: now[name] for name in names if name in now}, names)]
    if len(found) > MOST:
        raise LimitError(f"that would be {len(found):,} pins, and a link holds {MOST}: pin whole roles or layers")
    return found


def said(choices: Mapping[str, str], names: Sequence[str]) -> list[Pin]:
    """Pins that give these choices, and nothing to the others of `names`.

    A glob where all of a kind get the same, or all of a kind within a layer; a name elsewhere.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        for pattern in _globs(name):
            groups.setdefault(pattern, []).append(name)
    whole = {pattern: _is_whole(pattern, group, choices, names) for pattern, group in groups.items()}
    patterns = {
        next((pattern for pattern in _globs(name) if whole[pattern]), glob.escape(name)): word
        for name, word in choices.items()
    }
    return [parse_pin(f"{pattern}={word}") for pattern, word in patterns.items()]


def _globs(name: str) -> tuple[str, str]:
    """The kind that a tensor is of, and the same within its layer."""
    return kinds.kind(name), kinds.kind(name, keep=1)


def _is_whole(pattern: str, group: Sequence[str], choices: Mapping[str, str], names: Sequence[str]) -> bool:
    """Whether the tensors of a group all get the same, and the pattern takes in no others."""
    words = {choices.get(name) for name in group}
    if len(group) < 2 or len(words) > 1 or None in words:
        return False
    return sum(1 for _ in _taken(pattern, names)) == len(group)


def _taken(pattern: str, names: Sequence[str]) -> Iterator[str]:
    return (name for name in names if matches(name, pattern))
