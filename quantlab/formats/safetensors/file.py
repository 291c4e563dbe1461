"""safetensors: a length, a JSON header, raw little-endian data (https://github.com/huggingface/safetensors).

The header is parsed here rather than by the reference reader, which keeps the last of two equal keys, and cannot give
8-bit floats to NumPy. The rules of the reference reader hold: data without holes, overlaps or rest.
"""

import json
import math
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import BinaryIO, NamedTuple

import numpy as np

from ...core.tensor import PartSpec, dtype_named, part_specs
from ...errors import CheckpointError, ExportError, LimitError
from ...wording import shown, size_text
from ..checkpoint import Checkpoint, Entry, StoredCheckpoint, TensorSpec, shape_fault
from ..input.files import MAX_NAME, MAX_TENSORS, InputFile, OnBytes, Stream
from ..input.jsonscan import Scanner
from ..output import packed
from ..output.atomic import little_endian_bytes, write_bytes
from ..output.manifest import compose
from ..output.outgoing import Outgoing, Source, Tensors
from ..output.packed import PackedCheckpoint

MAX_HEADER = 100_000_000  # bytes; the reference reader's limit

# The file's name of a type -> (NumPy's name, bits). In the order of the reference writer, which sorts by it.
DTYPES = {
    "BOOL": ("bool", 8),
    "F4": ("float4_e2m1fn", 4),
    "F6_E2M3": ("float6_e2m3fn", 6),
    "F6_E3M2": ("float6_e3m2fn", 6),
    "U8": ("uint8", 8),
    "I8": ("int8", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "I16": ("int16", 16),
    "U16": ("uint16", 16),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "I32": ("int32", 32),
    "U32": ("uint32", 32),
    "F32": ("float32", 32),
    "C64": ("complex64", 64),
    "F64": ("float64", 64),
    "I64": ("int64", 64),
    "U64": ("uint64", 64),
}


METADATA = "quantlab"  # the metadata that holds the manifest of an export
BFLOAT16 = "bfloat16"
_NAMES = {name: code for code, (name, _) in DTYPES.items()}
_RANK = {name: rank for rank, name in enumerate(_NAMES)}


class Info(NamedTuple):
    """One tensor as the header describes it, unchecked."""

    dtype: str
    shape: tuple[int, ...]
    offsets: tuple[int, ...]


def sniff(head: bytes, size: int) -> bool:
    """There is no magic: a plausible length, or a header that begins like one, after eight bytes."""
    if len(head) < 9:
        return False
    return head[8:9] in b"{ \t\r\n" or struct.unpack("<Q", head[:8])[0] <= size - 8


def open_file(file: InputFile) -> Checkpoint:
    """Read the header and check it against the file's size. CheckpointError or LimitError if it does not hold."""
    metadata, entries = read_entries(file)
    arrays = StoredCheckpoint(file.path, "safetensors", entries, [file])
    return PackedCheckpoint(arrays, metadata[METADATA], BFLOAT16) if METADATA in metadata else arrays


def read_entries(file: InputFile) -> tuple[dict[str, str], dict[str, Entry]]:
    """The metadata and the checked entries of a file, in the header's order."""
    header = _header(file)
    metadata, infos = _parse(header, file)
    _check_coverage(infos, file.size - 8 - len(header), file)
    return metadata, {name: _entry(name, info, file, 8 + len(header)) for name, info in infos.items()}


def write(target: BinaryIO, tensors: Tensors, source: Source | None, on_bytes: OnBytes) -> None:
    """Write packed results as `NAME.packed`, `NAME.scale` and so on, with the manifest as metadata.

    The same tensors give the same bytes, and the bytes that the reference writer would give.
    """
    manifest = compose(tensors, {tensor.name: tensor.name for tensor in tensors}, source, BFLOAT16)
    write_arrays(target, tensors, own_specs, own_arrays, {METADATA: manifest}, on_bytes)


def nbytes(tensors: Tensors, source: Source | None) -> int:
    """Bytes of the file that `write` would write."""
    manifest = compose(tensors, {tensor.name: tensor.name for tensor in tensors}, source, BFLOAT16)
    return arrays_nbytes(tensors, own_specs, {METADATA: manifest})


def own_specs(tensor: Outgoing) -> dict[str, PartSpec]:
    """The arrays of a quantized tensor in quantlab's own exports."""
    assert tensor.config is not None
    return {f"{tensor.name}.{part}": spec for part, spec in _parts(tensor.shape, tensor.config).items()}


# The sizes of many plans are those of the same tensors over and over, and a model has few shapes.
_parts = lru_cache(maxsize=1 << 12)(part_specs)


@lru_cache(maxsize=64)
def _name(dtype: np.dtype) -> str:
    """NumPy puts a type's name together anew each time that it is asked."""
    return dtype.name


def own_arrays(tensor: Outgoing) -> dict[str, np.ndarray]:
    """The arrays of `own_specs`, filled."""
    return {f"{tensor.name}.{part}": array for part, array in tensor.parts.items()}


def write_arrays(
    target: BinaryIO,
    tensors: Tensors,
    specs_of: Callable[[Outgoing], dict[str, PartSpec]],
    arrays_of: Callable[[Outgoing], dict[str, np.ndarray]],
    metadata: dict[str, str],
    on_bytes: OnBytes,
) -> None:
    """Write a file whose header is known before anything is quantized; each tensor is made when its turn comes.

    `specs_of` and `arrays_of` give the arrays of a tensor that is quantized; others are copied under their names.
    """
    specs = all_specs(tensors, specs_of)
    header = compose_header({name: specs[name] for name in ranked(specs)}, metadata)
    target.write(header)
    places, position = {}, len(header)
    for name in ranked(specs):
        places[name] = position
        position += specs[name].nbytes
    target.truncate(position)

    def write(tensor: Outgoing) -> None:
        # A function, so that nothing of a tensor is held while the next one is made.
        made = {tensor.name: tensor.copied()} if tensor.config is None else arrays_of(tensor)
        for name, array in made.items():
            target.seek(places[name])
            write_bytes(target, little_endian_bytes(array), on_bytes)

    for tensor in tensors:
        write(tensor)
    target.seek(position)


def arrays_nbytes(
    tensors: Tensors, specs_of: Callable[[Outgoing], dict[str, PartSpec]], metadata: dict[str, str]
) -> int:
    """Bytes of the file that `write_arrays` would write."""
    specs = all_specs(tensors, specs_of)
    header = compose_header({name: specs[name] for name in ranked(specs)}, metadata)
    return len(header) + sum(spec.nbytes for spec in specs.values())


def all_specs(tensors: Tensors, specs_of: Callable[[Outgoing], dict[str, PartSpec]]) -> dict[str, PartSpec]:
    """The arrays of all tensors. ExportError if two have one name, a type is unknown, or there are too many."""
    found: dict[str, PartSpec] = {}
    for tensor in tensors:
        for name, spec in (copied_spec(tensor) if tensor.config is None else specs_of(tensor)).items():
            if name in found:
                raise ExportError(f"two arrays would both be called {shown(name)}: rename one of the tensors")
            found[name] = spec
    if len(found) > MAX_TENSORS:
        raise ExportError(f"the export would have {len(found)} arrays, and a file holds {MAX_TENSORS}: split it")
    return found


def copied_spec(tensor: Outgoing) -> dict[str, PartSpec]:
    """A tensor that is copied, as an array of its own name and dtype."""
    if tensor.source_dtype not in _NAMES:
        raise ExportError(f"tensor {shown(tensor.name)} is {tensor.source_dtype}, which safetensors does not hold")
    return {tensor.name: PartSpec(dtype_named(tensor.source_dtype), tensor.shape)}


def verify(file: InputFile, tensors: Tensors, on_bytes: OnBytes) -> None:
    """ExportError unless the file holds exactly these tensors."""
    packed.verify(open_file(file), tensors, on_bytes)


def ranked(arrays: Mapping[str, np.ndarray | PartSpec]) -> list[str]:
    """The names in the reference writer's order: the widest types first, so that all are aligned; then by name."""
    return sorted(arrays, key=lambda name: (-rank(arrays[name]), name))


def rank(array: np.ndarray | PartSpec) -> int:
    """The place of an array's type in the reference writer's order."""
    return _RANK[_name(array.dtype)]


def compose_header(arrays: Mapping[str, np.ndarray | PartSpec], metadata: dict[str, str]) -> bytes:
    """The length and the header of arrays that follow each other in this order."""
    text = header_text(arrays, metadata)
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def header_text(arrays: Mapping[str, np.ndarray | PartSpec], metadata: dict[str, str]) -> bytes:
    """The header's JSON."""
    header: dict[str, object] = {"__metadata__": metadata}
    position = 0
    for name, array in arrays.items():
        dtype, end = _NAMES[_name(array.dtype)], position + array.nbytes
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [position, end]}
        position = end
    return json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()


