"""Reading JSON of strangers whose grammar is known: no recursion, and nothing is built but what was asked for.

`json.loads` builds whatever it is given before anybody can look at it (a 100 MB header of nested empty lists takes
gigabytes), keeps the last of two equal keys, and accepts NaN.
"""

import json
import re
from collections.abc import Iterator

from ...errors import CheckpointError, LimitError
from ...wording import shown

# Possessive quantifiers (++, *+): a failed match gives up at once instead of trying every shorter one.
_SPACE = rb"[ \t\r\n]*+"
_TEXT = rb'"((?:[^"\\\x00-\x1f]++|\\.)*+)"'
_NUMBER = rb"(?:0|[1-9][0-9]{0,19}+)"
_OPEN = re.compile(_SPACE + rb"\{" + _SPACE + rb"(\})?")
_NEXT = re.compile(_SPACE + rb"([,}])")
_KEY = re.compile(_SPACE + _TEXT + _SPACE + rb":", re.DOTALL)
_STRING = re.compile(_SPACE + _TEXT, re.DOTALL)
_SCALAR = re.compile(_SPACE + rb"(?:true|false|null|-?[0-9][0-9.eE+-]{0,40}+|" + _TEXT + rb")", re.DOTALL)
_INTEGERS = re.compile(
    _SPACE + rb"\[" + _SPACE + rb"((?:" + _NUMBER + rb"(?:" + _SPACE + rb"," + _SPACE + _NUMBER + rb"){0,999}+)?+)"
    + _SPACE + rb"\]"
)  # fmt: skip
_END = re.compile(_SPACE + rb"\Z")


class Scanner:
    """Walks over JSON text from left to right; every step says what must come next.

    Parameters
    ----------
    data : the text, UTF-8.
    what : what it is, for messages ("the header of 'x.safetensors'").
    """

    def __init__(self, data: bytes | bytearray, what: str) -> None:
        self.data, self.what, self.at = data, what, 0

    def members(self, longest: int = 1 << 20) -> Iterator[str]:
        """Yield each key of an object; the caller reads the value before asking for the next key.

        Raises CheckpointError for a key that comes twice, LimitError for one of more than `longest` bytes.
        """
        if self._step(_OPEN, "an object")[1]:
            return
        seen = set()
        while True:
            key = self._text(self._step(_KEY, "a key and a colon")[1], longest)
            if key in seen:
                raise CheckpointError(f"{self.what} has {shown(key)} twice")
            seen.add(key)
            yield key
            if self._step(_NEXT, "',' or '}'")[1] == b"}":
                return

    def string(self) -> str:
        """A string."""
        return self._text(self._step(_STRING, "a string")[1])

    def integers(self) -> tuple[int, ...]:
        """A list of at most 1000 whole numbers from 0, of at most 20 digits each."""
        digits = self._step(_INTEGERS, "a list of whole numbers")[1]
        return tuple(map(int, digits.split(b","))) if digits else ()

    def skip_scalar(self) -> None:
        """Step over a string, number, true, false or null."""
        self._step(_SCALAR, "a string, a number, true, false or null")

    def end(self) -> None:
        """Nothing but white space may be left."""
        self._step(_END, "the end")

    def _step(self, pattern: re.Pattern[bytes], expected: str) -> re.Match[bytes]:
        match = pattern.match(self.data, self.at)
        if match is None:
            raise CheckpointError(f"{self.what} is not valid: {expected} must stand at byte {self.at}")
        self.at = match.end()
        return match

    def _text(self, raw: bytes, longest: int | None = None) -> str:
        if longest is not None and len(raw) > longest:
            raise LimitError(f"{self.what} has a name of {len(raw)} bytes, and quantlab reads up to {longest}")
        try:
            text = raw.decode()
            if "\\" in text:
                text = json.loads(f'"{text}"')
                text.encode()  # a lone surrogate could never be written again
        except ValueError as error:
            raise CheckpointError(f"{self.what} has text that is not valid UTF-8 near byte {self.at}") from error
        return text
