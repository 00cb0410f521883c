"""Fields and repr of a job, and those that are made on first use."""

from __future__ import annotations

import copy
import gc
import pickle
import tracemalloc
from concurrent.futures import Future
from datetime import timedelta

import cloudpickle
import pytest

import qmill
from qmill.errors import LaneError
from qmill.jobs.job import (
    DEFAULT_OPTIONS,
    FINISHED,
    Job,
)

from .alone import DAY, OWNER, cancel, fail, function_of_a_job, make, run, succeed

# How a job may stand: (make it so, state, running, done, cancelled).
STANDINGS = {
    "waiting": (lambda job: job, "waiting", False, False, False),
    "working": (run, "working", True, False, False),
    "done": (succeed, "done", False, True, False),
    "failed": (fail, "failed", False, True, False),
    "died": (lambda job: fail(job, how="died"), "died", False, True, False),
    "timed out": (lambda job: fail(job, how="timed out"), "timed out", False, True, False),
    "cancelled": (cancel, "cancelled", False, True, True),
    "lane error": (lambda job: cancel(job, LaneError("lane")), "cancelled", False, True, True),
}
standing = pytest.mark.parametrize("standing", STANDINGS.values(), ids=STANDINGS)

# -- what a job tells of itself -------------------------------------------------------------------


def test_a_job_is_a_future():
    assert isinstance(make(), Future)


@standing
def test_states(standing):
    bring, state, running, done, cancelled = standing
    job = bring(make())
    assert job.state == state
    assert (job.running(), job.done(), job.cancelled()) == (running, done, cancelled)


@standing
def test_the_text_of_a_job_tells_its_name_and_state(standing):
    bring, state, *_ = standing
    job = make(name="sum of all")
    assert "sum of all" in repr(bring(job))
    assert state in repr(job)


def test_a_job_is_called_by_its_number_unless_it_has_a_name():
    job = make()
    assert job.name == job.id
    assert str(job.id) in repr(job)
    assert make(name="a").name == "a"
    assert make(name="").name == ""
    assert make(name=0).name == 0


def test_what_it_was_given():
    job = make(lane=("a", 1), timeout=2.5)
    assert (job.function, job.args, job.kwargs) == (function_of_a_job, (1, 2), {"key": 3})
    assert (job.lane, job.timeout, job.priority) == (("a", 1), 2.5, 100)
    assert (make().lane, make().timeout) == (None, None)
    assert not job._is_chunk


def test_a_new_job_has_no_history():
    job = make()
    assert (job.attempts, job.worker, job.exitcode) == (0, None, None)
    assert (job.started, job.ended, job.processed, job.runtime) == (None, None, None, None)
    assert (job.output, job.callback) == (None, None)
    assert job.submitted == DAY + timedelta(seconds=5)


def test_times_are_told_by_the_owner():
    job = make()
    job._started, job._ended, job._processed = 6.0, 8.5, 9.0
    assert job.started == DAY + timedelta(seconds=6)
    assert job.ended == DAY + timedelta(seconds=8.5)
    assert job.processed == DAY + timedelta(seconds=9)
    assert job.runtime == 2.5


def test_moments_of_nought_are_moments():
    job = make()
    job._started, job._ended, job._processed = 0.0, 0.0, 0.0
    assert job.started == job.ended == job.processed == DAY
    assert job.runtime == 0.0


def test_a_job_that_runs_has_no_runtime():
    job = run(make())
    job._started = 6.0
    assert (job.runtime, job.ended) == (None, None)


def test_a_job_that_was_cancelled_before_it_began_has_no_runtime():
    job = cancel(make())
    job._ended = 8.0
    assert job.runtime is None
    assert job.started is None


@pytest.mark.parametrize("result", [3, None, False, 0, "", [], ValueError("as a result")])
def test_output_is_the_result(result):
    job = make()
    assert job.output is None
    succeed(job, result)
    assert job.output is result
    assert job.result() is result


@pytest.mark.parametrize("end", [fail, cancel])
def test_what_failed_has_no_output(end):
    assert end(make()).output is None


def test_a_job_lets_go_of_function_and_arguments():
    job = succeed(make(), 3)
    job._let_go()
    assert (job.function, job.args, job.kwargs) == (None, None, None)
    assert job.result() == 3


def test_a_job_is_found_by_what_it_is():
    one, other = make(), make()
    assert one != other
    assert {one: 1, other: 2}[one] == 1
    assert one in [other, one]


@pytest.mark.parametrize("name", ["nonsense", "_nonsense", "__nonsense__", "wait"])
def test_an_unknown_attribute(name):
    job = make()
    assert not hasattr(job, name)
    with pytest.raises(AttributeError, match=name):
        getattr(job, name)


@standing
@pytest.mark.parametrize(
    "send",
    [pickle.dumps, cloudpickle.dumps, copy.copy, copy.deepcopy, lambda job: pickle.dumps([job])],
    ids=["pickle", "cloudpickle", "copy", "deepcopy", "in a list"],
)
def test_a_job_cannot_be_pickled_and_says_so(standing, send):
    job = standing[0](make(name="sum of all"))
    with pytest.raises((TypeError, pickle.PicklingError)) as info:
        send(job)
    assert "Job" in str(info.value)
    assert "lock" not in str(info.value)  # the reason is that it is a job, not what is in it


def test_a_job_in_a_message_is_refused_by_name():
    with pytest.raises(qmill.SerializationError, match="Job"):
        qmill.Queue().put({"job": make()})


# -- what is made on first use --------------------------------------------------------------------


def size_of_one(bring, count=10_000):
    """Return the bytes that a job takes with what it owns by itself."""
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        jobs = bring(count)
        after, _ = tracemalloc.get_traced_memory()
        assert len(jobs) == count
        return (after - before) / count
    finally:
        tracemalloc.stop()


def bare_jobs(count):
    return [
        Job(10**6 + number, len, (), None, 100, DEFAULT_OPTIONS, OWNER, number + 0.5)
        for number in range(count)
    ]


def looked_at(count):
    jobs = bare_jobs(count)
    for job in jobs:
        repr(job), job.state, job.name, job.lane, job.timeout, job.output, job.submitted
    return jobs


def settled_unwatched(count):
    jobs = bare_jobs(count)
    for job in jobs:
        job._settle(FINISHED, None, None)
        job._call_back()
    return jobs


@pytest.mark.parametrize("bring", [bare_jobs, looked_at, settled_unwatched])
def test_a_job_that_nobody_watches_is_small(bring):
    assert size_of_one(bring) < 400


def test_an_ordinary_future_is_not():
    assert size_of_one(lambda count: [Future() for _ in range(count)]) > 800


def test_what_is_made_on_first_use_stays():
    job = make()
    assert (job._waiters, job._done_callbacks) == ([], [])
    assert job._condition is job._condition
    assert job._waiters is job._waiters
    assert job._done_callbacks is job._done_callbacks


def test_what_is_made_after_the_end_is_there_too():
    job = succeed(make(), 3)
    with job._condition:
        assert job._waiters == []
        assert job._done_callbacks == []
    assert job.result() == 3
