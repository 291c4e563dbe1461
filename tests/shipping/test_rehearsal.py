"""A dry run knows what the export will say: what it refuses is refused, and what it accepts is written."""

import zipfile

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from quantlab import QuantlabError, ShapeError, open_checkpoint
from quantlab.cli import main
from quantlab.formats import FORMATS, writing
from quantlab.formats.numpy import npz
from quantlab.formats.safetensors import shards
from quantlab.shipping.recipe import Rule
from quantlab.shipping.rehearsal import assigned, file_nbytes, keeps_all, refusals
from quantlab.shipping.shipping import ship
from tests.pages.app import page


def network(path, opset=15):
    """[in, out] of a MatMul, a bias, and a shape."""
    rng = np.random.default_rng(0)
    tensors = {
        "w": rng.standard_normal((32, 16), dtype=np.float32),
        "w.bias": rng.standard_normal(16, dtype=np.float32),
        "shape": np.array([1, 16]),
    }
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Add", ["h", "w.bias"], ["i"]),
            helper.make_node("Reshape", ["i", "shape"], ["y"]),
        ],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 32))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 16))],
        [numpy_helper.from_array(x, name) for name, x in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def rules(*texts):
    return [Rule.parse(text) for text in texts]


INT8 = "w=int8-sym-tensor-minmax"
CASES = {
    "onnx: what the model's opset knows": ("model.onnx", "onnx", ["int8-sym-ch1-minmax"], ""),
    "onnx: what it does not": ("model.onnx", "onnx", ["int4-sym-g16-minmax"], "opset 15"),
    "onnx: scales of another type": ("model.onnx", "onnx", ["int8-sym-tensor-minmax-sfp16"], "opset 15"),
    "onnx: copies of a type that is not written": (
        "arrays.npz",
        "onnx",
        ["*=copy", INT8],
        "int16",
    ),
    "onnx: names that meet": ("arrays.npz", "onnx", [INT8, "w_scale=copy"], "'w_scale'"),
    "gguf: blocks that fit": ("arrays.npz", "gguf", ["w=q8_0", "w_scale=copy"], ""),
    "gguf: a format of its own": ("arrays.npz", "gguf", [INT8], "ggml's own types"),
    "gguf: a copy of a long name": ("arrays.npz", "gguf", ["w=q8_0", "long*=copy"], "1 to 63"),
    "compressed-tensors: a matrix": ("arrays.npz", "compressed-tensors", ["*=copy", "w=int4-sym-g16-minmax"], ""),
    "mlx: another mapping": ("arrays.npz", "mlx", ["w=int4-sym-g32-minmax"], "uniform"),
    "npz: everything": ("arrays.npz", "npz", ["*=copy", "w=int3-uni-g16-minmax"], ""),
}


@pytest.mark.parametrize("case", CASES)
def test_a_rehearsal_says_what_the_export_says(case, tmp_path):
    source, format, texts, word = CASES[case]
    network(tmp_path / "model.onnx")
    arrays = {"w": np.ones((16, 32), np.float32), "w_scale": np.ones(3), "short": np.arange(3, dtype=np.int16)}
    np.savez(tmp_path / "arrays.npz", **arrays, **{"long" * 16: np.ones(3, np.float32)})
    with open_checkpoint(tmp_path / source) as opened:
        assignment = assigned(opened, rules(*texts), format)
        found = refusals(opened, assignment, format)
        if not word:
            assert not found
            assert ship(opened, assignment, tmp_path / "out", format).equal.all()
            return
        assert word in found[0]
        with pytest.raises(QuantlabError, match=word):
            ship(opened, assignment, tmp_path / "out", format)
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_written_again_keeps_what_no_rule_takes(tmp_path):
    with open_checkpoint(network(tmp_path / "model.onnx")) as source:
        found = assigned(source, rules("int8-sym-ch1-minmax", "w.bias=skip"), "onnx")
        assert {item.spec.name: item.reason for item in found.copied} == {
            "w.bias": "left out by a rule",
            "shape": "int64, not floating point",
        }
        assert (found.left, found.copied_nbytes) == ((), 16 * 4 + 2 * 8)
        ship(source, found, tmp_path / "small.onnx", "onnx")
        held = {each.name for each in onnx.load(tmp_path / "small.onnx").graph.initializer}
        assert {"w.bias", "shape"} < held
        assert not keeps_all(source, "npz")
        assert len(assigned(source, rules("int8-sym-ch1-minmax"), "npz").left) == 2


def test_the_command_line_says_so_before_anything_is_written(tmp_path, capsys):
    source = str(network(tmp_path / "model.onnx"))
    call = ["export", source, "--config", "int8-sym-ch1-minmax", "w.bias=skip", "--format", "onnx", "--dry-run"]
    assert main(call) == 0
    said = capsys.readouterr().err
    assert "2 tensors copied unchanged" in said
    assert "no rule takes or copies 1 of them, but a model is written again as a whole" in said
    assert main(["export", source, "--config", "int4-sym-g16-minmax", "--format", "onnx", "--dry-run"]) == 1
    said = capsys.readouterr().err
    assert "opset 15" in said
    assert "convert_version(model, 21)" in said


def test_the_page_says_so_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    source = str(network(tmp_path / "model.onnx"))
    url = {"file": source, "format": FORMATS["onnx"].label, "rule": "w.bias=skip"}
    at = page("export", config="int8-sym-ch1-minmax", **url)
    assert not at.exception and not at.error
    assert any("written again as a whole" in caption.value for caption in at.caption)
    assert at.dataframe[1].value["Tensor"].tolist() == ["shape", "w.bias"]
    at = page("export", config="int4-sym-g16-minmax", **url)
    assert "opset 15" in at.error[0].value
    assert next(button for button in at.button if button.label == "Write the file").disabled


def test_blocks_that_do_not_fit_are_refused_by_the_rules(tmp_path):
    np.savez(tmp_path / "arrays.npz", w=np.ones((32, 16), np.float32))
    with (
        open_checkpoint(tmp_path / "arrays.npz") as opened,
        pytest.raises(ShapeError, match="cannot have q8_0"),
    ):
        assigned(opened, rules("w=q8_0"), "npz")


# -- the axis of the output channels is the file's to know


def mixed(path):
    """A matrix that is multiplied by, [in, out], and filters of a convolution, [out, in, ...]."""
    rng = np.random.default_rng(0)
    w, filters = rng.standard_normal((8, 16), dtype=np.float32), rng.standard_normal((4, 3, 3, 3), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Conv", ["i", "filters"], ["z"])],
        "network",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 8)),
            helper.make_tensor_value_info("i", TensorProto.FLOAT, (1, 3, 8, 8)),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "yz"],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(filters, "filters")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.mark.parametrize(
    ("word", "axes"),
    [
        ("w8_channel", [1, 0]),
        ("int8_per_channel", [1, 0]),
        ("int4-aff-channel-minmax", [1, 0]),
        ("int8-sym-ch0-minmax-sfp16", [0, 0]),
        ("per_channel_symmetric", [-1, -1]),
    ],
)
def test_channels_are_those_of_the_file_where_no_axis_is_named(word, axes, tmp_path):
    with open_checkpoint(mixed(tmp_path / "model.onnx")) as source:
        found = assigned(source, rules(word), "onnx")
        assert [item.config.granularity.axis for item in found.taken] == axes
        if axes == [1, 0]:
            assert ship(source, found, tmp_path / "small.onnx", "onnx").equal.all()
            nodes = {node.input[0]: node for node in onnx.load(tmp_path / "small.onnx").graph.node}
            assert [nodes[f"{name}_quantized"].attribute[0].i for name in ("w", "filters")] == axes


