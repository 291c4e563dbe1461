"""What one tensor adds to a file of each format, and what the rest of the file is at least."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from ..core.config import QuantConfig
from ..core.tensor import PartSpec, packed_nbytes
from ..errors import QuantlabError
from ..formats.checkpoint import Checkpoint, TensorSpec
from ..formats.gguf import write as gguf
from ..formats.numpy import npz
from ..formats.onnx import rewrite
from ..formats.onnx import write as onnx
from ..formats.output.layout import Layout
from ..formats.output.manifest import as_json, compose, entry
from ..formats.output.outgoing import Outgoing
from ..formats.safetensors import file as safetensors
from ..formats.safetensors import shards
from ..formats.safetensors.beside import read_config
from ..formats.safetensors.compressed_tensors import TIED
from ..formats.safetensors.model import SUFFIX
from ..formats.writing import unhashed
from ..shipping.recipe import Item
from ..shipping.rehearsal import copied, unquantized

_HEADS = TIED.removeprefix("re:")
STEM = "\x00"  # in place of what tells a tensor's name from others


class Choices:
    """The tensors that are planned, and their options, as they go into a file.

    Parameters
    ----------
    stored : (configuration, source's dtype) -> as the file holds it.

    Attributes
    ----------
    group : int64 [T]; tensors of one shape, dtype and kind of name are of one group, and all that a name has to do with
        their sizes is its length.
    forms : [groups][K + 1]; the outgoing tensor of each option, with `STEM` for a name; None where its shape has none.
    stems : names without what all of a group have.
    others : all other tensors of the checkpoint, copied.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        names: Sequence[str],
        configs: Sequence[QuantConfig],
        stored: Callable[[QuantConfig, str], QuantConfig],
    ) -> None:
        self.checkpoint = checkpoint
        self.specs = [checkpoint.spec(name) for name in names]
        self.planned = {name: at for at, name in enumerate(names)}
        self.others = [copied(checkpoint, Item(checkpoint.spec(n))) for n in checkpoint.names if n not in self.planned]
        keys = [(s.name.endswith(SUFFIX), s.shape, s.dtype, s.nbytes) for s in self.specs]
        order = {key: at for at, key in enumerate(dict.fromkeys(keys))}
        self.group = np.array([order[key] for key in keys], np.int64)
        self.stems = [s.name.removesuffix(SUFFIX) for s in self.specs]
        dtypes = {spec.dtype for spec in self.specs}
        self._stored = {dtype: [*(stored(config, dtype) for config in configs), None] for dtype in dtypes}
        self._made: dict[tuple[int, int], Outgoing] = {}
        first = {int(g): spec for g, spec in zip(self.group[::-1], self.specs[::-1], strict=True)}
        self.forms = [self._forms(first[g]) for g in range(len(order))]

    def _forms(self, spec: TensorSpec) -> list[Outgoing | None]:
        named = replace(spec, name=STEM + (SUFFIX if spec.name.endswith(SUFFIX) else ""))
        return [self._outgoing(named, config) for config in self._stored[spec.dtype]]

    def _outgoing(self, spec: TensorSpec, config: QuantConfig | None) -> Outgoing | None:
        if config is None:
            return copied(self.checkpoint, Item(spec))
        try:
            packed_nbytes(spec.shape, config)
        except QuantlabError:
            return None
        return unquantized(Item(spec, config))

    @cached_property
    def members(self) -> dict[str, str]:
        """What every tensor is called in an archive, which has not every name."""
        return npz.member_names(self.chosen(np.full(len(self.specs), -1)))

    @property
    def options(self) -> range:
        """All options; the last is a copy."""
        return range(len(self.forms[0]) if self.forms else 1)

    def stored(self, t: int, k: int) -> QuantConfig | None:
        """What a tensor is in the file under an option; None for a copy."""
        return self._stored[self.specs[t].dtype][k]

    def outgoing(self, t: int, k: int) -> Outgoing:
        """A tensor under an option that its shape has."""
        if (t, k) not in self._made:
            made = self._outgoing(self.specs[t], self.stored(t, k))
            assert made is not None, "only options that a tensor can have are asked for"
            self._made[t, k] = made
        return self._made[t, k]

    def chosen(self, options: np.ndarray) -> list[Outgoing]:
        """All tensors of the file, in the source's order, under one option each, int64 [T]."""
        others = {tensor.name: tensor for tensor in self.others}
        return [
            self.outgoing(self.planned[name], int(options[self.planned[name]]))
            if name in self.planned
            else others[name]
            for name in self.checkpoint.names
        ]


