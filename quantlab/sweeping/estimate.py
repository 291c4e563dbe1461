"""What a sweep amounts to before it is started: rows, evaluations, seconds and memory, measured on this machine."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import ml_dtypes  # noqa: F401  # NumPy then knows bfloat16 and the others by name
import numpy as np

from ..core import pool
from ..core.config import QuantConfig
from ..core.dtypes import DTYPES
from ..core.granularity import PIECE, PerChannel, PerGroup
from ..core.memory import resident_bytes
from ..errors import ConfigError
from .refusals import served
from .sweep import tensor_rows

FIRST = (2, 64)  # a shape to compile with
PROBES = ((8, 256), (16, 1024), (64, 2048))  # two shapes tell the cost per tensor from the cost per value
ENOUGH = 0.1  # seconds: what takes longer says enough, and on the next shape would keep the reader waiting
SPEEDUP_CONFIG = "int4-sym-g128-mse"
ROW_BYTES = 1500  # of memory, measured at the end of sweeps of 20,000 and of 100,000 rows

Kind = tuple[str, ...]


@dataclass(frozen=True)
class Cost:
    """What some configurations cost together: seconds per tensor, and seconds per value in one thread."""

    per_tensor: float
    per_value: float


@dataclass(frozen=True)
class Estimate:
    """What a sweep amounts to.

    Attributes
    ----------
    configs, tensors, values : how many, `values` over all tensors.
    seconds : on this machine, if it does nothing else. What shapes alone refuse takes none.
    refused : rows without figures, as far as shapes tell.
    peak_bytes : memory of the whole process: the two largest tensors, the table, and what the program takes already.
    """

    configs: int
    tensors: int
    values: int
    seconds: float
    peak_bytes: int
    refused: int = 0

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return self.configs * self.tensors

    @property
    def evaluations(self) -> int:
        """Values times configurations."""
        return self.configs * self.values


def estimate(configs: Sequence[QuantConfig], specs: Sequence[Any]) -> Estimate:
    """The estimate of a sweep over tensors of these specs (`TensorSpec`), after a calibration run of about a second."""
    return outlook(configs, specs, cache(timed), speedup())


def outlook(
    configs: Sequence[QuantConfig], specs: Sequence[Any], cost: Callable[[Kind], Cost], speedup: float
) -> Estimate:
    """The estimate, given what kinds of configurations cost: see `seconds`."""
    sizes = [math.prod(spec.shape) for spec in specs]
    parts = served(configs, specs)
    spent = sum(seconds(some, [math.prod(s.shape) for s in each], cost, speedup) for some, each in parts.items())
    rows = sum(len(some) * len(each) for some, each in parts.items())
    refused = len(configs) * len(specs) - rows
    return Estimate(len(configs), len(specs), sum(sizes), spent, peak_bytes(configs, specs), refused)


def seconds(
    configs: Sequence[QuantConfig], sizes: Sequence[int], cost: Callable[[Kind], Cost], speedup: float
) -> float:
    """Seconds that a sweep of tensors of these sizes takes, given what kinds of configurations cost.

    Parameters
    ----------
    cost : `timed`, or a cache of it.
    speedup : how many times as fast all threads are as one, on a tensor that is large enough for them.
    """
    costs = [(cost(kind), share) for kind, share in kinds(configs)]
    per_tensor = sum(found.per_tensor * share for found, share in costs)
    per_value = sum(found.per_value * share for found, share in costs)
    # A tensor is spread over the threads in pieces.
    return sum(per_tensor + size * per_value / min(speedup, max(1, size / PIECE)) for size in sizes)


def kinds(configs: Iterable[QuantConfig]) -> list[tuple[Kind, float]]:
    """Configurations that share their work, by representatives that take as long, and how many each stands for.

    Those of one granularity and one calibration share what is computed of the tensor, so they are timed together.
    """
    groups: dict[tuple[str, str], dict[str, int]] = {}
    for config in configs:
        found = representative(config)
        counts = groups.setdefault((found.granularity.slug, found.calibration.slug), {})
        counts[found.slug] = counts.get(found.slug, 0) + 1
    return [(tuple(sorted(counts)), sum(counts.values()) / len(counts)) for counts in groups.values()]


def representative(config: QuantConfig) -> QuantConfig:
    """A configuration that takes about as long: calibration and granularity matter, bits and mapping roughly."""
    if not DTYPES[config.dtype].configurable:
        return config
    granularity = config.granularity
    if isinstance(granularity, PerGroup):
        granularity = PerGroup(min(granularity.group_size, PROBES[-1][1]))
    if isinstance(granularity, PerChannel):
        granularity = PerChannel(0 if granularity.axis == 0 else -1)
    dtype = f"int{next(bits for bits in (4, 8, 16) if config.codec.bits <= bits)}"
    mapping = config.mapping if config.mapping == "symmetric" else "affine"
    try:
        return replace(config, granularity=granularity, dtype=dtype, mapping=mapping, scale_dtype="fp32")
    except ConfigError:  # a calibration that serves fewer bits only
        return replace(config, granularity=granularity)


def timed(kind: Kind) -> Cost:
    """What configurations cost together, measured on Gaussian values, in time of the processor.

    Not by the clock: a probe takes milliseconds, in which other programs' turns would count several times over.
    """
    configs = [QuantConfig.parse(slug) for slug in kind]
    _run(configs, *FIRST)
    measured = [(0, 0.0)]
    for rows, columns in PROBES:
        measured.append((rows * columns, _run(configs, rows, columns, workers=1, clock=time.thread_time)))
        if measured[-1][1] > ENOUGH:
            break
    (small, short), (large, long) = measured[-2:]
    per_value = max(long - short, 0.0) / (large - small)
    return Cost(max(short - small * per_value, 0.0), per_value)


def speedup() -> float:
    """How many times as fast all threads are as one, measured here and now; 1 for a single core, or a busy machine."""
    if pool.core_count() == 1:
        return 1.0
    configs, columns = [QuantConfig.parse(SPEEDUP_CONFIG)], PIECE // 64
    _run(configs, *FIRST)
    rows = 64 * pool.core_count()
    return max(1.0, _run(configs, rows, columns, workers=1) / _run(configs, rows, columns))


def _run(
    configs: Sequence[QuantConfig], rows: int, columns: int, workers: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:  # fmt: skip
    """Seconds of evaluating configurations on one tensor; what is refused at this shape is about as fast elsewhere."""
    x = np.random.default_rng(0).standard_normal((rows, columns), np.float32)
    with pool.limits(workers):  # one worker is this thread
        start = clock()
        tensor_rows("probe", x, x.nbytes, configs)
        return clock() - start


def peak_bytes(configs: Sequence[QuantConfig], specs: Sequence[Any]) -> int:
    """Memory that this process will have taken at most after a sweep: see `Estimate`."""
    largest = sorted((in_memory(spec) for spec in specs), reverse=True)[:2]
    copies = max((copy_bytes(configs, spec) for spec in specs), default=0)
    return resident_bytes() + sum(largest) + copies + len(configs) * len(specs) * ROW_BYTES


def copy_bytes(configs: Iterable[QuantConfig], spec: Any) -> int:
    """What has to be written out beside a tensor: its transpose, where a granularity needs that."""
    along = {config.granularity for config in configs if isinstance(config.granularity, PerChannel)}
    needed = any(-len(spec.shape) <= g.axis < len(spec.shape) and g.transposes(spec.shape) for g in along)
    return in_memory(spec) if needed else 0


def in_memory(spec: Any) -> int:
    """Bytes of a tensor in memory, in its own dtype: more than in its file where that is compressed."""
    try:
        return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
    except TypeError:  # a type that is listed and not read
        return int(spec.nbytes)


def roughly(seconds: float) -> str:
    """As `duration`, of what is only estimated: no more digits than an estimate has.

    >>> [roughly(seconds) for seconds in (0.04, 3.21, 43, 95, 500, 5300)]
    ['under 0.1 s', 'about 3 s', 'about 40 s', 'about 2 min', 'about 8 min', 'about 1.5 h']
    """
    if seconds < 0.95:
        return "under 0.1 s" if seconds < 0.1 else f"about {seconds:.1f} s"
    if seconds < 55:
        return f"about {seconds:.0f} s" if seconds < 9.5 else f"about {10 * round(seconds / 10)} s"
    minutes = max(1, round(seconds / 60))
    if minutes < 10:
        return f"about {minutes} min"
    return f"about {5 * round(seconds / 300)} min" if seconds < 57.5 * 60 else f"about {round(seconds / 1800) / 2:g} h"


def duration(seconds: float) -> str:
    """Seconds for a reader.

    >>> duration(0.04), duration(3.21), duration(75), duration(4000)
    ('under 0.1 s', '3.2 s', '1 min 15 s', '1 h 6 min')
    """
    if seconds < 0.1:
        return "under 0.1 s"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
