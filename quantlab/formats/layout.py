"""Files of named arrays in the layouts of other programs: one tensor at a time, whatever the size of the model.

A `Layout` says how one quantized tensor becomes arrays of a safetensors file and back. The rest is the same for all:
the header is known before anything is quantized, each tensor is quantized when its turn comes, and the written file is
read back, compared and only then given its name; a folder appears whole or not at all.
"""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..core.arrays import check_array
from ..core.config import QuantConfig
from ..core.metrics import ErrorReport, measure
from ..core.slices import measure_parts, measure_slices
from ..core.tensor import PartSpec, QuantizedTensor
from ..errors import ExportError
from ..wording import shown
from .base import Checkpoint, FileFormat, OnBytes, StoredCheckpoint
from .beside import companions, read_config
from .exporting import OnProgress, Progress, check_any_quantized, check_not_source
from .files import InputFile
from .outgoing import Outgoing
from .output import sync_folder, system_errors, write_whole
from .packed import same_bits
from .safetensors import all_specs, read_entries, write_arrays

SHARD_BYTES = 5_000_000_000  # what Hugging Face's libraries cut at

WriteFile = Callable[[BinaryIO, Sequence[Outgoing], Checkpoint | None, OnBytes], None]
VerifyFile = Callable[[Path, Sequence[Outgoing], Checkpoint | None, OnBytes], None]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How another program stores a quantized tensor: as arrays of a safetensors file, or in a file of its own kind.

    Attributes
    ----------
    refuses : (shape, configuration) -> why it cannot be held, in one sentence; None if it can.
    write_file, verify_file : write the whole file, and prove it by reading it back; None for a safetensors file, which
        the rest describes.
    specs : the arrays of a tensor, by their names in the file, before it is quantized.
    arrays : (name, quantized tensor) -> the same arrays, filled.
    restore : the inverse, from the arrays that a reader found; None where values alone are stored.
    decoded : the values that the other program computes from them, float32.
    read_back : (export, tensor) -> the quantized tensor that an export that was opened again holds; by default from its
        arrays. read_parts : where that cannot be told, the values themselves, slice by slice.
    check : (all tensors, source) -> ExportError for what no single tensor tells: names that meet, a model's own limits.
    keeps : (source) -> whether all of a source goes into the file, whatever is left out: a model written again.
    note : how these values differ from `dequantize()`, in a sentence; "" where they never do.
    rounds : (configuration, source's dtype) -> whether they do for such a tensor.
    settings : (key, what to say under it) for config.json, from all tensors; None for a single file without one.
    """

    refuses: Callable[[tuple[int, ...], QuantConfig], str | None]
    decoded: Callable[[QuantizedTensor], np.ndarray]
    write_file: WriteFile | None = None
    verify_file: VerifyFile | None = None
    specs: Callable[[Outgoing], dict[str, PartSpec]] = lambda tensor: {}
    arrays: Callable[[str, QuantizedTensor], dict[str, np.ndarray]] = lambda name, q: {}
    restore: Callable[[Outgoing, dict[str, np.ndarray]], QuantizedTensor] | None = None
    settings: Callable[[list[Outgoing]], tuple[str, dict[str, Any]]] | None = None
    read_back: Callable[[Checkpoint, Outgoing], QuantizedTensor] | None = None
    read_parts: Callable[[Checkpoint, Outgoing], Iterator[tuple[slice, np.ndarray]]] | None = None
    check: Callable[[Sequence[Outgoing], Checkpoint | None], object] = lambda tensors, source: None
    keeps: Callable[[Checkpoint | None], bool] = lambda source: False
    note: str = ""
    rounds: Callable[[QuantConfig, str], bool] = lambda config, source_dtype: config.scale_dtype != "fp32"

    def write(
        self, target: BinaryIO, tensors: Sequence[Outgoing], source: Checkpoint | None, on_bytes: OnBytes
    ) -> None:
        """Write the file of an export that is one."""
        if self.write_file is not None:
            self.write_file(target, tensors, source, on_bytes)
        else:
            write_shard(target, tensors, self, on_bytes)

    def verify(self, path: Path, tensors: Sequence[Outgoing], source: Checkpoint | None, on_bytes: OnBytes) -> None:
        """ExportError unless the file that was written holds these tensors."""
        if self.verify_file is not None:
            self.verify_file(path, tensors, source, on_bytes)
        else:
            verify_arrays(path, tensors, self, on_bytes)

    def measured(self, export: Checkpoint, tensor: Outgoing, x: np.ndarray) -> ErrorReport:
        """What the values that the other program computes from an export are off from the original x."""
        if self.read_parts is not None:
            return measure_parts(check_array(x).reshape(-1), self.read_parts(export, tensor))
        found = self._read(export, tensor)
        if isinstance(found, QuantizedTensor):
            return measure_slices(x, found, self.decoded)
        return measure(x, found)

    def _read(self, export: Checkpoint, tensor: Outgoing) -> np.ndarray | QuantizedTensor:
        if self.read_back is not None:
            return self.read_back(export, tensor)
        found = {name: export.raw(name) for name in self.specs(tensor)}
        return self.restore(tensor, found) if self.restore else found[tensor.name]


def arrays_of(tensor: Outgoing, layout: Layout) -> dict[str, np.ndarray]:
    """The arrays of a tensor, made now."""
    if tensor.config is None:
        return {tensor.name: tensor.copied()}
    return layout.arrays(tensor.name, tensor.quantized())


def write_shard(target: BinaryIO, tensors: Sequence[Outgoing], layout: Layout, on_bytes: OnBytes) -> None:
    """Write one safetensors file in a layout."""
    write_arrays(target, tensors, layout.specs, lambda tensor: arrays_of(tensor, layout), {"format": "pt"}, on_bytes)


def verify_arrays(path: Path, tensors: Sequence[Outgoing], layout: Layout, on_bytes: OnBytes) -> None:
    """Read a file back, make every tensor again: ExportError unless all bits agree and the codes can be restored."""
    with closing(InputFile(path)) as file:
        found = StoredCheckpoint(path, "safetensors", read_entries(file)[1], [file])
        for tensor in tensors:
            _check_tensor(found, tensor, layout)
            on_bytes(tensor.nbytes)


def _check_tensor(found: Checkpoint, tensor: Outgoing, layout: Layout) -> None:
    q = None if tensor.config is None else tensor.quantized()
    meant = {tensor.name: tensor.copied()} if q is None else layout.arrays(tensor.name, q)
    back = {name: found.raw(name) for name in meant}
    if not all(same_bits(meant[name], back[name]) for name in meant):
        raise ExportError(f"tensor {shown(tensor.name)} was written, but came back different: check the disk")
    if q is not None and layout.restore is not None:
        del meant
        check_restored(q, layout.restore(tensor, back))


def check_restored(q: QuantizedTensor, restored: QuantizedTensor) -> None:
    """ExportError unless the arrays that were read give back the codes and scales that were meant."""
    if not all(same_bits(q.parts[part], restored.parts[part]) for part in q.parts):
        raise ExportError(f"a tensor of {q.config} and shape {q.shape} does not survive this format: please report it")


def shards(tensors: Sequence[Outgoing], limit: int) -> Iterator[list[Outgoing]]:
    """The tensors cut into runs of at most `limit` bytes, or of one tensor that is larger."""
    run: list[Outgoing] = []
    size = 0
    for tensor in tensors:
        if run and size + tensor.nbytes > limit:
            yield run
            run, size = [], 0
        run.append(tensor)
        size += tensor.nbytes
    yield run


def write_folder(
    final: Path,
    tensors: list[Outgoing],
    layout: Layout,
    source: Checkpoint | None,
    on_bytes: OnBytes,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a model's folder: weights in shards, config.json, and what lay beside the source's weights.

    It is filled under another name, synced, read back, and moved to `final` in one step, where nothing may be.
    """
    with system_errors(final):
        final = final.absolute()
        if final.exists() or final.is_symlink():
            raise ExportError(f"{shown(final.name)} exists already: a folder is never replaced, choose another name")
        beside = companions(source)
        config = read_config(beside.get("config.json"))
        temporary = final.with_name(f".quantlab-{secrets.token_hex(8)}.part")
        try:  # from here on: a stop can come between any two steps
            temporary.mkdir()
            files = _write_shards(temporary, tensors, layout, on_bytes, shard_bytes)
            _write_settings(temporary, tensors, layout, beside, config)
            sync_folder(temporary)
            for name, run in files.items():
                verify_arrays(temporary / name, run, layout, on_bytes)
            # rename would replace an empty folder that appeared meanwhile, and nothing else.
            os.rename(temporary, final)
        except BaseException:  # a stop from the keyboard as well
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(final.parent)


def _write_shards(
    folder: Path, tensors: list[Outgoing], layout: Layout, on_bytes: OnBytes, limit: int
) -> dict[str, list[Outgoing]]:
    """Write the weights; returns what went into which file."""
    all_specs(tensors, layout.specs)
    runs = list(shards(tensors, limit))
    names = [f"model-{i + 1:05}-of-{len(runs):05}.safetensors" for i in range(len(runs))]
    files = dict(zip(names if len(runs) > 1 else ["model.safetensors"], runs, strict=True))
    for name, run in files.items():
        with open(folder / name, "xb") as target:
            write_shard(target, run, layout, on_bytes)
            target.flush()
            os.fsync(target.fileno())
    if len(files) > 1:
        where = {array: name for name, run in files.items() for array in all_specs(run, layout.specs)}
        total = sum(spec.nbytes for spec in all_specs(tensors, layout.specs).values())
        index = {"metadata": {"total_size": total}, "weight_map": where}
        write_json(folder / "model.safetensors.index.json", index)
    return files


def _write_settings(
    folder: Path, tensors: list[Outgoing], layout: Layout, beside: dict[str, bytes], config: dict[str, Any]
) -> None:
    """config.json, the source's own with the quantization added, and the other companions as they are."""
    for name, content in beside.items():
        (folder / name).write_bytes(content)
    if layout.settings is not None:
        key, settings = layout.settings(tensors)
        write_json(folder / "config.json", {**config, key: settings})


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
        write_whole(
            path,
            lambda target: layout.write(target, tensors, source, progress),
            lambda temporary: layout.verify(temporary, tensors, source, progress),
        )
    progress.done = progress.total
    progress.phase(f"wrote {shown(path.name)}")


def check_held(tensors: Sequence[Outgoing], format: str, layout: Layout, source: Checkpoint | None) -> None:
    """ExportError for the first tensor that the format cannot hold, or that only its own file could."""
    check_any_quantized(tensors)
    for why in refused(tensors, format, layout):
        raise ExportError(why)
    if layout.write_file is None:  # else it is no safetensors file, and may hold what such a file does not
        all_specs(tensors, layout.specs)
    layout.check(tensors, source)


def refused(tensors: Sequence[Outgoing], format: str, layout: Layout) -> Iterator[str]:
    """A sentence for every tensor that the format cannot hold by itself."""
    for tensor in tensors:
        if tensor.config is not None and (why := layout.refuses(tensor.shape, tensor.config)):
            yield f"tensor {shown(tensor.name)} as {tensor.config} cannot be written to {format}: {why}"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write and sync a small JSON file."""
    with open(path, "w", encoding="utf-8") as target:
        json.dump(content, target, indent=2)  # as ASCII: a stranger's config may hold what UTF-8 cannot
        target.write("\n")
        target.flush()
        os.fsync(target.fileno())
