"""Figures of a few configurations side by side. A configuration has the same colour in all of them."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from ..core.tensor import QuantizedTensor
from .style import GREY, OCHRE, PALETTE, faded, figure

DRAWN_CHANNELS = 128  # more, in the tensor's order, would be a band in which no line is seen
SORTED_CHANNELS = 1024
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


def channel_errors(errors: Mapping[str, np.ndarray], axis: int, ordered: bool = False) -> go.Figure:
    """Root mean squared error of every channel along an axis, by configuration (float64 [channels] each).

    In the tensor's order the worst of every few neighbours is drawn where there are more than DRAWN_CHANNELS. `ordered`
    puts each configuration's worst channels first instead, so that its line falls and lines can be told apart.
    """
    draw = _sorted_errors if ordered else _errors_in_place
    fig = figure(
        [draw(slug, values, color(i)) for i, (slug, values) in enumerate(errors.items())],
        _channels_title(max((len(values) for values in errors.values()), default=0), axis, ordered),
        "RMS error, in units of the weights", height=400,
    )  # fmt: skip
    return fig.update_yaxes(rangemode="tozero")


def _channels_title(count: int, axis: int, ordered: bool) -> str:
    if ordered:
        return f"Channels along axis {axis}, each configuration’s worst first"
    step = -(-count // DRAWN_CHANNELS)
    return f"Channel along axis {axis}{f' (the worst of every {step})' if step > 1 else ''}"


def _sorted_errors(slug: str, values: np.ndarray, line: str) -> go.Scatter:
    order = np.argsort(-values, kind="stable")
    # All of the worst, where the line is steep, and evenly many of the others.
    drawn = np.unique(
        np.append(np.arange(min(64, order.size)), np.linspace(0, order.size - 1, SORTED_CHANNELS).astype(int))
    )
    return go.Scatter(
        x=drawn + 1,
        y=values[order[drawn]],
        name=slug,
        mode="lines" if order.size > 1 else "markers",
        line={"width": 1.8, "color": line},
        customdata=order[drawn],
        hovertemplate=f"<b>{slug}</b><br>channel %{{customdata}}: %{{y:.3g}}<extra></extra>",
    )


def _errors_in_place(slug: str, values: np.ndarray, line: str) -> go.Scatter:
    places = np.arange(0, values.size, max(1, -(-values.size // DRAWN_CHANNELS)))
    return go.Scatter(
        x=places,
        y=np.maximum.reduceat(values, places),
        name=slug,
        mode="lines" if values.size > 1 else "markers",
        line={"shape": "hv", "width": 1.5, "color": line},
        hovertemplate=f"<b>{slug}</b><br>channel %{{x}}: %{{y:.3g}}<extra></extra>",
    )


def original_and_decoded(
    x: np.ndarray, decoded: np.ndarray, index: int = 0, within: tuple[float, float] | None = None
) -> go.Figure:
    """Decoded values over original ones (float32 [n] each, a sample), with the diagonal on which nothing is lost.

    `within` are the original values that the axes show at first; None for all.
    """
    low, high = within or (float(min(x.min(), decoded.min())), float(max(x.max(), decoded.max())))
    fig = figure(
        [_line([low, high], [low, high]), _sample(x, decoded, "decoded", index)], "Original", "Decoded", height=300
    )
    if within:
        margin = 0.05 * (high - low)
        fig.update_xaxes(range=[low - margin, high + margin]).update_yaxes(range=[low - margin, high + margin])
    return fig


def error_over_original(
    x: np.ndarray, decoded: np.ndarray, index: int = 0, within: tuple[float, float] | None = None, limit: float = 0.0
) -> go.Figure:
    """Errors, original - decoded, over original values (float32 [n] each, a sample), with the line of none.

    `within` are the original values that the axis shows at first; None for all. `limit` is where the errors' axis ends,
    so that several figures can be compared; 0 for the largest error shown.
    """
    low, high = within or (float(x.min()), float(x.max()))
    error = x.astype(np.float64) - decoded
    fig = figure(
        [_line([low, high], [0, 0]), _sample(x, error, "error", index)], "Original", "Original − decoded", height=300
    )
    reach = 1.08 * (limit or largest_error(x, decoded, within)) or 1.0
    margin = 0.05 * (high - low) or 1.0
    return fig.update_xaxes(range=[low - margin, high + margin]).update_yaxes(range=[-reach, reach])


def largest_error(x: np.ndarray, decoded: np.ndarray, within: tuple[float, float] | None = None) -> float:
    """The largest error of a sample's values that lie `within`."""
    low, high = within or (-np.inf, np.inf)
    here = (x >= low) & (x <= high)
    return float(np.abs(x[here].astype(np.float64) - decoded[here]).max()) if here.any() else 0.0


def _line(x: list[float], y: list[float]) -> go.Scatter:
    return go.Scatter(x=x, y=y, mode="lines", line={"color": GREY, "width": 1}, showlegend=False, hoverinfo="skip")


def _sample(x: np.ndarray, y: np.ndarray, word: str, index: int) -> go.Scattergl:
    return go.Scattergl(
        x=x, y=y, mode="markers", marker={"size": 4, "color": faded(color(index), 0.65)}, showlegend=False,
        hovertemplate=f"original %{{x:.4g}}<br>{word} %{{y:.4g}}<extra></extra>",
    )  # fmt: skip


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
