"""One tensor, two names: Hugging Face's and GGUF's, by the table of gguf-py that llama.cpp's converter goes by.

Conversion may move rows of q and k, and stacks the experts of a layer; it never moves input columns. What is known of
columns, as importance is, holds for a tensor under either name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import NamedTuple

from ..errors import QuantlabError, check_known
from ..formats import Checkpoint
from ..formats.gguf.read import GGUFCheckpoint
from ..formats.safetensors.beside import own_config

NUMBER = re.compile(r"(?<![^.])\d{1,6}(?![^.])")  # a part of a name that is a number: of a block, or of an expert
EXPERT = re.compile(r"(\.experts)\.(\d{1,6})(?=\.)")
SUFFIXES = (".weight", ".bias")
# Model types of config.json that are not called as in GGUF, as far as converting goes by the names of tensors.
CALLED = {
    "mistral": "llama", "mixtral": "llama", "ministral": "llama", "internlm3": "llama", "yi": "llama",
    "deepseekv2": "deepseek2", "deepseekv3": "deepseek2", "cohere": "command-r", "gptbigcode": "starcoder",
    "roberta": "bert", "xlmroberta": "bert", "camembert": "bert", "distilbert": "bert", "phi": "phi2", "olmo3": "olmo2",
    "granitemoehybrid": "granitehybrid", "hunyuanv1dense": "hunyuan-dense", "hunyuanv1moe": "hunyuan-moe",
    "mt5": "t5", "umt5": "t5",
}  # fmt: skip


class Place(NamedTuple):
    """Where a tensor is among others: under `name`; of a stack of experts it is number `expert`, None: all of it."""

    name: str
    expert: int | None = None


def gguf_name(name: str, arch: str, blocks: int) -> str:
    """What a tensor of Hugging Face's naming is called in a GGUF file; "" if it is not in the table.

    arch : as GGUF's general.architecture has it; ConfigError for one that gguf-py does not know. blocks : how many the
    model has; names of further ones are called nothing. Experts that are stacked there have the name of their stack.

    >>> gguf_name("model.layers.3.self_attn.q_proj.weight", "llama", 32)
    'blk.3.attn_q.weight'
    """
    place = gguf_place(name, arch)
    block = NUMBER.search(place.name) if place else None
    return place.name if place and (block is None or int(block[0]) < blocks) else ""


def gguf_place(name: str, arch: str) -> Place | None:
    """Where GGUF has a tensor of Hugging Face's naming, and as which expert; None if it is not in the table."""
    return next(iter(_places(name, _table(arch))), None)


def pairs(names: Iterable[str], known: Iterable[str], arch: str = "") -> dict[str, Place]:
    """Where tensors named as by Hugging Face (or as in `known` already) are among `known`; those that are not, are not.

    arch : of the model, as in GGUF. Without it, or where nothing fits it, the one of gguf-py's that finds the most.

    >>> pairs(["model.layers.0.mlp.experts.7.up_proj.weight"], ["blk.0.ffn_up_exps.weight"], "qwen3moe")
    {'model.layers.0.mlp.experts.7.up_proj.weight': Place(name='blk.0.ffn_up_exps.weight', expert=7)}
    """
    names, known = list(names), frozenset(known)
    found = {name: Place(name) for name in names if name in known}
    others = [name for name in names if name not in known]
    if others and (table := _fitting(others, known, arch)):
        for name in others:
            place = next((place for place in _places(name, table) if place.name in known), None)
            if place is not None:
                found[name] = place
    return {name: found[name] for name in names if name in found}


