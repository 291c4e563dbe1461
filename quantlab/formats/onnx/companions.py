"""Files that a model keeps beside itself and names: opened only if they truly lie in its own folder.

The name comes from a stranger, and checks of its text alone have been got around again and again: where the path leads
is what counts. Links are refused, but for those of Hugging Face's cache into its own store.
"""

import os
from pathlib import Path, PurePosixPath

from ...errors import CheckpointError, LimitError
from ...wording import shown
from ..input.files import InputFile, reason

MAX_FILES = 500  # every one of them stays open


class Companions:
    """The files beside a model, each opened once."""

    def __init__(self, model: InputFile) -> None:
        self.model = model
        self.files: dict[str, InputFile] = {}

    def open(self, location: str) -> InputFile:
        """The file that the model calls `location`, a path relative to its folder.

        Raises CheckpointError for a path that leads out of the folder or through a link, for anything that is not a
        regular file with one name, and for every file if the model is an upload; LimitError beyond `MAX_FILES`.
        """
        if location not in self.files:
            if len(self.files) == MAX_FILES:
                raise LimitError(
                    f"{self.model} keeps its weights in more than {MAX_FILES} files: save it with all of them in one"
                )
            self.files[location] = self._opened(location)
        return self.files[location]

    def close(self) -> None:
        """Close them all."""
        for file in self.files.values():
            file.close()

    def _opened(self, location: str) -> InputFile:
        if self.model.alone:
            raise CheckpointError(
                f"{self.model} keeps weights in the file {shown(location)}, and an upload has no files beside it, nor "
                f"has a URL: open the model by its path, or save it as one file"
            )
        file = InputFile(self._place(location), location)
        if os.fstat(file.fileno()).st_nlink > 1:
            file.close()
            raise self._refusal(location, "has other names elsewhere (hard links): copy it")
        return file

    def _place(self, location: str) -> Path:
        """Where a location leads."""
        path = PurePosixPath(location)
        if not path.name or path.is_absolute() or ".." in path.parts or any(c in location for c in "\\:\0"):
            raise self._refusal(location, "is not a plain path inside its folder")
        try:
            folder = self.model.path.parent.resolve(strict=True)
            place = (folder / path).resolve(strict=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise self._refusal(location, f"cannot be opened: {reason(error)}") from error
        if place != folder / path and place.parent not in _stores(folder):
            raise self._refusal(location, "is a link, or lies behind one: copy the file itself into the folder")
        return place

    def _refusal(self, location: str, why: str) -> CheckpointError:
        return CheckpointError(f"{self.model} keeps weights in the file {shown(location)}, which {why}")


def _stores(folder: Path) -> list[Path]:
    """Where links of a folder in Hugging Face's cache lead: snapshots/REVISION[/onnx]/model.onnx -> blobs/DIGEST."""
    return [base.parent.parent / "blobs" for base in (folder, folder.parent) if base.parent.name == "snapshots"]
