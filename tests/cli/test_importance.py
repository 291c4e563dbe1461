"""quantlab importance, sweeps that are weighted by it, and the gates of verify."""

import csv
import io

import numpy as np
import pytest
from safetensors.numpy import save_file

import quantlab as ql
from quantlab.planning.importance import match, read_importance

from ..planning.imatrices import write_gguf

RNG = np.random.default_rng(11)
Q, UP = np.square(RNG.standard_normal((1, 64))), np.square(RNG.standard_normal((3, 64)))
ENTRIES = {
    "blk.0.attn_q.weight": (Q * 9, [9]),
    "blk.0.ffn_up_exps.weight": (UP * [[40], [0], [2]], [40, 0, 2]),
    "output.weight": (Q, [1]),
}
NAMES = [
    "model.layers.0.self_attn.q_proj.weight",
    *(f"model.layers.0.mlp.experts.{e}.up_proj.weight" for e in range(3)),
]


@pytest.fixture
def imatrix(tmp_path):
    return write_gguf(tmp_path / "imatrix.gguf", ENTRIES)


@pytest.fixture
def moe(tmp_path):
    shapes = dict.fromkeys(NAMES, (24, 64)) | {"model.layers.0.mlp.gate.weight": (3, 64)}
    save_file(
        {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()},
        tmp_path / "moe.safetensors",
    )
    return tmp_path / "moe.safetensors"


# -- importance


def test_what_is_in_a_file_is_shown(run, imatrix):
    ran = run("importance", imatrix)
    assert (ran.code, ran.err) == (0, "")
    lines = [line.split() for line in ran.out.splitlines()]
    assert lines[0] == ["entry", "inputs", "tokens", "largest", "without"]
    assert lines[2] == ["blk.0.ffn_up_exps.weight", "3x64", "42", lines[2][3], "1"]
    assert float(lines[1][3]) == pytest.approx(Q.max() / Q.mean(), rel=1e-3)
    assert ran.out.splitlines()[-1].endswith(
        "llama.cpp imatrix (GGUF), 3 weights, 3 chunks of 512 tokens, from 'wiki.txt'"
    )


def test_what_matches_a_model_is_said_and_what_does_not(run, imatrix, moe):
    ran = run("importance", imatrix, "--model", moe)
    assert ran.code == 0
    assert NAMES[1] + " and 1 more" in ran.out
    assert "importance is known of 3 of 5 weights of 'moe.safetensors'" in ran.err
    assert f"not of {NAMES[2]}, model.layers.0.mlp.gate.weight" in ran.err
    assert "of the file's entries, 1 are of no tensor of it: output.weight" in ran.err
    assert f"has seen no data: '{NAMES[2]}'" in ran.err


def test_the_same_for_a_program(run, imatrix, moe):
    found = run("importance", imatrix, "--model", moe, "--json").json
    assert found["kind"] == "llama.cpp imatrix (GGUF)"
    assert [entry["shape"] for entry in found["entries"]] == [[64], [3, 64], [64]]
    assert found["matched"][NAMES[3]] == [{"entry": "blk.0.ffn_up_exps.weight", "expert": 2}]
    assert found["unmatched"] == ["output.weight"]
    assert found["without_data"] == {NAMES[2]: [0]}
    assert "matched" not in run("importance", imatrix, "--json").json


def test_another_file_is_refused_in_a_line(run, moe, tmp_path):
    (tmp_path / "a.csv").write_text("tensor, weight\n")
    ran = run("importance", tmp_path / "a.csv")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("quantlab: 'a.csv' is") and ran.err.count("\n") == 1


# -- sweep


def test_a_sweep_has_the_column_of_the_library(run, imatrix, moe, tmp_path):
    with ql.open_checkpoint(moe) as checkpoint:
        weights = match(read_importance(imatrix), checkpoint).weights
        config = ql.QuantConfig.parse("int4-sym-g32-minmax")
        expected = ql.sweep(checkpoint, [config], importance=weights)
    for more in ([], ["--store", tmp_path / "store"], ["--store", tmp_path / "store"]):
        ran = run("sweep", moe, "--config", str(config), "--importance", imatrix, "--csv", "-", *more)
        rows = list(csv.DictReader(io.StringIO(ran.out)))
        assert [row["weighted_sqnr_db"] for row in rows] == [
            "" if np.isnan(figure) else str(figure) for figure in expected["weighted_sqnr_db"]
        ]
        assert "importance is known of 3 of 5 weights" in ran.err
    assert "moe.safetensors, weighted by imatrix.gguf" in run("sweeps", "--store", tmp_path / "store").out
    for each in ([], ["--each"]):
        shown = run("sweep", moe, "--config", str(config), "--importance", imatrix, *each).out
        assert "weighted dB" in shown.splitlines()[0]
    assert "weighted" not in run("sweep", moe, "--config", str(config)).out


