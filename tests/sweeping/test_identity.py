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
from quantlab.core import pool
from quantlab.sweeping import identity
from quantlab.sweeping.identity import HOUSE, engine_version, files_stamp, fingerprint, reader_version


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


def test_the_axis_of_the_channels_belongs_to_it():
    """The worst channel of a matrix is another one where its channels are columns."""
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert fingerprint(x, 1) != fingerprint(x) == fingerprint(x, 0)


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


def test_what_a_figure_comes_from_lies_in_the_rooms_that_the_versions_cover():
    """`core` imports nothing of the house but `errors` and `wording`, which do not compute."""
    nodes = [node for path in (HOUSE / "core").rglob("*.py") for node in ast.walk(ast.parse(path.read_text("utf-8")))]
    outside = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 2}
    assert {"kernels", "calibration", "dtypes", "arrays", "metrics"} <= {path.stem for path in HOUSE.glob("core/*")}
    assert outside - {path.stem for path in HOUSE.glob("core/*.py")} <= {"errors", "wording", None}


def test_the_engines_version_changes_with_the_code(monkeypatch, tmp_path):
    rooms = {"core": engine_version, "formats": reader_version}
    for name in ("core/kernels/codes.py", "core/metrics.py", "formats/gguf/read.py", "sweeping/sweep.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one = 1\n")
    monkeypatch.setattr(identity, "HOUSE", tmp_path)

    def digests():
        return {room: version.__wrapped__() for room, version in rooms.items()}

    def changed():
        now = digests()
        return {room for room in rooms if now[room] != before[room]}

    before = digests()
    (tmp_path / "sweeping/sweep.py").write_text("one = 2\n")
    assert changed() == set()
    (tmp_path / "formats/gguf/read.py").write_text("one = 2\n")
    assert changed() == {"formats"}
    (tmp_path / "core/kernels/codes.py").write_text("one = 2\n")
    assert changed() == {"core", "formats"}
    (tmp_path / "formats/gguf/read.py").write_text("one = 1\n")
    (tmp_path / "core/kernels/codes.py").write_text("one = 1\n")
    assert changed() == set()
    monkeypatch.setattr(identity, "version", lambda name: "another")
    assert changed() == {"core", "formats"}


def test_arrays_in_memory_have_no_file():
    assert files_stamp({"a": np.ones(3)}) is None
