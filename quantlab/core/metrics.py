"""What quantization costs and hurts: ErrorReport, and METRICS, which names its figures."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import ConfigError, QuantlabError, ShapeError
from . import channels, kernels, memory, pool
from .arrays import as_float32, as_values, check_array, raise_non_finite, widened
from .channels import ChannelFigures, Channels, ChannelSums, ChannelTotals, first_of, powers_of
from .config import QuantConfig, check_config
from .dtypes import SUMS, cut, total_error_sums, weighted_error_sums
from .granularity import PIECE, Groups, PerTensor, Piece
from .inputs import Weighting
from .kernels.records import Fitted, Place
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
    "worst_channel_sqnr_db": Metric(
        "worst_channel_sqnr_db",
        "Worst channel",
        "dB",
        True,
        "SQNR of the output channel that lost most; 0 dB is a channel of which nothing is left.",
    ),
    "channels_sqnr_db": Metric(
        "channels_sqnr_db",
        "Mean channel",
        "dB",
        True,
        "SQNR of the mean of the output channels' relative errors, each channel counting once.",
    ),
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
    "zeroed_fraction": Metric(
        "zeroed_fraction", "Zeroed", "share", False, "Share of values that were not 0 and became 0."
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
    worst_channel_sqnr_db : the lowest SQNR of any output channel that is not all zeros; that of the tensor where no
        channels are told apart: of fewer than two dimensions, or all zeros. None where they are too many to sum up.
    channels_sqnr_db : -10 log10 of the mean of sum e^2 / sum x^2 over the same output channels, each counting once,
        whatever its power; the SQNR of the tensor, or None, where worst_channel_sqnr_db is.
    zeroed_fraction : share of all values that were not 0 and became 0.
    clipped_fraction : share of values whose nearest code lies beyond the last one. None where only values are known,
        as are nbytes, bits_per_weight (8 * nbytes / elements) and compression_ratio (source bytes / nbytes).
    weighted_sqnr_db : 10 log10(sum w x^2 / sum w e^2), w being the weight of the input that a value is multiplied by.
        None where inputs have no weights.
    """

    mse: float
    rmse: float
    mae: float
    max_abs_error: float
    sqnr_db: float
    psnr_db: float
    cosine: float
    worst_channel_sqnr_db: float | None
    channels_sqnr_db: float | None
    zeroed_fraction: float
    clipped_fraction: float | None = None
    nbytes: int | None = None
    bits_per_weight: float | None = None
    compression_ratio: float | None = None
    weighted_sqnr_db: float | None = None


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


def error_figures(signal: Signal, sums: np.ndarray, each: ChannelFigures | None) -> dict[str, Any]:
    """The error half of a report from (sum e^2, sum |e|, sum decoded^2, max |e|, clipped, sum x * decoded, zeroed).

    each : of the channels; NaN where there is none to tell, None where there are too many.
    """
    squared, absolute, decoded_power, largest, _, product, zeroed = (float(value) for value in sums)
    mse, sqnr = squared / signal.size, decibels(signal.power, squared)
    worst, mean = (None, None) if each is None else (sqnr if math.isnan(figure) else figure for figure in each)
    return {
        "mse": mse,
        "rmse": math.sqrt(mse),
        "mae": absolute / signal.size,
        "max_abs_error": largest,
        "sqnr_db": sqnr,
        "psnr_db": decibels(signal.peak**2, mse),
        "cosine": cosine_of(math.sqrt(signal.power), math.sqrt(decoded_power), squared, product),
        "worst_channel_sqnr_db": worst,
        "channels_sqnr_db": mean,
        "zeroed_fraction": zeroed / signal.size,
    }


