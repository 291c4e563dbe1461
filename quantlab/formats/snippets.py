"""Code that users copy: how an export is read back, with quantlab and without.

Each function takes the path that the code is to name, and where the export lies until then.
"""

import os
import re
from pathlib import Path

from ..wording import shown
from .onnx.inputs import Input, inputs_of
from .safetensors.beside import read_config

Place = str | os.PathLike[str]
_CLASS = re.compile(r"[A-Z][A-Za-z0-9_]{0,99}", re.ASCII)

_QUANTLAB = """\
import quantlab as ql

tensors = ql.load_packed({path!r})
for name, q in tensors.items():
    print(name, q.config, q.bits_per_weight)
    weights = q.dequantize()  # float32
"""

_NUMPY = """
# The same without quantlab, for the first tensor. manifest["decode"] says it in words.
import json
import numpy as np
{load}
tensor = manifest["tensors"][0]
arrays = {{part: array(entry["array"]) for part, entry in tensor["arrays"].items()}}
bits, count, kind = (tensor["codes"][key] for key in ("bits", "count", "type"))

def unpack(data, count):
    stream = np.unpackbits(data, count=count * bits, bitorder="little").reshape(count, bits)
    return stream @ (1 << np.arange(bits))

def floats(data, dtype):
    if dtype == "bfloat16":  # the upper half of a float32
        return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return data.view(dtype).astype(np.float32)

if kind in ("float16", "bfloat16"):
    x = floats(arrays["packed"], kind)
else:
    q = unpack(arrays["packed"], count)
    if kind == "signed":
        q -= (q >> (bits - 1)) << bits
    groups, i = tensor["groups"], np.arange(count)
    g = i // groups["row_length"] * groups["row_stride"] + i % groups["row_length"] // groups["group_size"]
    scale = floats(arrays["scale"].reshape(-1), tensor["arrays"]["scale"]["dtype"])[g]
    if "zero_point" in arrays:
        x = (q - unpack(arrays["zero_point"], groups["count"])[g]).astype(np.float32) * scale
    elif "offset" in arrays:
        offset = floats(arrays["offset"].reshape(-1), tensor["arrays"]["offset"]["dtype"])[g]
        x = offset + q.astype(np.float32) * scale
    else:
        x = q.astype(np.float32) * scale
weights = x.reshape(tensor["shape"])
"""

_NPZ = """
file = np.load({path!r})
manifest = json.loads(file["manifest"].tobytes())
array = file.__getitem__
"""

_SAFETENSORS = """
from safetensors import safe_open

file = safe_open({path!r}, framework="np")
manifest = json.loads(file.metadata()["quantlab"])
array = file.get_tensor
"""


def npz(path: Place, export: Path | None = None) -> str:
    """Python source that reads an .npz export at `path`."""
    return _filled(_NPZ, path)


def safetensors(path: Place, export: Path | None = None) -> str:
    """Python source that reads a .safetensors export at `path`."""
    return _filled(_SAFETENSORS, path)


def _filled(load: str, path: Place) -> str:
    place = os.fspath(path)
    return _QUANTLAB.format(path=place) + _NUMPY.format(load=load.format(path=place))


def dense(path: Place, export: Path | None = None) -> str:
    """How the decoded values are read."""
    return _DENSE.format(path=os.fspath(path))


def compressed_tensors(path: Place, export: Path | None = None) -> str:
    """How transformers and vLLM load the folder: with the class that its config.json names."""
    config = read_config((Path(export or path) / "config.json").read_bytes())
    loader = _loader(config.get("architectures"))
    groups = config["quantization_config"]["config_groups"].values()
    if all(group["weights"]["symmetric"] for group in groups):
        return _COMPRESSED.format(path=os.fspath(path), imports=loader, loader=loader, more="", why="")
    more = ", quantization_config=CompressedTensorsConfig(dequantize=True)"
    imports = f"{loader}, CompressedTensorsConfig"
    return _COMPRESSED.format(path=os.fspath(path), imports=imports, loader=loader, more=more, why=_DEQUANTIZE)


def _loader(architectures: object) -> str:
    """The class of transformers that loads a model; its name comes from a stranger's file, into code that is run."""
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    if not isinstance(name, str) or not _CLASS.fullmatch(name) or name.endswith(("ForCausalLM", "LMHeadModel")):
        return "AutoModelForCausalLM"
    return name


def mlx(path: Place, export: Path | None = None) -> str:
    """How MLX decodes the folder's first weight."""
    return _MLX.format(path=os.fspath(path))


def gguf(path: Place, export: Path | None = None) -> str:
    """How gguf-py decodes the file."""
    return _GGUF.format(path=os.fspath(path))


def onnx(path: Place, export: Path | None = None) -> str:
    """How ONNX Runtime decodes the file; for a model with what it is to be fed with."""
    inputs = inputs_of(Path(export or path))
    if not inputs:
        return _ONNX.format(path=os.fspath(path))
    return _ONNX_MODEL.format(path=os.fspath(path), inputs="".join(map(_fed, inputs)))


def _fed(each: Input) -> str:
    """One entry of the inputs: an array of zeros, its free lengths being 1."""
    shape = tuple(length if isinstance(length, int) and length > 0 else 1 for length in each.shape)
    free = [length or "unnamed" for length in each.shape if not isinstance(length, int)]
    zeros = f"np.full({shape}, '', object)" if each.dtype == "object" else f"np.zeros({shape}, {each.dtype!r})"
    return f"    {each.name!r}: {zeros},{'  # of any length: ' + shown(', '.join(free)) if free else ''}\n"


_GGUF = """\
import gguf

for tensor in gguf.GGUFReader({path!r}).tensors:
    weights = gguf.dequantize(tensor.data, tensor.tensor_type)
    print(tensor.name, tensor.tensor_type.name, weights.shape)
# A whole model that came from a GGUF file: llama-cli -m {path}
"""

_ONNX = """\
import onnxruntime

session = onnxruntime.InferenceSession({path!r})
names = [output.name for output in session.get_outputs()]
weights = dict(zip(names, session.run(names, {{}})))  # by tensor name, decoded by DequantizeLinear
"""

_ONNX_MODEL = """\
import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
# Otherwise ONNX Runtime quantizes activations too, where it fuses 4- or 8-bit weights into a MatMul.
options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
session = onnxruntime.InferenceSession({path!r}, options)
inputs = {{  # zeros: put your own in their place
{inputs}}}
names = [output.name for output in session.get_outputs()]
outputs = dict(zip(names, session.run(names, inputs)))
"""

_DENSE = """\
from safetensors.torch import load_file

weights = load_file({path!r})  # plain floats, as the quantized model computes with
"""

_COMPRESSED = """\
# A whole model: the folder must also have the model's own config.json entries and tokenizer.
from transformers import {imports}
{why}
model = {loader}.from_pretrained({path!r}{more})
# or on the command line: vllm serve {path}
"""

_DEQUANTIZE = """
# Zero points: transformers loads them only where it decompresses the weights at once, into plain floats.\
"""

_MLX = """\
import json
import mlx.core as mx

arrays = mx.load({path!r} + "/model.safetensors")
settings = json.load(open({path!r} + "/config.json"))["quantization"]
name = next(name.removesuffix(".scales") for name in arrays if name.endswith(".scales"))
weights = mx.dequantize(
    arrays[name + ".weight"],
    arrays[name + ".scales"],
    arrays[name + ".biases"],
    group_size=settings["group_size"],
    bits=settings["bits"],
)
# A whole model: mlx_lm.load({path!r})
"""
