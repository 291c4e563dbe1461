"""Every command does what the library does, and says it to people and to programs."""

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest

from quantlab.core import statistics
from quantlab.core.config import PRESETS, QuantConfig, grid
from quantlab.core.tensor import quantize
from quantlab.formats import FORMATS, load_packed, open_checkpoint
from quantlab.shipping.shipping import same_figures
from quantlab.sweeping.findings import findings
from quantlab.sweeping.sweep import COLUMNS, sweep

WEIGHTS = ["fc1.weight", "fc2.weight", "=HYPERLINK(1)"]
SLUG = "int4-sym-g32-mse-sfp16"


@pytest.fixture
def library(model):
    with open_checkpoint(model) as checkpoint:
        yield checkpoint


# -- info


def test_info_lists_every_tensor(run, model, library):
    ran = run("info", model)
    assert (ran.code, ran.err) == (0, "")
    assert all(name in ran.out for name in library.names)
    assert "48x64" in ran.out
    assert "5 tensors" in ran.out


def test_info_for_programs_says_what_the_file_says(run, model, library):
    found = run("info", model, "--json").json
    assert found["format"] == "npz"
    assert found["file_nbytes"] == model.stat().st_size
    for row in found["tensors"]:
        spec = library.spec(row["tensor"])
        assert (row["dtype"], tuple(row["shape"]), row["elements"], row["nbytes"]) == (
            spec.dtype, spec.shape, spec.size, spec.nbytes,
        )  # fmt: skip


def test_info_measures_the_values_if_asked(run, model, library):
    rows = {row["tensor"]: row for row in run("info", model, "--stats", "--json").json["tensors"]}
    figures = statistics.describe(library.load("fc2.weight"))
    for name in ("minimum", "maximum", "mean", "std", "kurtosis", "zeros", "outliers"):
        assert rows["fc2.weight"][name] == getattr(figures, name)
    assert rows["=HYPERLINK(1)"]["kurtosis"] is None  # of constant values
    assert rows["steps"]["std"] is None
    assert "int64" in rows["steps"]["note"]


def test_info_finds_what_is_odd_and_says_what_helps(run, tmp_path):
    rng = np.random.default_rng(6)
    plain = rng.standard_normal((64, 256)).astype(np.float32)
    uneven = plain.copy()
    uneven[:, 7] *= 50
    np.savez(tmp_path / "odd.npz", plain=plain, uneven=uneven, broken=np.float32([[1, np.nan]]), ids=np.arange(3))
    ran = run("info", tmp_path / "odd.npz", "--findings")
    assert ran.code == 0 and "2 findings in 2 of 4 tensors" in ran.out
    assert "scales along axis 1: +" in ran.out and "channel 7 along axis 1" in ran.out
    measured = findings(open_checkpoint(tmp_path / "odd.npz"))
    found = run("info", tmp_path / "odd.npz", "--findings", "--json").json
    assert [row["tensor"] for row in found["findings"]] == ["broken", "uneven"] and found["tensors_read"] == 4
    assert found["findings"][0]["gain_db"] is None and found["findings"][1]["axis"] == 1
    assert found["findings"][1]["gain_db"] == measured["gain_db"][1]
    rows = list(csv.DictReader(io.StringIO(run("info", tmp_path / "odd.npz", "--findings", "--csv").out)))
    assert [row["odd"] for row in rows] == ["NaN/inf", "axis 1"]
    assert run("info", tmp_path / "odd.npz", "--findings", "--tensors", "plain").out == (
        "Nothing odd was found in 1 tensor.\n"
    )


def test_info_says_at_the_beginning_of_a_note_what_is_wrong(run, tmp_path):
    name = "model.layers.12.a_name_that_leaves_no_room_for_more.weight"
    np.savez(tmp_path / "a-file-whose-name-is-long-as-well.npz", **{name: np.float32([1, np.nan])})
    ran = run("info", tmp_path / "a-file-whose-name-is-long-as-well.npz", "--stats")
    assert "  holds 1 NaN and 0 infinite values of 2, the first at index (1,)" in ran.out


