"""Start the app without a browser."""

from pathlib import Path
from typing import Any

from streamlit.testing.v1 import AppTest

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
