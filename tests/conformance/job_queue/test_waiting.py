"""`size` and `wait`, `get`, `collect` and `as_completed`."""

from __future__ import annotations

import pytest
from conformance_support import LIMIT_S, blocked

from .common_jobs import fail, outputs_of, run_all, sizes_of

# -- size, wait -----------------------------------------------------------------------------------


def test_sizes(make, gate):
    jobs = make(2)
    assert sizes_of(jobs) == (0, 0, 0)
    some = [jobs.put(gate.hold) for _ in range(5)]
    gate.wait_for_start()
    gate.wait_for_start()
    assert sizes_of(jobs) == (3, 2, 0)
    assert jobs.size() == 5
    assert jobs.size(waiting=True, working=True) == 5
    assert jobs.size(waiting=True, completed=True) == 3
    gate.permit(*range(5))
    assert jobs.wait() == 0
    assert sizes_of(jobs) == (0, 0, 5)
    assert jobs.get() in some
    assert jobs.size() == 4
    jobs.collect()
    assert jobs.size() == 0


def test_jobs_of_submit_and_map_never_enter_the_completed_queue(jobs):
    some = [jobs.submit(int), jobs.submit(fail)]
    assert list(jobs.map(abs, [-1, -2])) == [1, 2]
    jobs.options(priority=1).submit(int).result()
    jobs.wait()
    assert all(job.done() for job in some)
    assert sizes_of(jobs) == (0, 0, 0)
    assert jobs.collect() == []
    assert jobs.get() is None


def test_wait_for_nothing(jobs):
    assert jobs.wait() == 0
    assert jobs.wait(timeout=0) == 0
    assert jobs.wait(3) == 0
    jobs.put(int)
    jobs.wait()
    assert jobs.wait() == 0


def test_wait_waits_for_put_and_submit(make, gate):
    jobs = make(2)
    some = [jobs.put(gate.hold), jobs.submit(gate.hold)]
    call = blocked(jobs.wait)
    gate.permit("first")
    assert not call.returned()
    gate.permit("second")
    assert call.result() == 0
    assert all(job.done() for job in some)


def test_wait_with_a_timeout_tells_how_many_are_left(make, gate):
    jobs = make(1)
    for _ in range(3):
        jobs.put(gate.hold)
    assert jobs.wait(timeout=0) == 3
    assert jobs.wait(timeout=0.01) == 3
    gate.permit()
    jobs.get()
    assert jobs.wait(timeout=0) == 2
    gate.permit(1, 2)
    assert jobs.wait(timeout=LIMIT_S) == 0


def test_wait_for_some_counts_from_now_on(make, gate):
    jobs = make(1)
    for _ in range(4):
        jobs.put(gate.hold)
    call = blocked(jobs.wait, 1)
    gate.permit()
    assert call.result() == 3
    call = blocked(jobs.wait, 2)
    gate.permit()
    gate.permit()
    assert call.result() == 1
    gate.permit()
    assert jobs.wait(100) == 0


def test_wait_for_more_than_there_are(jobs):
    for _ in range(3):
        jobs.put(int)
    assert jobs.wait(100) == 0


def test_wait_ends_when_the_rest_is_cancelled(paused):
    paused.put(int)
    paused.submit(int)
    call = blocked(paused.wait)
    paused.clear_waiting()
    assert call.result() == 0


def test_several_may_wait(make, gate):
    jobs = make(1)
    jobs.put(gate.hold)
    calls = [blocked(jobs.wait), blocked(jobs.wait, 1), blocked(jobs.get, timeout=LIMIT_S)]
    gate.permit()
    assert [calls[0].result(), calls[1].result()] == [0, 0]
    assert calls[2].result().state == "done"


# -- get, collect, as_completed -------------------------------------------------------------------


