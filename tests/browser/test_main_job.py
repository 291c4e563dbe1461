"""The whole main job in a real browser, as somebody does it who has never seen quantlab."""

import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

import quantlab as ql
from quantlab.samples import sample_path

pytestmark = pytest.mark.browser

CHART = "[data-testid=stPlotlyChart] .main-svg"


def test_a_deep_link_on_a_fresh_server_is_served_with_navigation_and_the_sample(server: str, page: Page):
    missing: list[str] = []
    page.on("response", lambda response: missing.append(response.url) if response.status >= 400 else None)
    page.goto(f"{server}/sweep")
    expect(page.get_by_role("heading", name="Sweep", exact=True)).to_be_visible()
    expect(page).to_have_title("Sweep · Silero VAD 16 kHz (sample) · quantlab")
    expect(page.get_by_test_id("stSidebar").get_by_role("link", name="Inspect")).to_be_visible()
    expect(page.get_by_text("Silero VAD").first).to_be_visible()
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_enabled()
    links = page.get_by_test_id("stSidebar").get_by_role("link")
    links.get_by_text("Sweep").hover()
    page.wait_for_timeout(500)  # whatever appears beside a link that is pointed at must not cover the others
    links.get_by_text("Inspect").click(timeout=10_000)
    expect(page.get_by_role("heading", name="stft_conv.weight")).to_be_visible()
    expect(page).to_have_title(re.compile("^Inspect · "))
    assert not missing


def test_a_click_on_a_row_opens_the_tensor_and_a_tick_does_not(server: str, page: Page):
    page.goto(server)
    table = page.get_by_test_id("stDataFrameResizable").last
    expect(table).to_be_visible()
    expect(page.get_by_text("15 tensors").first).to_be_visible()
    table.scroll_into_view_if_needed()
    at = table.bounding_box()
    assert at
    page.mouse.click(at["x"] + 18, at["y"] + 36 + 17 + 35)  # the box of the second row
    page.get_by_role("button", name="Sweep this tensor").wait_for()
    expect(page.get_by_role("heading", name="Open", exact=True)).to_be_visible()
    at = table.bounding_box()  # the button has moved it
    assert at
    page.mouse.click(at["x"] + 120, at["y"] + 36 + 17 + 70)
    expect(page.get_by_role("heading", name="conv1.bias")).to_be_visible()


def test_open_sweep_look_compare_export_and_read_the_file_back(server: str, page: Page, tmp_path):
    page.goto(server)
    expect(page.get_by_text("15 tensors").first).to_be_visible()

    page.get_by_test_id("stSidebar").get_by_role("link", name="Inspect").click()
    expect(page.get_by_role("heading", name="stft_conv.weight")).to_be_visible()
    expect(page.locator(CHART).first).to_be_visible()

    page.get_by_test_id("stSidebar").get_by_role("link", name="Sweep").click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("tab", name="Error histograms").click()
    expect(page.locator(CHART).first).to_be_visible()

    configs = ["int4-sym-ch0-minmax", "int4-sym-ch0-mse"]
    page.goto(f"{server}/compare?tensor=conv2.weight&" + "&".join(f"compare={slug}" for slug in configs))
    expect(page.get_by_role("heading", name="Compare")).to_be_visible()
    expect(page.get_by_text("int4-sym-ch0-mse").first).to_be_visible()

    path = export(page, tmp_path)
    tensors = ql.load_packed(path)
    with ql.open_checkpoint(sample_path()) as sample:
        swept = ql.sweep(sample, [q.config for q in tensors.values()][:1], tensors=list(tensors))
        for row in swept.itertuples():
            q = tensors[row.tensor]
            assert q.config.slug == row.config
            assert q.nbytes == row.nbytes
            np.testing.assert_array_equal(q.dequantize(), ql.fake_quantize(sample.raw(row.tensor), q.config))
            assert ql.measure(sample.raw(row.tensor), q.dequantize()).sqnr_db == pytest.approx(row.sqnr_db, rel=1e-12)


def export(page: Page, folder: Path) -> Path:
    """Export with the page's own defaults; the downloaded file, once the page says that it measures the same."""
    page.get_by_test_id("stSidebar").get_by_role("link", name="Export").click()
    expect(page.get_by_role("heading", name="Export")).to_be_visible()
    page.get_by_role("button", name="Write the file").click()
    link = page.get_by_role("link", name=re.compile("Download"))
    expect(link).to_be_visible()
    expect(page.get_by_text("Read back and measured again")).to_be_visible()
    with page.expect_download() as download:
        link.click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path
