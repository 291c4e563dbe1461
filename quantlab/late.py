"""Libraries that take longer to import than most commands take: imported when something of them is first asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any


class _Late:
    """Stands for a module. Annotations that name it must not be evaluated: `from __future__ import annotations`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)


if TYPE_CHECKING:
    import pandas as pandas
else:
    pandas = _Late("pandas")
