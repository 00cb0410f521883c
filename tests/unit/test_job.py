"""A job as a `concurrent.futures.Future`: its outcome, who waits for it, and what it costs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import gc
import itertools
import logging
import os
import pickle
import signal
import sys
import threading
import traceback
import tracemalloc
import weakref
from concurrent.futures import CancelledError, Future, as_completed, wait
from datetime import datetime, timedelta

import cloudpickle
import pytest

import qmill
from qmill.errors import LaneError, WorkerDied
from qmill.jobs import job as job_module
from qmill.jobs.job import (
    CANCELLED,
    DEFAULT_OPTIONS,
    FINISHED,
    PENDING,
    RUNNING,
    Chunk,
    Job,
    MapCall,
    Options,
    log_unseen,
    tell_unseen,
)

from ..crash.programs import Call
from ..limits import _no_test_hangs  # noqa: F401 (a fixture)

LIMIT_S = 30.0
DAY = datetime(2030, 1, 1)


class Owner:
    """A queue of which a job knows how to be cancelled, unless it refuses."""

    qid = "the queue"

    def __init__(self, refuses=False):
        self.refuses = refuses
        self.asked = []

    def log_later(self, what, error):
        log_unseen(what, error)

    def cancel(self, job):
        self.asked.append(job)
        if self.refuses or not job._settle(CANCELLED, None, None):
            return False
        job._call_back()
        return True

    def host_of(self, worker):
        return None if worker is None else "here"

    def wall_time(self, moment_s):
        return DAY + timedelta(seconds=moment_s)


OWNER = Owner()
NUMBERS = itertools.count(1000)


def function_of_a_job(*args, **kwargs):
    return args, kwargs


def make(owner=OWNER, **options):
    return Job(
        next(NUMBERS), function_of_a_job, (1, 2), {"key": 3}, 100, Options(**options), owner, 5.0
    )


def succeed(job, result=None):
    assert job._settle(FINISHED, result, None)
    job._call_back()
    return job


def fail(job, error=None, how="failed"):
    job._failure = how
    assert job._settle(FINISHED, None, error or ValueError("no good"))
    job._call_back()
    return job


def cancel(job, error=None):
    assert job._settle(CANCELLED, None, error)
    job._call_back()
    return job


def run(job):
    job._state = RUNNING
    return job


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


def ask_in_vain(job):
    with pytest.raises(TimeoutError):
        job.result(0)


def wait_a_bit(job):
    assert wait([job], timeout=0).not_done == {job}


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


# -- many threads ---------------------------------------------------------------------------------


@pytest.fixture
def fast_switching():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def by_as_completed(jobs):
    ended = list(as_completed(jobs, timeout=LIMIT_S))
    assert len(ended) == len(jobs)
    assert set(ended) == set(jobs)


def by_as_completed_backwards(jobs):
    by_as_completed(jobs[::-1])


def by_wait(jobs):
    assert wait(jobs, timeout=LIMIT_S) == (set(jobs), set())


def by_waiting_for_the_first(jobs):
    left = set(jobs)
    while left:
        found = wait(left, timeout=LIMIT_S, return_when=concurrent.futures.FIRST_COMPLETED)
        assert found.done
        left = found.not_done


def by_result(jobs):
    for job in jobs:
        assert job.result(LIMIT_S) == job.id


def by_exception(jobs):
    for job in reversed(jobs):
        assert job.exception(LIMIT_S) is None


def by_callbacks(jobs):
    called, all_called = [], threading.Event()

    def callback(job):
        called.append(job)
        if len(called) == len(jobs):
            all_called.set()

    for job in jobs:
        job.add_done_callback(callback)
    assert all_called.wait(LIMIT_S)
    assert len(called) == len(jobs)
    assert set(called) == set(jobs)


def in_step(rounds, jobs_of, parts):
    """Run the parts, a thread each, over the jobs of each round, all beginning it at once."""
    barrier = threading.Barrier(len(parts))

    def work(part):
        try:
            for number in range(rounds):
                barrier.wait(LIMIT_S)
                part(jobs_of[number])
        except BaseException:
            barrier.abort()
            raise

    calls = [Call(work, part) for part in parts]
    errors = []
    for call in calls:
        try:
            call.result()
        except threading.BrokenBarrierError:
            pass  # because another failed
        except BaseException as error:
            errors.append(error)
    if errors:
        raise errors[0]


WATCHES = [
    by_as_completed,
    by_as_completed_backwards,
    by_wait,
    by_waiting_for_the_first,
    by_result,
    by_exception,
    by_callbacks,
]


def settle_first_half(jobs):
    for job in jobs[: len(jobs) // 2]:
        succeed(job, job.id)


def settle_second_half(jobs):
    for job in jobs[: len(jobs) // 2 - 1 : -1]:
        succeed(job, job.id)


@pytest.mark.parametrize("watch", WATCHES)
def test_no_end_is_missed_and_none_comes_twice(fast_switching, watch):
    rounds = 1500
    jobs_of = [[make() for _ in range(3)] for _ in range(rounds)]
    for jobs in jobs_of[::3]:
        succeed(jobs[1], jobs[1].id)  # of some rounds, one has ended before

    def settle(jobs):
        for job in jobs:
            if not job.done():
                succeed(job, job.id)

    in_step(rounds, jobs_of, [watch, settle])


def test_watches_of_all_kinds_over_the_same_jobs(fast_switching):
    rounds = 300
    jobs_of = [[make() for _ in range(6)] for _ in range(rounds)]
    in_step(rounds, jobs_of, [*WATCHES, settle_first_half, settle_second_half])


def test_watches_of_all_kinds_over_one_job(fast_switching):
    rounds = 300
    jobs_of = [[make()] for _ in range(rounds)]
    in_step(rounds, jobs_of, [*WATCHES, *WATCHES, lambda jobs: succeed(jobs[0], jobs[0].id)])


def test_of_those_that_settle_a_job_at_once_one_does(fast_switching):
    rounds = 1000
    jobs_of = [[make()] for _ in range(rounds)]
    settled = []

    def settle_with(name):
        def settle(jobs):
            if jobs[0]._settle(FINISHED, name, None):
                settled.append((jobs[0], name))

        return settle

    in_step(rounds, jobs_of, [settle_with(name) for name in "abc"])
    assert len(settled) == rounds
    assert [job.result(0) for job, _ in settled] == [name for _, name in settled]


def test_what_is_made_on_first_use_is_made_once(fast_switching):
    rounds = 1000
    jobs_of = [[make()] for _ in range(rounds)]
    found = [[] for _ in range(rounds)]

    def look(jobs):
        [job] = jobs
        row = found[job.id - jobs_of[0][0].id]
        row.append((id(job._condition), id(job._waiters), id(job._done_callbacks)))

    in_step(rounds, jobs_of, [look] * 3)
    assert {(len(row), len(set(row))) for row in found} == {(3, 1)}


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


# -- failures that nobody asks for ----------------------------------------------------------------


@pytest.fixture
def told(caplog):
    """Return what was logged of failures since the last time."""
    caplog.set_level(logging.WARNING, logger="qmill")

    def messages():
        found = [record for record in caplog.records if record.name.startswith("qmill")]
        caplog.clear()
        return found

    return messages


def by_failure(jobs):
    assert isinstance(jobs[0].exception(LIMIT_S), ValueError)


def by_failure_when_done(jobs):
    while not jobs[0].done():
        pass
    by_failure(jobs)


def failed_job(error=None, how="failed", name="sum of all"):
    """Do what a queue does with a job that failed and that `get` may fetch."""
    return fail_loudly(make(name=name), error or ValueError("no good"), how)


def fail_loudly(job, error, how="failed"):
    job._failure = how
    job._fail_loudly(error)
    assert job._settle(FINISHED, None, error)
    job._call_back()
    return job


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


# -- fork -----------------------------------------------------------------------------------------


def in_child(function, *args):
    """Call a function in a forked child, which is ended if it hangs: its exit code."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(5)
            job_module.after_fork_in_child()
            function(*args)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_child_can_watch_although_a_thread_of_its_parent_was_just_doing_so():
    locked, go_on = threading.Event(), threading.Event()

    def hold():
        with job_module._watch_lock:
            locked.set()
            go_on.wait(LIMIT_S)

    call = Call(hold)
    assert locked.wait(LIMIT_S)
    job = make()

    def watch():
        called = []
        job.add_done_callback(called.append)
        succeed(job, 3)
        assert called == [job]
        assert list(as_completed([job], timeout=0)) == [job]

    code = in_child(watch)
    go_on.set()
    call.result()
    assert code == 0