def _header(file: InputFile) -> bytearray:
    """The header's bytes; its length is checked before anything is read."""
    if file.size < 8:
        raise CheckpointError(f"{file} has {file.size} bytes, and a safetensors file begins with a length of 8")
    (length,) = struct.unpack("<Q", file.read(0, 8))
    if length > MAX_HEADER:
        raise LimitError(
            f"{file} claims a header of {size_text(length)}, and safetensors allows {size_text(MAX_HEADER)}"
        )
    if length > file.size - 8:
        raise CheckpointError(f"{file} claims a header of {length} bytes, and {file.size - 8} follow: it is cut short")
    return file.read(8, length)


def _parse(header: bytearray, file: InputFile) -> tuple[dict[str, str], dict[str, Info]]:
    """The metadata and the tensors of a header."""
    # Every tensor says "data_offsets": this count refuses a crowd before the slower walk over it begins.
    if header.count(b'"data_offsets"') > MAX_TENSORS:
        raise _too_many(file)
    scan, metadata, infos = Scanner(header, f"the header of {file}"), {}, {}
    for name in scan.members(MAX_NAME):
        if name == "__metadata__":
            metadata = {key: scan.string() for key in scan.members()}
        else:
            infos[name] = _info(scan, name)
        if len(infos) > MAX_TENSORS:
            raise _too_many(file)
    scan.end()
    return metadata, infos


