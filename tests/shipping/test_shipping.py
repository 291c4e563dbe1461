"""What is written is read back and measured, and the figures are those of the sweep."""

import math

import gguf
import numpy as np
import pytest

from quantlab.core.config import QuantConfig, grid
from quantlab.errors import Cancelled, CheckpointError, ConfigError, NonFiniteError, ShapeError
from quantlab.formats import FORMATS, load_packed, open_checkpoint
from quantlab.shipping.recipe import Rule, assign
from quantlab.shipping.rehearsal import refusal
from quantlab.shipping.shipping import remeasure, same_figures, ship
from quantlab.sweeping.sweep import COLUMNS, sweep

WRITABLE = [name for name, known in FORMATS.items() if known.write]
CONFIGS = grid(["int3", "int4", "int8", "fp16"], ["symmetric", "affine", "uniform"], ["tensor", "ch-1", "g32"], ["mse"])
CONFIGS += grid(["int4"], ["symmetric", "affine"], ["ch-1", "g32"], ["exact"])
FIGURES = ["tensor", "shape", "config", "sqnr_db", "mse", "mae", "max_abs_error", "nbytes", "bits_per_weight"]


@pytest.fixture
def checkpoint(tmp_path, rng):
    np.savez(
        tmp_path / "model.npz",
        wide=rng.standard_normal((40, 70)).astype(np.float32),
        half=rng.standard_t(3, (8, 4, 9)).astype(np.float16),
        zero=np.zeros((4, 4)),
    )
    with open_checkpoint(tmp_path / "model.npz") as opened:
        yield opened


def every(config):
    return [Rule("*", config)]


@pytest.mark.parametrize("format", WRITABLE)
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_figures_of_the_file_are_those_of_the_sweep(checkpoint, tmp_path, config, format):
    shipment = ship(checkpoint, assign(checkpoint, every(config)), tmp_path / "out", format)
    swept = sweep(checkpoint, [config])
    assert shipment.expected.equals(swept)
    assert shipment.equal.all()
    assert same_figures(swept, remeasure(tmp_path / "out", checkpoint)).all()
    assert swept["nbytes"].tolist() == [q.nbytes for q in load_packed(tmp_path / "out").values()]


@pytest.mark.parametrize("format", WRITABLE)
def test_tensors_that_are_copied_are_in_the_file_as_they_were(checkpoint, tmp_path, format):
    rules = [Rule("*", None, copy=True), Rule("wide", CONFIGS[0])]
    shipment = ship(checkpoint, assign(checkpoint, rules), tmp_path / "out", format)
    with open_checkpoint(tmp_path / "out") as written:
        assert set(written.names) == {"wide", "half", "zero"}
        for name in ("half", "zero"):
            assert written.raw(name).tobytes() == checkpoint.raw(name).tobytes()
    assert shipment.found["tensor"].tolist() == ["wide"]
    assert shipment.equal.all()


def test_a_model_with_more_scales_than_are_remembered_gives_the_same_file(checkpoint, tmp_path, monkeypatch):
    everything = assign(checkpoint, every(CONFIGS[0]))
    remembered = ship(checkpoint, everything, tmp_path / "once")
    monkeypatch.setattr("quantlab.shipping.shipping.REMEMBERED", 0)
    fitted_twice = ship(checkpoint, everything, tmp_path / "twice")
    assert (tmp_path / "once").read_bytes() == (tmp_path / "twice").read_bytes()
    assert fitted_twice.expected.equals(remembered.expected)
    assert fitted_twice.equal.all()


def test_a_float_of_another_value_is_noticed(checkpoint, tmp_path):
    shipment = ship(checkpoint, assign(checkpoint, every(CONFIGS[0])), tmp_path / "out")
    for column in ("mse", "rmse", "mae", "sqnr_db", "max_abs_error", "nbytes", "compression_ratio", "config"):
        changed = shipment.found.copy()
        value = changed.loc[0, column]
        changed.loc[0, column] = (
            "fp16" if column == "config" else value * (1 + 1e-6) if column != "nbytes" else value + 1
        )
        assert same_figures(shipment.expected, changed).tolist() == [False, True, True], column
    assert not same_figures(shipment.expected, shipment.found[:2]).any()


def test_without_a_source_there_are_sizes_and_no_errors(checkpoint, tmp_path):
    shipment = ship(checkpoint, assign(checkpoint, every(CONFIGS[0])), tmp_path / "out")
    alone = remeasure(tmp_path / "out")
    assert list(alone.columns) == COLUMNS
    assert alone["nbytes"].tolist() == shipment.found["nbytes"].tolist()
    assert alone["sqnr_db"].isna().all()


def test_progress_grows_from_nothing_to_the_whole(checkpoint, tmp_path):
    seen = []
    ship(checkpoint, assign(checkpoint, every(CONFIGS[0])), tmp_path / "out", on_progress=lambda *at: seen.append(at))
    done = [at[0] for at in seen]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, seen[0][1])
    assert len({at[1] for at in seen}) == 1
    assert {at[2].split()[0] for at in seen} >= {"writing", "checking", "measuring"}


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_stop_leaves_no_file(checkpoint, tmp_path, after):
    asked = iter(range(10**6))
    with pytest.raises(Cancelled):
        ship(checkpoint, assign(checkpoint, every(CONFIGS[0])), tmp_path / "out", cancel=lambda: next(asked) >= after)
    assert [path.name for path in tmp_path.iterdir()] == ["model.npz"]


