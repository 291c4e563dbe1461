"""The checksum of HDF5's structures, Bob Jenkins' lookup3 (`hashlittle`, public domain), and where they stand."""

import re
from functools import lru_cache

import numpy as np
from numba import njit

SIGNATURES = re.compile(
    rb"\x89HDF\r\n\x1a\n[\2\3]|OHDR|OCHK|BTHD|BTIN|BTLF|FRHP|FHDB|FHIB|FSHD|FSSE|EAHD|EAIB|EASB|EADB|FAHD|FADB"
)
LONGEST = 4500  # bytes of a structure in files as small as a fuzzer's


@njit(cache=False)
def _rot(x, k):
    return np.uint32((x << np.uint32(k)) | (x >> np.uint32(32 - k)))


@njit(cache=False)
def _lookup3(data, start, end):
    length = end - start
    a = b = c = np.uint32(np.uint32(0xDEADBEEF) + np.uint32(length))
    at = start
    words = np.zeros(3, np.uint32)
    while length > 12:
        for i in range(3):
            words[i] = data[at] | data[at + 1] << 8 | data[at + 2] << 16 | data[at + 3] << 24
            at += 4
        a, b, c = np.uint32(a + words[0]), np.uint32(b + words[1]), np.uint32(c + words[2])
        a = np.uint32(a - c) ^ _rot(c, 4)
        c = np.uint32(c + b)
        b = np.uint32(b - a) ^ _rot(a, 6)
        a = np.uint32(a + c)
        c = np.uint32(c - b) ^ _rot(b, 8)
        b = np.uint32(b + a)
        a = np.uint32(a - c) ^ _rot(c, 16)
        c = np.uint32(c + b)
        b = np.uint32(b - a) ^ _rot(a, 19)
        a = np.uint32(a + c)
        c = np.uint32(c - b) ^ _rot(b, 4)
        b = np.uint32(b + a)
        length -= 12
    if length == 0:
        return c
    words[:] = 0
    for i in range(length):
        words[i // 4] |= np.uint32(data[at + i]) << np.uint32(8 * (i % 4))
    a, b, c = np.uint32(a + words[0]), np.uint32(b + words[1]), np.uint32(c + words[2])
    c = np.uint32((c ^ b) - _rot(b, 14))
    a = np.uint32((a ^ c) - _rot(c, 11))
    b = np.uint32((b ^ a) - _rot(a, 25))
    c = np.uint32((c ^ b) - _rot(b, 16))
    a = np.uint32((a ^ c) - _rot(c, 4))
    b = np.uint32((b ^ a) - _rot(a, 14))
    return np.uint32((c ^ b) - _rot(b, 24))


@njit(cache=False)
def _end_of(data, start, last):
    """Where the checksum of the structure at `start` stands; -1 if none does."""
    for end in range(start + 8, last):
        found = data[end] | data[end + 1] << 8 | data[end + 2] << 16 | data[end + 3] << 24
        if np.uint32(found) == _lookup3(data, start, end):
            return end
    return -1


def lookup3(data: bytes) -> int:
    """The checksum of some bytes."""
    return int(_lookup3(np.frombuffer(data, np.uint8).astype(np.uint32), 0, len(data)))


@lru_cache(maxsize=64)
def checksummed(data: bytes) -> list[tuple[int, int]]:
    """(start, end) of every structure with a checksum of its own, which stands at `end`: found by trying."""
    words = np.frombuffer(data, np.uint8).astype(np.uint32)
    starts = [match.start() for match in SIGNATURES.finditer(data)]
    ends = [_end_of(words, start, min(start + LONGEST, len(data) - 4)) for start in starts]
    return [(start, end) for start, end in zip(starts, ends, strict=True) if end >= 0]
