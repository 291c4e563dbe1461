"""What quantization costs and hurts: ErrorReport, and METRICS, which names its figures."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigError, QuantlabError, ShapeError
from . import kernels, pool
from .arrays import as_float32, as_values, raise_non_finite, widened
from .config import QuantConfig, check_config
from .dtypes import SUMS, cut, total_error_sums
from .granularity import PIECE, Groups, PerTensor, Piece
from .kernels.records import Fitted
from .tensor import QuantizedTensor, fit, fit_together, packed_nbytes, shares_ranges


@dataclass(frozen=True)
class Metric:
    """A figure of an ErrorReport: what it is called, its unit, and whether more is better."""

    name: str
    label: str
    unit: str
    higher_is_better: bool
    help: str


METRICS: dict[str, Metric] = {
    "sqnr_db": Metric("sqnr_db", "SQNR", "dB", True, "Signal power over error power; about 6 dB more per bit."),
    "mse": Metric("mse", "MSE", "", False, "Mean squared error, in squared units of the weights."),
    "rmse": Metric("rmse", "RMSE", "", False, "Root of the mean squared error, in units of the weights."),
    "mae": Metric("mae", "MAE", "", False, "Mean absolute error, in units of the weights."),
    "max_abs_error": Metric("max_abs_error", "Max error", "", False, "The largest absolute error of any weight."),
    "psnr_db": Metric("psnr_db", "PSNR", "dB", True, "Squared peak (largest magnitude) over the mean squared error."),
    "cosine": Metric("cosine", "Cosine", "", True, "Cosine of the angle between the tensor and its decoded form."),
    "clipped_fraction": Metric(
        "clipped_fraction",
        "Clipped",
        "share",
        False,
        "Share of values whose nearest code would lie beyond the last one.",
    ),
    "nbytes": Metric("nbytes", "Size", "bytes", False, "Packed codes, scales and zero points or offsets."),
    "bits_per_weight": Metric(
        "bits_per_weight", "Bits per weight", "bits", False, "8 * bytes / elements, scales included."
    ),
    "compression_ratio": Metric(
        "compression_ratio", "Compression", "x", True, "Bytes of the source, in its own dtype, over the packed bytes."
    ),
}


@dataclass(frozen=True)
class ErrorReport:
    """Error and size of a quantized tensor; e = x - decoded, all sums in float64.

    mse, rmse, mae, max_abs_error : in units of x (mse: squared).
    sqnr_db : 10 log10(sum x^2 / sum e^2); inf if nothing was lost.
    psnr_db : 10 log10(max|x|^2 / mse); inf if nothing was lost.
    cosine : of the flattened tensors; 1 for two zero tensors.
    clipped_fraction : share of values whose nearest code lies beyond the last one. None where only values are known,
        as are nbytes, bits_per_weight (8 * nbytes / elements) and compression_ratio (source bytes / nbytes).
    """

    mse: float
    rmse: float
    mae: float
    max_abs_error: float
    sqnr_db: float
    psnr_db: float
    cosine: float
    clipped_fraction: float | None = None
    nbytes: int | None = None
    bits_per_weight: float | None = None
    compression_ratio: float | None = None


@dataclass(frozen=True)
class Signal:
    """What a report needs to know of the tensor itself."""

    size: int
    power: float  # sum x^2
    peak: float  # max |x|


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise); inf without noise, -inf without a signal."""
    if noise == 0:
        return math.inf
    # Two logarithms: the ratio of two legal float64 sums may not be one.
    return 10 * (math.log10(signal) - math.log10(noise)) if signal > 0 else -math.inf


def error_figures(signal: Signal, sums: np.ndarray) -> dict[str, Any]:
    """The error half of a report from (sum e^2, sum |e|, sum decoded^2, max |e|)."""
    squared, absolute, decoded_power, largest = (float(value) for value in sums[:4])
    mse = squared / signal.size
    return {
        "mse": mse,
        "rmse": math.sqrt(mse),
        "mae": absolute / signal.size,
        "max_abs_error": largest,
        "sqnr_db": decibels(signal.power, squared),
        "psnr_db": decibels(signal.peak**2, mse),
        "cosine": cosine_of(math.sqrt(signal.power), math.sqrt(decoded_power), squared),
    }


def cosine_of(length: float, other: float, squared: float) -> float:
    """Cosine of the angle between vectors of these lengths, with this squared distance: the law of cosines.

    As what is missing to 1, which loses no digits where hardly anything is. Nor does it where the other vector is a
    millionth of this one, its outliers clipped; a sum of x * e there drowns all that is left in rounding.
    """
    if not (length and other):
        return float(squared == 0)
    missing = (squared - (length - other) ** 2) / (2 * length * other)
    return min(max(1 - missing, -1.0), 1.0)


def fold(parts: np.ndarray) -> np.ndarray:
    """Error sums [pieces, ..., SUMS] in one [..., SUMS]: sums added, maxima compared."""
    total = parts.sum(axis=0)
    total[..., 3] = parts[..., 3].max(axis=0)
    return total


