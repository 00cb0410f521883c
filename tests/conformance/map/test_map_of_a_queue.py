"""`JobQueue.map`."""

from __future__ import annotations

import gc
import itertools
import operator
import threading
from concurrent.futures import CancelledError

import pytest
from conformance_support import blocked

import qmill

from .sources import LEAVING, Source, broken_source, fail_at_three, take_until_error


@pytest.mark.parametrize("options", [{}, {"buffersize": 1}, {"buffersize": 50}, {"chunksize": 3}])
def test_results_of_a_queue_come_in_the_order_of_the_items(jobs, options):
    for num_items in (0, 1, 2, 99):
        results = jobs.map(operator.neg, range(num_items), **options)
        assert list(results) == [-number for number in range(num_items)]


def test_many_results_of_a_queue(jobs):
    assert list(jobs.map(operator.neg, range(20_000))) == [-number for number in range(20_000)]
    results = jobs.map(operator.neg, range(20_000), buffersize=1000)
    assert list(results) == [-number for number in range(20_000)]


def test_a_queue_reads_all_before_map_returns(jobs):
    source = Source(range(30))
    results = jobs.map(abs, source)
    assert source.num_read == 30
    assert list(results) == list(range(30))


def test_a_queue_with_a_buffersize_reads_lazily(jobs):
    source = Source(itertools.count())
    results = jobs.map(operator.neg, source, buffersize=5)
    assert source.num_read <= 5
    for num_yielded in range(1, 100):
        assert next(results) == -(num_yielded - 1)
        assert source.num_read <= num_yielded + 5
    results.close()


def test_several_iterables_of_a_queue(jobs):
    assert list(jobs.map(pow, itertools.count(1), [3, 2, 1])) == [1, 4, 3]
    assert list(jobs.map(pow, itertools.count(1), [3, 2, 1], buffersize=2)) == [1, 4, 3]


def test_jobs_of_a_map_run_before_anybody_asks(jobs, gate):
    results = jobs.map(gate.hold, range(2), chunksize=1)
    assert {gate.wait_for_start(), gate.wait_for_start()} == {0, 1}
    gate.permits.put_many(["a", "a"])
    assert list(results) == ["a", "a"]


@pytest.mark.parametrize("options", [{}, {"buffersize": 3}, {"chunksize": 1}, {"chunksize": 5}])
def test_an_error_of_a_queues_map_comes_after_the_results_before_it(jobs, options):
    """PAINS 24: a task that raises makes `map` return 3 of 8 results, silently."""
    results = jobs.map(fail_at_three, range(8), **options)
    taken, error = take_until_error(results, ZeroDivisionError)
    assert taken == [0, 1, 2]
    assert error.args == ("item 3",)
    with pytest.raises(StopIteration):
        next(results)
    assert list(jobs.map(abs, range(3))) == [0, 1, 2]


@pytest.mark.parametrize("how", ["item", "result"])
def test_what_cannot_be_pickled_in_the_middle_of_a_queues_map(how):
    """PAINS 6: an item that cannot be pickled vanishes or hangs."""
    items = [1, 2, threading.Lock(), 4] if how == "item" else [1, 2, 3, 4]

    def function(item):
        return threading.Lock() if item == 3 else item

    with qmill.JobQueue(2) as jobs:
        for options in ({}, {"chunksize": 1}, {"buffersize": 2}):
            results = jobs.map(function, items, **options)
            assert take_until_error(results, qmill.SerializationError)[0] == [1, 2]


def test_an_error_of_the_input_of_a_queues_map(jobs):
    with pytest.raises(LookupError):
        jobs.map(abs, broken_source(5))
    results = jobs.map(operator.neg, broken_source(5), buffersize=2)
    assert take_until_error(results, LookupError)[0] == [0, -1, -2, -3, -4]
    assert list(jobs.map(abs, range(3))) == [0, 1, 2]


@pytest.mark.parametrize("leave", LEAVING[:2])
def test_dropping_a_queues_map_cancels_what_has_not_begun(engine, gate, leave):
    with qmill.JobQueue(1, engine=engine) as jobs:
        results = jobs.map(gate.hold, range(10), chunksize=1)
        gate.permits.put("first")
        assert next(results) == "first"
        assert (gate.wait_for_start(), gate.wait_for_start()) == (0, 1)
        leave(results)
        del results
        gc.collect()
        while jobs.wait(n=0) > 1:  # the dispatcher takes them back a moment later
            jobs.wait(n=1, timeout=0.1)
        gate.permits.put_many(range(10))
        assert jobs.wait() == 0
        assert gate.started.empty()
        assert jobs.submit(abs, -3).result() == 3


@pytest.mark.parametrize("leave", LEAVING[:2])
@pytest.mark.parametrize("options", [{}, {"chunksize": 1}, {"chunksize": 4}])
@pytest.mark.parametrize("how", ["map", "options"])
def test_a_queues_map_of_which_nobody_wants_results_makes_all_calls(engine, leave, options, how):
    with qmill.JobQueue(1, engine=engine, auto_start=False) as jobs:
        ran = qmill.Queue()
        map_ = jobs.map if how == "map" else jobs.options(priority=1).map
        results = map_(ran.put, range(10), **options)
        leave(results)
        del results, map_
        gc.collect()
        jobs.start()
        assert jobs.wait() == 0
    assert ran.get_many(20) == list(range(10))


@pytest.mark.parametrize("leave", LEAVING[:2])
def test_dropping_a_queues_lazy_map_before_its_first_result_cancels_all(engine, leave):
    with qmill.JobQueue(1, engine=engine, auto_start=False) as jobs:
        ran = qmill.Queue()
        results = jobs.map(ran.put, range(10), buffersize=3)
        leave(results)
        del results
        gc.collect()
        assert jobs.size(waiting=True) == 0
        jobs.start()
        assert jobs.wait() == 0
        assert ran.empty()


def test_maps_and_jobs_of_a_queue_at_the_same_time(jobs):
    one, other = jobs.map(operator.neg, range(50)), jobs.map(abs, range(50), buffersize=4)
    job = jobs.submit(pow, 2, 5)
    assert list(zip(one, other, strict=True)) == [(-number, number) for number in range(50)]
    assert job.result() == 32


def test_a_queues_map_goes_on_after_shutdown(jobs):
    results = jobs.map(operator.neg, range(20))
    jobs.shutdown(wait=False)
    assert list(results) == [-number for number in range(20)]


def test_a_queues_lazy_map_tells_that_the_queue_was_shut_down(jobs):
    results = jobs.map(operator.neg, itertools.count(), buffersize=4)
    assert next(results) == 0
    jobs.shutdown()
    with pytest.raises(RuntimeError, match="shut"):
        for _ in results:
            pass


def test_a_paused_queue_runs_a_map_when_it_is_started(engine):
    with qmill.JobQueue(1, engine=engine, auto_start=False) as jobs:
        call = blocked(list, jobs.map(operator.neg, range(5)))
        jobs.start()
        assert call.result() == [0, -1, -2, -3, -4]


def test_cancelling_the_rest_of_a_queues_map(engine):
    with qmill.JobQueue(1, engine=engine, auto_start=False) as jobs:
        results = jobs.map(operator.neg, range(5))
        jobs.clear_waiting()
        with pytest.raises(CancelledError):
            next(results)
