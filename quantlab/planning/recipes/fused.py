"""Modules that vLLM makes one of when it loads a model, under a name of their own: its parts must be alike."""

from collections.abc import Callable, Iterable, Mapping

from ...core.config import QuantConfig

FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def with_fused(names: Iterable[str]) -> list[str]:
    """Names, and those of the modules that vLLM makes of them where all of its parts are there."""
    own = list(names)
    there, found = set(own), list(own)
    for fused, (first, *others) in FUSED.items():
        for name in own:
            parent, _, last = name.rpartition(".")
            if last == first and all(f"{parent}.{other}" in there for other in others):
                found.append(f"{parent}.{fused}")
    return found


def split(chosen: Mapping[str, QuantConfig], left: Iterable[str], scheme: Callable[[QuantConfig], str]) -> list[str]:
    """Names of modules that vLLM fuses with one of another scheme, or of none."""
    words = {name: scheme(config) for name, config in chosen.items()} | dict.fromkeys(left, "")
    found = []
    for first, *others in FUSED.values():
        for name in words:
            parent, _, last = name.rpartition(".")
            parts = [words.get(f"{parent}.{other}", words[name]) for other in others]
            if last == first and any(word != words[name] for word in parts):
                found.append(name)
    return found


def remark(apart: list[str]) -> list[str]:
    """What vLLM would not load, or would load as garbage, in a sentence; nothing where all is alike."""
    return [f"this plan treats modules differently that vLLM fuses: it cannot load {apart[0]}"] if apart else []
