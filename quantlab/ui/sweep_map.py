"""The map of a whole checkpoint: every tensor under every configuration, also while a sweep fills it.

Drawn by a component of our own (sweep_map.js): a chart of Streamlit's is taken out of the page and put back whenever
its figures change, twice a second while a sweep runs.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from quantlab.plots import damage
from quantlab.plots.damage import AS_IN_FILE, MEAN, Figures
from quantlab.plots.scales import better, title
from quantlab.ui import kinds, text, widgets
from quantlab.ui.opening import matching
from quantlab.wording import counted

ROWS = 60  # tensors on a page of the map: more than a screen, and few enough to be sent twice a second
COLUMNS = 150
BY_KIND = "kind of layer, then depth"
ORDERS = {AS_IN_FILE: "in the order of the file", BY_KIND: "layers of a kind together, from the first to the last"}
Clicked = tuple[str | None, str | None]  # configuration, tensor
LETTERS = (26, 30, 37, 44)  # of a name, as there is room: sweep_map.js takes the longest that fits

_HERE = Path(__file__).parent
_FRAME = (
    '<div class="map"><div class="legend"></div><div class="scroll" tabindex="0" role="group" '
    'aria-label="Damage map: arrow keys move, Enter opens Compare"><table></table></div>'
    '<div class="tip" hidden></div></div>'
)
_component = st.components.v2.component(
    "quantlab_sweep_map",
    html=_FRAME,
    css=(_HERE / "sweep_map.css").read_text(encoding="utf-8"),
    js=(_HERE / "sweep_map.js").read_text(encoding="utf-8"),
)


def draw(found: Figures, configs: Sequence[str], metric: Callable[[Any], str]) -> Clicked | None:
    """The map with its filter, order and pages; (configuration, tensor) of the cell that was clicked, if one was.

    One of them is None where a head was clicked, of a column or of a row.

    `metric(place)` says which is drawn; it may draw a field in `place` to ask.
    """
    configs = damage.in_order(configs)
    fields = st.container(horizontal=True, vertical_alignment="bottom")
    name = metric(fields)
    with fields:
        wanted = st.text_input(
            "Tensors like", key="like", bind="query-params", placeholder="*.weight", width=200,
            help="A part of a name, or a pattern: `*` stands for any text, `?` for one character.",
        )  # fmt: skip
        orders = [MEAN, *configs, BY_KIND, AS_IN_FILE]
        widgets.heed("worst-by", orders)
        by = st.selectbox(
            "Worst first by", orders, key="worst-by", bind="query-params", width=260,
            help="Which damage decides the order of the tensors. Or not by damage: layers of a kind together, from the "
            "first to the last, show what changes along the depth of the model.",
        )  # fmt: skip
    tensors = matching(found.names, wanted)
    if not tensors:
        st.info(f"No tensor is called like {text.plain(wanted)}.", icon=":material/search_off:")
        return None
    ordered = kinds.by_depth(tensors) if by == BY_KIND else damage.worst_first(found, name, tensors, configs, by)
    with fields:
        rows = _page(len(ordered))
    shown = damage.damage_map(found, name, ordered, configs[:COLUMNS], rows)
    clicked = _clicked(shown, _component(key="map", data=data(shown), on_cell_change=lambda: None).get("cell"))
    _say(len(found.names), len(ordered), rows, len(configs), name, by)
    return clicked


def data(shown: damage.DamageMap) -> dict[str, Any]:
    """What sweep_map.js draws."""
    return {
        "title": title(shown.metric),
        "tensors": shown.tensors,
        "labels": {limit: text.labels(shown.tensors, limit) for limit in LETTERS},
        "heads": [text.shortened(slug.partition("-")[2].replace("-", " "), 30) for slug in shown.configs],
        "configs": shown.configs,
        "cells": shown.cells,
        "texts": shown.texts,
        "details": shown.details,
        "ends": shown.ends,
        "states": sorted(shown.states),
    }


def _page(count: int) -> slice:
    """Which of `count` tensors are drawn; there is something to choose where one page does not hold them."""
    pages = -(-count // ROWS)
    if pages == 1:
        return slice(0, count)
    page = st.pagination(pages, key="map-page") or 1
    return slice(ROWS * (page - 1), min(ROWS * page, count))


def _say(of: int, count: int, rows: slice, configs: int, metric: str, by: str) -> None:
    """What is drawn, what is not, and how to read it."""
    which = counted(count, "tensor") + (f" of {of:,}" if count < of else "")
    if rows.stop - rows.start < count:
        which = f"Tensors {rows.start + 1:,} to {rows.stop:,} of {count:,}, the others on the other pages"
    order = ORDERS.get(by) or f"the most damaged on top, by {text.plain(by)}"
    beyond = f" Only {COLUMNS} of {configs:,} configurations are drawn: filter for others." * (configs > COLUMNS)
    st.caption(
        f"{which}; {order}.{beyond} {title(metric)}, {better(metric)}: stronger colours are worse. "
        "A click on a cell opens it in Compare, on a configuration all tensors under it, on a name Inspect."
    )


def _clicked(shown: damage.DamageMap, cell: Any) -> Clicked | None:
    """The cell or head that the browser names, if it is drawn: what a browser sends is not to be trusted."""
    if not isinstance(cell, dict):
        return None
    config, tensor = cell.get("config"), cell.get("tensor")
    if (config, tensor) == (None, None) or config not in [None, *shown.configs] or tensor not in [None, *shown.tensors]:
        return None
    return config, tensor
