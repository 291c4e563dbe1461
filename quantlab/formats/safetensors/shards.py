"""Tensors as arrays of safetensors files in another program's layout: one file, or a model's folder of shards."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import ExportError
from ...wording import shown
from ..checkpoint import Checkpoint, StoredCheckpoint
from ..input.files import InputFile, OnBytes
from ..output.atomic import reading_back, sync_folder, system_errors
from ..output.layout import Layout, arrays_of, check_restored
from ..output.orphans import Claim, part_beside, sweep_parts
from ..output.outgoing import Outgoing
from ..output.packed import same_bits
from .beside import companions, read_config
from .file import all_specs, arrays_nbytes, read_entries, write_arrays

METADATA = {"format": "pt"}  # what transformers asks for
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000  # what Hugging Face's libraries cut at


def write_shard(target: BinaryIO, tensors: Sequence[Outgoing], layout: Layout, on_bytes: OnBytes) -> None:
    """Write one safetensors file in a layout."""
    write_arrays(target, tensors, layout.specs, lambda tensor: arrays_of(tensor, layout), METADATA, on_bytes)


def shard_nbytes(tensors: Sequence[Outgoing], layout: Layout) -> int:
    """Bytes of the file that `write_shard` would write."""
    return arrays_nbytes(tensors, layout.specs, METADATA)


def folder_nbytes(
    tensors: list[Outgoing], layout: Layout, beside: Mapping[str, bytes], shard_bytes: int = SHARD_BYTES
) -> int:
    """Bytes of all files of the folder that `write_folder` would write; `beside`: the source's companions."""
    files = _files(tensors, shard_bytes)
    contents = {name: len(content) for name, content in beside.items()}
    if len(files) > 1:
        contents[INDEX] = len(json_bytes(_index(files, layout)))
    if layout.settings is not None:
        config = read_config(beside.get("config.json"))
        contents["config.json"] = len(json_bytes({**config, **layout.settings(tensors, config)}))
    return sum(contents.values()) + sum(shard_nbytes(run, layout) for run in files.values())


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
        sweep_parts(final.parent)
        temporary, claim = part_beside(final), Claim()
        try:  # from here on: a stop can come between any two steps
            temporary.mkdir()
            claim.hold(temporary)
            files = _write_shards(temporary, tensors, layout, on_bytes, shard_bytes)
            _write_settings(temporary, tensors, layout, beside, config)
            sync_folder(temporary)
            with reading_back(final):
                for name, run in files.items():
                    verify_arrays(temporary / name, run, layout, on_bytes)
            # rename would replace an empty folder that appeared meanwhile, and nothing else.
            os.rename(temporary, final)
        except BaseException:  # a stop from the keyboard as well
            shutil.rmtree(temporary, ignore_errors=True)
            claim.release()
            raise
        claim.release()
        sync_folder(final.parent)


def _write_shards(
    folder: Path, tensors: list[Outgoing], layout: Layout, on_bytes: OnBytes, limit: int
) -> dict[str, list[Outgoing]]:
    """Write the weights; returns what went into which file."""
    all_specs(tensors, layout.specs)
    files = _files(tensors, limit)
    for name, run in files.items():
        with open(folder / name, "xb") as target:
            write_shard(target, run, layout, on_bytes)
            target.flush()
            os.fsync(target.fileno())
    if len(files) > 1:
        write_json(folder / INDEX, _index(files, layout))
    return files


def _files(tensors: list[Outgoing], limit: int) -> dict[str, list[Outgoing]]:
    """The tensors of every file, by the file's name."""
    runs = list(shards(tensors, limit))
    names = [f"model-{i + 1:05}-of-{len(runs):05}.safetensors" for i in range(len(runs))]
    return dict(zip(names if len(runs) > 1 else ["model.safetensors"], runs, strict=True))


def _index(files: dict[str, list[Outgoing]], layout: Layout) -> dict[str, Any]:
    """Which array is in which file."""
    specs = {name: all_specs(run, layout.specs) for name, run in files.items()}
    total = sum(spec.nbytes for run in specs.values() for spec in run.values())
    return {
        "metadata": {"total_size": total},
        "weight_map": {array: name for name, run in specs.items() for array in run},
    }


def _write_settings(
    folder: Path, tensors: list[Outgoing], layout: Layout, beside: dict[str, bytes], config: dict[str, Any]
) -> None:
    """config.json, the source's own with the quantization added, and the other companions as they are."""
    for name, content in beside.items():
        write_synced(folder / name, content)
    if layout.settings is not None:
        write_json(folder / "config.json", {**config, **layout.settings(tensors, config)})


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write and sync a small JSON file."""
    write_synced(path, json_bytes(content))


def write_synced(path: Path, content: bytes) -> None:
    """Write a small file, and have it last: a folder that is renamed says nothing about what lies in it."""
    with open(path, "wb") as target:
        target.write(content)
        target.flush()
        os.fsync(target.fileno())


def json_bytes(content: dict[str, Any]) -> bytes:
    """JSON as ASCII: a stranger's config may hold what UTF-8 cannot."""
    return json.dumps(content, indent=2).encode("ascii") + b"\n"
