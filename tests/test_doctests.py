"""The examples in the docstrings are true."""

import doctest
import importlib
from pathlib import Path

import pytest

import quantlab

PACKAGE = Path(quantlab.__path__[0])


def modules() -> list[str]:
    """Every module of the package, but for the two scripts that do their work when imported."""
    paths = (path.relative_to(PACKAGE.parent).with_suffix("").parts for path in sorted(PACKAGE.rglob("*.py")))
    names = [".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in paths]
    return [name for name in names if name not in ("quantlab.__main__", "quantlab.ui.main")]


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
