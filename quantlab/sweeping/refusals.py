"""What a sweep will refuse, told from shapes alone: before it runs, and without reading a value."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from ..core.config import QuantConfig
from ..core.tensor import check_shape
from ..errors import QuantlabError
from ..wording import counted


@lru_cache(maxsize=1 << 16)
def refusal(shape: tuple[int, ...], config: QuantConfig) -> str:
    """Why a configuration cannot serve any tensor of a shape; "" if its values may allow it."""
    try:
        check_shape(shape, config)
    except QuantlabError as error:
        return str(error)
    return ""


def refusals(configs: Iterable[QuantConfig], specs: Sequence[Any]) -> dict[str, list[str]]:
    """The configurations that refuse tensors of these specs (`TensorSpec`), by slug, and the reason for each tensor."""
    found = {config.slug: [why for spec in specs if (why := refusal(spec.shape, config))] for config in configs}
    return {slug: reasons for slug, reasons in found.items() if reasons}


def served(configs: Sequence[QuantConfig], specs: Sequence[Any]) -> dict[tuple[QuantConfig, ...], list[Any]]:
    """The specs by the configurations that their shapes allow: what is left to measure."""
    found: dict[tuple[QuantConfig, ...], list[Any]] = {}
    by_shape: dict[tuple[int, ...], tuple[QuantConfig, ...]] = {}
    for spec in specs:
        if spec.shape not in by_shape:
            by_shape[spec.shape] = tuple(config for config in configs if not refusal(spec.shape, config))
        found.setdefault(by_shape[spec.shape], []).append(spec)
    return found


def told(refused: Iterable[tuple[str, int, str]], tensors: int) -> list[str]:
    """(configuration, how many tensors it refuses, the reason) in sentences; those that agree share one.

    >>> told([("int4-sym-g8-entropy", 2, "too short"), ("int8-sym-g8-entropy", 2, "too short")], 3)
    ['int4-sym-g8-entropy, int8-sym-g8-entropy refuse 2 of 3 tensors: too short']
    """
    alike: dict[tuple[int, str], list[str]] = {}
    for slug, count, reason in refused:
        alike.setdefault((count, reason), []).append(slug)
    return [_sentence(slugs, count, tensors, reason) for (count, reason), slugs in alike.items()]


def _sentence(slugs: list[str], count: int, tensors: int, reason: str) -> str:
    more = f" and {len(slugs) - 2:,} more" if len(slugs) > 2 else ""
    verb = "refuses" if len(slugs) == 1 else "refuse"
    return f"{', '.join(slugs[:2])}{more} {verb} {count:,} of {counted(tensors, 'tensor')}: {reason}"


def foretold(configs: Iterable[QuantConfig], specs: Sequence[Any]) -> list[str]:
    """`told` of what shapes alone tell, with the reason for the first tensor that a configuration refuses."""
    found = refusals(configs, specs)
    return told(((slug, len(reasons), reasons[0]) for slug, reasons in found.items()), len(specs))
