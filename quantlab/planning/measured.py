"""A table of `sweep` as arrays: what was measured of the tensors of a checkpoint, and what was not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.config import QuantConfig
from ..errors import CheckpointError, ConfigError, QuantlabError
from ..formats import Checkpoint
from ..late import pandas as pd
from ..sweeping.sweep import ERROR, shape_text
from ..sweeping.weights import is_weight, names_of_weights
from ..wording import counted, shown
from .damage import Figures

NEEDED = ("tensor", "shape", "config", "sqnr_db", "mse", "nbytes")
RELATIVE = {"relative": "sqnr_db", "rows": "channels_sqnr_db", "weighted": "weighted_sqnr_db"}


@dataclass(frozen=True)
class Measured:
    """What a table says of the tensors that are planned.

    Attributes
    ----------
    names, configs : the tensors, in the file's order, and the configurations, in the table's.
    figures : [tensors, configurations].
    there : bool, likewise; whether the table has a row. served : whether that has figures.
    notes : what is to be known of the figures.
    refused : (tensor, slug) -> why it has none, as far as the table says.
    """

    names: list[str]
    configs: list[QuantConfig]
    figures: Figures
    there: np.ndarray
    served: np.ndarray
    notes: tuple[str, ...]
    refused: Mapping[tuple[str, str], str]


def measured(table: pd.DataFrame, checkpoint: Checkpoint, partial: bool = False) -> Measured:
    """The figures of every weight of a checkpoint, and of what else the table has measured of it.

    Raises
    ------
    CheckpointError : the table is of another model. ConfigError : it is no table of a sweep, or lacks rows, which
        `partial` allows: what was not measured can only be copied.
    """
    configs = _checked(table)
    names = _planned(table, checkpoint)
    specs = [checkpoint.spec(name) for name in names]
    at = table["tensor"].map({name: i for i, name in enumerate(names)}).to_numpy(np.float64, na_value=-1)
    options = table["config"].map({config.slug: k for k, config in enumerate(configs)}).to_numpy(np.int64)
    inside = at >= 0
    rows, columns = at[inside].astype(np.int64), options[inside]

    def grid(column: str) -> np.ndarray:
        cells = np.full((len(names), len(configs)), np.nan)
        if column in table:
            cells[rows, columns] = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64)[inside]
        return cells

    there = np.zeros((len(names), len(configs)), bool)
    there[rows, columns] = True
    _check_shapes(table[inside], checkpoint)
    if not partial:
        _check_complete(there, names, configs, checkpoint)
    relative = {field: _power(grid(column)) for field, column in RELATIVE.items()}
    squared = grid("mse")
    figures = Figures(
        squared=squared,
        channels=_column([spec.shape[spec.channel_axis] if spec.shape else 1 for spec in specs]),
        sizes=_column([spec.size for spec in specs]),
        **relative,
    )
    notes = ("the errors are those of a sample of each tensor's rows",) if ERROR in table else ()
    served = np.isfinite(grid("nbytes")) & np.isfinite(relative["relative"]) & np.isfinite(squared)
    refused = {(entry["tensor"], entry["config"]): entry["reason"] for entry in table.attrs.get("refused", ())}
    return Measured(names, configs, figures, there, served, notes, refused)


def _checked(table: pd.DataFrame) -> list[QuantConfig]:
    """The configurations of a table. ConfigError if it is none of a sweep, or has no rows."""
    columns = getattr(table, "columns", ())
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        raise ConfigError(f"the table lacks the column {missing[0]}: give one that sweep() returned")
    if not len(table):
        raise ConfigError("the table has no rows: sweep the model first")
    try:
        return [QuantConfig.parse(slug) for slug in table["config"].unique().tolist()]
    except QuantlabError as error:
        raise ConfigError(f"the table holds something that is no configuration: {error}") from error


def _planned(table: pd.DataFrame, checkpoint: Checkpoint) -> list[str]:
    """The tensors that a plan decides on: the weights, and what else was measured."""
    known, swept = set(checkpoint.names), dict.fromkeys(table["tensor"].tolist())
    strangers = [name for name in swept if name not in known]
    if strangers:
        more = f" and {len(strangers) - 1:,} more" if len(strangers) > 1 else ""
        raise CheckpointError(
            f"the table is of another model: {checkpoint} has no tensor {shown(strangers[0])}{more}; sweep this one"
        )
    found = [name for name in checkpoint.names if name in swept or is_weight(checkpoint.spec(name))]
    return found or names_of_weights(checkpoint)


def _check_shapes(table: pd.DataFrame, checkpoint: Checkpoint) -> None:
    for name, shape in table.drop_duplicates("tensor")[["tensor", "shape"]].itertuples(index=False):
        own = shape_text(checkpoint.spec(name).shape)
        if shape != own:
            raise CheckpointError(
                f"the table is of another model: {shown(name)} is {shown(shape)} there, and {own} in {checkpoint}; "
                f"sweep this one"
            )


def _check_complete(there: np.ndarray, names: list[str], configs: list[QuantConfig], checkpoint: Checkpoint) -> None:
    """ConfigError that says how many rows there are not, and how to get them."""
    missing = int((~there).sum())
    if not missing:
        return
    t, k = np.unravel_index(int((~there).argmax()), there.shape)
    tensors = int((~there).any(1).sum())
    raise ConfigError(
        f"the table lacks {counted(missing, 'row')} about {tensors:,} of {counted(len(names), 'tensor')} of "
        f"{checkpoint}, such as {shown(names[t])} as {configs[k]}: finish the sweep, or sweep every weight under every "
        f"configuration"
    )


def _power(decibels: np.ndarray) -> np.ndarray:
    """sum e^2 / sum x^2 of a ratio in dB; 0 of +inf."""
    with np.errstate(over="ignore"):  # -inf dB, of a tensor of zeros that decodes to something else
        return 10.0 ** (-decibels / 10)


def _column(values: Sequence[float]) -> np.ndarray:
    return np.array(values, np.float64)[:, None]