def test_importance_of_another_model_is_refused_before_anything_is_measured(run, imatrix, moe, tmp_path):
    write_gguf(tmp_path / "other", {"blk.0.attn_q.weight": (Q[:, :60], [1])})
    ran = run("sweep", moe, "--config", "fp16", "--importance", tmp_path / "other")
    assert (ran.code, ran.out) == (1, "")
    last = ran.err.splitlines()[-1]
    assert last.startswith(f"quantlab: 'other' does not fit '{NAMES[0]}': ")
    assert "has shape [60], and the tensor has 64 inputs" in last
    np.savez(tmp_path / "none.npz", a=np.ones(4, np.float32))
    ran = run("sweep", moe, "--config", "fp16", "--importance", tmp_path / "none.npz")
    assert ran.code == 1 and "knows none of the tensors of 'moe.safetensors'" in ran.err


# -- gates of verify


@pytest.fixture
def packed(run, model, tmp_path):
    run("quantize", model, "--config", "int4-sym-g32-minmax", "-o", tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


@pytest.fixture
def figures(run, model, packed):
    tensors = run("verify", packed, "--source", model, "--json").json["tensors"]
    return {row["tensor"]: (row["sqnr_db"], row["bits_per_weight"]) for row in tensors}


def failing(ran):
    return [line for line in ran.err.splitlines() if line.startswith("fails: ")]


def test_gates_that_hold_change_nothing(run, model, packed, figures):
    plain = run("verify", packed, "--source", model)
    least = min(sqnr for sqnr, _ in figures.values() if sqnr is not None)
    most = max(bits for _, bits in figures.values())
    gates = ("--min-sqnr", least, "--max-bytes", packed.stat().st_size, "--max-bits", most)
    ran = run("verify", packed, "--source", model, *gates)
    assert (ran.code, ran.out, ran.err) == (0, plain.out, plain.err) == (0, plain.out, ran.err)
    assert run("verify", packed, "--max-bytes", "1 MB").code == 0


def test_what_fails_is_named_a_line_each(run, model, packed, figures):
    plain = run("verify", packed, "--source", model)
    limit = sorted(sqnr for sqnr, _ in figures.values() if sqnr is not None)[-1]
    ran = run("verify", packed, "--source", model, "--min-sqnr", f"{limit}dB", "--json")
    low = [name for name, (sqnr, _) in figures.items() if sqnr is not None and sqnr < limit]
    assert ran.code == 1 and ran.json == run("verify", packed, "--source", model, "--json").json
    assert [line.split("'")[1] for line in failing(ran)] == low and len(low) > 0
    assert ran.err.splitlines()[-1].startswith("quantlab: 'small.safetensors' is whole, and fails 1 check")
    ran = run("verify", packed, "--max-bits", "4.5", "--max-bytes", packed.stat().st_size - 1)
    assert ran.code == 1 and run("verify", packed).out == ran.out
    assert failing(ran)[0].endswith(
        f"has {packed.stat().st_size:,} bytes, and --max-bytes allows {packed.stat().st_size - 1:,}"
    )
    assert len(failing(ran)) == 1 + sum(bits > 4.5 for _, bits in figures.values())
    assert plain.code == 0


def test_the_bytes_of_a_folder_are_those_of_all_its_files(run, moe, tmp_path):
    options = ("--config", "int4-sym-g32-minmax-sbf16", "--format", "compressed-tensors", "-o", tmp_path / "out")
    assert run("quantize", moe, "--tensors", NAMES[0], *options).code == 0
    nbytes = sum(file.stat().st_size for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert run("verify", tmp_path / "out", "--max-bytes", nbytes).code == 0
    assert run("verify", tmp_path / "out", "--max-bytes", nbytes - 1).code == 1


@pytest.mark.parametrize(
    "gate, word",
    [
        (["--min-sqnr", "20"], "give --source, too"),
        (["--min-sqnr", "much"], "the quality is 'much'"),
        (["--max-bytes", "60%"], "the size is '60%': give bytes as"),
        (["--max-bytes", "4bpw"], "the size is '4bpw': give bytes as"),
        (["--max-bytes", "-3"], "'-3'"),
        (["--max-bits", "nan"], "the number of bits is"),
    ],
)
def test_a_gate_that_is_no_number_is_refused(run, packed, gate, word):
    ran = run("verify", packed, *(f"{gate[0]}={gate[1]}",))
    assert ran.code == 2 and word in ran.err
