"""A small real model that ships with quantlab, so that the first screen shows something real.

Where the file comes from, and its licence, stand beside it in README.md and LICENSE-silero-vad.txt.
"""

from pathlib import Path

SAMPLE_NAME = "Silero VAD 16 kHz"
SAMPLE_DESCRIPTION = (
    "A voice activity detector for 16 kHz speech: 15 float32 tensors, 309,633 weights, "
    "convolutions and an LSTM. MIT licence, Silero Team."
)


def sample_path() -> Path:
    """Absolute path of the sample's safetensors file (1.2 MB).

    >>> sample_path().name
    'silero_vad_16k.safetensors'
    """
    # A real path, not an importlib.resources handle: checkpoints are memory-mapped.
    return Path(__file__).resolve().parent / "silero_vad_16k.safetensors"
