"""What an export in another program's layout says of its tensors, once nobody remembers how it was made."""

from dataclasses import dataclass
from typing import NoReturn

from ...core.config import QuantConfig
from ...core.tensor import packed_nbytes
from ..checkpoint import Checkpoint
from .outgoing import Outgoing


@dataclass(frozen=True)
class Described:
    """A quantized tensor as its file describes it.

    Attributes
    ----------
    shape : of the tensor.
    config : as far as the file tells; its calibration says nothing, since no file keeps how a range was found.
    """

    shape: tuple[int, ...]
    config: QuantConfig

    @property
    def label(self) -> str:
        """The configuration without what no file tells: int4-sym-g32-sfp16."""
        parts = str(self.config).split("-")
        return str(self.config) if len(parts) < 4 else "-".join(parts[:3] + parts[4:])

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points."""
        return packed_nbytes(self.shape, self.config)

    def outgoing(self, name: str, source_dtype: str) -> Outgoing:
        """The tensor as it once went into the file."""
        return Outgoing(name, self.shape, source_dtype, self.config, _gone)


def _gone() -> NoReturn:
    raise AssertionError("what an export was made of is not in it")


def nothing(export: Checkpoint) -> dict[str, Described]:
    """What a file of plain tensors says of quantized ones."""
    return {}
