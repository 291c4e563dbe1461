"""Damage that knows a format: its lengths and checksums are right again, so that it reaches what lies behind them."""

import copy
import io
import itertools
import json
import pickletools
import struct
import zipfile
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from ..formats.hostile import archive
from .bytewise import NUMBERS, damage, number
from .lookup3 import checksummed, lookup3

Mutator = Callable[[Random, bytes, Sequence[bytes]], bytes]
WORDS = ["", "a", "../x", "/etc/passwd", "\0", "\ud800", "n" * 5000, "F32", "I4", "BF16", "model.safetensors", "é"]


# -- JSON


def of_json(rng: Random, text: bytes) -> bytes:
    """JSON with another value somewhere, or with damage to its text; no value is repaired."""
    try:
        tree = json.loads(text)
    except ValueError:
        return damage(rng, text)
    if rng.random() < 0.3:
        return damage(rng, text)
    tree = _other(rng, tree)
    return json.dumps(tree, allow_nan=True).encode("utf-8", "surrogatepass")


def _value(rng: Random) -> Any:
    plain = [None, True, -1, 0.5, float("nan"), [], {}, [[]], ""]
    return rng.choice([*plain, rng.choice(NUMBERS), -rng.choice(NUMBERS), rng.choice(WORDS)])


def _other(rng: Random, tree: Any) -> Any:
    """The same tree with one node changed, or several."""
    if isinstance(tree, dict) and tree and rng.random() < 0.95:
        key = rng.choice(list(tree))
        choice = rng.random()
        if choice < 0.06:
            return {other: value for other, value in tree.items() if other != key}
        if choice < 0.12:
            return {(rng.choice(WORDS) if other == key else other): value for other, value in tree.items()}
        if choice < 0.18:
            return tree | {rng.choice(WORDS): copy.deepcopy(tree[key])}
        return tree | {key: _other(rng, tree[key])}
    if isinstance(tree, list) and tree and rng.random() < 0.9:
        place, choice = rng.randrange(len(tree)), rng.random()
        if choice < 0.15:
            return tree[:place] + tree[place + 1 :]
        if choice < 0.3:
            return tree[:place] + [copy.deepcopy(tree[place])] * rng.choice((2, 3, 70)) + tree[place + 1 :]
        return [*tree[:place], _other(rng, tree[place]), *tree[place + 1 :]]
    if isinstance(tree, int) and rng.random() < 0.5:
        return tree + rng.choice((-8, -4, -1, 1, 4, 8))
    return _value(rng)


# -- safetensors, .npy


