"""What an export says about itself: enough to decode it with NumPy and a JSON parser, and nothing else.

The manifest is one JSON object; ``DECODE`` below is its text for people and goes into every file. ``describe`` makes
the part of one tensor from its shape and configuration alone, so that a reader can make it again and compare: a file
whose sizes, types and configuration do not agree is refused before an array is read.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, NoReturn

from ...core.arrays import FLOATS
from ...core.config import QuantConfig
from ...core.dtypes import DTYPES, MAPPINGS, CastFormat
from ...core.granularity import Granularity, PerChannel, PerGroup, PerTensor
from ...core.tensor import PartSpec, part_specs, source_itemsize
from ...errors import CheckpointError, LimitError, QuantlabError
from ...wording import shown
from ..checkpoint import shape_fault
from ..input.files import MAX_NAME, MAX_TENSORS
from .outgoing import Outgoing, Source, Tensors

VERSION = "0.1.0"  # of quantlab, as in pyproject.toml
FORMAT_VERSION = 1
MAX_MANIFEST = 64 << 20  # bytes; a tensor takes about 1 kB
START = '{"quantlab":'  # how every manifest begins

DECODE = [
    "Each tensor is decoded from the arrays named under 'arrays', by its 'codes', 'groups' and 'formula'.",
    "Codes: the array 'packed' (uint8) is a bit stream; bit k of the stream is bit k % 8 (worth 2 ** (k % 8)) of byte "
    "k // 8. Code i, counted in C order of the tensor's shape, takes bits i * bits to i * bits + bits - 1, the lowest "
    "first. 'unsigned' is the number itself; 'signed' is two's complement, so a code from 2 ** (bits - 1) up means "
    "code - 2 ** bits; 'float16' and 'bfloat16' are the values themselves as bit patterns. The last byte is padded "
    "with zeros.",
    "Groups: element i, in C order, belongs to group g = (i // row_length) * row_stride + (i % row_length) // "
    "group_size. 'scale' and 'offset', flattened in C order, have one value per group. 'zero_point' has one unsigned "
    "code per group, in a bit stream like that of 'packed' with the same number of bits.",
    "Formula: q is the element's code; scale, zero_point and offset are those of its group. All in float32: scale and "
    "offset are widened to float32 first, and every operation rounds to nearest even.",
    "bfloat16: the upper 16 bits of a float32. An array whose 'stored_as' is uint16 holds the bit patterns of its "
    "'dtype'.",
]


@dataclass(frozen=True)
class Described:
    """One tensor of a manifest that was read and holds together; `arrays` as `describe` makes it."""

    name: str
    shape: tuple[int, ...]
    source_dtype: str
    config: QuantConfig
    arrays: dict[str, dict[str, Any]]
    source_nbytes: int


def compose(tensors: Tensors, prefixes: Mapping[str, str], source: Source | None, bfloat16: str) -> str:
    """The manifest of tensors whose arrays are called `prefixes[name]` + ".packed" and so on, as JSON text.

    `bfloat16` is what the format stores a bfloat16 as: "bfloat16", or "uint16" for its bit pattern.
    """
    content = {
        "quantlab": VERSION,
        "format_version": FORMAT_VERSION,
        "source": _source(source) if source else None,
        "decode": DECODE,
        "tensors": [entry(tensor, prefixes[tensor.name], bfloat16) for tensor in tensors if tensor.config is not None],
    }
    return as_json(content)


def as_json(content: dict[str, Any]) -> str:
    """JSON as it stands in a manifest."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def entry(tensor: Outgoing, prefix: str, bfloat16: str) -> dict[str, Any]:
    """`describe` of a tensor that is to be quantized, and its bytes in the source where these are its own."""
    assert tensor.config is not None, "a copy is not in the manifest"
    found = describe(tensor.name, tensor.shape, tensor.source_dtype, tensor.config, prefix, bfloat16)
    return found if tensor.source_nbytes is None else found | {"source_nbytes": tensor.source_nbytes}


