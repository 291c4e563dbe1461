"""What a sweep will take is told before it is run, and too much is refused with the number and the way out."""

import re

import pytest

from quantlab.core.config import grid
from quantlab.errors import LimitError
from quantlab.formats import TensorSpec
from quantlab.sweeping.sweep import MAX_EVALUATIONS, MAX_ROWS
from quantlab.ui import sweep_job, sweep_plan

CONFIGS = grid(["int4", "int8"], ["symmetric", "affine"], ["tensor", "ch1"], ["minmax", "mse"])


def specs(*sizes: int) -> list[TensorSpec]:
    return [TensorSpec("x", (size,), "float32", 4 * size) for size in sizes]


def test_an_estimate_grows_with_configurations_weights_and_tensors():
    base = sweep_plan.estimate(CONFIGS[:2], specs(100_000))
    assert 0 < base.seconds < 60
    assert sweep_plan.estimate(CONFIGS, specs(100_000)).seconds > base.seconds
    assert sweep_plan.estimate(CONFIGS[:2], specs(1_000_000)).seconds > base.seconds
    assert sweep_plan.estimate(CONFIGS[:2], specs(*[100_000] * 3)).seconds == pytest.approx(3 * base.seconds)


def test_the_memory_is_that_of_the_two_largest_tensors_however_many_there_are():
    one, two = (sweep_plan.estimate(CONFIGS, specs(*sizes)).peak_bytes for sizes in ([10**9], [10**9, 10**9]))
    many = sweep_plan.estimate(CONFIGS, specs(*[10**9] * 100)).peak_bytes
    assert two - one == pytest.approx(4e9, rel=0.01)
    assert many - two == pytest.approx(0, abs=0.1e9)  # the table, and what the process took meanwhile


@pytest.mark.parametrize("config", grid(
    ["int2", "int5", "int16", "fp16", "q4_0"], ["uniform"], ["tensor", "ch3", "ch-2", "g100000"],
    ["entropy100", "percentile1_99", "ema0.5_2"], ["bf16"], [False, True],
), ids=str)  # fmt: skip
def test_every_configuration_can_be_estimated(config):
    assert sweep_plan.estimate([config], specs(1000)).seconds >= 0


def test_an_estimate_says_what_it_is_of():
    words = sweep_plan.told(CONFIGS[:2], specs(1_000_000, 500_000))
    for part in ("2 configurations", "2 tensors", "1.5 M weights", "3 M evaluations"):
        assert part in words
    assert re.search(r"\d [MG]B of memory", words)  # of the whole process, which other tests have filled


@pytest.mark.parametrize(
    ("sizes", "number"),
    [([1] * (MAX_ROWS // len(CONFIGS) + 1), f"{MAX_ROWS:,}"), ([MAX_EVALUATIONS // 8], f"{MAX_EVALUATIONS:,}")],
)
def test_too_much_is_refused_with_the_limit_and_the_way_out(sizes, number):
    with pytest.raises(LimitError, match=f"past the limit of {number}: choose fewer .* command line"):
        sweep_plan.check(CONFIGS, specs(*sizes))


def test_a_job_does_not_begin_what_the_page_would_refuse():
    class Deep:
        """A checkpoint of more tensors than anybody sweeps."""

        spec = staticmethod(lambda name: specs(1)[0])

    class Session:
        checkpoint = Deep()

    with pytest.raises(LimitError, match="past the limit"):
        sweep_job.start(Session(), CONFIGS, [str(i) for i in range(MAX_ROWS)])
