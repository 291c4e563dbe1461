"""Pieces of text that recipes share: what stands at their top, Python's literals, patterns for several names."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from ...core.config import QuantConfig
from ...errors import ConfigError
from ...formats.output.manifest import VERSION
from ...wording import shown
from .tool import Wanted

SPECIAL = re.compile(r"([\\.^$*+?()\[\]{}|])")  # what stands for itself behind a backslash, in Python and ECMAScript


def heading(wanted: Wanted, label: str) -> list[str]:
    """Who made a recipe, for which model, and what does not carry over: a sentence each."""
    plan = wanted.plan
    digest = f" (sha256 {str(plan.source['sha256'])[:64]})" if plan.source.get("sha256") else ""
    return [
        f"made by quantlab {VERSION} for {shown(wanted.title)}{clean(digest)}, from a plan for {clean(plan.target)} "
        f"with a budget of {clean(plan.budget)}",
        f"values are made by {label}'s quantizer, not by quantlab's: the plan carries over, its figures do not",
    ]


def clean(text: str) -> str:
    """Text of a plan's file as it may stand in a comment: on one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def commented(sentences: Iterable[str], comment: str) -> str:
    """Sentences as comments, a line each."""
    return "".join(f"{comment} {sentence[0].upper()}{sentence[1:]}.\n" for sentence in sentences)


def filled(template: str, **parts: object) -> str:
    """A template with each <<PART>> in place; what stands in the parts is left alone."""
    return re.sub("<<([A-Z]+)>>", lambda match: str(parts[match[1]]), template)


def python_dict(name: str, entries: Mapping[str, str]) -> str:
    """An assignment of a dict: keys as literals in ASCII, values as the source that they are."""
    return "\n".join([f"{name} = {{", *(f"    {key!a}: {value}," for key, value in entries.items()), "}"])


def python_lines(brackets: str, words: Iterable[str]) -> str:
    """A list or a set of texts, one a line."""
    return "\n".join([brackets[0], *(f"    {word!a}," for word in words), brackets[1]])


def python_plan(chosen: Mapping[str, QuantConfig], scheme: Callable[[QuantConfig], str]) -> str:
    """SCHEMES, in a tool's words, by our slugs, and PLAN, which gives every name one of them."""
    schemes = {config.slug: scheme(config) for config in chosen.values()}
    plan = {name: ascii(config.slug) for name, config in chosen.items()}
    return f"{python_dict('SCHEMES', schemes)}\n{python_dict('PLAN', plan)}"


def plain(name: str, tool: str, forbidden: str = "") -> str:
    """A name, if it can stand in a file of text. ConfigError if a letter in it cannot."""
    odd = next((letter for letter in name if not letter.isprintable() or letter in forbidden), None)
    if odd is not None:
        raise ConfigError(f"{tool}'s recipes cannot name {shown(name)}: it holds {odd!r}; copy this tensor")
    return name


def by_slug(chosen: Mapping[str, QuantConfig]) -> dict[str, list[str]]:
    """The names that get each configuration, by its slug."""
    found = defaultdict(list)
    for name, config in chosen.items():
        found[config.slug].append(name)
    return dict(found)


def escaped(name: str) -> str:
    """A name as a regular expression that matches it alone."""
    return SPECIAL.sub(r"\\\1", name)


def patterns(names: Iterable[str]) -> list[str]:
    r"""Regular expressions without anchors that together match exactly these names, each of them once.

    Names that differ only in their block share one, if no block is between them that has a name less.

    >>> patterns(["layers.0.mlp.up", "layers.0.mlp.gate", "layers.1.mlp.up", "layers.1.mlp.gate", "lm_head"])
    ['layers\\.(0|1)\\.mlp\\.(up|gate)', 'lm_head']
    """
    families: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = defaultdict(list)
    found: dict[tuple, list[tuple[str, ...]]] = defaultdict(list)
    for name in dict.fromkeys(names):
        before, block, after = cut(name.split("."))
        families[before, after].append(block)
    for (before, after), blocks in families.items():
        found[before, tuple(blocks)].append(after)
    return [joined(before, blocks, merged) for (before, blocks), afters in found.items() for merged in merge(afters)]


def cut(parts: Sequence[str]) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
    """The parts of a name before its block's number, the number and the rest; all of it and "" where there is none."""
    at = next((i for i, part in enumerate(parts) if part.isascii() and part.isdigit()), None)
    return (tuple(parts), "", ()) if at is None else (tuple(parts[:at]), parts[at], tuple(parts[at + 1 :]))


def merge(rests: Sequence[tuple[str, ...]]) -> list[list[list[str]]]:
    """Ends of names with alternatives in one place: those that differ in that place only become one."""
    left, found = list(rests), list[list[list[str]]]()
    for place in (-1, -2):
        families = defaultdict(list)
        for rest in left:
            if len(rest) >= -place:
                families[*rest[:place], None, *(rest[place + 1 :] if place < -1 else ())].append(rest)
        for family in families.values():
            if len(family) > 1:
                found.append([[*dict.fromkeys(parts)] for parts in zip(*family, strict=True)])
                left = [rest for rest in left if rest not in family]
    return found + [[[part] for part in rest] for rest in left]


def joined(before: Sequence[str], blocks: Sequence[str], rest: Sequence[Sequence[str]]) -> str:
    """The pattern of one family of names."""
    numbers = [[*blocks]] if blocks != ("",) else []
    return r"\.".join(alternatives(part) for part in [*([part] for part in before), *numbers, *rest])


def alternatives(words: Sequence[str]) -> str:
    """One of some words."""
    return escaped(words[0]) if len(words) == 1 else f"({'|'.join(map(escaped, words))})"
