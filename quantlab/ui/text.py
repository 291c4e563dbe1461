"""Numbers and names as the pages write them: units, digits, and nothing that Markdown would take for its own."""

import math
import re

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+!|~$:&-])")
_MINUS = re.compile(r"(?<!\S)-(?=\d)|(?<=\de)-(?=\d)")
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def plain(text: object) -> str:
    r"""`text` with every character escaped that Markdown or Streamlit's directives would act on.

    Names of files and tensors are strangers' text: they go through here before any element that renders Markdown.

    >>> plain("a_b*<img src=x>")
    'a\\_b\\*\\<img src=x\\>'
    """
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    return _MARKDOWN.sub(r"\\\1", printable)


def sentence(text: object) -> str:
    """A message of an error as a sentence to show: it begins with a capital and ends with a stop, names untouched.

    >>> sentence("no tensor is chosen")
    'No tensor is chosen.'
    """
    words = str(text).strip()
    first = words.split(" ", 1)[0]
    if first.isalpha() and first.islower():
        words = words[0].upper() + words[1:]
    return plain(words if words.endswith((".", "!", "?")) else words + ".")


def shortened(text: str, limit: int = 48) -> str:
    """A long name with its middle left out: both ends of a tensor's name say something."""
    keep = (limit - 1) // 2
    return text if len(text) <= limit else f"{text[:keep]}…{text[-keep:]}"


def number(value: float, digits: int = 4) -> str:
    """A figure with `digits` digits that count, a real minus sign, and a dash for what is not defined.

    >>> number(-0.123456), number(12050.3), number(math.nan), number(math.inf)
    ('\N{MINUS SIGN}0.1235', '12,050', '–', '∞')
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "\N{MINUS SIGN}∞"
    magnitude = abs(value)
    if 1e3 <= magnitude < 1e7:
        written = f"{value:,.0f}" if magnitude >= 10 ** (digits - 1) else f"{value:,.{digits}g}"
    else:
        written = f"{value:.{digits}g}"
    return written.replace("-", "\N{MINUS SIGN}")


def minus(text: str) -> str:
    """A sentence with real minus signs before its negative numbers and exponents.

    >>> minus("from -0.5 to 1e-05 in the pre-trained layer-2")
    'from \N{MINUS SIGN}0.5 to 1e\N{MINUS SIGN}05 in the pre-trained layer-2'
    """
    return _MINUS.sub("\N{MINUS SIGN}", text)


def percent(share: float) -> str:
    """A share from 0 to 1 as a percentage: 0 only for none, 100 only for all.

    >>> percent(0.0123), percent(0), percent(1e-9), percent(0.99999)
    ('1.23 %', '0 %', '< 0.0001 %', '> 99.99 %')
    """
    if math.isnan(share):
        return "–"
    if 0 < share < 1e-6:
        return "< 0.0001 %"
    if 0.9999 < share < 1:
        return "> 99.99 %"
    return f"{100 * share:.3g} %"


def size(nbytes: int) -> str:
    """Bytes with a decimal unit: 1 kB is 1,000 B, as on a disk's label.

    >>> size(999), size(1238532), size(90_900_000)
    ('999 B', '1.24 MB', '90.9 MB')
    """
    value, unit = float(nbytes), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{nbytes} B" if not unit else f"{value:.3g} {_UNITS[unit]}"


def count(value: int) -> str:
    """A number of things: exact below ten thousand, else with a unit.

    >>> count(9999), count(309633), count(22_713_216)
    ('9,999', '310 k', '22.7 M')
    """
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= limit:
            scaled = value / (1e3 if unit == "k" else limit)
            return f"{scaled:.3g} {unit}"
    return f"{value:,}"


def shape(lengths: tuple[int, ...]) -> str:
    """A shape for a reader: `128 × 64 × 3`, and `scalar` for ().

    >>> shape((128, 64, 3)), shape(())
    ('128 × 64 × 3', 'scalar')
    """
    return " × ".join(map(str, lengths)) if lengths else "scalar"
