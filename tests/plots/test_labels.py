"""Names beside points can be read: none lies over another, over a point, or outside the figure."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantlab.plots import labels
from quantlab.plots.style import figure

coordinates = st.lists(st.tuples(st.floats(2, 9), st.floats(0, 60)), min_size=1, max_size=40)


def boxes(fig, x, y):
    """(left, right, bottom, top) of every name, and (x, y) of every point, in pixels of the assumed figure."""
    (left, right), (bottom, top) = fig.layout.xaxis.range, fig.layout.yaxis.range

    def pixels(a, b):
        return (a - left) / (right - left) * labels.WIDTH, (b - bottom) / (top - bottom) * labels.HEIGHT

    named = []
    for note in fig.layout.annotations:
        across, up = pixels(note.x, note.y)
        width = labels.LETTER * len(note.text)
        start = across + note.ax if note.xanchor == "left" else across + note.ax - width
        named.append((start, start + width, up - note.ay - labels.LINE / 2, up - note.ay + labels.LINE / 2))
    return named, [pixels(a, b) for a, b in zip(x, y, strict=True)]


@settings(deadline=None)
@given(coordinates)
def test_no_name_lies_over_another_or_over_a_point_or_outside(points):
    x, y = (np.array([p[i] for p in points]) for i in (0, 1))
    fig = figure([], "", "")
    labels.name_points(fig, x, y, ["int4-sym-g128-mse"] * len(points))
    named, dots = boxes(fig, x, y)
    for i, (left, right, bottom, top) in enumerate(named):
        assert left >= -1e-6 and right <= labels.WIDTH + 1e-6 and bottom >= -1e-6 and top <= labels.HEIGHT + 1e-6
        assert not any(left < a < right and bottom < b < top for a, b in dots)
        for other in named[:i]:
            apart = other[0] - right, left - other[1], other[2] - top, bottom - other[3]
            assert max(apart) >= -1e-6


def test_what_lies_apart_has_all_its_names():
    x, y = np.linspace(2, 9, 12), np.linspace(10, 50, 12)
    fig = figure([], "", "")
    labels.name_points(fig, x, y, ["int4-sym-g128-mse"] * 12)
    assert len(fig.layout.annotations) == 12


@pytest.mark.parametrize("value", [5.0, np.nan, np.inf])
def test_one_point_or_none_that_can_be_drawn(value):
    fig = figure([], "", "")
    labels.name_points(fig, np.array([4.0]), np.array([value]), ["fp16"])
    assert np.isfinite(fig.layout.yaxis.range).all()
