"""A sweep as a job, and how long one will take on this machine."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import streamlit as st

from quantlab.config import QuantConfig
from quantlab.dtypes import DTYPES
from quantlab.errors import ConfigError, QuantlabError
from quantlab.formats import Checkpoint, TensorSpec
from quantlab.granularity import PerChannel, PerGroup
from quantlab.metrics import evaluate
from quantlab.sweep import sweep
from quantlab.ui import jobs, text
from quantlab.ui.cache import Key

PUBLISH_SECONDS = 0.4
PROBES = ((16, 256), (64, 2048))  # two shapes tell the cost per call from the cost per value


@dataclass(frozen=True, eq=False)
class Results:
    """A sweep's table so far, of which file, and what was refused: {"tensor", "config", "reason"} each."""

    key: Key
    frame: pd.DataFrame
    refused: list[dict[str, str]]
    tensors: int  # asked for

    @property
    def complete(self) -> bool:
        """Whether every tensor asked for is in the table."""
        return self.frame["tensor"].nunique() == self.tensors


def start(checkpoint: Checkpoint, key: Key, configs: Sequence[QuantConfig], tensors: Sequence[str]) -> jobs.Job:
    """Sweep `configs` over `tensors` as a job, whose result and partial result are `Results`."""
    if not configs or not tensors:
        raise ConfigError("a sweep needs at least one configuration and one tensor: choose some above")
    label = f"{counted(len(configs), 'configuration')} × {counted(len(tensors), 'tensor')}"
    return jobs.start(
        "sweep", label, lambda progress, cancel: _run(checkpoint, key, configs, tensors, progress, cancel)
    )


@dataclass(frozen=True)
class _One:
    """One tensor of a checkpoint, as a source of its own: a sweep looks its names up among all that a source has."""

    names: list[str]
    raw: Callable[[str], np.ndarray]
    spec: Callable[[str], TensorSpec]


def _run(
    checkpoint: Checkpoint, key: Key, configs: Sequence[QuantConfig], tensors: Sequence[str],
    progress: jobs.Progress, cancel: Callable[[], bool],
) -> Results:  # fmt: skip
    """Tensor by tensor, so that there are whole rows to show before the end. Done is counted in weights."""
    frames: list[pd.DataFrame] = []
    before, whole = 0, sum(checkpoint.spec(name).size for name in tensors)
    published = time.monotonic()

    def results() -> Results:
        refused = [entry for frame in frames for entry in frame.attrs["refused"]]
        return Results(key, pd.concat(frames, ignore_index=True), refused, len(tensors))

    try:
        for name in tensors:
            size = checkpoint.spec(name).size

            def report(done: int, total: int, at: str, before: int = before, size: int = size) -> None:
                progress(before + size * done / total, whole, at)

            frames.append(
                sweep(_One([name], checkpoint.raw, checkpoint.spec), configs, on_progress=report, cancel=cancel)
            )
            before += size
            # Not after each of ten thousand tensors: putting the table together takes longer the longer it is.
            if time.monotonic() - published > PUBLISH_SECONDS:
                progress.publish(results())
                published = time.monotonic()
    finally:
        if frames:
            progress.publish(results())
    return results()


def counted(count: int, noun: str) -> str:
    """`1 tensor`, `1,200 tensors`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def estimate(configs: Sequence[QuantConfig], sizes: Sequence[int]) -> float:
    """Seconds that a sweep of these configurations over tensors of these sizes takes about."""
    costs = [
        _cost(_representative(config).slug if DTYPES[config.dtype].configurable else config.slug) for config in configs
    ]
    per_call, per_value = (sum(cost[i] for cost in costs) for i in (0, 1))
    return len(sizes) * per_call + sum(sizes) * per_value


def estimate_text(configs: Sequence[QuantConfig], sizes: Sequence[int]) -> str:
    """What a sweep amounts to, in a line: its size, its evaluations, and the time."""
    values = sum(sizes) * len(configs)
    return (
        f"**{counted(len(configs), 'configuration')}** × {counted(len(sizes), 'tensor')} of {text.count(sum(sizes))} "
        f"weights = {text.count(values)} evaluations, "
        f"**about {jobs.duration(estimate(configs, sizes))}** on this computer"
    )


def _representative(config: QuantConfig) -> QuantConfig:
    """A configuration that takes about as long: calibration and cut matter, bits and mapping roughly."""
    granularity = config.granularity
    if isinstance(granularity, PerGroup):
        granularity = PerGroup(min(granularity.group_size, PROBES[1][1]))
    if isinstance(granularity, PerChannel):
        granularity = PerChannel(0 if granularity.axis == 0 else -1)
    dtype = f"int{next(bits for bits in (4, 8, 16) if config.codec.bits <= bits)}"
    mapping = config.mapping if config.mapping == "symmetric" else "affine"
    try:
        return replace(config, granularity=granularity, dtype=dtype, mapping=mapping, scale_dtype="fp32")
    except ConfigError:  # a calibration that serves fewer bits only
        return replace(config, granularity=granularity)


@st.cache_resource(max_entries=1024, show_spinner="Timing one configuration of each kind …")
def _cost(slug: str) -> tuple[float, float]:
    """(seconds per call, seconds per value), measured here and now on Gaussian values."""
    config = QuantConfig.parse(slug)
    _seconds(*PROBES[0], config)  # the first call may compile
    (small, short), (large, long) = [(rows * columns, _seconds(rows, columns, config)) for rows, columns in PROBES]
    per_value = max(long - short, 0.0) / (large - small)
    return max(short - small * per_value, 0.0), per_value


def _seconds(rows: int, columns: int, config: QuantConfig) -> float:
    x = np.random.default_rng(0).standard_normal((rows, columns), np.float32)
    try:
        start = time.perf_counter()
        evaluate(x, config)
    except QuantlabError:  # refused at this shape, and so about as fast elsewhere
        return 0.0
    return time.perf_counter() - start