def test_info_chooses_tensors_by_glob(run, model):
    rows = run("info", model, "--tensors", "fc*", "--json").json["tensors"]
    assert [row["tensor"] for row in rows] == ["fc1.weight", "fc2.weight", "fc1.bias"]


def test_a_spreadsheet_runs_no_tensor_name(run, model, tmp_path):
    rows = list(csv.DictReader(io.StringIO(run("info", model, "--csv").out)))
    assert rows[-1]["tensor"] == "'=HYPERLINK(1)"
    rows = list(csv.DictReader(io.StringIO(run("sweep", model, "--config", "fp16", "--csv", "-").out)))
    assert [row["tensor"] for row in rows] == ["fc1.weight", "fc2.weight", "'=HYPERLINK(1)"]


# -- sweep


def test_sweep_gives_the_numbers_of_the_library(run, model, library, tmp_path):
    call = [
        "sweep",
        model,
        "--dtype",
        "int3",
        "int8",
        "--mapping",
        "sym",
        "affine",
        "--granularity",
        "tensor,g32",
        "--calibration",
        "minmax",
        "mse",
    ]
    configs = grid(["int3", "int8"], ["symmetric", "affine"], ["tensor", "g32"], ["minmax", "mse"])
    expected = sweep(library, configs, WEIGHTS)
    assert run(*call, "--parquet", tmp_path / "out.parquet").code == 0
    found = pd.read_parquet(tmp_path / "out.parquet")
    pd.testing.assert_frame_equal(found, expected, check_exact=True, check_dtype=False)
    run(*call, "--csv", tmp_path / "out.csv")
    from_csv = pd.read_csv(tmp_path / "out.csv").assign(tensor=expected["tensor"])
    pd.testing.assert_frame_equal(from_csv, expected, check_exact=True, check_dtype=False)
    rows = run(*call, "--json", "-").json
    assert [row["tensor"] for row in rows] == expected["tensor"].tolist()
    assert [row["mse"] for row in rows] == expected["mse"].tolist()


def test_a_sweep_in_one_thread_gives_the_same(run, model):
    call = ["sweep", model, "--config", SLUG, "int8-aff-ch0-minmax", "--json", "-"]
    assert run(*call, "--workers", "1").json == run(*call).json


def test_configurations_by_slug_stand_in_place_of_the_grid_or_beside_it(run, model):
    alone = run("sweep", model, "--config", "w4_g32", "fp16", "--json", "-").json
    assert {row["config"] for row in alone} == {SLUG, "fp16"}
    beside = run("sweep", model, "--config", "w4_g32", "--dtype", "int8", "--mapping", "sym", "--json", "-").json
    assert SLUG in {row["config"] for row in beside}
    assert len({row["config"] for row in beside}) == 1 + 3 * 2


def test_powers_of_two_are_a_dimension_of_the_grid(run, model):
    call = [
        "sweep",
        model,
        "--dtype",
        "int8",
        "--mapping",
        "sym",
        "--granularity",
        "tensor",
        "--calibration",
        "minmax",
        "--json",
        "-",
    ]
    for choice, count in (("no", 1), ("yes", 1), ("both", 2)):
        assert len({row["config"] for row in run(*call, "--pow2-scale", choice).json}) == count


def test_the_count_of_configurations_and_what_was_left_out_are_told(run, model):
    ran = run(
        "sweep",
        model,
        "--dtype",
        "int8",
        "int16",
        "--calibration",
        "entropy",
        "--tensors",
        "*weight",
        "--granularity",
        "tensor",
    )
    assert ran.code == 0
    assert "2 configurations x 2 tensors of 5" in ran.err
    assert "left alone" not in ran.err  # what was asked for is what there is
    assert "16-bit codes" in ran.err


