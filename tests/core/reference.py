"""What the kernels mean: an obvious NumPy twin of each, one group at a time, as slow as it likes.

A twin has its kernel's name where it says the same thing. Values are float32 [n], parameters are Python floats. Where
a kernel takes a `Grid` or a `Storage` (numbers that suit a compiler), a twin takes the names of the design: a mapping,
a number of bits, the type that scales are stored in.
"""

import math
from dataclasses import dataclass
from functools import cache

import ml_dtypes
import numpy as np

FLOAT32_MAX = float(np.finfo(np.float32).max)
SCALE_TYPES = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}


def groups_of(matrix: np.ndarray, size: int) -> list[list[np.ndarray]]:
    """The groups of every row: `size` values each, the last one may be short."""
    return [[row[start : start + size] for start in range(0, len(row), size)] for row in matrix]


def transpose(matrix: np.ndarray) -> np.ndarray:
    """Rows and columns exchanged."""
    return np.ascontiguousarray(matrix.T)


def widen(bits: np.ndarray, dtype: type) -> np.ndarray:
    """The values of the bit patterns of a 16-bit float type: uint16 -> float32."""
    return bits.view(dtype).astype(np.float32)


# --- number formats -------------------------------------------------------------------------------------------------


@cache
def representable(dtype: type) -> np.ndarray:
    """Every non-negative finite value of a 16-bit float type, ascending; value k has bit pattern k."""
    infinity = int(np.array(np.inf, dtype).view(np.uint16))  # everything below it is finite
    return np.arange(infinity, dtype=np.uint16).view(dtype).astype(np.float64)


def round_to(value: float, scale_dtype: str) -> float:
    """The nearest value of the type, of two equally near ones that with the even bit pattern; never infinite."""
    if scale_dtype == "fp32":
        with np.errstate(over="ignore"):
            return float(np.clip(np.float32(value), -FLOAT32_MAX, FLOAT32_MAX))
    values = representable(SCALE_TYPES[scale_dtype])
    above = int(np.searchsorted(values, abs(value)))
    if above == len(values):
        return math.copysign(values[-1], value)
    below = max(above - 1, 0)
    up, down = values[above] - abs(value), abs(value) - values[below]
    nearest = above if up < down or (up == down and above % 2 == 0) else below
    return math.copysign(values[nearest], value)


@dataclass(frozen=True)
class Codes:
    """The integer codes of a mapping, as the design words them."""

    mapping: str
    bits: int

    @property
    def lowest(self) -> int:
        return -(2 ** (self.bits - 1)) if self.mapping == "symmetric" else 0

    @property
    def highest(self) -> int:
        return 2 ** (self.bits - 1) - 1 if self.mapping == "symmetric" else 2**self.bits - 1

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(("int" if self.mapping == "symmetric" else "uint") + ("8" if self.bits <= 8 else "16"))


@dataclass(frozen=True)
class Parameters:
    """What turns values into codes and back."""

    scale: float
    zero_point: int = 0
    offset: float = 0.0


def fit(lo: float, hi: float, codes: Codes, scale_dtype: str = "fp32") -> Parameters:
    """Spread the codes over [lo, hi]; all in float64 but the stored scale and offset.

    The offset is stored rounded down, so that no value of the range falls below the lowest code.
    """
    offset = 0.0
    if codes.mapping == "symmetric":
        step = max(abs(lo), abs(hi)) / codes.highest
    elif codes.mapping == "affine":
        lo, hi = min(lo, 0.0), max(hi, 0.0)
        step = (hi - lo) / codes.highest
    else:
        offset = round_down(lo, scale_dtype)
        step = max(hi - offset, 0.0) / codes.highest
    if step == 0:
        scale = 1.0
    else:
        scale = round_to(step, scale_dtype) or float(ml_dtypes.finfo(SCALE_TYPES[scale_dtype]).smallest_subnormal)
    zero_point = int(np.clip(np.rint(-lo / scale), 0, codes.highest)) if codes.mapping == "affine" else 0
    return Parameters(scale, zero_point, offset)