class Parts(Protocol):
    """What a file is made of: `nbytes`, int64 [T, K + 1], that options add up to, and a rest that is no sum.

    `schemes`, int64 [T, K + 1], is what the file says something of once for all that share it; -1 for nothing.
    """

    nbytes: np.ndarray
    schemes: np.ndarray

    def least(self, allowed: np.ndarray, used: frozenset[int], several: bool) -> int:
        """What the rest takes at least in any plan with choices among bool [T, K + 1] `allowed`.

        used : schemes that the plan has. several : whether it has more than one.
        """


class Whole:
    """A file whose rest is the same whatever is chosen."""

    def __init__(self, nbytes: np.ndarray, rest: int) -> None:
        self.nbytes, self._rest = nbytes, rest
        self.schemes = np.full(nbytes.shape, -1)

    def least(self, allowed: np.ndarray, used: frozenset[int], several: bool) -> int:
        """The rest."""
        return self._rest


def gguf_parts(choices: Choices, source: Checkpoint) -> Parts:
    """GGUF: the padded data of every tensor. What the header says of it is as long whatever it is."""
    alignment = gguf.alignment_of(source)

    def padded(tensor: Outgoing) -> int:
        try:
            return -(-gguf.Target(tensor, source, 0).nbytes // alignment) * alignment
        except (QuantlabError, KeyError):  # a copy of a type that GGUF lacks, or a dtype that is none of its own
            return 0

    groups = np.array([[padded(t) if t and t.config else 0 for t in row] for row in choices.forms], np.int64)
    nbytes = groups.reshape(len(choices.forms), -1)[choices.group]
    copy = nbytes.shape[1] - 1
    nbytes[:, copy] = [padded(choices.outgoing(t, copy)) for t in range(len(nbytes))]
    tensors = choices.chosen(np.full(len(nbytes), copy))
    return Whole(nbytes, gguf.nbytes(tensors, source) - int(nbytes[:, copy].sum()))


class Arrays:
    """A file of named arrays behind a JSON header, as safetensors has them, and a config.json that speaks of them.

    In the header stand places, which have more digits further back; its end is padded to eight bytes. Both depend on
    all choices together, and so do the groups of a config.json.

    Parameters
    ----------
    specs_of : the arrays of a tensor that is quantized.
    said : what a manifest in the header says of a quantized tensor, as it stands there; "" without one.
    """

    def __init__(
        self,
        choices: Choices,
        specs_of: Callable[[Outgoing], dict[str, PartSpec]],
        rest: int,
        told: "Told | None" = None,
        said: Callable[[Outgoing], str] = lambda tensor: "",
    ) -> None:
        self._choices, self._told = choices, told
        self._slots: dict[tuple[int, str], int] = {}
        tables = [[self._arrays(tensor, specs_of) if tensor else [] for tensor in row] for row in choices.forms]
        shape = (len(tables), len(tables[0]) if tables else 0, len(self._slots))
        self._data, self._there = np.zeros(shape, np.int64), np.zeros(shape, bool)
        text = np.zeros(shape[:2], np.int64)
        for g, row in enumerate(tables):
            for k, arrays in enumerate(row):
                for slot, nbytes, length in arrays:
                    self._data[g, k, slot] += nbytes
                    self._there[g, k, slot] = True
                    text[g, k] += length
        group = choices.group
        names = np.array([text_length(stem) for stem in choices.stems], np.int64)
        self.nbytes = (self._data.sum(2) + text)[group] + self._there.sum(2)[group] * names[:, None]
        if told:
            self.nbytes += told.lines
        texts = [[said(form) if form and form.config else "" for form in row] for row in choices.forms]
        self.nbytes += spelt(
            texts, choices, {escaped(escaped(STEM)): [text_length(escaped(stem)) for stem in choices.stems]}
        )
        self._others = safetensors.all_specs(choices.others, specs_of)
        self._rest = rest + sum(entry_length(name, spec) + spec.nbytes for name, spec in self._others.items())
        self._order = self._places()
        self.schemes = told.schemes if told else np.full(self.nbytes.shape, -1)

    def _arrays(
        self, form: Outgoing, specs_of: Callable[[Outgoing], dict[str, PartSpec]]
    ) -> list[tuple[int, int, int]]:
        """(slot, bytes, what the header says of it but for stem and places) of each array of a tensor."""
        try:
            specs = safetensors.copied_spec(form) if form.config is None else specs_of(form)
        except (QuantlabError, AssertionError, ValueError):  # what the layout refuses has no arrays, and is not asked
            return []
        stem = text_length(STEM)
        return [
            (self._slot(safetensors.rank(spec), name.removeprefix(STEM)), spec.nbytes, entry_length(name, spec) - stem)
            for name, spec in specs.items()
        ]

    def _slot(self, rank: int, suffix: str) -> int:
        return self._slots.setdefault((rank, suffix), len(self._slots))

    def _places(self) -> np.ndarray:
        """All arrays in the file's order, that of types and names: (tensor or -1, slot or bytes) int64 [arrays, 2]."""
        found = [(-rank, stem + suffix, t, at) for (rank, suffix), at in self._slots.items() for t, stem in self._named]
        found += [(-safetensors.rank(spec), name, -1, spec.nbytes) for name, spec in self._others.items()]
        return np.array([entry[2:] for entry in sorted(found)], np.int64).reshape(-1, 2)

    @property
    def _named(self) -> Iterable[tuple[int, str]]:
        return enumerate(self._choices.stems)

    def least(self, allowed: np.ndarray, used: frozenset[int], several: bool) -> int:
        """The rest, with every array as near to the beginning as it can be, and no padding."""
        told = self._told.least(allowed, used, several) if self._told else 0
        return self._rest + told + self._digits(allowed)

    def _digits(self, allowed: np.ndarray) -> int:
        """Digits of all places, at least."""
        group = self._choices.group
        most = np.iinfo(np.int64).max
        data = np.stack(
            [np.where(allowed, self._data[group, :, slot], most).min(1) for slot in range(len(self._slots))], 1
        ) if len(group) else np.zeros((0, len(self._slots)), np.int64)  # fmt: skip
        tensor, what = self._order[:, 0], self._order[:, 1]
        ours = tensor >= 0
        sizes = what.copy()
        sizes[ours] = data[tensor[ours], what[ours]]
        ends = np.cumsum(sizes)
        if ends[-1:].sum() > shards.SHARD_BYTES:  # places begin anew in every file
            return 2 * int((~ours).sum()) + 2 * int(self._fewest(allowed, np.ones_like(data)))
        digits = digits_of(ends - sizes) + digits_of(ends)
        table = np.zeros_like(data)
        table[tensor[ours], what[ours]] = digits[ours]
        return int(digits[~ours].sum()) + self._fewest(allowed, table)

    def _fewest(self, allowed: np.ndarray, digits: np.ndarray) -> int:
        """The sum over tensors of the fewest digits that any of its options has; digits: int64 [T, slots]."""
        group = self._choices.group
        each = np.einsum("tks,ts->tk", self._there[group], digits)
        return int(np.where(allowed, each, np.iinfo(np.int64).max).min(1).sum()) if len(group) else 0


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

    def least(self, allowed: np.ndarray, used: frozenset[int], several: bool) -> int:
        """Bytes of config.json beyond `lines`, at least: whatever else is chosen adds its lines, and maybe a scheme."""
        used = used | {int(s) for s in np.unique(self.schemes[(allowed.sum(1) == 1)[:, None] & allowed]) if s >= 0}
        heads = [t for t in self._heads if allowed[t, :-1].any()]
        certain = tuple(t for t in heads if not allowed[t, -1])
        spare = self._first + (2 * len(TIED) + 100 if len(certain) < len(heads) else 0)
        if several or len(used) > 1:
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


def own_parts(choices: Choices, source: Checkpoint, exact: Callable[[np.ndarray], int]) -> Parts:
    """quantlab's own safetensors: arrays, and a manifest in the header's metadata."""
    manifest = compose([], {}, unhashed(source), safetensors.BFLOAT16)
    rest = 8 + len(safetensors.header_text({}, {safetensors.METADATA: manifest})) - 1  # a comma less than tensors

    def said(form: Outgoing) -> str:
        return escaped("," + described(form, form.name, safetensors.BFLOAT16))

    return Arrays(choices, safetensors.own_specs, rest, said=said)


def layout_parts(choices: Choices, layout: Layout, beside: Mapping[str, bytes]) -> Parts:
    """Another program's layout in safetensors files, with what lies beside them."""
    told = Told(choices, layout, read_config(beside.get("config.json"))) if layout.settings else None
    rest = sum(len(content) for name, content in beside.items() if not (told and name == "config.json"))
    rest += 8 + len(safetensors.header_text({}, shards.METADATA))
    return Arrays(choices, layout.specs, rest, told)


def npz_parts(choices: Choices, source: Checkpoint, exact: Callable[[np.ndarray], int]) -> Parts:
    """.npz: members, each named twice, and a manifest. What is known by its place in the archive has a name of its own.

    Beyond 4 GB the directory has wider numbers; how many of them depends on the order.
    """
    names = [choices.members[spec.name] for spec in choices.specs]
    texts, sizes = [], []
    for row in choices.forms:
        forms = [replace(form, name=STEM) if form else None for form in row]
        texts.append([("," + described(f, MEMBER, npz.BFLOAT16)) if f and f.config else "" for f in forms])
        sizes.append([npz.members_nbytes(form, MEMBER) if form else (0, 0) for form in forms])
    table = np.array(sizes, np.int64).reshape(len(sizes), -1, 2)[choices.group]
    longer = np.array([len(name) for name in names], np.int64)[:, None] - len(MEMBER)
    nbytes = table[..., 0] + 2 * table[..., 1] * longer
    lengths = {
        escaped(STEM): [text_length(spec.name) for spec in choices.specs],
        escaped(MEMBER): [len(name) for name in names],
    }
    nbytes += spelt(texts, choices, lengths)
    return _summed(nbytes, exact)


MEMBER = "\x01"  # in place of a member's name


def onnx_parts(choices: Choices, exact: Callable[[np.ndarray], int]) -> Parts:
    """An ONNX file of tensors alone: initializers, nodes and outputs. The size before them is longer if they are."""

    def adds(t: int, k: int) -> int:
        try:
            piece = onnx.Piece(choices.outgoing(t, k))
        except (QuantlabError, AssertionError, KeyError):  # what the format refuses is not asked for
            return 0
        return sum(map(len, piece.nodes)) + piece.nbytes + len(piece.output)

    return _summed(
        np.array([[adds(t, k) for k in choices.options] for t in range(len(choices.specs))], np.int64), exact
    )


def model_parts(choices: Choices, exact: Callable[[np.ndarray], int]) -> Parts:
    """An ONNX model that is written again: what stands for a weight, or what it is in the model."""
    everything = [replace(choices.outgoing(t, -1), config=_ANY) for t in range(len(choices.specs))]
    outline = rewrite.outlined(everything, choices.checkpoint)

    def adds(t: int, k: int) -> int:
        name = choices.specs[t].name.encode()
        if choices.stored(t, k) is None:
            return outline.spared.get(name, 0)
        try:
            piece = onnx.Piece(choices.outgoing(t, k), outline.weights.get(name))
        except (QuantlabError, AssertionError, KeyError):
            return 0
        return sum(map(len, piece.nodes)) + piece.nbytes

    nbytes = np.array([[adds(t, k) for k in choices.options] for t in range(len(choices.specs))], np.int64)
    # With all weights copied there are no new inputs, which old versions of ONNX want; the size in front has 1 to 5.
    copies = np.full(len(nbytes), -1)
    return Whole(nbytes, exact(copies) - int(nbytes[:, -1].sum()) - 4)


_ANY = QuantConfig()


def _summed(nbytes: np.ndarray, exact: Callable[[np.ndarray], int]) -> Whole:
    """A file whose rest does not shrink where its parts grow: that of its smallest plan is the least."""
    smallest = np.where(nbytes > 0, nbytes, np.iinfo(np.int64).max).argmin(1)
    return Whole(nbytes, exact(smallest) - int(nbytes[np.arange(len(nbytes)), smallest].sum()))


def copy_held(choices: Choices, t: int, format: str) -> None:
    """ExportError for a tensor that a file of a format cannot hold as it is."""
    tensor, source = choices.outgoing(t, -1), choices.checkpoint
    if format == "npz":
        npz.check_copied(tensor, choices.members[tensor.name])
    elif format == "gguf":
        gguf.Target(tensor, source, 0)
    elif format != "onnx":
        safetensors.copied_spec(tensor)
    elif not rewrite.rewrites(source):
        onnx.Piece(tensor)


def spelt(texts: Sequence[Sequence[str]], choices: Choices, lengths: Mapping[str, Sequence[int]]) -> np.ndarray:
    """Bytes of the text of every option, int64 [T, K + 1], its placeholders taking as many as `lengths` say of each."""
    table = np.array([[len(text.encode()) for text in row] for row in texts], np.int64)
    total = table.reshape(len(texts), -1)[choices.group]
    for placeholder, each in lengths.items():
        often = np.array([[text.count(placeholder) for text in row] for row in texts], np.int64)
        longer = np.array(each, np.int64)[:, None] - len(placeholder)
        total = total + often.reshape(len(texts), -1)[choices.group] * longer
    return total


def described(tensor: Outgoing, prefix: str, bfloat16: str) -> str:
    """What a manifest says of a tensor; "" of what its shape does not allow."""
    try:
        return as_json(entry(tensor, prefix, bfloat16))
    except QuantlabError:
        return ""


def escaped(text: str) -> str:
    """A text as it stands within the quotes of a JSON that is UTF-8."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def text_length(text: str) -> int:
    """Bytes of a text in JSON that is UTF-8, without its quotes."""
    return len(json.dumps(text, ensure_ascii=False).encode()) - 2


def entry_length(name: str, spec: PartSpec) -> int:
    """Bytes that the header of a safetensors file has for an array, but for the digits of its two places."""
    nothing = len(safetensors.header_text({}, {}))
    return len(safetensors.header_text({name: spec}, {})) - nothing - len(f"0{spec.nbytes}")


def digits_of(numbers: np.ndarray) -> np.ndarray:
    """How many decimal digits whole numbers from 0 have: int64 of their shape."""
    return np.maximum(np.searchsorted(10 ** np.arange(19, dtype=np.int64), numbers, "right"), 1)
