"""What is decided as one: a tensor, or several that a program demands to be alike."""

from dataclasses import dataclass

COPY = "copy"  # in place of a slug: the tensor goes into the file as it is


@dataclass(frozen=True)
class Unit:
    """Tensors that share one decision.

    Attributes
    ----------
    name : of its first member, or a glob that takes in all of them.
    members : names of its tensors, in the file's order.
    reason : why they are one, in a sentence: "vLLM fuses q, k and v"; "" for a single tensor.
    """

    name: str
    members: tuple[str, ...]
    reason: str = ""
