"""Files of other kinds, so that a message can say what was found and what to do with it."""

import re

_KINDS = [
    (rb"\Z", "empty"),
    (
        rb"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19",
        "a PyTorch checkpoint as before version 1.6, a bare pickle, which can run code: convert it to safetensors, or "
        "where you trust it read it with torch.load and save it again",
    ),
    (rb"\x80[\x02-\x05]", "a Python pickle (a PyTorch checkpoint?), which can run code: convert it to safetensors"),
    (rb"....TFL3", "a TensorFlow Lite model"),
    (rb"PAR1", "a Parquet table"),
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself: run git lfs pull"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|\x28\xb5\x2f\xfd|Rar!", "a compressed archive: unpack it first"),
    (rb"\s*<", "a web page or XML, perhaps an error page that was saved as a download"),
    (rb"\s*[{\[]", "JSON text"),
    (rb"MZ|\x7fELF", "a program"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|%PDF", "a picture or document"),
]


def describe(head: bytes) -> str:
    """What a file that begins with these bytes seems to be, to follow "it is".

    >>> describe(b"PAR1....")
    'a Parquet table'
    """
    for pattern, kind in _KINDS:
        if re.match(pattern, head, re.DOTALL):
            return kind
    return f"of an unknown kind (it begins with {head[:12]!r})"
