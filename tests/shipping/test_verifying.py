"""Every export can be checked once nobody remembers how it was made: its figures are those that the export showed."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import quantlab as ql
from quantlab.formats import FORMATS
from quantlab.shipping.recipe import Rule
from quantlab.shipping.rehearsal import assigned, file_nbytes
from quantlab.shipping.shipping import ship
from quantlab.shipping.verifying import verify
from tests.formats.gguf.test_write import model as gguf_model  # noqa: F401
from tests.formats.onnx.test_rewrite import network

FIGURES = ["tensor", "shape", "sqnr_db", "mse", "max_abs_error", "nbytes", "bits_per_weight", "compression_ratio"]
RULES = {
    "npz": ["int4-sym-g32-mse", "*b.weight=int8-aff-ch0-minmax"],
    "safetensors": ["int3-uni-g32-mse", "*b.weight=bf16"],
    "gguf": ["q4_0", "*b.weight=q8_0"],
    "onnx": ["int4-sym-g32-mse", "*b.weight=int8-aff-ch1-minmax", "c.weight=int16-sym-tensor-minmax"],
    "compressed-tensors": [
        "int4-sym-g32-mse",
        "*b.weight=int8-sym-ch0-minmax-sfp16",
        "c.weight=int2-sym-tensor-minmax",
    ],
    "compressed-tensors, affine": ["int4-aff-g32-mse"],
    "mlx": ["int4-uni-g32-mse", "*b.weight=int6-uni-g64-minmax-sbf16"],
    "dense": ["int4-sym-g32-mse", "*b.weight=int8-aff-ch0-minmax"],
}


@pytest.fixture
def model(tmp_path, rng):
    """A folder with three weights, a bias and integers, of two dtypes."""
    folder = tmp_path / "model"
    folder.mkdir()
    tensors = {
        "a.weight": rng.standard_normal((48, 64)).astype(np.float16),
        "b.weight": rng.standard_normal((16, 128)).astype(np.float32),
        "c.weight": rng.standard_normal((12, 64)).astype(np.float32),
        "a.bias": rng.standard_normal(48).astype(np.float32),
        "steps": np.arange(6),
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "tokenizer.json").write_text("{}" * 1000)
    (folder / "config.json").write_text('{"model_type": "x", "torch_dtype": "float16"}')
    return folder


def exported(source, out, texts, format):
    rules = [Rule("*", None, copy=True), *map(Rule.parse, texts)]
    if format == "gguf" and "steps" in source.names:
        rules.append(Rule("steps", None))
    assignment = assigned(source, rules, format)
    expected = file_nbytes(source, assignment, format)
    shipment = ship(source, assignment, out, format)
    assert shipment.file_nbytes == expected  # to the byte, before anything was read
    return shipment


def check(found, shipment):
    expected = shipment.found.set_index("tensor").loc[found.frame["tensor"]].reset_index()
    assert len(found.frame) == len(shipment.found)
    for name in FIGURES:
        if name in ("tensor", "shape"):
            assert found.frame[name].tolist() == expected[name].tolist()
        else:
            np.testing.assert_allclose(found.frame[name].astype(float), expected[name].astype(float), rtol=1e-12)
    assert found.note == shipment.note


@pytest.mark.parametrize("case", RULES)
def test_the_figures_are_those_of_the_export(case, model, tmp_path):
    format = case.split(",")[0]
    out = tmp_path / f"out{FORMATS[format].suffix}"
    with ql.open_checkpoint(model) as source:
        shipment = exported(source, out, RULES[case], format)
        found = verify(out, source)
        if format == "dense":  # which says nothing of sizes: what it stores are floats
            assert found.frame["sqnr_db"].tolist() == pytest.approx(shipment.found["sqnr_db"].tolist(), rel=1e-12)
        else:
            check(found, shipment)
        assert (found.same, found.absent) == (len(shipment.assignment.copied), format == "gguf")
    if format == "dense":
        with pytest.raises(ql.CheckpointError, match="give --source"):
            verify(out)
    else:
        alone = verify(out)
        assert set(alone.frame["tensor"]) >= set(found.frame["tensor"])
        assert alone.frame["sqnr_db"].isna().all()


def test_models_that_were_written_again_are_verified(gguf_model, tmp_path):  # noqa: F811
    with ql.open_checkpoint(gguf_model) as source:
        shipment = exported(source, tmp_path / "small.gguf", ["*attn_q*=q8_0"], "gguf")
        check(verify(tmp_path / "small.gguf", source), shipment)
    (tmp_path / "model.onnx").write_bytes(network(21).SerializeToString())
    with ql.open_checkpoint(tmp_path / "model.onnx") as source:
        rules = ["matmul.w=int4-sym-g16-mse", "gemm.w=int8-aff-ch1-minmax", "conv.w=int8-sym-g8-minmax"]
        shipment = exported(source, tmp_path / "small.onnx", rules, "onnx")
        found = verify(tmp_path / "small.onnx", source)
        check(found, shipment)
        assert found.frame["config"].tolist() == ["int4-sym-g16", "int8-aff-ch1", "int8-sym-g8"]
        assert found.same == len(shipment.assignment.copied)


def test_a_copy_that_is_not_the_sources_is_measured_or_refused(model, tmp_path):
    with ql.open_checkpoint(model) as source:
        out = tmp_path / "out"
        exported(source, out, ["int4-sym-g32-mse"], "compressed-tensors")
        tensors = load_file(out / "model.safetensors")
        save_file({**tensors, "a.bias": tensors["a.bias"] + 1}, out / "model.safetensors")
        found = verify(out, source)
        row = found.frame.set_index("tensor").loc["a.bias"]
        assert row["config"] == "float32" and row["max_abs_error"] == pytest.approx(1, rel=1e-6)
        save_file({**tensors, "steps": tensors["steps"] + 1}, out / "model.safetensors")
        with pytest.raises(ql.CheckpointError, match=r"'steps' of .* is not that of"):
            verify(out, source)


def changed(config, path, value):
    *parents, last = path
    for key in parents:
        config = config[key]
    config[last] = value


GROUP = ("quantization_config", "config_groups", "group_0")
LIES = {
    "bits": (*GROUP, "weights", "num_bits"),
    "groups": (*GROUP, "weights", "group_size"),
    "strategy": (*GROUP, "weights", "strategy"),
    "mapping": (*GROUP, "weights", "symmetric"),
    "targets": (*GROUP, "targets"),
    "all": ("quantization_config", "config_groups"),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("value", [None, -1, 3, 10**30, "x", [], {}, False, 64])
def test_a_config_that_contradicts_the_arrays_is_refused(lie, value, model, tmp_path):
    with ql.open_checkpoint(model) as source:
        exported(source, tmp_path / "out", ["int4-sym-g32-mse"], "compressed-tensors")
    place = tmp_path / "out" / "config.json"
    config = json.loads(place.read_text())
    changed(config, LIES[lie], value)
    place.write_text(json.dumps(config))
    with pytest.raises(ql.CheckpointError):
        verify(tmp_path / "out")


@pytest.mark.parametrize("value", [None, -1, 3, 10**30, "x", [], {}, 64])
@pytest.mark.parametrize("key", ["bits", "group_size"])
def test_an_mlx_config_that_contradicts_the_arrays_is_refused(key, value, model, tmp_path):
    with ql.open_checkpoint(model) as source:
        exported(source, tmp_path / "out", ["int4-uni-g32-mse"], "mlx")
    place = tmp_path / "out" / "config.json"
    config = json.loads(place.read_text())
    config["quantization"][key] = value
    place.write_text(json.dumps(config))
    with pytest.raises(ql.CheckpointError):
        verify(tmp_path / "out")


def test_damaged_scales_are_found_without_a_source(model, tmp_path):
    with ql.open_checkpoint(model) as source:
        exported(source, tmp_path / "out", ["int4-sym-g32-mse"], "compressed-tensors")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    tensors["a.weight_scale"][0, 0] = np.nan
    save_file(tensors, tmp_path / "out" / "model.safetensors")
    with pytest.raises(ql.QuantlabError):
        verify(tmp_path / "out")
