"""Timeouts of maps, and wrong arguments."""

from __future__ import annotations

import pytest
from conformance_support import LIMIT_S

import qmill

from .sources import take_until_error

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
