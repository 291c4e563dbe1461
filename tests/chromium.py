"""Finds a Chromium for the browser tests; `python -m tests.chromium` also installs one where there is none.

The system's own comes first: a machine without access to the browser vendor's download server can still have it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

SYSTEM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find() -> str | None:
    """Path of a Chromium or Chrome: $CHROMIUM, the system's, Playwright's own, or None."""
    named = os.environ.get("CHROMIUM")
    if named:
        return named
    installed = (shutil.which(name) for name in SYSTEM_NAMES)
    return next(filter(None, installed), None) or _playwrights_own()


def _playwrights_own() -> str | None:
    # Asked in a process of its own: a second sync_playwright() in the tests' process would fail.
    ask = (
        "from playwright.sync_api import sync_playwright as s\nwith s() as p: print(p.chromium.executable_path, end='')"
    )
    answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False).stdout
    return answer if answer and Path(answer).is_file() else None


def install() -> None:
    """Install Playwright's Chromium, or Debian's where that cannot be downloaded and we are root."""
    if _ran([sys.executable, "-m", "playwright", "install", "chromium"]):
        return
    if shutil.which("apt-get") and os.geteuid() == 0 and _ran(["apt-get", "update"]):
        _ran(["apt-get", "install", "--yes", "--no-install-recommends", "chromium", "fonts-dejavu-core"])


def _ran(command: list[str]) -> bool:
    print("$", " ".join(command), flush=True)
    try:
        # No prompt and no input: apt would otherwise wait for an answer that nobody gives.
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, timeout=600, check=False)
        return done.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def main() -> int:
    """Make sure that there is a Chromium; 1, with a sentence on stderr, if there is none to be had."""
    if find() is None:
        install()
    path = find()
    if path is None:
        print(
            "The browser tests need Chromium, and none could be found or installed: install it with your system's "
            "package manager (Debian, Ubuntu: `sudo apt-get install chromium`), set CHROMIUM to its path, or run the "
            "other tests alone: .venv/bin/pytest -m 'not browser'",
            file=sys.stderr,
        )
        return 1
    print(f"browser tests use {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