def test_what_has_no_figures_is_told_with_the_reason(run, model):
    ran = run("sweep", model, "--config", "int8-sym-ch1-minmax", "--tensors", "fc1.*")
    assert ran.code == 0
    assert "no figures for fc1.bias as int8-sym-ch1-minmax: axis 1" in ran.err
    rows = run("sweep", model, "--config", "int8-sym-ch1-minmax", "--tensors", "fc1.*", "--json", "-").json
    assert [row["nbytes"] is None for row in rows] == [False, True]


def test_a_sweep_without_any_figure_is_refused_in_one_line(run, model):
    ran = run("sweep", model, "--config", "fp16", "--tensors", "steps")
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert "int64" in ran.err


def test_the_table_marks_what_nothing_else_beats(run, model):
    lines = run(
        "sweep", model, "--config", "fp16", SLUG, "int4-sym-tensor-minmax", "int8-sym-tensor-minmax-pow2"
    ).out.splitlines()
    assert "bits/wt" in lines[0]
    assert {line.split()[0]: line.split()[1] == "*" for line in lines[1:]}[SLUG]
    assert [line.split()[0] for line in lines[1:]][-1] == "fp16"
    each = run("sweep", model, "--config", SLUG, "--each").out.splitlines()
    assert len(each) == 1 + len(WEIGHTS)


def test_a_table_is_written_whole_or_not_at_all(run, model, tmp_path):
    for place in (tmp_path / "missing" / "out.csv", tmp_path):
        ran = run("sweep", model, "--config", "fp16", "--csv", place)
        assert (ran.code, ran.err.count("\n")) == (1, 1)  # before anything was computed
    run("sweep", model, "--config", "fp16", "--csv", tmp_path / "out.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.npz", "out.csv"]


# -- quantize, export, verify


@pytest.mark.parametrize("format", ["npz", "safetensors"])
def test_quantize_writes_what_the_library_makes(run, model, library, tmp_path, format):
    out = tmp_path / f"out{FORMATS[format].suffix}"
    ran = run("quantize", model, "--config", "w4_g32", "-o", out)
    assert ran.code == 0
    packed = load_packed(out)
    assert list(packed) == WEIGHTS
    for name, q in packed.items():
        made = quantize(library.raw(name), PRESETS["w4_g32"])
        assert np.array_equal(q.packed, made.packed)
        assert np.array_equal(q.scale, made.scale)
    with open_checkpoint(out) as opened:
        assert opened.format == f"quantlab {format}"


def test_the_figures_of_a_written_file_are_those_of_the_sweep(run, model, library, tmp_path):
    written = run("quantize", model, "--config", SLUG, "-o", tmp_path / "out.npz", "--json").json
    verified = run("verify", tmp_path / "out.npz", "--source", model, "--json").json
    expected = sweep(library, [QuantConfig.parse(SLUG)], WEIGHTS)
    for rows in (written["tensors"], verified["tensors"]):
        found = pd.DataFrame(rows, columns=COLUMNS).astype({"sqnr_db": float}).fillna({"sqnr_db": np.inf})
        assert same_figures(expected, found).all()
    assert written["equal_to_sweep"] is True
    assert written["nbytes"] == expected["nbytes"].sum()
    assert written["file_nbytes"] == (tmp_path / "out.npz").stat().st_size


def test_what_is_not_quantized_is_named(run, model, tmp_path):
    ran = run("quantize", model, "--config", "fp16", "--skip", "=*", "-o", tmp_path / "out.npz")
    assert list(load_packed(tmp_path / "out.npz")) == ["fc1.weight", "fc2.weight"]
    assert "3 tensors not quantized" in ran.err
    for reason in (
        "1-dimensional, and not asked for by name: fc1.bias",
        "int64, not floating point: steps",
        "left out by a rule: =HYPERLINK(1)",
    ):
        assert reason in ran.err


def test_globs_choose_what_is_quantized(run, model, tmp_path):
    run("quantize", model, "--config", "fp16", "--tensors", "fc1*", "--skip", "*weight", "-o", tmp_path / "out.npz")
    assert list(load_packed(tmp_path / "out.npz")) == ["fc1.bias"]


