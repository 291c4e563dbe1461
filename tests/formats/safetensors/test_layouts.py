"""Layouts of other programs, read by those programs: the values they compute are ours, bit for bit."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import quantlab as ql
from quantlab.formats import FORMATS
from quantlab.formats.output.outgoing import Outgoing, outgoing
from quantlab.formats.safetensors.shards import shards, write_folder
from quantlab.formats.writing import export_layout

from ...faults import Fault

compressors = pytest.importorskip("compressed_tensors.compressors")
torch = pytest.importorskip("torch")

SHAPES = [(64, 128), (33, 96), (7, 64), (1, 32)]
SCALES = ["fp32", "fp16", "bf16"]
PACKED = [
    config
    for config in ql.grid(
        ["int2", "int4", "int8"], ["symmetric", "affine"], ["tensor", "ch0", "g32"], scale_dtypes=SCALES
    )
    + ql.grid(["int4", "int8"], ["symmetric"], ["ch0", "g32"], ["exact"], SCALES)
    if FORMATS["compressed-tensors"].layout.refuses((64, 128), config) is None
]
MLX = ql.grid(
    ["int2", "int3", "int4", "int5", "int6", "int8"], ["uniform"], ["g32", "g64", "g128"], scale_dtypes=SCALES
)


def weights(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def as_torch(array):
    array = np.ascontiguousarray(array)
    return (
        torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        if array.dtype.name == "bfloat16"
        else torch.from_numpy(array)
    )


@pytest.mark.parametrize("config", PACKED, ids=str)
def test_compressed_tensors_decompresses_to_the_values_that_were_measured(config, tmp_path):
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    compressor = compressors.BaseCompressor.get_value_from_registry("pack-quantized")
    layout = FORMATS["compressed-tensors"].layout
    for shape in SHAPES:
        if layout.refuses(shape, config):
            continue
        q = ql.quantize(weights(shape), config)
        folder = ql.export(tmp_path / f"{shape[0]}", {"fc.weight": q}, format="compressed-tensors")
        settings = json.loads((folder / "config.json").read_text())["quantization_config"]
        group = settings["config_groups"]["group_0"]
        scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**group["weights"]))
        arrays = load_file(folder / "model.safetensors")
        stored = {name.removeprefix("fc."): as_torch(array) for name, array in arrays.items()}
        decoded = compressor.decompress(stored, scheme)["weight"].to(torch.float32).numpy()
        np.testing.assert_array_equal(decoded, layout.decoded(q))


@pytest.mark.parametrize(
    "slug",
    [
        "int4-sym-g32-minmax-sbf16",
        "int4-sym-tensor-minmax-sbf16",
        "int4-aff-g32-minmax-sbf16",
        "int8-sym-ch0-minmax-sbf16",
        "int8-aff-ch0-minmax-sbf16",
        "int8-sym-g64-mse-sbf16",
        "int2-sym-g32-mse-sbf16",
        "int2-aff-ch0-minmax-sbf16",
    ],
)
def test_compressed_tensors_converts_the_folder_without_knowing_the_model(slug, tmp_path):
    converters = pytest.importorskip("compressed_tensors.entrypoints.convert")
    config = ql.QuantConfig.parse(slug)
    q = ql.quantize(weights((64, 128)).astype("bfloat16"), config)
    folder = ql.export(tmp_path / "packed", {"fc.weight": q}, format="compressed-tensors")
    dequantizer = converters.CompressedTensorsDequantizer(folder, dtype=torch.bfloat16)
    converters.convert_checkpoint(folder, tmp_path / "dense", dequantizer, device="cpu")
    with ql.open_checkpoint(tmp_path / "dense") as dense:
        decoded = dense.load("fc.weight")
    np.testing.assert_array_equal(decoded, FORMATS["compressed-tensors"].layout.decoded(q))


@pytest.mark.parametrize("preset", ["int4-sym-g32-mse-sbf16", "int8-sym-ch0-minmax-sbf16"])
def test_transformers_computes_the_logits_of_the_dense_twin(preset, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False, dtype="bfloat16",
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()
    model.save_pretrained(tmp_path / "source")
    with ql.open_checkpoint(tmp_path / "source") as source:
        tensors = [
            Outgoing(
                name,
                source.spec(name).shape,
                source.spec(name).dtype,
                ql.QuantConfig.parse(preset) if "proj" in name else None,
                lambda name=name: source.raw(name),
            )
            for name in source.names
        ]
        layout = FORMATS["compressed-tensors"].layout
        write_folder(tmp_path / "packed", tensors, layout, source, lambda count: None)
        twin = model.state_dict()
        for tensor in tensors:
            if tensor.config:
                twin[tensor.name] = torch.from_numpy(layout.decoded(tensor.quantized())).to(torch.bfloat16)
    model.load_state_dict(twin)
    model.save_pretrained(tmp_path / "twin")
    load = transformers.AutoModelForCausalLM.from_pretrained
    packed, dense = (load(tmp_path / name, dtype=torch.bfloat16).eval() for name in ("packed", "twin"))
    names: dict = {}
    exec(FORMATS["compressed-tensors"].snippet(tmp_path / "packed", tmp_path / "packed"), names)
    assert type(names["model"]).__name__ == "LlamaForCausalLM"
    tokens = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        assert torch.equal(packed(tokens).logits, dense(tokens).logits)


@pytest.mark.parametrize("config", MLX, ids=str)
def test_mlx_dequantizes_to_the_values_that_were_measured(config, tmp_path):
    mx = pytest.importorskip("mlx.core")
    mx.set_default_device(mx.cpu)
    q = ql.quantize(weights((24, 256)), config)
    folder = ql.export(tmp_path / "mlx", {"fc.weight": q}, format="mlx")
    settings = json.loads((folder / "config.json").read_text())["quantization"]
    arrays = mx.load(str(folder / "model.safetensors"))
    parts = [arrays[f"fc.{part}"] for part in ("weight", "scales", "biases")]
    values = mx.dequantize(*parts, group_size=settings["group_size"], bits=settings["bits"])
    decoded = np.array(values.astype(mx.float32))
    np.testing.assert_array_equal(decoded, FORMATS["mlx"].layout.decoded(q))
    if config.scale_dtype == "fp32":
        np.testing.assert_array_equal(decoded, q.dequantize())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dense_holds_the_decoded_values_in_the_sources_dtype(dtype, tmp_path):
    x = weights((8, 64)).astype(np.dtype(dtype) if dtype != "bfloat16" else "bfloat16")
    q = ql.quantize(x, ql.PRESETS["w4_g32"])
    path = ql.export(tmp_path / "dense.safetensors", {"fc.weight": q}, format="dense")
    found = load_file(path)["fc.weight"]
    assert found.dtype.name == dtype
    np.testing.assert_array_equal(found, q.dequantize().astype(found.dtype))


REFUSED = {
    "compressed-tensors": [
        ("fp16", (4, 64), "int2, int4 and int8"),
        ("int3-sym-g32-minmax", (4, 64), "int2, int4 and int8"),
        ("int4-uni-g32-minmax", (4, 64), "no float offsets"),
        ("int4-aff-tensor-minmax", (4, 64), "per channel or per group"),
        ("int4-sym-ch1-minmax", (4, 64), "axis 0"),
        ("int4-sym-g32-minmax", (4, 65), "whole groups"),
        ("int4-aff-g32-minmax", (8, 64), "4-bit zero points"),
        ("int4-sym-g32-minmax", (4, 2, 32), "matrices"),
    ],
    "mlx": [
        ("int4-sym-g32-minmax", (4, 64), "uniform mapping"),
        ("int7-uni-g32-minmax", (4, 64), "int2 to int6 and int8"),
        ("int4-uni-g16-minmax", (4, 64), "32, 64 or 128"),
        ("int4-uni-g32-minmax", (4, 65), "whole groups"),
    ],
}


@pytest.mark.parametrize(
    ("format", "slug", "shape", "why"), [(format, *case) for format, cases in REFUSED.items() for case in cases]
)
def test_what_a_format_cannot_hold_is_refused_with_the_reason_and_nothing_is_written(
    format, slug, shape, why, tmp_path
):
    q = ql.quantize(weights(shape), ql.QuantConfig.parse(slug))
    with pytest.raises(ql.ExportError, match=why):
        ql.export(tmp_path / "out", {"fc.weight": q}, format=format)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_never_replaced(tmp_path):
    q = ql.quantize(weights((4, 64)), ql.PRESETS["w4_g32"])
    with pytest.raises(ql.ExportError, match="exists already"):
        ql.export(tmp_path, {"fc.weight": q}, format="compressed-tensors")


def test_a_cancelled_folder_leaves_nothing(tmp_path):
    q = ql.quantize(weights((64, 128)), ql.PRESETS["w4_g32"])
    with pytest.raises(ql.Cancelled):
        ql.export(tmp_path / "out", {"fc.weight": q}, format="compressed-tensors", cancel=lambda: True)
    assert not list(tmp_path.iterdir())


def test_large_models_are_cut_into_shards_that_the_index_names(tmp_path):
    q = ql.quantize(weights((64, 128)), ql.PRESETS["w4_g32"])
    tensors = outgoing({f"layer{i}.weight": q for i in range(5)})
    assert [len(run) for run in shards(tensors, 2 * q.nbytes)] == [2, 2, 1]
    layout = FORMATS["compressed-tensors"].layout
    write_folder(tmp_path / "out", tensors, layout, None, lambda count: None, shard_bytes=2 * q.nbytes)
    with ql.open_checkpoint(tmp_path / "out") as found:
        assert len(found.names) == 15
        np.testing.assert_array_equal(found.raw("layer4.weight_scale"), q.scale)


KILLED = """
import pathlib, sys, numpy as np, quantlab as ql
from quantlab.formats import FORMATS
from quantlab.formats.safetensors.shards import write_folder
from quantlab.formats.output.outgoing import outgoing
slug = "int4-uni-g32-minmax" if sys.argv[2] == "mlx" else "w4_g32"
q = ql.quantize(np.ones((64, 128), np.float32), ql.QuantConfig.parse(slug))
tensors = outgoing({f"fc{i}.weight": q for i in range(3)})
def on_bytes(count):
    print("written", flush=True)
    sys.stdin.read(1)
