"""From a checkpoint to a packed file, and the proof that it holds what was measured."""
