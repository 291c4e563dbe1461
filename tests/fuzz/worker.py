"""Opens what the fuzzer made, in a process of its own: `python -m tests.fuzz.worker MEGABYTES` reads paths, says JSON.

A crash, a hang or too much memory ends this process and not the fuzzer.
"""

import json
import resource
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np

from quantlab import QuantlabError, open_checkpoint
from quantlab.formats import Checkpoint, PackedCheckpoint
from quantlab.planning.importance import read_importance

IMATRIX = ".imatrix"  # what a file is called that is to be read as one
MOST = 40  # tensors of a file that are read


def main() -> None:
    """Answer one line for each path: what became of it, where that was decided, and its words."""
    _limit_memory(int(sys.argv[1]) << 20)
    warnings.simplefilter("error")
    for line in sys.stdin:
        print(json.dumps(outcome(Path(line.rstrip("\n")))), flush=True)


def outcome(path: Path) -> tuple[str, str, str]:
    """("read", "refused" or "fault", place in the code, words). A refusal of several lines, or of none, is a fault.

    A file is read if it opens; the place is then that where the first of its tensors was refused.
    """
    refused: list[QuantlabError] = []
    kind = "refused"
    try:
        if path.suffix == IMATRIX:
            check_importance(path)
            return "read", "", ""
        with open_checkpoint(path) as checkpoint:
            kind = "read"
            read_all(checkpoint, refused)
    except QuantlabError as error:
        refused.append(error)
    except Exception as error:
        return "fault", _place(error), traceback.format_exc()
    for error in refused:
        if not str(error) or "\n" in str(error):
            return "fault", _place(error), f"a refusal of no line, or of several: {str(error)!r}"
    return kind, _place(refused[0]) if refused else "", str(refused[0]) if refused else ""


def check_importance(path: Path) -> None:
    """Read an importance file. What it says is finite, and never below 0."""
    for values in read_importance(path).entries.values():
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
        assert (values >= 0).all()


def read_all(checkpoint: Checkpoint, refused: list[QuantlabError]) -> None:
    """Read the tensors of a checkpoint in every way there is."""
    for name in checkpoint.names[:MOST]:
        ways = [checkpoint.raw, checkpoint.load]
        if isinstance(checkpoint, PackedCheckpoint) and name in checkpoint.packed_names:
            ways.append(checkpoint.quantized)
        for way in ways:
            try:
                way(name)
            except QuantlabError as error:
                refused.append(error)
    checkpoint.sha256()


def _place(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _limit_memory(most: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        limit = pages * resource.getpagesize() + most
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
