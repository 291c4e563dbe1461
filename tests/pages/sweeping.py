"""A small sweep on its page, as more than one test needs it."""

from quantlab.core.config import grid
from tests.pages.app import job_of, page

SMALL = {
    "dtypes": ["int4", "fp16"],
    "mappings": ["symmetric"],
    "granularities": ["tensor", "ch0"],
    "calibrations": ["minmax"],
    "popular": "false",
}
TABS = ("Table", "Heatmap", "Error and size", "Error histograms", "Compression", "Tensors")
HOSTILE = "=HYPERLINK(1)<b>[x](http://y)"
CONFIGS = grid(SMALL["dtypes"], SMALL["mappings"], SMALL["granularities"], SMALL["calibrations"])


def run_button(at):
    return next(button for button in at.button if button.label.startswith("Run"))


def swept(**url):
    """The page after its sweep has ended."""
    at = page("sweep", **(SMALL | url))
    run_button(at).click().run()
    assert job_of(at).finished.wait(60)
    return at.run()
