"""NumPy's .npz: a zip archive whose members are .npy files."""

import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np

from ...core.tensor import PartSpec, dtype_named, part_specs
from ...errors import CheckpointError, ExportError
from ...wording import shown
from ..checkpoint import Checkpoint, Entry, StoredCheckpoint
from ..input import ziparchive
from ..input.files import InputFile, OnBytes
from ..input.ziparchive import Member
from ..output import packed
from ..output.atomic import little_endian_bytes, write_bytes
from ..output.manifest import MAX_MANIFEST, START, compose
from ..output.outgoing import Outgoing, Source, Tensors
from ..output.packed import PackedCheckpoint
from . import npy

MANIFEST = "manifest"  # the member that holds the manifest of an export, as uint8
BFLOAT16 = "uint16"  # NumPy alone has no bfloat16
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)
_ZIP64_FROM = 1 << 31


def open_file(file: InputFile) -> Checkpoint:
    """Read the directory and the members' headers. CheckpointError or LimitError if they do not hold."""
    arrays = StoredCheckpoint(file.path, "npz", _read_entries(file), [file])
    manifest = _manifest(arrays)
    return PackedCheckpoint(arrays, manifest, BFLOAT16, MANIFEST) if manifest else arrays


def _read_entries(file: InputFile) -> dict[str, Entry]:
    """The checked entries of an archive, named like its members without .npy, in the directory's order."""
    members = ziparchive.read_directory(file)
    _refuse_others(members, file)
    names = [member.name.removesuffix(".npy") for member in members]
    return {name: npy.read_entry(name, member.open, str(member)) for name, member in zip(names, members, strict=True)}


def _refuse_others(members: list[Member], file: InputFile) -> None:
    """Only .npy files belong in an .npz: numpy.load reads "a" and "a.npy" as the same name, and others as bytes."""
    for member in members:
        if not member.name.endswith(".npy"):
            raise CheckpointError(f"{file} is no .npz archive: its member {shown(member.name)} is not a .npy file")


def _manifest(arrays: Checkpoint) -> bytes | None:
    """The text of a manifest, if there is one; anybody may have an array of that name."""
    if MANIFEST not in arrays.names:
        return None
    spec = arrays.spec(MANIFEST)
    if spec.dtype != "uint8" or len(spec.shape) != 1 or not len(START) < spec.size <= MAX_MANIFEST:
        return None
    text = arrays.raw(MANIFEST).tobytes()
    return text if text.startswith(START.encode()) else None


def write(target: BinaryIO, tensors: Tensors, source: Source | None, on_bytes: OnBytes) -> None:
    """Write packed results: the manifest first, then `NAME.packed`, `NAME.scale` and so on, stored uncompressed.

    The same tensors give the same bytes.
    """
    _check_count(1 + sum(len(part_specs(t.shape, t.config)) if t.config else 1 for t in tensors))
    prefixes = member_names(tensors)
    manifest = compose(tensors, prefixes, source, BFLOAT16)
    with _new_archive(target) as archive:
        _write_member(archive, MANIFEST, np.frombuffer(manifest.encode(), np.uint8), lambda count: None)
        for tensor in tensors:
            _write_tensor(archive, tensor, prefixes[tensor.name], on_bytes)


def nbytes(tensors: Tensors, source: Source | None) -> int:
    """Bytes of the file that `write` would write."""
    prefixes = member_names(tensors)
    manifest = np.empty(len(compose(tensors, prefixes, source, BFLOAT16).encode()), np.uint8)
    members = [(MANIFEST, len(_array_header(manifest.dtype, manifest.shape)), manifest.nbytes)]
    for tensor in tensors:
        for name, spec in _member_specs(tensor, prefixes[tensor.name]).items():
            members.append((name, len(_array_header(spec.dtype, spec.shape)), spec.nbytes))
    return _zip_nbytes(members)


def members_nbytes(tensor: Outgoing, prefix: str) -> tuple[int, int]:
    """What a tensor's members, called `prefix` and so on, add to an archive of less than 4 GB; how many there are."""
    found = {prefix: PartSpec(dtype_named(tensor.source_dtype), tensor.shape)}
    if tensor.config is not None:
        found = {f"{prefix}.{part}": spec for part, spec in part_specs(tensor.shape, tensor.config).items()}
    sizes = [(name, len(_array_header(spec.dtype, spec.shape)), spec.nbytes) for name, spec in found.items()]
    return _zip_nbytes(sizes) - _zip_nbytes([]), len(found)