def test_export_gives_different_tensors_different_configurations(run, model, tmp_path):
    call = ["export", model, "--config", "w4_g32", "fc2*=int8-aff-ch0-minmax", "*.bias=fp16", "=HYPERLINK(1)=skip"]
    assert run(*call, "-o", tmp_path / "out.safetensors").code == 0
    packed = load_packed(tmp_path / "out.safetensors")
    assert {name: str(q.config) for name, q in packed.items()} == {
        "fc1.weight": SLUG, "fc2.weight": "int8-aff-ch0-minmax", "fc1.bias": "fp16",
    }  # fmt: skip


def test_a_dry_run_says_what_would_be_written_to_the_byte_and_writes_nothing(run, model, tmp_path):
    call = ["export", model, "--config", "w4_g32", "*.bias=fp16", "-o", tmp_path / "out.npz", "--json"]
    planned = run(*call, "--dry-run").json
    assert not (tmp_path / "out.npz").exists()
    written = run(*call).json
    assert planned["file_nbytes"] == (tmp_path / "out.npz").stat().st_size
    assert planned["source_file_nbytes"] == written["source_file_nbytes"] == model.stat().st_size
    for key in ("file_nbytes", "nbytes", "source_nbytes", "bits_per_weight", "compression_ratio", "left_out"):
        assert planned[key] == written[key]
    assert [(row["tensor"], row["config"], row["nbytes"]) for row in planned["tensors"]] == [
        (row["tensor"], row["config"], row["nbytes"]) for row in written["tensors"]
    ]
    shown = run("export", model, "--config", "w4_g32", "--dry-run")
    assert "nothing was written" in shown.out


@pytest.mark.parametrize("format", [name for name, known in FORMATS.items() if known.writable])
def test_every_format_is_written_whole_and_measured_as_its_readers_decode_it(run, model, library, tmp_path, format):
    known = FORMATS[format]
    slug = next(
        s for s in (SLUG, "int4-uni-g32-minmax-sfp16", "q8_0") if not known.why_not((48, 64), QuantConfig.parse(s))
    )
    out = tmp_path / f"out{known.suffix}"
    call = [
        "quantize",
        model,
        "--config",
        slug,
        "--tensors",
        "fc1.weight",
        "--format",
        format,
        "--others",
        "copy",
        "--skip",
        "=*",
    ]
    written = run(*call, "-o", out, "--json").json
    assert written["equal_to_sweep"] is True
    assert {row["tensor"] for row in written["copied"]} == {"fc2.weight", "fc1.bias", "steps"}
    rounded = known.layout and known.layout.rounds(QuantConfig.parse(slug), "float32")
    assert (written["note"] != "") == bool(rounded and known.layout.note)
    expected = sweep(library, [QuantConfig.parse(slug)], ["fc1.weight"])
    assert written["nbytes"] == expected["nbytes"][0]
    if not written["note"]:
        assert written["tensors"][0]["sqnr_db"] == pytest.approx(expected["sqnr_db"][0], rel=1e-9)
    with open_checkpoint(out) as opened:
        assert opened.names


def test_a_format_says_what_it_cannot_hold_before_anything_is_written(run, model, tmp_path):
    ran = run("quantize", model, "--config", SLUG, "-o", tmp_path / "out.gguf")
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert "cannot be written to gguf" in ran.err
    assert not (tmp_path / "out.gguf").exists()


def test_tensors_that_cannot_be_quantized_so_are_copied_if_asked(run, model, tmp_path):
    out = tmp_path / "out.gguf"
    call = ["export", model, "--config", "fc*.weight=q8_0", "=*=skip", "-o", out, "--json"]
    ran = run(*call)  # rows of 40 values are no blocks of 32
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "'fc2.weight' cannot have q8_0" in ran.err and not out.exists()
    written = run(*call, "--copy-refused").json
    assert [row["tensor"] for row in written["tensors"]] == ["fc1.weight"]
    (kept,) = [row for row in written["copied"] if row["reason"]]
    assert kept["tensor"] == "fc2.weight" and "cannot have q8_0" in kept["reason"]


