"""What a sweep will take on this computer, told before it is run, and refused where it is too much."""

from collections.abc import Sequence

import streamlit as st

from quantlab.core.config import QuantConfig
from quantlab.errors import LimitError
from quantlab.formats import TensorSpec
from quantlab.sweeping.estimate import Cost, Estimate, Kind, peak_bytes, roughly, seconds, speedup, timed
from quantlab.sweeping.sweep import check_grid
from quantlab.ui import text
from quantlab.wording import counted


def check(configs: Sequence[QuantConfig], specs: Sequence[TensorSpec]) -> None:
    """LimitError, with the number and the way out, if a sweep of this is more than the library allows."""
    try:
        check_grid(len(configs), [spec.size for spec in specs])
    except LimitError as error:
        number = str(error).partition(": ")[0]
        raise LimitError(
            f"{number}: choose fewer configurations or tensors, or sweep on the command line, where --max-rows and "
            "--max-evaluations raise the limits"
        ) from error


def estimate(configs: Sequence[QuantConfig], specs: Sequence[TensorSpec]) -> Estimate:
    """As `quantlab.sweeping.estimate.estimate`; what was timed once on this server is not timed again."""
    sizes = [spec.size for spec in specs]
    spent = seconds(configs, sizes, _cost, _speedup())
    return Estimate(len(configs), len(specs), sum(sizes), spent, peak_bytes(configs, specs))


def told(configs: Sequence[QuantConfig], specs: Sequence[TensorSpec]) -> str:
    """What a sweep amounts to, in a line: its size, its evaluations, the time and the memory."""
    found = estimate(configs, specs)
    return (
        f"**{counted(found.configs, 'configuration')}** × {counted(found.tensors, 'tensor')} of "
        f"{text.count(found.values)} weights = {text.count(found.evaluations)} evaluations, "
        f"**{roughly(found.seconds)}** on this computer. The server then holds at most "
        f"{text.size(found.peak_bytes)} of memory."
    )


@st.cache_resource(max_entries=1024, show_spinner="Timing configurations of each kind …")
def _cost(kind: Kind) -> Cost:
    return timed(kind)


@st.cache_resource(show_spinner=False)
def _speedup() -> float:
    return speedup()
