"""Callbacks of a job, and others that watch it."""

from __future__ import annotations

import asyncio
import concurrent.futures
from concurrent.futures import Future, as_completed, wait

import pytest

from qmill.jobs.job import (
    FINISHED,
    PENDING,
)

from ...crash.programs import Call
from .alone import LIMIT_S, Owner, cancel, fail, make, run, succeed

# -- callbacks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [succeed, fail, cancel])
def test_callbacks_are_called_once_in_their_order(end):
    job, called = make(), []
    for name in "abc":
        job.add_done_callback(lambda job, name=name: called.append((name, job, job.done())))
    assert called == []
    end(job)
    assert called == [(name, job, True) for name in "abc"]
    job._call_back()
    assert len(called) == 3


@pytest.mark.parametrize("end", [succeed, fail, cancel])
def test_a_callback_of_a_job_that_has_ended_is_called_at_once(end):
    called = []
    job = end(make())
    job.add_done_callback(called.append)
    job.add_done_callback(called.append)
    assert called == [job, job]


def test_callbacks_wait_until_they_are_called_and_those_that_come_late_do_not():
    job, called = make(), []
    job.add_done_callback(lambda job: called.append("early"))
    job._settle(FINISHED, None, None)
    assert called == []
    job.add_done_callback(lambda job: called.append("late"))
    assert called == ["late"]
    job._call_back()
    assert called == ["late", "early"]


def test_callbacks_are_not_called_for_a_retry():
    job, called = make(), []
    job.add_done_callback(called.append)
    run(job)
    job._state = PENDING
    assert called == []
    run(job)
    succeed(job)
    assert called == [job]


def test_a_callback_that_raises_is_told_and_keeps_no_other_from_being_called(caplog):
    job, called = make(), []

    def bad(job):
        raise RuntimeError("a bad callback")

    job.add_done_callback(bad)
    job.add_done_callback(called.append)
    succeed(job)
    job.add_done_callback(bad)
    assert called == [job]
    assert caplog.text.count("RuntimeError: a bad callback") == 2


def test_a_callback_may_use_its_job():
    job, seen = make(), []

    def use(job):
        seen.append(job.result(0))
        job.add_done_callback(lambda job: seen.append("a callback's callback"))
        assert wait([job], timeout=0).done == {job}
        assert job.cancel() is False
        assert repr(job)

    job.add_done_callback(use)
    succeed(job, 3)
    assert seen == [3, "a callback's callback"]


# -- others that watch ----------------------------------------------------------------------------


@pytest.mark.parametrize("end", [succeed, fail, cancel])
def test_wait_and_as_completed_of_jobs_that_have_ended(end):
    jobs = [end(make()) for _ in range(3)]
    assert wait(jobs) == (set(jobs), set())
    assert set(as_completed(jobs)) == set(jobs)
    assert wait(jobs, timeout=0, return_when=concurrent.futures.FIRST_COMPLETED).done == set(jobs)


@pytest.mark.parametrize("end", [succeed, fail, cancel])
def test_wait_tells_who_waits_of_each_end(end):
    jobs = [make() for _ in range(3)]
    call = Call(wait, jobs).wait_until_blocked()
    for job in jobs:
        end(job)
    assert call.result() == (set(jobs), set())


@pytest.mark.parametrize("end", [succeed, fail, cancel])
def test_waiting_for_the_first(end):
    jobs = [make() for _ in range(3)]
    call = Call(wait, jobs, return_when=concurrent.futures.FIRST_COMPLETED).wait_until_blocked()
    end(jobs[1])
    assert call.result() == ({jobs[1]}, {jobs[0], jobs[2]})


def test_waiting_for_the_first_failure():
    jobs = [make() for _ in range(4)]
    call = Call(wait, jobs, return_when=concurrent.futures.FIRST_EXCEPTION).wait_until_blocked()
    succeed(jobs[0])
    cancel(jobs[1])
    call.wait_until_blocked()
    fail(jobs[2])
    assert call.result() == (set(jobs[:3]), {jobs[3]})


def test_waiting_in_vain():
    jobs = [succeed(make()), make()]
    assert wait(jobs, timeout=0) == ({jobs[0]}, {jobs[1]})
    with pytest.raises(TimeoutError, match="1 .*of 2"):
        list(as_completed(jobs, timeout=0))


def test_as_completed_yields_each_as_it_ends():
    jobs = [make() for _ in range(4)]
    succeed(jobs[2])
    completed = as_completed(jobs, timeout=LIMIT_S)
    assert next(completed) is jobs[2]
    order = [fail, cancel, succeed]
    for job, end in zip([jobs[3], jobs[0], jobs[1]], order, strict=True):
        call = Call(next, completed).wait_until_blocked()
        end(job)
        assert call.result() is job
    with pytest.raises(StopIteration):
        next(completed)


def test_as_completed_yields_one_given_twice_once():
    job = make()
    call = Call(list, as_completed([job, job])).wait_until_blocked()
    succeed(job)
    assert call.result() == [job]
    assert list(as_completed([job, job])) == [job]


def test_jobs_and_other_futures_together():
    futures = [make(), Future(), make(), Future()]
    call = Call(list, as_completed(futures)).wait_until_blocked()
    futures[3].set_result(None)
    succeed(futures[0])
    futures[1].set_result(None)
    cancel(futures[2])
    ended = call.result()
    assert len(ended) == 4
    assert set(ended) == set(futures)


def test_who_went_away_is_not_told():
    """`as_completed` that is left in the middle takes its watch back."""
    jobs = [make(), make()]
    completed = as_completed(jobs)
    succeed(jobs[0])
    next(completed)
    completed.close()
    assert jobs[1]._waiters == []
    succeed(jobs[1])


@pytest.mark.parametrize("outcome", ["result", "exception", "cancelled", "before"])
def test_a_job_can_be_awaited(outcome):
    async def main():
        job = make()
        if outcome == "before":
            succeed(job, 3)
        future = asyncio.wrap_future(job)
        if outcome != "before":
            end = {"result": lambda: succeed(job, 3), "exception": lambda: fail(job)}
            call = Call(end.get(outcome, lambda: cancel(job)))
        try:
            return await asyncio.wait_for(future, LIMIT_S)
        finally:
            if outcome != "before":
                call.result()

    expected = {"exception": ValueError, "cancelled": asyncio.CancelledError}.get(outcome)
    if expected is None:
        assert asyncio.run(main()) == 3
    else:
        with pytest.raises(expected):
            asyncio.run(main())


def test_cancelling_what_awaits_a_job_cancels_the_job():
    owner = Owner()
    job = make(owner)

    async def main():
        future = asyncio.wrap_future(job)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future

    asyncio.run(main())
    assert owner.asked == [job]
    assert job.cancelled()