def test_how_many_a_format_refuses_is_said_with_the_way_out(run, model, tmp_path):
    ran = run("quantize", model, "--config", SLUG, "--skip", "=*", "-o", tmp_path / "out.gguf")
    assert "(and 1 more; --copy-refused copies them)" in ran.err
    ran = run("quantize", model, "--config", SLUG, "--copy-refused", "-o", tmp_path / "out.gguf")
    assert (ran.code, ran.err.count("\n")) == (1, 1) and "gguf can hold none of the tensors so" in ran.err


def test_other_tensors_are_copied_if_asked(run, model, library, tmp_path):
    ran = run(
        "quantize", model, "--config", "fp16", "--skip", "fc1.bias", "--others", "copy", "-o", tmp_path / "out.npz"
    )
    assert "1 tensor copied unchanged" in ran.err
    assert "left out by a rule: fc1.bias" in ran.err
    with open_checkpoint(tmp_path / "out.npz") as opened:
        assert set(opened.names) == set(library.names) - {"fc1.bias"}
        assert np.array_equal(opened.raw("steps"), library.raw("steps"))


def test_the_format_can_be_named_in_place_of_the_suffix(run, model, tmp_path):
    run("quantize", model, "--config", "fp16", "-o", tmp_path / "out.bin", "--format", "safetensors")
    with open_checkpoint(tmp_path / "out.bin") as opened:
        assert opened.format == "quantlab safetensors"


@pytest.mark.parametrize(
    "call",
    [["quantize", "-o"], ["export", "-o"], ["sweep", "--csv"], ["sweep", "--json"], ["sweep", "--parquet"]],
    ids=" ".join,
)
def test_the_source_is_never_replaced(run, model, call):
    before = model.read_bytes()
    (model.parent / "link").symlink_to(model)
    for place in (model, model.parent / "link"):
        ran = run(call[0], model, "--config", "fp16", call[1], place, *["--format", "npz"] * (call[1] == "-o"))
        assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
        assert "is the file that the tensors come from" in ran.err
    assert model.read_bytes() == before


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (["--config", "int8-sym-ch5-minmax"], "axis 5"),
        (["--config", "int8-sym-tensor-entropy"], "entropy"),
        (["--config", "fp16", "--tensors", "nothing*"], "no tensor"),
        (["--config", "fp16", "--tensors", "steps"], "int64"),
        (["--config", "fp16", "--skip", "*"], "leave no tensor"),
    ],
)
def test_what_cannot_be_quantized_is_refused_in_one_line_and_nothing_is_written(run, model, tmp_path, call, word):
    ran = run("quantize", model, *call, "-o", tmp_path / "out.npz")
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert word in ran.err
    assert not (tmp_path / "out.npz").exists()


def test_values_that_are_not_finite_are_refused_with_their_place(run, tmp_path):
    np.savez(tmp_path / "nan.npz", w=np.float32([[1, 2], [np.nan, np.inf]]))
    ran = run("quantize", tmp_path / "nan.npz", "--config", "fp16", "-o", tmp_path / "out.npz")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "1 NaN and 1 infinite values of 4, the first at index (1, 0)" in ran.err


