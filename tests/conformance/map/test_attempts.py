"""Exceptions as results, and retries of items."""

from __future__ import annotations

import functools
import operator
import threading
from collections import deque
from concurrent.futures import CancelledError

import pytest

import qmill

from .sources import (
    CHUNKS,
    broken_source,
    counts_of,
    fail_at_three,
    fail_until,
    notes_of,
    take_until_error,
)

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