write_folder(pathlib.Path(sys.argv[1]), tensors, FORMATS[sys.argv[2]].layout, None, on_bytes, shard_bytes=2 * q.nbytes)
print("done", flush=True)
sys.stdin.read(1)
"""


def killed_after(steps, final, format):
    """Kill the process after so many pieces of bytes, in the middle of the folder; whether it had come to its end."""
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(final), format], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    line = child.stdout.readline()
    while steps and line == b"written\n":
        child.stdin.write(b"x")
        child.stdin.flush()
        line, steps = child.stdout.readline(), steps - 1
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdin.close()
    child.stdout.close()
    assert line in (b"written\n", b"done\n")
    return line == b"done\n"


@pytest.mark.parametrize("format", ["compressed-tensors", "mlx"])
def test_a_killed_export_leaves_nothing_under_the_final_name_or_all_of_it(format, tmp_path):
    # 9 arrays are written and 3 tensors checked; the folder takes its name after the last of them.
    for steps in (0, 4, 9, 11):
        assert not killed_after(steps, tmp_path / "out", format)
        assert not (tmp_path / "out").exists()
    assert {path.suffix for path in tmp_path.iterdir()} == {".part"}
    assert killed_after(99, tmp_path / "out", format)
    with ql.open_checkpoint(tmp_path / "out") as found:
        assert len(found.names) == 9
    assert (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize("format", ["compressed-tensors", "mlx"])
@pytest.mark.parametrize(
    ("kind", "moment"), [("open", 1), ("fsync", 1), ("fsync", 2), ("fsync", 3), ("fsync", 4), ("rename", 1)]
)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(kind, moment, format, tmp_path):
    slug = "int4-uni-g32-minmax" if format == "mlx" else "w4_g32"
    q = ql.quantize(weights((64, 128)), ql.QuantConfig.parse(slug))
    # Two shards, their index and the settings are synced, in this order.
    refused = pytest.raises(ql.ExportError, match=r"cannot write 'out' in .*: the disk is full$")
    with refused, Fault(kind, moment, tmp_path):
        export_layout(tmp_path / "out", outgoing({"a.weight": q, "b.weight": q}), FORMATS[format], shard_bytes=q.nbytes)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_in_the_middle_of_a_shard_leaves_nothing(tmp_path):
    code = """