def test_verify_notices_a_file_that_was_changed(run, model, tmp_path):
    run("quantize", model, "--config", "fp16", "-o", tmp_path / "out.npz")
    assert run("verify", tmp_path / "out.npz").code == 0
    data = bytearray((tmp_path / "out.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "out.npz").write_bytes(data)
    ran = run("verify", tmp_path / "out.npz")
    assert (ran.code, ran.err.count("\n")) == (1, 1)


def test_a_file_that_measures_differently_is_not_passed_over(run, model, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "quantlab.shipping.shipping.same_figures", lambda expected, found: np.array([True, False, True])
    )
    ran = run("quantize", model, "--config", "fp16", "-o", tmp_path / "out.npz")
    assert ran.code == 1
    assert "'fc2.weight' measures differently" in ran.err


def test_the_sample_goes_all_the_way(run, sample_path, tmp_path):
    written = run("quantize", sample_path, "--config", "w4_g128", "-o", tmp_path / "out.safetensors", "--json").json
    rows = json.loads(run("sweep", sample_path, "--config", "w4_g128", "--json", "-").out)
    assert [row["sqnr_db"] for row in written["tensors"]] == pytest.approx([row["sqnr_db"] for row in rows], rel=1e-12)
    assert [row["nbytes"] for row in written["tensors"]] == [row["nbytes"] for row in rows]


@pytest.mark.parametrize("format", ["npz", "safetensors", "onnx", "dense"])
def test_the_code_that_loads_the_result_is_printed_if_asked_and_runs(run, model, tmp_path, format):
    call = [
        "quantize",
        model,
        "--config",
        "w4_g32",
        "--tensors",
        "fc1.weight",
        "--format",
        format,
        "-o",
        tmp_path / "out",
    ]
    said = run(*call, "--others", "leave", "--snippet").out
    names: dict = {}
    exec(said.partition("Read back")[2].partition("\n")[2], names)
    weights = names["weights"]["fc1.weight"] if isinstance(names["weights"], dict) else names["weights"]
    assert tuple(weights.shape) == (48, 64)
    assert "import " in run(*call, "--others", "leave", "--snippet", "--json").json["snippet"]
    assert "import " not in run(*call, "--others", "leave").out


def test_a_sweep_of_the_weights_says_what_it_leaves_alone(run, model):
    for more in ([], ["--dry-run"]):
        told = run("sweep", model, "--config", "fp16", *more).err
        assert "left alone unless --tensors names them: 1 of fewer than two dimensions, 1 not floating point" in told


def test_what_shapes_will_refuse_is_said_before_anything_is_read(run, model):
    grid = ["--dtype", "int8", "--mapping", "sym", "--granularity", "g128", "--calibration", "minmax", "entropy"]
    told = run("sweep", model, *grid, "--dry-run")
    assert "will have no figures: int8-sym-g128-entropy refuses 3 of 3 tensors: entropy calibration needs" in told.err
    assert run("sweep", model, *grid, "--dry-run", "--json", "-").json["refused_rows"] == 3
    first, *_ = run("sweep", model, *grid).err.splitlines()
    assert first.startswith("1 configuration will refuse tensors for their shapes")


def test_totals_are_written_for_programs_too(run, model, library):
    rows = run("sweep", model, "--dtype", "int8", "--totals", "--json", "-").json
    assert {row["tensor"] for row in rows} == {"all tensors"} and len({row["config"] for row in rows}) == len(rows)
    assert all(row["worst_tensor"] in WEIGHTS and row["worst_sqnr_db"] <= row["sqnr_db"] for row in rows)


def test_a_first_sweep_has_the_presets_that_people_use_and_a_grid_of_ones_own_has_not(run, model):
    slugs = {row["config"] for row in run("sweep", model, "--json", "-").json}
    popular = {str(QuantConfig.parse(name)) for name in ("w4_g128", "w4_g128_affine", "w8_channel", "w8_g128")}
    assert popular <= slugs
    assert not popular & {row["config"] for row in run("sweep", model, "--dtype", "int8", "--json", "-").json}


def test_a_sample_is_told_with_its_error(run, tmp_path, rng):
    np.savez(tmp_path / "model.npz", **{f"{i}.weight": rng.standard_normal((2048, 64)) for i in range(2)})
    call = ["sweep", tmp_path / "model.npz", "--config", "w4_g128", "int8-sym-tensor-minmax", "--sample"]
    told = run(*call)
    assert "+- dB" in told.out and "needs all rows" in told.err
    rows = run(*call, "--json", "-").json
    assert all(row["sqnr_se_db"] > 0 for row in rows if row["config"] != "int8-sym-tensor-minmax")
    assert run(*call, "--store").code == 2
