"""Jobs are futures: results, timeouts, `as_completed` and `wait`."""

from __future__ import annotations

import concurrent.futures
import operator
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    Executor,
    Future,
)

import pytest
from conformance_support import LIMIT_S, Call, blocked

from .failing import fail

# -- futures --------------------------------------------------------------------------------------


def test_it_is_an_executor_of_futures(jobs):
    assert isinstance(jobs, Executor)
    assert isinstance(jobs.submit(int), Future)
    assert isinstance(jobs.put(int), Future)


def test_entering_it_gives_itself(make):
    jobs = make(1)
    with jobs as entered:
        assert entered is jobs


def test_the_life_of_a_job(make, gate):
    jobs = make(1)
    running, waiting = jobs.submit(gate.hold), jobs.submit(gate.hold)
    gate.wait_for_start()
    assert (running.running(), running.done(), running.cancelled()) == (True, False, False)
    assert (waiting.running(), waiting.done(), waiting.cancelled()) == (False, False, False)
    gate.permits.put("first")
    assert running.result() == "first"
    assert running.exception() is None
    assert (running.running(), running.done(), running.cancelled()) == (False, True, False)
    gate.permits.put("second")
    assert waiting.result() == "second"


@pytest.mark.parametrize("ask", [Future.result, Future.exception], ids=["result", "exception"])
@pytest.mark.parametrize("timeout_s", [0, 0.01])
def test_asking_with_a_timeout_only_waits(jobs, gate, ask, timeout_s):
    job = jobs.submit(gate.hold)
    with pytest.raises(TimeoutError):
        getattr(job, ask.__name__)(timeout=timeout_s)
    assert not job.done()
    gate.permits.put("late")
    assert job.result(timeout=LIMIT_S) == "late"


def test_a_result_can_be_asked_for_by_several_threads(jobs, gate):
    job = jobs.submit(gate.hold)
    calls = [blocked(job.result) for _ in range(3)]
    gate.permits.put("one for all")
    assert [call.result() for call in calls] == ["one for all"] * 3


def test_submit_from_several_threads(make):
    jobs = make(2)

    def submit_some(base):
        return [(base + n, jobs.submit(operator.neg, base + n)) for n in range(100)]

    calls = [Call(submit_some, base) for base in range(0, 8000, 1000)]
    pairs = [pair for call in calls for pair in call.result()]
    assert [job.result() for _, job in pairs] == [-number for number, _ in pairs]
    assert len({job.id for _, job in pairs}) == 800


def test_put_and_get_from_several_threads(make):
    jobs = make(2)

    def put_some(base):
        for number in range(50):
            jobs.put(operator.neg, base + number)

    def get_some():
        return [jobs.get().output for _ in range(100)]

    putters = [Call(put_some, base) for base in range(0, 8000, 1000)]
    for call in putters:
        call.result()
    getters = [Call(get_some) for _ in range(4)]
    got = sorted(output for call in getters for output in call.result())
    assert got == sorted(-base - n for base in range(0, 8000, 1000) for n in range(50))


# -- as_completed and wait ------------------------------------------------------------------------


def test_as_completed_gives_what_is_done_first(jobs, gate):
    slow = jobs.submit(gate.hold)
    gate.wait_for_start()
    quick = jobs.submit(int)
    completed = concurrent.futures.as_completed([slow, quick], timeout=LIMIT_S)
    assert next(completed) is quick
    gate.permits.put(1)
    assert list(completed) == [slow]


def test_as_completed_gives_each_once_however_it_ended(make):
    jobs = make(1, auto_start=False)
    good, bad, dropped = jobs.submit(int), jobs.submit(fail), jobs.submit(int)
    dropped.cancel()
    jobs.start()
    completed = list(concurrent.futures.as_completed([good, bad, dropped, good], timeout=LIMIT_S))
    assert len(completed) == 3
    assert set(completed) == {good, bad, dropped}
    assert set(concurrent.futures.as_completed([good, bad, dropped], timeout=0)) == set(completed)


def test_as_completed_when_time_is_up(jobs, gate):
    slow, quick = jobs.submit(gate.hold), jobs.submit(int)
    quick.result()
    completed = concurrent.futures.as_completed([slow, quick], timeout=0)
    assert next(completed) is quick
    with pytest.raises(TimeoutError):
        next(completed)


def test_as_completed_mixes_queues_and_other_futures(jobs, make):
    plain = Future()
    plain.set_result("plain")
    mixed = [jobs.submit(int), make(1).submit(int), plain]
    assert set(concurrent.futures.as_completed(mixed, timeout=LIMIT_S)) == set(mixed)


def test_wait_for_the_first(jobs, gate):
    slow, quick = jobs.submit(gate.hold), jobs.submit(int)
    done, not_done = concurrent.futures.wait([slow, quick], LIMIT_S, FIRST_COMPLETED)
    assert (done, not_done) == ({quick}, {slow})


def test_wait_for_the_first_that_is_not_done_yet(jobs, gate):
    held = [jobs.submit(gate.hold), jobs.submit(gate.hold)]
    call = blocked(concurrent.futures.wait, held, None, FIRST_COMPLETED)
    gate.permits.put(1)
    assert {len(jobs) for jobs in call.result()} == {1}


def test_wait_for_the_first_exception(make, gate):
    jobs = make(3)
    slow, quick = jobs.submit(gate.hold), jobs.submit(int)
    bad = jobs.submit(fail)
    done, not_done = concurrent.futures.wait([slow, quick, bad], LIMIT_S, FIRST_EXCEPTION)
    assert bad in done
    assert slow in not_done


def test_wait_for_an_exception_that_never_comes(jobs):
    good = {jobs.submit(int) for _ in range(4)}
    done, not_done = concurrent.futures.wait(good, LIMIT_S, FIRST_EXCEPTION)
    assert (done, not_done) == (good, set())


def test_wait_for_all(make):
    jobs = make(2, auto_start=False)
    some = [jobs.submit(int), jobs.submit(fail), jobs.submit(int)]
    call = blocked(concurrent.futures.wait, some, return_when=ALL_COMPLETED)
    some[2].cancel()
    jobs.start()
    done, not_done = call.result()
    assert (done, not_done) == (set(some), set())


def test_wait_when_time_is_up(jobs, gate):
    slow, quick = jobs.submit(gate.hold), jobs.submit(int)
    quick.result()
    done, not_done = concurrent.futures.wait([slow, quick], 0.01)
    assert (done, not_done) == ({quick}, {slow})
