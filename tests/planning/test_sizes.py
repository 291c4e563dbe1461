"""Sizes of files to be, against files: what options add, what the rest is at least, and all of it to the byte."""

import gguf
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import quantlab as ql
from quantlab.core.tensor import packed_nbytes
from quantlab.errors import QuantlabError
from quantlab.formats import FORMATS, writing
from quantlab.formats.safetensors import shards
from quantlab.planning.choices import Case
from quantlab.planning.sizes import Sizes
from quantlab.shipping.recipe import Rule
from quantlab.shipping.rehearsal import assigned, bound, refused_tensors
from quantlab.shipping.shipping import ship
from quantlab.sweeping.weights import names_of_weights

from .models import LLAMA, saved
from .test_targets import network

CONFIGS = {
    "safetensors": ["int4-sym-g32-mse", "int8-aff-ch0-minmax", "int3-uni-g64-minmax-sbf16", "fp16", "q4_0"],
    "npz": ["int4-sym-g32-mse", "int8-aff-ch0-minmax", "int3-uni-g64-minmax-sfp16", "fp16", "q5_1"],
    "dense": ["int4-sym-g32-mse", "int8-aff-ch0-minmax"],
    "compressed-tensors": ["int4-sym-g32-mse", "int8-sym-ch0-mse", "int2-sym-g64-minmax", "int8-sym-tensor-minmax"],
    "mlx": ["int4-uni-g32-minmax", "int8-uni-g64-minmax-sfp16", "int3-uni-g64-minmax", "int4-uni-g64-minmax"],
    "gguf": ["q4_0", "q4_1", "q5_0", "q8_0", "fp16", "bf16"],
    "onnx": ["int8-sym-ch0-mse", "int8-aff-tensor-minmax", "int4-sym-g32-mse"],
}
# Lengths of names are bytes of headers: escapes, and more than one byte a letter.
ODD = {'a"b\\c.weight': (64, 64), "blöcke.1.é.weight": (32, 128), "x.weight": (64, 96), "y": (33, 32), "n.bias": (5,)}


def llama(folder, **about):
    path = saved(folder, LLAMA, model_type="llama", **about)
    (path / "tokenizer.json").write_text("{}" * 1000)
    (path / "notes.txt").write_text("not a part of the model")
    return path


def odd(folder):
    folder.mkdir()
    rng = np.random.default_rng(3)
    save_file({n: rng.standard_normal(s, np.float32) for n, s in ODD.items()}, folder / "odd.safetensors")
    return folder / "odd.safetensors"


