"""A folder of safetensors files, as Hugging Face writes large models.

An index, `model.safetensors.index.json`, says which tensor is in which file. It comes from a stranger: only files that
lie in the folder itself are opened, and what the index says must be true of them.
"""

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath

from ..errors import CheckpointError, LimitError
from . import safetensors
from .base import Checkpoint, Entry, StoredCheckpoint
from .files import InputFile, reason, shown
from .jsonscan import Scanner
from .remote import RemoteFile, beside, public

SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
MAX_INDEX = 64 << 20  # bytes
MAX_FILES = 500  # every one of them stays open; the largest published models have some 200


def open_folder(folder: Path, open_file: Callable[[InputFile], Checkpoint]) -> Checkpoint:
    """The checkpoint in a folder: its index if there is one, else its only .safetensors file."""
    try:
        folder = folder.resolve(strict=True)
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise CheckpointError(f"cannot open the folder {shown(folder.name)}: {reason(error)}") from error
    indexes = [name for name in names if name.endswith(INDEX_SUFFIX)]
    files = [name for name in names if name.endswith(SUFFIX)]
    if len(indexes) == 1:
        return _open_shards(folder, indexes[0], partial(_member, folder))
    if len(files) == 1 and not indexes:
        return open_file(_member(folder, files[0]))
    found = ", ".join(shown(name) for name in (indexes + files)[:5]) or "none"
    raise CheckpointError(
        f"the folder {shown(folder.name)} must have one index ({INDEX_SUFFIX}) or one {SUFFIX} file, and has {found}: "
        f"open one of the files"
    )


def open_remote(url: str, open_file: Callable[[InputFile], Checkpoint]) -> Checkpoint:
    """The checkpoint in a folder behind a URL that ends in /, or that of an index there.

    Web servers list no folders, so the files must have the names that Hugging Face gives them.
    """
    if public(url).endswith(INDEX_SUFFIX):
        index = PurePosixPath(public(url)).name
        return _open_shards(Path(public(url)).parent, index, partial(_remote_member, url))
    try:
        return open_file(_remote_member(url, "model" + SUFFIX))
    except CheckpointError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
    return open_remote(beside(url, "model" + INDEX_SUFFIX), open_file)


def _remote_member(url: str, name: str) -> InputFile:
    """A file of a folder behind a URL. Its name may come from a stranger, and must be plain: no part of a URL."""
    if not re.fullmatch(r"[\w.-]+", name, re.ASCII):
        raise CheckpointError(f"the index names the file {shown(name)}: behind a URL only letters, digits and ._- open")
    return RemoteFile(beside(url, name))


def _member(folder: Path, name: str) -> InputFile:
    """A file of the folder. Links out of it are refused, but for those into the store of Hugging Face's cache."""
    try:
        place = (folder / name).resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"cannot open {shown(name)} of {shown(folder.name)}: {reason(error)}") from error
    homes = [folder, folder.parent.parent / "blobs"] if folder.parent.name == "snapshots" else [folder]
    if place.parent not in homes:
        raise CheckpointError(f"{shown(name)} of {shown(folder.name)} is a link that leads out of the folder")
    return InputFile(place, name)


def _open_shards(folder: Path, index: str, member: Callable[[str], InputFile]) -> Checkpoint:
    weight_map = _read_index(member(index))
    names = list(dict.fromkeys(weight_map.values()))
    if len(names) > MAX_FILES:
        raise LimitError(f"{shown(index)} names {len(names)} files, and quantlab opens up to {MAX_FILES}")
    files: dict[str, InputFile] = {}
    try:
        shards: dict[str, dict[str, Entry]] = {}
        for name in names:
            files[name] = member(name)
            shards[name] = safetensors.read_entries(files[name])[1]
        entries = {tensor: _find(tensor, shards[name], name, index) for tensor, name in weight_map.items()}
    except BaseException:
        for file in files.values():
            file.close()
        raise
    return StoredCheckpoint(folder, "safetensors", entries, files.values())


def _find(tensor: str, shard: dict[str, Entry], name: str, index: str) -> Entry:
    if tensor not in shard:
        raise CheckpointError(f"{shown(index)} says that tensor {shown(tensor)} is in {shown(name)}, and it is not")
    return shard[tensor]


def _read_index(file: InputFile) -> dict[str, str]:
    """The index's map from tensor to file."""
    if file.size > MAX_INDEX:
        raise LimitError(f"{file} has {file.size} bytes, and quantlab reads an index of up to {MAX_INDEX}")
    scan, weight_map = Scanner(file.read(0, file.size), str(file)), {}
    file.close()
    for key in scan.members():
        if key == "weight_map":
            weight_map = {tensor: _file_name(scan) for tensor in scan.members(safetensors.MAX_NAME)}
        elif key == "metadata":
            for _ in scan.members():
                scan.skip_scalar()
        else:
            scan.skip_scalar()
    scan.end()
    if not weight_map:
        raise CheckpointError(f"{file} has no weight_map, so it names no tensors")
    return weight_map


def _file_name(scan: Scanner) -> str:
    """The name of a file in the folder: no path, and nothing but safetensors."""
    name = scan.string()
    if not name.endswith(SUFFIX) or "/" in name or "\\" in name or "\0" in name:
        raise CheckpointError(
            f"{scan.what} names the file {shown(name)}: only {SUFFIX} files of the same folder are opened"
        )
    return name
