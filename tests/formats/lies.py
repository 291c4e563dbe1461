"""Files that are not what they claim, by what is wrong with them."""

import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import NamedTuple

from .hostile import ONE, archive, bomb_of_shared_bytes, deflated, listed, npy, patched, safetensors, tensor

F32 = tensor("F32", [1], 0, 4)
ZERO = b"\0" * 4


class Lie(NamedTuple):
    content: Callable[[], bytes]
    word: str  # what the message must speak of


def lie(content: bytes | Callable[[], bytes], word: str) -> Lie:
    return Lie(content if callable(content) else lambda: content, word)


def text(shape: bytes = b"[1]", name: bytes = b"a", more: bytes = b"", data: bytes = ZERO) -> bytes:
    """One tensor whose header no JSON writer would write."""
    return safetensors(b'{"%s":{"dtype":"F32","shape":%s%s,"data_offsets":[0,4]}}' % (name, shape, more), data)


def encrypted() -> bytes:
    data = archive(("a.npy", ONE))
    return patched(data, (6, b"\x01"), (data.rfind(b"PK\x01\x02") + 8, b"\x01"))


def wrong_checksum(method: int) -> bytes:
    data = archive(("a.npy", ONE), method=method)
    return patched(data, (14, b"abcd"), (data.rfind(b"PK\x01\x02") + 16, b"abcd"))


def declaring(data: bytes, declared: bytes) -> bytes:
    """An archive of `data` whose directory speaks of the size and checksum of `declared`."""
    packed = archive(("a.npy", data))
    crc, size = struct.pack("<I", zlib.crc32(declared)), struct.pack("<I", len(declared))
    directory = packed.rfind(b"PK\x01\x02")
    return patched(packed, (14, crc), (22, size), (directory + 16, crc), (directory + 24, size))


def ending_early() -> bytes:
    """A deflated member whose stream says that it is over after 20 bytes, with others behind it."""
    return listed(1, deflated(ONE[:20]) + b"others" * 9, ONE)


SAFETENSORS = {
    "nothing at all": lie(b"", "empty"),
    "an incomplete length": lie(b"\x10\0\0\0\0\0\0", "unknown kind"),
    "a header of 2^64 - 1 bytes": lie(safetensors({}, length=2**64 - 1), "claims a header"),
    "a header just above the limit": lie(safetensors({}, length=100_000_001), "claims a header"),
    "a header longer than the file": lie(safetensors({}, length=3), "cut short"),
    "half an object": lie(safetensors(b"{"), "not valid"),
    "a rest after the object": lie(safetensors(b"{}x"), "the end"),
    "invalid UTF-8": lie(safetensors(b"\xff\xfe{}"), "not valid"),
    "invalid UTF-8 in a name": lie(text(name=b"\xff"), "UTF-8"),
    "a lone surrogate": lie(text(name=b"\\ud800"), "UTF-8"),
    "a bad escape": lie(text(name=b"\\x"), "UTF-8"),
    "deep nesting": lie(safetensors(b"[" * 100_000), "not valid"),
    "deep nesting of objects": lie(safetensors(b'{"a":' * 100_000), "not valid"),
    "a million empty lists": lie(safetensors(b'{"a":{"shape":[' + b"[]," * 1_000_000), "not valid"),
    "a million dimensions": lie(safetensors(b'{"a":{"shape":[' + b"1," * 1_000_000), "not valid"),
    "a million empty texts": lie(safetensors(b'{"__metadata__":{' + b'"":"",' * 1_000_000), "twice"),
    "a key twice": lie(text(more=b',"shape":[2]', data=b"\0" * 8), "twice"),
    "a key twice, once escaped": lie(text(more=b',"sh\\u0061pe":[1]'), "twice"),
    "a tensor twice": lie(
        safetensors(b'{"a":%s,"a":%s}' % ((b'{"dtype":"F32","shape":[0],"data_offsets":[0,0]}',) * 2)), "twice"
    ),
    "a key too many": lie(text(more=b',"x":[1]'), "no more"),
    "a key too few": lie(safetensors({"a": {"dtype": "F32", "shape": [1]}}), "must give"),
    "metadata that is no text": lie(safetensors({"__metadata__": {"k": 1}}), "a string"),
    "metadata that is no object": lie(safetensors({"__metadata__": "x"}), "an object"),
    "bytes after the data": lie(safetensors({"a": tensor("F32", [4], 0, 16)}, ZERO * 4 + b"<html>"), "cover"),
    "bytes missing": lie(safetensors({"a": tensor("F32", [4], 0, 16)}, b"\0" * 15), "cut short"),
    "an end before the beginning": lie(safetensors({"a": tensor("F32", [1], 4, 0)}, ZERO), "begin where"),
    "three offsets": lie(safetensors({"a": F32 | {"data_offsets": [0, 4, 4]}}, ZERO), "begin where"),
    "a thousand tensors on the same bytes": lie(
        safetensors({f"w{i}": tensor("F32", [200, 200], 0, 160_000) for i in range(1000)}, b"\0" * 160_000), "overlaps"
    ),
    "a hole": lie(safetensors({"a": F32, "b": tensor("F32", [1], 8, 12)}, b"\0" * 12), "holes"),
    "a size that overflows": lie(safetensors({"a": tensor("F32", [2, 2**64 - 2], 0, 16)}, ZERO * 4), "impossible"),
    "a size that wraps to 0": lie(safetensors({"a": tensor("F32", [2**33, 2**31], 0, 0)}), "impossible"),
    "an empty shape of no array": lie(safetensors({"a": tensor("F32", [0, 2**62], 0, 0)}), "impossible"),
    "a shape that does not fit": lie(text(shape=b"[2]"), "takes 8 bytes"),
    "NaN for a length": lie(text(shape=b"[NaN]"), "whole numbers"),
    "a fraction for a length": lie(text(shape=b"[1.0]"), "whole numbers"),
    "a negative length": lie(text(shape=b"[-1]"), "whole numbers"),
    "a length of 5000 digits": lie(text(shape=b"[%s]" % (b"9" * 5000)), "whole numbers"),
    "an unknown type": lie(safetensors({"a": F32 | {"dtype": "F33"}}, ZERO), "unknown type"),
    "half a byte": lie(safetensors({"a": tensor("F4", [3], 0, 2)}, b"\0" * 2), "whole byte"),
    "65 dimensions": lie(safetensors({"a": F32 | {"shape": [1] * 65}}, ZERO), "65 dimensions"),
    "a name of a megabyte": lie(text(name=b"n" * 1_000_000), "name of 1000000 bytes"),
    "300,000 tensors": lie(
        lambda: safetensors({f"t{i}": tensor("F32", [0], 0, 0) for i in range(300_000)}), "more than 100000 tensors"
    ),
}