def round_down(value: float, scale_dtype: str) -> float:
    """The largest value of the type that is not above `value`; the lowest one for values below them all."""
    nearest = round_to(value, scale_dtype)
    if nearest > value:
        with np.errstate(over="ignore"):
            below = np.nextafter(SCALE_TYPES[scale_dtype](nearest), SCALE_TYPES[scale_dtype](-np.inf))
        nearest = float(below) if np.isfinite(below) else nearest
    return nearest


def usable(p: Parameters, codes: Codes) -> np.ndarray:
    """The codes whose value, offset + (q - zero_point) * scale, cannot come out infinite in float32.

    The product must be finite, and so must the sum when the product was rounded up by half a step. 0 always is.
    """
    q = np.arange(codes.lowest, codes.highest + 1)
    product = (q - p.zero_point) * np.float64(p.scale)
    half_step = 2.0**103 if p.offset > 0 else 0.0
    fits = (np.abs(product) <= FLOAT32_MAX) & (p.offset + product + half_step <= FLOAT32_MAX)
    return q[fits | (product == 0)]


def encode(values: np.ndarray, p: Parameters, codes: Codes) -> np.ndarray:
    """clip(rint((x - offset) / scale) + zero_point, lowest, highest), division and rounding in float32."""
    with np.errstate(over="ignore"):
        unclipped = np.rint((values - np.float32(p.offset)) / np.float32(p.scale)).astype(np.float64) + p.zero_point
    q = usable(p, codes)
    return np.clip(unclipped, q[0], q[-1]).astype(codes.dtype)


def decode(codes: np.ndarray, p: Parameters) -> np.ndarray:
    """offset + (q - zero_point) * scale, in float32."""
    return np.float32(p.offset) + (codes.astype(np.float32) - np.float32(p.zero_point)) * np.float32(p.scale)


# --- error ----------------------------------------------------------------------------------------------------------


def error_sums(values: np.ndarray, p: Parameters, codes: Codes) -> np.ndarray:
    """`difference_sums` of encoding and decoding, with the count of clipped values."""
    with np.errstate(over="ignore"):
        unclipped = np.rint((values - np.float32(p.offset)) / np.float32(p.scale)).astype(np.float64) + p.zero_point
    q = usable(p, codes)
    sums = difference_sums(values, decode(encode(values, p, codes), p))
    sums[4] = np.count_nonzero((unclipped < q[0]) | (unclipped > q[-1]))
    return sums


