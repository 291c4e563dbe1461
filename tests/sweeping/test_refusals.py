"""What shapes alone tell of refusals is what a sweep refuses, in the same words, and neither more nor less."""

import itertools

import numpy as np
import pytest

import quantlab as ql
from quantlab.formats import TensorSpec
from quantlab.sweeping.estimate import Cost, outlook
from quantlab.sweeping.refusals import foretold, refusals, served

CONFIGS = [
    *ql.grid(
        ["int4", "int8"], ["symmetric", "affine", "uniform"], ["tensor", "ch0", "ch1", "ch-2", "g100", "g512", "g600"],
        ["minmax", "mse", "entropy", "entropy100", "percentile", "movavg", "ema"],
    ),
    *ql.grid(["fp16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"]),
    *ql.grid(["int4"], ["symmetric"], ["g8", "g700"], ["exact", "octav"]),
]  # fmt: skip
SHAPES = [(), (1,), (511,), (512,), (1100,), (2, 600), (600, 2), (4, 1100), (1, 94), (3, 64), (2, 300, 2), (2, 512, 3)]


def spec(*shape):
    return TensorSpec("x".join(map(str, shape)) or "scalar", shape, "float32", 0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_refusal_is_foretold_from_the_shape_in_the_words_of_the_sweep(shape):
    x = np.asarray(np.random.default_rng(1).standard_normal(shape), np.float32)
    frame = ql.sweep(x, CONFIGS)
    refused = {entry["config"]: [entry["reason"]] for entry in frame.attrs["refused"]}
    assert refusals(CONFIGS, [spec(*shape)]) == refused


def test_configurations_that_refuse_alike_share_a_sentence():
    specs = [spec(*shape) for shape in SHAPES]
    entropy = ql.grid(["int4", "int8"], ["symmetric"], ["g100"], ["entropy"])
    (told,) = foretold([*entropy, ql.QuantConfig()], specs)
    assert told.startswith(f"{entropy[0]}, {entropy[1]} refuse {len(SHAPES)} of {len(SHAPES)} tensors: entropy")


def test_what_is_refused_takes_no_time_and_is_counted():
    specs = [spec(*shape) for shape in SHAPES]
    configs = ql.grid(["int8"], ["symmetric"], ["tensor"], ["minmax", "entropy"])
    parts = served(configs, specs)
    assert sum(map(len, parts.values())) == len(specs)
    short = [each for each in specs if each.size < 512]
    assert parts[(configs[0],)] == short
    found = outlook(configs, specs, lambda kind: Cost(1.0 * len(kind), 0.0), 1)
    assert (found.refused, found.rows) == (len(short), 2 * len(specs))
    assert found.seconds == pytest.approx(2 * len(specs) - len(short))


@pytest.mark.parametrize("pair", itertools.combinations(SHAPES, 2), ids=str)
def test_the_estimate_of_two_tensors_is_that_of_each(pair):
    def spent(shapes):
        return outlook(CONFIGS, [spec(*shape) for shape in shapes], lambda kind: Cost(1.0, 1e-3), 1).seconds

    assert spent(pair) == pytest.approx(sum(spent([shape]) for shape in pair))
