"""Bytes of the file to be: what every option of every tensor adds to it, and what a whole plan comes to.

Nearly all of a file is a sum over tensors: data, padding, and what the header says of each. `Sizes.nbytes` is that. The
rest, digits of places, padding of a header, groups of a config.json, depends on all choices together: of one plan
`exact` knows it from the functions that write the file, and of a set of plans `least` is what none of them is below. So
a solver of sums finds the best plan of a file, and can prove it.
"""

from collections.abc import Sequence

import numpy as np

from ..core.config import QuantConfig
from ..errors import QuantlabError
from ..formats import FORMATS, Checkpoint
from ..formats.onnx.rewrite import rewrites
from ..formats.safetensors.beside import companions
from ..formats.safetensors.shards import SHARD_BYTES
from ..formats.writing import export_nbytes
from ..shipping.rehearsal import bound
from .choices import UNKNOWN, Case, Choices
from .parts import Parts, copy_held, gguf_parts, layout_parts, model_parts, npz_parts, onnx_parts, own_parts


class Sizes:
    """What plans of a checkpoint take in a format.

    Parameters
    ----------
    names : the tensors that are planned, T of them. All others are copied.
    configs : the configurations, K of them; option K is a copy.

    Attributes
    ----------
    nbytes : int64 [T, K + 1]; what an option of a tensor adds to the file wherever it stands. What the tensor or the
        format refuses has any number.
    schemes : int64 [T, K + 1]; what the file says something of once for all options that share it; -1 for nothing.
    choices : what goes into the file. copies : bool [T]; whether the format can hold a tensor as it is.
    """

    def __init__(
        self, checkpoint: Checkpoint, format: str, names: Sequence[str], configs: Sequence[QuantConfig]
    ) -> None:
        layout = bound(checkpoint, format)
        self._checkpoint, self._format = checkpoint, FORMATS[format]
        self._beside = companions(checkpoint) if self._format.folder else {}
        self.choices = Choices(
            checkpoint, names, configs, layout.stored if layout else lambda config, source_dtype: config
        )
        self._parts = self._made_of()
        self.nbytes = self._parts.nbytes
        self.copies = np.array([self._holds(t) for t in range(len(names))], bool)
        self.schemes = self._parts.schemes

    def _made_of(self) -> Parts:
        name, layout = self._format.name, self._format.layout
        if name == "gguf":
            return gguf_parts(self.choices, self._checkpoint)
        if name == "onnx":
            return (model_parts if rewrites(self._checkpoint) else onnx_parts)(self.choices, self.exact)
        if layout is not None:
            return layout_parts(self.choices, layout, self._beside, SHARD_BYTES if self._format.folder else None)
        own = own_parts if name == "safetensors" else npz_parts
        return own(self.choices, self._checkpoint, self.exact)

    def _holds(self, t: int) -> bool:
        """Whether the format can hold a tensor as it is."""
        try:
            copy_held(self.choices, t, self._format.name)
        except QuantlabError:
            return False
        return True

    def exact(self, options: np.ndarray) -> int:
        """Bytes of all files of a plan, to the byte; options: int64 [T]."""
        return export_nbytes(self.choices.chosen(options), self._format, self._checkpoint, self._beside)

    def sum(self, options: np.ndarray) -> int:
        """What the options of a plan add up to, without the rest."""
        return int(self.nbytes[np.arange(len(options)), options].sum())

    @property
    def unsharded(self) -> int | None:
        """What options may add up to at most in a plan that is not cut into shards; None where none is."""
        return self._parts.unsharded

    def least(self, allowed: np.ndarray, case: Case = UNKNOWN) -> int:
        """What the rest takes at least in any plan of a case with choices among bool [T, K + 1] `allowed`."""
        if (allowed.sum(1) == 1).all():
            options = allowed.argmax(1)
            return self.exact(options) - self.sum(options)
        return self._parts.least(allowed, case)
