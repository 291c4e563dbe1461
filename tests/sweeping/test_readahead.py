"""Reading ahead: one item, no more; errors and Cancel reach the one who waits."""

import threading
import weakref

import pytest

from quantlab.core import pool
from quantlab.errors import Cancelled
from quantlab.sweeping.readahead import ReadAhead

WAIT = 30  # seconds after which a test that hangs is given up


def test_items_come_in_order():
    with ReadAhead(lambda i: i * i, range(50)) as reader:
        assert [reader.take() for _ in range(50)] == [i * i for i in range(50)]


def test_the_next_item_is_read_while_the_one_before_is_worked_on():
    """Reading of the second begins, and ends, before anybody asks for it."""
    read = [threading.Event() for _ in range(2)]

    def load(i):
        read[i].set()

    with ReadAhead(load, range(2)) as reader:
        reader.take()
        assert read[1].wait(WAIT)


def test_no_more_than_one_item_is_read_ahead():
    begun, second = [], threading.Event()

    def load(i):
        begun.append(i)
        if i == 1:
            second.set()
        return i

    with ReadAhead(load, range(10)) as reader:
        reader.take()
        assert second.wait(WAIT)
        assert not wait_for(lambda: len(begun) > 2, seconds=0.2)
        reader.take()
        assert wait_for(lambda: len(begun) == 3)
    assert not wait_for(lambda: len(begun) > 3, seconds=0.2)  # nothing is read after the end


def test_nothing_that_was_taken_is_kept():
    class Payload:
        pass

    with ReadAhead(lambda i: Payload(), range(3)) as reader:
        for _ in range(2):
            assert wait_for(lambda gone=weakref.ref(reader.take()): gone() is None)


def test_an_error_is_raised_where_its_item_is_taken_and_the_next_one_is_read_all_the_same():
    def load(i):
        if i == 1:
            raise KeyError("no such tensor")
        return i

    with ReadAhead(load, range(3)) as reader:
        assert reader.take() == 0
        with pytest.raises(KeyError, match="no such tensor"):
            reader.take()
        assert reader.take() == 2


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, SystemExit])
def test_whatever_ends_a_reader_does_not_leave_anybody_waiting(error):
    def load(i):
        raise error

    with ReadAhead(load, range(2)) as reader, pytest.raises(error):
        reader.take()


def test_cancel_does_not_wait_for_a_read_that_hangs():
    cancelled, hanging = threading.Event(), threading.Event()

    def load(i):
        cancelled.set()  # somebody presses Cancel while the file system does not answer
        hanging.wait(WAIT)

    try:
        with ReadAhead(load, range(2)) as reader, pool.limits(cancel=cancelled.is_set), pytest.raises(Cancelled):
            reader.take()
        assert not hanging.is_set()
    finally:
        hanging.set()


def test_what_is_read_on_the_pool_has_the_limits_of_the_one_who_reads():
    with pool.limits(cancel=lambda: True):
        reader = ReadAhead(lambda i: pool.run(abs, [i]), range(1))
    with reader, pytest.raises(Cancelled):
        reader.take()


def wait_for(condition, seconds=WAIT):
    """Whether a condition comes true; gives other threads the time to make it so."""
    tick = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if condition():
            return True
        tick.wait(0.01)
    return condition()
