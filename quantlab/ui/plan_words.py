"""What the Plan page says in words: what a target is for, what damage is, and how far it is known to tell plans apart.

The evidence is about two small models (Gemma 3 of 270 M, MiniLM-L6 of 23 M) on texts used for nothing else: the change
of the true damage of plans against one configuration of exactly the same bytes, at three to six sizes of each model.
"""

from quantlab.planning.damage import BY_ROLE, EQUAL, MEASURED, OBJECTIVES
from quantlab.planning.plan import Plan
from quantlab.planning.problem import Problem
from quantlab.planning.targets import TARGETS
from quantlab.planning.units import COPY
from quantlab.ui import text

USES = {
    "vllm": "a folder in compressed-tensors; what vLLM fuses (q, k and v; gate and up) shares a configuration",
    "transformers": "a folder in compressed-tensors, as transformers loads it",
    "llama.cpp": "a GGUF file, every tensor of a type of its own",
    "mlx": "a folder that mlx-lm loads on Apple's chips",
    "onnxruntime": "the ONNX model again, its weights as QuantizeLinear stores them",
    "any": "quantlab's own file, which decodes with NumPy alone and holds any configuration",
}
WEIGHTINGS = {
    BY_ROLE: "By role (q, k, v, o, gate, up, down)",
    EQUAL: "All tensors alike",
    MEASURED: "Measured, from a file",
}
WEIGHTINGS_HELP = (
    "How much the error of each tensor counts. **By role**: as much as keeping that role in fp16 gained the first "
    "LLaMA (llama.cpp #1256, 2023): q and k 0.12, v 0.8, o and gate 0.4, up 0.57, down 1.1. **Measured**: weights of "
    "your own, CSV or JSON of tensor and weight, or mlx-lm's sensitivities."
)
TRIED = {  # (objective, weighting, with importance) -> at how many sizes, and what it did to the true damage
    (
        "relative",
        BY_ROLE,
        False,
    ): "at ten sizes it was never worse than one configuration for all, and up to 34 % better",
    ("relative", EQUAL, False): "at ten sizes it was from 1 % worse than one configuration for all to 26 % better",
    ("relative", BY_ROLE, True): "at ten sizes it was from 1 % worse than one configuration for all to 40 % better",
    ("relative", EQUAL, True): "at ten sizes it was from 56 % worse than one configuration for all to 29 % better",
    ("rows", BY_ROLE, False): "at eight sizes it was never worse than one configuration for all, and up to 30 % better",
    ("rows", EQUAL, False): "at eight sizes it was never worse than one configuration for all, and up to 19 % better",
    ("absolute", EQUAL, False): "at eight sizes it was worse than one configuration for all at six, by up to 47 %",
    ("relative", MEASURED, False): (
        "with one measured probe of each tensor it was 11 % to 45 % better than one configuration for all, at ten sizes"
    ),
}
SHORT = {"relative": "relative error", "rows": "relative error per output", "absolute": "squared error",
         "worst": "relative error of the worst tensor"}  # fmt: skip


def program(target: str) -> str:
    """Who loads what is planned for a target, within a sentence."""
    return "quantlab's own file" if target == "any" else TARGETS[target].label


def said(choice: str) -> str:
    """A choice of a plan, in words.

    >>> said("copy"), said("int4-sym-g64-mse")
    ('as it is', 'int4-sym-g64-mse')
    """
    return "as it is" if choice == COPY else choice


def meaning(problem: Problem) -> str:
    """What is minimised, in a few words."""
    short = SHORT[problem.objective.name]
    return short if problem.objective.largest else f"{short}, {_by(problem.weighting)}"


def _by(weighting: str) -> str:
    return {BY_ROLE: "weighted by role", EQUAL: "all tensors alike"}.get(weighting, "with measured weights")


def evidence(objective: str, weighting: str, importance: bool) -> str:
    """How well it is known to rank plans, in a sentence."""
    tried = TRIED.get((objective, weighting, importance and objective == "relative"))
    if tried is None:
        return "It is predicted from weights alone; how well it ranks plans was not tried on any model."
    return f"It is predicted from weights alone: on two small models, measured, {tried}."


def optimum(plan: Plan, problem: Problem) -> str:
    """How far the plan is from the best one, in a sentence."""
    what = f"for what is minimised: {meaning(problem)}"
    if plan.proved:
        return f"Proved optimal {what}."
    return f"Within {text.percent(plan.relative_gap)} of the optimum {what}."


def gain(plan: Plan) -> str:
    """The plan beside the best uniform configuration of its size, in a sentence; "" where there is none that small."""
    if plan.uniform is None:
        return ""
    one = text.plain(plan.uniform.config)
    less = saved(plan.damage, plan.uniform.damage)
    told = f"As much predicted damage as **{one}**" if less is None else f"**{less} less predicted damage** than {one}"
    # With its size: it may lie far below the budget, and the gain is that of the bytes between, too.
    size = text.size(plan.uniform.nbytes)
    return f"{told} for all, the best single configuration of at most this size ({size})."


def saved(damage: float, than: float) -> str | None:
    """How much less damage this is, as a percentage; None where it is not less.

    >>> saved(0.6212, 1.0), saved(0.9971, 1.0), saved(1.0, 1.0)
    ('38 %', '0.29 %', None)
    """
    return f"{100 * (1 - damage / than):.2g} %" if damage < than else None


def doubt(plan: Plan) -> str:
    """Under which objectives the plan is no better than the best uniform configuration; "" under none."""
    names = [SHORT[name] for name in plan.not_better_under]
    if not names or plan.uniform is None:
        return ""
    listed = ", ".join(names)
    if len(names) == len(plan.damages):
        return f"By none of the measures is this plan better than {plan.uniform.config} for all."
    return (
        f"Not better than {plan.uniform.config} for all by {listed}: whether it is better depends on what is minimised."
    )


assert set(USES) == set(TARGETS) and set(SHORT) == set(OBJECTIVES)
