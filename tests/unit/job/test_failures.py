"""Failures that nobody asks for are logged."""

from __future__ import annotations

import gc
import logging
import weakref

import pytest

from qmill.jobs.failures import tell_unseen
from qmill.jobs.job import Job

from ...crash.programs import Call
from .alone import LIMIT_S, cancel, fail, fail_loudly, failed_job, in_step, make, succeed


def by_failure(jobs):
    assert isinstance(jobs[0].exception(LIMIT_S), ValueError)


def by_failure_when_done(jobs):
    while not jobs[0].done():
        pass
    by_failure(jobs)


@pytest.mark.parametrize("how", ["failed", "died", "timed out"])
def test_a_failure_that_nobody_asked_for_is_told_once(told, how):
    job = failed_job(ValueError("no good"), how)
    assert told() == []
    del job
    gc.collect()
    [record] = told()
    assert record.levelno >= logging.WARNING
    text = logging.Formatter("%(message)s").format(record)  # with the traceback, if it has one
    assert "sum of all" in text
    assert "no good" in text
    gc.collect()
    tell_unseen()
    assert told() == []


ASK = {
    "result": lambda job: pytest.raises(ValueError, job.result),
    "result in time": lambda job: pytest.raises(ValueError, job.result, 0),
    "exception": Job.exception,
    "exception in time": lambda job: job.exception(timeout=0),
}


@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
def test_a_failure_that_somebody_asked_for_is_not_told(told, ask):
    job = failed_job()
    ask(job)
    del job
    gc.collect()
    tell_unseen()
    assert told() == []


@pytest.mark.parametrize("ask", ["result", "exception"])
def test_a_failure_is_seen_by_who_waited_for_it(told, ask):
    job = make()
    call = Call(getattr(job, ask)).wait_until_blocked()
    fail_loudly(job, ValueError("no good"))
    try:
        call.result()
    except ValueError:
        pass
    del job, call
    gc.collect()
    assert told() == []


@pytest.mark.parametrize("ask", ["result", "exception"])
def test_to_ask_in_vain_is_not_to_see(told, ask):
    job = make(name="sum of all")
    with pytest.raises(TimeoutError):
        getattr(job, ask)(0)
    fail_loudly(job, ValueError("no good"))
    del job
    gc.collect()
    assert len(told()) == 1


@pytest.mark.parametrize(("callback", "times"), [(Job.exception, 0), (Job.done, 1)])
def test_a_callback_sees_the_failure_if_it_asks(told, callback, times):
    job = make()
    job.add_done_callback(callback)
    fail_loudly(job, ValueError("no good"))
    del job
    gc.collect()
    assert len(told()) == times


def test_what_did_not_fail_is_not_told(told):
    succeed(make(), 3)
    cancel(make())
    gc.collect()
    tell_unseen()
    assert told() == []


def test_a_failure_is_told_at_the_end_of_the_program_and_not_again(told):
    job, other = failed_job(name="one"), failed_job(name="other")
    assert isinstance(other.exception(), ValueError)
    tell_unseen()
    [record] = told()
    assert "one" in record.getMessage()
    tell_unseen()
    del job, other
    gc.collect()
    assert told() == []


def test_who_asks_after_it_was_told_is_answered_all_the_same(told):
    job = failed_job()
    tell_unseen()
    with pytest.raises(ValueError, match="no good"):
        job.result()


def test_a_failure_that_is_not_to_be_told_is_not_told(told):
    job = fail(make())
    del job
    gc.collect()
    assert told() == []


def test_a_failed_job_is_freed_at_once(told):
    gc.disable()
    try:
        job = failed_job()
        ref = weakref.ref(job)
        del job
        assert ref() is None
        assert len(told()) == 1
    finally:
        gc.enable()


@pytest.mark.parametrize("watch", [by_failure, by_failure_when_done])
def test_who_asks_at_the_very_end_has_seen_the_failure(told, fast_switching, watch):
    rounds = 1500
    jobs_of = [[make()] for _ in range(rounds)]
    in_step(rounds, jobs_of, [watch, lambda jobs: fail_loudly(jobs[0], ValueError("no good"))])
    jobs_of.clear()
    gc.collect()
    assert told() == []


def test_failures_of_many_jobs_are_told_once_each(told):
    jobs = [failed_job(name=f"job {number}.") for number in range(100)]
    for job in jobs[::2]:
        job.exception()
    del jobs, job
    gc.collect()
    messages = " ".join(record.getMessage() for record in told())
    assert [messages.count(f"job {number}.") for number in range(100)] == [0, 1] * 50