def _member_specs(tensor: Outgoing, prefix: str) -> dict[str, PartSpec]:
    if tensor.config is None:
        check_copied(tensor, prefix)
        return {tensor.name: PartSpec(dtype_named(tensor.source_dtype), tensor.shape)}
    return {f"{prefix}.{part}": spec for part, spec in part_specs(tensor.shape, tensor.config).items()}


def _zip_nbytes(members: Sequence[tuple[str, int, int]]) -> int:
    """Bytes of a stored archive of (name, bytes of the array's header, bytes of its values)."""
    at, directory = 0, 0
    for name, header, size in members:
        length, wide = len(f"{name}.npy".encode()), size >= _ZIP64_FROM
        # In the directory: both sizes if they need 64 bits, the place if that does.
        extra = 16 * (header + size > zipfile.ZIP64_LIMIT) + 8 * (at > zipfile.ZIP64_LIMIT)
        directory += 46 + length + (4 + extra if extra else 0)
        at += 30 + length + 20 * wide + header + size
    many = len(members) > zipfile.ZIP_FILECOUNT_LIMIT or max(at, directory) > zipfile.ZIP64_LIMIT
    return at + directory + 22 + 76 * many


@contextmanager
def _new_archive(target: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """An archive to write. After an error it is let go of as it is: closed within a member, it would raise another."""
    archive = zipfile.ZipFile(target, "w", zipfile.ZIP_STORED)
    try:
        yield archive
        archive.close()
    except BaseException:
        archive.fp = None
        raise


def _write_tensor(archive: zipfile.ZipFile, tensor: Outgoing, prefix: str, on_bytes: OnBytes) -> None:
    """The members of a tensor; nothing of it is held when the next one is made."""
    for name, array in _arrays(tensor, prefix).items():
        stored = array.view(np.uint16) if array.dtype.name == "bfloat16" else array
        _write_member(archive, name, stored, on_bytes)


def _arrays(tensor: Outgoing, prefix: str) -> dict[str, np.ndarray]:
    """The members of a tensor, made now; a copy is one member of the tensor's own name."""
    if tensor.config is not None:
        return {f"{prefix}.{part}": array for part, array in tensor.parts.items()}
    check_copied(tensor, prefix)
    return {tensor.name: tensor.copied()}


def check_copied(tensor: Outgoing, prefix: str) -> None:
    """ExportError for a copy that NumPy alone could not read back."""
    if prefix != tensor.name or dtype_named(tensor.source_dtype).isbuiltin != 1:  # 2 for those of ml_dtypes
        raise ExportError(
            f"tensor {shown(tensor.name)} ({tensor.source_dtype}) cannot be copied into an .npz, which has neither its "
            "type nor every name: choose safetensors, or leave it out"
        )


def _check_count(count: int) -> None:
    if count > ziparchive.MAX_MEMBERS:
        raise ExportError(
            f"the export would have {count} arrays, and an .npz holds {ziparchive.MAX_MEMBERS}: choose safetensors"
        )


def verify(file: InputFile, tensors: Tensors, on_bytes: OnBytes) -> None:
    """ExportError unless the file holds exactly these tensors."""
    packed.verify(open_file(file), tensors, on_bytes)


def member_names(tensors: Tensors) -> dict[str, str]:
    """What the arrays of each tensor are called in the archive.

    Its own name where every system can unpack a file of it; else "@" and its position, as tensors may be called
    "../x", "a/b" or "CON", or differ only in case. The manifest says which is which.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for position, name in enumerate(tensor.name for tensor in tensors):
        plain = _PLAIN.fullmatch(name) and not _DEVICES.match(name) and len(name) <= 200 and name.lower() not in taken
        found[name] = name if plain else f"@{position}"
        taken.add(name.lower())
    return found


def _write_member(archive: zipfile.ZipFile, name: str, array: np.ndarray, on_bytes: OnBytes) -> None:
    info = zipfile.ZipInfo(f"{name}.npy")  # its date is 1980: the same results give the same bytes
    info.external_attr = 0o644 << 16
    header = _array_header(array.dtype, array.shape)
    with archive.open(info, "w", force_zip64=array.nbytes >= _ZIP64_FROM) as member:
        member.write(header)
        write_bytes(member, little_endian_bytes(array), on_bytes)


def _array_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """What stands before the values of an array; the bits of a bfloat16 are held as whole numbers."""
    held = np.dtype(np.uint16) if dtype.name == "bfloat16" else dtype
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": held.newbyteorder("<").str, "fortran_order": False, "shape": shape}
    )
    return header.getvalue()
