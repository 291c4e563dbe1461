"""One tensor on its way into an export: what is known of it before its values are read."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...core.config import QuantConfig
from ...core.tensor import QuantizedTensor, packed_nbytes, quantize, source_itemsize

BLOCK = 1 << 20  # values


@dataclass(frozen=True, eq=False)
class Outgoing:
    """A tensor to be quantized, or to be copied as it is. Its values are read when asked for, and kept by nobody.

    Attributes
    ----------
    name, shape : as in the source.
    source_dtype : NumPy's name of the source's dtype.
    config : how to quantize it; None to copy it unchanged.
    read : its values in the source's dtype, or the quantized tensor if there is one already.
    source_nbytes : bytes that it takes in the source, where these are not those of its values: blocks of GGUF.
    """

    name: str
    shape: tuple[int, ...]
    source_dtype: str
    config: QuantConfig | None
    read: Callable[[], "np.ndarray | QuantizedTensor"]
    source_nbytes: int | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the packed parts, or of the copy."""
        if self.config is None:
            return self.size * source_itemsize(self.source_dtype)
        return packed_nbytes(self.shape, self.config)

    def quantized(self) -> QuantizedTensor:
        """The quantized tensor: made anew at each call, always the same."""
        assert self.config is not None, "a copied tensor has no quantized form"
        values = self.read()
        return values if isinstance(values, QuantizedTensor) else quantize(values, self.config)

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """The arrays of the quantized tensor, made anew."""
        return self.quantized().parts

    def copied(self) -> np.ndarray:
        """The values as they are in the source."""
        values = self.read()
        assert isinstance(values, np.ndarray), "a quantized tensor is not copied"
        return values


def rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`values` (float32, C order) rounded to a narrower float, in place and block by block; returns them."""
    if dtype != np.float32:
        flat = values.reshape(-1)
        for start in range(0, flat.size, BLOCK):
            block = flat[start : start + BLOCK]
            block[...] = block.astype(dtype)
    return values


def outgoing(tensors: Mapping[str, QuantizedTensor]) -> list[Outgoing]:
    """Tensors that are quantized already."""

    def one(name: str, q: QuantizedTensor) -> Outgoing:
        return Outgoing(name, q.shape, q.source_dtype, q.config, lambda: q)

    return [one(name, q) for name, q in tensors.items()]


Tensors = Sequence[Outgoing]


@dataclass(frozen=True)
class Source:
    """What tensors came from: its name, `Checkpoint.sha256`, and `Checkpoint.digests` if it is several files."""

    name: str
    sha256: str
    files: Mapping[str, str]
