"""A first answer for a large checkpoint: figures of some rows of every tensor, with how far off they may be.

The rows are drawn at random, each with the same chance, the same ones every time. Their spread tells the standard error
of the whole: of the ratio sum e^2 / sum x^2, by the delta method, in dB. What it cannot tell is a row unlike the others
that was not drawn; `max_abs_error` and `worst_channel_sqnr_db` are those of the rows that were, and `channels_sqnr_db`
is of them.

Only what works row by row can be sampled: casts, groups within rows, channels along the first axis. A scale that rows
share (per tensor, channels along another axis) depends on all of them, and the configuration is refused.
"""

import math
import zlib
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np

from ..core import pool
from ..core.arrays import as_values
from ..core.channels import Channels
from ..core.config import QuantConfig
from ..core.inputs import Weighting
from ..core.metrics import evaluate_each, group_sums, outcomes
from ..core.tensor import packed_nbytes
from ..errors import Cancelled, QuantlabError, check_integer
from .readahead import ReadAhead
from .sources import TensorSource
from .sweep import (
    ERROR,
    Row,
    Streamed,
    SweepRequest,
    by_granularity,
    channel_axis_of,
    fault_rows,
    figures,
    labels,
    refusal,
    refused_rows,
)

SHARE = 16  # one row of so many
FEWEST = 128  # rows: a tensor of fewer is measured whole
SMALL = 1 << 16  # values: so is one of fewer, which takes no time
OF_CHANNELS = ("worst_channel_sqnr_db", "channels_sqnr_db")
WHY_NOT = "needs all rows of a tensor for its scales, and a sample has only some: measure it without"


def sampled(request: SweepRequest, share: int = SHARE) -> Streamed:
    """As `sweep.stream`, of one row in `share`; rows have the column `ERROR` too, 0 where the whole was measured."""
    check_integer("the share of a sample", share, 1, 1 << 20)
    count = len(request.configs)
    with pool.limits(request.workers, request.cancel):
        reader = ReadAhead(lambda name: _read(request.source, name, share), request.names)
    with reader:
        for index, name in enumerate(request.names):
            request.tell(index * count, f"{name}: reading")
            with pool.limits(request.workers, request.cancel):
                rows = _rows_of(request, name, reader.take(), share)
            yield name, rows


