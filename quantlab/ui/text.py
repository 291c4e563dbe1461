"""Numbers and names as the pages write them: units, digits, and nothing that Markdown would take for its own."""

import math
import re
from collections.abc import Sequence

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+!|~$:&-])")
_PARTS = re.compile(r"(?<=[./])")
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
    """A long name in at most `limit` letters: its parts are left out from the left, but for numbers and the last two.

    What is still too long loses its middle.

    >>> shortened("encoder.layer.0.attention.self.value.weight", 32)
    '…0.attention.self.value.weight'
    >>> shortened("encoder.layer.0.attention.self.value.weight", 24), shortened("one_long_name_without_parts", 16)
    ('…0.…self.value.weight', 'one_lo…out_parts')
    """
    parts: list[str] = _PARTS.split(text)
    for at in range(len(parts) - 2):
        if len("".join(parts)) <= limit:
            break
        if not parts[at][:-1].isdigit():
            parts[at] = "" if at and parts[at - 1] in ("", "…") else "…"
    short = "".join(parts)
    if len(short) <= limit:
        return short
    end = -(-(limit - 1) * 11 // 20)  # the end of a name says more than its beginning
    return f"{short[: limit - 1 - end]}…{short[-end:]}"


def labels(names: Sequence[str], limit: int) -> list[str]:
    """Names in short, no two different ones alike: those that would be begin with where they differ.

    >>> labels(["If_0_then_branch.rnn.weight", "If_0_else_branch.rnn.weight", "conv"], 20)
    ['then…anch.rnn.weight', 'else…anch.rnn.weight', 'conv']
    """
    short = [shortened(name, limit) for name in names]
    alike: dict[str, list[str]] = {}
    for name, label in zip(names, short, strict=True):
        alike.setdefault(label, []).append(name)
    found = {name: label for label, group in alike.items() for name in group}
    for group in alike.values():
        if len(different := list(dict.fromkeys(group))) > 1:
            found |= zip(different, _apart(different, limit), strict=True)
    if len(set(found.values())) < len(found):  # a label that was made to differ is that of a third name
        found = dict(zip(found, _numbered(list(found), limit), strict=True))
    return [found[name] for name in names]


def _apart(names: Sequence[str], limit: int) -> list[str]:
    """Labels of names that differ somewhere: the piece in which they do, and the end that they share."""
    start = _common(names)
    end = _common([name[start:][::-1] for name in names])
    pieces = [name[start : len(name) - end] for name in names]
    pieces = [piece[: limit // 2] for piece in pieces]
    if len(set(pieces)) < len(names):  # too long to tell apart by their beginnings
        return _numbered(names, limit)
    return [f"{piece}…{name[-(limit - 1 - len(piece)) :]}" for piece, name in zip(pieces, names, strict=True)]


def _common(names: Sequence[str]) -> int:
    """How many letters all of the names begin with: those that the first and the last in the alphabet share."""
    pairs = zip(min(names), max(names), strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(map(len, names)))


def _numbered(names: Sequence[str], limit: int) -> list[str]:
    return [f"({number})…{name[-(limit - 9) :]}" for number, name in enumerate(names, 1)]


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


def figure(value: float) -> str:
    """A figure in at most nine letters: three digits that count, and an exponent where that is shorter than zeros.

    >>> figure(-0.00004103), figure(0.04103), figure(-123456.0), figure(-3.402e38), figure(59904.0)
    ('−4.1e−05', '0.041', '−1.2e+05', '−3.4e+38', '59,904')
    """
    large, small = abs(value) >= 1e5, 0 < abs(value) < 1e-3
    if math.isfinite(value) and (large or small):
        return f"{value:.1e}".replace("-", "−")
    return number(value, 3)


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


def share(value: float) -> str:
    """As `percent`, in at most nine letters.

    >>> share(0.00137), share(1e-9), share(0.99999), share(1)
    ('0.137 %', '< 1e−4 %', '> 99.99 %', '100 %')
    """
    return percent(value).replace("0.0001", "1e−4")


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
