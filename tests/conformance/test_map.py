"""A function over many items: `qmill.map`, `JobQueue.map` and `qmill.parallel`."""

from __future__ import annotations

import functools
import gc
import itertools
import math
import operator
import os
import select
import threading
from collections import Counter, deque
from concurrent.futures import CancelledError

import pytest
from conformance_support import LIMIT_S, Call, blocked, wait_for_end_of

import qmill
from qmill.processes import launch


@pytest.fixture
def gates():
    """Ten queues of permits, one for each item."""
    queues = [qmill.Queue() for _ in range(10)]
    yield queues
    for queue in queues:
        queue.shutdown(immediate=True)


@pytest.fixture
def map_(engine):
    """`qmill.map` with two workers, whose iterators end with the test."""
    made = []

    def map_(*args, **kwargs):
        made.append(qmill.map(*args, **{"engine": engine, "max_workers": 2} | kwargs))
        return made[-1]

    yield map_
    for results in made:
        results.close()


class Source:
    """An iterable that knows how many of its items have been read."""

    def __init__(self, items):
        self._items = iter(items)
        self.num_read = 0

    def __iter__(self):
        for item in self._items:
            self.num_read += 1
            yield item


def by_value():
    """Return functions that travel by value: for one of this module a worker imports pytest."""

    def fail_at_three(number):
        if number == 3:
            raise ZeroDivisionError(f"item {number}")
        return number

    def stop_iteration_at_three(number):
        if number == 3:
            raise StopIteration
        return number

    def get_permit(number, permits):
        return permits.get()

    def get_permit_slowly(number, permits):
        select.select([], [], [], 0.05)
        return permits.get()

    return fail_at_three, stop_iteration_at_three, get_permit, get_permit_slowly


fail_at_three, stop_iteration_at_three, get_permit, get_permit_slowly = by_value()


def negative(number):
    return -number


def take_until_error(results, error):
    """Return what comes before the error that has to come."""
    taken = []
    with pytest.raises(error) as raised:
        for result in results:
            taken.append(result)
    return taken, raised.value


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


# -- laziness -------------------------------------------------------------------------------------


def test_nothing_is_read_before_the_first_result_is_asked_for(map_):
    source = Source(range(5))
    results = map_(abs, source)
    assert source.num_read == 0
    assert list(results) == [0, 1, 2, 3, 4]


def test_the_sixth_of_ten_slow_inputs_is_not_read_for_the_first_result(map_, gates):
    """PAINS 14: `map` reads its whole input, and memory grows."""
    source = Source(range(10))
    results = map_(get_permit_slowly, source, gates)
    gates[0].put("first")
    assert next(results) == "first"
    assert source.num_read <= 5
    for number, permits in enumerate(gates[1:]):
        permits.put(number)
    assert list(results) == list(range(9))
    assert source.num_read == 10


def test_slow_inputs_are_read_a_little_ahead_of_the_results(map_, gates):
    """PAINS 14: `map` reads its whole input, and memory grows.

    With two workers, four are under way.
    """
    source = Source(range(10))
    results = map_(get_permit_slowly, source, gates)
    for number, permits in enumerate(gates):
        permits.put(number)
        assert next(results) == number
        assert source.num_read <= number + 1 + 4


def test_a_map_of_an_endless_input_gives_results(map_):
    """PAINS 14: `map` reads its whole input, and memory grows."""
    source = Source(itertools.count())
    results = map_(operator.neg, source)
    assert list(itertools.islice(results, 300)) == [-number for number in range(300)]
    results.close()
    assert source.num_read < 1_000_000
    num_read = source.num_read
    gc.collect()
    assert source.num_read == num_read


def test_endless_inputs_unordered(map_):
    results = map_(operator.neg, itertools.count(), ordered=False)
    assert len(set(itertools.islice(results, 300))) == 300


@pytest.mark.parametrize("buffersize", [1, 2, 3, 10])
@pytest.mark.parametrize("options", [{}, {"chunksize": 1}, {"chunksize": 2}, {"ordered": False}])
def test_no_more_than_the_buffer_is_read_ahead(map_, buffersize, options):
    source = Source(range(50))
    num_yielded = 0
    for _ in map_(abs, source, buffersize=buffersize, **options):
        num_yielded += 1
        assert source.num_read <= num_yielded + buffersize
    assert num_yielded == 50


