"""Charts as static SVG: no script, no request, the colours of the page, sharp in print.

What is drawn carries its numbers (`data-x`, `data-y`) and says them where a pointer rests.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .text import in_html

WIDTH, HEIGHT = 680, 360
LEFT, RIGHT, TOP, BOTTOM = 62, 26, 34, 44
LETTER = 6.4  # pixels: the mean width of one in the labels' size
CELL = 24


@dataclass(frozen=True)
class Series:
    """Points that are drawn alike: a line, or dots.

    told : what a point says of itself. named : what is written beside it; "" for nothing.
    """

    name: str
    kind: str  # a class of the style sheet: line, dot, plan
    x: Sequence[float]
    y: Sequence[float]
    told: Sequence[str] = ()
    named: Sequence[str] = ()


@dataclass(frozen=True)
class Axis:
    """A direction of a chart: its title, ticks, and where a value lies, from 0 to 1."""

    title: str
    ticks: Sequence[tuple[float, str]]
    place: Callable[[float], float]


def linear(title: str, values: Sequence[float], words: Callable[[float], str] = "{:g}".format) -> Axis:
    """An axis with about six round steps around all values."""
    low, high = min(values), max(values)
    step = round_step((high - low) or abs(high) or 1.0)
    first, last = math.floor(low / step), math.ceil(high / step)
    last += first == last
    ticks = [(i * step, words(round(i * step, 12))) for i in range(first, last + 1)]
    return Axis(title, ticks, lambda value: (value / step - first) / (last - first))


def round_step(span: float) -> float:
    """1, 2 or 5 times a power of ten that divides a span into about six."""
    power = 10.0 ** math.floor(math.log10(span / 6))
    return next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= 6.0001)


def logarithmic(title: str, values: Sequence[float]) -> Axis:
    """An axis in powers of ten. What is 0 lies at its lower end."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = math.log10(min(positive)), math.log10(max(positive))
    if high - low < 1.2:  # less than a power of ten is told in steps of its own
        low, high = low - 0.03, high + 0.03
        steps = [(m * 10.0**e) for e in range(math.floor(low), math.ceil(high) + 1) for m in (1, 1.5, 2, 3, 4, 5, 7)]
    else:
        low, high = math.floor(low), math.ceil(high)
        steps = [10.0**e for e in range(low, high + 1, max(1, (high - low) // 6))]
    ticks = [(value, f"{value:.3g}") for value in steps if low <= math.log10(value) <= high]
    return Axis(title, ticks, lambda value: (math.log10(value) - low) / (high - low) if value > 0 else 0.0)


Box = tuple[float, float, float, float]  # pixels: left, top, right, bottom
BESIDE = ((9, -6, "start"), (-9, -6, "end"), (9, 14, "start"), (-9, 14, "end"))  # where a name may stand by its point


@dataclass
class Canvas:
    """Where values lie in the picture, and what of it is taken."""

    x: Axis
    y: Axis
    taken: list[Box] = field(default_factory=list)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixels from the left and from the top."""
        across = LEFT + self.x.place(x) * (WIDTH - LEFT - RIGHT)
        return round(across, 2), round(HEIGHT - BOTTOM - self.y.place(y) * (HEIGHT - TOP - BOTTOM), 2)

    def name(self, x: float, y: float, words: str) -> str:
        """A name beside a point, where there is room for it; else ""."""
        across, down = self.at(x, y)
        for right, below, anchor in BESIDE:
            length = len(words) * LETTER
            left = across + right - (length if anchor == "end" else 0)
            box = left, down + below - 10, left + length, down + below + 3
            if self._is_free(box):
                self.taken.append(box)
                return _text(across + right, down + below, words, "name", anchor)
        return ""

    def _is_free(self, box: Box) -> bool:
        left, top, right, bottom = box
        inside = left > LEFT and right < WIDTH and top > TOP and bottom < HEIGHT - BOTTOM
        return inside and not any(a < right and left < c and b < bottom and top < d for a, b, c, d in self.taken)


def chart(series: Sequence[Series], x: Axis, y: Axis, summary: str) -> str:
    """A picture of points and lines; `summary` is read aloud in its place."""
    canvas = Canvas(x, y)
    parts = [*_grid(canvas), *_legend(series)]
    for one in series:
        parts += _line(one, canvas) if one.kind == "line" else _dots(one, canvas)
    named = [(x, y, name) for one in series for x, y, name in zip(one.x, one.y, one.named, strict=False) if name]
    parts += filter(None, (canvas.name(*each) for each in named))
    return _picture(WIDTH, HEIGHT, parts, summary)


def _picture(width: float, height: float, parts: Sequence[str], summary: str) -> str:
    body = "\n".join(parts)
    return (
        f'<div class="wide"><svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{in_html(summary)}" '
        f'style="min-width:{min(width, 560):g}px;max-width:{width * 1.3:g}px">\n{body}\n</svg></div>'
    )


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start", more: str = "") -> str:
    said = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{said}{more}>{in_html(words)}</text>'


def _grid(canvas: Canvas) -> list[str]:
    parts, bottom = [], HEIGHT - BOTTOM
    for value, words in canvas.x.ticks:
        across = LEFT + canvas.x.place(value) * (WIDTH - LEFT - RIGHT)
        parts.append(f'<path class="grid" d="M{across:.1f} {TOP}V{bottom}"/>')
        parts.append(_text(round(across, 1), bottom + 17, words, "tick", "middle"))
    for value, words in canvas.y.ticks:
        down = bottom - canvas.y.place(value) * (bottom - TOP)
        parts.append(f'<path class="grid" d="M{LEFT} {down:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 7, round(down + 4, 1), words, "tick", "end"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, canvas.x.title, "axis", "middle"))
    middle = (TOP + bottom) / 2
    parts.append(_text(14, middle, canvas.y.title, "axis", "middle", f' transform="rotate(-90 14 {middle:g})"'))
    return parts


def _legend(series: Sequence[Series]) -> list[str]:
    parts, left = [], float(LEFT)
    for one in series:
        mark = f'<path class="line" d="M{left:g} 14h18"/>' if one.kind == "line" else ""
        mark = mark or f'<circle class="{one.kind}" cx="{left + 9:g}" cy="14" r="5"/>'
        parts += [mark, _text(left + 24, 18, one.name, "tick")]
        left += 24 + len(one.name) * LETTER + 26
    return parts


def _line(one: Series, canvas: Canvas) -> list[str]:
    points = [canvas.at(x, y) for x, y in zip(one.x, one.y, strict=True)]
    path = "L".join(f"{x:g} {y:g}" for x, y in points)
    return [f'<path class="line" d="M{path}"/>'] if points else []


def _dots(one: Series, canvas: Canvas) -> list[str]:
    parts = []
    for x, y, told in zip(one.x, one.y, one.told, strict=True):
        across, down = canvas.at(x, y)
        radius = 6.5 if one.kind == "plan" else 4.5
        canvas.taken.append((across - radius, down - radius, across + radius, down + radius))
        parts.append(
            f'<circle class="{one.kind}" cx="{across:g}" cy="{down:g}" r="{radius:g}" data-x="{x!r}" data-y="{y!r}">'
            f"<title>{in_html(told)}</title></circle>"
        )
    return parts


def cells(rows: Sequence[str], columns: Sequence[str], bits: dict[tuple[int, int], tuple[float, str]]) -> str:
    """A map: in each cell (row, column) a number of bits, the stronger the colour the more, and what it is of."""
    left = 12 + max(map(len, rows)) * LETTER * 1.08
    size = max(CELL, min(40.0, (WIDTH - left) / max(len(columns), 1)))
    parts = [_text(left - 8, 34 + i * CELL + 16, name, "tick", "end") for i, name in enumerate(rows)]
    every = max(1, math.ceil(len(columns) / 24))
    parts += [_text(left + (j + 0.5) * size, 24, c, "tick", "middle") for j, c in enumerate(columns) if not j % every]
    for (i, j), (number, told) in bits.items():
        x, y = left + j * size, 34 + i * CELL
        strength = min(1.0, max(0.1, (number - 1) / 9))
        parts.append(
            f'<g data-bits="{number!r}"><title>{in_html(told)}</title><rect class="cell" x="{x:.1f}" y="{y:g}" '
            f'width="{size - 2:.1f}" height="{CELL - 2}" style="fill-opacity:{strength:.2f}"/>'
            f"{_text(x + size / 2 - 1, y + 15, f'{number:.2g}', 'bits', 'middle')}</g>"
        )
    return _picture(left + size * len(columns) + 4, 40 + CELL * len(rows), parts, "bits of every tensor")
