"""Small correct files of every format, as their own libraries write them: what a fuzzer begins with."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import gguf
import h5py
import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper

from quantlab import QuantConfig, export, quantize
from quantlab.formats import FORMATS
from quantlab.formats.gguf.header import KINDS
from quantlab.formats.output.outgoing import outgoing
from quantlab.formats.safetensors.shards import write_folder

from ..formats.hostile import archive, npy, safetensors, tensor
from ..planning.imatrices import dat, ended, write_gguf

X = np.random.default_rng(3).standard_normal((4, 32), dtype=np.float32)


def _written(write: Callable[[Path], object]) -> bytes:
    """What `write` leaves at the path that it is given."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "seed"
        write(path)
        return path.read_bytes()


def of_npy() -> list[bytes]:
    """C and Fortran order, both versions of the header, and a scalar."""
    fortran = _written(lambda path: np.save(path.open("wb"), np.asfortranarray(X)))
    return [npy(shape=X.shape, data=X.tobytes()), npy("<f8", (), bytes(8), version=(2, 0)), fortran]


def _packed(format: str) -> bytes:
    slugs = ("int4-aff-g4-minmax-sbf16", "int3-uni-ch0-minmax", "bf16")
    packed = {slug: quantize(X, QuantConfig.parse(slug)) for slug in slugs}
    return _written(lambda path: export(path, packed, format))


def of_npz() -> list[bytes]:
    """Stored and deflated, and an export of quantlab with its manifest."""
    one = npy(shape=X.shape, data=X.tobytes())
    return [
        archive(("x.npy", one), method=zipfile.ZIP_STORED),
        archive(("x.npy", one), ("y.npy", npy(data=bytes(4)))),
        _packed("npz"),
    ]


def of_safetensors() -> list[bytes]:
    """Two types, metadata, and an export of quantlab with its manifest."""
    header = {"__metadata__": {"format": "pt"}, "a": tensor("F32", [4, 32], 0, 512), "b": tensor("BF16", [3], 512, 518)}
    return [safetensors(header, X.tobytes() + bytes(6)), _packed("safetensors")]


def of_gguf() -> list[bytes]:
    """Values of every kind among the settings, and blocks of every kind that there is."""

    def write(path: Path) -> None:
        writer = gguf.GGUFWriter(path, "test")
        writer.add_string("test.text", "some words")
        writer.add_array("test.numbers", [1, 2, 3])
        writer.add_array("test.words", ["one", "two"])
        writer.add_float32("test.float", 1.5)
        writer.add_bool("test.flag", True)
        writer.add_tensor("plain", X)
        for kind in KINDS.values():
            if not kind.dtype and kind.nbytes < 300:
                blocks = np.ones((2, kind.nbytes), np.uint8)
                writer.add_tensor(kind.name, blocks, raw_dtype=gguf.GGMLQuantizationType[kind.name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    return [_written(write)]


def of_onnx() -> list[bytes]:
    """Raw and typed data, constants, a branch, quantized weights, and a model of quantlab."""
    weight = numpy_helper.from_array(X, "w")
    typed = helper.make_tensor("t", TensorProto.FLOAT16, [2, 2], np.ones(4, np.float16).view(np.uint16), raw=False)
    branch = helper.make_graph([helper.make_node("Identity", ["w"], ["o"])], "branch", [], [], [weight])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(X[:2, :3], "v")),
        helper.make_node("If", ["f"], ["z"], then_branch=branch, else_branch=branch),
        helper.make_node("DequantizeLinear", ["q", "s"], ["d"]),
    ]
    codes = numpy_helper.from_array(np.int8([[1, 2], [3, 4]]), "q")
    scale = numpy_helper.from_array(np.float32(0.5), "s")
    graph = helper.make_graph(nodes, "g", [], [], [weight, typed, codes, scale])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return [model.SerializeToString(), _written(lambda path: export(path, {"w": quantize(X, QuantConfig())}, "onnx"))]


