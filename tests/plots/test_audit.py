"""The figure of an audit: a point where each tensor is, a line to what dominates it, and no name that is HTML."""

import math

import numpy as np
import pandas as pd

from quantlab.planning.auditing import COLUMNS
from quantlab.plots.audit import CLOUD, figures_of, scatter


def row(tensor, verdict, bits, sqnr, **more):
    blank = dict.fromkeys(COLUMNS, math.nan) | {"better": "", "layout": "q4_0", "nbytes": 100}
    return {**blank, "tensor": tensor, "verdict": verdict, "bits_per_weight": bits, "sqnr_db": sqnr, **more}


FRAME = pd.DataFrame(
    [
        row("a<b>", "dominated", 8.0, 20.0, better="q5_0", better_nbytes=75, better_sqnr_db=26.0),
        row("c", "not dominated", 4.5, 21.0),
        row("d", "identical", 32.0, math.inf),
        row("e", "broken", 8.0, math.nan),
        row("f", "compared", 16.0, math.inf),
    ]
)
RIVALS = pd.DataFrame(
    [{"tensor": "a<b>", "config": "q5_0", "bits_per_weight": 6.0, "sqnr_db": 26.0, "nbytes": 75}] * (CLOUD + 1)
)


def test_every_tensor_with_an_error_is_a_point_and_what_is_dominated_has_a_line():
    assert figures_of(FRAME)["tensor"].tolist() == ["a<b>", "c"]
    traces = {trace.name: trace for trace in scatter(FRAME, RIVALS).data}
    assert list(traces["dominated"].x) == [8.0] and list(traces["dominated"].y) == [20.0]
    assert traces["dominated"].customdata.tolist() == [["a<b>"]]
    assert list(traces["not dominated"].y) == [21.0]
    line = traces[None]
    assert (list(line.x), list(line.y)) == ([8.0, 6.0, None], [20.0, 26.0, None])
    assert "<b>a&lt;b&gt;</b>" in traces["dominated"].text[0] and "q5_0: 26.00 dB in 75" in traces["dominated"].text[0]


def test_a_cloud_of_many_is_thinned_and_one_of_none_is_left_out():
    cloud = next(trace for trace in scatter(FRAME, RIVALS).data if trace.name == "measured on the source")
    assert 0 < len(cloud.x) <= CLOUD and "a&lt;b&gt;" in cloud.text[0]
    names = [trace.name for trace in scatter(FRAME, RIVALS.iloc[:0]).data]
    assert "measured on the source" not in names


def test_what_dominates_without_any_loss_has_no_line_to_infinity():
    frame = pd.DataFrame([row("a", "dominated", 32.0, 90.0, better="fp16", better_nbytes=50, better_sqnr_db=np.inf)])
    line = next(trace for trace in scatter(frame, RIVALS.iloc[:0]).data if trace.name is None)
    assert math.isnan(line.y[1])