def drawn(name: str, rows: int, size: int, share: int) -> np.ndarray:
    """The rows of a tensor that are measured: int64, ascending; all where it is small."""
    if share <= 1 or rows < FEWEST or size < SMALL:
        return np.arange(rows)
    count = max(FEWEST, rows // share)
    # By the name: neither the order of tensors nor their number changes what is drawn of each.
    return np.sort(np.random.default_rng(zlib.crc32(name.encode())).choice(rows, count, replace=False))


def _read(source: TensorSource, name: str, share: int) -> np.ndarray | Exception:
    """The rows that are drawn; or why they cannot be read."""
    spec = source.spec(name)
    shape = tuple(spec.shape)
    chosen = drawn(name, shape[0], math.prod(shape), share) if len(shape) > 1 else None
    try:
        if chosen is None or chosen.size == shape[0]:
            return source.raw(name)
        if getattr(source, "reads_rows", lambda _: False)(name):
            parts = [source.raw_rows(name, start, stop) for start, stop in _runs(chosen)]  # type: ignore[attr-defined]
            return np.concatenate(parts)
        return source.raw(name)[chosen]
    except Cancelled:
        raise
    except (QuantlabError, OSError, MemoryError) as error:
        return error


def _runs(chosen: np.ndarray) -> Iterator[tuple[int, int]]:
    """Neighbouring rows together: (first, behind the last)."""
    for _, run in groupby(enumerate(chosen.tolist()), key=lambda pair: pair[1] - pair[0]):
        rows = [row for _, row in run]
        yield rows[0], rows[-1] + 1


def _rows_of(request: SweepRequest, name: str, raw: np.ndarray | Exception, share: int) -> list[Row]:
    spec, configs = request.source.spec(name), request.configs
    shape = tuple(getattr(spec, "shape", ()))
    if isinstance(raw, Exception):
        return fault_rows(name, shape, configs, str(raw) or type(raw).__name__)
    try:
        x = as_values(raw)
    except QuantlabError as error:
        return refused_rows(name, shape, configs, str(error))
    del raw
    whole, weighting = x.shape == shape, request.importance.get(name)
    if weighting is not None and not whole:
        weighting = weighting.taken(drawn(name, shape[0], math.prod(shape), share), x.shape)
    found: dict[QuantConfig, Row] = {}
    for granularity, together in by_granularity(configs):
        able = [config for config in together if whole or not config.codec.has_scale or granularity.by_rows(shape)]
        found |= {config: refusal(f"{config} {WHY_NOT}") for config in together if config not in able}
        found |= _figures(x, shape, able, spec.nbytes, channel_axis_of(spec), weighting) if able else {}
    return [{**labels(name, shape, config), **found[config]} for config in configs]


def _figures(
    x: np.ndarray,
    shape: tuple[int, ...],
    configs: list[QuantConfig],
    source_nbytes: int,
    channel_axis: int,
    weighting: Weighting | None,
) -> dict[QuantConfig, Row]:
    """Figures of configurations of one granularity, from rows of a tensor of `shape`; sizes are those of the whole."""
    granularity = configs[0].granularity
    try:
        if x.shape == shape:
            reports = evaluate_each(x, configs, source_nbytes, channel_axis, weighting)
            errors = np.zeros(len(configs))
        else:
            rows = Channels.of(x.shape, 0, granularity)
            sums = group_sums(granularity.to_groups(x), configs, rows, weighting)
            reports = outcomes(x.shape, configs, sums, source_nbytes)
            errors = standard_errors(sums.channels.errors, sums.channels.powers, len(x) / shape[0])
    except Cancelled:
        raise
    except QuantlabError as why:
        return {config: refusal(str(why)) for config in configs}
    found = {}
    for config, report, error in zip(configs, reports, errors, strict=True):
        row = figures(report)
        if "reason" not in row:
            row |= _sizes(shape, config, source_nbytes) | {ERROR: float(error)}
            if x.shape != shape and channel_axis:
                row |= dict.fromkeys(OF_CHANNELS, math.nan)  # of these channels each has only some of its values here
        found[config] = row
    return found


def _sizes(shape: tuple[int, ...], config: QuantConfig, source_nbytes: int) -> dict[str, Any]:
    nbytes = packed_nbytes(shape, config)
    bits = 8 * nbytes / math.prod(shape)
    return {"nbytes": nbytes, "bits_per_weight": bits, "compression_ratio": source_nbytes / nbytes}


def standard_errors(lost: np.ndarray, power: np.ndarray, fraction: float) -> np.ndarray:
    """Standard errors in dB of 10 log10(sum power / sum lost), from the sums of rows drawn at random.

    Parameters
    ----------
    lost : sum e^2 of every row under every configuration: float64 [configurations, rows]. power : sum x^2 [rows].
    fraction : of the rows that were drawn: what is measured whole has no error.

    Returns
    -------
    float64 [configurations] : by the delta method, d(10 log10 r) = 10 / ln 10 * dr / r, with the variance of a ratio
        of sums (Cochran, Sampling Techniques, 6.4) and its finite population correction. NaN where rows are too many
        to be told apart.
    """
    rows, total = len(power), lost.sum(axis=1)
    if rows < 2:
        return np.full(len(lost), math.nan)
    if not power.sum():
        return np.zeros(len(lost))
    ratio = total / power.sum()
    spread = ((lost - ratio[:, None] * power) ** 2).sum(axis=1) * rows / (rows - 1) * (1 - fraction)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, 10 / math.log(10) * np.sqrt(spread) / total, 0.0)
