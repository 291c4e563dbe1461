"""The Open page: a file from anywhere becomes a table of tensors, or a sentence that says why not."""

import io
import os
import pickle
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import quantlab as ql
from quantlab.core.statistics import describe
from quantlab.ui import cache, open_findings, open_table, opening, state, text
from tests.fuzz.run import CORPUS
from tests.pages.app import messages, page, said, started


class Evil:
    """Makes a folder when it is unpickled."""

    marker = Path(tempfile.gettempdir()) / "quantlab-was-here"

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def header(text: str) -> bytes:
    """The start of a .npy file that says `text` of itself."""
    return b"\x93NUMPY\x01\x00v\x00" + text.encode().ljust(117) + b"\n"


def npy(x: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, x)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An allowed folder with a model of every kind of tensor."""
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    rng = np.random.default_rng(5)
    tensors = {
        "decoder.weight": rng.standard_normal((32, 64), dtype=np.float32),
        "decoder.bias": np.zeros(32, np.float32),
        "encoder.weight": rng.standard_normal((16, 8)).astype(ml_dtypes.bfloat16),
        "positions": np.arange(6),
        "broken": np.array([1, np.nan, np.inf], np.float32),
        "nothing": np.empty((0, 4), np.float32),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "deep").mkdir()
    np.save(tmp_path / "deep" / "one.npy", np.ones(3, np.float32))
    np.save(tmp_path / "two.npy", np.ones((2, 3), np.float32))
    return tmp_path


def rows(at):
    """The table of tensors; above it stands that of the findings, where there are some."""
    return at.dataframe[-1].value.set_index("tensor")


def test_the_sample_shows_every_tensor_with_its_figures(sample_path):
    at = started()
    assert not at.exception
    (_, checkpoint), table = cache.checkpoint("sample"), rows(at)
    assert list(table.index) == checkpoint.names
    for name in checkpoint.names:
        figures, row = describe(checkpoint.load(name)), table.loc[name]
        assert (row["minimum"], row["maximum"], row["std"]) == (figures.minimum, figures.maximum, figures.std)
        assert row["kurtosis"] == figures.kurtosis or np.isnan(figures.kurtosis)
        assert (row["zeros"], row["outliers"]) == (figures.zeros, figures.outliers)
        assert sum(row["histogram"]) == figures.size
        assert row["nbytes"] == checkpoint.spec(name).nbytes


def test_tensors_without_figures_say_why_and_keep_nobody_else_from_theirs(folder):
    at = started(file=str(folder / "model.safetensors"), show="All")
    table = rows(at)
    assert "1 NaN and 1 infinite" in table["note"]["broken"]
    assert "int64" in table["note"]["positions"]
    assert "no elements" in table["note"]["nothing"]
    assert table["std"].notna().sum() == 3
    assert table["dtype"]["encoder.weight"] == "bfloat16" and table["nbytes"]["encoder.weight"] == 16 * 8 * 2


@pytest.mark.parametrize(
    "query, names",
    [
        ("", 6), ("weight", 2), ("DECODER", 2), ("*.weight", 2), ("dec*.b?as", 1), ("[de]*", 3), (" bias ", 1),
    ],
)  # fmt: skip
def test_search_takes_part_of_a_name_or_a_pattern(folder, query, names):
    at = started(file=str(folder / "model.safetensors"), find=query, show="All")
    assert len(rows(at)) == names


def test_a_search_that_finds_nothing_says_so():
    at = started(find="<b>zzz</b>")
    assert "nbytes" not in at.dataframe[-1].value  # only the findings
    assert "<b>zzz</b>" in messages(at)
    assert "\\<b" in at.info[0].value  # escaped: it is a stranger's text


def select(at, rows=(), cells=()):
    """Tick rows of the table, or click on cells, (row, column) each."""
    at.session_state["tensors"] = {"selection": {"rows": list(rows), "columns": [], "cells": list(cells)}}
    return at.run()


def test_a_click_on_a_row_opens_the_tensor_in_inspect():
    at = select(started(), cells=[(3, "shape")])
    assert not at.exception
    assert at.query_params["tensor"] == "conv2.weight"
    assert at.title[0].value.replace("\\", "") == "conv2.weight"


def test_ticks_choose_tensors_for_a_sweep_and_lead_nowhere_by_themselves():
    at = select(started(), rows=[0, 3])
    assert not at.exception and at.title[0].value == "Open"
    next(button for button in at.button if button.label == "Sweep these 2 tensors").click().run()
    assert at.title[0].value == "Sweep"
    assert at.segmented_control(key="scope").value == "Some"
    names = cache.checkpoint("sample")[1].names
    assert at.multiselect(key="names").value == [names[0], names[3]]


def test_more_ticks_than_a_link_holds_are_refused(monkeypatch):
    monkeypatch.setattr(open_table, "SWEPT", 1)
    at = select(started(), rows=[0, 3])
    assert next(button for button in at.button if button.label == "Sweep these 2 tensors").disabled


def clicked(at, label):
    return next(button for button in at.button if button.label == label).click().run()


def test_the_first_page_says_what_quantlab_is_for_and_what_comes_next():
    at = started()
    assert "quantlab decides how to quantize a model's weights. 1 Open a model. 2 Plan" in said(at)
    at = clicked(at, "Sweep")
    assert at.title[0].value == "Sweep" and at.segmented_control(key="scope").value == "Weights"


def test_the_next_step_is_a_plan_for_the_program_that_is_to_load_the_model():
    at = started()
    assert at.selectbox(key="plan-for").value == "any"  # no model of language
    at.selectbox(key="plan-for").select("onnxruntime").run()
    at = clicked(at, "Plan")
    assert not at.exception
    assert at.title[0].value == ("Plan" if "plan" in state.PAGES else "Sweep")


@pytest.mark.parametrize(
    "names, format, target",
    [
        (["model.layers.0.self_attn.q_proj.weight"], "safetensors", "vllm"),
        (["conv.weight"], "safetensors", "any"),
        (["blk.0.attn_q.weight"], "gguf", "llama.cpp"),
        (["conv.weight"], "onnx", "onnxruntime"),
    ],
)
def test_the_program_that_suits_a_file_is_offered_first(names, format, target):
    assert opening.suited(SimpleNamespace(names=names, format=format)) == target


@pytest.fixture
def odd_model(tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    rng = np.random.default_rng(3)
    plain = rng.standard_normal((256, 64), dtype=np.float32)
    tensors = {f"layers.{i}.weight": plain.copy() for i in range(6)} | {"ids": np.arange(4)}
    tensors["layers.1.weight"][3, 4] = np.nan
    tensors["layers.2.weight"][:] = 0
    tensors["layers.3.weight"][5] *= 80
    tensors["layers.4.weight"][:, 7] *= 50
    save_file(tensors, tmp_path / "model.safetensors")
    return str(tmp_path / "model.safetensors")


def findings_of(at):
    return at.dataframe[0].value.set_index("tensor")


def test_findings_stand_above_the_table_with_the_measured_gain_of_what_helps(odd_model):
    at = started(file=odd_model)
    assert (
        "4 findings in 4 of 7 tensors: 1 NaN/inf, 1 with outliers along axis 0, 1 with outliers along axis 1, 1 dead"
        in said(at)
    )
    assert "layers.1.weight holds 1 NaN and 0 infinite values of 16,384, the first at index (3, 4)." in messages(at)
    found = findings_of(at)
    assert found["odd"].to_dict() == {
        "layers.1.weight": "NaN/inf", "layers.3.weight": "axis 0", "layers.4.weight": "axis 1",
        "layers.2.weight": "dead",
    }  # fmt: skip
    measured = ql.findings(cache.checkpoint(odd_model)[1]).set_index("tensor")
    assert found["gain"].dropna().to_dict() == measured["gain_db"].dropna().to_dict()
    assert found["remedy"]["layers.4.weight"] == "scales along axis 1"
    assert "1 tensor without float values is not listed" in said(at)
    assert rows(at)["odd"].dropna().to_dict() == found["odd"].to_dict()
    at.segmented_control(key="show").set_value("Odd").run()
    assert list(rows(at).index) == [f"layers.{i}.weight" for i in range(1, 5)]


def test_a_click_on_a_finding_opens_its_tensor_and_its_axis_in_inspect(odd_model):
    at = started(file=odd_model)
    at.session_state["findings"] = {"selection": {"rows": [], "columns": [], "cells": [(2, "remedy")]}}
    at.run()
    assert not at.exception and at.title[0].value.replace("\\", "") == "layers.4.weight"
    assert at.query_params["tab"] == "Channels"
    assert at.selectbox(key="axis1").value == 1 and "axis1" not in at.query_params  # it says so unasked
    gain = findings_of(started(file=odd_model))["gain"]["layers.4.weight"]
    assert f"Measured: scales along axis 1: +{gain:.1f} dB at int8 (axis 0: +" in messages(at)


def test_a_finding_about_another_axis_than_the_first_opens_that_axis():
    """Dead channels along axis 2 of the sample's first convolution, whose channels lie along axis 0."""
    at = started()
    found = [(row, odd) for row, odd in enumerate(findings_of(at)["what"]) if "along axis 2 is zero" in odd]
    at.session_state["findings"] = {"selection": {"rows": [], "columns": [], "cells": [(found[0][0], "what")]}}
    at.run()
    assert not at.exception and at.title[0].value.replace("\\", "") == "stft_conv.weight"
    assert at.selectbox(key="axis").value == 2


