"""A plan as few rules: globs that take in exactly the tensors that they are meant for."""

import fnmatch
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from ..core.config import QuantConfig
from ..shipping.recipe import Rule
from .units import COPY

_NUMBER = re.compile(r"\d+")
PARTS = 4  # of the end of a name that are tried behind a *


def rules_for(choices: Mapping[str, str], kept: Iterable[str]) -> list[Rule]:
    """Rules that give tensors their choices, a slug or "copy", and copy those that are `kept`.

    The last rule that takes in a tensor counts. So the most frequent slug comes first, in globs that may take in
    tensors of later ones, which take all of theirs back; what is copied is taken in by none of them.
    """
    slugs = [slug for slug, _ in Counter(choices.values()).most_common() if slug != COPY]
    names = [*choices, *kept]
    rules = [Rule("*", None, copy=True)]
    for place, slug in enumerate(slugs):
        own = {name for name, choice in choices.items() if choice == slug}
        later = set(slugs[place + 1 :])
        free = own | {name for name, choice in choices.items() if choice in later}
        config = QuantConfig.parse(slug)
        rules += [Rule(pattern, config) for pattern in covering(own, free, names)]
    return rules


def covering(own: set[str], free: set[str], names: Iterable[str]) -> list[str]:
    """Few patterns that take in all of `own`, and of `names` nothing else but what is `free`."""
    everything, left = list(names), dict.fromkeys(name for name in names if name in own)
    found = {}
    for glob in dict.fromkeys(glob for name in left for glob in globs_of(name)):
        taken = set(_matched(glob, everything))
        if taken <= free:
            found[glob] = taken & own
    patterns = []
    while left and found:
        # Of equals the longer one: it says more of what it is meant for.
        best = max(found, key=lambda glob: (len(found[glob]), len(glob)))
        if len(found[best]) < 2:
            break
        patterns.append(best)
        done = found.pop(best)
        left = {name: None for name in left if name not in done}
        found = {glob: rest for glob, taken in found.items() if (rest := taken - done)}
    return patterns + [_exact(name, everything) for name in left]


def globs_of(name: str) -> Iterable[str]:
    """Globs that take in a name and others like it: with * for numbers, and of its end alone."""
    if _special(name):
        return
    numbers = list(_NUMBER.finditer(name))
    if numbers:
        yield _NUMBER.sub("*", name)
    for number in numbers if len(numbers) > 1 else ():
        yield f"{name[: number.start()]}*{name[number.end() :]}"
    parts = re.split(r"(?<=[./])", name)
    for count in range(2, min(PARTS, len(parts) - 1) + 1):
        yield "*." + "".join(parts[-count:]) if parts[-count - 1].endswith(".") else "*" + "".join(parts[-count:])


def _matched(glob: str, names: Iterable[str]) -> list[str]:
    match = re.compile(fnmatch.translate(glob)).match
    return [name for name in names if name == glob or match(name)]


def _special(name: str) -> bool:
    return any(c in name for c in "*?[")


def _exact(name: str, names: Iterable[str]) -> str:
    """A pattern of one name: brackets in it may be those of a glob for another."""
    if not _special(name) or _matched(name, names) == [name]:
        return name
    return re.sub(r"([*?[])", r"[\1]", name)