import resource, sys, numpy as np, quantlab as ql
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
q = ql.quantize(np.ones((100, 1024), np.float32), ql.QuantConfig(granularity=ql.PerChannel(0)))
ql.export(sys.argv[1], {"fc.weight": q}, format="compressed-tensors")
"""
    env = os.environ | {"NUMBA_DISABLE_JIT": "1"}  # numba writes a cache, which the limit would hit
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "out"], capture_output=True, text=True, env=env, check=False
    )
    assert "ExportError: cannot write 'out'" in run.stderr.splitlines()[-1]
    assert "too large" in run.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


# -- what lies beside a stranger's weights


@pytest.fixture
def beside(tmp_path):
    """A model's folder with a config, and what is quantized of it."""
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"fc.weight": weights((64, 128))}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "x", "odd": "\\ud800"}')
    (tmp_path / "secret").write_text("secret")
    return folder


def exported(folder, out):
    with ql.open_checkpoint(folder) as source:
        q = ql.quantize(source.raw("fc.weight"), ql.PRESETS["w4_g32"])
        return ql.export(out, {"fc.weight": q}, format="compressed-tensors", source=source)


def test_a_config_goes_along_with_the_quantization_in_it_whatever_text_it_holds(beside, tmp_path):
    (beside / "tokenizer.json").write_bytes(b"\xff\xfe anything")
    (beside / "secrets.json").write_text("not a companion")
    out = exported(beside, tmp_path / "out")
    config = json.loads((out / "config.json").read_text())
    assert (config["model_type"], config["odd"]) == ("x", "\ud800")
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    assert (out / "tokenizer.json").read_bytes() == b"\xff\xfe anything"
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]


