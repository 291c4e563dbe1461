"""What all calibrations share: a name in slugs, and the range that the codes are to cover."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from .dtypes import Codec, IntegerCodec
from .granularity import Groups
from .kernels.records import Fitted

Range = tuple[np.ndarray, np.ndarray]
SEARCHED = 1 << 14  # values per part of a search, which holds all candidates or all bins of all groups of the part


@dataclass(frozen=True)
class Calibration:
    """What all calibrations share: a name in slugs, and parameters that the name carries."""

    token: ClassVar[str]
    summary: ClassVar[str]
    needs_codec: ClassVar[bool] = True  # False where the range follows from the values alone, and all codecs share it
    shares_statistics: ClassVar[bool] = False  # whether `ranges` of several codecs cost less than `range` of each
    signed_scales: ClassVar[bool] = False  # whether scales of symmetric codes may be negative

    @property
    def slug(self) -> str:
        """The name, followed by the parameters where they are not the defaults: `mse`, `percentile1_99`."""
        values = [getattr(self, field.name) for field in fields(self)]
        if values == [field.default for field in fields(self)]:
            return self.token
        return self.token + "_".join(number_text(value) for value in values)

    def check(self, codec: Codec) -> None:
        """Raise ConfigError if this calibration cannot serve the codec."""

    def check_groups(self, shortest: int) -> None:
        """Raise ConfigError if this calibration cannot serve groups of which the shortest has so many values."""

    def range(self, groups: Groups, codec: IntegerCodec) -> Range:
        """The range to cover, (lo, hi), float64 [rows, groups]."""
        raise NotImplementedError

    def ranges(self, groups: Groups, codecs: Sequence[IntegerCodec]) -> list[Range]:
        """`range` for several codecs; what they share is found once."""
        if not self.needs_codec:
            return [self.range(groups, codecs[0])] * len(codecs)
        return [self.range(groups, codec) for codec in codecs]

    def fit(self, groups: Groups, codec: IntegerCodec) -> Fitted:
        """Scale, zero point and offset of every group: those that spread the codes over the range."""
        return codec.fit(groups, *self.range(groups, codec))


def number_text(value: float) -> str:
    """A number without exponent that reads back as itself: `99.9`, `0.00001`, `16`."""
    return str(value) if isinstance(value, int) else np.format_float_positional(value, trim="-")
