"""Who may import whom: the order of the house, read from the source with `ast`."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A room imports only from floors below its own; rooms that share a line do not know each other. "quantlab" is the
# package's __init__, which gathers the public names, and "quantlab.formats" by itself that of the formats.
FLOORS = [
    {"quantlab.errors", "quantlab.formats.hdf5.libhdf5", "quantlab.late", "quantlab.samples", "quantlab.wording"},
    {"quantlab.planning.solving"},
    {"quantlab.core.kernels"},
    {"quantlab.core"},
    {"quantlab.formats.input"},
    {"quantlab.formats.prequantized"},
    {"quantlab.formats.checkpoint"},
    {"quantlab.formats.output"},
    {f"quantlab.formats.{program}" for program in ("gguf", "hdf5", "numpy", "onnx", "torch")},
    {"quantlab.formats.safetensors"},
    {"quantlab.formats"},
    {"quantlab.sweeping"},
    {"quantlab.shipping"},
    {"quantlab.planning"},
    {"quantlab.planning.recipes"},
    {"quantlab.reporting"},
    {"quantlab", "quantlab.cluster"},
    {"quantlab.plots"},
    {"quantlab.cli", "quantlab.ui"},
    {"quantlab.__main__", "pages"},
    {"app"},
]
RANK = {room: rank for rank, floor in enumerate(FLOORS) for room in floor}
PACKAGES = {"quantlab", "pages", "app"}

# Libraries that one part of the house keeps to itself.
ONLY_IN = {
    "streamlit": {"quantlab.ui", "pages", "app"},
    "starlette": {"quantlab.ui", "app"},
    "plotly": {"quantlab.plots"},
    "tqdm": {"quantlab.cli"},
    "numba": {"quantlab.core.kernels"},
    "distributed": {"quantlab.sweeping"},
    "fsspec": {"quantlab.formats.input"},
    "h5py": {"quantlab.formats.hdf5.libhdf5"},
}
NOT_IN = {"pages": {"numpy", "pandas"}}  # a page asks and draws; it does not compute
PAGE_LINES = 80


def sources() -> list[Path]:
    """Every module of the house."""
    return [*sorted((ROOT / "quantlab").rglob("*.py")), *sorted((ROOT / "pages").glob("*.py")), *ROOT.glob("app.py")]


def dotted(path: Path) -> str:
    """quantlab/formats/gguf/read.py -> quantlab.formats.gguf.read, quantlab/__init__.py -> quantlab."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part(module: str) -> str:
    """The room that a module stands in: the longest name of FLOORS that its own begins with, but for "quantlab"."""
    rooms = [room for room in RANK if module == room or (room != "quantlab" and module.startswith(room + "."))]
    return max(rooms, key=len, default=module)


MODULES = {dotted(path): path for path in sources()}


def absolute(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    """What `from ..x import y` in `module` names."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    base = parts[: len(parts) - node.level + is_package]
    return ".".join([*base, node.module] if node.module else base)


def imports(source: str, module: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """(line, imported module) of every import, those inside functions and TYPE_CHECKING blocks included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, module, is_package)
            for alias in node.names:
                name = f"{base}.{alias.name}"
                # `from quantlab import plots` names a module, `from quantlab import quantize` the package.
                yield node.lineno, name if name in MODULES or name in RANK else base


def faults(source: str, module: str, is_package: bool = False) -> list[str]:
    """One sentence for every import that the order of the house does not allow."""
    own = part(module)
    if own not in RANK:
        return [f"{module} stands in no room: give it a line in FLOORS"]
    found = []
    for line, imported in imports(source, module, is_package):
        target, library = part(imported), imported.split(".")[0]
        if library in PACKAGES and target not in RANK:
            found.append(f"{module}:{line} imports {imported}, which stands in no room")
        elif library in PACKAGES and target != own and RANK[target] >= RANK[own]:
            found.append(f"{module}:{line} imports {imported}, which does not stand below it")
        elif library in ONLY_IN and own not in ONLY_IN[library]:
            found.append(f"{module}:{line} imports {library}, which belongs to {', '.join(sorted(ONLY_IN[library]))}")
        elif library in NOT_IN.get(own, ()):
            found.append(f"{module}:{line} imports {library}: {own} call quantlab and draw")
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_the_floors_below_its_own(path):
    assert faults(path.read_text(encoding="utf-8"), dotted(path), path.name == "__init__.py") == []


def test_no_module_comes_back_to_itself():
    """Not by way of others either, and not for types alone: each can be read after those that it imports."""
    left = {
        module: {name for _, name in imports(path.read_text("utf-8"), module, path.name == "__init__.py")}
        for module, path in MODULES.items()
    }
    while left:
        free = {module for module, names in left.items() if not (names - {module}) & left.keys()}
        assert free, f"a circle among {sorted(left)}"
        left = {module: names for module, names in left.items() if module not in free}


@pytest.mark.parametrize("path", sorted((ROOT / "pages").glob("*.py")), ids=lambda path: path.stem)
def test_a_page_stays_readable_from_top_to_bottom(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= PAGE_LINES


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("quantlab.errors", "from quantlab.core import kernels"),
        ("quantlab.errors", "from .core import kernels"),
        ("quantlab.core.tensor", "from ..formats.numpy.npy import read"),
        ("quantlab.core.tensor", "def f():\n    from ..formats.numpy.npy import read"),
        ("quantlab.formats.gguf.read", "from ...cli import main"),
        ("quantlab.formats.gguf.read", "from ..onnx import read"),
        ("quantlab.formats.output.layout", "from ..safetensors import file"),
        ("quantlab.formats.checkpoint", "from .output.layout import Layout"),
        ("quantlab.formats.gguf.read", "import quantlab.sweeping.store"),
        ("quantlab.core.config", "from quantlab import quantize"),
        ("quantlab.sweeping.store", "from ..shipping.recipe import select"),
        ("quantlab.cli", "import streamlit as st"),
        ("quantlab.core.metrics", "import plotly.graph_objects as go"),
        ("quantlab.ui.widgets", "from plotly import express"),
        ("quantlab.core.metrics", "from numba import njit"),
        ("quantlab.formats.hdf5.tree", "import h5py"),
        ("quantlab.formats.hdf5.libhdf5.walk", "from ....errors import CheckpointError"),
        ("quantlab.ui.main", "import pages.sweep"),
        ("quantlab.core.tensor", "from quantlab.unheard_of import x"),
        ("quantlab.unheard_of", ""),
        ("pages.sweep", "import numpy as np"),
    ],
)
def test_an_import_against_the_order_is_found(module, source):
    assert len(faults(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source", "is_package"),
    [
        ("quantlab.core.kernels.codes", "import numba, numpy", False),
        ("quantlab.core.tensor", "from . import packing\nfrom .config import QuantConfig", False),
        (
            "quantlab.formats.gguf.read",
            "from ..checkpoint import Checkpoint\nfrom ...core.tensor import quantize",
            False,
        ),
        ("quantlab.formats", "from .numpy.npy import read\nfrom ..errors import CheckpointError", True),
        ("quantlab", "from .core.tensor import quantize\nfrom .formats import export", True),
        ("quantlab.cli", "import quantlab as ql", False),
        ("quantlab.ui.main", "import streamlit as st\nfrom quantlab import plots, quantize", False),
        ("pages.sweep", "import streamlit as st\nfrom quantlab.ui import jobs", False),
    ],
)
def test_an_import_that_follows_the_order_is_not(module, source, is_package):
    assert faults(source, module, is_package) == []
