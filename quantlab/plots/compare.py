"""Figures of a few configurations side by side. A configuration has the same colour in all of them."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from ..core.tensor import QuantizedTensor
from .style import GREY, OCHRE, PALETTE, faded, figure

DRAWN_CHANNELS = 1024
DRAWN_CODES = 256
PIECE = 1 << 20  # codes counted at a time
PART_NAMES = {"packed": "codes", "scale": "scales", "zero_point": "zero points", "offset": "offsets"}
# None of the colours that stand for configurations.
PART_COLORS = {"packed": GREY, "scale": OCHRE, "zero_point": faded(OCHRE, 0.55), "offset": faded(OCHRE, 0.55)}

Histogram = tuple[np.ndarray, np.ndarray]  # edges float64 [bins + 1], counts int64 [bins]


def color(index: int) -> str:
    """The colour of the configuration at a place in the comparison."""
    return PALETTE[index % len(PALETTE)]


def error_histograms(histograms: Mapping[str, Histogram], log: bool = False) -> go.Figure:
    """Overlaid histograms of e = original - decoded, by configuration; each as a share of its tensor's weights."""
    traces = [
        go.Scatter(
            x=edges,
            # A step holds from one edge to the next, so the last count is written twice.
            y=100 * np.append(counts, counts[-1:]) / max(counts.sum(), 1),
            name=slug,
            mode="lines",
            line={"shape": "hv", "color": color(i), "width": 1.5},
            fill="tozeroy",
            fillcolor=faded(color(i), 0.12),
            hovertemplate=f"<b>{slug}</b><br>error %{{x:.3g}}: %{{y:.3g}} % of weights<extra></extra>",
        )
        for i, (slug, (edges, counts)) in enumerate(histograms.items())
    ]
    fig = figure(traces, "Error of a weight, original − decoded", "Share of weights per bin (%)", height=400)
    if log:
        lowest = min((100 / counts.sum() for _, counts in histograms.values() if counts.sum()), default=1e-4)
        fig.update_yaxes(type="log", range=[np.log10(lowest) - 0.3, 2.1], tickformat="~g", dtick=1)
    return fig


def code_usage(q: QuantizedTensor, index: int = 0) -> go.Figure:
    """How often each code of a quantized tensor occurs; of more than DRAWN_CODES codes, neighbours are added up."""
    codes, counts = code_counts(q)
    width = -(-codes.size // DRAWN_CODES)
    pad = -codes.size % width
    drawn = np.append(counts, np.zeros(pad, counts.dtype)).reshape(-1, width).sum(axis=1)
    trace = go.Bar(
        x=codes[::width] + (width - 1) / 2,
        y=100 * drawn / max(counts.sum(), 1),
        marker={"color": color(index), "line": {"width": 0}},
        hovertemplate="code %{x}: %{y:.3g} % of weights<extra></extra>",
        showlegend=False,
    )
    of = f", {width} to a bar" if width > 1 else ""
    return figure([trace], f"Code{of}", "Share of weights (%)", height=230, bargap=0 if codes.size > 32 else 0.12)


def code_counts(q: QuantizedTensor) -> tuple[np.ndarray, np.ndarray]:
    """Every code that the format has, ascending, and how often the tensor uses it: int64 [levels] each.

    The codes of a float format are its bit patterns, as unsigned integers.
    """
    codes, bits = q.codes.reshape(-1), q.config.codec.bits
    low = -(2 ** (bits - 1)) if codes.dtype.kind == "i" else 0
    counts = np.zeros(2**bits, np.int64)
    # In pieces: bincount wants 8-byte integers, which for a whole tensor would be far more than its codes.
    for start in range(0, codes.size, PIECE):
        counts += np.bincount(codes[start : start + PIECE].astype(np.int64) - low, minlength=2**bits)
    return np.arange(low, low + 2**bits), counts


def code_entropy(counts: np.ndarray) -> float:
    """Bits per code that an ideal entropy coder would need: -sum p log2 p."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum()) + 0.0


def channel_errors(errors: Mapping[str, np.ndarray], axis: int) -> go.Figure:
    """Root mean squared error of every channel along an axis, by configuration (float64 [channels] each).

    Of more than DRAWN_CHANNELS channels, the worst of every few neighbours is drawn.
    """
    count = max((len(values) for values in errors.values()), default=0)
    step = max(1, -(-count // DRAWN_CHANNELS))
    traces = [
        go.Scatter(
            x=np.arange(0, count, step),
            y=np.maximum.reduceat(values, np.arange(0, count, step)),
            name=slug,
            mode="lines" if count > 1 else "markers",
            line={"shape": "hvh", "width": 1.2, "color": color(i)},
            hovertemplate=f"<b>{slug}</b><br>channel %{{x}}: %{{y:.3g}}<extra></extra>",
        )
        for i, (slug, values) in enumerate(errors.items())
    ]
    of = f" (the worst of every {step})" if step > 1 else ""
    fig = figure(traces, f"Channel along axis {axis}{of}", "RMS error, in units of the weights", height=400)
    return fig.update_yaxes(rangemode="tozero")


def original_and_decoded(x: np.ndarray, decoded: np.ndarray, index: int = 0) -> go.Figure:
    """Decoded values over original ones (float32 [n] each, a sample), with the diagonal on which nothing is lost."""
    ends = [float(min(x.min(), decoded.min())), float(max(x.max(), decoded.max()))]
    traces = [
        go.Scatter(x=ends, y=ends, mode="lines", line={"color": GREY, "width": 1}, showlegend=False, hoverinfo="skip"),
        go.Scattergl(
            x=x, y=decoded, mode="markers", marker={"size": 4, "color": faded(color(index), 0.65)}, showlegend=False,
            hovertemplate="original %{x:.4g}<br>decoded %{y:.4g}<extra></extra>",
        ),
    ]  # fmt: skip
    return figure(traces, "Original", "Decoded", height=300)


def byte_split(parts: Mapping[str, Mapping[str, int]]) -> go.Figure:
    """Bytes of every part (`packed`, `scale`, `zero_point`, `offset`) of every configuration, stacked."""
    slugs = list(parts)
    names = [name for name in PART_NAMES if any(name in of for of in parts.values())]
    traces = [
        go.Bar(
            y=slugs,
            x=[parts[slug].get(name, 0) for slug in slugs],
            name=PART_NAMES[name],
            orientation="h",
            marker={"color": PART_COLORS[name]},
            textangle=0,
            text=[_share(parts[slug], name) for slug in slugs],
            textposition="inside",
            insidetextanchor="middle",
            hovertemplate=f"%{{y}}<br>{PART_NAMES[name]}: %{{x:,}} bytes<extra></extra>",
        )
        for name in names
    ]
    fig = figure(traces, "Bytes", "", barmode="stack", bargap=0.35, height=52 * len(slugs) + 110)
    # A share that does not fit into its piece is left to the hover and the table.
    fig.update_layout(legend_traceorder="normal", uniformtext={"minsize": 10, "mode": "hide"})
    return fig.update_yaxes(type="category", autorange="reversed", title_text=None, showgrid=False)


def _share(parts: Mapping[str, int], name: str) -> str:
    share = parts.get(name, 0) / max(sum(parts.values()), 1)
    return f"{100 * share:.1f} %" if share >= 0.05 else ""
