"""Files of named arrays behind a JSON header, as safetensors has them: one, or shards and their index."""

import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..core.tensor import PartSpec
from ..errors import QuantlabError
from ..formats.output.outgoing import Outgoing
from ..formats.safetensors import file as safetensors
from ..formats.safetensors import shards
from .choices import STEM, Case, Choices, escaped, spelt, text_length
from .told import Told

MOST = np.iinfo(np.int64).max
SHARD = ': "model-00001-of-00002.safetensors"'  # what an index says of an array


class Cut(NamedTuple):
    """The shard of every tensor of a file, in its order, -1 where it is not known; and how many there are at least."""

    shard: np.ndarray
    shards: int


class Arrays:
    """A file of named arrays, and a config.json that speaks of them.

    In the header stand places, which have more digits further back; its end is padded to eight bytes. Both depend on
    all choices together, and so do the groups of a config.json, and where a model is cut into shards.

    Parameters
    ----------
    rest : bytes besides. head : of them, those of a header without tensors, of which each shard has one.
    said : what a manifest in the header says of a quantized tensor, as it stands there; "" without one.
    limit : bytes that a shard holds; None for a file that is never cut.
    """

    def __init__(
        self,
        choices: Choices,
        specs_of: Callable[[Outgoing], dict[str, PartSpec]],
        rest: int,
        head: int = 0,
        told: Told | None = None,
        said: Callable[[Outgoing], str] = lambda tensor: "",
        limit: int | None = None,
    ) -> None:
        self._choices, self._told, self._head, self._limit = choices, told, head, limit
        self._slots: dict[tuple[int, str], int] = {}
        tables = [[self._arrays(tensor, specs_of) if tensor else [] for tensor in row] for row in choices.forms]
        shape = (len(tables), len(tables[0]) if tables else 0, len(self._slots))
        self._data, self._there = np.zeros(shape, np.int64), np.zeros(shape, bool)
        text, lines = np.zeros(shape[:2], np.int64), np.zeros(shape[:2], np.int64)
        for g, row in enumerate(tables):
            for k, arrays in enumerate(row):
                for slot, nbytes, length, line in arrays:
                    self._data[g, k, slot] += nbytes
                    self._there[g, k, slot] = True
                    text[g, k] += length
                    lines[g, k] += line
        group, often = choices.group, self._there.sum(2)
        names = np.array([text_length(stem) for stem in choices.stems], np.int64)
        ascii_ = np.array([len(json.dumps(stem)) - len(json.dumps(STEM)) for stem in choices.stems], np.int64)
        self.nbytes = (self._data.sum(2) + text)[group] + often[group] * names[:, None]
        if told:
            self.nbytes += told.lines
        texts = [[said(form) if form and form.config else "" for form in row] for row in choices.forms]
        self.nbytes += spelt(
            texts, choices, {escaped(escaped(STEM)): [text_length(escaped(stem)) for stem in choices.stems]}
        )
        self._index = lines[group] + often[group] * ascii_[:, None]  # lines of an index, if there is one
        forms = [[form.nbytes if form else 0 for form in row] for row in choices.forms]
        self._packed = np.array(forms, np.int64).reshape(len(forms), -1)[group]
        self._others = safetensors.all_specs(choices.others, specs_of)
        self._rest = rest + sum(entry_length(name, spec) + spec.nbytes for name, spec in self._others.items())
        self._order = self._places()
        self.schemes = told.schemes if told else np.full(self.nbytes.shape, -1)

    def _arrays(
        self, form: Outgoing, specs_of: Callable[[Outgoing], dict[str, PartSpec]]
    ) -> list[tuple[int, int, int, int]]:
        """(slot, bytes, what the header says of it but for stem and places, line of an index) of each array."""
        try:
            specs = safetensors.copied_spec(form) if form.config is None else specs_of(form)
        except (QuantlabError, AssertionError, ValueError):  # what the layout refuses has no arrays, and is not asked
            return []
        stem, found = text_length(STEM), []
        for name, spec in specs.items():
            slot = self._slots.setdefault((safetensors.rank(spec), name.removeprefix(STEM)), len(self._slots))
            found.append((slot, spec.nbytes, entry_length(name, spec) - stem, line_length(name)))
        return found

    def _places(self) -> np.ndarray:
        """All arrays in the file's order, that of types and names: int64 [arrays, 3].

        Each as (tensor among those that are planned, slot, its place in the source), or (-1, bytes, place).
        """
        places = {name: at for at, name in enumerate(self._choices.checkpoint.names)}
        own = [places[spec.name] for spec in self._choices.specs]
        stems = enumerate(self._choices.stems)
        found = [(-r, stem + end, t, at, own[t]) for t, stem in stems for (r, end), at in self._slots.items()]
        found += [(-safetensors.rank(s), name, -1, s.nbytes, places[name]) for name, s in self._others.items()]
        return np.array([entry[2:] for entry in sorted(found)], np.int64).reshape(-1, 3)

    # -- the least

    def least(self, allowed: np.ndarray, case: Case) -> int:
        """The rest, with every array as near to the beginning as it can be, and no padding."""
        told = self._told.least(allowed, case) if self._told else 0
        sharded = self._sharded(allowed, case)
        single = self._digits(allowed, None) if not sharded else MOST
        return self._rest + told + min(single, self._of_shards(allowed) if sharded is not False else MOST)

    def _sharded(self, allowed: np.ndarray, case: Case) -> bool | None:
        """Whether all of these plans are cut into shards, or none; None if some may be."""
        if self._limit is None or case.sharded is not None:
            return bool(case.sharded)
        others = sum(tensor.nbytes for tensor in self._choices.others)
        least, most = (others + int(each.sum()) for each in self._between(allowed))
        return True if least > self._limit else False if most <= self._limit else None

    @property
    def unsharded(self) -> int | None:
        """What options may add up to at most in a plan that is not cut; None where none is."""
        if self._limit is None or self._sharded(np.ones_like(self.nbytes, bool), Case()) is False:
            return None
        others = sum(tensor.nbytes for tensor in self._choices.others)
        return self._limit - others + int((self.nbytes - self._packed).max(1).sum())

    def _between(self, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The fewest and the most bytes that each tensor counts for a shard: int64 [T] each."""
        return np.where(allowed, self._packed, MOST).min(1), np.where(allowed, self._packed, 0).max(1)

    def _of_shards(self, allowed: np.ndarray) -> int:
        """What shards add to a file: headers, an index, and its places, which begin anew in each."""
        cut = self._cut(allowed)
        index = len(shards.json_bytes({"metadata": {"total_size": 0}, "weight_map": {}})) + 2
        index += sum(map(line_length, self._others)) + int(np.where(allowed, self._index, MOST).min(1).sum())
        return (cut.shards - 1) * self._head + index + self._digits(allowed, cut)

    def _cut(self, allowed: np.ndarray) -> Cut:
        """Where a model is cut, as far as it is the same with the fewest bytes of every tensor and with the most."""
        assert self._limit is not None
        sizes = {tensor.name: (tensor.nbytes, tensor.nbytes) for tensor in self._choices.others}
        least, most = self._between(allowed)
        sizes |= {s.name: (int(a), int(b)) for s, a, b in zip(self._choices.specs, least, most, strict=True)}
        names = self._choices.checkpoint.names
        shard, at = np.full(len(names), -1), 0
        low = high = 0
        for place, name in enumerate(names):
            a, b = sizes[name]
            first = low + a > self._limit
            if first != (high + b > self._limit):
                return Cut(shard, at + 1)
            at, low, high = (at + 1, a, b) if first and place else (at, low + a, high + b)
            shard[place] = at
        return Cut(shard, at + 1)

    def _digits(self, allowed: np.ndarray, cut: Cut | None) -> int:
        """Digits of all places, at least."""
        tensor, what, place = self._order.T
        group, ours = self._choices.group, tensor >= 0
        data = np.zeros((len(group), len(self._slots)), np.int64)
        for slot in range(len(self._slots)):
            data[:, slot] = np.where(allowed, self._data[group, :, slot], MOST).min(1)
        sizes = what.copy()
        sizes[ours] = data[tensor[ours], what[ours]]
        shard = np.zeros(len(place), np.int64) if cut is None else cut.shard[place]
        order = np.argsort(shard, kind="stable")
        ends = np.cumsum(sizes[order])
        firsts = np.searchsorted(shard[order], shard[order])
        ends -= (ends - sizes[order])[firsts]  # places begin anew in every file
        digits = np.empty(len(place), np.int64)
        digits[order] = digits_of(ends - sizes[order]) + digits_of(ends)
        digits[shard < 0] = 2
        table = np.zeros_like(data)
        table[tensor[ours], what[ours]] = digits[ours]
        each = np.einsum("tks,ts->tk", self._there[group], table)
        return int(digits[~ours].sum()) + int(np.where(allowed, each, MOST).min(1).sum())


def entry_length(name: str, spec: PartSpec) -> int:
    """Bytes that the header of a safetensors file has for an array, but for the digits of its two places."""
    nothing = len(safetensors.header_text({}, {}))
    return len(safetensors.header_text({name: spec}, {})) - nothing - len(f"0{spec.nbytes}")


def line_length(name: str) -> int:
    """Bytes that an index has for an array: a comma, a new line, four blanks, its name and the file's."""
    return 6 + len(json.dumps(name)) + len(SHARD)


def digits_of(numbers: np.ndarray) -> np.ndarray:
    """How many decimal digits whole numbers from 0 have: int64 of their shape."""
    return np.maximum(np.searchsorted(10 ** np.arange(19, dtype=np.int64), numbers, "right"), 1)