def test_a_tensor_that_cannot_be_quantized_is_named_and_nothing_is_written(tmp_path):
    np.savez(tmp_path / "model.npz", good=np.ones((4, 4)), bad=np.array([[1, np.nan]]))
    with open_checkpoint(tmp_path / "model.npz") as checkpoint:
        with pytest.raises(NonFiniteError, match=r"tensor 'bad' cannot be quantized as fp16: .* 1 NaN .* \(0, 1\)"):
            ship(checkpoint, assign(checkpoint, every(QuantConfig(dtype="fp16"))), tmp_path / "out")
        entropy = QuantConfig.parse("int8-sym-tensor-entropy")
        with pytest.raises(ConfigError, match=r"tensor 'good' cannot be quantized as int8-sym-tensor-entropy"):
            ship(checkpoint, assign(checkpoint, [Rule("good", entropy)]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_what_quantlab_wrote_is_measured_again(checkpoint):
    with pytest.raises(CheckpointError, match="plain npz file"):
        remeasure(checkpoint.path, checkpoint)


def test_a_source_with_other_tensors_is_refused(checkpoint, tmp_path):
    ship(checkpoint, assign(checkpoint, [Rule("wide", CONFIGS[0])]), tmp_path / "out")
    np.savez(tmp_path / "other.npz", narrow=np.ones((2, 2)))
    np.savez(tmp_path / "flat.npz", wide=np.ones(2800))
    with open_checkpoint(tmp_path / "other.npz") as other, pytest.raises(CheckpointError, match="no tensor 'wide'"):
        remeasure(tmp_path / "out", other)
    with open_checkpoint(tmp_path / "flat.npz") as flat, pytest.raises(ShapeError):
        remeasure(tmp_path / "out", flat)


def test_an_infinite_sqnr_equals_itself_only(checkpoint, tmp_path):
    shipment = ship(checkpoint, assign(checkpoint, [Rule("zero", CONFIGS[0])]), tmp_path / "out")
    assert math.isinf(shipment.found["sqnr_db"][0])
    assert shipment.equal.all()
    assert not same_figures(shipment.expected, shipment.found.assign(sqnr_db=300.0)).any()


def test_a_format_that_cannot_hold_a_result_says_why(checkpoint):
    found = assign(checkpoint, every(QuantConfig(dtype="int3")))
    matrix = next(item for item in found.taken if len(item.spec.shape) == 2)
    assert refusal(matrix, "compressed-tensors") == "it holds int2, int4 and int8, not int3"


@pytest.mark.parametrize("format", WRITABLE)
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_what_the_library_writes_is_not_refused_before(checkpoint, config, format):
    assert {refusal(item, format) for item in assign(checkpoint, every(config)).taken} == {None}


@pytest.mark.parametrize("format", WRITABLE)
def test_blocks_of_a_source_are_counted_as_they_are_stored_there(format, tmp_path, rng):
    kind = gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    data = gguf.quantize(rng.standard_normal((16, 64), dtype=np.float32), kind)
    writer.add_tensor("w", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_checkpoint(tmp_path / "model.gguf") as source:
        shipment = ship(
            source, assign(source, every(QuantConfig.parse("int4-sym-g32-minmax"))), tmp_path / "out", format
        )
    ratio = data.nbytes / (16 * 64 / 2 + 32 * 4)
    assert shipment.found["compression_ratio"].tolist() == [ratio]
    assert remeasure(tmp_path / "out")["compression_ratio"].tolist() == [ratio]


LAYOUTS = [name for name, known in FORMATS.items() if known.layout]
HELD = ["int4-sym-g32-minmax", "int4-uni-g32-mse", "int8-aff-ch0-minmax", "q4_0", "q8_0", "q5_1"]

# Whether a program's values differ from a sweep's: given narrow scales, the configuration, and a narrow source.
ROUNDS = {
    "gguf": lambda scales, config, source: False,
    "onnx": lambda scales, config, source: scales,
    "mlx": lambda scales, config, source: scales,
    "dense": lambda scales, config, source: source,
    "compressed-tensors": lambda scales, config, source: source or (scales and config.mapping == "affine"),
}


@pytest.mark.parametrize("format", LAYOUTS)
@pytest.mark.parametrize("scales", ["", "-sfp16", "-sbf16"])
def test_figures_of_other_programs_values_are_the_sweeps_unless_it_is_said(format, scales, tmp_path, rng):
    layout = FORMATS[format].layout
    slugs = [slug if slug[0] == "q" else slug + scales for slug in HELD]
    fits = [QuantConfig.parse(slug) for slug in slugs]
    fits = [config for config in fits if layout.refuses((64, 128), config) is None]
    assert fits or (format, scales) == ("onnx", "-sbf16")
    for i, config in enumerate(fits):
        for dtype in (np.float32, np.float16):
            np.savez(tmp_path / "model.npz", w=rng.standard_normal((64, 128)).astype(dtype))
            with open_checkpoint(tmp_path / "model.npz") as source:
                shipment = ship(source, assign(source, every(config)), tmp_path / f"{i}{np.dtype(dtype)}", format)
                assert shipment.equal.all()
                same = same_figures(sweep(source, [config]), shipment.found).all()
            assert same or shipment.note
            assert (shipment.note != "") == ROUNDS[format](config.scale_dtype != "fp32", config, dtype == np.float16)
