"""The outcome of a job, and cancelling it."""

from __future__ import annotations

import concurrent.futures
import gc
import weakref
from concurrent.futures import CancelledError

import pytest

import qmill
from qmill.errors import LaneError
from qmill.jobs.job import (
    CANCELLED,
    FINISHED,
    PENDING,
    Job,
)

from ...crash.programs import Call
from .alone import LIMIT_S, Owner, ask_in_vain, cancel, fail, make, run, succeed, wait_a_bit

# -- the outcome ----------------------------------------------------------------------------------


def test_the_outcome_is_set_once():
    job = make()
    assert job._settle(FINISHED, "first", None) is True
    assert job._settle(FINISHED, "second", None) is False
    assert job._settle(FINISHED, None, ValueError()) is False
    assert job._settle(CANCELLED, None, None) is False
    assert job.result() == "first"
    assert job.exception() is None


def test_a_cancelled_job_stays_so():
    job = cancel(make())
    assert job._settle(FINISHED, "late", None) is False
    assert job.cancelled()
    assert job.output is None


@pytest.mark.parametrize(
    "error", [ValueError("no good"), SystemExit(3), KeyboardInterrupt(), qmill.JobTimeout("late")]
)
def test_a_failure_is_raised_as_itself(error):
    job = fail(make(), error)
    assert job.exception() is error
    for _ in range(2):
        with pytest.raises(type(error)) as info:
            job.result()
        assert info.value is error


@pytest.mark.parametrize("ask", ["result", "exception"])
def test_a_cancelled_job_raises(ask):
    with pytest.raises(CancelledError):
        getattr(cancel(make()), ask)()


@pytest.mark.parametrize("ask", ["result", "exception"])
def test_a_job_that_was_cancelled_for_another_ones_failure_tells_it(ask):
    job = cancel(make(), LaneError("the one before it failed"))
    with pytest.raises(LaneError, match="the one before it failed"):
        getattr(job, ask)()


@pytest.mark.parametrize("bring", [make, lambda: run(make())], ids=["waiting", "working"])
@pytest.mark.parametrize("ask", ["result", "exception"])
@pytest.mark.parametrize("timeout", [0, 0.001, -1])
def test_an_outcome_that_does_not_come_in_time(bring, ask, timeout):
    job = bring()
    with pytest.raises(TimeoutError):
        getattr(job, ask)(timeout)
    with pytest.raises(concurrent.futures.TimeoutError):
        getattr(job, ask)(timeout=timeout)
    assert not job.done()
    assert succeed(job, 3).result(timeout) == 3


@pytest.mark.parametrize("timeout", [None, 1e6, LIMIT_S])
@pytest.mark.parametrize("bring", [make, lambda: run(make())], ids=["waiting", "working"])
def test_whoever_waits_is_told(bring, timeout):
    job = bring()
    calls = [Call(ask, timeout) for ask in (job.result, job.exception, job.result)]
    for call in calls:
        call.wait_until_blocked()
    succeed(job, 3)
    assert [call.result() for call in calls] == [3, None, 3]


def test_whoever_waits_is_told_of_a_failure():
    job = make()
    asks, looks = Call(job.result).wait_until_blocked(), Call(job.exception).wait_until_blocked()
    fail(job)
    with pytest.raises(ValueError, match="no good"):
        asks.result()
    assert isinstance(looks.result(), ValueError)


def test_whoever_waits_is_told_of_a_cancellation():
    job = make()
    calls = [Call(ask).wait_until_blocked() for ask in (job.result, job.exception)]
    cancel(job)
    for call in calls:
        with pytest.raises(CancelledError):
            call.result()


def test_whoever_waits_waits_on_over_a_retry():
    job = run(make())
    call = Call(job.result).wait_until_blocked()
    job._state = PENDING
    assert (job.state, job.running(), job.done()) == ("waiting", False, False)
    call.wait_until_blocked()
    run(job)
    succeed(job, "at last")
    assert call.result() == "at last"


@pytest.mark.parametrize("end", [lambda job: cancel(job, LaneError("lane")), cancel, fail])
def test_an_error_that_is_kept_keeps_no_job_alive(end):
    job = end(make())
    ref = weakref.ref(job)
    gc.disable()
    try:
        with pytest.raises((ValueError, CancelledError)) as info:
            job.result()
        error = info.value
        del job, info
        assert ref() is None
    finally:
        gc.enable()
    assert error.__traceback__ is not None


def test_a_settled_job_is_freed_at_once():
    """Without the help of the garbage collector: it may hold a large result."""
    refs = []
    gc.disable()
    try:
        for watch in (Job.done, lambda job: job.add_done_callback(print), ask_in_vain, wait_a_bit):
            job = make()
            watch(job)
            job._settle(FINISHED, Result(), None)
            refs += [weakref.ref(job), weakref.ref(job.output)]
            del job
        assert [ref() for ref in refs] == [None] * len(refs)
    finally:
        gc.enable()


class Result:
    pass


# -- cancelling -----------------------------------------------------------------------------------


def test_cancelling_is_what_the_owner_does():
    owner = Owner()
    job = make(owner)
    assert job.cancel() is True
    assert owner.asked == [job]
    assert job.cancelled()
    assert job.state == "cancelled"


def test_the_owner_may_refuse():
    job = run(make(Owner(refuses=True)))
    assert job.cancel() is False
    assert job.running()


@pytest.mark.parametrize("end", [succeed, fail])
def test_what_has_ended_cannot_be_cancelled(end):
    job = end(make())
    assert job.cancel() is False
    assert not job.cancelled()


def test_cancelling_tells_callbacks():
    job = make()
    called = []
    job.add_done_callback(called.append)
    job.cancel()
    assert called == [job]
