"""NumPy's .npz archives, against NumPy; and the zip rules that NumPy's own archives must pass."""

import io
import zipfile

import numpy as np
import pytest

from quantlab.errors import CheckpointError
from quantlab.formats import open_checkpoint

from ..hostile import ONE, archive, npy, patched

ARRAYS = {
    "w": np.random.default_rng(0).standard_normal((30, 40)),
    "encoder/layer.0/kernel": np.asfortranarray(np.float32([[1, 2, 3], [4, 5, 6]])),
    "größe": np.float16([1, 2, 3]),
    "scalar": np.array(3.0, ">f4"),
    "ids": np.arange(5),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_are_read_as_numpy_reads_them(save, tmp_path):
    path = tmp_path / "x.npz"
    save(path, **ARRAYS)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "npz"
        assert checkpoint.names == list(ARRAYS)
        for name, x in ARRAYS.items():
            np.testing.assert_array_equal(checkpoint.raw(name), x)
            assert checkpoint.spec(name).nbytes == x.nbytes
        for name in ("w", "encoder/layer.0/kernel", "größe", "scalar"):
            np.testing.assert_array_equal(checkpoint.load(name), ARRAYS[name].astype(np.float32))


def test_an_archive_without_members_has_no_tensors(tmp_path):
    np.savez(tmp_path / "x.npz")
    assert open_checkpoint(tmp_path / "x.npz").names == []


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_written_to_a_pipe_has_its_sizes_behind_the_data(method, tmp_path):
    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def seek(self, *args):
            raise OSError("a pipe")

        def tell(self):
            raise OSError("a pipe")

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", method) as target:
        target.writestr("a.npy", npy(shape=(2,), data=np.float32([1, 2]).tobytes()))
        target.writestr("b.npy", ONE)
    path = tmp_path / "x.npz"
    path.write_bytes(pipe.getvalue())
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.load("a").tolist() == [1, 2]


def test_64_bit_directories_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)  # as if every size and place were beyond 4 GiB
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 0)
    np.savez(tmp_path / "x.npz", **ARRAYS)
    content = (tmp_path / "x.npz").read_bytes()
    assert b"PK\x06\x06" in content
    with open_checkpoint(tmp_path / "x.npz") as checkpoint:
        np.testing.assert_array_equal(checkpoint.load("w"), ARRAYS["w"].astype(np.float32))
    (tmp_path / "x.npz").write_bytes(patched(content, (content.rfind(b"PK\x06\x06"), b"XX")))
    with pytest.raises(CheckpointError, match="64-bit"):
        open_checkpoint(tmp_path / "x.npz")


def test_a_member_that_changes_size_between_its_two_headers_is_refused(tmp_path):
    data = archive(("a.npy", ONE), method=zipfile.ZIP_STORED)
    (tmp_path / "x.npz").write_bytes(patched(data, (18, b"\1\0\0\0")))
    with pytest.raises(CheckpointError, match="not what the directory says"):
        open_checkpoint(tmp_path / "x.npz")


def test_a_small_array_may_deflate_as_well_as_it_can(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", w=np.zeros(200_000, np.float32))
    with open_checkpoint(tmp_path / "x.npz") as checkpoint:
        assert not checkpoint.load("w").any()
