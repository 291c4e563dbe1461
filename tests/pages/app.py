"""Start the app without a browser, and look at it."""

from pathlib import Path
from typing import Any

from streamlit.testing.v1 import AppTest

from quantlab.ui import jobs

ROOT = Path(__file__).resolve().parents[2]
MAIN = ROOT / "quantlab" / "ui" / "main.py"


def started(**url: Any) -> AppTest:
    """The app on its first page, opened with these URL parameters, after its first run."""
    at = AppTest.from_file(MAIN, default_timeout=60)
    for name, value in url.items():
        at.query_params[name] = value
    return at.run()


def page(name: str, **url: Any) -> AppTest:
    """The app on one of its pages, opened with these URL parameters."""
    at = AppTest.from_file(MAIN, default_timeout=60)
    at.switch_page(f"../../pages/{name}.py")
    for key, value in url.items():
        at.query_params[key] = value
    return at.run()


def messages(at: AppTest) -> str:
    """Every message on the page, without Markdown's escapes and stars."""
    return _plain(at.error, at.warning, at.info, at.success)


def said(at: AppTest) -> str:
    """Every message, every text and every heading of a fold on the page."""
    folds = " ".join(fold.label for fold in at.expander).replace("\\", "")
    return f"{_plain(at.error, at.warning, at.info, at.success, at.caption, at.markdown)} {folds}"


def _plain(*kinds: Any) -> str:
    return " ".join(element.value for kind in kinds for element in kind).replace("\\", "").replace("**", "")


def job_of(at: AppTest, parameter: str = "job") -> jobs.Job:
    """The job that the link names."""
    value = at.query_params[parameter]
    return jobs.get(value if isinstance(value, str) else value[0])
