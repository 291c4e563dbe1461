"""Whether codes are what rounding gives, or a method has chosen them by what the layer computes.

GPTQ and its kin move codes away from the nearest so that the errors of a row make up for each other: weights come out
worse, outputs better. The error of weights says nothing against them, so an audit has to know them; few files tell.
"""

import numpy as np

from ..core.arrays import as_float32
from ..core.granularity import PerChannel, PerGroup
from ..core.slices import VALUES, slices
from ..core.tensor import QuantizedTensor

# Rounding leaves half a step, and the source may be what was rounded in another precision, bfloat16 at worst.
FAR, PRECISION = 0.6, 2.0**-9
# Codes may have been chosen by scales before these were rounded to their dtype, as MLX does.
STORED = {"fp32": 0.0, "fp16": 2.0**-12, "bf16": 2.0**-9}
# Of the values that are further: rounding had at most 0.05 % (8 bits, against bfloat16), GPTQ 3 to 19 %, at 3, 4 and 8
# bits, by how much inputs had in common.
SHARE = 0.01


def is_calibrated(x: np.ndarray, q: QuantizedTensor) -> bool:
    """Whether codes are other than the nearest ones to x, of their own scales: of the first `VALUES` values."""
    if q.scale is None:
        return False
    at, part = next(iter(slices(q, VALUES)))
    return far_share(as_float32(x.reshape(-1)[at]).reshape(part.shape), part) > SHARE


def far_share(x: np.ndarray, q: QuantizedTensor) -> float:
    """The share of values that lie more than `FAR` steps from their code's value; clipped ones do not count."""
    codes, y = q.codes, q.dequantize()
    inside = (codes != codes.min()) & (codes != codes.max())
    step, offset = spread(q.scale, q), 0.0 if q.offset is None else np.abs(spread(q.offset, q))
    with np.errstate(over="ignore"):
        allowed = FAR * np.abs(step) + PRECISION * np.abs(x) + STORED[q.config.scale_dtype] * (np.abs(y) + 2 * offset)
        far = np.abs(x - y) > allowed
    return float(np.count_nonzero(far & inside)) / max(int(np.count_nonzero(inside)), 1)


def spread(values: np.ndarray | None, q: QuantizedTensor) -> np.ndarray:
    """Scales, or offsets, as every value has them: float32, to be broadcast to the tensor's shape."""
    each, granularity = np.asarray(values, np.float32), q.config.granularity
    if isinstance(granularity, PerGroup):
        matrix = each.reshape(-1, each.shape[-1])
        return np.repeat(matrix, granularity.group_size, axis=1)[:, : q.size // len(matrix)].reshape(q.shape)
    if isinstance(granularity, PerChannel):
        axis = granularity.index(q.shape)
        return each.reshape([-1 if i == axis else 1 for i in range(len(q.shape))])
    return each