def of_torch() -> list[bytes]:
    """A state dict, one with a view, bfloat16 and nested dictionaries, both kinds of containers."""
    x = torch.from_numpy(X)
    nested = {"model": {"a": x.t(), "b": x[1:3].to(torch.bfloat16)}, "epoch": 3, "lr": [0.1, None, True]}

    def saved(what: object) -> bytes:
        buffer = io.BytesIO()
        torch.save(what, buffer)
        return buffer.getvalue()

    return [saved(torch.nn.Linear(4, 3).state_dict()), saved(nested)]


def of_hdf5() -> list[bytes]:
    """Old and new structures: links, attributes, chunks with every filter, and indexes of every kind."""

    def write(path: Path, libver: str) -> None:
        with h5py.File(path, "w", libver=libver) as file:
            file["a/kernel"] = X
            file["a/scalar"] = np.float64(2)
            for index, options in enumerate(
                (
                    {"chunks": (2, 8), "compression": "gzip", "shuffle": True, "fletcher32": True},
                    {"chunks": (2, 8), "maxshape": (None, 32)},
                    {"chunks": (2, 8), "maxshape": (None, None), "compression": "lzf"},
                    {"chunks": (4, 32)},
                )
            ):
                file.create_dataset(f"b/chunked{index}", data=X, **options)
            for number in range(20):  # enough for links in a heap with a B-tree
                file[f"many/{number}"] = np.float32([number])
            file["a"].attrs["weight_names"] = [b"kernel", b"bias"]
            file.attrs["keras_version"] = "3.0"

    return [_written(lambda path, libver=libver: write(path, libver)) for libver in ("earliest", "latest")]


def of_keras() -> list[bytes]:
    """Archives of settings and weights, stored as Keras does."""
    config = json.dumps({"class_name": "Sequential", "config": {}}).encode()
    beside = ("metadata.json", b"{}"), ("config.json", config)
    return [archive(*beside, ("model.weights.h5", weights), method=zipfile.ZIP_STORED) for weights in of_hdf5()]


def of_folder() -> list[bytes]:
    """Models in shards with an index, as archives of their files: the fuzzer unpacks them."""

    def write(path: Path) -> None:
        tensors = outgoing({f"fc{i}.weight": quantize(X, QuantConfig.parse("w4_g32")) for i in range(3)})
        layout = FORMATS["compressed-tensors"].layout
        assert layout is not None
        write_folder(path, tensors, layout, None, lambda count: None, shard_bytes=tensors[0].nbytes)

    with TemporaryDirectory() as folder:
        write(Path(folder) / "model")
        files = sorted((Path(folder) / "model").iterdir())
        return [archive(*[(file.name, file.read_bytes()) for file in files], method=zipfile.ZIP_STORED)]


def of_imatrix() -> list[bytes]:
    """Importance of two weights, one of them a stack of experts, in every form that there is."""
    entries = {"blk.0.attn_q.weight": (X[:1] ** 2, [9]), "blk.0.ffn_up_exps.weight": (X**2, [4, 0, 3, 1])}
    older = [(name.encode(), int(tokens[0]), sums.reshape(-1)) for name, (sums, tokens) in entries.items()]
    arrays = archive(("a.npy", npy(shape=X.shape, data=(X**2).tobytes())), ("b.npy", npy(data=bytes(4))))
    named = safetensors({"a": tensor("F32", [4, 32], 0, 512), "b": tensor("F16", [3], 512, 518)}, bytes(518))
    return [_written(lambda path: write_gguf(path, entries)), dat(*older), dat(*older, tail=ended()), arrays, named]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "npy": of_npy,
    "npz": of_npz,
    "safetensors": of_safetensors,
    "gguf": of_gguf,
    "onnx": of_onnx,
    "torch": of_torch,
    "hdf5": of_hdf5,
    "keras": of_keras,
    "folder": of_folder,
    "imatrix": of_imatrix,
}