def architecture(checkpoint: Checkpoint) -> str:
    """What GGUF calls a model's architecture; "" where nothing tells, or gguf-py does not know it."""
    if isinstance(checkpoint, GGUFCheckpoint):
        said = checkpoint.metadata.get("general.architecture")
        return said if isinstance(said, str) and said in architectures() else ""
    try:
        config = own_config(checkpoint)
    except (QuantlabError, OSError):  # it only helps: the names decide, too
        return ""
    inner = config.get("text_config")
    said = (inner if isinstance(inner, dict) else config).get("model_type", config.get("model_type"))
    plain = _plain(said.removesuffix("_text")) if isinstance(said, str) else ""
    known = {_plain(name): name for name in architectures()}
    return CALLED.get(plain, known.get(plain, ""))


def blocks(names: Iterable[str]) -> int:
    """How many blocks a model has, by the first numbers in the names of its tensors; 0 if it has none."""
    found = (NUMBER.search(name) for name in names)
    return max((int(number[0]) + 1 for number in found if number), default=0)


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def _fitting(names: list[str], known: frozenset[str], arch: str) -> Mapping[str, str] | None:
    """The table that finds the most of the names among those known; None if none finds any.

    By patterns, in which every block and every expert is the first one: of a hundred layers one is asked.
    """
    # What is in no table is not looked up in every one: of 100,000 names of a stranger's that took 80 s.
    asked = [name for name in _patterns(names) if next(_places(name, _all_tables()), None)]
    there = frozenset(_patterns(known))

    def hits(table: Mapping[str, str]) -> int:
        return sum(any(place.name in there for place in _places(name, table)) for name in asked)

    if arch and hits(_table(arch)):
        return _table(arch)
    found = [(hits(table), table) for table in map(_table, architectures())]
    most, table = max(found, key=lambda pair: pair[0])
    return table if most else None


def _patterns(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(NUMBER.sub("0", name) for name in names))


def _places(name: str, table: Mapping[str, str]) -> Iterator[Place]:
    """Where a table says that a tensor may be, the likeliest first."""
    stacked = EXPERT.sub(r"\1", name, count=1)
    expert = EXPERT.search(name)
    number = int(expert[2]) if expert else None
    for said in _ways(stacked):
        block = NUMBER.search(said)
        first = said if block is None else f"{said[: block.start()]}0{said[block.end() :]}"
        suffix = next((suffix for suffix in SUFFIXES if first.endswith(suffix)), "")
        theirs = table.get(first.removesuffix(suffix))
        if theirs is None:
            continue
        if block is not None:
            theirs = NUMBER.sub(block[0], theirs, count=1)
        # A stack of experts is often a parameter by itself, without a module's ".weight".
        yield from (Place(theirs + end, number) for end in ([suffix] if suffix else ["", ".weight"]))


def _ways(name: str) -> Iterator[str]:
    """A name as it is, and as the converter makes it before it looks it up."""
    text = name.replace("language_model.", "", 1)
    yield from dict.fromkeys((name, text, re.sub(r"^(bert|roberta|distilbert)\.", "", text), f"model.{text}"))


@cache
def architectures() -> tuple[str, ...]:
    """All that gguf-py knows, as general.architecture has them."""
    # Imported late: it takes as long to import as NumPy, and most models are not matched with others.
    from gguf import MODEL_ARCH_NAMES

    return tuple(MODEL_ARCH_NAMES.values())


@cache
def _all_tables() -> Mapping[str, str]:
    """Every name that is in the table of any architecture."""
    return {key: theirs for arch in architectures() for key, theirs in _table(arch).items()}


@cache
def _table(arch: str) -> Mapping[str, str]:
    """Names of the first block in Hugging Face's naming, in GGUF's, both without what follows the module."""
    from gguf import MODEL_ARCH_NAMES, TensorNameMap

    check_known("architecture", arch, architectures())

    # With entries of its own: making the table of one architecture changes those of the class, for all later ones.
    own = type("Own", (TensorNameMap,), {"block_mappings_cfg": dict(TensorNameMap.block_mappings_cfg)})
    by_name = {name: number for number, name in MODEL_ARCH_NAMES.items()}
    return {key: theirs for key, (_, theirs) in own(by_name[arch], 1).mapping.items()}
