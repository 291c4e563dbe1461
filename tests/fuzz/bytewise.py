"""Damage that knows of no format: bits, bytes, whole numbers, fields in each other's place, cuts and repetitions."""

import struct
from collections.abc import Sequence
from random import Random

# Where arithmetic on sizes goes wrong.
SMALL = (0, 1, 2, 3, 7, 8, 16, 31, 63, 64, 65, 100, 127, 128, 255, 256)
EDGES = (12, 15, 16, 24, 31, 32, 40, 53, 62, 63, 64)  # powers of two, and what lies beside them
NUMBERS = [*SMALL, *(near for bits in EDGES for near in ((1 << bits) - 1, 1 << bits, (1 << bits) + 1))]


def number(rng: Random, size: int) -> bytes:
    """A whole number of `size` bytes that is worth a try."""
    value = rng.choice(NUMBERS) if rng.random() < 0.8 else rng.getrandbits(8 * size)
    return (value % (1 << 8 * size)).to_bytes(size, rng.choice(("little", "little", "big")))


def damage(rng: Random, data: bytes, others: Sequence[bytes] = (), spans: Sequence[tuple[int, int]] = ()) -> bytes:
    """`data` changed in one to four places, mostly within `spans` where there are some; `others` lend pieces."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        if not out:
            return bytes(out)
        _CHANGES[rng.randrange(len(_CHANGES))](rng, out, _place(rng, out, spans), others)
    return bytes(out)


def _place(rng: Random, out: bytearray, spans: Sequence[tuple[int, int]]) -> int:
    if spans and rng.random() < 0.8:
        start, end = rng.choice(spans)
        return min(rng.randrange(start, max(end, start + 1)), len(out) - 1)
    return rng.randrange(len(out))


def _flip(rng: Random, out: bytearray, place: int, others: Sequence[bytes]) -> None:
    out[place] ^= 1 << rng.randrange(8)


def _byte(rng: Random, out: bytearray, place: int, others: Sequence[bytes]) -> None:
    out[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _number(rng: Random, out: bytearray, place: int, others: Sequence[bytes]) -> None:
    new = number(rng, rng.choice((1, 2, 4, 8)))[: len(out) - place]
    out[place : place + len(new)] = new


def _add(rng: Random, out: bytearray, place: int, others: Sequence[bytes]) -> None:
    """A number a little larger or smaller than it was."""
    size = rng.choice((1, 2, 4, 8))
    old = out[place : place + size]
    new = (int.from_bytes(old, "little") + rng.choice((-16, -8, -2, -1, 1, 2, 4, 8, 16))) % (1 << 8 * len(old))
    out[place : place + len(old)] = new.to_bytes(len(old), "little")


def _swap(rng: Random, out: bytearray, place: int, others: Sequence[bytes]) -> None:
    size, second = rng.choice((1, 2, 4, 8, 24, 30)), rng.randrange(len(out))
    first, second = sorted((place, second))
    size = min(size, second - first, len(out) - second)
    out[first : first + size], out[second : second + size] = out[second : second + size], out[first : first + size]


def _copy(rng: Random, out: bytearray, place: int, others: Sequence[bytes]) -> None:
    """Bytes from elsewhere, or from another file, over these."""
    source = rng.choice(others) if others and rng.random() < 0.5 else bytes(out)
    start, size = rng.randrange(max(len(source), 1)), rng.choice((1, 4, 8, 16, 64, 256))
    piece = source[start : start + size][: len(out) - place]
    out[place : place + len(piece)] = piece


def _insert(rng: Random, out: bytearray, place: int, others: Sequence[bytes]) -> None:
    out[place:place] = rng.choice((rng.randbytes(rng.randrange(1, 9)), out[place : place + 32], b"\0" * 8))


def _remove(rng: Random, out: bytearray, place: int, others: Sequence[bytes]) -> None:
    del out[place : place + rng.choice((1, 2, 4, 8, 32))]


def _cut(rng: Random, out: bytearray, place: int, others: Sequence[bytes]) -> None:
    del out[place:]


def _float(rng: Random, out: bytearray, place: int, others: Sequence[bytes]) -> None:
    new = struct.pack("<d", rng.choice((float("nan"), float("inf"), -0.0, 1e308, 5e-324)))[: len(out) - place]
    out[place : place + len(new)] = new


_CHANGES = (
    _flip,
    _flip,
    _byte,
    _byte,
    _number,
    _number,
    _number,
    _add,
    _add,
    _swap,
    _copy,
    _insert,
    _remove,
    _cut,
    _float,
)
