"""`general.file_type`: which type most of a GGUF file's weights have, as llama.cpp numbers mixes of types.

llama.cpp shows it and does nothing else with it. Numbers: enum llama_ftype of llama.h.
"""

import struct
from collections import Counter
from collections.abc import Iterable

KEY = "general.file_type"
# A type of tensor -> the mixes that are mostly of it, that which llama.cpp guesses first.
MIXES = {
    "F32": (0,),
    "F16": (1,),
    "BF16": (32,),
    "Q4_0": (2,),
    "Q4_1": (3,),
    "Q5_0": (8,),
    "Q5_1": (9,),
    "Q8_0": (7,),
    "Q2_K": (10, 21),
    "Q3_K": (12, 11, 13),
    "Q4_K": (15, 14),
    "Q5_K": (17, 16),
    "Q6_K": (18,),
    "IQ1_S": (24,),
    "IQ1_M": (31,),
    "IQ2_XXS": (19,),
    "IQ2_XS": (20,),
    "IQ2_S": (28, 29),
    "IQ3_XXS": (23,),
    "IQ3_S": (26, 22, 27),
    "IQ4_NL": (25,),
    "IQ4_XS": (30,),
    "TQ1_0": (36,),
    "TQ2_0": (37,),
    "MXFP4": (38,),
    "NVFP4": (39,),
    "Q1_0": (40,),
}
UINT32 = 4
_UINT32 = struct.Struct("<II")  # the number of the type, and a value of it


def most(kinds: Iterable[tuple[str, tuple[int, ...]]]) -> str:
    """The type of most tensors, given by type and shape: of matrices if there are any; of equals the first."""
    given = list(kinds)
    counts = Counter(kind for kind, shape in given if len(shape) > 1) or Counter(kind for kind, _ in given)
    return counts.most_common(1)[0][0]


def updated(record: bytes, kind: str) -> bytes:
    """The record of the metadata for a file mostly of a type; the same where it is true already, or no number."""
    mixes, head = MIXES.get(kind), 8 + len(KEY)  # what its length, the key and its type take is fixed
    if mixes is None or len(record) != head + _UINT32.size:
        return record
    number, value = _UINT32.unpack_from(record, head)
    return record if number != UINT32 or value in mixes else record[:head] + _UINT32.pack(UINT32, mixes[0])