NPY = {
    "half a magic": lie(b"\x93NUM", "not .npy data"),
    "a magic alone": lie(b"\x93NUMPY", "not .npy data"),
    "a header of 2 GiB": lie(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31 - 1) + b"{}", "claims a header"),
    "an npy header longer than the file": lie(b"\x93NUMPY\x01\x00" + struct.pack("<H", 200) + b"{}", "cut short"),
    "version 9": lie(npy(version=(9, 0)), "version (9, 0)"),
    "32 GiB in 80 bytes": lie(npy("<f8", (65536, 65536)), "takes 34.4 GB"),
    "a length of -1": lie(npy(shape=(-1,), data=ZERO), "negative"),
    "lengths of -2": lie(npy(shape=(-2, -2), data=ZERO * 4), "negative"),
    "an npy size that overflows": lie(npy(shape=(2**62, 8), data=ZERO), "impossible"),
    "an npy size that wraps to 0": lie(npy(shape=(2**32, 2**32), data=ZERO), "impossible"),
    "an empty npy shape of no array": lie(npy(shape=(0, 2**62)), "impossible"),
    "items without size": lie(npy("|V0", (10**9,)), "raw bytes"),
    "text without size": lie(npy("<U0", (10**9,)), "unknown type"),
    "void items": lie(npy("|V2", (2,), ZERO), "bfloat16"),
    "records": lie(npy([("a", "<f4")], (1,), ZERO), "plain dictionary"),
    "8-bit floats as NumPy writes them": lie(npy("<f1", (1,), b"\0"), "unknown type"),
    "npy of 65 dimensions": lie(npy(shape=(1,) * 65, data=ZERO), "65 dimensions"),
    "an npy key twice": lie(npy(header=b"{'descr':'<f4','fortran_order':False,'shape':(1,),'shape':(2,)}\n"), "twice"),
    "a call for a header": lie(npy(header=b"__import__('os').system('id')\n"), "plain dictionary"),
    "a call in a header": lie(npy(header=b"{'descr':print(),'fortran_order':False,'shape':(1,)}"), "plain dictionary"),
    "5000 pairs of brackets": lie(npy(header=b"(" * 5000 + b")" * 5000 + b"\n"), "claims a header"),
    "4000 pairs of brackets": lie(npy(header=b"(" * 4000 + b")" * 4000 + b"\n"), "plain dictionary"),
    "an empty dictionary": lie(npy(header=b"{}\n"), "plain dictionary"),
    "a header that is no text": lie(npy(header=b"\xff\n"), "plain dictionary"),
    "a shape of 5000 digits": lie(npy(shape="9" * 5000), "plain dictionary"),
    "a shape that is a number": lie(npy(shape=4, data=ZERO * 4), "plain dictionary"),
    "npy data cut": lie(npy(shape=(4,), data=b"\0" * 15), "takes 16 bytes"),
    "bytes after npy data": lie(npy(data=ZERO + b"<html>"), "takes 4 bytes"),
}

