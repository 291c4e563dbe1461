"""Which tensors are decided as one, because a program holds them as one or its user wants it so.

A program that computes several layers in one multiplication holds them under one scheme: vLLM takes that of the first
and fails on the shapes of the others, or reads them wrongly.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ..formats.checkpoint import Checkpoint
from ..formats.safetensors.fused import fused_in
from ..formats.safetensors.model import experts_of
from ..shipping.recipe import matches
from ..wording import shown
from .units import Unit

# name -> (what all members of a unit have in common, why they are one); None for a tensor that is alone.
Tying = Callable[[str], tuple[object, str] | None]


def fused(name: str) -> tuple[object, str] | None:
    """What vLLM computes in one multiplication: parallel projections, and all experts of a layer.

    >>> fused("model.layers.0.self_attn.q_proj.weight")[1]
    'vLLM fuses q, k and v'
    """
    if experts := experts_of(name):
        return experts[0], "vLLM runs all experts of a layer under one scheme"
    found = fused_in(name)
    return found and (found, f"vLLM fuses {found[1]}")


def stacked_by(program: str) -> Tying:
    """What a program keeps in one tensor that others have one by one: a projection of all experts of a layer."""

    def stacked(name: str) -> tuple[object, str] | None:
        found = experts_of(name)
        return found and (found, f"{program} keeps this projection of all experts of a layer in one tensor")

    return stacked


def experts_as_one(name: str) -> tuple[object, str] | None:
    """All experts of a model, which transformers decodes by one scheme."""
    return ("experts", "transformers loads all experts under one scheme") if experts_of(name) else None


def alone(name: str) -> None:
    """No tensor is tied to another."""


@dataclass
class _Group:
    members: list[str]
    reasons: list[str] = field(default_factory=list)


def units_of(checkpoint: Checkpoint, names: Sequence[str], tying: Tying, patterns: Iterable[str] = ()) -> list[Unit]:
    """All names, in units, in the names' order. Ties are transitive: what shares a member is one unit.

    Parameters
    ----------
    tying : what a program ties. A tensor that is another under a second name is tied to it everywhere.
    patterns : globs; all that one of them takes in is tied by the user.
    """
    groups: dict[object, list[str]] = {}
    reasons: dict[object, str] = {}
    for name in names:
        if key := tying(name):
            groups.setdefault(key[0], []).append(name)
            reasons[key[0]] = key[1]
    ties = [(members, reasons[key]) for key, members in groups.items()] + _same(checkpoint, names)
    ties += [([name for name in names if matches(name, pattern)], "tied by you") for pattern in patterns]
    return _gathered(names, ties)


def _same(checkpoint: Checkpoint, names: Sequence[str]) -> list[tuple[list[str], str]]:
    """Tensors that share their values, as PyTorch's files tell of tied layers."""
    known = frozenset(names)
    pairs = [(checkpoint.spec(name).same_as, name) for name in names]
    return [([first, name], f"{shown(name)} is {shown(first)} itself") for first, name in pairs if first in known]


def _gathered(names: Sequence[str], ties: Iterable[tuple[Sequence[str], str]]) -> list[Unit]:
    """The names in units, merged by ties, each several names and a reason; in the order of their first members."""
    groups = {name: _Group([name]) for name in names}
    for tied, reason in ties:
        parts = list({id(groups[name]): groups[name] for name in tied}.values())
        if len(tied) < 2:
            continue
        whole = max(parts, key=lambda group: len(group.members))  # moving only the smaller ones: n log n in all
        for part in parts:
            if part is not whole:
                whole.members += part.members
                whole.reasons += part.reasons
                groups.update(dict.fromkeys(part.members, whole))
        whole.reasons.append(reason)
    order = {name: at for at, name in enumerate(names)}
    each = {id(group): group for group in groups.values()}.values()
    return [_unit(sorted(group.members, key=order.__getitem__), group.reasons) for group in each]


def _unit(members: list[str], reasons: list[str]) -> Unit:
    return Unit(members[0], tuple(members), "; ".join(dict.fromkeys(reasons)))