def test_the_whole_buffer_is_under_way(map_, gates):
    source = Source(range(10))
    results = map_(get_permit, source, gates, buffersize=6)
    gates[0].put("first")
    assert next(results) == "first"
    assert 6 <= source.num_read <= 7


def test_chunks_stay_together(map_):
    places = list(map_(lambda _: threading.get_native_id(), range(20), chunksize=5))
    for start in range(0, 20, 5):
        assert len(set(places[start : start + 5])) == 1


@pytest.mark.parametrize("chunksize", [1, 2, 7, 100])
def test_any_chunksize(map_, jobs, chunksize):
    wanted = [-number for number in range(40)]
    assert list(map_(operator.neg, range(40), chunksize=chunksize)) == wanted
    assert sorted(map_(operator.neg, range(40), chunksize=chunksize, ordered=False)) == wanted[::-1]
    assert list(jobs.map(operator.neg, range(40), chunksize=chunksize)) == wanted
    assert list(jobs.map(operator.neg, range(40), chunksize=chunksize, buffersize=9)) == wanted


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


def broken_source(num_items):
    yield from range(num_items)
    raise LookupError("the input is broken")


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


def leave_by_close(results):
    results.close()


def leave_by_drop(results):
    pass


def leave_by_exception(results):
    with pytest.raises(LookupError):
        for _ in results:
            raise LookupError


def leave_by_break(results):
    for _ in results:
        break


LEAVING = [leave_by_close, leave_by_drop, leave_by_exception, leave_by_break]


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


