"""The map of tensors in a real browser: filled without a flicker, read by pointer and keyboard, opened by a click."""

import re
import time

import numpy as np
import pytest
from playwright.sync_api import Page, expect
from safetensors.numpy import save_file

from quantlab.sweeping.store import ResultStore
from tests.serving import served, started

pytestmark = pytest.mark.browser

GRID = (
    "dtypes=int4&dtypes=int8&granularities=tensor&granularities=g32&calibrations=minmax&calibrations=mse&popular=false"
    "&view=Tensors"
)
CELLS = ".scroll td"
# Marks the first cell, and counts how often the page is drawn without it: a map that is replaced loses the mark.
WATCH = """() => {
    const roots = () => [...document.querySelectorAll('*')].map(e => e.shadowRoot).filter(Boolean);
    const find = () => roots().map(root => root.querySelector('.scroll td')).find(Boolean);
    const first = find();
    window.lost = 0;
    const look = () => {
        if (!/tensors measured/.test(document.body.innerText)) return; // the sweep has ended
        window.lost += find() !== first;
        requestAnimationFrame(look);
    };
    look();
}"""
HALF = "() => Number(/(\\d+) of 12 tensors measured/.exec(document.body.innerText)?.[1] ?? 12) >= 6"


@pytest.fixture
def model(tmp_path, monkeypatch) -> str:
    """Twelve tensors that take a few seconds, so that one sees the map fill; the last name is not kind."""
    monkeypatch.setenv("QUANTLAB_ROOTS", str(tmp_path))
    rng = np.random.default_rng(4)
    tensors = {f"encoder.layer.{i}.weight": rng.standard_normal((1000, 640)).astype(np.float32) for i in range(11)}
    save_file(tensors | {"z<img src=x onerror=alert(1)>": np.ones((4, 40), np.float32)}, tmp_path / "model.safetensors")
    return str(tmp_path / "model.safetensors")


def test_the_map_fills_in_place_and_a_click_opens_compare(model: str, server: str, page: Page):
    alerts: list[str] = []
    page.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
    page.goto(f"{server}/sweep?file={model}&{GRID}")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(CELLS).first).to_be_visible()
    page.evaluate(WATCH)
    # Until half of the tensors are there: when the sweep ends, the page moves the map into its tab.
    page.wait_for_function(HALF)
    assert page.evaluate("window.lost") == 0
    expect(page.get_by_text("measured in")).to_be_visible()
    expect(page.locator(f"{CELLS}.waiting")).to_have_count(0)
    expect(page.locator(CELLS)).to_have_count(12 * 16)
    assert not alerts

    page.locator(CELLS).first.hover()
    tip = page.locator(".map .tip")
    expect(tip).to_contain_text("encoder.layer.")
    expect(tip).to_contain_text("bits per weight")
    page.locator(".map .scroll").focus()
    page.keyboard.press("ArrowRight")
    told = tip.inner_text().splitlines()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Compare", exact=True)).to_be_visible()
    expect(page).to_have_url(re.compile(f"tensor={re.escape(told[0])}.*{re.escape(told[1])}"))


def test_the_map_in_the_order_of_the_model_pins_tensors_for_the_plan(model: str, server: str, page: Page):
    """A cell, then its whole role: one glob in the link, which another tab understands."""
    page.goto(f"{server}/sweep?file={model}&{GRID}&arranged=By+layer&click=Pins+it&like=encoder&as=int8-sym-g32-mse")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_text("measured in")).to_be_visible()
    expect(page.locator(".map thead .head")).to_have_text([str(layer) for layer in range(11)])
    expect(page.locator(CELLS)).to_have_count(11)
    expect(page.get_by_test_id("stStatusWidget")).to_have_count(0)  # a click on what is drawn anew reaches nothing
    page.locator(CELLS).nth(3).click()
    expect(page.locator(f"{CELLS}.pinned")).to_have_count(1)
    expect(page).to_have_url(re.compile("pin=encoder.layer.3.weight%3Dint8-sym-g32-mse"))
    page.locator(".map tbody .name").click()
    expect(page.locator(f"{CELLS}.pinned")).to_have_count(11)
    expect(page).to_have_url(re.compile(r"pin=encoder.layer.%2A.weight%3Dint8-sym-g32-mse"))
    page.locator(CELLS).first.hover()
    expect(page.locator(".map .tip")).to_contain_text("Pinned for the plan")
    page.get_by_role("button", name="Clear the pins").click()
    expect(page.locator(f"{CELLS}.pinned")).to_have_count(0)
    expect(page).not_to_have_url(re.compile("pin="))


