"""What of a table the Sweep page shows, and the files it offers."""

import numpy as np
import pytest

from quantlab.core.config import grid
from quantlab.sweeping import tables
from quantlab.sweeping.sweep import sweep
from quantlab.ui import sweep_data


@pytest.fixture(scope="module")
def frame():
    configs = grid(["int4", "int8"], ["symmetric", "affine"], ["tensor", "ch1"], ["minmax"])
    return sweep({"a": np.ones((4, 4), np.float32), "b": np.ones(4, np.float32)}, configs)


def test_every_writer_is_offered_as_a_download():
    assert {write for _, _, write in sweep_data.DOWNLOADS.values()} == set(tables.WRITERS.values())


def test_a_tensor_shows_its_measured_rows_and_all_show_the_total(frame):
    assert len(sweep_data.of_tensor(frame, "b")) == 4  # it has no axis 1
    assert sweep_data.of_tensor(frame, tables.TOTAL).equals(tables.total(frame))


def test_filters_take_what_is_wanted_and_nothing_wanted_takes_all(frame):
    assert len(sweep_data.filtered(frame, dtype=["int4"])) == len(frame) / 2
    assert len(sweep_data.filtered(frame, dtype=["int4"], mapping=["affine"])) == len(frame) / 4
    assert sweep_data.filtered(frame, dtype=[], mapping=[]).equals(frame)