# -- timeouts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout_s", [0, 0.05])
def test_a_result_that_is_not_there_in_time(gate, timeout_s):
    results = qmill.map(gate.hold, range(4), max_workers=2, timeout=timeout_s)
    with pytest.raises(TimeoutError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_results_that_are_there_in_time(map_):
    assert list(map_(abs, range(10), timeout=LIMIT_S)) == list(range(10))


@pytest.mark.parametrize("timeout_s", [0, 0.05])
def test_a_result_of_a_queue_that_is_not_there_in_time(jobs, gate, timeout_s):
    results = jobs.map(gate.hold, range(2), timeout=timeout_s)
    with pytest.raises(TimeoutError):
        next(results)
    gate.permits.put_many([1, 2])


def test_results_before_the_timeout_come(jobs, gates):
    gates[0].put("first")
    results = jobs.map(lambda permits: permits.get(), gates[:2], timeout=1, chunksize=1)
    assert next(results) == "first"
    with pytest.raises(TimeoutError):
        next(results)
    gates[1].put("late")


def test_a_call_that_runs_too_long_is_killed(gate):
    def hold_at_two(number):
        return gate.hold() if number == 2 else number

    results = qmill.map(hold_at_two, range(5), max_workers=2, job_timeout=2)
    taken, error = take_until_error(results, qmill.JobTimeout)
    assert taken == [0, 1]
    assert isinstance(error, TimeoutError)


def test_a_call_of_a_queue_that_runs_too_long_is_killed(gate):
    def hold_at_two(number):
        return gate.hold() if number == 2 else number

    with qmill.JobQueue(2) as jobs:
        assert list(jobs.map(hold_at_two, [0, 1], chunksize=1)) == [0, 1]  # both are started
        results = jobs.map(hold_at_two, range(5), job_timeout=0.5)
        assert take_until_error(results, qmill.JobTimeout)[0] == [0, 1]
        assert list(jobs.map(abs, range(3))) == [0, 1, 2]


def test_threads_refuse_a_job_timeout():
    with pytest.raises(qmill.NotSupported, match="process"):
        qmill.map(abs, [1], engine="thread", job_timeout=5)


# -- wrong arguments ------------------------------------------------------------------------------

WRONG = [
    ("max_workers", 0, ValueError),
    ("max_workers", "2", TypeError),
    ("engine", "fork", ValueError),
    ("chunksize", 0, ValueError),
    ("chunksize", "1", TypeError),
    ("chunksize", 1.5, TypeError),
    ("buffersize", 0, ValueError),
    ("buffersize", "1", TypeError),
    ("timeout", "1", TypeError),
    ("timeout", -1, ValueError),
    ("job_timeout", "1", TypeError),
    ("job_timeout", -1, ValueError),
    ("start_method", "spoon", ValueError),
    ("retries", -1, ValueError),
    ("retries", "1", TypeError),
    ("retries", 1.5, TypeError),
]


@pytest.mark.parametrize(("name", "value", "error"), WRONG, ids=[f"{w[0]}={w[1]!r}" for w in WRONG])
def test_wrong_arguments_raise_at_the_call(name, value, error):
    with pytest.raises(error, match=rf"\b{name}\b"):
        qmill.map(abs, [1], **{name: value})


def test_wrong_functions_and_iterables_raise_at_the_call():
    with pytest.raises(TypeError, match="fn|function"):
        qmill.map(3, [1])
    with pytest.raises(TypeError, match="itera"):
        qmill.map(abs, 3)
    with pytest.raises(TypeError, match="itera"):
        qmill.map(pow, [1], 3)
    with pytest.raises(TypeError):
        qmill.map(abs, [1], colour=1)


# -- which item -----------------------------------------------------------------------------------


class Refusing(Exception):
    """An exception that takes no attributes, as those of frozen dataclasses."""

    def __setattr__(self, name, value):
        raise AttributeError(f"cannot set {name}")


class WithoutNotes(Exception):
    """An exception whose class has made something else of its notes."""

    __notes__ = property(lambda self: 1 / 0)


class Troubled:
    """An item that cannot be shown."""

    def __init__(self, trouble):
        self._trouble = trouble

    def __repr__(self):
        return self._trouble()


def failing():
    """Return functions that travel by value, as those above."""

    def fail_at(item, where, error=ZeroDivisionError):
        if item == where:
            raise error("item", item)
        return item

    def fail_always(*items):
        raise LookupError(items)

    def fail_until(number, path, limit):
        with open(path, "a+") as file:
            file.write(f"{number}\n")
            file.seek(0)
            tries = file.read().split().count(str(number))
        if number % 3 == 1 and tries < limit:
            raise LookupError(number, tries)
        return number

    return fail_at, fail_always, fail_until


fail_at, fail_always, fail_until = failing()


def notes_of(error):
    return getattr(error, "__notes__", [])


def counts_of(path):
    return Counter(map(int, path.read_text().split()))


CHUNKS = [{}, {"chunksize": 1}, {"chunksize": 7}, {"chunksize": 100}, {"buffersize": 3}]


@pytest.mark.parametrize("options", CHUNKS)
@pytest.mark.parametrize("where", [0, 33, 49])
def test_an_exception_has_a_note_with_the_index_and_the_item(map_, jobs, options, where):
    items = [f"item-{number}" for number in range(50)]
    function = functools.partial(fail_at, where=items[where])
    for results in (map_(function, items, **options), jobs.map(function, items, **options)):
        taken, error = take_until_error(results, ZeroDivisionError)
        assert taken == items[:where]
        assert (type(error), error.args) == (ZeroDivisionError, ("item", items[where]))
        assert notes_of(error) == [f"item {where} of map: 'item-{where}'"]


@pytest.mark.parametrize("chunksize", [1, 3])
def test_the_note_shows_the_tuple_of_several_iterables(map_, chunksize):
    results = map_(fail_always, [1, 2], "ab", chunksize=chunksize)
    _, error = take_until_error(results, LookupError)
    assert notes_of(error) == ["item 0 of map: (1, 'a')"]


def test_the_note_of_options_map(jobs):
    results = jobs.options(priority=3).map(fail_at_three, range(8))
    assert notes_of(take_until_error(results, ZeroDivisionError)[1]) == ["item 3 of map: 3"]


def test_the_note_of_an_unordered_map(map_):
    results = map_(fail_at_three, range(8), ordered=False)
    assert notes_of(take_until_error(results, ZeroDivisionError)[1]) == ["item 3 of map: 3"]


def test_a_map_in_a_map_notes_both_items(map_):
    def inner(number):
        return list(qmill.map(fail_at_three, [number, 3], engine="thread"))

    _, error = take_until_error(map_(inner, [1, 2]), ZeroDivisionError)
    assert notes_of(error) == ["item 1 of map: 3", "item 0 of map: 1"]


@pytest.mark.parametrize("kind", [Refusing, WithoutNotes])
def test_an_exception_that_refuses_a_note_gets_through(kind):
    function = functools.partial(fail_at, where=3, error=kind)
    results = qmill.map(function, range(8), engine="thread", max_workers=2)
    taken, error = take_until_error(results, kind)
    assert (taken, error.args) == ([0, 1, 2], ("item", 3))


def raise_from(error):
    raise error


ODD_ITEMS = {
    "raises": (lambda: Troubled(lambda: 1 / 0), "its repr raises ZeroDivisionError"),
    "exits": (lambda: Troubled(lambda: raise_from(SystemExit(3))), "its repr raises SystemExit"),
    "is no text": (lambda: Troubled(lambda: 3), "its repr raises TypeError"),
    "is long": (lambda: Troubled(lambda: "x" * 1000), "x" * 80 + "..."),
    "is a long text": (lambda: "x" * 1000, "'" + "x" * 79 + "..."),
}


@pytest.mark.parametrize("what", ODD_ITEMS)
def test_an_item_whose_repr(what):
    make, shown = ODD_ITEMS[what]
    results = qmill.map(fail_always, [make()], engine="thread")
    _, error = take_until_error(results, LookupError)
    assert notes_of(error) == [f"item 0 of map: {shown}"]


class Seen:
    """An item that tells when somebody shows it."""

    num_shown = 0

    def __repr__(self):
        Seen.num_shown += 1
        return "seen"


@pytest.mark.parametrize("kind", [list, tuple, set, lambda items: dict.fromkeys(items, 1)])
def test_only_the_beginning_of_a_large_item_is_looked_at(kind):
    Seen.num_shown = 0
    results = qmill.map(fail_always, [kind(Seen() for _ in range(10_000))], engine="thread")
    _, error = take_until_error(results, LookupError)
    assert "seen, " in notes_of(error)[0] or "seen: 1" in notes_of(error)[0]
    assert len(notes_of(error)[0]) < 120
    assert Seen.num_shown < 100


def test_items_that_are_slow_to_show_are_shown_for_a_limited_time(monkeypatch):
    monkeypatch.setattr(
        "qmill.job_queue.map_calls._SHOWING_S", -1.0
    )  # as if it had taken long already
    results = qmill.map(fail_always, [1, 2], engine="thread", return_exceptions=True)
    assert [notes_of(error) for error in results] == [["item 0 of map"], ["item 1 of map"]]


@pytest.mark.parametrize("options", [{}, {"chunksize": 4}, {"buffersize": 2}])
def test_an_error_of_the_input_has_a_note_with_the_index(map_, options):
    _, error = take_until_error(map_(operator.neg, broken_source(9), **options), LookupError)
    assert notes_of(error) == ["item 9 of map could not be read from its input"]


def test_an_error_of_the_input_of_a_queues_map_has_a_note(jobs):
    with pytest.raises(LookupError) as info:
        jobs.map(abs, broken_source(5))
    assert notes_of(info.value) == ["item 5 of map could not be read from its input"]


@pytest.mark.parametrize("options", CHUNKS)
@pytest.mark.parametrize("how", ["item", "result"])
def test_what_cannot_be_sent_has_a_note(how, options):
    items = [*range(8), threading.Lock() if how == "item" else 8, 9]

    def function(item):
        return threading.Lock() if item == 8 else item

    results = qmill.map(function, items, max_workers=2, **options)
    taken, error = take_until_error(results, qmill.SerializationError)
    assert taken == list(range(8))
    assert notes_of(error)[0].startswith("item 8 of map: ")


class RaisesWhenRebuilt:
    def __reduce__(self):
        return int, ("no number",)


@pytest.mark.parametrize("chunksize", [1, 2, 5, 9])
def test_an_item_that_cannot_be_rebuilt_costs_no_other(jobs, chunksize):
    if jobs._engine.can_kill:
        items = [0, 1, 2, RaisesWhenRebuilt(), 4, 5, 6]
        results = jobs.map(operator.not_, items, chunksize=chunksize)
        taken, error = take_until_error(results, qmill.SerializationError)
        assert taken == [True, False, False]
        assert notes_of(error)[0].startswith("item 3 of map: ")
        results = list(jobs.map(operator.not_, items, chunksize=chunksize, return_exceptions=True))
        assert type(results.pop(3)) is qmill.SerializationError
        assert results == [True] + [False] * 5


def test_a_result_that_is_not_there_in_time_has_a_note(jobs, gate):
    results = jobs.map(gate.hold, ["a", "b"], timeout=0.01)
    with pytest.raises(TimeoutError) as info:
        next(results)
    assert notes_of(info.value) == ["item 0 of map: 'a'"]
    gate.permits.put_many([1, 1])


def test_a_call_that_runs_too_long_is_named(gate):
    results = qmill.map(gate.hold, ["a"], job_timeout=0.2)
    with pytest.raises(qmill.JobTimeout, match=r"^item 0 of map ran longer") as info:
        next(results)
    assert notes_of(info.value) == ["item 0 of map: 'a'"]


def test_calls_that_are_cancelled_are_named(engine):
    with qmill.JobQueue(1, engine=engine, auto_start=False) as jobs:
        results = jobs.map(operator.neg, range(6), chunksize=2)
        jobs.clear_waiting()
        with pytest.raises(CancelledError) as info:
            next(results)
        assert notes_of(info.value) == ["items 0 to 1 of map"]


def test_one_object_that_is_raised_again_and_again_collects_no_notes():
    error = LookupError("always the same")

    def fail(_):
        raise error

    results = list(qmill.map(fail, range(50), engine="thread", return_exceptions=True))
    assert set(map(id, results)) == {id(error)}
    assert len(notes_of(error)) == 1


# -- return_exceptions ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", CHUNKS)
def test_exceptions_are_yielded_in_their_places(map_, jobs, options):
    def fail_at_each_third(number):
        if number % 3 == 0:
            raise ZeroDivisionError(number)
        return number

    for mapped in (map_, jobs.map):
        results = list(mapped(fail_at_each_third, range(60), return_exceptions=True, **options))
        for number, result in enumerate(results):
            if number % 3:
                assert result == number
            else:
                assert (type(result), result.args) == (ZeroDivisionError, (number,))
                assert notes_of(result) == [f"item {number} of map: {number}"]
        assert len(results) == 60


def test_exceptions_of_an_unordered_map_are_yielded(map_):
    results = list(map_(fail_at_three, range(20), return_exceptions=True, ordered=False))
    errors = [result for result in results if isinstance(result, ZeroDivisionError)]
    assert [error.args for error in errors] == [("item 3",)]
    assert sorted(set(results) - set(errors)) == [n for n in range(20) if n != 3]


@pytest.mark.parametrize("chunksize", [1, 4, None])
def test_what_cannot_be_sent_is_yielded(chunksize):
    items = [0, threading.Lock(), 2, 3, 4]

    def function(item):
        return threading.Lock() if item == 3 else item

    options = {"chunksize": chunksize, "return_exceptions": True, "max_workers": 2}
    results = list(qmill.map(function, items, **options))
    assert [results[place] for place in (0, 2, 4)] == [0, 2, 4]
    assert [type(results[place]) for place in (1, 3)] == [qmill.SerializationError] * 2


def test_nobody_is_told_of_the_end_of_a_chunk_whose_calls_are_made_one_by_one():
    told = deque()
    with qmill.JobQueue(1) as jobs:
        calls = jobs._calls_of(str, False, stops=False, sink=told)
        chunk = calls._submit([0, threading.Lock()], 0)
        assert isinstance(chunk.exception(), qmill.SerializationError)
        call = calls._submit([2], 2)
        assert call.result() == "2"
    assert list(told) == [call]


def test_a_call_that_runs_too_long_is_yielded(gate):
    gate.permits.put("first")
    function, items = gate.hold, [1, 2]
    results = qmill.map(function, items, job_timeout=0.3, return_exceptions=True, max_workers=1)
    first, second = results
    assert first == "first"
    assert type(second) is qmill.JobTimeout


def test_an_error_of_the_input_is_raised_all_the_same(map_):
    results = map_(abs, broken_source(5), return_exceptions=True)
    assert take_until_error(results, LookupError)[0] == list(range(5))


def test_calls_that_are_cancelled_are_yielded(engine):
    with qmill.JobQueue(1, engine=engine, auto_start=False) as jobs:
        results = jobs.map(operator.neg, range(5), chunksize=2, return_exceptions=True)
        jobs.clear_waiting()
        assert [type(result) for result in results] == [CancelledError] * 5


# -- retries --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", CHUNKS)
def test_retries_count_for_each_item(map_, jobs, options, tmp_path):
    for mapped, file in ((map_, tmp_path / "a"), (jobs.map, tmp_path / "b")):
        function = functools.partial(fail_until, path=str(file), limit=3)
        assert list(mapped(function, range(30), retries=2, **options)) == list(range(30))
        assert counts_of(file) == {n: 3 if n % 3 == 1 else 1 for n in range(30)}


@pytest.mark.parametrize("options", CHUNKS)
def test_an_item_that_fails_too_often_ends_the_map(map_, options, tmp_path):
    file = tmp_path / "tries"
    function = functools.partial(fail_until, path=str(file), limit=9)
    results = map_(function, range(30), retries=2, **options)
    taken, error = take_until_error(results, LookupError)
    assert (taken, error.args) == ([0], (1, 3))
    assert notes_of(error) == ["item 1 of map: 1"]
    assert counts_of(file)[1] == 3


@pytest.mark.parametrize("options", CHUNKS)
def test_items_that_fail_too_often_are_yielded_after_their_retries(jobs, options, tmp_path):
    file = tmp_path / "tries"
    function = functools.partial(fail_until, path=str(file), limit=9)
    results = list(jobs.map(function, range(30), retries=1, return_exceptions=True, **options))
    for number, result in enumerate(results):
        assert result == number or (number % 3 == 1 and result.args == (number, 2))
    assert counts_of(file) == {n: 2 if n % 3 == 1 else 1 for n in range(30)}


def test_retries_and_backoff_of_options_are_those_of_each_item(jobs, tmp_path):
    file = tmp_path / "tries"
    function = functools.partial(fail_until, path=str(file), limit=3)
    with_options = jobs.options(retries=2, backoff=0.001)
    assert list(with_options.map(function, range(12), chunksize=6)) == list(range(12))
    assert counts_of(file) == {n: 3 if n % 3 == 1 else 1 for n in range(12)}


def test_retries_in_a_lane(jobs, tmp_path):
    file = tmp_path / "tries"
    function = functools.partial(fail_until, path=str(file), limit=2)
    results = jobs.options(retries=1, lane="lane").map(function, range(9), chunksize=3)
    assert list(results) == list(range(9))
    assert [int(n) for n in file.read_text().split()] == [0, 1, 2, 1, 3, 4, 5, 4, 6, 7, 8, 7]


def test_retries_go_on_after_shutdown(jobs, tmp_path):
    """They are the queue's business, not that of who takes the results."""
    function = functools.partial(fail_until, path=str(tmp_path / "tries"), limit=3)
    results = jobs.map(function, range(30), retries=2, chunksize=7)
    jobs.shutdown()
    assert list(results) == list(range(30))


def test_retries_are_counted_in_the_summary(jobs, tmp_path):
    function = functools.partial(fail_until, path=str(tmp_path / "tries"), limit=2)
    list(jobs.map(function, range(30), retries=1, chunksize=7))
    summary = jobs.summary()
    assert (summary.states["done"], sum(summary.states.values()), summary.retries) == (30, 30, 10)


# -- JobQueue.map ---------------------------------------------------------------------------------


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


# -- parallel -------------------------------------------------------------------------------------


@qmill.parallel
def double(number, plus=0):
    """Double a number."""
    return 2 * number + plus


@qmill.parallel(max_workers=2, engine="thread")
def triple(number, *more, plus=0):
    return 3 * number + sum(more) + plus


@qmill.parallel(max_workers=2)
def fail_in_parallel(number):
    return fail_at_three(number)


def outputs_of(jobs):
    return [job.output for job in jobs]


def test_parallel_without_arguments():
    jobs = double(range(5))
    assert isinstance(jobs, list)
    assert all(isinstance(job, qmill.Job) and job.done() for job in jobs)
    assert outputs_of(jobs) == [0, 2, 4, 6, 8]


def test_parallel_with_arguments():
    assert outputs_of(triple(range(5))) == [0, 3, 6, 9, 12]


def test_parallel_passes_further_arguments():
    assert outputs_of(triple([1, 2], 10, 20, plus=100)) == [133, 136]
    assert outputs_of(double([1, 2], 5)) == [7, 9]
    assert outputs_of(double([1, 2], plus=5)) == [7, 9]


@pytest.mark.parametrize("name", ["items", "iterable"])
def test_parallel_takes_the_items_by_name(name):
    assert outputs_of(triple(**{name: [1, 2]})) == [3, 6]
    assert outputs_of(double(**{name: (number for number in range(3))}, plus=1)) == [1, 3, 5]


def test_parallel_can_be_called_as_often_as_you_like():
    assert [outputs_of(double([number])) for number in range(3)] == [[0], [2], [4]]
    calls = [Call(double, [number, number]) for number in range(3)]
    assert [outputs_of(call.result()) for call in calls] == [[0, 0], [2, 2], [4, 4]]


def test_parallel_gives_jobs_in_the_order_of_the_items(gates):
    @qmill.parallel(max_workers=4, engine="thread")
    def wait_for_permit(permits):
        return permits.get()

    call = Call(wait_for_permit, gates[:4])
    for number in (2, 3, 1, 0):
        gates[number].put(number)
    assert outputs_of(call.result()) == [0, 1, 2, 3]


def test_parallel_with_errors():
    jobs = fail_in_parallel(range(5))
    assert outputs_of(jobs) == [0, 1, 2, None, 4]
    assert [job.state for job in jobs] == ["done", "done", "done", "failed", "done"]
    with pytest.raises(ZeroDivisionError, match="item 3"):
        jobs[3].result()
    assert "in fail_at_three" in jobs[3].to_dict()["exception"]


def test_parallel_without_items():
    assert double([]) == []
    for call in (double, lambda: double(plus=1), lambda: double(3)):
        with pytest.raises(TypeError):
            call()


def test_parallel_keeps_the_functions_name_and_docstring():
    assert (double.__name__, double.__doc__) == ("double", "Double a number.")
    assert double.__wrapped__(4) == 8


def test_parallel_as_a_function_of_any_callable(engine):
    assert outputs_of(qmill.parallel(abs, engine=engine)([-1, -2])) == [1, 2]
    assert outputs_of(qmill.parallel(lambda n: -n, max_workers=1, engine=engine)([1, 2])) == [
        -1,
        -2,
    ]
    factor = 3

    @qmill.parallel(engine=engine, max_workers=2)
    def scale(number):
        return factor * number

    assert outputs_of(scale(range(4))) == [0, 3, 6, 9]


def test_parallel_passes_options_to_the_queue():
    called = []

    @qmill.parallel(max_workers=1, name="press", callback=called.append)
    def halve(number):
        return number / 2

    jobs = halve([4, 6])
    assert outputs_of(jobs) == [2, 3]
    assert called == jobs
    assert {job.to_dict()["qid"] for job in jobs} == {"press"}


def test_parallel_with_wrong_arguments():
    with pytest.raises(TypeError):
        qmill.parallel(3)
    with pytest.raises((TypeError, ValueError), match="max_workers"):
        qmill.parallel(max_workers=0)(abs)([1])
    with pytest.raises(TypeError, match="colour"):
        qmill.parallel(colour=1)(abs)([1])


def triple_all(numbers):
    return outputs_of(triple(numbers))


def test_parallel_functions_can_be_called_in_jobs():
    with qmill.JobQueue(1) as jobs:
        assert jobs.submit(double.__wrapped__, 4).result() == 8
        assert jobs.submit(triple_all, [1, 2]).result() == [3, 6]
