"""quantlab audit on the command line: the library's figures, for people, programs and gates."""

import csv
import io

import numpy as np
import pytest

import quantlab as ql
from quantlab.planning.auditing import COLUMNS


@pytest.fixture
def pair(run, model, tmp_path):
    """A model, and a GGUF of it with a tensor that is dominated: bfloat16 of float32."""
    out = tmp_path / "small.gguf"
    ran = run("export", model, "--config", "fc1.weight=bf16", "fc2.weight=copy", "--others", "leave", "-o", out)
    assert ran.code == 0, ran.err
    return out, model


def test_figures_are_those_of_the_library(run, pair):
    out, model = pair
    found = ql.audit(out, model)
    ran = run("audit", out, "--source", model, "--json")
    assert ran.code == 0
    rows = ran.json["tensors"]
    assert [row["tensor"] for row in rows] == found.frame["tensor"].tolist() == ["fc1.weight", "fc2.weight"]
    assert list(rows[0]) == COLUMNS
    assert rows[0]["sqnr_db"] == pytest.approx(found.frame["sqnr_db"][0], rel=1e-12)
    assert (rows[0]["verdict"], rows[0]["better"]) == ("dominated", "fp16")
    assert rows[1]["verdict"] == "identical" and rows[1]["sqnr_db"] is None
    assert ran.json["target"] == "llama.cpp" and ran.json["verdicts"]["dominated"] == 1
    assert set(ran.json["missing"]) == {"fc1.bias", "steps", "=HYPERLINK(1)"}
    assert ran.json["whole"]["tensors"] == 1


def test_people_read_the_worst_first_and_sentences(run, pair):
    out, model = pair
    ran = run("audit", out, "--source", model)
    lines = ran.out.splitlines()
    assert lines[1].split()[:2] == ["fc1.weight", "bf16"] and "fp16:" in lines[1]
    assert "1 of 1 quantized tensors are dominated" in ran.out
    assert "fc2.weight" not in "\n".join(lines[:3])  # identical to the source


def test_csv_is_a_row_per_tensor_and_safe_to_open(run, pair, tmp_path):
    out, model = pair
    rows = list(csv.DictReader(io.StringIO(run("audit", out, "--source", model, "--csv", "-").out)))
    assert [row["verdict"] for row in rows] == ["dominated", "identical"]
    ran = run("audit", out, "--source", model, "--csv", tmp_path / "rows.csv")
    assert ran.code == 0 and len((tmp_path / "rows.csv").read_text().splitlines()) == 3


def test_a_gate_fails_with_the_tensors_that_lost_more(run, pair):
    out, model = pair
    assert run("audit", out, "--source", model, "--min-sqnr", "50").code == 0
    ran = run("audit", out, "--source", model, "--min-sqnr", "60")
    assert ran.code == 1
    assert "quantlab: 1 tensor of 'small.gguf' below 60 dB: 'fc1.weight' (55." in ran.err


def test_against_what_is_asked_for_and_against_nothing(run, pair):
    out, model = pair
    only = run("audit", out, "--source", model, "--configs", "bf16,q8_0", "--json").json
    assert only["verdicts"]["not dominated"] == 1
    alone = run("audit", out, "--source", model, "--compare-only", "--json").json
    assert alone["verdicts"]["compared"] == 1 and alone["whole"] is None


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["--min-sqnr", "loud"], 2, "the quality is 'loud': give decibels"),
        (["--importance", "/no/such.imatrix"], 1, "such.imatrix"),
        (["--configs", "int44"], 2, "int44"),
        (["--configs", "q8_0", "--compare-only"], 2, "leave out --configs"),
        (["--csv", "-", "--json"], 2, "both write to stdout"),
        (["--csv", "/no/such/folder/x.csv"], 1, "there is no folder"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(run, pair, arguments, code, said):
    ran = run("audit", pair[0], "--source", pair[1], *arguments)
    assert ran.code == code and said in ran.err and "Traceback" not in ran.err


def test_importance_weighs_errors(run, pair, tmp_path):
    out, model = pair
    weights = np.linspace(0, 2, 64, dtype=np.float32)
    np.savez(tmp_path / "importance.npz", **{"fc1.weight": weights})
    rows = run("audit", out, "--source", model, "--importance", tmp_path / "importance.npz", "--json").json["tensors"]
    expected = ql.audit(out, model, importance={"fc1.weight": weights}).frame
    assert rows[0]["weighted_sqnr_db"] == pytest.approx(expected["weighted_sqnr_db"][0], rel=1e-12)
    assert rows[0]["better_weighted_sqnr_db"] > rows[0]["weighted_sqnr_db"]


def test_a_gate_fails_what_cannot_be_measured(run, pair, tmp_path):
    out, _ = pair
    np.savez(tmp_path / "other.npz", **{"fc1.weight": np.full((48, 64), np.nan, np.float32)})
    ran = run("audit", out, "--source", tmp_path / "other.npz", "--min-sqnr", "1dB")
    assert ran.code == 1 and "'fc1.weight' (not judged)" in ran.err


def test_another_model_is_refused(run, pair, tmp_path):
    np.savez(tmp_path / "other.npz", x=np.zeros((2, 2), np.float32))
    ran = run("audit", pair[0], "--source", tmp_path / "other.npz")
    assert (ran.code, ran.err.count("\n")) == (1, 1) and "have no tensor of one name" in ran.err