@pytest.mark.parametrize("kind", ["a link out", "a link up", "a pipe", "a folder", "a link into nothing"])
def test_a_companion_that_is_no_file_of_the_folder_is_refused_before_anything_is_written(kind, beside, tmp_path):
    place = beside / "tokenizer.json"
    if kind == "a pipe":
        os.mkfifo(place)
    elif kind == "a folder":
        place.mkdir()
    else:
        targets = {"a link out": "/etc/passwd", "a link up": "../secret", "a link into nothing": "nowhere"}
        place.symlink_to(targets[kind])
    with pytest.raises(ql.ExportError, match=r"'tokenizer.json'.*: copy the file itself there"):
        exported(beside, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"model", "secret"}


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff", b"[" * 100_000, b"1" * 5000])
def test_a_config_that_is_no_object_is_refused_in_one_sentence(content, beside, tmp_path):
    (beside / "config.json").write_bytes(content)
    with pytest.raises(ql.ExportError, match=r"config\.json is not"):
        exported(beside, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"model", "secret"}


def test_links_of_hugging_faces_cache_are_followed(beside, tmp_path):
    blobs, snapshot = tmp_path / "models--x" / "blobs", tmp_path / "models--x" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in list(beside.iterdir()):
        path.rename(blobs / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert "model_type" in json.loads((exported(snapshot, tmp_path / "out") / "config.json").read_text())
