"""Names beside points: as many as can be read, none over another, over a point, or outside the figure."""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import plotly.graph_objects as go

from .style import GREY

# Pixels. A browser decides how wide a figure is, and is not asked: on a wider one the names lie further apart.
WIDTH, HEIGHT = 860, 310  # of the plot within its axes
NARROW = 540  # of one with something beside it
LETTER, LINE = 6.1, 14  # of a name in letters of 11 pixels
POINT = 6  # from the middle of a point to what must keep off it
OFFSETS = [*range(16, 60, LINE), *range(-16, -60, -LINE)]  # heights of a name over its point, the nearest first
SIDES = (8, -8, 40, -40)  # and how far its near end lies to the side

Box = tuple[float, float, float, float]  # left, right, bottom, top


def name_points(fig: go.Figure, x: np.ndarray, y: np.ndarray, names: Sequence[str], falling: bool = False) -> None:
    """Write names ("" for none) beside points (float64 [n]), those of the highest first; others are left to the hover.

    Those of a curve that is `falling`, in a narrow figure, stand above it and to the right, where there is room.
    The figure's axes are set to the ranges for which places were sought.
    """
    left, right, bottom, top = _ranges(x, y)
    width = NARROW if falling else WIDTH
    across = (x - left) / (right - left) * width
    up = (y - bottom) / (top - bottom) * HEIGHT
    taken = [(a - POINT, a + POINT, u - POINT, u + POINT) for a, u in zip(across, up, strict=True)]
    for i in np.argsort(-up, kind="stable"):
        for dx, dy in _places(falling) if names[i] else ():
            box = _box(across[i] + dx, up[i] + dy, dx, names[i])
            if _inside(box, width) and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                _write(fig, x[i], y[i], dx, dy, names[i])
                break
    fig.update_xaxes(range=[left, right])
    fig.update_yaxes(range=[bottom, top])


def _ranges(x: np.ndarray, y: np.ndarray) -> Box:
    """What the axes show: all points that there are, and room for the names of the outermost."""
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        return 0.0, 1.0, 0.0, 1.0
    x, y = x[known], y[known]
    wide, high = float(np.ptp(x)) or 1.0, float(np.ptp(y)) or 1.0
    return x.min() - 0.06 * wide, x.max() + 0.06 * wide, y.min() - 0.1 * high, y.max() + 0.16 * high


def _places(falling: bool) -> Iterator[tuple[int, int]]:
    places = sorted(product(SIDES, OFFSETS), key=lambda place: (abs(place[0]) + abs(place[1]), place))
    yield from ((dx, dy) for dx, dy in places if not falling or min(dx, dy) > 0)


def _box(x: float, y: float, side: int, name: str) -> Box:
    width = LETTER * len(name)
    return (x, x + width, y - LINE / 2, y + LINE / 2) if side > 0 else (x - width, x, y - LINE / 2, y + LINE / 2)


def _inside(box: Box, width: int) -> bool:
    return box[0] >= 0 and box[1] <= width and box[2] >= 0 and box[3] <= HEIGHT


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]


def _write(fig: go.Figure, x: float, y: float, dx: int, dy: int, name: str) -> None:
    far = abs(dy) > abs(OFFSETS[0]) or abs(dx) > abs(SIDES[0])
    fig.add_annotation(
        x=x, y=y, text=name, font={"size": 11}, xanchor="left" if dx > 0 else "right", yanchor="middle",
        # A line leads to a name that is not beside its point.
        showarrow=True, ax=dx, ay=-dy, arrowhead=0, arrowwidth=1, arrowcolor=GREY if far else "rgba(0,0,0,0)",
        standoff=5, borderpad=0,
    )  # fmt: skip
