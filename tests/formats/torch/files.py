"""PyTorch checkpoints put together opcode by opcode, as no version of torch would write them."""

import struct
import zipfile

import numpy as np

from ..hostile import archive

STORED = zipfile.ZIP_STORED


def torch_zip(
    state: bytes, records: dict[str, bytes] | None = None, folder: str = "archive", method: int = STORED, **more: bytes
) -> bytes:
    """A checkpoint of the pickle `state`, these records by key, and more members by name."""
    members = [(f"{folder}/data.pkl", assembled(state))]
    members += [(f"{folder}/data/{key}", data) for key, data in (records or {}).items()]
    members += [(f"{folder}/{name}", data) for name, data in more.items()]
    return archive(*members, (f"{folder}/version", b"3\n"), method=method)


def assembled(state: bytes) -> bytes:
    return b"\x80\x02" + state + b"."


# -- opcodes that push one value


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def integers(*values: int) -> bytes:
    return sequence(*map(integer, values))


def sequence(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def listed(*items: bytes) -> bytes:
    return b"](" + b"".join(items) + b"e"


def mapping(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def name(dotted: str) -> bytes:
    module, _, last = dotted.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def call(function: str, *args: bytes) -> bytes:
    return name(function) + sequence(*args) + b"R"


def storage(key: str = "0", length: int = 6, kind: str = "torch.FloatStorage") -> bytes:
    return sequence(text("storage"), name(kind), text(key), text("cpu"), integer(length)) + b"Q"


def rebuilt(
    shape: tuple[int, ...] = (2, 3),
    strides: tuple[int, ...] | None = None,
    offset: int = 0,
    stored: bytes | None = None,
    more: bytes = b"\x89" + name("collections.OrderedDict") + b")R",
) -> bytes:
    """A tensor, by default 2 x 3 floats of record "0"."""
    if strides is None:
        strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    place = (stored or storage(), integer(offset), integers(*shape), integers(*strides))
    return name("torch._utils._rebuild_tensor_v2") + b"(" + b"".join(place) + more + b"tR"


def one_tensor(
    tensor: bytes | None = None, record: bytes = np.arange(6, dtype="<f4").tobytes(), **more: bytes
) -> bytes:
    """A checkpoint of one tensor "w" and its record."""
    return torch_zip(mapping(w=tensor or rebuilt()), {"0": record}, **more)
