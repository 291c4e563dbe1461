"""The map of a whole checkpoint: every tensor under every configuration, also while a sweep fills it.

Drawn by a component of our own (sweep_map.js): a chart of Streamlit's is taken out of the page and put back whenever
its figures change, twice a second while a sweep runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from quantlab.plots import damage
from quantlab.plots.damage import AS_IN_FILE, MEAN, Figures
from quantlab.plots.scales import better, title
from quantlab.sweeping.tables import TOTAL
from quantlab.ui import kinds, pinning, state, sweep_depth, text, widgets
from quantlab.ui.opening import matching
from quantlab.wording import counted

ROWS = 60  # tensors on a page of the map: more than a screen, and few enough to be sent twice a second
COLUMNS = 150
BY_KIND = "kind of layer, then depth"
ORDERS = {AS_IN_FILE: "in the order of the file", BY_KIND: "layers of a kind together, from the first to the last"}
ARRANGED = TENSORS, MODEL = ("By tensor", "By layer")
CLICKS = COMPARE, PIN = ("Opens it", "Pins it")
CLICK = (
    "A click on a cell opens it in Compare, on a configuration all tensors under it, on a name Inspect.",
    "A click on a cell pins the tensor to it for the plan, or lets it go; on a configuration all tensors.",
)
CLICK_MODEL = (
    "A click on a cell opens it in Compare, on a role all tensors of it.",
    "A click pins a cell to the configuration for the plan, or lets it go; on a role or a number, all of them.",
)
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


@dataclass(frozen=True)
class Clicked:
    """What of the map was clicked: a cell, or a head of it, whose other coordinate is "".

    tensors : that it stands for: of a configuration all that are listed, of a tensor's name with "" as `config` one.
    where : over what Compare opens it: a tensor, a glob of a kind, or TOTAL.
    pin : whether a click pins for the plan, and does not open anything.
    """

    tensors: tuple[str, ...]
    config: str
    where: str = TOTAL
    pin: bool = False


def draw(found: Figures, configs: Sequence[str], metric: Callable[[Any], str], pins: bool = True) -> Clicked | None:
    """The map with its filter, order and pages; what was clicked, if something was.

    `metric(place)` says which is drawn; it may draw a field in `place` to ask. Without `pins` none can be set.
    """
    configs = damage.in_order(configs)
    fields = st.container(horizontal=True, vertical_alignment="bottom")
    name = metric(fields)
    with fields:
        arranged = _choice("Map", "arranged", ARRANGED, "Every tensor under every configuration, or under one in the "
            "order of the model: what tensors do, from layer to layer.")  # fmt: skip
        wanted = st.text_input(
            "Tensors like", key="like", bind="query-params", placeholder="*.weight", width=160,
            help="A part of a name, or a pattern: `*` stands for any text, `?` for one character.",
        )  # fmt: skip
        by = _order(configs) if arranged == TENSORS else _config(configs)
        pin = pins and _choice("A click", "click", CLICKS, "Opens what is clicked, or pins it: a plan then gives the "
            "tensor that configuration whatever is best.") == PIN  # fmt: skip
    tensors = matching(found.names, wanted)
    if not tensors:
        st.info(f"No tensor is called like {text.plain(wanted)}.", icon=":material/search_off:")
        return None
    given = pinning.given(state.current().pins, tensors)
    if arranged == MODEL:
        return _draw_model(found, name, tensors, by, given, fields, pin)
    ordered = kinds.by_depth(tensors) if by == BY_KIND else damage.worst_first(found, name, tensors, configs, by)
    with fields:
        rows = _page(len(ordered))
    shown = damage.damage_map(found, name, ordered, configs[:COLUMNS], rows)
    cell = _cell(data(shown, given))
    _say(len(found.names), len(ordered), rows, len(configs), name, by, pin)
    return _clicked(shown, cell, ordered, pin)


def data(shown: damage.DamageMap, given: Mapping[str, str] = {}) -> dict[str, Any]:
    """What sweep_map.js draws, of tensors x configurations; `given` is what tensors are pinned to."""
    return _told(shown) | _labelled(shown.tensors) | {
        "columns": shown.configs,
        "groups": [slug.partition("-")[0] for slug in shown.configs],
        "heads": [text.shortened(slug.partition("-")[2].replace("-", " "), 30) for slug in shown.configs],
        "cells": shown.cells,
        "texts": shown.texts,
        "details": shown.details,
        "pinned": [[given.get(name) == slug for slug in shown.configs] for name in shown.tensors],
    }  # fmt: skip


def _draw_model(
    found: Figures, metric: str, tensors: list[str], slug: str, given: Mapping[str, str], fields: Any, pin: bool
) -> Clicked | None:
    """The map of one configuration in the order of the model."""
    model = sweep_depth.arranged(tensors)
    with fields:
        rows = _page(len(model.rows))
    columns = slice(0, COLUMNS)
    worst = model.first_of_cells(damage.worst_first(found, metric, tensors, [slug], slug))
    # Colours are of the scale of all; what is drawn of many experts is one of each layer.
    every = list(dict.fromkeys([*worst, *tensors]))
    shown = damage.damage_map(found, metric, every, [slug], slice(0, len(worst)))
    drawn = _told(shown) | sweep_depth.data(model, shown, given, rows, columns)
    cell = _cell(drawn | _labelled(drawn["rows"]))
    beyond = f" Only the first {COLUMNS} of {len(model.columns):,} are drawn." * (len(model.columns) > COLUMNS)
    st.caption(
        f"{counted(len(tensors), 'tensor')} as {text.plain(slug)}, by what they do and the number of their layer."
        f"{beyond} {title(metric)}, {better(metric)}: stronger colours are worse. {CLICK_MODEL[pin]}"
    )
    return _clicked_model(model, cell, slug, pin)


def _choice(label: str, key: str, options: tuple[str, ...], help: str) -> str:
    widgets.heed(key, options)
    return st.segmented_control(
        label, options, default=options[0], required=True, key=key, bind="query-params", help=help
    )  # fmt: skip


def _order(configs: Sequence[str]) -> str:
    orders = [MEAN, *configs, BY_KIND, AS_IN_FILE]
    widgets.heed("worst-by", orders)
    return st.selectbox(
        "Worst first by", orders, key="worst-by", bind="query-params", width=260,
        help="Which damage decides the order of the tensors. Or not by damage: layers of a kind together, from the "
        "first to the last, show what changes along the depth of the model.",
    )  # fmt: skip


def _config(configs: Sequence[str]) -> str:
    widgets.heed("as", configs)
    return st.selectbox("Configuration", configs, key="as", bind="query-params", width=260)


def _cell(drawn: dict[str, Any]) -> Any:
    return _component(key="map", data=drawn, on_cell_change=lambda: None).get("cell")


def _told(shown: damage.DamageMap) -> dict[str, Any]:
    """The legend."""
    return {"title": title(shown.metric), "ends": shown.ends, "states": sorted(shown.states)}


def _labelled(rows: Sequence[str]) -> dict[str, Any]:
    return {"rows": rows, "labels": {limit: text.labels(rows, limit) for limit in LETTERS}}


def _page(count: int) -> slice:
    """Which of `count` tensors are drawn; there is something to choose where one page does not hold them."""
    pages = -(-count // ROWS)
    if pages == 1:
        return slice(0, count)
    page = st.pagination(pages, key="map-page") or 1
    return slice(ROWS * (page - 1), min(ROWS * page, count))


def _say(of: int, count: int, rows: slice, configs: int, metric: str, by: str, pin: bool) -> None:
    """What is drawn, what is not, and how to read it."""
    which = counted(count, "tensor") + (f" of {of:,}" if count < of else "")
    if rows.stop - rows.start < count:
        which = f"Tensors {rows.start + 1:,} to {rows.stop:,} of {count:,}, the others on the other pages"
    order = ORDERS.get(by) or f"the most damaged on top, by {text.plain(by)}"
    beyond = f" Only {COLUMNS} of {configs:,} configurations are drawn: filter for others." * (configs > COLUMNS)
    st.caption(f"{which}; {order}.{beyond} {title(metric)}, {better(metric)}: stronger colours are worse. {CLICK[pin]}")


def _clicked(shown: damage.DamageMap, cell: Any, listed: Sequence[str], pin: bool = False) -> Clicked | None:
    """The cell or head that the browser names, if it is drawn: what a browser sends is not to be trusted."""
    tensor, config = _named(cell, shown.tensors, shown.configs)
    if not (tensor or config):
        return None
    return Clicked((tensor,), config, tensor, pin) if tensor else Clicked(tuple(listed), config, pin=pin)


def _clicked_model(model: sweep_depth.ModelMap, cell: Any, slug: str, pin: bool) -> Clicked | None:
    """The same of the map in the order of the model. To compare, a cell stands for one tensor, a role for its kind."""
    row, column = _named(cell, model.rows, model.columns)
    tensors = model.tensors(row or None, column or None)
    globs = {kinds.kind(name) for name in tensors}
    if not tensors or (not pin and not row) or (not pin and not column and len(globs) > 1):
        return None
    return Clicked(tuple(tensors), slug, tensors[0] if column else globs.pop(), pin)


def _named(cell: Any, rows: Sequence[str], columns: Sequence[str]) -> tuple[str, str]:
    """Row and column of a cell, "" for that which a head has not; both "" for what is not drawn."""
    if not isinstance(cell, dict):
        return "", ""
    row, column = cell.get("row"), cell.get("column")
    if row not in [None, *rows] or column not in [None, *columns]:
        return "", ""
    return row or "", column or ""