def test_the_command_line_follows_the_file(tmp_path, capsys):
    source = str(mixed(tmp_path / "model.onnx"))
    for call in (["quantize", source, "--config", "w8_channel"], ["export", source, "--config", "w8_channel"]):
        assert main([*call, "--dry-run"]) == 0
        said = capsys.readouterr().out
        assert "int8-sym-ch1-minmax-sfp16" in said
        assert "int8-sym-ch0-minmax-sfp16" in said


def test_the_pages_follow_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    source = str(mixed(tmp_path / "model.onnx"))
    at = page("export", file=source, config="int8-sym-ch0-minmax")
    assert at.dataframe[0].value["Configuration"].tolist() == ["int8-sym-ch1-minmax", "int8-sym-ch0-minmax"]
    next(toggle for toggle in at.toggle if toggle.label.startswith("Channels as the file has them")).set_value(False)
    at.run()
    assert set(at.dataframe[0].value["Configuration"]) == {"int8-sym-ch0-minmax"}
    at = page("inspect", file=source, tensor="w", tab="Channels")
    assert [box.value for box in at.selectbox if box.label == "Channels along"] == [1]
    at = page("sweep", file=source)
    assert at.multiselect(key="granularities").value == ["tensor", "ch0", "ch1", "g128"]
    at = page("compare", file=source, tensor="w", compare=["int8-sym-ch1-minmax", "int8-sym-ch0-minmax"])
    assert not at.exception


def test_without_such_a_file_no_axis_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    np.savez(tmp_path / "arrays.npz", w=np.ones((32, 16), np.float32))
    at = page("export", file=str(tmp_path / "arrays.npz"), config="int8-sym-ch0-minmax")
    assert not [toggle for toggle in at.toggle if toggle.label.startswith("Channels")]


@pytest.mark.parametrize("limit", [10**9, 1000])
def test_the_size_of_an_archive_is_known_where_its_places_need_64_bits(limit, tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    monkeypatch.setattr(npz, "_ZIP64_FROM", limit - 200)
    np.savez(tmp_path / "model.npz", w=np.ones((32, 64), np.float32), v=np.ones((4, 64), np.float32), b=np.ones(3))
    with open_checkpoint(tmp_path / "model.npz") as source:
        found = assigned(source, rules("*=copy", "*=int8-sym-tensor-minmax"), "npz")
        shipment = ship(source, found, tmp_path / "out.npz", "npz")
        assert shipment.file_nbytes == file_nbytes(source, found, "npz")


def test_the_size_of_a_folder_of_shards_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(shards.folder_nbytes, "__defaults__", (1500,))
    monkeypatch.setattr(writing.export_layout, "__defaults__", (None, None, None, 1500))
    np.savez(tmp_path / "model.npz", **{f"{name}.weight": np.ones((32, 64), np.float32) for name in "abc"})
    with open_checkpoint(tmp_path / "model.npz") as source:
        found = assigned(source, rules("int4-sym-g32-minmax"), "compressed-tensors")
        shipment = ship(source, found, tmp_path / "out", "compressed-tensors")
        assert len(list((tmp_path / "out").glob("*.safetensors"))) == 3
        assert shipment.file_nbytes == file_nbytes(source, found, "compressed-tensors")


def test_a_copy_that_a_format_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    values = {"w": np.ones((8, 32), np.float32), "h": np.ones((8, 32), ml_dtypes.bfloat16)}
    save_file(values, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path / "model.safetensors") as source:
        (why,) = refusals(source, assigned(source, rules("*=copy", "w=int8-sym-tensor-minmax"), "npz"), "npz")
    assert "'h' (bfloat16) cannot be copied into an .npz" in why
