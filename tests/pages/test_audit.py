"""The Audit page: two files compared as a job, its figures those of the library, and what it says where nothing is."""

import re

import numpy as np
import pytest
from safetensors.numpy import save_file

import quantlab as ql
from quantlab.ui import jobs
from tests.pages.app import job_of, messages, page, said
from tests.planning.test_audit import write_gguf

NAMES = ["model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight", "model.norm.weight"]
THERE = ["blk.0.ffn_up.weight", "blk.0.ffn_down.weight", "output_norm.weight"]


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """A model and a GGUF of it, one tensor of which is dominated: (source, quantized)."""
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    rng = np.random.default_rng(3)
    shapes = [(64, 128), (128, 64), (128,)]
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in zip(NAMES, shapes, strict=True)}
    save_file(tensors, tmp_path / "model.safetensors")
    kinds = dict(zip(THERE, zip(tensors.values(), ["BF16", "Q4_0", "F32"], strict=True), strict=True))
    return str(tmp_path / "model.safetensors"), str(write_gguf(tmp_path / "small.gguf", kinds))


def compared(at):
    """The page after its job has ended."""
    next(button for button in at.button if button.label == "Compare the two").click().run()
    assert not at.exception, at.exception
    job = job_of(at, "audit")
    assert job.finished.wait(60)
    at.run()
    assert not at.exception
    return at, job


def shown(at):
    return at.dataframe[0].value.set_index("tensor")


@pytest.mark.parametrize("side", ["Quantized", "Its source"])
def test_either_of_the_two_may_be_the_open_one(pair, side):
    source, small = pair
    file, other = (source, small) if side == "Quantized" else (small, source)
    at, job = compared(page("audit", file=file, beside=other, side=side))
    assert (job.state, job.error) == ("done", "")
    expected = ql.audit(small, source).frame.set_index("tensor")
    table = shown(at)
    assert table.index.tolist() == [THERE[1], THERE[0]]  # the worst first, nothing that is identical
    for name in table.index:
        assert table["sqnr_db"][name] == expected["sqnr_db"][name]
    assert table["better"][THERE[0]] == "fp16" and table["verdict"][THERE[1]] == "not dominated"
    figures = {metric.label: metric.value for metric in at.metric}
    assert (figures["Tensors"], figures["Identical"], figures["Dominated"]) == ("3", "1", "1 of 2")
    assert "What you could have at this size" in [heading.value for heading in at.subheader]
    assert "1 of 2 quantized tensors are dominated" in said(at)


def test_an_importance_file_weighs_errors(pair, tmp_path):
    source, small = pair
    weights = np.linspace(0, 3, 128, dtype=np.float32)
    np.savez(tmp_path / "importance.npz", **{NAMES[0]: weights})
    at, _ = compared(page("audit", file=source, beside=small, imatrix=str(tmp_path / "importance.npz")))
    expected = ql.audit(small, source, importance={NAMES[0]: weights}).frame.set_index("tensor")
    assert shown(at)["weighted_sqnr_db"][THERE[0]] == expected["weighted_sqnr_db"][THERE[0]]
    np.savez(tmp_path / "other.npz", other=weights)
    at = page("audit", file=source, beside=small, imatrix=str(tmp_path / "other.npz"))
    next(button for button in at.button if button.label == "Compare the two").click().run()
    assert "knows none of the tensors" in messages(at) and not at.exception


def test_the_view_is_in_the_link(pair):
    source, small = pair
    first, _ = compared(page("audit", file=source, beside=small))
    url = {name: value if isinstance(value, str) else value[0] for name, value in first.query_params.items()}
    assert url["beside"] == small and url["file"] == source
    second = page("audit", **url, verdict="identical")
    assert shown(second).index.tolist() == [THERE[2]]
    gone = page("audit", file=source, audit="nothing-of-that-name")
    assert "no longer keeps the audit" in messages(gone)


def test_without_another_file_the_page_says_what_to_give(pair):
    at = page("audit", file=pair[0])
    assert not at.exception and "Name the other file" in messages(at)
    next(button for button in at.button if button.label == "Compare the two").click().run()
    assert "No other file is named" in messages(at) and not at.exception


@pytest.mark.parametrize("other, why", [("/etc/passwd", "outside the folders"), ("no.gguf", "there is no")])
def test_what_cannot_be_opened_is_refused_in_place(pair, other, why):
    at = page("audit", file=pair[0], beside=other)
    next(button for button in at.button if button.label == "Compare the two").click().run()
    assert not at.exception and why in messages(at).replace("There", "there") and "audit" not in at.query_params


def test_another_model_fails_with_names_of_both(pair, tmp_path):
    save_file({"conv.kernel": np.ones((2, 2), np.float32)}, tmp_path / "other.safetensors")
    at, job = compared(page("audit", file=pair[0], beside=str(tmp_path / "other.safetensors")))
    assert job.state == "failed" and "have no tensor of one name" in messages(at)


def test_an_audit_of_other_files_is_not_shown_for_this_one(pair, tmp_path):
    source, small = pair
    _, job = compared(page("audit", file=source, beside=small))
    save_file({"conv.kernel": np.ones((2, 2), np.float32)}, tmp_path / "other.safetensors")
    other = page("audit", file=str(tmp_path / "other.safetensors"), audit=job.id)
    assert "was of other files" in messages(other) and not other.dataframe


def test_a_cancelled_audit_says_so(pair):
    source, _ = pair
    job = jobs.start("audit", "x", lambda progress, cancel: (_ for _ in ()).throw(ql.Cancelled()))
    assert job.finished.wait(10)
    assert "The audit was cancelled" in messages(page("audit", file=source, audit=job.id))


def test_hostile_names_do_nothing(pair, tmp_path):
    name = "<img src=x onerror=alert(1)>**[x](http://x)"
    x = np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)
    save_file({name: x}, tmp_path / "a.safetensors")
    save_file({name: x * np.float32(1.01)}, tmp_path / "b.safetensors")
    at, _ = compared(page("audit", file=str(tmp_path / "a.safetensors"), beside=str(tmp_path / "b.safetensors")))
    assert not any(re.search(r"(?<!\\)<img", element.value) for element in (*at.markdown, *at.caption))
    assert shown(at)["verdict"].tolist() == ["compared"]
