"""The pool: order, errors, nesting, cancel, and nothing kept."""

import gc
import os
import subprocess
import sys
import threading
import weakref

import pytest

import quantlab as ql
from quantlab.core import pool


@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_results_come_in_the_order_of_the_items(count):
    assert pool.run(lambda i: i * i, range(count)) == [i * i for i in range(count)]


def test_calls_inside_tasks_do_not_wait_for_each_other():
    """Deeper and wider than there are threads: a pool whose callers only waited would stop here for ever."""

    def task(depth):
        return sum(pool.run(task, [depth - 1] * 4)) if depth else 1

    assert task(5) == 4**5


def test_many_callers_share_the_pool():
    results = []
    callers = [threading.Thread(target=lambda: results.append(pool.run(abs, range(500)))) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(30)
    assert results == [list(range(500))] * 8


@pytest.mark.skipif(pool.core_count() == 1, reason="one core has no helpers")
def test_helpers_take_the_items_of_two_calls_in_turn():
    """Both callers are held up, so helpers do all: neither call is done before a third of the other is."""
    held = {owner: threading.Event() for owner in "ab"}
    done, count = [], 60

    def task(owner):
        if threading.current_thread().name == owner:
            held[owner].set()
            assert wait_for(lambda: len(done) == 2 * (count - 1))
        else:
            assert all(event.wait(30) for event in held.values())
            done.append(owner)

    callers = [threading.Thread(target=pool.run, args=(task, owner * count), name=owner) for owner in held]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert done.count("a") == done.count("b") == count - 1
    first = (done[-1] == "a" and "b") or "a"
    until = len(done) - done[::-1].index(first)
    assert until - (count - 1) >= count // 3


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or pool.core_count() == 1, reason="no cores to choose from")
def test_helpers_run_on_other_cores_than_their_caller():
    caller, cores = threading.get_ident(), os.sched_getaffinity(0)
    met = threading.Barrier(2)

    def task(i):
        met.wait(30)  # for a second thread
        return threading.get_ident() == caller, os.sched_getaffinity(0), pool.core_count()

    pool.run(task, range(2))  # from now on there is a helper
    seen = {called: rest for called, *rest in pool.run(task, range(2))}
    assert seen[True] == [cores, len(cores)]
    mask, count = seen[False]
    assert mask < cores and len(mask) == len(cores) - 1
    assert count == len(cores), "a call from inside of a helper is spread like any other"


INTERRUPTED = """
import threading
from quantlab.core import pool

start = threading.Thread.start

def interrupted(thread):
    start(thread)
    threading.Thread.start = start
    raise KeyboardInterrupt

threading.Thread.start = interrupted
try:
    pool.run(abs, range(4))
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(pool.core_count() == 1, reason="one core has no helpers")
def test_a_program_that_is_interrupted_while_its_helpers_start_comes_to_its_end():
    ran = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "interrupted\n"


def wait_for(condition):
    tick = threading.Event()
    return any(condition() or tick.wait(0.01) for _ in range(3000))


def test_the_first_error_is_raised_and_the_rest_is_not_begun():
    begun = []

    def task(i):
        begun.append(i)
        raise ValueError(f"item {i}")

    with pytest.raises(ValueError, match="item"):
        pool.run(task, range(1000))
    assert len(begun) <= pool.core_count()


def test_cancel_stops_before_the_next_item():
    done = []
    with pytest.raises(ql.Cancelled), pool.limits(cancel=lambda: len(done) >= 10):
        pool.run(done.append, range(1000))
    assert 10 <= len(done) <= 10 + pool.core_count()


def test_limits_hold_for_the_block_only():
    names = set()
    with pool.limits(workers=1):
        pool.run(lambda i: names.add(threading.current_thread().name), range(100))
    assert names == {threading.current_thread().name}
    pool.run(abs, range(10))


def test_nothing_of_a_call_is_kept():
    class Payload:
        pass

    payload = Payload()
    reference = weakref.ref(payload)

    def task(i, held=payload):
        return held is None

    pool.run(task, range(50))
    del payload, task
    gc.collect()
    assert reference() is None


def test_an_inner_limit_keeps_what_it_does_not_say_of_the_outer_one():
    threads = set()
    with pool.limits(workers=1), pool.limits(cancel=lambda: False):
        pool.run(lambda _: threads.add(threading.get_ident()), range(50))
    assert threads == {threading.get_ident()}
    with pytest.raises(ql.Cancelled), pool.limits(cancel=lambda: True), pool.limits(workers=1):
        pool.run(print, range(3))
