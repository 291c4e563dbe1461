"""A plan's tensors by the names that llama.cpp's converter gives them."""

import re
from collections import Counter
from collections.abc import Mapping

from ...core.config import QuantConfig
from ...errors import ConfigError
from ...wording import shown
from ..names import Place, architectures, gguf_place
from .tool import Wanted

OWN = re.compile(r"(blk|enc\.blk|dec\.blk|v\.blk)\.\d+\..*|(token_embd|output|output_norm|rope_freqs)\..*")


def is_gguf(wanted: Wanted) -> bool:
    """Whether a plan's names are those of a GGUF file already."""
    return any(map(OWN.fullmatch, (*wanted.plan.choices, *wanted.others)))


def in_gguf(wanted: Wanted, tool: str) -> Mapping[str, QuantConfig]:
    """Configurations by names in GGUF.

    Raises ConfigError for a tensor without such a name, and for experts of one stack that get different ones.
    """
    if is_gguf(wanted):
        return wanted.configs
    places = places_of(wanted, tool)
    found: dict[str, tuple[str, str]] = {}
    for name, place in places.items():
        word = wanted.plan.choices[name]
        first, other = found.setdefault(place.name, (name, word))
        if other != word:
            raise ConfigError(
                f"GGUF holds {place.name} as one tensor, and the plan gives {shown(first)} {other} but {shown(name)} "
                f"{word}: tie them, --tie '*.experts.*'"
            )
    return {place.name: wanted.configs[name] for name, place in places.items() if name in wanted.configs}


def places_of(wanted: Wanted, tool: str) -> dict[str, Place]:
    """Where GGUF has each weight: by the model's architecture, or as most of those have it that know all names."""
    said = wanted.known.arch if wanted.known else ""
    tables = [looked_up(wanted, arch) for arch in ([said] if said else architectures())]
    fitting = Counter(tuple(found.items()) for found in tables if all(name in found for name in wanted.configs))
    if fitting:
        return dict(fitting.most_common(1)[0][0])
    most = max(tables, key=len)
    lost = next(name for name in wanted.configs if name not in most)
    of = f"a model of {said}" if said else "any architecture that has the others"
    raise ConfigError(
        f"{tool} goes by GGUF's names, and gguf-py has none for tensor {shown(lost)} of {of}: copy it, or choose "
        "another tool"
    )


def looked_up(wanted: Wanted, arch: str) -> dict[str, Place]:
    """Where an architecture has the weights of a plan; those that it has not are not there."""
    found = {name: gguf_place(name, arch) for name in wanted.plan.choices}
    return {name: place for name, place in found.items() if place}
