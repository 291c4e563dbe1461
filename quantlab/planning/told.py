"""What a config.json says of a plan, in bytes."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..formats.output.layout import Layout
from ..formats.output.outgoing import Outgoing
from ..formats.safetensors import shards
from ..formats.safetensors.compressed_tensors import TIED
from ..formats.safetensors.model import SUFFIX
from .choices import STEM, Case, Choices

_HEADS = TIED.removeprefix("re:")


class Told:
    """What a config.json says of a quantization, in lines: some for each tensor, some for each scheme that is used.

    Attributes
    ----------
    lines : int64 [T, K + 1]; bytes of the lines about one tensor where several schemes are used.
    schemes : int64 [T, K + 1]; the scheme of each option; -1 of a copy.
    """

    def __init__(self, choices: Choices, layout: Layout, config: Mapping[str, Any]) -> None:
        assert layout.settings is not None
        self._choices, self._settings, self._config = choices, layout.settings, dict(config)
        said = [[self._said(form) for form in row] for row in choices.forms]
        places = {text: at for at, text in enumerate(dict.fromkeys(text for row in said for text in row if text))}
        each = [list(zip(row, texts, strict=True)) for row, texts in zip(choices.forms, said, strict=True)]
        self._forms = {places[text]: form for row in each for form, text in row if form and text}
        table = np.array([[places.get(text, -1) for text in row] for row in said], np.int64)
        self.schemes = table.reshape(len(said), -1)[choices.group]
        lines = np.array([[self._line(form, places.get(text, -1)) for form, text in row] for row in each], np.int64)
        lines = lines.reshape(len(said), -1)[choices.group]
        longer = np.array([len(json.dumps(stem)) - len(json.dumps(STEM)) for stem in choices.stems], np.int64)
        self.lines = lines + np.where(lines > 0, longer[:, None], 0)
        self._first = self._first_differs()
        self._charges = {scheme: self._charge(scheme) for scheme in self._forms}
        self._heads = [t for t, stem in enumerate(choices.stems) if re.match(_HEADS, stem)]
        self._bases: dict[tuple[int, ...], int] = {}
        self._alones: dict[tuple[int, ...], int] = {}

    def _text(self, tensors: Sequence[Outgoing]) -> int:
        return len(shards.json_bytes({**self._config, **self._settings(list(tensors), self._config)}))

    def _said(self, form: Outgoing | None) -> str:
        """What is said of a tensor that is alone: the same of those that share a scheme; "" of a copy."""
        if form is None or form.config is None:
            return ""
        return json.dumps(self._settings([replace(form, name=STEM + SUFFIX)], self._config))

    def _line(self, form: Outgoing | None, scheme: int) -> int:
        """Bytes that one more such tensor adds where another one, and one of another scheme, are there already."""
        other = next((f for s, f in self._forms.items() if s != scheme), None)
        if form is None or other is None:  # what all share is said once
            return 0
        kind = form.name.removeprefix(STEM)
        before = [replace(other, name="a" + SUFFIX), *(replace(form, name=stem + kind) for stem in "bc")]
        return self._text([*before, form]) - self._text(before)

    def _first_differs(self) -> int:
        """By how many bytes it can matter which scheme comes first."""
        names = ["a" + SUFFIX, "b" + SUFFIX]
        pairs = [
            self._text([replace(form, name=name) for form, name in zip((one, two), names, strict=True)])
            - self._text([replace(form, name=name) for form, name in zip((two, one), names, strict=True)])
            for one in self._forms.values()
            for two in self._forms.values()
            if one is not two
        ]
        return max(pairs, default=0)

    def _charge(self, scheme: int) -> int:
        """Bytes that a scheme takes once, where several are there already."""
        others = [form for s, form in self._forms.items() if s != scheme]
        before = [replace(others[at % len(others)], name="ab"[at] + SUFFIX) for at in range(2)] if others else []
        form = replace(self._forms[scheme], name="c" + SUFFIX)
        return self._text([*before, form]) - self._text(before) - self._line(replace(form, name=STEM + SUFFIX), scheme)

    def least(self, allowed: np.ndarray, case: Case) -> int:
        """Bytes of config.json beyond `lines`, at least: whatever else is chosen adds its lines, and maybe a scheme."""
        used = case.used | {int(s) for s in np.unique(self.schemes[(allowed.sum(1) == 1)[:, None] & allowed]) if s >= 0}
        heads = [t for t in self._heads if allowed[t, :-1].any()]
        certain = tuple(t for t in heads if not allowed[t, -1])
        spare = self._first + (2 * len(TIED) + 100 if len(certain) < len(heads) else 0)
        spare += sum(int(self.lines[t, -1]) for t in self._heads if t not in heads)  # what is copied is named once
        if case.several or len(used) > 1:
            return self._base(certain) + sum(self._charges[s] for s in used) - spare
        # All may be of one scheme, and then no tensor is named.
        named = np.where(allowed & (self.schemes >= 0), self.lines, 0).max(1, initial=0)
        return self._alone(certain, used) - int(named.sum()) - spare

    def _base(self, heads: tuple[int, ...]) -> int:
        """Bytes of config.json where several schemes are used, less those of schemes and of planned tensors."""
        if heads not in self._bases:
            found = [(replace(f, name=n + SUFFIX), s) for (s, f), n in zip(self._forms.items(), "ab", strict=False)]
            lines = sum(
                self._line(replace(form, name=STEM + SUFFIX), s) + 3 - len(json.dumps(STEM)) for form, s in found
            )
            for t in heads:
                k = int((self.schemes[t] >= 0).argmax())
                found.append((self._choices.outgoing(t, k), int(self.schemes[t, k])))
                lines += int(self.lines[t, k])
            charges = sum(self._charges[s] for s in {s for _, s in found})
            self._bases[heads] = self._text([*(form for form, _ in found), *self._choices.others]) - lines - charges
        return self._bases[heads]

    def _alone(self, heads: tuple[int, ...], used: frozenset[int]) -> int:
        """Bytes of config.json where one scheme is used, or none; without the lines of planned tensors."""
        key = (*heads, *used)
        if key not in self._alones:
            forms = [replace(self._forms[s], name="a" + SUFFIX) for s in used]
            # With several schemes a name may stand where all are meant otherwise, and may be shorter.
            self._alones[key] = self._text([*forms, *self._choices.others]) - (16 if len(self._forms) > 1 else 0)
            if heads:
                self._alones[key] -= 2 * len(TIED) + 100
        return self._alones[key]