def of_safetensors(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Another header of the length that stands before it; quantlab's manifest in it is a JSON text of its own."""
    length = struct.unpack_from("<Q", data.ljust(8, b"\0"))[0]
    header, rest = data[8 : 8 + length], data[8 + length :]
    if rng.random() < 0.3 or len(header) != length:
        return damage(rng, data, others, [(0, min(len(data), 8 + length))])
    inner = b"__metadata__" in header and rng.random() < 0.5
    header = _of_manifest(rng, header) if inner else of_json(rng, header)
    return struct.pack("<Q", len(header)) + header + rest


def _of_manifest(rng: Random, header: bytes) -> bytes:
    try:
        tree = json.loads(header)
        metadata = tree["__metadata__"]
        key = rng.choice(list(metadata))
        metadata[key] = of_json(rng, metadata[key].encode()).decode("utf-8", "replace")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return damage(rng, header)
    return json.dumps(tree).encode()


def of_npy(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Another header text of the length that stands before it."""
    wide = len(data) > 6 and data[6] > 1
    start = 12 if wide else 10
    length = int.from_bytes(data[8:start], "little")
    if rng.random() < 0.4 or len(data) < start + length:
        return damage(rng, data, others, [(0, min(len(data), start + length))])
    header = damage(rng, data[start : start + length])
    if rng.random() < 0.3:
        header = header.replace(b"4", str(rng.choice(NUMBERS)).encode())
    size = len(header) & (0xFFFFFFFF if wide else 0xFFFF)
    return data[:8] + size.to_bytes(start - 8, "little") + header + data[start + length :]


# -- zip archives


def members(data: bytes) -> list[tuple[str, bytes]]:
    """The members of a correct archive; none of another."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as source:
            return [(info.filename, source.read(info)) for info in source.infolist()]
    except Exception:  # zipfile raises many kinds for damage
        return []


def in_archive(inner: Callable[[str], Mutator | None]) -> Mutator:
    """Damage to one member by what its name says it is, in an archive whose sizes and checksums are right again."""

    def mutate(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
        found = members(data)
        if not found or rng.random() < 0.3:
            # The directory, which lies behind all members, is the part worth damaging.
            return damage(rng, data, others, [(data.rfind(b"PK\1\2") if b"PK\1\2" in data else 0, len(data)), (0, 60)])
        place = rng.randrange(len(found))
        name, content = found[place]
        if rng.random() < 0.1:
            found[place] = (rng.choice(["a", "../x", "/etc/passwd", f"{name}/x", found[0][0]]), content)
        elif rng.random() < 0.1:
            found.insert(place, found[rng.randrange(len(found))])
        else:
            mutator = inner(name)
            found[place] = (name, mutator(rng, content, ()) if mutator else damage(rng, content))
        method = zipfile.ZIP_STORED if rng.random() < 0.7 else zipfile.ZIP_DEFLATED
        return archive(*found, method=method)

    return mutate


def of_pickle(rng: Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Opcodes left out, repeated, in each other's place, or with another argument."""
    try:
        places = [place for _, _, place in pickletools.genops(data)] + [len(data)]
    except Exception:  # pickletools raises many kinds for damage
        return damage(rng, data)
    if rng.random() < 0.3 or len(places) < 4:
        return damage(rng, data)
    codes = [data[start:end] for start, end in itertools.pairwise(places)]
    for _ in range(rng.choice((1, 1, 2))):
        i, j = rng.randrange(1, len(codes)), rng.randrange(1, len(codes))
        change = rng.randrange(5)
        if change == 0:
            codes[i] = b""
        elif change == 1:
            codes.insert(i, codes[j])
        elif change == 2:
            codes[i], codes[j] = codes[j], codes[i]
        elif change == 3:
            codes[i] = codes[i][:1] + damage(rng, codes[i][1:])
        else:
            codes[i] = rng.choice((b"J" + number(rng, 4), b"\x8a\x08" + number(rng, 8), b"N", b"}", b")", b"(t", b"0"))
    return b"".join(codes)


# -- GGUF


def of_gguf(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """The header damaged, half of the time one of its texts with the length that stands before it repaired."""
    end = max(len(data) // 2, 24)
    if rng.random() < 0.5:
        return damage(rng, data, others, [(0, end)])
    texts = [
        place
        for place in range(24, end)
        if 0 < int.from_bytes(data[place : place + 8], "little") < 64 and data[place + 8 : place + 9].isalnum()
    ]
    if not texts:
        return damage(rng, data, others, [(0, end)])
    place = rng.choice(texts)
    length = int.from_bytes(data[place : place + 8], "little")
    text = damage(rng, data[place + 8 : place + 8 + length])
    return data[:place] + struct.pack("<Q", len(text)) + text + data[place + 8 + length :]


# -- importance


def of_imatrix(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """By what it is; the older kind has numbers of four bytes at its beginning and around its names."""
    if data.startswith(b"GGUF"):
        return of_gguf(rng, data, others)
    if data.startswith(b"PK"):
        return in_archive(lambda name: of_npy)(rng, data, others)
    if data[4:8] == bytes(4):
        return of_safetensors(rng, data, others)
    if rng.random() < 0.4 or len(data) < 4:
        return damage(rng, data, others, [(0, 40)])
    numbers = [0, *(place + shift for place in _places_of(data, b".weight") for shift in (7, 11))]
    place = rng.choice([place for place in numbers if place + 4 <= len(data)])
    return data[:place] + number(rng, 4) + data[place + 4 :]


def _places_of(data: bytes, part: bytes) -> list[int]:
    return [place for place in range(len(data)) if data.startswith(part, place)]


# -- protocol buffers

Field = tuple[int, int, Any]  # number, wire type, value: an integer, bytes, or the fields of a message


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def parse(data: bytes, depth: int = 0) -> list[Field]:
    """The fields of a message. ValueError or IndexError for what is none."""
    at, fields = 0, []
    while at < len(data):
        key, at = _varint(data, at)
        kind, value = key & 7, None
        if kind == 0:
            value, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = data[at : at + size], at + size
        elif kind == 2:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
            if len(value) != size:
                raise ValueError
            value = _message(value, depth)
        if value is None or not 0 < key >> 3 < 1000:
            raise ValueError
        fields.append((key >> 3, kind, value))
    return fields


def _message(data: bytes, depth: int) -> Any:
    if depth < 8 and len(data) > 1:
        try:
            return parse(data, depth + 1)
        except (ValueError, IndexError):
            pass
    return data


def _encoded(value: int) -> bytes:
    out = bytearray()
    while True:
        out.append(value & 127 | (128 if value > 127 else 0))
        value >>= 7
        if not value:
            return bytes(out)


def serialize(fields: list[Field]) -> bytes:
    """The bytes of a message, with the lengths that its parts have now."""
    out = bytearray()
    for field, kind, value in fields:
        out += _encoded(field << 3 | kind)
        if kind == 0:
            out += _encoded(value)
        elif kind == 2:
            content = serialize(value) if isinstance(value, list) else value
            out += _encoded(len(content)) + content
        else:
            out += value
    return bytes(out)


def of_onnx(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Fields left out, repeated, changed or put elsewhere, in messages whose lengths are right."""
    if rng.random() < 0.25:
        return damage(rng, data, others)
    try:
        tree = parse(data)
    except (ValueError, IndexError):
        return damage(rng, data, others)
    for _ in range(rng.choice((1, 1, 2, 3))):
        _change_message(rng, tree)
    return serialize(tree)


def _change_message(rng: Random, tree: list[Field]) -> None:
    message = tree
    while message and rng.random() < 0.85:
        inner = [value for _, _, value in message if isinstance(value, list)]
        if not inner:
            break
        message = rng.choice(inner)
    if not message:
        message.append((rng.randrange(1, 30), 0, rng.choice(NUMBERS)))
        return
    place, change = rng.randrange(len(message)), rng.randrange(6)
    field, kind, value = message[place]
    if change == 0:
        del message[place]
    elif change == 1:
        message[place:place] = [message[place]] * rng.choice((1, 1, 2, 50))
    elif change == 2:
        message[place] = (rng.randrange(1, 30), kind, value)
    elif change == 3:
        message.append(rng.choice(message))
    elif kind == 0:
        message[place] = (field, 0, rng.choice(NUMBERS) if rng.random() < 0.7 else max(value + rng.choice((-1, 1)), 0))
    else:
        content = serialize(value) if isinstance(value, list) else value
        changed, size = damage(rng, content), {1: 8, 5: 4}.get(kind)
        message[place] = (field, kind, changed if size is None else changed.ljust(size, b"\0")[:size])


# -- HDF5


def of_hdf5(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Damage of the structures, whose checksums are then right: without that, libhdf5 refuses before it looks."""
    blocks = checksummed(data)
    if not blocks or rng.random() < 0.15:
        return damage(rng, data, others)
    changed = damage(rng, data, (), blocks)
    if len(changed) != len(data):  # what is inserted or removed moves every address
        return changed
    out = bytearray(changed)
    for start, end in blocks:
        struct.pack_into("<I", out, end, lookup3(bytes(out[start:end])))
    return bytes(out)


# -- all of them


def _npz_member(name: str) -> Mutator:
    return of_npy if name.endswith(".npy") else lambda rng, data, others: damage(rng, data)


def _torch_member(name: str) -> Mutator | None:
    return of_pickle if name.endswith(".pkl") else None


def _keras_member(name: str) -> Mutator | None:
    return of_hdf5 if name.endswith(".h5") else None


def _folder_member(name: str) -> Mutator | None:
    if name.endswith(".json"):
        return lambda rng, data, others: of_json(rng, data)
    return of_safetensors if name.endswith(".safetensors") else None


MUTATORS: dict[str, Mutator] = {
    "npy": of_npy,
    "npz": in_archive(_npz_member),
    "safetensors": of_safetensors,
    "gguf": of_gguf,
    "onnx": of_onnx,
    "torch": in_archive(_torch_member),
    "hdf5": of_hdf5,
    "keras": in_archive(_keras_member),
    "folder": in_archive(_folder_member),
    "imatrix": of_imatrix,
}
