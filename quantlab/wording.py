"""Names, sizes and counts as they stand in sentences: of errors, of notes, on the command line and on the pages."""

import math


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


def size_text(count: int) -> str:
    """A number of bytes for people: 12 bytes, 34.5 kB, 1.2 GB (powers of 1000).

    >>> size_text(12), size_text(34_500), size_text(1_200_000_000)
    ('12 bytes', '34.5 kB', '1.2 GB')
    """
    if count < 1000:
        return f"{count} bytes"
    power = min(int(math.log10(count)) // 3, 6)
    return f"{count / 1000**power:.{1 if power < 6 else 2}{'f' if power < 6 else 'g'}} {' kMGTPE'[power]}B"


def counted(count: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "tensor"), counted(1200, "tensor")
    ('1 tensor', '1,200 tensors')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