def _too_many(file: InputFile) -> LimitError:
    return LimitError(f"{file} has more than {MAX_TENSORS} tensors: split it into several files")


def _info(scan: Scanner, name: str) -> Info:
    dtype, numbers = None, {}
    for key in scan.members():
        if key == "dtype":
            dtype = scan.string()
        else:
            numbers[key] = scan.integers()
    if dtype is None or numbers.keys() != {"shape", "data_offsets"}:
        raise CheckpointError(f"{scan.what} must give dtype, shape and data_offsets for tensor {shown(name)}, no more")
    return Info(dtype, numbers["shape"], numbers["data_offsets"])


def _check_coverage(infos: dict[str, Info], size: int, file: InputFile) -> None:
    """The tensors must cover the data from its first to its last byte, each byte once."""
    position = 0
    for name, info in sorted(infos.items(), key=lambda item: item[1].offsets):
        if len(info.offsets) != 2 or info.offsets[0] != position or info.offsets[1] < position:
            raise CheckpointError(
                f"tensor {shown(name)} of {file} claims bytes {shown(list(info.offsets))}, and must begin where the "
                f"one before it ends, at {position}: overlaps and holes are not allowed"
            )
        position = info.offsets[1]
    if position > size:
        raise CheckpointError(
            f"{file} is cut short: its tensors need {position} bytes of data, and it has {size}: copy it again"
        )
    if position < size:
        raise CheckpointError(f"{file} has {size} bytes of data, and its tensors cover {position}")


def _entry(name: str, info: Info, file: InputFile, start: int) -> Entry:
    if info.dtype not in DTYPES:
        raise CheckpointError(
            f"tensor {shown(name)} of {file} has the unknown type {shown(info.dtype)}: known are {', '.join(DTYPES)}"
        )
    dtype, bits = DTYPES[info.dtype]
    begin, end = info.offsets
    if fault := shape_fault(info.shape, bits):
        raise CheckpointError(f"tensor {shown(name)} of {file} {fault}")
    if bits * math.prod(info.shape) != 8 * (end - begin):
        raise CheckpointError(
            f"tensor {shown(name)} of {file} is {info.dtype} of shape {shown(list(info.shape))}, which takes "
            f"{shown(bits * math.prod(info.shape) // 8)} bytes, and has {end - begin}"
        )
    # float4 and float6 are packed in the file, and one per byte in NumPy.
    stored = np.dtype(dtype).newbyteorder("<") if bits >= 8 else None
    return Entry(
        TensorSpec(name, info.shape, dtype, end - begin), stored, partial(Stream, file, start + begin, end - begin)
    )