def _source(source: Source) -> dict[str, Any]:
    """For several files, `sha256` is that of the lines "DIGEST  NAME" of `files`, as sha256sum prints them."""
    several = {"files": dict(source.files)} if source.files else {}
    return {"name": source.name, "sha256": source.sha256, **several}


def describe(
    name: str, shape: tuple[int, ...], source_dtype: str, config: QuantConfig, prefix: str, bfloat16: str
) -> dict[str, Any]:
    """The manifest's part about one tensor. Raises ShapeError if the configuration does not fit the shape."""
    said, arrays = _said(shape, config, bfloat16)
    named = {part: {"array": f"{prefix}.{part}"} | array for part, array in arrays.items()}
    return {"name": name, "shape": list(shape), "source_dtype": source_dtype} | said | {"arrays": named}


# Kept: the sizes of many plans are those of the same tensors over and over, and a model has few shapes.
@lru_cache(maxsize=1 << 12)
def _said(
    shape: tuple[int, ...], config: QuantConfig, bfloat16: str
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What is said of a tensor whatever its name is, and of each of its arrays."""
    kind, mapping = DTYPES[config.dtype], MAPPINGS[config.mapping]
    code_type = kind.dtype.name if isinstance(kind, CastFormat) else "signed" if mapping.signed else "unsigned"
    said = {
        "config": _config(config),
        "codes": {"bits": kind.bits, "count": math.prod(shape), "type": code_type},
        "groups": layout(config.granularity, shape) if kind.has_scale else None,
        "formula": f"x = {mapping.formula if kind.has_scale else 'q'}",
    }
    return said, {part: _array(spec, bfloat16) for part, spec in part_specs(shape, config).items()}


def _array(spec: PartSpec, bfloat16: str) -> dict[str, Any]:
    dtype = spec.dtype.name
    stored_as = bfloat16 if dtype == "bfloat16" else dtype
    return {"dtype": dtype, "stored_as": stored_as, "shape": list(spec.shape)}


def _config(config: QuantConfig) -> dict[str, Any]:
    """Every field of a configuration, each as it stands in the slug, and the slug itself."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return {"slug": config.slug, **{name: getattr(value, "slug", value) for name, value in values.items()}}


def layout(granularity: Granularity, shape: tuple[int, ...]) -> dict[str, int]:
    """Which group an element belongs to, as the three numbers of the formula in `DECODE`, and the number of groups."""
    scale_shape = granularity.scale_shape(shape)
    row_length, row_stride, group_size = _LAYOUTS[type(granularity)](granularity, shape, math.prod(shape))
    return {
        "count": math.prod(scale_shape),
        "row_length": row_length,
        "row_stride": row_stride,
        "group_size": group_size,
    }


def _tensor_layout(granularity: PerTensor, shape: tuple[int, ...], size: int) -> tuple[int, int, int]:
    return size, 0, size


def _channel_layout(granularity: PerChannel, shape: tuple[int, ...], size: int) -> tuple[int, int, int]:
    inner = math.prod(shape[granularity.index(shape) + 1 :])
    return inner * shape[granularity.index(shape)], 0, inner


def _group_layout(granularity: PerGroup, shape: tuple[int, ...], size: int) -> tuple[int, int, int]:
    rows, per_row = granularity.scale_shape(shape)
    return size // rows, per_row, granularity.group_size


_LAYOUTS: dict[type, Callable[..., tuple[int, int, int]]] = {
    PerTensor: _tensor_layout,
    PerChannel: _channel_layout,
    PerGroup: _group_layout,
}


def parse(text: str | bytes | bytearray, what: str, bfloat16: str) -> dict[str, Described]:
    """The tensors of a manifest that came in a file, in its order; `what` names the file.

    Raises CheckpointError where the manifest contradicts itself, LimitError for one that is too large.
    """
    if len(text) > MAX_MANIFEST:
        raise LimitError(f"the manifest of {what} has {len(text)} bytes, and quantlab reads up to {MAX_MANIFEST}")
    content = _json(text, what)
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        found = content.get("format_version") if isinstance(content, dict) else content
        raise CheckpointError(
            f"{what} has a manifest of version {shown(found)}, and this quantlab reads version {FORMAT_VERSION}: "
            f"use a newer one"
        )
    tensors = content.get("tensors")
    if not isinstance(tensors, list) or len(tensors) > MAX_TENSORS:
        raise CheckpointError(f"the manifest of {what} has no list of at most {MAX_TENSORS} tensors")
    described: dict[str, Described] = {}
    for item in tensors:
        tensor = _read(item, what, bfloat16)
        if tensor.name in described:
            raise CheckpointError(f"the manifest of {what} describes tensor {shown(tensor.name)} twice")
        described[tensor.name] = tensor
    # A small file whose arrays are used many times over would grow without bound when it is loaded.
    if len({tensor.arrays["packed"]["array"] for tensor in described.values()}) != len(described):
        raise CheckpointError(f"the manifest of {what} uses the same array for two tensors")
    return described


def _json(text: str | bytes | bytearray, what: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    # UnicodeDecodeError, JSONDecodeError and integers of more than 4300 digits are ValueErrors.
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the manifest of {what} is not valid JSON: {str(error)[:100]}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key comes twice")
    return dict(pairs)


def _refuse(token: str) -> NoReturn:
    raise ValueError(f"{token} is not a number")


def _read(item: Any, what: str, bfloat16: str) -> Described:
    """One tensor of a manifest, made again from its shape and configuration and compared with what the file says."""
    name = item.get("name") if isinstance(item, dict) else None
    if not isinstance(name, str) or len(name) > MAX_NAME or not is_text(name):
        raise CheckpointError(f"the manifest of {what} has a tensor without a name: {shown(item)}")
    where = f"tensor {shown(name)} in the manifest of {what}"
    shape, prefix = _shape(item, where), _prefix(item, where)
    source_dtype = item.get("source_dtype")
    if not isinstance(source_dtype, str) or source_dtype not in FLOATS:
        raise CheckpointError(f"{where} has the unknown source_dtype {shown(source_dtype)}")
    try:
        config = QuantConfig.parse(_slug(item))
        expected = describe(name, shape, source_dtype, config, prefix, bfloat16)
    except QuantlabError as error:
        raise CheckpointError(f"{where} cannot be: {error}") from error
    for key in ("config", "codes", "groups", "arrays"):
        if item.get(key) != expected[key]:
            raise CheckpointError(f"{where} contradicts itself: {key} must be {shown(expected[key], 300)}")
    return Described(
        name, shape, source_dtype, config, expected["arrays"], _source_nbytes(item, shape, source_dtype, where)
    )


def _source_nbytes(item: dict[str, Any], shape: tuple[int, ...], source_dtype: str, where: str) -> int:
    """Bytes of the tensor where it came from: those of its values, unless the manifest says something else."""
    found = item.get("source_nbytes", math.prod(shape) * source_itemsize(source_dtype))
    if type(found) is not int or not 0 < found < 2**63:
        raise CheckpointError(f"{where} has the source_nbytes {shown(found)}: it must be a positive number of bytes")
    return found


def _shape(item: dict[str, Any], where: str) -> tuple[int, ...]:
    shape = item.get("shape")
    if not isinstance(shape, list) or not all(type(length) is int and length > 0 for length in shape):
        raise CheckpointError(f"{where} has the shape {shown(shape)}: it must be a list of positive numbers")
    if fault := shape_fault(tuple(shape), 32):
        raise CheckpointError(f"{where} {fault}")
    return tuple(shape)


def _prefix(item: dict[str, Any], where: str) -> str:
    """What the names of the tensor's arrays begin with."""
    try:
        array = item["arrays"]["packed"]["array"]
        if array.endswith(".packed"):
            return array.removesuffix(".packed")
    except (KeyError, TypeError, AttributeError):
        pass
    raise CheckpointError(f"{where} does not say which array holds its codes")


def _slug(item: dict[str, Any]) -> str:
    config = item.get("config")
    slug = config.get("slug") if isinstance(config, dict) else None
    return slug if isinstance(slug, str) else ""


def is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8; a lone surrogate cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
