"""Takes the pictures of the README: `.venv/bin/python docs/take_screenshots.py`, from the project's folder."""

import shutil
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from benchmarks.app import GRID, model_path  # noqa: E402
from tests import chromium  # noqa: E402
from tests.serving import FLAGS, served  # noqa: E402

PARETO = "view=Error+and+size&granularities=tensor&granularities=ch0&granularities=g128&granularities=g32"


def main() -> None:
    """Sweep the sample and the real model, and look at them."""
    model = model_path()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        named = Path(folder, "all-MiniLM-L6-v2.safetensors")  # in its package it is only called "model"
        shutil.copy(model, named)
        with served({"QUANTLAB_ROOTS": folder, "QUANTLAB_STORE": folder}) as address:
            browser = playwright.chromium.launch(executable_path=chromium.find(), args=FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 1060})
            take(page, f"{address}/sweep?{PARETO}", ".main-svg", "screenshot.png")
            take(page, f"{address}/sweep?file={quote(str(named))}&{GRID}", ".scroll td", "map.png")
            plan(page, f"{address}/plan?file={quote(str(named))}&target=any", "plan.png")
            browser.close()


def plan(page: Page, address: str, name: str) -> None:
    """Measure the menu of a link's program, and take a picture of the plan."""
    page.goto(address)
    page.get_by_role("button", name="Measure them").click(timeout=60_000)
    page.get_by_role("button", name="Export this plan").wait_for(timeout=600_000)
    page.locator(".main-svg").first.wait_for()
    page.mouse.move(700, 60)
    page.wait_for_timeout(2000)
    page.screenshot(path=DOCS / name)


def take(page: Page, address: str, figure: str, name: str) -> None:
    """Run the sweep of a link, and take a picture of the page when it is done."""
    page.goto(address)
    page.get_by_role("button", name="Run", exact=True).click(timeout=60_000)
    page.get_by_text("measured in").wait_for(timeout=600_000)
    page.locator(figure).first.wait_for()
    page.mouse.move(700, 60)
    page.wait_for_timeout(2000)
    page.screenshot(path=DOCS / name)


if __name__ == "__main__":
    main()
