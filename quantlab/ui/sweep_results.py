"""What a sweep has measured, whether it still runs, has just ended, or was read from the store."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from quantlab.plots.damage import Figures
from quantlab.ui.cache import Key


@dataclass(frozen=True, eq=False)
class Results:
    """The rows that there are, and what they are of."""

    key: Key | None  # of the file as it was measured; None if that is not on disk any more, or not as it was
    title: str  # of the file
    names: tuple[str, ...]  # of the tensors asked for
    figures: Figures  # filled further while the sweep runs
    make: Callable[[], pd.DataFrame]
    measured: int  # tensors that have rows
    held: int = 0  # rows that were in the store before
    unsaved: str = ""  # why these rows are not in the store, in a sentence

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The table of the library, of what there is; made when it is first looked at, not while the sweep runs."""
        return self.make()

    @property
    def refused(self) -> list[dict[str, str]]:
        """What was refused: {"tensor", "config", "reason"} each."""
        return self.frame.attrs["refused"]
