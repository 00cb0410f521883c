"""Programs that fork use their queues."""

from __future__ import annotations

import threading

import pytest

import qmill


def test_stop_working_kills_what_it_can_and_lets_those_that_wait_have_their_turn(make, engine):
    gate, begun = qmill.Queue(), qmill.Queue()
    jobs = make(1)
    stopped = jobs.put(lambda: [begun.put(1), gate.get()])
    waiting = jobs.put(abs, -1)
    begun.get()
    jobs.stop_working()
    if engine == "thread":  # which cannot be killed
        gate.put("go on")
    assert jobs.wait() == 0
    assert stopped.state == ("done" if engine == "thread" else "cancelled")
    assert waiting.output == 1


def test_wait_worker_returns_when_there_are_fewer_jobs_than_workers(make):
    gate = qmill.Queue()
    jobs = make(1)
    assert jobs.wait_worker()
    jobs.put(lambda: gate.get())
    assert not jobs.wait_worker(timeout=0)
    gate.put("go on")
    assert jobs.wait_worker()


def test_what_cannot_be_pickled_is_inherited_by_a_fork_for_one_job():
    with qmill.JobQueue(1, start_method="fork", max_jobs_per_worker=1) as jobs:
        first = jobs.put(abs, -1)
        second = jobs.put(next, (iter([2, 3]),), name="second")
        lock = threading.Lock()
        lock.acquire()
        third = jobs.put(lambda lock, key: (lock.locked(), key), (lock,), {"key": "third"})
    assert [first.result(), second.result(), third.result()] == [1, 2, (True, "third")]


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_without_a_fork_it_fails_the_job(method):
    with qmill.JobQueue(1, start_method=method) as jobs:
        job = jobs.put(abs, threading.Lock())
    assert isinstance(job.exception(), qmill.SerializationError)
