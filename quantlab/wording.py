"""Names, sizes and counts as they stand in sentences: of errors, of notes, on the command line and on the pages."""

import math
import re
from pathlib import PurePath

# What a file or folder is called whatever the model.
GENERIC = {"model", "pytorch_model", "adapter_model", "consolidated", "weights", "checkpoint", "snapshot"}


def shown(name: object, limit: int = 80) -> str:
    """A name that came out of a file, as it may stand in a message: quoted, control characters escaped, cut.

    >>> shown("fc1.weight")
    "'fc1.weight'"
    """
    text = ascii(name) if not str(name).isprintable() else repr(name)
    return text if len(text) <= limit else f"{text[: limit - 4]}...{text[-1]}"


def as_text(name: str) -> str:
    r"""A file's name as text that can be written anywhere: what is not UTF-8 in it becomes a replacement character.

    >>> as_text("mod\udcffel.npy").isprintable()
    True
    """
    return name.encode(errors="surrogatepass").decode(errors="replace")


def called(path: PurePath) -> tuple[str, ...]:
    """What people call the model at a path, from the general to the special: its repository or folder, then its file.

    Hugging Face's cache names folders by commits, and most models "model": neither says anything by itself.

    >>> called(PurePath("/hub/models--meta-llama--Llama-3.2-1B/snapshots/4e20de36/model.safetensors"))
    ('meta-llama/Llama-3.2-1B', 'model.safetensors')
    >>> called(PurePath("/models/tiny/model.safetensors")), called(PurePath("/models/tiny-q8.gguf"))
    (('tiny', 'model.safetensors'), ('tiny-q8.gguf',))
    """
    parts = path.parts
    for at in range(len(parts) - 2):
        if parts[at].startswith("models--") and parts[at + 1] == "snapshots":
            return (parts[at].removeprefix("models--").replace("--", "/"), *parts[at + 3 :])
    if re.split(r"[.-]", path.name)[0].lower() in GENERIC and path.parent.name:
        return path.parent.name, path.name
    return (path.name or str(path),)


def size_text(count: int) -> str:
    """A number of bytes for people: 12 bytes, 34.5 kB, 1.2 GB (powers of 1000).

    >>> size_text(12), size_text(34_500), size_text(1_200_000_000)
    ('12 bytes', '34.5 kB', '1.2 GB')
    """
    if count < 1000:
        return f"{count} bytes"
    power = min(int(math.log10(count)) // 3, 6)
    return f"{count / 1000**power:.{1 if power < 6 else 2}{'f' if power < 6 else 'g'}} {' kMGTPE'[power]}B"


def after_name(sentence: str, name: str) -> str:
    """What a sentence says of a tensor, where the name stands before it already: without it and its file's in front.

    >>> after_name("tensor 'fc1' of 'model.safetensors' holds 1 NaN", "fc1"), after_name("not for 'fc1'", "fc1")
    ('holds 1 NaN', "not for 'fc1'")
    """
    return re.sub(rf"^tensor {re.escape(shown(name))} of .*? (?=holds|has|is)", "", sentence)


def counted(count: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "tensor"), counted(1200, "tensor")
    ('1 tensor', '1,200 tensors')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def ordinal(place: int) -> str:
    """A place in an order.

    >>> [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 22, 113)]
    ['1st', '2nd', '3rd', '4th', '11th', '12th', '22nd', '113th']
    """
    ending = "th" if 10 <= place % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"
