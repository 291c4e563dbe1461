"""Exporting in another program's layout: checked, written, read back, and only then given its name."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from ..errors import ExportError
from ..wording import shown
from .checkpoint import Checkpoint
from .output.atomic import write_whole
from .output.exporting import OnProgress, Progress, check_any_quantized, check_not_source
from .output.fileformat import FileFormat
from .output.layout import Layout, refused
from .output.outgoing import Outgoing, Source
from .safetensors.beside import companions
from .safetensors.file import all_specs
from .safetensors.shards import (
    SHARD_BYTES,
    folder_nbytes,
    shard_nbytes,
    verify_arrays,
    write_folder,
    write_shard,
)

_DIGEST = "0" * 64


def export_layout(
    path: Path,
    tensors: list[Outgoing],
    chosen: FileFormat,
    source: Checkpoint | None = None,
    on_progress: OnProgress | None = None,
    cancel: Callable[[], bool] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write tensors, quantized or copied, in the layout of `chosen`, as `formats.export` describes it."""
    layout = chosen.layout
    assert layout is not None
    check_held(tensors, chosen.name, layout, source)
    check_not_source(path, source)
    progress = Progress(2 * sum(tensor.nbytes for tensor in tensors), on_progress, cancel)
    progress.phase(f"writing {shown(path.name)}")
    if chosen.folder:
        write_folder(path, tensors, layout, source, progress, shard_bytes)
    else:
        _write_file(path, tensors, layout, source, progress)
    progress.done = progress.total
    progress.phase(f"wrote {shown(path.name)}")


def _write_file(
    path: Path, tensors: list[Outgoing], layout: Layout, source: Checkpoint | None, progress: Progress
) -> None:
    own_write, own_verify = layout.write_file, layout.verify_file

    def write(target: BinaryIO) -> None:
        if own_write:
            own_write(target, tensors, source, progress)
        else:
            write_shard(target, tensors, layout, progress)

    def verify(temporary: Path) -> None:
        if own_verify:
            own_verify(temporary, tensors, source, progress)
        else:
            verify_arrays(temporary, tensors, layout, progress)

    write_whole(path, write, verify)


def check_held(tensors: Sequence[Outgoing], format: str, layout: Layout, source: Checkpoint | None) -> None:
    """ExportError for the first tensor that the format cannot hold, or that only its own file could."""
    check_any_quantized(tensors)
    for why in refused(tensors, format, layout, source).values():
        raise ExportError(why)
    if layout.write_file is None:  # else it is no safetensors file, and may hold what such a file does not
        all_specs(tensors, layout.specs)
    layout.check(tensors, source)


def export_nbytes(
    tensors: list[Outgoing],
    chosen: FileFormat,
    source: Checkpoint | None,
    beside: Mapping[str, bytes] | None = None,
) -> int:
    """Bytes of an export before it is written: of the file, or of all files of a folder. Raises as the export would.

    `beside` are the source's companions, where somebody has read them already.
    """
    layout = chosen.layout
    if layout is None:
        assert chosen.nbytes is not None, "only formats that are written have a size beforehand"
        return chosen.nbytes(tensors, unhashed(source) if source else None)
    if layout.file_nbytes is not None:
        return layout.file_nbytes(tensors, source)
    if not chosen.folder:
        return shard_nbytes(tensors, layout)
    return folder_nbytes(tensors, layout, companions(source) if beside is None else beside)


def unhashed(source: Checkpoint) -> Source:
    """What a manifest says of a source, but for the digests, which are as long as any others."""
    digests = {file.name: _DIGEST for file in source.files}
    return Source(source.title, _DIGEST, digests if len(digests) > 1 else {})
