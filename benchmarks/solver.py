"""The solver behind plans beside HiGHS (scipy's milp), and on a table of 100,000 units by 100 options.

`python -m benchmarks.solver` prints both; `python -m benchmarks.solver UNITS OPTIONS` measures one large table in this
process, so that its peak of memory is its own.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np

from quantlab.planning.solving.front import front
from quantlab.planning.solving.solve import Solution, solve

from .memory import resident
from .timing import Spread, take_turns

TITLE = "Plans: the solver beside HiGHS"
MODELS = (226, 50), (226, 97), (562, 50)  # units of models of 7 and 70 billion weights; options: a grid, and the copy
BITS = 3.25, 4.25, 5.25  # a weight
LARGE, SMALL = (100_000, 100), (10_000, 50)
# Of one block: q, k, v, o, gate, up, down.
WEIGHTS = np.array([16_777_216, 4_194_304, 4_194_304, 16_777_216, 58_720_256, 58_720_256, 58_720_256])


def model(units: int, options: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Bytes and damage of units like a language model's, in integers of 2 to 8 bits in groups, the last option bf16."""
    random = np.random.default_rng(seed)
    weights, kinds = WEIGHTS[np.arange(units) % len(WEIGHTS)][:, None], np.arange(options - 1)
    bits, group, affine = 2 + kinds % 7, 16 << (kinds // 7 % 7), kinds // 49
    nbytes = weights * bits // 8 + weights // group * (2 + affine)
    nbytes += random.integers(80, 400, nbytes.shape)  # names and shapes in the file's header
    sensitivity = np.exp(random.normal(size=(units, 1)) * 1.2) * 1e-3
    damage = sensitivity * 4.0 ** (2.0 - bits) * (group / 128) ** 0.25 * 0.8**affine
    damage *= np.exp(random.normal(size=damage.shape) * 0.08)
    return np.c_[nbytes, 2 * weights], np.c_[damage, np.zeros(units)]


@dataclass(frozen=True)
class Highs:
    """What HiGHS says: a plan, its bytes and damage, and what it takes for a lower bound."""

    chosen: np.ndarray
    nbytes: int
    damage: float
    bound: float


def by_highs(nbytes: np.ndarray, damage: np.ndarray, budget: int, gap: float = 0.0, limit: float = 60.0) -> Highs:
    """The same problem by scipy's milp, within a relative `gap` and a `limit` of seconds. All options are allowed."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array, eye_array, kron

    units, options = nbytes.shape
    # It also stops at a gap of 1e-6 whatever the objective, which cannot be set: large numbers make that small.
    scale = 1e4 / damage.max(axis=1).mean()
    one = LinearConstraint(csr_array(kron(eye_array(units), np.ones((1, options)))), 1, 1)
    fits = LinearConstraint(csr_array(nbytes.reshape(1, -1).astype(np.float64)), 0, budget)
    found = milp(
        damage.ravel() * scale,
        integrality=np.ones(damage.size),
        bounds=Bounds(0, 1),
        constraints=[one, fits],
        options={"mip_rel_gap": gap, "time_limit": limit},
    )
    chosen = found.x.reshape(units, options).argmax(axis=1)
    each, bound = np.arange(units), float(found.mip_dual_bound) / scale
    return Highs(chosen, int(nbytes[each, chosen].sum()), float(damage[each, chosen].sum()), bound)


def table(budget: float, limit: float = 60.0) -> list[str]:
    """Rows of Markdown: time, bytes beyond the budget and gap, model by model and budget by budget.

    `budget` is the seconds that a row may take for the solver, `limit` those of HiGHS.
    """
    lines = [
        f"\n### {TITLE}\n",
        "Synthetic tables; HiGHS is asked for a gap of 0 and runs once a row. Its gap is damage against what the "
        "solver proves.\n",
        "| units x options | bits | front | solve | proved | HiGHS | takes | HiGHS beyond the budget | its gap |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for units, options in MODELS:
        nbytes, damage = model(units, options)
        for bits in BITS:
            size = int(bits / 16 * int(nbytes[:, -1].sum()))
            lines.append(row(nbytes, damage, size, bits, budget, limit))
    return lines


def row(nbytes: np.ndarray, damage: np.ndarray, size: int, bits: float, budget: float, limit: float) -> str:
    """One row."""
    known = front(nbytes, damage)
    calls = {"front": lambda: front(nbytes, damage), "solve": lambda: solve(nbytes, damage, size, known)}
    taken = {name: Spread.of(times).median for name, times in take_turns(calls, budget).items()}
    ours = solve(nbytes, damage, size, known)
    start = time.perf_counter()
    theirs = by_highs(nbytes, damage, size, limit=limit)
    seconds = time.perf_counter() - start
    more, over = seconds / (taken["front"] + taken["solve"]), max(0, theirs.nbytes - size)
    cells = [
        f"{nbytes.shape[0]} x {nbytes.shape[1]}",
        str(bits),
        f"{1e3 * taken['front']:.1f} ms",
        f"{1e3 * taken['solve']:.1f} ms",
        gap_text(ours),
        f"{seconds:.1f} s{' (its limit)' if seconds > limit else ''}",
        f"**{more:,.0f}x**",
        f"{over:,} bytes" if over else "-",
        f"{theirs.damage / ours.damage - 1:+.1e}",
    ]
    return f"| {' | '.join(cells)} |"


def gap_text(solution: Solution) -> str:
    """Whether a plan is proved, or how far from it."""
    return "yes" if solution.proved else f"within {solution.gap / solution.damage:.0e}"


def large(units: int, options: int) -> dict[str, float]:
    """Of a large table: seconds of its front and of a plan, on one core; its gap; peak memory beyond the table."""
    nbytes, damage = model(units, options)
    size = int(BITS[1] / 16 * int(nbytes[:, -1].sum()))
    solve(nbytes[:64], damage[:64], size)
    before = resident("VmRSS")
    start = time.process_time()
    known = front(nbytes, damage)
    middle = time.process_time()
    solution = solve(nbytes, damage, size, known)
    end = time.process_time()
    # The peak so far can be that of making the table: then it took less than that.
    return {
        "front": middle - start,
        "solve": end - middle,
        "gap": solution.gap / solution.damage,
        "peak": max(0, resident("VmHWM") - before),
        "table": nbytes.nbytes + damage.nbytes,
    }


def large_line(units: int, options: int) -> str:
    """`large` in a fresh process, in words."""
    command = [sys.executable, "-m", "benchmarks.solver", str(units), str(options)]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return (
        f"\n{units:,} units x {options} options, a table of {found['table'] / 1e6:,.0f} MB: "
        f"front {found['front']:.1f} s, solve {found['solve']:.1f} s, on one core, to stay under 5 s together; "
        f"within {found['gap']:.0e} of the optimum; {found['peak'] / 1e6:,.0f} MB at most beyond the table."
    )


def main() -> None:
    """Print the table, or figures of one large one."""
    if len(sys.argv) == 3:
        print(json.dumps(large(int(sys.argv[1]), int(sys.argv[2]))))
        return
    print("\n".join(table(3.0)))
    print(large_line(*LARGE))


if __name__ == "__main__":
    main()
