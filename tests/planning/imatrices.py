"""Importance files as llama.cpp writes them: GGUF by gguf-py's writer, the older .dat byte by byte."""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

Entries = Mapping[str, tuple[np.ndarray, np.ndarray]]  # sums of squares float32 [n, inputs], tokens [n]


def write_gguf(path: Path, entries: Entries, kind: str | None = "imatrix", more: Mapping = {}) -> Path:
    """An imatrix in GGUF, with the keys and tensors that llama-quantize asks for, and `more` tensors."""
    writer = GGUFWriter(path, arch="")
    writer.kv_data[0].pop("general.architecture", None)
    if kind is not None:
        writer.add_string("general.type", kind)
    writer.add_array("imatrix.datasets", ["wiki.txt"])
    writer.add_uint32("imatrix.chunk_count", 3)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, (sums, tokens) in entries.items():
        writer.add_tensor(f"{name}.in_sum2", np.float32(sums))
        writer.add_tensor(f"{name}.counts", np.float32(tokens)[:, None])
    for name, array in more.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def dat(*entries: tuple[bytes, int, np.ndarray], tail: bytes = b"", count: int | None = None) -> bytes:
    """A .dat of (name, calls, mean squares x calls); `count` lies about how many there are."""
    out = struct.pack("<i", len(entries) if count is None else count)
    for name, calls, values in entries:
        out += (
            struct.pack("<i", len(name))
            + name
            + struct.pack("<ii", calls, values.size)
            + values.astype("<f4").tobytes()
        )
    return out + tail


def ended(chunks: int = 7, text: bytes = b"wiki.txt") -> bytes:
    """What newer .dat files have behind their entries."""
    return struct.pack("<ii", chunks, len(text)) + text
