"""Errors of items, and the end of a map."""

from __future__ import annotations

import gc
import itertools
import operator
import os
import threading

import pytest
from conformance_support import LIMIT_S, wait_for_end_of

import qmill

from .sources import (
    LEAVING,
    Source,
    broken_source,
    fail_at_three,
    stop_iteration_at_three,
    take_until_error,
)

# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"chunksize": 1}, {"chunksize": 5}, {"buffersize": 2}])
def test_an_error_comes_after_the_results_before_it(map_, options):
    """PAINS 24: a task that raises makes `map` return 3 of 8 results, silently."""
    results = map_(fail_at_three, range(8), **options)
    taken, error = take_until_error(results, ZeroDivisionError)
    assert taken == [0, 1, 2]
    assert error.args == ("item 3",)
    with pytest.raises(StopIteration):
        next(results)


def test_an_error_shows_where_the_task_failed():
    """PAINS 24: a task that raises makes `map` return 3 of 8 results, silently."""
    _, error = take_until_error(
        qmill.map(fail_at_three, range(8), max_workers=2), ZeroDivisionError
    )
    assert "in fail_at_three" in str(error.__cause__)


def test_unordered_errors_are_raised_too(map_):
    """PAINS 24: a task that raises makes `map` return 3 of 8 results, silently."""
    taken, _ = take_until_error(map_(fail_at_three, range(8), ordered=False), ZeroDivisionError)
    assert 3 not in taken


def test_an_error_in_the_first_and_in_the_last_item(map_):
    assert take_until_error(map_(fail_at_three, [3, 4, 5]), ZeroDivisionError)[0] == []
    assert take_until_error(map_(fail_at_three, [1, 2, 3]), ZeroDivisionError)[0] == [1, 2]


def test_an_error_does_not_wait_for_slow_items_after_it(gate):
    def fail_or_hold(number):
        return gate.hold(number) if number else 1 / 0

    results = qmill.map(fail_or_hold, range(4), max_workers=2)
    assert take_until_error(results, ZeroDivisionError)[0] == []


def test_a_stop_iteration_of_a_task_is_no_silent_end(map_, jobs):
    """PAINS 24: a task that raises makes `map` return 3 of 8 results, silently."""
    for results in (
        map_(stop_iteration_at_three, range(8)),
        jobs.map(stop_iteration_at_three, range(8)),
    ):
        taken, _ = take_until_error(results, RuntimeError)
        assert taken == [0, 1, 2]


@pytest.mark.parametrize("num_items", [0, 1, 3, 20])
@pytest.mark.parametrize("options", [{}, {"chunksize": 2}, {"buffersize": 1}])
def test_an_error_of_the_input_comes_after_the_results_before_it(map_, num_items, options):
    taken, _ = take_until_error(
        map_(operator.neg, broken_source(num_items), **options), LookupError
    )
    assert taken == [-number for number in range(num_items)]


def test_an_error_of_the_input_ends_an_unordered_map(map_):
    taken, _ = take_until_error(map_(abs, broken_source(5), ordered=False), LookupError)
    assert set(taken) <= set(range(5))


@pytest.mark.parametrize("how", ["item", "result"])
@pytest.mark.parametrize("options", [{}, {"chunksize": 1}, {"chunksize": 3}])
def test_what_cannot_be_pickled_in_the_middle(how, options):
    """PAINS 6: an item that cannot be pickled vanishes or hangs."""
    items = [1, 2, threading.Lock(), 4] if how == "item" else [1, 2, 3, 4]

    def function(item):
        return threading.Lock() if item == 3 else item

    results = qmill.map(function, items, max_workers=2, **options)
    taken, error = take_until_error(results, qmill.SerializationError)
    assert taken == [1, 2]
    assert "lock" in str(error)


def test_a_function_that_cannot_be_pickled():
    """PAINS 6: an item that cannot be pickled vanishes or hangs."""
    lock = threading.Lock()
    with pytest.raises(qmill.SerializationError, match="lock"):
        list(qmill.map(lambda _: lock, [1, 2], max_workers=2))


def test_threads_need_no_pickle():
    locks = [threading.Lock() for _ in range(5)]
    assert list(qmill.map(lambda lock: lock, locks, engine="thread")) == locks


def test_an_error_costs_only_its_map(map_):
    assert take_until_error(map_(fail_at_three, range(8)), ZeroDivisionError)[0] == [0, 1, 2]
    assert list(map_(abs, range(8))) == list(range(8))


# -- the end of a map -----------------------------------------------------------------------------


@pytest.mark.parametrize("leave", LEAVING)
def test_whoever_stops_iterating_stops_the_processes(leave):
    results = qmill.map(lambda _: os.getpid(), itertools.count(), max_workers=2)
    pids = {next(results) for _ in range(4)}
    leave(results)
    del results
    gc.collect()
    assert all(wait_for_end_of(pid) for pid in pids)


@pytest.mark.parametrize("leave", LEAVING)
def test_whoever_stops_iterating_stops_the_threads(leave):
    results = qmill.map(
        lambda _: threading.current_thread(), itertools.count(), max_workers=2, engine="thread"
    )
    threads = {next(results) for _ in range(4)}
    leave(results)
    del results
    gc.collect()
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()


def test_closing_kills_calls_that_run(gate):
    def tell_and_hold(number):
        return gate.hold(os.getpid()) if number else "first"

    results = qmill.map(tell_and_hold, range(10), max_workers=2, chunksize=1)
    assert next(results) == "first"
    pids = [gate.wait_for_start(), gate.wait_for_start()]
    results.close()
    assert all(wait_for_end_of(pid) for pid in pids)
    with pytest.raises(StopIteration):
        next(results)


def test_closing_twice_and_before_the_first_result(map_):
    results = map_(abs, range(5))
    results.close()
    results.close()
    with pytest.raises(StopIteration):
        next(results)


def test_a_map_that_nobody_asks_starts_nothing(engine):
    threads = threading.active_count()
    results = qmill.map(abs, Source([1]), engine=engine)
    assert threading.active_count() == threads
    del results


def test_workers_end_with_the_last_result():
    *_, pid = qmill.map(lambda _: os.getpid(), range(4), max_workers=2)
    assert wait_for_end_of(pid)
