"""Every error that a caller or a file can cause.

::

    QuantlabError
     ├─ ConfigError               an unknown name or an illegal combination of options   (ValueError)
     ├─ ShapeError                arrays whose shapes do not fit the request or each other (ValueError)
     ├─ EmptyTensorError          a tensor without elements                              (ValueError)
     ├─ NonFiniteError            NaN or infinity, with its count and first index        (ValueError)
     ├─ DTypeError                values of a type that cannot be quantized              (TypeError)
     ├─ CalibrationRequiredError  an Observer that has seen no data                      (RuntimeError)
     ├─ PackingError              codes that do not fit, or bytes that do not add up     (ValueError)
     ├─ CheckpointError           a file that is not what it claims to be                (ValueError)
     ├─ LimitError                a budget exceeded: names it and how to raise it        (ValueError)
     ├─ BudgetError               a plan that cannot be: what is asked, what is possible (ValueError)
     ├─ ExportError               a result that a format cannot hold, or a failed write  (RuntimeError)
     ├─ StoreError                a store of results that cannot be read or written      (RuntimeError)
     ├─ ClusterError              other computers that cannot be reached, or did not do it (RuntimeError)
     └─ Cancelled                 the caller asked to stop                               (RuntimeError)

``str(error)`` is one sentence: what was given, what is legal, what to do. Anything else that comes out of quantlab
is a bug of quantlab.
"""

import difflib
import numbers
from collections.abc import Iterable
from typing import Any


class QuantlabError(Exception):
    """The base of every error that a caller or a file can cause."""


class ConfigError(QuantlabError, ValueError):
    """An option is unknown, or options do not go together."""


class ShapeError(QuantlabError, ValueError):
    """A shape does not fit the request, or two shapes do not fit each other."""


class EmptyTensorError(QuantlabError, ValueError):
    """A tensor has no elements, so it has no range and no error."""


class NonFiniteError(QuantlabError, ValueError):
    """Values are NaN or infinite; the message has their count and the first index."""


class DTypeError(QuantlabError, TypeError):
    """Values are of a type that cannot be quantized."""


class CalibrationRequiredError(QuantlabError, RuntimeError):
    """An Observer was asked for parameters before it saw data."""


class PackingError(QuantlabError, ValueError):
    """A code does not fit its bit width, or the bytes or scales of a payload are not those of its configuration."""


class CheckpointError(QuantlabError, ValueError):
    """A file is not what it claims to be; the message names the file, the tensor and the rule."""


class LimitError(QuantlabError, ValueError):
    """A budget is exceeded; the message names it and how to raise it."""


class BudgetError(QuantlabError, ValueError):
    """No plan fits the budget, or none is as good as asked; `possible` is the least that can be had."""

    def __init__(self, sentence: str, possible: float) -> None:
        super().__init__(sentence)
        self.possible = possible


class ExportError(QuantlabError, RuntimeError):
    """A result cannot be held by the chosen format, or could not be written."""


class StoreError(QuantlabError, RuntimeError):
    """A store of results cannot be opened, read or written; the message names its file and the way out."""


class ClusterError(QuantlabError, RuntimeError):
    """A cluster cannot be reached, or did not do its work; what came back before is valid."""


class Cancelled(QuantlabError, RuntimeError):
    """The caller asked to stop."""

    def __init__(self, sentence: str = "stopped before it was finished, as asked") -> None:
        super().__init__(sentence)


def check_known(what: str, value: object, legal: Iterable[str]) -> None:
    """Raise ConfigError unless `value` is one of the `legal` names.

    >>> check_known("dtype", "int44", ["int4", "int8"])
    Traceback (most recent call last):
    quantlab.errors.ConfigError: unknown dtype 'int44': choose one of int4, int8 (did you mean int4?)
    """
    names = list(legal)
    if isinstance(value, str) and value in names:
        return
    close = difflib.get_close_matches(value, names, n=1) if isinstance(value, str) else []
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ConfigError(f"unknown {what} {value!r}: choose one of {', '.join(names)}{hint}")


def check_integer(what: str, value: object, lowest: int, highest: int) -> int:
    """`value` as an int in [lowest, highest]; ConfigError for anything else, bools and floats included."""
    # numpy integers have __index__ too; bool does as well, and is never meant as a size.
    if isinstance(value, bool) or not hasattr(value, "__index__") or not lowest <= value.__index__() <= highest:
        raise ConfigError(f"{what} is {value!r}: give a whole number from {lowest} to {highest}")
    return int(value.__index__())


def check_number(what: str, value: object, lowest: float, highest: float) -> float:
    """`value` as a float in [lowest, highest]; ConfigError for anything else, NaN included."""
    number: Any = value if isinstance(value, numbers.Real) and not isinstance(value, bool) else float("nan")
    if not lowest <= number <= highest:
        raise ConfigError(f"{what} is {value!r}: give a number from {lowest:g} to {highest:g}")
    return float(number) + 0.0  # -0.0 + 0.0 is 0.0: equal numbers, equal names
