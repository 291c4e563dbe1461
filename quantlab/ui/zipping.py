"""A folder as one zip archive, made while it is sent: nothing is compressed, and no more than a piece is held."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

PIECE = 1 << 20  # bytes


class _Pieces(io.RawIOBase):
    """What was written since it was last taken. It cannot be gone back in, so sizes follow the files' bytes."""

    def __init__(self) -> None:
        super().__init__()
        self._held = bytearray()

    def writable(self) -> bool:
        """It is for writing only."""
        return True

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        """Hold some bytes."""
        self._held += data
        return len(data)

    def take(self) -> bytes:
        """What is held, which is let go of."""
        data, self._held = bytes(self._held), bytearray()
        return data


def zipped(folder: Path) -> Iterator[bytes]:
    """The folder's files, in order, stored in an archive under the folder's name; OSError if one cannot be read."""
    target = _Pieces()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            info = zipfile.ZipInfo(f"{folder.name}/{path.relative_to(folder).as_posix()}")
            info.external_attr = 0o644 << 16
            with archive.open(info, "w", force_zip64=True) as member, open(path, "rb") as file:
                while piece := file.read(PIECE):
                    member.write(piece)
                    yield from _cut(target.take())
    yield from _cut(target.take())


def _cut(data: bytes) -> Iterator[bytes]:
    return (data[i : i + PIECE] for i in range(0, len(data), PIECE))