def test_get_gives_the_lowest_priority_number_of_equals_the_oldest(jobs):
    for priority in (3, 1, 2, 1, -1, 1.5):
        jobs.put(abs, priority, priority=priority)
    jobs.wait()
    got = [jobs.get() for _ in range(6)]
    assert [(job.priority, job.id) for job in got] == [
        (-1, 5),
        (1, 2),
        (1, 4),
        (1.5, 6),
        (2, 3),
        (3, 1),
    ]
    assert jobs.get() is None


def test_get_waits_for_a_job(make, gate):
    jobs = make(1)
    job = jobs.put(gate.hold)
    call = blocked(jobs.get)
    gate.permit("fetched")
    assert call.result() is job
    assert job.output == "fetched"


@pytest.mark.parametrize("how", [{"block": False}, {"timeout": 0}, {"timeout": 0.01}], ids=str)
def test_get_when_nothing_is_completed_yet(make, gate, how):
    jobs = make(1)
    job = jobs.put(gate.hold)
    assert jobs.get(**how) is None
    gate.permit()
    jobs.wait()
    assert jobs.get(**how) is job


@pytest.mark.parametrize("how", [{}, {"timeout": LIMIT_S}, {"block": False}], ids=str)
def test_get_gives_none_when_nothing_is_left(jobs, how):
    assert jobs.get(**how) is None
    jobs.put(int)
    assert jobs.get() is not None
    assert jobs.get(**how) is None


def test_get_gives_none_when_all_that_was_left_is_nobodys_to_fetch(make, gate):
    jobs = make(1)
    jobs.submit(gate.hold)
    call = blocked(jobs.get)
    gate.permit()
    assert call.result() is None


def test_get_gives_failed_and_cancelled_jobs(paused):
    bad, dropped, good = paused.put(fail), paused.put(int), paused.put(int)
    dropped.cancel()
    run_all(paused)
    got = [paused.get() for _ in range(3)]
    assert set(got) == {bad, dropped, good}
    assert [job.state for job in (bad, dropped, good)] == ["failed", "cancelled", "done"]


def test_each_completed_job_goes_to_one_of_several_getters(make, gate):
    jobs = make(1)
    some = [jobs.put(gate.hold) for _ in range(3)]
    calls = [blocked(jobs.get) for _ in range(4)]
    gate.permit(1, 2, 3)
    got = [call.result() for call in calls]
    assert sorted(job.id for job in got if job is not None) == [job.id for job in some]
    assert got.count(None) == 1


def test_collect(make, gate):
    jobs = make(1)
    some = [jobs.put(int, priority=priority) for priority in (2, 1, 3)]
    jobs.wait()
    held = jobs.put(gate.hold)
    assert jobs.collect(1) == [some[1]]
    assert jobs.collect(0) == []
    assert jobs.collect() == [some[0], some[2]]
    assert jobs.collect() == []
    gate.permit()
    jobs.wait()
    assert jobs.collect(10) == [held]


def test_a_thousand_reversed_priorities_come_out_reversed(make):
    jobs = make(2, auto_start=False)
    for number in range(1000):
        jobs.put(abs, number, priority=-number)
    run_all(jobs)
    assert outputs_of(jobs.collect()) == list(reversed(range(1000)))


def test_as_completed_fetches_all(make):
    jobs = make(2, auto_start=False)
    some = {jobs.put(abs, number) for number in range(20)}
    jobs.start()
    got = list(jobs.as_completed())
    assert len(got) == 20
    assert set(got) == some
    assert sizes_of(jobs) == (0, 0, 0)
    assert list(jobs.as_completed()) == []


def test_as_completed_gives_jobs_while_others_run(make, gate):
    jobs = make(2)
    slow = jobs.put(gate.hold)
    gate.wait_for_start()
    quick = jobs.put(int)
    completed = jobs.as_completed()
    assert next(completed) is quick
    gate.permit()
    assert list(completed) == [slow]


def test_as_completed_sees_jobs_that_are_put_meanwhile(jobs):
    jobs.put(abs, 3)
    seen = []
    for job in jobs.as_completed():
        seen.append(job.output)
        if job.output:
            jobs.put(abs, job.output - 1)
    assert seen == [3, 2, 1, 0]
