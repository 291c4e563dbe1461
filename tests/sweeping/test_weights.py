"""One definition of the weights: what belongs to them, what is left alone and why, and how to take it all the same."""

import numpy as np
import pytest

import quantlab as ql
from quantlab.errors import ConfigError
from quantlab.formats import TensorSpec, open_checkpoint
from quantlab.shipping.recipe import Rule, assign, select
from quantlab.sweeping.weights import left_alone, names_of_weights, weights_of
from tests.sweeping.models import WEIGHTS, floats, saved

INT8 = ql.QuantConfig.parse("int8-sym-tensor-minmax")
WITH = [kind for kind, names in WEIGHTS.items() if names]


def spec(name, *shape, dtype="float32", **about):
    return TensorSpec(name, shape, dtype, 0, **about)


@pytest.mark.parametrize(
    "name",
    [
        "optimizer.state.0.exp_avg",
        "optimizer_states.0.state.3.exp_avg_sq",
        "generator_optim.state.1.step_size",
        "optim0/v/fc/kernel",
        "optimizer_weights/adam/m/dense/kernel",
        "opt_state.mu.fc",
        "fc.weight.momentum_buffer",
        "state.4.max_exp_avg_sq",
        "state.4.exp_avg_sq_row",
    ],
)
def test_what_an_optimizer_keeps_is_no_weight(name):
    assert left_alone(spec(name, 8, 8)).one == "an optimizer's state"


@pytest.mark.parametrize(
    "name", ["optimus.encoder.weight", "state.0.weight", "model_ema.fc.weight", "exp_avg.weight", "optical.flow.kernel"]
)
def test_a_weight_whose_name_only_resembles_one_is(name):
    assert left_alone(spec(name, 8, 8)) is None


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (spec("p2o.reshape.0", 1, 24, 1, 1), "a vector"),
        (spec("bias_of_rnn", 1, 512), "a vector"),
        (spec("p2o.reshape.1", 1, 1, 1, 1, multiplied=True), "a single value"),
        (spec("fc.weight_scale_inv", 4, 4, aside="scales of quantized numbers"), "scales of quantized numbers"),
        (spec("ids", 4, 4, dtype="int64"), "not floating point"),
        (spec("none", 0, 4), "empty"),
        (spec("vit.pos_embed", 1, 197, 768), "an embedding"),
    ],
)
def test_what_is_left_alone_says_what_it_is(given, what):
    assert left_alone(given).one.startswith(what)


@pytest.mark.parametrize(
    "given",
    [
        spec("final_conv.weight", 1, 128, 1),
        spec("dense/kernel", 64, 1),
        spec("auto.cast.98", 24, 1, 2, 2),
        spec("narrow", 1, 24, 1, 1, multiplied=True),
    ],
)
def test_a_layer_of_one_output_is_a_weight(given):
    assert left_alone(given) is None


@pytest.mark.parametrize("kind", WITH)
def test_the_library_sweeps_the_weights_of_a_checkpoint_and_takes_others_by_name(kind, tmp_path):
    with open_checkpoint(saved(kind, tmp_path)) as checkpoint:
        assert ql.sweep(checkpoint, [INT8])["tensor"].tolist() == WEIGHTS[kind]
        found = weights_of(checkpoint)
        assert sorted([*found.names, *found.left]) == sorted(checkpoint.names)
        frame = ql.sweep(checkpoint, [INT8], checkpoint.names)
        assert frame["tensor"].tolist() == checkpoint.names
        assert frame["nbytes"].notna().all()


def test_arrays_that_are_given_as_such_are_all_swept():
    arrays = {"a.bias": floats(4), "embed": floats(4, 4), "w": floats(4, 4)}
    assert ql.sweep(arrays, [INT8])["tensor"].tolist() == list(arrays)
    assert ql.sweep(floats(4), [INT8])["tensor"].tolist() == ["tensor"]


@pytest.mark.parametrize("kind", WITH)
def test_an_export_says_why_it_leaves_each_of_the_others(kind, tmp_path):
    with open_checkpoint(saved(kind, tmp_path)) as checkpoint:
        found = assign(checkpoint, [Rule("", INT8)])
        assert [item.spec.name for item in found.taken] == select(checkpoint, []) == WEIGHTS[kind]
        assert all("not asked for by name" in item.reason for item in found.left)
        for item in found.left:
            assert assign(checkpoint, [Rule(item.spec.name, INT8)]).taken[0].spec.name == item.spec.name


def test_a_weight_in_a_branch_does_not_keep_the_others_from_being_exported(tmp_path):
    with open_checkpoint(saved("onnx", tmp_path)) as checkpoint:
        q = {n: ql.quantize(checkpoint.raw(n), INT8) for n in names_of_weights(checkpoint)}
        path = ql.export(tmp_path / "small.onnx", q, format="onnx", source=checkpoint)
        inner = "then_branch.w"
        with open_checkpoint(path) as written:
            np.testing.assert_array_equal(written.raw(inner), checkpoint.raw(inner))


@pytest.mark.parametrize(
    ("kind", "what"), [("embedding", r"1 embedding: name .*'embedding\.weight'"), ("branches", "2 inside a branch")]
)
def test_a_file_without_weights_says_what_it_has_and_can_be_taken_by_name(kind, what, tmp_path):
    with open_checkpoint(saved(kind, tmp_path)) as checkpoint:
        for use in (lambda: ql.sweep(checkpoint, [INT8]), lambda: assign(checkpoint, [Rule("", INT8)])):
            with pytest.raises(ConfigError, match=what):
                use()
        named = [Rule("", INT8), Rule(checkpoint.names[0], INT8)]
        assert [item.spec.name for item in assign(checkpoint, named).taken] == checkpoint.names[:1]


def test_a_file_without_floats_does_not_advise_to_name_any(tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(4))
    with (
        open_checkpoint(tmp_path / "ids.npy") as checkpoint,
        pytest.raises(ConfigError, match="only those are quantized"),
    ):
        ql.sweep(checkpoint, [INT8])