def test_a_failure_of_the_parent_is_told_by_the_parent_alone(told):
    jobs = [failed_job(), failed_job()]

    def end():
        jobs.pop()
        gc.collect()
        tell_unseen()
        assert told() == []

    assert in_child(end) == 0
    jobs.clear()
    gc.collect()
    assert len(told()) == 2


# -- a garbage collection in the middle of a call -------------------------------------------------


class WatchesWhenCollected:
    """Part of a cycle, so that a garbage collection, wherever it runs, watches other jobs."""

    def __init__(self, jobs, called):
        self.jobs, self.called, self.me = jobs, called, self

    def __del__(self):
        for job in self.jobs:
            job.add_done_callback(self.called.append)
        succeed(self.jobs[0])
        cancel(self.jobs[1])


USES = {
    "callback": lambda job: job.add_done_callback(Job.done),
    "condition": lambda job: job._condition,
    "waiters": lambda job: job._waiters,
    "result": ask_in_vain,
    "wait": wait_a_bit,
    "settle": lambda job: job._settle(FINISHED, None, None),
    "cancel": Job.cancel,
    "all of it": lambda job: (job.add_done_callback(Job.done), succeed(job), job.result()),
}


def use_while_garbage_is_collected(use):
    """Have a collection begin after one more allocation each time, up to the end of the use."""
    called = []
    gc.freeze()
    for allocations in range(1, 120):
        jobs = [make(), make(), make()]
        gc.collect()
        gc.disable()
        WatchesWhenCollected(jobs[:2], called)
        gc.set_threshold(allocations)
        gc.enable()
        use(jobs[2])
        gc.set_threshold(1000)
        gc.collect()
        assert called[-2:] == jobs[:2], "it was not collected"
        assert len(called) == 2 * allocations


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_jobs_may_be_watched_and_settled_in_a_garbage_collection(use):
    # A thread that waits for itself waits for ever: in a child, which can be ended.
    assert in_child(use_while_garbage_is_collected, use) == 0


