"""The decoded values as plain floats: what every program loads, for judging a quantization by running the model."""

import numpy as np

from ...core.config import QuantConfig
from ...core.slices import slices
from ...core.tensor import PartSpec, QuantizedTensor, dtype_named
from ..output.outgoing import Outgoing, rounded

NAMES = ("bfloat16", "float16", "float32")


def dtype_of(source_dtype: str) -> np.dtype:
    """The dtype of the values: the source's own, float32 for those that are none of bfloat16, float16 and float32."""
    return dtype_named(source_dtype if source_dtype in NAMES else "float32")


def refuses(shape: tuple[int, ...], config: QuantConfig) -> str | None:
    """Nothing: any values are held."""
    return None


def rounds(config: QuantConfig, source_dtype: str) -> bool:
    """Whether the dtype of the values is narrower than that in which they are decoded."""
    return dtype_of(source_dtype) != np.float32


def specs(tensor: Outgoing) -> dict[str, PartSpec]:
    """One array of the tensor's own name and shape."""
    return {tensor.name: PartSpec(dtype_of(tensor.source_dtype), tensor.shape)}


def arrays(name: str, q: QuantizedTensor) -> dict[str, np.ndarray]:
    """The decoded values, rounded to the source's dtype."""
    values = np.empty(q.size, dtype_of(q.source_dtype))
    for at, part in slices(q):
        values[at] = part.dequantize().reshape(-1)
    return {name: values.reshape(q.shape)}


def decoded(q: QuantizedTensor) -> np.ndarray:
    """The stored values, float32."""
    return rounded(q.dequantize(), dtype_of(q.source_dtype))