def ggufs(folder):
    folder.mkdir()
    writer, rng = gguf.GGUFWriter(folder / "m.gguf", "llama"), np.random.default_rng(4)
    writer.add_array("tokenizer.ggml.tokens", [f"token {i}" for i in range(300)])
    for i in range(3):
        x = rng.standard_normal((64, 96), np.float32)
        writer.add_tensor(f"blk.{i}.ffn_up.weight", x)
        packed = gguf.quantize(x, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(f"blk.{i}.ffn_down.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("output_norm.weight", rng.standard_normal(96).astype(np.float32))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        step()
    writer.close()
    return folder / "m.gguf"


def external(folder):
    path = network(folder, 21)
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    return path


SOURCES = {
    "llama": llama,
    "odd": odd,
    "gguf": ggufs,
    "onnx": lambda folder: network(folder, 21),
    "old onnx": lambda folder: network(folder, 13),
    "onnx with data beside it": external,
}
OPENED = [
    *((source, format) for source in ("odd", "gguf") for format in CONFIGS),
    *(("llama", format) for format in CONFIGS if format != "npz"),  # which holds no bfloat16
    *((source, format) for source in ("onnx", "old onnx", "onnx with data beside it") for format in ("onnx", "npz")),
]


@pytest.fixture(scope="module", params=OPENED, ids=lambda pair: " as ".join(pair))
def planned(request, tmp_path_factory):
    """A model, a format, the names of its weights, their sizes, and what they may have: bool [T, K + 1]."""
    source, format = request.param
    with ql.open_checkpoint(SOURCES[source](tmp_path_factory.mktemp("sizes") / "model")) as checkpoint:
        names = names_of_weights(checkpoint)
        configs = [ql.QuantConfig.parse(slug) for slug in CONFIGS[format]]
        may = np.array([[allowed(checkpoint, format, n, c) for c in configs] + [True] for n in names])
        sizes = Sizes(checkpoint, format, names, configs)
        may[:, -1] &= sizes.copies
        if not may.any(1).all():
            pytest.skip("the format holds some of these tensors in no way")
        yield checkpoint, format, names, sizes, may


def allowed(checkpoint, format, name, config):
    spec, layout = checkpoint.spec(name), bound(checkpoint, format)
    stored = layout.stored(config, spec.dtype) if layout else config
    try:
        packed_nbytes(spec.shape, stored)
        if FORMATS[format].why_not(spec.shape, stored):
            return False
        rule = Rule(name.replace("[", "[[]"), config)
        return not refused_tensors(checkpoint, assigned(checkpoint, [rule], format), format)
    except QuantlabError:
        return False


def chosen_by(draw, may):
    return np.array([draw(st.sampled_from(np.flatnonzero(row).tolist())) for row in may])


def assignment_of(checkpoint, format, names, options):
    """The export of options, by rules of names."""
    configs = [ql.QuantConfig.parse(slug) for slug in CONFIGS[format]]
    pairs = zip(names, options, strict=True)
    rules = [Rule(name, configs[k]) for name, k in pairs if k < len(configs)]
    return assigned(checkpoint, [Rule("*", None, copy=True), *rules], format)


def some(rng, may):
    """Options drawn at random, at least one of which quantizes."""
    while True:
        options = np.array([rng.choice(np.flatnonzero(row)) for row in may])
        if (options < may.shape[1] - 1).any():
            return options


def test_the_size_is_that_on_disk(planned, tmp_path):
    checkpoint, format, names, sizes, may = planned
    if not may[:, :-1].any():
        pytest.skip("the format holds none of these tensors")
    rng = np.random.default_rng(5)
    for turn in range(3):
        options = some(rng, may)
        assignment = assignment_of(checkpoint, format, names, options)
        shipment = ship(checkpoint, assignment, tmp_path / f"out{turn}{FORMATS[format].suffix}", format)
        assert sizes.exact(options) == shipment.file_nbytes


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_plan_is_smaller_than_its_sum_and_the_least_rest(planned, data):
    _, _, _, sizes, may = planned
    options = chosen_by(data.draw, may)
    among = may & np.array([[data.draw(st.booleans()) for _ in row] for row in may])
    among[np.arange(len(may)), options] = True
    used = {int(s) for s in sizes.schemes[np.arange(len(may)), options]} - {-1}
    exact, added = sizes.exact(options), sizes.sum(options)
    told = data.draw(st.sets(st.sampled_from(sorted(used)))) if used else set()
    assert added + sizes.least(among) <= exact
    assert added + sizes.least(may, Case(frozenset(told), len(used) > 1)) <= exact
    assert added + sizes.least(among, Case(frozenset(used), len(used) > 1)) <= exact


def test_shards_and_their_index_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(shards.folder_nbytes, "__defaults__", (9000,))
    monkeypatch.setattr(writing.export_layout, "__defaults__", (None, None, None, 9000))
    monkeypatch.setattr("quantlab.planning.sizes.SHARD_BYTES", 9000)
    with ql.open_checkpoint(llama(tmp_path / "model")) as checkpoint:
        names, rng = names_of_weights(checkpoint), np.random.default_rng(6)
        configs = [ql.QuantConfig.parse(slug) for slug in CONFIGS["compressed-tensors"]]
        sizes = Sizes(checkpoint, "compressed-tensors", names, configs)
        options = np.arange(len(names)) % 3
        found = assignment_of(checkpoint, "compressed-tensors", names, options)
        shipment = ship(checkpoint, found, tmp_path / "out", "compressed-tensors")
        assert len(list((tmp_path / "out").glob("*.safetensors"))) > 3
        assert sizes.exact(options) == shipment.file_nbytes
        for share in np.linspace(0, 1, 40):
            options = rng.integers(0, 5, len(names))
            among = rng.random(sizes.nbytes.shape) < share
            among[np.arange(len(names)), options] = True
            used = frozenset({int(s) for s in sizes.schemes[np.arange(len(names)), options]} - {-1})
            rest = sizes.exact(options) - sizes.sum(options)
            assert sizes.least(among) <= rest
            assert sizes.least(among, Case(used, len(used) > 1, True)) <= rest


def test_one_file_or_shards_is_told_apart(tmp_path, monkeypatch):
    """The limit lies between the smallest and the largest plan."""
    with ql.open_checkpoint(llama(tmp_path / "model")) as checkpoint:
        names, rng = names_of_weights(checkpoint), np.random.default_rng(7)
        configs = [ql.QuantConfig.parse(slug) for slug in CONFIGS["compressed-tensors"]]
        monkeypatch.setattr("quantlab.planning.sizes.SHARD_BYTES", 120_000)
        monkeypatch.setattr(shards.folder_nbytes, "__defaults__", (120_000,))
        sizes, seen = Sizes(checkpoint, "compressed-tensors", names, configs), set()
        for _ in range(60):
            options = np.where(rng.random(len(names)) < rng.random(), 4, rng.integers(0, 5, len(names)))
            total = sum(tensor.nbytes for tensor in sizes.choices.chosen(options))
            used = frozenset({int(s) for s in sizes.schemes[np.arange(len(names)), options]} - {-1})
            case = Case(used, len(used) > 1, total > 120_000)
            whole = np.ones(sizes.nbytes.shape, bool)
            assert sizes.sum(options) + sizes.least(whole) <= sizes.exact(options)
            assert sizes.sum(options) + sizes.least(whole, case) <= sizes.exact(options)
            assert case.sharded or sizes.sum(options) <= sizes.unsharded
            seen.add(case.sharded)
        assert seen == {False, True}
