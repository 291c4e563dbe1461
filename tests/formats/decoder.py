"""Decoding an export with NumPy and json alone, from what its manifest says: written from the manifest's own words.

Slow and obvious: one bit at a time, one element at a time. It imports nothing of quantlab.
"""

import json

import numpy as np


def decode_npz(path):
    with np.load(path, allow_pickle=False) as file:
        return decode(json.loads(bytes(file["manifest"])), dict(file))


def decode_safetensors(path):
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    types = {"U8": np.uint8, "F16": np.float16, "F32": np.float32, "BF16": np.uint16}
    manifest = json.loads(header.pop("__metadata__")["quantlab"])
    arrays = {
        name: np.frombuffer(data[slice(*info["data_offsets"])], types[info["dtype"]]).reshape(info["shape"])
        for name, info in header.items()
    }
    return decode(manifest, arrays)


def decode(manifest, arrays):
    return {tensor["name"]: decode_tensor(tensor, arrays) for tensor in manifest["tensors"]}


def decode_tensor(tensor, arrays):
    parts = {part: arrays[info["array"]] for part, info in tensor["arrays"].items()}
    types = {part: info["dtype"] for part, info in tensor["arrays"].items()}
    bits, count, kind = tensor["codes"]["bits"], tensor["codes"]["count"], tensor["codes"]["type"]
    codes = bit_stream(parts["packed"], bits, count)
    if kind in ("float16", "bfloat16"):
        return as_float32(np.array(codes, np.uint16), kind).reshape(tensor["shape"])
    if kind == "signed":
        codes = [code - 2**bits if code >= 2 ** (bits - 1) else code for code in codes]
    groups = tensor["groups"]
    group = [
        (i // groups["row_length"]) * groups["row_stride"] + (i % groups["row_length"]) // groups["group_size"]
        for i in range(count)
    ]
    names = {"q": np.array(codes, np.float32), "scale": as_float32(parts["scale"].reshape(-1), types["scale"])[group]}
    if "offset" in parts:
        names["offset"] = as_float32(parts["offset"].reshape(-1), types["offset"])[group]
    if "zero_point" in parts:
        names["zero_point"] = np.array(bit_stream(parts["zero_point"], bits, groups["count"]), np.float32)[group]
    left, formula = tensor["formula"].split(" = ")
    assert left == "x"
    return eval(formula, names).reshape(tensor["shape"])


def bit_stream(data, bits, count):
    """`count` unsigned numbers of `bits` bits each, lowest bit first; bit k is bit k % 8 of byte k // 8."""
    stream = [(int(byte) >> place) & 1 for byte in data for place in range(8)]
    assert len(stream) - count * bits in range(8)
    assert not any(stream[count * bits :])
    return [sum(stream[i * bits + place] << place for place in range(bits)) for i in range(count)]


def as_float32(values, dtype):
    if dtype == "bfloat16":
        return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return values.view(dtype).astype(np.float32)