# -- several calls in one -------------------------------------------------------------------------


def make_chunk(items, owner=OWNER, *, retries=0, **kwargs):
    args, options = (items, False, False), DEFAULT_OPTIONS._replace(retries=retries)
    number = next(NUMBERS)
    return Chunk(number, function_of_a_job, args, None, 100, options, owner, 5.0, **kwargs)


def test_a_chunk_counts_its_calls():
    chunk = make_chunk([1, 2, 3])
    assert chunk._is_chunk
    assert chunk._num_calls == 3
    succeed(chunk, "results")
    chunk._let_go()
    assert chunk._num_calls == 3
    assert chunk.result() == "results"


A, B = ValueError("a"), WorkerDied(1, -9, 9)


def test_a_chunk_whose_calls_all_return_is_whole():
    chunk = make_chunk("abc")
    assert chunk.is_whole(([1, 2, 3], {}))
    assert not chunk.is_whole(([1, 2], {}))
    assert not chunk.is_whole(([1, None, 3], {1: A}))


def test_a_chunk_that_stops_ends_with_the_first_call_that_fails():
    chunk = make_chunk("abcdef")
    assert chunk.add(([1, 2, None], {2: A})) == 0
    assert chunk._to_do == []
    assert chunk.outcome() == ([1, 2, None], {2: A})


def test_a_chunk_that_goes_on_makes_the_calls_that_are_left():
    chunk = make_chunk("abcdef", stops=False)
    assert chunk.add(([1, None, 3, None], {1: A, 3: B})) == 0
    assert (chunk._to_do, chunk._num_to_do, chunk._version) == ([4, 5], 2, 1)
    assert not chunk.is_whole(([5, 6], {}))
    assert chunk.add(([5, 6], {})) == 0
    assert chunk._to_do == []
    assert chunk.outcome() == ([1, None, 3, None, 5, 6], {1: A, 3: B})


@pytest.mark.parametrize("stops", [True, False])
def test_retries_of_a_chunk_count_for_each_call(stops):
    chunk = make_chunk("abcd", retries=2, stops=stops)
    assert chunk.add(([1, None], {1: A})) == 1  # a death: the others were not begun
    assert chunk._to_do == [1, 2, 3]
    assert chunk.add(([None, 3, None], {0: A, 2: A})) == 2
    assert chunk._to_do == [1, 3]
    assert chunk.add(([2, None], {1: B})) == 1
    assert chunk._to_do == [3]
    assert chunk.add(([None], {0: A})) == 0
    assert chunk._to_do == []
    assert chunk.outcome() == ([1, 2, 3, None], {3: A})


def test_a_chunk_that_stops_still_retries_what_comes_before_the_failure():
    chunk = make_chunk("abcd", retries=1)
    assert chunk.add(([None, None, 3, None], {0: A, 1: A, 3: A})) == 3
    assert chunk.add(([None, None, None], {0: A, 1: B, 2: B})) == 0
    assert chunk.outcome() == ([None], {0: A})


def test_a_chunk_that_stops_keeps_no_results_after_the_failure():
    chunk = make_chunk("abcd", retries=1)
    chunk.add(([1, None, 3, 4], {1: A}))
    chunk.add(([None], {0: B}))
    assert chunk.outcome() == ([1, None], {1: B})


def test_a_chunk_keeps_its_items_if_one_is_to_be_named():
    good, bad, broken = (make_chunk("abc") for _ in range(3))
    succeed(good, ([1, 2, 3], {}))
    succeed(bad, ([1, None], {1: A}))
    broken._settle(FINISHED, None, B)
    for chunk in (good, bad, broken):
        chunk._let_go()
        assert chunk.function is None
    assert (good.args, bad.args[0], broken.args[0]) == (None, "abc", "abc")


def test_a_call_of_a_map_keeps_its_item_if_it_is_to_be_named():
    good, bad = (
        MapCall(next(NUMBERS), abs, (-1,), None, 100, DEFAULT_OPTIONS, OWNER, 5.0, index=8)
        for _ in range(2)
    )
    succeed(good, 1)
    bad._settle(FINISHED, None, A)
    for call in (good, bad):
        call._let_go()
        assert (call.function, call._num_calls, call._title) == (None, 1, "item 8 of map")
    assert (good.args, bad.args) == (None, (-1,))


def test_titles():
    assert make_chunk("abc", index=10)._title == "items 10 to 12 of map"
    assert make(name="x")._title == "job x"