NPZ = {
    "a zip bomb": lie(lambda: archive(("w.npy", npy(shape=(50_000_000,), data=b"\0" * 200_000_000))), "would inflate"),
    "a bomb of many members": lie(
        lambda: archive(*[(f"{i}.npy", npy(shape=(260_000,), data=ZERO * 260_000)) for i in range(99)]),
        "would inflate",
    ),
    "a member that inflates 900 times": lie(
        archive(("w.npy", npy(shape=(1_000_000,), data=ZERO * 1_000_000))), "member 'w.npy' of 'a file' would inflate"
    ),
    "a member twice": lie(archive(("a.npy", ONE), ("a.npy", ONE)), "two members"),
    "two members for one name": lie(archive(("a", ONE), ("a.npy", ONE)), "not a .npy file"),
    "a member that is no array": lie(archive(("x.npy", b"hello")), "not .npy data"),
    "an empty member": lie(archive(("x.npy", b"")), "not .npy data"),
    "an encrypted member": lie(encrypted, "encrypted"),
    "bzip2": lie(archive(("a.npy", ONE), method=zipfile.ZIP_BZIP2), "method 12"),
    "20,000 members": lie(lambda: archive(*[(f"{i}.npy", b"") for i in range(20_000)]), "20000 members"),
    "a directory cut": lie(archive(("a.npy", ONE))[:-10], "directory"),
    "an end record cut": lie(b"PK\x05\x06" + b"\0" * 10, "cut short"),
    "a directory elsewhere": lie(patched(archive(("a.npy", ONE)), (-6, b"\x01")), "not where it says"),
    "a count that lies": lie(patched(archive(("a.npy", ONE)), (-14, b"\x02\0\x02\0")), "says it has 2 members"),
    "data before the archive": lie(b"MZ<html>" * 100 + archive(("a.npy", ONE)), "a program"),
    "a member before the archive": lie(
        archive(("a.npy", ONE), method=zipfile.ZIP_STORED)[: 35 + len(ONE)] + archive(("b.npy", ONE)),
        "not where it says",
    ),
    "an archive behind an archive": lie(archive(("a.npy", ONE)) + archive(("a.npy", ONE)), "not where it says"),
    "data after the archive": lie(archive(("a.npy", ONE)) + b"<html>", "directory"),
    "one member listed 500 times": lie(bomb_of_shared_bytes(500), "two members"),
    "one member under 20 names": lie(bomb_of_shared_bytes(20, names=True), "not what the directory says"),
    "a wrong checksum, stored": lie(wrong_checksum(zipfile.ZIP_STORED), "checksum"),
    "a wrong checksum, deflated": lie(wrong_checksum(zipfile.ZIP_DEFLATED), "checksum"),
    "more than declared": lie(declaring(ONE + b"more", ONE), "more than"),
    "less than declared": lie(declaring(ONE[:-1], ONE), "ends before"),
    "a stream that ends early": lie(ending_early, "ends before"),
    "a name that leads out": lie(archive(("../a.npy", ONE)), "unsafe name"),
    "an absolute name": lie(archive(("/etc/a.npy", ONE)), "unsafe name"),
    "a name with a backslash": lie(archive(("..\\a.npy", ONE)), "unsafe name"),
}

OTHERS = {
    "a TorchScript archive": lie(
        archive(("archive/code/__torch__.py", b"x=1"), ("archive/data.pkl", pickle.dumps({}))),
        "convert it to safetensors",
    ),
    "a harmless pickle": lie(pickle.dumps({"a": [1, 2]}, 4), "pickle"),
    "GGUF": lie(b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "GGUF"),
    "HDF5": lie(b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "HDF5"),
    "a page of a web site": lie(b"<!DOCTYPE html><html>", "web page"),
    "a pointer of Git LFS": lie(b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
}

LIES = SAFETENSORS | NPY | NPZ | OTHERS
