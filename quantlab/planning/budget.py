"""What is asked of a plan: a budget in bytes, bits per weight or a share of the model; or a quality."""

import math
import re
from dataclasses import dataclass

from ..errors import ConfigError
from ..wording import shown

MOST = 1 << 60  # bytes
POWERS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
BINARY = {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}
# Commas part thousands only: "4,5GB" is a tenth of what it would be without its comma.
_SIZE = re.compile(
    r"(?P<number>(?:\d{1,3}(?:,\d{3})+|\d[\d_]*)(?:\.\d+)?(?:e\d+)?)\s*(?P<unit>[kmgt]?i?b?|bpw|%)",
    re.IGNORECASE | re.ASCII,
)
_QUALITY = re.compile(r"(?P<number>-?\d+(?:\.\d+)?)\s*(?:db)?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Budget:
    """Bytes that the file may have, and the words in which they were asked for."""

    nbytes: int
    words: str

    def __str__(self) -> str:
        return self.words


def budget_of(asked: object, *, fixed: int, values: int, source: int) -> Budget:
    """The bytes of a budget: a whole number, or text such as 4.7GB, 4.4GiB, 4.5bpw or 60%.

    Parameters
    ----------
    fixed, values : bits per weight are those of the file without its `fixed` bytes, over so many values.
    source : bytes that a percentage is of.

    Raises ConfigError for anything else.

    >>> budget_of("1.5kB", fixed=0, values=0, source=0).nbytes, budget_of("4bpw", fixed=8, values=6, source=0).nbytes
    (1500, 11)
    """
    found = _SIZE.fullmatch(asked.strip()) if isinstance(asked, str) else None
    if isinstance(asked, int) and not isinstance(asked, bool) and 0 <= asked <= MOST:
        return Budget(asked, f"{asked:,} bytes")
    number = float(re.sub("[,_]", "", found["number"])) if found else math.nan
    unit = found["unit"].lower() if found else ""
    factor, more = {"bpw": (values / 8, fixed), "%": (source / 100, 0)}.get(unit, (_factor(unit), 0))
    # Of what is typed the decimals are exact, and so are its bytes: 0.1 GB are no byte less than 100 million.
    nbytes = round(number * factor, 6) + more if math.isfinite(number) else math.nan
    if not 0 <= nbytes <= MOST:
        raise ConfigError(
            f"the budget is {shown(asked)}: give bytes as 4700000000, 4.7GB or 4.4GiB, bits per weight as 4.5bpw, or a "
            f"share of the model's own files as 60%"
        )
    return Budget(math.floor(nbytes), str(asked).strip())


def _factor(unit: str) -> int:
    return {**POWERS, **BINARY}.get(unit.removesuffix("b"), 0)


@dataclass(frozen=True)
class Quality:
    """Decibels that a plan has at least."""

    decibels: float

    @property
    def share(self) -> float:
        """What may be lost of what is at stake."""
        return 10 ** (-self.decibels / 10)

    def __str__(self) -> str:
        return f"{self.decibels:g} dB"


def quality_of(asked: object) -> Quality:
    """The quality of a number, or of text such as 20dB. Raises ConfigError for anything else."""
    found = _QUALITY.fullmatch(asked.strip()) if isinstance(asked, str) else None
    number = float(found["number"]) if found else asked
    if isinstance(number, bool) or not isinstance(number, int | float) or not -300 <= number <= 300:
        raise ConfigError(f"the quality is {shown(asked)}: give decibels, such as 20dB")
    return Quality(float(number))