def difference_sums(values: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """(sum e^2, sum |e|, sum decoded^2, max |e|, 0, sum x * decoded, values that were not 0 and became 0).

    Exactly rounded sums of float64 terms; e = x - decoded.
    """
    x, y = values.astype(np.float64), decoded.astype(np.float64)
    sums = [math.fsum(np.square(x - y)), math.fsum(np.abs(x - y)), sum_of_squares(y), np.abs(x - y).max(initial=0)]
    return np.array([*sums, 0, math.fsum(x * y), np.count_nonzero((x != 0) & (y == 0))])


def fold_sums(groups: np.ndarray) -> np.ndarray:
    """Sums [groups, 7] in one: added, but for the fourth, of which the largest."""
    return np.array([math.fsum(groups[:, k]) if k != 3 else groups[:, k].max() for k in range(groups.shape[1])])


def channel_sums(squares: np.ndarray, first: int, run: int, channels: int) -> np.ndarray:
    """Squares [n] added up by channel: number i belongs to channel (first + i) // run % channels."""
    found = np.zeros(channels)
    np.add.at(found, (first + np.arange(len(squares))) // run % channels, squares)
    return found


def spread(weights: np.ndarray, first: int, run: int, stack_run: int, count: int) -> np.ndarray:
    """The weights [stacks, inputs] of `count` values: number i has that of stack i // stack_run, input i // run."""
    i = first + np.arange(count)
    return weights[i // stack_run % len(weights), i // run % weights.shape[1]]


def weighted_squares(x: np.ndarray, weights: np.ndarray) -> float:
    """sum w x^2, rounded once; x in float64."""
    return math.fsum(np.square(x.astype(np.float64)) * weights)


def count_zeros(values: np.ndarray) -> int:
    """How many values are 0."""
    return sum(value == 0 for value in values.tolist())


def squared_error(values: np.ndarray, p: Parameters, codes: Codes) -> float:
    """Sum of squared errors of encoding and decoding."""
    return float(error_sums(values, p, codes)[0])


def sum_of_squares(values: np.ndarray) -> float:
    """Sum of squares, exactly rounded."""
    return math.fsum(np.square(values.astype(np.float64)))


def narrow(lo: float, hi: float, cut: np.ndarray) -> tuple[float, float]:
    """[lo, hi] without shares of its width below and above, then with a share of either end's way to 0 taken off."""
    below, above, to_zero = cut
    nearest_to_zero = float(np.clip(0.0, lo, hi))
    return (
        lo + below * (hi - lo) + to_zero * (nearest_to_zero - lo),
        hi - above * (hi - lo) - to_zero * (hi - nearest_to_zero),
    )


def range_errors(values: np.ndarray, lo: np.ndarray, hi: np.ndarray, codes: Codes, scale_dtype: str) -> np.ndarray:
    """Squared error under each of several ranges."""
    return np.array([squared_error(values, fit(*ends, codes, scale_dtype), codes) for ends in zip(lo, hi, strict=True)])


def range_error(values: np.ndarray, lo: float, hi: float, codes: Codes, scale_dtype: str) -> float:
    """Squared error under a range."""
    return squared_error(values, fit(lo, hi, codes, scale_dtype), codes)


def log_histogram(values: np.ndarray, center: float, first: int, bins: int) -> np.ndarray:
    """(count, sum) of the values above the center, and of those below, by their distance: [2, bins, 2].

    The bin is the exponent and 9 bits of the mantissa, less `first`; what is smaller or larger goes to the end bins.
    """
    found = np.zeros((2, bins, 2))
    for value in values - np.float32(center):
        mantissa, exponent = math.frexp(abs(value))
        normal = (exponent + 126) * 512 + math.floor((2 * mantissa - 1) * 512)
        subnormal = math.floor(abs(float(value)) * 2.0**149 / 2**14)
        place = np.clip((normal if abs(value) >= 2.0**-126 else subnormal) - first, 0, bins - 1)
        found[int(value < 0), place] += 1, value
    return found


def binned_errors(
    counts: np.ndarray, means: np.ndarray, center: float, ranges: list[tuple[float, float]], codes: Codes
) -> np.ndarray:
    """About the squared error under ranges: of the means, but a step^2 / 12 where bins are wider than a step."""
    found = []
    for lo, hi in ranges:
        p = fit(lo, hi, codes)
        place = (means + (center - p.offset)) / p.scale + p.zero_point
        code = np.clip(np.rint(place), codes.lowest, codes.highest)
        wide = (np.abs(means) / 512 > p.scale) & (np.rint(place) == code)
        found.append(math.fsum(counts * np.where(wide, 1 / 12, np.square(place - code))) * p.scale**2)
    return np.array(found)


def powers_of_two(scale_dtype: str) -> np.ndarray:
    """Every power of two of a storage type, ascending."""
    info = ml_dtypes.finfo(SCALE_TYPES[scale_dtype])
    return np.exp2(np.arange(math.log2(info.smallest_subnormal), math.frexp(float(info.max))[1]))


def exact(values: np.ndarray, codes: Codes, scale_dtype: str = "fp32", pow2: bool = False) -> tuple[float, float, int]:
    """(squared error, scale, zero point) of least error over all scales of the type, of either sign for signed codes.

    For t from 0 up, the codes nearest to x t change one at a time; for the codes after each change, the best scale is
    sum x q / sum q^2, rounded. Affine codes: the same for every zero point. Arithmetic is real, not float32.
    """
    x = values.astype(np.float64)
    if codes.mapping == "symmetric":
        ways = [(x, -codes.lowest, codes.highest, 1, 0), (-x, -codes.lowest, codes.highest, -1, 0)]
    else:
        ways = [(x, z, codes.highest - z, 1, z) for z in range(codes.highest + 1)]
    best = (float(np.square(x).sum()), 1.0, 0)
    for signed, down, up, sign, zero_point in ways:
        for a, b in sums_of_changes(signed, down, up):
            for scale in nearest_scales(a / b, scale_dtype, pow2):
                error = math.fsum(np.square(signed - scale * np.clip(np.rint(signed / scale), -down, up)))
                best = min(best, (error, sign * scale, zero_point))
    return best


def sums_of_changes(x: np.ndarray, down: int, up: int) -> list[tuple[float, float]]:
    """(sum x q, sum q^2) after each change of a code, for scales from the largest down."""
    changes = [
        ((k - 0.5) / abs(value), abs(value), 2 * k - 1)
        for value in x[x != 0]
        for k in range(1, (up if value > 0 else down) + 1)
    ]
    ordered = np.array(sorted(changes)).reshape(-1, 3)
    return list(zip(np.cumsum(ordered[:, 1]), np.cumsum(ordered[:, 2]), strict=True))


def nearest_scales(scale: float, scale_dtype: str, pow2: bool) -> list[float]:
    """The values of a type that may be the best for a scale: the nearest, or the powers of two on either side."""
    if not pow2:
        return [round_to(scale, scale_dtype) or float(ml_dtypes.finfo(SCALE_TYPES[scale_dtype]).smallest_subnormal)]
    powers = powers_of_two(scale_dtype)
    above = int(np.searchsorted(powers, scale))
    return [float(powers[i]) for i in {max(above - 1, 0), min(above, len(powers) - 1)}]


def octav(values: np.ndarray, codes: Codes, iterations: int) -> tuple[float, float]:
    """The range after so many iterations of OCTAV; each end is the best for the values that lie beyond it now."""
    x = values.astype(np.float64)
    lowest, highest = min(x.min(), 0.0), max(x.max(), 0.0)
    if codes.mapping == "uniform":
        lowest, highest = x.min(), x.max()
    share = 4.0**-codes.bits / (3 if codes.mapping == "symmetric" else 12)
    costly = len(x) if codes.mapping == "uniform" else np.count_nonzero(x)
    center = x.mean() if codes.mapping == "uniform" else 0.0
    if codes.mapping == "symmetric":
        x, lowest, highest = np.abs(x), -np.abs(x).max(), np.abs(x).max()
    lo, hi = mean(x[x < center], lowest), mean(x[x > center], highest)
    for _ in range(iterations):
        if codes.mapping == "symmetric":
            above = x[x > np.float32(hi)]
            inside = costly - len(above)
            hi = above.sum() / (share * inside + len(above)) if len(above) else highest
            continue
        below, above = x[x < np.float32(lo)], x[x > np.float32(hi)]
        inside = max(costly - len(below) - len(above), 0)
        new_lo = (below.sum() + share * inside * hi) / (share * inside + len(below)) if len(below) else lowest
        hi = (above.sum() + share * inside * lo) / (share * inside + len(above)) if len(above) else highest
        lo = new_lo
    return (-hi, hi) if codes.mapping == "symmetric" else (lo, hi)


def mean(values: np.ndarray, of_nothing: float) -> float:
    """The mean, or what is given for no values."""
    return float(values.mean()) if len(values) else of_nothing


# --- ranges and order statistics ------------------------------------------------------------------------------------


def extents(values: np.ndarray, batches: int) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value of equal consecutive batches; (inf, -inf) of an empty one."""
    n = len(values)
    parts = [values[b * n // batches : (b + 1) * n // batches] for b in range(batches)]
    lo, hi = np.float32(np.inf), np.float32(-np.inf)
    return np.array([p.min(initial=lo) for p in parts]), np.array([p.max(initial=hi) for p in parts])


def ordered_keys(values: np.ndarray) -> np.ndarray:
    """Integers 0 .. 2^32-1 that order as the floats do, -0.0 before 0.0."""
    bits = values.view(np.uint32).astype(np.int64)
    negative = bits >= 1 << 31
    return np.where(negative, (1 << 32) - 1 - bits, bits + (1 << 31))


def key_histogram(values: np.ndarray, prefix: int, shift: int) -> np.ndarray:
    """How many keys have each high half; or, of those with the high half `prefix`, each low half."""
    keys = ordered_keys(values)
    chosen = keys >> 16 if shift == 16 else (keys & 0xFFFF)[keys >> 16 == prefix]
    return np.bincount(chosen, minlength=1 << 16)


def tail_means(values: np.ndarray, window: int) -> tuple[float, float]:
    """Mean of the `window` smallest and largest values, at most half of them each."""
    ordered, width = np.sort(values.astype(np.float64)), min(window, max(1, len(values) // 2))
    return math.fsum(ordered[:width]) / width, math.fsum(ordered[-width:]) / width


def tail_sums(values: np.ndarray, below: float, above: float) -> np.ndarray:
    """(sum of x < below, their count, sum of x > above, their count)."""
    low, high = values[values < below].astype(np.float64), values[values > above].astype(np.float64)
    return np.array([math.fsum(low), len(low), math.fsum(high), len(high)])


# --- entropy --------------------------------------------------------------------------------------------------------


def histogram(values: np.ndarray, lo: float, hi: float, bins: int, magnitude: bool = False) -> np.ndarray:
    """Counts in equal bins over [lo, hi]; values outside count in the end bins, all in bin 0 if there is no width."""
    wide = np.abs(values.astype(np.float64)) if magnitude else values.astype(np.float64)
    place = (wide - lo) * (bins / (hi - lo)) if hi > lo else np.zeros(len(wide))
    return np.bincount(np.clip(np.floor(place), 0, bins - 1).astype(int), minlength=bins)


def level_zero(counts: np.ndarray, lo: float, hi: float) -> np.ndarray:
    """The bin of 0 with the count of its neighbours, or of the only one, as a whole number; NVIDIA's h[0] = h[1]."""
    found = counts.copy()
    if lo <= 0 <= hi and lo < hi:
        zero = min(math.floor(-lo * (len(counts) / (hi - lo))), len(counts) - 1)
        beside = [counts[i] for i in (zero - 1, zero + 1) if 0 <= i < len(counts)]
        found[zero] = sum(beside) // len(beside)
    return found if found.any() else counts


def prefix_sums(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(sum, non-empty bins, sum of c * log c) of counts[:i], for i from 0 to the number of bins."""
    c = counts.astype(np.float64)
    terms = [v * math.log(v) if v else 0.0 for v in c]
    return (
        np.r_[0, np.cumsum(c)],
        np.r_[0, np.cumsum(c > 0)],
        np.array([math.fsum(terms[:i]) for i in range(len(c) + 1)]),
    )


def clipped_histogram(counts: np.ndarray, left: int, right: int) -> np.ndarray:
    """P: the window [left, right) with all that lies outside added to its edge bins."""
    p = counts[left:right].astype(np.float64)
    p[0] += counts[:left].sum()
    p[-1] += counts[right:].sum()
    return p


def merged_histogram(window: np.ndarray, levels: int) -> np.ndarray:
    """Q: the window merged into `levels` equal parts, each spread evenly over its non-empty bins."""
    q = np.zeros(len(window))
    for part in level_slices(len(window), levels):
        filled = window[part] > 0
        if filled.any():
            q[part][filled] = window[part].sum() / filled.sum()
    return q


def level_slices(width: int, levels: int) -> list[slice]:
    """[0, width) cut into `levels` parts, equal but for rounding down."""
    return [slice(k * width // levels, (k + 1) * width // levels) for k in range(levels)]


def divergence(counts: np.ndarray, left: int, right: int, levels: int) -> float:
    """KL(P || Q) in nats of the normalised histograms; inf where P is and Q is not, or nothing is inside."""
    p, q = clipped_histogram(counts, left, right), merged_histogram(counts[left:right], levels)
    if q.sum() == 0 or np.any((p > 0) & (q == 0)):
        return math.inf
    some = p > 0
    p, q = p[some] / p.sum(), q[some] / q.sum()
    return math.fsum(p * np.log(p / q))


def logarithm(x: float) -> float:
    """ln(x)."""
    return math.log(x)


def cross_entropy(mass: np.ndarray, bins: np.ndarray) -> tuple[float, int]:
    """(sum mass * ln(mass / bins), number of parts) over the parts that are not empty."""
    some = [(m, b) for m, b in zip(mass, bins, strict=True) if m > 0]
    return math.fsum(m * math.log(m / b) for m, b in some), len(some)


def freedom(counts: np.ndarray, left: int, right: int, levels: int) -> int:
    """Non-empty bins of a window less its non-empty parts: what counting noise can play with."""
    window = counts[left:right]
    parts = sum(bool(window[part].any()) for part in level_slices(len(window), levels))
    return int(np.count_nonzero(window)) - parts


def one_sided_windows(bins: int, levels: int) -> list[tuple[int, int]]:
    """Every window from bin 0 that has a bin per level, the widest first."""
    return [(0, right) for right in range(bins, levels - 1, -1)]


def all_windows(bins: int, levels: int) -> list[tuple[int, int]]:
    """Every window that has a bin per level."""
    return [(left, right) for left in range(bins) for right in range(left + levels, bins + 1)]


def best_window(counts: np.ndarray, levels: int) -> tuple[int, int]:
    """The one-sided window of least divergence; the widest of equals."""
    return min(one_sided_windows(len(counts), levels), key=lambda window: divergence(counts, *window, levels))


# --- packing --------------------------------------------------------------------------------------------------------


def pack(codes: np.ndarray, bits: int, order: str) -> bytes:
    """The codes as digits of one big number, written out as bytes.

    low-first: element 0 is the lowest digit, and the number is written little-endian. high-first: element 0 is the
    highest digit, and the number, padded with zero bits below, is written big-endian.
    """
    digits = [int(code) % (1 << bits) for code in codes]  # two's complement
    size = -(-len(digits) * bits // 8)
    if order == "low-first":
        return sum(digit << (i * bits) for i, digit in enumerate(digits)).to_bytes(size, "little")
    unused = 8 * size - len(digits) * bits
    number = sum(digit << (i * bits) for i, digit in enumerate(reversed(digits)))
    return (number << unused).to_bytes(size, "big")


def unpack(data: bytes, bits: int, count: int, signed: bool, order: str) -> np.ndarray:
    """The digits of the big number of `pack`."""
    if order == "low-first":
        number, first = int.from_bytes(data, "little"), 0
        digits = [(number >> (first + i * bits)) % (1 << bits) for i in range(count)]
    else:
        number = int.from_bytes(data, "big") >> (8 * len(data) - count * bits)
        digits = [(number >> ((count - 1 - i) * bits)) % (1 << bits) for i in range(count)]
    half = 1 << (bits - 1)
    return np.array([digit - 2 * half if signed and digit >= half else digit for digit in digits], np.int64)