@dataclass
class Batch:
    """Configurations that are fitted together; `fitted` is None where every piece is fitted as it comes.

    at : their places among all configurations of the sweep.
    fitted : float32 [configurations, rows, groups] each.
    """

    at: list[int]
    configs: list[QuantConfig]
    fitted: Fitted | None = None
    refusal: QuantlabError | None = None

    def fit(self, groups: Groups) -> Fitted | None:
        """The parameters of some groups; None if the configurations cannot serve them."""
        try:
            return fit_together(groups, self.configs)
        except (ConfigError, ShapeError) as refusal:
            # Its traceback holds this frame, which holds the tensor and, by way of `self`, the refusal again.
            self.refusal = refusal.with_traceback(None)
            return None

    def sums(self, part: Groups, piece: Piece) -> np.ndarray:
        """Error sums of a piece: float64 [configurations, SUMS]; zeros if they cannot serve it."""
        if self.refusal is None:
            fitted = self.fit(part) if self.fitted is None else cut(self.fitted, piece.at)
            if fitted is not None:
                codecs = [config.codec for config in self.configs]
                return total_error_sums(codecs, part.matrix, part.size, fitted)
        return np.zeros((len(self.configs), SUMS))


def batches_of(configs: Iterable[QuantConfig]) -> list[Batch]:
    """Those that share their ranges together, the others one by one."""
    found: dict[Any, Batch] = {}
    for i, config in enumerate(configs):
        batch = found.setdefault(config.calibration if shares_ranges(config) else i, Batch([], []))
        batch.at.append(i)
        batch.configs.append(config)
    return list(found.values())


@dataclass(frozen=True)
class PieceSums:
    """What consecutive pieces of a tensor add to its figures. Those of its row ranges, joined, are those of the whole.

    powers, peaks : sum x^2 and max |x| of every piece: float64 [pieces].
    errors : error sums of every piece under every configuration: float64 [pieces, configurations, SUMS].
    refusals : for every configuration, why it cannot serve the tensor; None if it can.
    """

    powers: np.ndarray
    peaks: np.ndarray
    errors: np.ndarray
    refusals: tuple[QuantlabError | None, ...]


def joined(parts: Sequence[PieceSums]) -> PieceSums:
    """The sums of row ranges that were cut where `Groups.pieces` cuts, in the order of the rows."""
    return PieceSums(
        np.concatenate([part.powers for part in parts]),
        np.concatenate([part.peaks for part in parts]),
        np.concatenate([part.errors for part in parts]),
        tuple(next(filter(None, each), None) for each in zip(*(part.refusals for part in parts), strict=True)),
    )


def run_batches(groups: Groups, batches: Sequence[Batch]) -> PieceSums:
    """The sums of every configuration.

    Each piece is read once and evaluated under every configuration while it is in cache; no codes are materialised.
    """
    refused: dict[int, QuantlabError | None] = {}
    count = sum(len(batch.at) for batch in batches)

    def piece_sums(piece: Piece) -> tuple[float, float, np.ndarray]:
        part = groups.part(piece)
        lo, hi = part.extents
        sums = np.empty((count, SUMS))
        for batch in batches:
            pool.check_cancel()  # ten searches of a piece take a second
            sums[batch.at] = batch.sums(part, piece)
        return kernels.errors.sum_of_squares(part.matrix), max(-lo.min(), hi.max()), sums

    powers, peaks, sums = zip(*pool.run(piece_sums, groups.pieces()), strict=True)
    for batch in batches:
        refused |= dict.fromkeys(batch.at, batch.refusal)
    return PieceSums(np.array(powers), np.array(peaks), np.stack(sums), tuple(refused[i] for i in range(count)))


def outcomes(
    shape: tuple[int, ...], configs: Iterable[QuantConfig], sums: PieceSums, source_nbytes: int
) -> list[ErrorReport | QuantlabError]:
    """A report for every configuration, or why it cannot serve the tensor, from the sums of all its pieces."""
    signal = Signal(math.prod(shape), sum(sums.powers.tolist()), float(sums.peaks.max()))
    return [
        refusal or report(shape, config, signal, total, source_nbytes)
        for config, refusal, total in zip(configs, sums.refusals, fold(sums.errors), strict=True)
    ]


def group_sums(groups: Groups, configs: Iterable[QuantConfig]) -> PieceSums:
    """The sums of configurations that share one layout.

    Groups that lie in one piece are fitted with it, so that nothing is held for all groups; larger ones beforehand.
    """
    batches = batches_of(configs)
    if groups.size > PIECE:
        for batch in batches:
            batch.fitted = batch.fit(groups)
    return run_batches(groups, batches)


def evaluate_each(
    x: np.ndarray, groups: Groups, configs: Sequence[QuantConfig], source_nbytes: int
) -> list[ErrorReport | QuantlabError]:
    """For configurations that share one layout: a report, or why it cannot serve the tensor."""
    return outcomes(x.shape, configs, group_sums(groups, configs), source_nbytes)


