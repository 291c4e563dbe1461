"""What a sweep will take on this computer, told before it is run, and refused where it is too much."""

from collections.abc import Sequence

import streamlit as st

from quantlab.core.config import QuantConfig
from quantlab.errors import LimitError
from quantlab.formats import TensorSpec
from quantlab.sweeping.estimate import Cost, Estimate, Kind, outlook, roughly, speedup, timed
from quantlab.sweeping.refusals import foretold
from quantlab.sweeping.sweep import check_grid
from quantlab.ui import text
from quantlab.wording import counted

REASONS = 10  # that are spelled out


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
    return outlook(configs, specs, _cost, _speedup())


def told(configs: Sequence[QuantConfig], specs: Sequence[TensorSpec]) -> str:
    """What a sweep amounts to: its size, its evaluations, the time and the memory, and what it will refuse."""
    found = estimate(configs, specs)
    size = (
        f"**{counted(found.configs, 'configuration')}** × {counted(found.tensors, 'tensor')} of "
        f"{text.count(found.values)} weights = {text.count(found.evaluations)} evaluations, "
        f"**{roughly(found.seconds)}** on this computer, longer where it has other work. The server then holds at most "
        f"{text.size(found.peak_bytes)} of memory."
    )
    if not found.refused:
        return size
    reasons = [text.sentence(sentence) for sentence in foretold(configs, specs)]
    return (
        f"{size}\n\n**{found.refused:,} of {counted(found.rows, 'row')} will have no figures**, as shapes alone tell, "
        "and a configuration that refuses some tensors is in none of the views of all:\n\n"
        + "\n".join(f"- {reason}" for reason in reasons[:REASONS])
    )


@st.cache_resource(max_entries=1024, show_spinner="Timing configurations of each kind …")
def _cost(kind: Kind) -> Cost:
    return timed(kind)


@st.cache_resource(show_spinner=False)
def _speedup() -> float:
    return speedup()
