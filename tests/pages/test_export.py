"""The Export page: which tensor gets what, the file, the proof, and every way an export can end."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantlab.core.config import QuantConfig
from quantlab.core.tensor import quantize
from quantlab.errors import ExportError
from quantlab.formats import FORMATS, export, load_packed, open_checkpoint
from quantlab.shipping import shipping
from quantlab.sweeping.sweep import sweep
from quantlab.ui import export_form, exports, jobs, text
from tests.pages.app import job_of, page, said

SLUG = "int4-sym-g32-mse"
HOSTILE = "=HYPERLINK(1)<b>[x](http://y)"
WEIGHTS = [HOSTILE, "encoder.0.weight", "encoder.1.weight"]  # in the file's order


@pytest.fixture
def model(tmp_path, monkeypatch) -> str:
    """Two weights, a bias, integers, and a hostile name."""
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    rng = np.random.default_rng(1)
    tensors = {
        "encoder.0.weight": rng.standard_normal((32, 64)).astype(np.float32),
        "encoder.1.weight": rng.standard_normal((16, 64)).astype(np.float16),
        "encoder.0.bias": rng.standard_normal(32).astype(np.float32),
        "positions": np.arange(9),
        HOSTILE: rng.standard_normal((8, 8)).astype(np.float32),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    return str(tmp_path / "model.safetensors")


def opened(model, **url):
    at = page("export", **{"file": model, "config": SLUG, **url})
    assert not at.exception
    return at


def button(at, label):
    return next(b for b in at.button if b.label == label)


def field(at, label):
    return next(f for f in [*at.text_input, *at.selectbox, *at.toggle] if f.label == label)


def cards(at) -> dict[str, str]:
    return {card.label: card.value for card in at.metric}


def written(model, **url):
    """The page after its file has been written."""
    at = opened(model, **url)
    button(at, "Write the file").click().run()
    assert job_of(at, "export").finished.wait(60)
    at.run()
    assert not at.exception
    return at


def test_what_would_be_written_is_shown_before_anything_is(model):
    at = opened(model)
    with open_checkpoint(model) as checkpoint:
        rows = sweep(checkpoint, [QuantConfig.parse(SLUG)], WEIGHTS)
    assert cards(at)["Tensors"] == "3 of 5"
    assert cards(at)["Bits per weight"] == f"{8 * rows['nbytes'].sum() / (32 * 64 + 16 * 64 + 64):.3f}"
    planned = at.dataframe[0].value
    assert planned["Tensor"].tolist() == rows["tensor"].tolist()
    assert planned["Packed"].tolist() == rows["nbytes"].tolist()
    left = at.dataframe[1].value
    assert set(left["Tensor"]) == {"encoder.0.bias", "positions"}
    assert "export" not in at.query_params


def test_a_pattern_chooses_the_tensors(model):
    at = opened(model)
    field(at, "Tensors").set_value("encoder.0*").run()
    assert cards(at)["Tensors"] == "2 of 5"


def test_a_pattern_that_matches_nothing_is_answered_where_the_user_is(model):
    at = opened(model, take="encodr*")
    assert "matches 'encodr*'" in said(at)
    assert not cards(at)
    field(at, "Tensors").set_value("").run()
    assert cards(at)["Tensors"] == "3 of 5"


def test_an_exception_gets_another_configuration_and_is_in_the_link(model):
    at = opened(model, tensor="encoder.1.weight")
    button(at, "Add an exception").click().run()
    assert at.query_params["rule"] in ("encoder.1.weight=fp16", ["encoder.1.weight=fp16"])
    assert dict(at.dataframe[0].value[["Tensor", "Configuration"]].values)["encoder.1.weight"] == "fp16"
    field(at, "which get").set_value("skip").run()
    assert "encoder.1.weight" in set(at.dataframe[1].value["Tensor"])
    field(at, "Except").set_value("encoder.0*").run()
    assert cards(at)["Tensors"] == "2 of 5"
    button(at, "Remove").click().run()
    assert "rule" not in at.query_params
    assert cards(at)["Tensors"] == "3 of 5"


def test_a_link_brings_its_exceptions_along(model):
    at = opened(model, rule=["encoder.1*=int8-aff-ch0-minmax", "*.bias=copy"])
    assert dict(at.dataframe[0].value[["Tensor", "Configuration"]].values)["encoder.1.weight"] == "int8-aff-ch0-minmax"
    assert at.dataframe[1].value["Tensor"].tolist() == ["encoder.0.bias"]
    assert "configuration that cannot be read" in said(opened(model, rule="a=int44"))


def test_a_configuration_can_be_typed_and_a_wrong_one_is_answered(model, monkeypatch):
    # AppTest cannot type, only choose.
    monkeypatch.setattr(export_form, "_offered", lambda session: ["int3-uni-g64-mse", "int44"])
    at = opened(model)
    field(at, "Configuration").set_value("int3-uni-g64-mse").run()
    assert at.query_params["config"] in ("int3-uni-g64-mse", ["int3-uni-g64-mse"])
    field(at, "Configuration").set_value("int44").run()
    assert not at.exception
    assert "'int44' is no configuration" in said(at)
    assert "Still used: int3-uni-g64-mse" in said(at)


def test_the_other_tensors_can_be_copied(model):
    at = opened(model)
    field(at, "Copy the other tensors unchanged").set_value(True).run()
    assert [expander.label for expander in at.expander][:2] == [
        "3 tensors quantized, 10.5 kB in 1.98 kB: 5.29 ×",
        "2 tensors copied unchanged, 200 B",
    ]


def test_the_headline_is_the_whole_file_and_comes_true(model, tmp_path):
    at = opened(model, config="int4-sym-g32-minmax", format=FORMATS["safetensors"].label)
    field(at, "Copy the other tensors unchanged").set_value(True).run()
    before = cards(at)
    source = os.path.getsize(model)
    assert before["Source"] == text.size(source)
    button(at, "Write the file").click().run()
    assert job_of(at, "export").finished.wait(60)
    at.run()
    result = job_of(at, "export").result
    assert before["File"] == text.size(result.nbytes) and result.source_nbytes == source
    assert before["Ratio"] == f"{source / result.nbytes:.2f} ×"
    assert f"the source has {text.size(source)}, {source / result.nbytes:.2f} ×" in said(at)


def test_what_cannot_be_quantized_so_is_copied_at_one_click(model):
    at = opened(model, config="q8_0", take="*", format=FORMATS["safetensors"].label)
    assert cards(at)["File"] == "-" and button(at, "Write the file").disabled
    button(at, "Copy this tensor unchanged").click().run()
    assert not at.exception
    assert cards(at)["Tensors"] == "3 of 5" and cards(at)["File"] != "-"
    whys = [why for frame in at.dataframe if "Why" in frame.value for why in frame.value["Why"]]
    assert any("cannot be cut into blocks of 32" in why for why in whys)
    assert not button(at, "Write the file").disabled


@pytest.mark.parametrize(("format", "offered"), [("gguf", "Use q8_0"), ("mlx", "Use int8-uni-g64-minmax")])
def test_a_format_that_holds_nothing_so_offers_what_it_holds(format, offered, model):
    at = opened(model, take="encoder*.weight", format=FORMATS[format].label)
    assert button(at, "Write the file").disabled
    button(at, offered).click().run()
    assert not at.exception and not at.error
    assert not button(at, "Write the file").disabled


@pytest.mark.parametrize(("typed", "means"), [("copied", "copy"), ("Left out", "skip"), ("skip", "skip")])
def test_outcomes_can_be_typed_as_they_are_called(typed, means, model, monkeypatch):
    monkeypatch.setattr(export_form, "_offered", lambda session: [typed, "nonsense"])
    at = opened(model, rule=["encoder.1*=fp16"])
    field(at, "which get").set_value(typed).run()
    assert not at.error
    assert at.query_params["rule"] in (f"encoder.1*={means}", [f"encoder.1*={means}"])
    field(at, "which get").set_value("nonsense").run()
    assert "Or copy, to keep them unchanged, or skip, to leave them out." in said(at)


@pytest.mark.parametrize(
    ("name", "format"), [("folder", "compressed-tensors"), ("a.gguf", "gguf"), ("a.onnx", "onnx"), ("a.npz", "npz")]
)
def test_the_format_follows_what_the_source_is(name, format, model, tmp_path):
    path = tmp_path / name
    q = {"fc.weight": quantize(np.ones((32, 64), np.float32), QuantConfig.parse("q8_0"))}
    if name == "folder":
        path.mkdir()
        Path(model).rename(path / "model.safetensors")
        (path / "config.json").write_text("{}")
    elif name == "a.npz":
        np.savez(path, w=np.ones((32, 64), np.float32))
    elif name == "a.gguf":
        export(path, q, "gguf")
    else:
        export(
            path,
            {"fc.weight": quantize(np.ones((32, 64), np.float32), QuantConfig.parse("int8-sym-ch0-minmax"))},
            "onnx",
        )
    at = page("export", file=str(path), config=SLUG)
    assert field(at, "File format").value == format
    if format != "onnx":  # whose only floats are scales
        assert field(at, "Copy the other tensors unchanged").value == (format != "npz")
    at = page("export", file=str(path), config=SLUG, format=FORMATS["safetensors"].label)
    assert field(at, "File format").value == "safetensors"


def test_a_shape_that_a_configuration_does_not_allow_is_answered(model):
    at = opened(model, config="int8-sym-ch1-minmax", take="*")
    assert "'encoder.0.bias' cannot have int8-sym-ch1-minmax" in said(at)


@pytest.mark.parametrize("format", ["npz", "safetensors"])
def test_the_file_holds_what_was_chosen_and_the_page_proves_it(model, format):
    at = opened(model)
    field(at, "File format").set_value(FORMATS[format].label).run()
    button(at, "Write the file").click().run()
    assert job_of(at, "export").finished.wait(60)
    at.run()
    path = exports.store().find(job_of(at, "export").result.download)
    assert path.suffix == FORMATS[format].suffix
    assert {name: str(q.config) for name, q in load_packed(path).items()} == dict.fromkeys(WEIGHTS, SLUG)
    assert "the figures are those that a sweep shows" in said(at)
    figures = at.dataframe[-1].value
    assert figures["Equal"].tolist() == ["✓"] * 3
    for name in ("SQNR", "Max error", "Bytes"):
        assert figures[f"{name}, sweep"].tolist() == pytest.approx(figures[f"{name}, file"].tolist(), rel=1e-12)
    assert f"ql.load_packed('{Path(model).parent.name}-int4-sym-g32-mse" in at.code[0].value


def test_the_figures_are_compared_with_the_visitors_own_sweep(model):
    chosen = {"dtypes": ["int4", "int8"], "mappings": ["symmetric"], "granularities": ["g32"], "calibrations": ["mse"]}
    at = page("sweep", file=model, **chosen)
    next(b for b in at.button if b.label.startswith("Run")).click().run()
    value = at.query_params["job"]
    job = jobs.get(value if isinstance(value, str) else value[0])
    assert job.finished.wait(60)
    rows = job.result.frame.query("config == @SLUG")
    least = rows.loc[rows["sqnr_db"].idxmin()]
    predicted = f"median SQNR {rows['sqnr_db'].median():.1f} dB, worst {least['sqnr_db']:.1f} dB"
    assert f"Your sweep: {predicted}" in said(opened(model, job=job.id))
    assert "Your sweep" not in said(opened(model, job=job.id, config="fp16"))
    assert "those of your sweep" in said(written(model, job=job.id))
    assert "those that a sweep shows" in said(written(model, job=job.id, config="fp16"))


def test_the_download_is_a_link_to_the_route(model):
    at = written(model)
    link = next(element.proto for element in at.main if element.type == "link_button")
    assert link.url == f"exports/{job_of(at, 'export').result.download}"
    assert link.label.startswith("Download ")


def test_a_download_that_made_room_for_others_says_so(model):
    at = written(model)
    exports.store().drop(job_of(at, "export").result.download)
    at.run()
    assert "no longer kept" in said(at)


def test_a_second_tab_finds_the_export_by_its_link(model):
    first = written(model)
    second = opened(model, export=job_of(first, "export").id)
    assert "the figures are those" in said(second)


def test_a_link_to_an_export_that_is_long_gone_says_so(model):
    at = opened(model, export="gone")
    assert "no longer keeps the export" in said(at)


def test_an_export_of_another_file_is_not_shown_as_one_of_this(model, tmp_path):
    at = written(model)
    np.savez(tmp_path / "other.npz", w=np.ones((4, 4), np.float32))
    other = opened(str(tmp_path / "other.npz"), export=job_of(at, "export").id)
    assert "was of another file" in said(other)


def test_a_file_can_be_saved_on_this_computer(model, tmp_path):
    at = opened(model)
    at.segmented_control[-1].set_value("A folder on this computer").run()
    field(at, "Folder").set_value(str(tmp_path)).run()
    field(at, "File name").set_value("../small.npz").run()
    button(at, "Write the file").click().run()
    assert job_of(at, "export").finished.wait(60)
    at.run()
    assert list(load_packed(tmp_path / "small.npz")) == WEIGHTS
    assert f"Saved as {tmp_path / 'small.npz'}" in said(at)
    button(at, "Write the file").click().run()
    assert "exists already" in said(at)


def test_a_folder_that_may_not_be_written_is_answered(model):
    at = opened(model)
    at.segmented_control[-1].set_value("A folder on this computer").run()
    field(at, "Folder").set_value("/etc").run()
    button(at, "Write the file").click().run()
    assert not at.exception
    assert "outside the folders" in said(at)


def test_a_format_that_cannot_hold_it_says_why_and_writes_nothing(model):
    at = opened(model)
    field(at, "File format").set_value(FORMATS["gguf"].label).run()
    assert f"Tensor '{HOSTILE}' as {SLUG} cannot be written to gguf: it holds ggml's own types" in said(at)
    assert "2 more cannot either" in said(at)
    assert button(at, "Write the file").disabled


def test_while_it_runs_the_page_shows_how_far_it_is_and_can_cancel(model, monkeypatch):
    reached, gate = threading.Event(), threading.Event()
    real = shipping.export_outgoing

    def slow(*args, **kwargs):
        reached.set()
        gate.wait(30)
        return real(*args, **kwargs)

    monkeypatch.setattr(shipping, "export_outgoing", slow)
    at = opened(model)
    button(at, "Write the file").click().run()
    assert reached.wait(10)
    at.run()
    assert button(at, "Write the file").disabled
    assert at.get("progress")
    job_of(at, "export").cancel()
    gate.set()
    assert job_of(at, "export").finished.wait(10)
    at.run()
    assert "The export was cancelled" in said(at)
    assert not button(at, "Write the file").disabled


def test_a_failure_is_told_in_a_sentence_and_the_page_goes_on(model, monkeypatch):
    def full(*args, **kwargs):
        raise ExportError("cannot write 'model.npz': the disk is full")

    monkeypatch.setattr(shipping, "export_outgoing", full)
    at = written(model)
    assert "Nothing was written: Cannot write 'model.npz': the disk is full." in said(at)
    assert not button(at, "Write the file").disabled


def test_figures_that_differ_are_not_passed_over(model, monkeypatch):
    monkeypatch.setattr(exports, "same_figures", lambda expected, found: np.array([True, False, True]))
    at = written(model)
    assert "1 tensor measured differently" in said(at)
    assert at.dataframe[-1].value["Equal"].tolist() == ["✓", "✗", "✓"]


def test_names_of_strangers_are_shown_as_they_are(model):
    at = written(model)
    shown = [element.value for kind in (at.markdown, at.success, at.error, at.caption) for element in kind]
    assert not any("[x](http" in value for value in shown)


def test_without_a_file_the_page_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    at = page("export", file=str(tmp_path / "missing.npz"))
    assert not at.exception
    assert at.error


@pytest.mark.parametrize("format", ["compressed-tensors", "mlx"])
def test_a_model_for_another_program_is_saved_as_a_folder(model, tmp_path, format):
    slug = "int4-uni-g64-minmax" if format == "mlx" else "int4-sym-g32-minmax"
    at = opened(model, config=slug, take="encoder.*.weight", format=FORMATS[format].label)
    assert [field.label for field in at.text_input if "folder" in field.label.lower()] == [
        "Folder",
        "Name of the new folder",
    ]
    field(at, "Folder").set_value(str(tmp_path)).run()
    field(at, "Name of the new folder").set_value("small").run()
    button(at, "Write the file").click().run()
    assert job_of(at, "export").finished.wait(60)
    at.run()
    assert not at.exception
    # One of the weights is float16, and transformers computes in a model's own dtype.
    of_whom = "that a sweep shows" if format == "mlx" else "that the format's readers see (transformers holds"
    assert f"the figures are those {of_whom}" in said(at)
    with open_checkpoint(tmp_path / "small") as written:
        assert "encoder.0.bias" in written.names
    assert (tmp_path / "small" / "config.json").exists()
    assert str(tmp_path / "small") in at.code[0].value
    button(at, "Write the file").click().run()
    assert "exists already" in said(at)