def test_reading_that_breaks_off_is_not_said_to_have_found_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    tensors = {name: np.random.default_rng(1).standard_normal((64, 256)).astype(np.float32) for name in "ab"}
    save_file(tensors, tmp_path / "two.safetensors")
    looked, published = cache._look, threading.Event()

    def broken(checkpoint, name):
        if name == "b":
            published.set()
            raise OSError(5, "Input/output error", "two.safetensors")
        return looked(checkpoint, name)

    monkeypatch.setattr(cache, "_look", broken)
    at = started(file=str(tmp_path / "two.safetensors"))
    assert published.is_set() and not at.exception
    assert "The system refused: Input/output error" in messages(at)
    assert "Nothing odd so far, in 1 tensor." in said(at)


def test_nothing_odd_is_said_too(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    np.save(tmp_path / "plain.npy", np.random.default_rng(1).standard_normal((64, 256), dtype=np.float32))
    at = started(file=str(tmp_path / "plain.npy"))
    assert "Nothing odd was found in 1 tensor." in said(at) and len(at.dataframe) == 1


def test_a_file_without_weights_lists_what_it_has(folder):
    np.savez(folder / "ids.npz", a=np.arange(3), b=np.arange(4))
    at = started(file=str(folder / "ids.npz"))
    assert not at.exception and list(rows(at).index) == ["a", "b"]
    assert not any(button.label in ("Plan", "Sweep") for button in at.button)


@pytest.mark.parametrize(
    "value", [-4.103e-5, 0.04103, -0.99951, -123456.7, 3.4028e38, -1.17e-38, 59904, 1.5, 0, 99999.5, -99999.4, 12050]
)
def test_no_figure_is_wider_than_its_column(value):
    """A cut minus sign, or a cut percent sign, makes another figure of it."""
    narrowest = min(open_table.WIDTHS[name] for name in ("minimum", "maximum", "std", "kurtosis"))
    assert len(text.figure(value)) * open_table.LETTER <= narrowest
    assert float(text.figure(value).replace("\N{MINUS SIGN}", "-").replace(",", "")) == pytest.approx(value, rel=0.05)


@pytest.mark.parametrize("value", [0, 1, 1e-9, 0.99999, 0.000326, 0.0137, 0.137])
def test_no_share_is_wider_than_its_column(value):
    narrowest = min(open_table.WIDTHS[name] for name in ("zeros", "outliers"))
    assert len(text.share(value)) * open_table.LETTER <= narrowest


def test_the_columns_fit_beside_the_sidebar_of_a_laptop(folder):
    at = started(file=str(folder / "model.safetensors"), show="All")
    frame = at.dataframe[-1].value
    columns = open_table._column_config(frame)
    width = sum(columns[name]["width"] for name in frame if name != "note")
    assert width + open_table.TICK <= open_table.ROOM


def test_an_upload_is_opened_and_its_name_only_shown():
    at = started()
    at.file_uploader[0].upload("../<img src=x>.npy", npy(np.float32([[1, 2], [3, 4]]))).run()
    assert not at.exception and not at.error
    assert at.query_params["file"].startswith("upload-")
    assert at.subheader[0].value == "\\<img src=x\\>.npy"
    assert len(rows(at)) == 1
    # A refresh, and a second tab, find it again.
    assert list(rows(started(**at.query_params)).index) == list(rows(at).index)


@pytest.mark.parametrize(
    "name, data",
    [
        ("empty.npy", b""),
        ("cut.npy", npy(np.ones(100))[:-10]),
        ("pickle.npy", pickle.dumps(Evil())),
        ("pickle.safetensors", pickle.dumps({"w": [Evil()]}, 2)),
        ("object.npy", header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }") + pickle.dumps([Evil()])),
        ("claim.npy", header("{'descr': '<f8', 'fortran_order': False, 'shape': (65536, 65536), }")),
        ("text.safetensors", b"hello, I am not a model"),
        ("broken.npz", b"PK\x03\x04" + b"\0" * 40),
    ],
)  # fmt: skip
def test_a_bad_upload_is_refused_in_a_sentence_and_the_sample_stays_open(name, data):
    at = started()
    at.file_uploader[0].upload(name, data).run()
    assert not at.exception
    assert len(at.error) == 1 and at.error[0].value.endswith(".")
    assert at.query_params["file"] == "sample" and len(rows(at)) == 15
    assert not Evil.marker.exists()
    at.file_uploader[0].upload("good.npy", npy(np.ones(3, np.float32))).run()
    assert not at.error and len(rows(at)) == 1


def test_a_file_that_kills_its_reader_leaves_the_other_sessions_as_they_were():
    """One byte of it once ended the server, and with it everybody's work."""
    elsewhere, at = started(), started()
    before = list(rows(elsewhere).index)
    for path in (CORPUS / "hdf5").glob("*.bin"):
        at.file_uploader[0].upload("model.h5", path.read_bytes()).run()
        assert not at.exception
        assert "'model.h5' is a damaged HDF5 file" in messages(at)
    elsewhere.run()
    assert not elsewhere.exception and list(rows(elsewhere).index) == before


def test_a_tensor_that_does_not_fit_in_memory_says_so_in_its_row(folder, monkeypatch):
    np.save(folder / "large.npy", np.zeros((5 << 10, 1 << 12), np.float32))
    monkeypatch.setenv("QUANTLAB_MEMORY", "100MB")
    table = rows(started(file=str(folder / "large.npy")))
    assert "QUANTLAB_MEMORY=100MB has 0 bytes left: raise it" in table["note"]["large"]


def test_a_refusal_is_gone_on_the_next_page_and_with_another_way_to_open():
    at = started()
    at.file_uploader[0].upload("bad.npy", b"bad").run()
    assert at.error
    at.switch_page("../../pages/inspect.py").run()
    at.switch_page("../../pages/open.py").run()
    assert not at.error
    at.file_uploader[0].upload("bad.npy", b"bad").run()
    at.segmented_control(key="from").set_value("Sample").run()
    assert not at.error


def on_this_computer(path: str):
    at = page("open", **{"from": "On this computer"})
    return at.text_input(key="path").input(path).run()


def test_a_path_under_an_allowed_folder_is_opened(folder):
    at = on_this_computer("two.npy")
    assert not at.error
    assert at.query_params["file"] == str(folder / "two.npy")
    assert rows(at)["shape"].tolist() == ["2 × 3"]


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../secret.npy", "~root/.ssh/id_rsa", "/", "/proc/self/mem", "/dev/zero"]
)
def test_a_path_outside_the_allowed_folders_is_refused_whether_or_not_it_exists(folder, path):
    at = on_this_computer(path)
    assert not at.exception
    assert "outside the folders" in messages(at) and "QUANTLAB_ROOTS" in messages(at)
    assert at.query_params["file"] == "sample"


