"""A plan as JSON that is stable in diffs: the same plan gives the same bytes, and another choice another line."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FORMAT, VERSION = "quantlab-plan", 1


def text_of(content: Mapping[str, Any]) -> str:
    """JSON text: a line for each entry, and in mappings and lists that hold more than a few things for each of theirs.

    Keys of mappings inside are sorted, but for `choices`, which has the order of the model's file.
    """
    whole = {"format": FORMAT, "version": VERSION, **content}
    entries = (f" {_compact(key)}: {_value(value, key == 'choices')}" for key, value in whole.items())
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _value(value: Any, as_it_stands: bool) -> str:
    if isinstance(value, Mapping):
        items = value.items() if as_it_stands else sorted(value.items())
        return _lines("{}", (f"{_compact(key)}: {_compact(item)}" for key, item in items))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _lines("[]", map(_compact, value))
    return _compact(value)


def _lines(brackets: str, items: Iterable[str]) -> str:
    body = ",\n  ".join(items)
    return f"{brackets[0]}\n  {body}\n {brackets[1]}" if body else brackets


def _compact(value: Any) -> str:
    """One line of ASCII, whatever names a file has."""
    return json.dumps(value, allow_nan=False, sort_keys=True)
