"""What the repository promises around the code: pinned requirements, the sample's origin, the short commands."""

import ast
import hashlib
import re
import sys
import tomllib
from itertools import groupby
from pathlib import Path

import pytest
from streamlit import config as streamlit_config

from quantlab.samples import sample_path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = [*sorted(ROOT.glob("requirements*.txt")), ROOT / "constraints.txt"]
OURS = ("quantlab", "pages", "tests", "benchmarks", "examples", "docs")
SAMPLE_SHA256 = "c59271c284ae9c8335d795d60e0bfdb71aaaceec578d9bd9ffc1b8153c319ea1"


def pins(path: Path) -> list[str]:
    """The lines of a requirements file that name a package."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith(("#", "-r"))]


def options(table: dict, prefix: str = "") -> list[str]:
    """Dotted names of the options in a nested table."""
    return [
        name
        for key, value in table.items()
        for name in (options(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"])
    ]


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_every_requirement_is_pinned_to_one_full_version(path):
    assert pins(path)
    assert [line for line in pins(path) if not re.fullmatch(r"[A-Za-z0-9._-]+(\[\w+\])?==\d+(\.\w+)+", line)] == []


def test_no_package_is_pinned_twice():
    names = sorted(normalized(line.partition("==")[0]) for path in REQUIREMENTS for line in pins(path))
    assert [name for name, group in groupby(names) if len(list(group)) > 1] == []


CALLED = {"markdown_it": "markdown-it-py", "yaml": "PyYAML"}  # by what is imported: what pip calls it


def normalized(name: str) -> str:
    """A package's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", CALLED.get(name, name)).lower()


def imported() -> set[str]:
    """What any of our files imports that is neither Python's own nor ours, by its first name."""
    found = set()
    for path in [ROOT / "app.py", *(file for folder in OURS for file in (ROOT / folder).rglob("*.py"))]:
        source = path.read_text(encoding="utf-8")
        found |= set(re.findall(r'importorskip\("(\w+)', source))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - set(OURS)


def test_what_is_imported_is_pinned_and_what_is_pinned_is_used():
    names = {path.name: {re.split(r"[\[=]", line)[0] for line in pins(path)} for path in REQUIREMENTS}
    named = {file: {normalized(name) for name in found} for file, found in names.items()}
    used = {normalized(name) for name in imported()}
    assert used - set().union(*named.values()) == set()
    # What has no import: what others load, and the tools of `make check` and `make test`.
    loaded = {"pyarrow", "uvicorn", "dask", "mypy", "ruff", "pandas-stubs", "pytest-xdist", "onnx-ir"}
    assert set().union(*(named[f"requirements{kind}.txt"] for kind in ("", "-cluster", "-dev"))) - used == loaded


def test_the_sample_is_the_file_that_was_published():
    assert hashlib.sha256(sample_path().read_bytes()).hexdigest() == SAMPLE_SHA256


def test_the_samples_origin_and_licence_stand_beside_it():
    folder = sample_path().parent
    assert "Permission is hereby granted, free of charge" in (folder / "LICENSE-silero-vad.txt").read_text()
    origin = (folder / "README.md").read_text()
    assert SAMPLE_SHA256 in origin
    assert "silero-vad==6.2.3" in origin


def test_an_installed_package_brings_everything_that_is_not_python():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    data = project["tool"]["setuptools"]["package-data"]
    shipped = {path for package, globs in data.items() for glob in globs for path in folder_of(package).glob(glob)}
    files = {path for path in (ROOT / "quantlab").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in files if path.suffix != ".py"} == shipped
    assert sample_path() in shipped


def folder_of(package: str) -> Path:
    """Where a dotted package lies."""
    return ROOT.joinpath(*package.split("."))


def test_the_readme_names_the_two_commands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make app" in readme
    assert "make test" in readme


def test_ci_runs_the_contributors_commands_and_nothing_else():
    script = (ROOT / ".ci" / "run").read_text()
    lines = [line for line in script.splitlines() if line and not line.startswith("#")]
    assert lines[0] == "set -euo pipefail"
    assert [line for line in lines[1:] if not line.startswith("cd ")] == ["make check", "make test"]


def test_every_streamlit_option_is_one_that_streamlit_knows():
    # An unknown option is only a line in the log, and what it should have switched off stays on.
    ours = options(tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text()))
    assert set(ours) <= set(streamlit_config.get_config_options())


def test_the_app_is_served_to_this_computer_only_and_reports_nothing():
    settings = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())
    assert settings["server"]["address"] == "127.0.0.1"
    assert settings["browser"]["gatherUsageStats"] is False
    assert settings["client"]["showErrorDetails"] == "none"
    assert {"light", "dark"} <= set(settings["theme"])