@pytest.mark.parametrize("kind", ["missing", "fifo", "loop", "nul", "long", "user"])
def test_a_path_that_is_no_file_is_refused(folder, kind):
    """Also a FIFO, which would keep its reader waiting for ever: the page would not come to its end."""
    if kind == "fifo":
        os.mkfifo(folder / "fifo")
    if kind == "loop":
        (folder / "loop").symlink_to(folder / "loop")
    path = {"nul": "a\0b", "long": "a" * 5000, "user": "~nobody-of-that-name/x"}.get(kind, kind)
    at = on_this_computer(path)
    assert not at.exception
    assert len(at.error) == 1


def test_an_empty_path_asks_for_nothing(folder):
    assert not on_this_computer("  ").error


def test_a_folder_lists_its_files_and_opens_the_chosen_one(folder):
    (folder / "also.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    at = on_this_computer(str(folder))
    assert not at.error
    choice = at.selectbox(key="file-in-folder")
    assert choice.options == ["also.safetensors", "model.safetensors", "two.npy", "deep/one.npy"]
    choice.select("deep/one.npy").run()
    next(button for button in at.button if button.label == "Open").click().run()
    assert not at.error
    assert at.query_params["file"] == str(folder / "deep" / "one.npy")


def test_a_folder_without_a_model_is_refused(folder):
    (folder / "bare").mkdir()
    assert len(on_this_computer("bare").error) == 1


def test_the_way_back_to_the_sample(folder):
    at = page("open", file=str(folder / "two.npy"), **{"from": "Sample"})
    next(button for button in at.button if "sample" in button.label).click().run()
    assert at.query_params["file"] == "sample"
    assert next(button for button in at.button if "sample" in button.label).disabled


def test_a_file_without_tensors_has_an_empty_state(folder):
    save_file({}, folder / "empty.safetensors")
    at = started(file=str(folder / "empty.safetensors"))
    assert not at.exception and not at.dataframe
    assert "holds no tensor" in messages(at)
    at = page("inspect", file=str(folder / "empty.safetensors"), tensor="gone")
    assert not at.exception
    assert "has no tensor 'gone'." in messages(at) and "holds no tensor" in messages(at)


def test_figures_come_while_the_table_is_already_there(folder, monkeypatch):
    """A big checkpoint: the page does not wait for the figures."""
    release, described = threading.Event(), cache._look
    monkeypatch.setattr(cache, "_look", lambda *args: (release.wait(30), described(*args))[1])
    monkeypatch.setattr(open_findings, "FIRST_LOOK", 0.05)
    os.utime(folder / "model.safetensors", ns=(1, 1))  # a file of its own in every cache
    try:
        at = started(file=str(folder / "model.safetensors"))
        assert not at.exception
        assert rows(at)["std"].isna().all() and rows(at)["shape"].notna().all()
        assert at.get("progress")
    finally:
        release.set()
    cache.statistics_job(at.session_state["quantlab"].key, at.session_state["quantlab"].checkpoint).finished.wait(10)
    at.run()
    assert rows(at)["std"].notna().sum() == 3
    assert not at.get("progress")


def test_a_very_long_table_has_no_small_histograms(folder, monkeypatch):
    monkeypatch.setattr(open_table, "CHARTED", 5)
    at = started(file=str(folder / "model.safetensors"), show="All")
    assert "histogram" not in rows(at) and len(rows(at)) == 6