def evaluate_many(
    x: np.ndarray, groups: Groups, fitted: list[tuple[QuantConfig, Fitted]], source_nbytes: int
) -> list[ErrorReport]:
    """Reports of configurations that share one layout and were fitted before."""
    batches = [Batch([i], [config], Fitted(*(v[None] for v in f))) for i, (config, f) in enumerate(fitted)]
    sums = run_batches(groups, batches)
    found = outcomes(x.shape, [config for config, _ in fitted], sums, source_nbytes)
    return [outcome for outcome in found if isinstance(outcome, ErrorReport)]


def report(
    shape: tuple[int, ...], config: QuantConfig, signal: Signal, sums: np.ndarray, source_nbytes: int
) -> ErrorReport:
    """A whole report: error from the sums, size from the shape."""
    nbytes = packed_nbytes(shape, config)
    return ErrorReport(
        **error_figures(signal, sums),
        clipped_fraction=float(sums[4]) / signal.size,
        nbytes=nbytes,
        bits_per_weight=8 * nbytes / signal.size,
        compression_ratio=source_nbytes / nbytes,
    )


def evaluate(x: np.ndarray, config: QuantConfig) -> ErrorReport:
    """Error and size of `quantize(x, config)`, without making it: encode, decode and sums are one pass.

    Parameters and errors as `quantize`.

    >>> evaluate(np.float32([3, 4]), QuantConfig(dtype="fp16")).sqnr_db  # nothing is lost
    inf
    """
    check_config(config)
    values = as_values(x)
    groups = config.granularity.to_groups(values)
    outcome = evaluate_each(values, groups, [config], np.asarray(x).nbytes)[0]
    if isinstance(outcome, QuantlabError):
        raise outcome
    return outcome


def evaluate_quantized(x: np.ndarray, q: QuantizedTensor, source_nbytes: int) -> ErrorReport:
    """`evaluate(x, q.config)` of a tensor that was quantized already: its ranges are not searched again.

    `source_nbytes` are the bytes of the source, in its own dtype.
    """
    values = as_values(x)
    return evaluate_many(values, q.config.granularity.to_groups(values), [(q.config, q.fitted)], source_nbytes)[0]


def measure(x: np.ndarray, x_hat: np.ndarray) -> ErrorReport:
    """The error half of a report for any two arrays of the same shape; sizes and clipping are None.

    Raises ShapeError if the shapes differ, and what `quantize` raises for arrays that are not finite floats.
    """
    original, decoded = as_values(x), as_values(x_hat, "the decoded tensor")
    if original.shape != decoded.shape:
        raise ShapeError(
            f"cannot compare shape {original.shape} with shape {decoded.shape}: give two of the same shape"
        )
    lo, hi = PerTensor().to_groups(original).extents
    if not np.isfinite(PerTensor().to_groups(decoded).batch_extents(1)).all():
        raise_non_finite(decoded, "the decoded tensor")
    flat, flat_hat = original.reshape(-1), decoded.reshape(-1)

    def part(start: int) -> tuple[float, np.ndarray]:
        values, decoded = (widened(array[None, start : start + PIECE]) for array in (flat, flat_hat))
        sums = np.zeros(SUMS)
        kernels.errors.difference_sums(values[0], decoded[0], sums)
        return kernels.errors.sum_of_squares(values), sums

    parts = pool.run(part, range(0, flat.size, PIECE))
    signal = Signal(flat.size, sum(power for power, _ in parts), float(max(-lo.min(), hi.max())))
    return ErrorReport(**error_figures(signal, fold(np.stack([sums for _, sums in parts]))))


def group_errors(x: np.ndarray, config: QuantConfig) -> np.ndarray:
    """Squared error of every group: float64 [rows, groups]. One value per channel if `config` is per channel."""
    groups = config.granularity.to_groups(as_values(x))
    fitted = fit(groups, config)
    parts = groups.each(lambda part, size, piece: config.codec.error_sums(part, size, cut(fitted, piece.at))[..., 0])
    out = np.zeros(fitted.scale.shape)
    for piece, errors in zip(groups.pieces(), parts, strict=True):
        out[piece.at] += errors
    return out


def error_histogram(
    x: np.ndarray, q: QuantizedTensor, bins: int = 201, limit: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Histogram of e = x - decoded over [-limit, limit] (default: the largest |e|).

    Returns (edges float64 [bins + 1], counts int64 [bins]); errors beyond the limit count in the end bins.
    """
    error = q.dequantize()
    np.subtract(as_float32(x), error, out=error)  # in its place: the tensor is large
    if limit is None:
        limit = float(np.abs(error).max())
    limit = limit or float(np.finfo(np.float32).tiny)
    groups = PerTensor().to_groups(error)

    def counts_of(part: np.ndarray, size: int, piece: Piece) -> np.ndarray:
        counts = np.zeros((1, 1, bins), np.int64)
        ends = np.full((1, 1), -limit), np.full((1, 1), limit)
        kernels.histograms.histogram(part, size, *ends, 0, counts)
        return counts[0, 0]

    return np.linspace(-limit, limit, bins + 1), np.sum(groups.each(counts_of), axis=0)