def test_back_from_compare_returns_to_the_view_that_was_left(server: str, page: Page):
    page.goto(f"{server}/sweep?dtypes=int8&granularities=tensor&calibrations=minmax")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_text("measured in")).to_be_visible()
    page.get_by_role("tab", name="Tensors", exact=True).click()
    page.locator(CELLS).first.click()
    expect(page.get_by_role("heading", name="Compare", exact=True)).to_be_visible()
    page.go_back()
    expect(page.get_by_role("tab", name="Tensors", exact=True)).to_have_attribute("aria-selected", "true")
    expect(page).to_have_url(re.compile("view=Tensors"))


def test_results_stand_above_the_fold_of_a_laptop(server: str, page: Page):
    page.set_viewport_size({"width": 1366, "height": 768})
    page.goto(f"{server}/sweep?view=Error+and+size")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_text("measured in")).to_be_visible()
    page.locator(".scatterlayer .point").first.wait_for()
    chart = page.locator(".main-svg").first.bounding_box()
    assert chart and chart["y"] + chart["height"] <= 768
    page.get_by_role("tab", name="Tensors", exact=True).click()
    page.locator(CELLS).first.wait_for()
    first = page.locator(CELLS).first.bounding_box()
    assert first and first["y"] + 5 * first["height"] <= 768


def test_a_narrow_page_scrolls_the_cells_and_keeps_the_names(model: str, server: str, page: Page):
    page.set_viewport_size({"width": 420, "height": 900})
    page.goto(f"{server}/sweep?file={model}&{GRID}")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(CELLS).first).to_be_visible()
    name, cells = page.locator(".map tbody .name").first, page.locator(".map .scroll")
    before = name.bounding_box()
    assert cells.evaluate("scroll => { scroll.scrollLeft = 10000; return scroll.scrollLeft; }") > 0
    after = name.bounding_box()
    # Only across: rows move up and down while the sweep goes on.
    assert before and after and (after["x"], after["width"]) == (before["x"], before["width"])
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_sweep_outlives_its_server_and_is_resumed_in_the_next(model: str, page: Page):
    address, process = started()
    deadline = time.monotonic() + 120
    try:
        page.goto(f"{address}/sweep?file={model}&{GRID}")
        page.get_by_role("button", name="Run", exact=True).click()
        with ResultStore() as store:
            while not any(record.rows_done for record in store.sweeps()):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.002)
    finally:
        process.kill()  # in the middle, without a word
        process.wait()
    with served() as address:
        page.goto(f"{address}/sweep?file={model}&{GRID}&earlier=true")
        expect(page.get_by_text("rows: not complete")).to_be_visible()
        page.get_by_role("button", name="Resume", exact=True).click()
        expect(page.get_by_text("rows were taken from the store")).to_be_visible()
        expect(page.locator(CELLS)).to_have_count(12 * 16)
        expect(page.locator(f"{CELLS}.waiting")).to_have_count(0)


def test_two_visitors_sweep_at_once_and_both_get_their_rows(model: str, server: str, page: Page):
    other = page.context.browser.new_context().new_page()
    for visitor, file in ((page, model), (other, "sample")):
        visitor.goto(f"{server}/sweep?file={file}&{GRID}")
        expect(visitor.get_by_role("button", name="Run", exact=True)).to_be_enabled()
    for visitor in (page, other):
        visitor.get_by_role("button", name="Run", exact=True).click()
    for visitor, count in ((page, 12), (other, 8)):  # the weights of the sample
        expect(visitor.get_by_text("measured in")).to_be_visible()
        expect(visitor.locator(CELLS)).to_have_count(count * 16)
        expect(visitor.locator(f"{CELLS}.waiting")).to_have_count(0)
    other.context.close()
