"""What is the same: content, files, and the arithmetic."""

import ast
import hashlib

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import quantlab as ql
from quantlab import identity, pool
from quantlab.identity import HOUSE, NO_FIGURES, engine_version, files_stamp, fingerprint


def plain(x):
    """The definition, in one line."""
    return hashlib.sha256(f"{x.dtype.name} {x.shape}".encode() + np.ascontiguousarray(x).tobytes()).digest()


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int64, np.bool_]),
        hnp.array_shapes(max_dims=4, min_side=0),
    ),
    st.data(),
)
def test_a_fingerprint_is_that_of_the_values_however_they_lie(x, data):
    assert fingerprint(x) == plain(x)
    assert fingerprint(np.asfortranarray(x)) == plain(x)
    assert fingerprint(x.astype(x.dtype.newbyteorder(">"))) == plain(x)
    axes = data.draw(st.permutations(range(x.ndim)))
    assert fingerprint(x.transpose(axes)) == plain(np.ascontiguousarray(x.transpose(axes)))


@pytest.mark.parametrize("step", [1, 7, 64, 1000])
def test_pieces_do_not_change_it(monkeypatch, step):
    x = np.random.default_rng(0).standard_normal((6, 5, 7)).astype(np.float32)
    monkeypatch.setattr(identity, "STEP", step)
    for view in (x, x.T, x[:, ::2], x[::-1], x[0, 0], x[0, 0, 0, None], np.float32(3)[()] * np.ones(()), x[:0]):
        assert fingerprint(view) == plain(view)


def test_type_and_shape_belong_to_it():
    x = np.zeros((2, 6), np.float32)
    arrays = [x, x.reshape(6, 2), x.ravel(), x.view(np.int32), x.view(ml_dtypes.bfloat16), x.astype(ml_dtypes.bfloat16)]
    assert len({fingerprint(array) for array in arrays}) == len(arrays)


@pytest.mark.parametrize("what", [None, [1.0], np.array([None]), np.broadcast_to(np.float32(1), (10**9,))], ids=repr)
def test_what_is_no_array_of_its_own_numbers_has_none(what):
    assert fingerprint(what) is None


def test_cancel_is_asked_between_pieces(monkeypatch):
    monkeypatch.setattr(identity, "STEP", 64)
    with pytest.raises(ql.Cancelled), pool.limits(cancel=lambda: True):
        fingerprint(np.zeros(1000, np.float32))


def test_the_engines_version_covers_every_module_that_a_figure_comes_from():
    """All that `metrics` imports, and what that imports, but for errors, wording and the pool, which do not compute."""
    found, todo = set(), {"metrics"}
    while todo:
        found |= todo
        trees = [ast.parse((HOUSE / f"{name}.py").read_text(encoding="utf-8")) for name in todo]
        nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
        names = {name for node in nodes for name in ([node.module] if node.module else [a.name for a in node.names])}
        todo = {name for name in names if (HOUSE / f"{name}.py").exists()} - found
    assert {"kernels", "calibration", "dtypes", "arrays"} <= found
    assert found & NO_FIGURES <= {"errors", "pool", "wording"}


def test_the_engines_version_changes_with_the_code(monkeypatch, tmp_path):
    for name in ("kernels.py", "sweep.py"):
        (tmp_path / name).write_text("one = 1\n")
    monkeypatch.setattr(identity, "HOUSE", tmp_path)

    def digest():
        return engine_version.__wrapped__()

    before = digest()
    (tmp_path / "sweep.py").write_text("one = 2\n")
    assert digest() == before
    (tmp_path / "kernels.py").write_text("one = 2\n")
    assert digest() != before
    monkeypatch.setattr(identity, "version", lambda name: "another")
    after = digest()
    (tmp_path / "kernels.py").write_text("one = 1\n")
    assert digest() not in (before, after)


def test_arrays_in_memory_have_no_file():
    assert files_stamp({"a": np.ones(3)}) is None