def cosine_of(length: float, other: float, squared: float, product: float) -> float:
    """Cosine of the angle between vectors of these lengths, with this squared distance and this inner product.

    Near 1 by the law of cosines, as what is missing to 1: that loses no digits where hardly anything is. Elsewhere it
    would, the more the lengths differ; the inner product does not.
    """
    if not (length and other):
        return float(squared == 0)
    if 0.5 < length / other < 2:
        missing = (squared - (length - other) ** 2) / (2 * length * other)
        if missing < 0.1:
            return min(1 - missing, 1.0)
    return min(max(product / length / other, -1.0), 1.0)


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

    def sums(
        self, part: Groups, piece: Piece, place: Place, weights: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`total_error_sums` of a piece, and `weighted_error_sums` where there are weights; zeros for what is not."""
        count, lost = len(self.configs), np.zeros(len(self.configs))
        if self.refusal is None:
            fitted = self.fit(part) if self.fitted is None else cut(self.fitted, piece.at)
            if fitted is not None:
                codecs = [config.codec for config in self.configs]
                if weights is not None:
                    lost = weighted_error_sums(codecs, part.matrix, part.size, fitted, weights)
                return *total_error_sums(codecs, part.matrix, part.size, fitted, place), lost
        return np.zeros((count, SUMS)), np.zeros((count, int(place.slots))), lost


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
    channels : of all pieces together.
    refusals : for every configuration, why it cannot serve the tensor; None if it can.
    weighted : sum w x^2 of every piece, and sum w e^2 under every configuration: float64 [pieces, 1 + configurations];
        None where inputs have no weights.
    """

    powers: np.ndarray
    peaks: np.ndarray
    errors: np.ndarray
    channels: ChannelSums
    refusals: tuple[QuantlabError | None, ...]
    weighted: np.ndarray | None = None


def joined(parts: Sequence[PieceSums]) -> PieceSums:
    """The sums of row ranges that were cut where `Groups.pieces` cuts, in the order of the rows.

    Rows must be the channels: of channels that a cut goes through, the sums would depend on it in the last bit.
    """
    return PieceSums(
        np.concatenate([part.powers for part in parts]),
        np.concatenate([part.peaks for part in parts]),
        np.concatenate([part.errors for part in parts]),
        channels.joined([part.channels for part in parts]),
        tuple(next(filter(None, each), None) for each in zip(*(part.refusals for part in parts), strict=True)),
        np.concatenate(weighted) if (weighted := [p.weighted for p in parts if p.weighted is not None]) else None,
    )


def run_batches(
    groups: Groups, batches: Sequence[Batch], layout: Channels, weighting: Weighting | None = None
) -> PieceSums:
    """The sums of every configuration.

    Each piece is read once and evaluated under every configuration while it is in cache; no codes are materialised.
    """
    refused: dict[int, QuantlabError | None] = {}
    granularity = batches[0].configs[0].granularity
    count, cols = sum(len(batch.at) for batch in batches), groups.matrix.shape[1]
    totals = ChannelTotals(layout, count)

    def piece_sums(numbered: tuple[int, Piece]) -> tuple[float, float, np.ndarray, np.ndarray]:
        number, piece = numbered
        part = groups.part(piece)
        lo, hi = part.extents
        first = first_of(piece, cols)
        place = layout.place(first, part.matrix.size)
        sums, errors = np.empty((count, SUMS)), np.empty((count, int(place.slots)))
        weights = None if weighting is None else weighting.spread(first, part.matrix.size, granularity)
        weighted = np.zeros(1 + count)
        for batch in batches:
            pool.check_cancel()  # ten searches of a piece take a second
            at = np.array(batch.at)
            sums[at], errors[at], weighted[1 + at] = batch.sums(part, piece, place, weights)
        if weights is not None:
            weighted[0] = kernels.weighting.weighted_squares(part.matrix.reshape(-1), weights)
        powers = powers_of(part.matrix, place)
        totals.add(number, layout.base(first), powers, errors)
        return float(powers.sum()), max(-lo.min(), hi.max()), sums, weighted

    powers, peaks, sums, weighted = zip(*pool.run(piece_sums, enumerate(groups.pieces())), strict=True)
    for batch in batches:
        refused |= dict.fromkeys(batch.at, batch.refusal)
    refusals = tuple(refused[i] for i in range(count))
    lost = None if weighting is None else np.stack(weighted)
    return PieceSums(np.array(powers), np.array(peaks), np.stack(sums), totals.sums, refusals, lost)


def outcomes(
    shape: tuple[int, ...], configs: Iterable[QuantConfig], sums: PieceSums, source_nbytes: int
) -> list[ErrorReport | QuantlabError]:
    """A report for every configuration, or why it cannot serve the tensor, from the sums of all its pieces."""
    signal = Signal(math.prod(shape), sum(sums.powers.tolist()), float(sums.peaks.max()))
    figures, weighted = channel_figures(shape, sums.channels), weighted_figures(sums)
    return [
        refusal or replace(report(shape, config, signal, total, each, source_nbytes), weighted_sqnr_db=figure)
        for config, refusal, total, each, figure in zip(
            configs, sums.refusals, fold(sums.errors), figures, weighted, strict=True
        )
    ]


def weighted_figures(sums: PieceSums) -> Sequence[float | None]:
    """The SQNR of the weighted sums under every configuration; None where inputs have no weights."""
    if sums.weighted is None:
        return [None] * len(sums.refusals)
    signal, *lost = sums.weighted.sum(axis=0).tolist()
    return [decibels(signal, noise) for noise in lost]


def channel_figures(shape: tuple[int, ...], sums: ChannelSums) -> Sequence[ChannelFigures | None]:
    """What becomes of the channels under every configuration; None where there were too many to sum up."""
    if len(shape) > 1 and not sums.powers.size:
        return [None] * len(sums.errors)
    return sums.figures()


def group_sums(
    groups: Groups, configs: Iterable[QuantConfig], layout: Channels, weighting: Weighting | None = None
) -> PieceSums:
    """The sums of configurations that share one layout of groups, and of the channels of another.

    Groups that lie in one piece are fitted with it, so that nothing is held for all groups; larger ones beforehand.
    """
    batches = batches_of(configs)
    if groups.size > PIECE:
        for batch in batches:
            batch.fitted = batch.fit(groups)
    return run_batches(groups, batches, layout, weighting)


def evaluate_each(
    x: np.ndarray,
    configs: Sequence[QuantConfig],
    source_nbytes: int,
    channel_axis: int = 0,
    weighting: Weighting | None = None,
) -> list[ErrorReport | QuantlabError]:
    """For configurations of one granularity: a report, or why it cannot serve the tensor."""
    granularity = configs[0].granularity
    layout = Channels.of(x.shape, channel_axis, granularity)
    return outcomes(x.shape, configs, group_sums(granularity.to_groups(x), configs, layout, weighting), source_nbytes)


def evaluate_fitted(
    x: np.ndarray, groups: Groups, config: QuantConfig, fitted: Fitted, source_nbytes: int, channel_axis: int = 0
) -> ErrorReport:
    """The report of a configuration that was fitted before to x, as groups."""
    batch = Batch([0], [config], Fitted(*(v[None] for v in fitted)))
    sums = run_batches(groups, [batch], Channels.of(x.shape, channel_axis, config.granularity))
    (found,) = outcomes(x.shape, [config], sums, source_nbytes)
    if isinstance(found, QuantlabError):
        raise found
    return found


def report(
    shape: tuple[int, ...],
    config: QuantConfig,
    signal: Signal,
    sums: np.ndarray,
    each: ChannelFigures | None,
    source_nbytes: int,
) -> ErrorReport:
    """A whole report: error from the sums, size from the shape."""
    nbytes = packed_nbytes(shape, config)
    return ErrorReport(
        **error_figures(signal, sums, each),
        clipped_fraction=float(sums[4]) / signal.size,
        nbytes=nbytes,
        bits_per_weight=8 * nbytes / signal.size,
        compression_ratio=source_nbytes / nbytes,
    )


def evaluate(x: np.ndarray, config: QuantConfig, channel_axis: int = 0) -> ErrorReport:
    """Error and size of `quantize(x, config)`, without making it: encode, decode and sums are one pass.

    Parameters and errors as `quantize`. A float64 x is rounded to float32 first, as it is to be quantized, and the
    error is that of what it was rounded to. `channel_axis` is the one along which output channels lie.

    >>> evaluate(np.float32([3, 4]), QuantConfig(dtype="fp16")).sqnr_db  # nothing is lost
    inf
    """
    check_config(config)
    values = as_values(x)
    with memory.asked(0, f"evaluating a tensor of shape {values.shape}"):
        outcome = evaluate_each(values, [config], np.asarray(x).nbytes, channel_axis)[0]
    if isinstance(outcome, QuantlabError):
        raise outcome
    return outcome


def evaluate_quantized(x: np.ndarray, q: QuantizedTensor, source_nbytes: int, channel_axis: int = 0) -> ErrorReport:
    """`evaluate(x, q.config)` of a tensor that was quantized already: its ranges are not searched again.

    `source_nbytes` are the bytes of the source, in its own dtype.
    """
    values = as_values(x)
    groups = q.config.granularity.to_groups(values)
    return evaluate_fitted(values, groups, q.config, q.fitted, source_nbytes, channel_axis)


def measure(x: np.ndarray, x_hat: np.ndarray, channel_axis: int = 0) -> ErrorReport:
    """The error half of a report for any two arrays of the same shape; sizes and clipping are None.

    float64 is measured as it is; `evaluate` of it, and an export, are about its float32 rounding. `channel_axis` as of
    `evaluate`.

    Raises ShapeError if the shapes differ, and what `quantize` raises for arrays that are not finite floats.
    """
    original, decoded = measurable(x), measurable(x_hat, "the decoded tensor")
    if original.shape != decoded.shape:
        raise ShapeError(
            f"cannot compare shape {original.shape} with shape {decoded.shape}: give two of the same shape"
        )
    differences = Differences(original.shape, channel_axis)
    differences.add(0, original.reshape(-1), decoded.reshape(-1))
    return differences.report()


def weighted_sqnr_db(x: np.ndarray, x_hat: np.ndarray, weighting: Weighting) -> float:
    """10 log10(sum w x^2 / sum w e^2) of two float32 arrays of the shape that the weights are for."""

    def part(start: int) -> tuple[float, float]:
        values, became = (array.reshape(-1)[start : start + PIECE] for array in (x, x_hat))
        weights = weighting.spread(start, values.size)
        squares = kernels.weighting.weighted_squares(values, weights)
        return squares, kernels.weighting.weighted_distance(values, became, weights)

    signal, noise = (sum(sums) for sums in zip(*pool.run(part, range(0, x.size, PIECE)), strict=True))
    return decibels(signal, noise)


def measurable(x: np.ndarray, what: str = "the tensor") -> np.ndarray:
    """`as_values` of an array, float64 as it is, whose values are finite in float32. Raises NonFiniteError."""
    double = check_array(x, what).dtype.itemsize == 8
    values = np.require(x, np.float64, ["C", "A"]) if double else as_values(x, what)
    if not np.isfinite(PerTensor().to_groups(values).batch_extents(1)).all():
        raise_non_finite(values, what)
    return values


class Differences:
    """The error half of a report for a tensor of `shape` and what it became, which come part by part."""

    def __init__(self, shape: tuple[int, ...], channel_axis: int) -> None:
        self.shape, self._layout = shape, Channels.of(shape, channel_axis)
        self._channels, self._parts = ChannelTotals(self._layout, 1), list[tuple[float, float, np.ndarray]]()

    def add(self, first: int, x: np.ndarray, decoded: np.ndarray) -> None:
        """Add finite floats [n] and what they became; x[0] is value `first` in C order, behind those added before."""
        wide = np.dtype(np.float64) in (x.dtype, decoded.dtype)
        before = len(self._parts)

        def part(start: int) -> tuple[float, float, np.ndarray]:
            values, became = (widest(array[start : start + PIECE], wide) for array in (x, decoded))
            place = self._layout.place(first + start, values.size)
            sums, errors = np.zeros(SUMS), np.zeros((1, int(place.slots)))
            kernels.totals.difference_sums(values, became, place, sums, errors[0])
            powers = powers_of(values, place)
            self._channels.add(before + start // PIECE, self._layout.base(first + start), powers, errors)
            return float(powers.sum()), float(max(-values.min(), values.max())), sums

        self._parts += pool.run(part, range(0, x.size, PIECE))

    def report(self) -> ErrorReport:
        """The report of all that was added."""
        powers, peaks, sums = zip(*self._parts, strict=True)
        signal = Signal(math.prod(self.shape), sum(powers), max(peaks))
        (each,) = channel_figures(self.shape, self._channels.sums)
        return ErrorReport(**error_figures(signal, fold(np.stack(sums)), each))


def widest(part: np.ndarray, wide: bool) -> np.ndarray:
    """A part of a flat array as float32, or as float64 where it is to be compared with such."""
    return part.astype(np.float64, order="C", copy=False) if wide else widened(part[None])[0]


def group_errors(x: np.ndarray, config: QuantConfig) -> np.ndarray:
    """Squared error of every group: float64 [rows, groups]. One value per channel if `config` is per channel."""
    groups = config.granularity.to_groups(as_values(x))
    fitted = fit(groups, config)
    parts = groups.each(lambda part, size, piece: config.codec.group_errors(part, size, cut(fitted, piece.at)))
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
