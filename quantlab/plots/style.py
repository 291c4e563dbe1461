"""What all figures share: colours, layout, and the options of the chart that shows them.

Figures have no background and no text colour of their own, so the page's theme, light or dark, shows through. The
colours are told apart by colour-blind readers (after Okabe and Ito) and reach a contrast of 3:1 on both themes.
"""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

BLUE, ORANGE, GREEN, PURPLE, OCHRE, GREY = PALETTE = ("#2b8cc4", "#cc6a1f", "#1a9e7c", "#b65aa5", "#9a7d1e", "#7c8894")
CLEAR = "rgba(0,0,0,0)"
RULE = "rgba(128,140,150,0.25)"  # lines of the grid: faint on light and on dark
HEIGHT = 360  # pixels

# Passed to whatever shows a figure. The first entry removes a button that would upload the data to a third party.
CONFIG: dict[str, Any] = {
    "showSendToCloud": False,
    "displaylogo": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
    "toImageButtonOptions": {"format": "svg", "filename": "quantlab"},
}


def faded(color: str, opacity: float) -> str:
    """A colour `#rrggbb` with an opacity from 0 to 1, as Plotly writes it.

    >>> faded("#2b8cc4", 0.5)
    'rgba(43,140,196,0.5)'
    """
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def figure(traces: Sequence[Any], x: str, y: str, height: int = HEIGHT, **layout: Any) -> go.Figure:
    """A figure in the shared layout; `x` and `y` are the axes' titles, with the unit. `layout` overrides anything."""
    axis = {"gridcolor": RULE, "zerolinecolor": RULE, "automargin": True, "title": {"standoff": 18}}
    fig = go.Figure(traces)
    fig.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        paper_bgcolor=CLEAR,
        plot_bgcolor=CLEAR,
        colorway=PALETTE,
        hovermode="closest",
        # On a clear background the toolbar would take black for its own.
        modebar={"bgcolor": CLEAR, "color": GREY},
        # Above the plot, so that it takes no width on a narrow screen.
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "xanchor": "left", "x": 0, "title": None},
        xaxis=axis,
        yaxis=axis,
    )
    fig.update_xaxes(title_text=x)
    fig.update_yaxes(title_text=y)
    return fig.update_layout(**layout)
