"""Results of maps, in order and unordered."""

from __future__ import annotations

import functools
import itertools
import math
import operator
import os

import pytest
from conformance_support import Call

import qmill
from qmill.processes import launch

from .sources import get_permit


def negative(number):
    return -number


# -- results --------------------------------------------------------------------------------------


def test_the_quick_start():
    assert list(qmill.map(lambda number: number * 2, range(6))) == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize("num_items", [0, 1, 2, 3, 7, 100, 3000])
def test_results_come_in_the_order_of_the_items(map_, num_items):
    assert list(map_(operator.neg, range(num_items))) == [-number for number in range(num_items)]


def test_results_come_in_order_when_the_first_is_the_last_to_be_done(map_, gates):
    results = map_(lambda permits: permits.get(), gates[:4], chunksize=1)
    for number in (1, 2, 3, 0):
        gates[number].put(number)
    assert list(results) == [0, 1, 2, 3]


@pytest.mark.parametrize("options", [{}, {"chunksize": 3}, {"buffersize": 1}, {"ordered": False}])
def test_several_iterables_up_to_the_end_of_the_shortest(map_, options):
    results = map_(
        pow, itertools.count(1), [3, 2, 1], (number for number in range(5, 99)), **options
    )
    assert sorted(results) == sorted([1**3 % 5, 2**2 % 6, 3**1 % 7])


@pytest.mark.parametrize("items", ["abc", {"a": 1, "b": 2}, (), [None, None], {5}], ids=str)
def test_any_iterable(map_, items):
    assert list(map_(lambda item: item, items)) == list(items)
    assert list(map_(lambda item: item, iter(items))) == list(items)


FUNCTIONS = {
    "lambda": lambda number: 2 * number,
    "builtin": math.factorial,
    "class": complex,
    "bound method": "x".__mul__,
    "partial": functools.partial(pow, 2),
    "callable instance": operator.methodcaller("bit_length"),
    "function of a module": negative,
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_whatever_can_be_called(map_, jobs, function):
    wanted = [function(number) for number in (1, 2, 4)]
    assert list(map_(function, [1, 2, 4])) == wanted
    assert list(jobs.map(function, [1, 2, 4])) == wanted


@pytest.mark.parametrize("start_method", launch.METHODS)
def test_start_methods(start_method):
    factor = 3
    results = qmill.map(
        lambda number: (factor * number, os.getppid()),
        range(5),
        max_workers=2,
        start_method=start_method,
    )
    numbers, parents = zip(*results, strict=True)
    assert numbers == (0, 3, 6, 9, 12)
    assert (set(parents) == {os.getpid()}) == (start_method != "forkserver")


def test_processes_and_threads():
    assert os.getpid() not in qmill.map(lambda _: os.getpid(), range(4), max_workers=2)
    pids = qmill.map(lambda _: os.getpid(), range(4), max_workers=2, engine="thread")
    assert set(pids) == {os.getpid()}


def test_so_many_calls_run_at_a_time(map_, gate):
    results = map_(gate.hold, range(9), max_workers=3, chunksize=1)
    call = Call(list, results)
    for _ in range(3):
        gate.wait_for_start()
    assert gate.started.empty()
    gate.permits.put_many(range(9))
    assert sorted(call.result()) == list(range(9))


def test_one_worker(map_):
    assert list(map_(operator.neg, range(20), max_workers=1)) == [-n for n in range(20)]


def test_the_number_of_workers_is_chosen(engine):
    assert list(qmill.map(operator.neg, range(20), engine=engine)) == [-n for n in range(20)]


def test_large_results_of_a_map_arrive(map_):
    """PAINS 4: join before drain deadlocks."""
    results = map_(lambda number: bytes([number]) * 200_000, range(8))
    assert [(len(one), one[0]) for one in results] == [(200_000, number) for number in range(8)]


def test_large_items_and_results(map_):
    items = [bytes([number]) * 3_000_000 for number in range(6)]
    assert list(map_(lambda item: item, items)) == items


def test_large_results_that_nobody_takes(engine):
    """PAINS 4: join before drain deadlocks."""
    results = qmill.map(lambda _: bytes(200_000), range(8), max_workers=2, engine=engine)
    assert len(next(results)) == 200_000
    results.close()


def test_the_end_is_an_end(map_):
    results = map_(abs, [1])
    assert iter(results) is results
    assert next(results) == 1
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(results)


def test_maps_at_the_same_time(map_):
    both = zip(map_(operator.neg, range(20)), map_(abs, range(20)), strict=True)
    assert list(both) == [(-number, number) for number in range(20)]


def test_a_map_of_a_map(map_):
    results = map_(operator.neg, map_(lambda number: number * 10, range(20)))
    assert list(results) == [-10 * number for number in range(20)]


def test_a_map_in_a_map(map_):
    def inner(base):
        return sum(qmill.map(lambda number: base + number, range(3), max_workers=2))

    assert list(map_(inner, [10, 20])) == [33, 63]


def test_a_map_in_another_thread(map_):
    assert Call(lambda: list(map_(operator.neg, range(20)))).result() == [-n for n in range(20)]


# -- unordered ------------------------------------------------------------------------------------


def test_unordered_results_come_as_they_are_done(map_, gates):
    results = map_(get_permit, range(10), gates, ordered=False, chunksize=1)
    for number in (1, 0, 3, 2):
        gates[number].put(number)
        assert next(results) == number
    for number in range(4, 10):
        gates[number].put(number)
    assert sorted(results) == [4, 5, 6, 7, 8, 9]


def test_the_first_calls_begin_in_order_so_that_they_may_wait_for_one_another(map_):
    """Also after quick ones: none waits behind one that waits, while a later one has begun."""
    for _ in range(20):
        gates = [qmill.Queue() for _ in range(8)]
        results = map_(get_permit, range(8), gates, ordered=False, chunksize=1)
        for number in (1, 0, 3, 4, 5, 6, 7, 2):  # two run: the first that wait
            gates[number].put(number)
            assert next(results) == number


def test_unordered_results_are_all_there(map_):
    results = map_(operator.neg, range(1000), ordered=False)
    assert sorted(results) == sorted(-number for number in range(1000))
