"""A folder of safetensors files, or of PyTorch's, as Hugging Face writes large models.

An index, `model.safetensors.index.json` or `pytorch_model.bin.index.json`, says which tensor is in which file. It comes
from a stranger: only files that lie in the folder itself are opened, and what the index says must be true of them.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from ...errors import CheckpointError, LimitError
from ...wording import shown
from ..checkpoint import Checkpoint, Entry, StoredCheckpoint
from ..input import foreign, ziparchive
from ..input.files import InputFile, reason
from ..input.jsonscan import Scanner
from ..input.remote import RemoteFile, beside, public
from ..torch import archive as torchzip
from . import file as safetensors

MAX_INDEX = 64 << 20  # bytes
MAX_FILES = 500  # every one of them stays open; the largest published models have some 200


OpenFile = Callable[[InputFile], Checkpoint]


@dataclass(frozen=True)
class Shards:
    """A kind of files that models are cut into: what one that is whole is called, and how the entries are read."""

    format: str
    name: str
    suffix: str
    entries: Callable[[InputFile], Mapping[str, Entry]]
    others: bool = False  # whether other things than models have the suffix: optimizer.bin

    @property
    def index(self) -> str:
        """How the name of an index ends."""
        return self.suffix + ".index.json"


# Where a folder has both, they hold the same model.
KINDS = (
    Shards("safetensors", "model.safetensors", ".safetensors", lambda file: safetensors.read_entries(file)[1]),
    Shards("torch", "pytorch_model.bin", ".bin", lambda file: _pytorch_entries(file), others=True),
)

# Files that are a whole model wherever they lie: one of them is what a folder holds, if it holds nothing of the above.
ALONE = (".pt", ".pth", ".pth.tar", ".ckpt", ".gguf", ".onnx", ".keras", ".h5")

INDEX_SUFFIXES = tuple(kind.index for kind in KINDS)


def _pytorch_entries(file: InputFile) -> Mapping[str, Entry]:
    head = bytes(file.read(0, min(64, file.size)))
    if not (ziparchive.sniff(head, file.size) and torchzip.accepts(file)):
        raise CheckpointError(f"{file} is {foreign.describe(head)}; its index needs a PyTorch checkpoint there")
    return torchzip.open_file(file).entries


def open_folder(folder: Path, open_file: OpenFile) -> Checkpoint:
    """The checkpoint in a folder: its index if there is one, else its only file of a kind."""
    try:
        folder = folder.resolve(strict=True)
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise CheckpointError(f"cannot open the folder {shown(folder.name)}: {reason(error)}") from error
    seen: list[str] = []
    for kind in KINDS:
        indexes = [name for name in names if name.endswith(kind.index)]
        files = [name for name in names if name.endswith(kind.suffix)]
        if len(indexes) == 1:
            return _open_shards(folder, indexes[0], kind, partial(member, folder))
        if kind.others and kind.name in files:
            files = [kind.name]
        if len(files) == 1 and not indexes:
            return open_file(member(folder, files[0]))
        seen += indexes + files
    alone = [name for name in names if name.lower().endswith(ALONE)]
    if len(alone) == 1 and not seen:
        return open_file(member(folder, alone[0]))
    seen += alone
    found, legal = ", ".join(map(shown, seen[:5])) or "none", " or ".join(kind.suffix for kind in KINDS)
    raise CheckpointError(
        f"the folder {shown(folder.name)} must have one index ({KINDS[0].index}) or one file of {legal}, and has "
        f"{found}: open one of the files"
    )


def open_remote(url: str, open_file: Callable[[InputFile], Checkpoint]) -> Checkpoint:
    """The checkpoint in a folder behind a URL that ends in /, or that of an index there.

    Web servers list no folders, so the files must have the names that Hugging Face gives them.
    """
    for kind in KINDS:
        if public(url).endswith(kind.index):
            index = PurePosixPath(public(url)).name
            return _open_shards(Path(public(url)).parent, index, kind, partial(_remote_member, url))
    try:
        return open_file(_remote_member(url, KINDS[0].name))
    except CheckpointError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
    return open_remote(beside(url, f"{KINDS[0].name}.index.json"), open_file)


def _remote_member(url: str, name: str) -> InputFile:
    """A file of a folder behind a URL. Its name may come from a stranger, and must be plain: no part of a URL."""
    if not re.fullmatch(r"[\w.-]+", name, re.ASCII):
        raise CheckpointError(f"the index names the file {shown(name)}: behind a URL only letters, digits and ._- open")
    return RemoteFile(beside(url, name))


def member(folder: Path, name: str) -> InputFile:
    """A file of the folder. Links out of it are refused, but for those into the store of Hugging Face's cache."""
    try:
        place = (folder / name).resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"cannot open {shown(name)} of {shown(folder.name)}: {reason(error)}") from error
    homes = [folder, folder.parent.parent / "blobs"] if folder.parent.name == "snapshots" else [folder]
    if place.parent not in homes:
        raise CheckpointError(f"{shown(name)} of {shown(folder.name)} is a link that leads out of the folder")
    return InputFile(place, name)


def _open_shards(folder: Path, index: str, kind: Shards, member: Callable[[str], InputFile]) -> Checkpoint:
    weight_map = _read_index(member(index), kind)
    names = list(dict.fromkeys(weight_map.values()))
    if len(names) > MAX_FILES:
        raise LimitError(f"{shown(index)} names {len(names)} files, and quantlab opens up to {MAX_FILES}")
    files: dict[str, InputFile] = {}
    try:
        shards: dict[str, Mapping[str, Entry]] = {}
        for name in names:
            files[name] = member(name)
            shards[name] = kind.entries(files[name])
        entries = {tensor: _find(tensor, shards[name], name, index) for tensor, name in weight_map.items()}
    except BaseException:
        for file in files.values():
            file.close()
        raise
    return StoredCheckpoint(folder, kind.format, entries, files.values())


def _find(tensor: str, shard: Mapping[str, Entry], name: str, index: str) -> Entry:
    if tensor not in shard:
        raise CheckpointError(f"{shown(index)} says that tensor {shown(tensor)} is in {shown(name)}, and it is not")
    return shard[tensor]


def _read_index(file: InputFile, kind: Shards) -> dict[str, str]:
    """The index's map from tensor to file."""
    if file.size > MAX_INDEX:
        raise LimitError(f"{file} has {file.size} bytes, and quantlab reads an index of up to {MAX_INDEX}")
    scan, weight_map = Scanner(file.read(0, file.size), str(file)), {}
    file.close()
    for key in scan.members():
        if key == "weight_map":
            weight_map = {tensor: _file_name(scan, kind) for tensor in scan.members(safetensors.MAX_NAME)}
        elif key == "metadata":
            for _ in scan.members():
                scan.skip_scalar()
        else:
            scan.skip_scalar()
    scan.end()
    if not weight_map:
        raise CheckpointError(f"{file} has no weight_map, so it names no tensors")
    return weight_map


def _file_name(scan: Scanner, kind: Shards) -> str:
    """The name of a file in the folder: no path, and nothing but what the index is of."""
    name = scan.string()
    if not name.endswith(kind.suffix) or "/" in name or "\\" in name or "\0" in name:
        raise CheckpointError(
            f"{scan.what} names the file {shown(name)}: only {kind.suffix} files of the same folder are opened"
        )
    return name
