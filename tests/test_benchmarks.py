"""The table of peers that `make bench` times: everybody in it computes the same thing."""

import numpy as np
import pytest

from benchmarks import plans, solver
from benchmarks.peers import Missing
from benchmarks.works import SECTIONS, Peer, Work

PAIRS = [(work, peer) for section in SECTIONS for work in section.works if work.same for peer in work.peers]


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(5).standard_normal((64, 1024), dtype=np.float32)


@pytest.mark.parametrize(("work", "peer"), PAIRS, ids=lambda part: part.name)
def test_a_peer_computes_what_quantlab_computes(work: Work, peer: Peer, x: np.ndarray):
    try:
        theirs = peer.build(x)()
    except ModuleNotFoundError as missing:
        if missing.name != "torch":  # only `make bench` installs it
            raise
        pytest.skip("torch is not installed")
    except Missing as lack:
        pytest.skip(f"{peer.name}: {lack}")
    assert work.same is not None and work.same(work.ours(x)(), theirs)


def test_the_solver_and_its_peer_solve_the_same_table():
    nbytes, damage = solver.model(12, 8)
    line = solver.row(nbytes, damage, int(0.3 * nbytes[:, -1].sum()), 4.8, budget=0.0, limit=60.0)
    assert line.startswith("| 12 x 8 | 4.8 |") and "| yes |" in line
    assert abs(float(line.split("|")[-2])) < 1e-9  # its gap


def test_a_large_table_is_measured_in_a_process_of_its_own():
    assert "300 units x 20 options, a table of 0 MB: front" in solver.large_line(300, 20)


def test_plans_of_the_sample_are_not_worse_than_uniform_ones(monkeypatch):
    monkeypatch.setattr(plans, "MODELS", {"the sample": ["any"]})
    lines = [line.split("|") for line in plans.table(seconds=0.0)][1:]
    assert 1 <= len(lines) <= plans.SIZES
    for line in lines:
        assert "proved" in line[4]
        assert float(line[7]) <= float(line[6])
