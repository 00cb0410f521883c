"""A queue is paused, started, cleared and stopped."""

from __future__ import annotations

from concurrent.futures import CancelledError

import pytest

import qmill

from .common_jobs import sizes_of


def test_a_queue_that_was_not_started_runs_nothing(paused):
    some = [paused.put(int), paused.submit(int)]
    assert sizes_of(paused) == (2, 0, 0)
    assert paused.wait(timeout=0.01) == 2
    assert paused.get(timeout=0) is None
    paused.start()
    assert [job.result() for job in some] == [0, 0]
    assert paused.put(int).result() == 0


def test_pause_lets_what_runs_go_on(make, gate):
    jobs = make(1)
    running, waiting = jobs.put(gate.hold), jobs.put(int)
    gate.wait_for_start()
    jobs.pause()
    jobs.pause()
    gate.permit("went on")
    assert running.result() == "went on"
    assert jobs.wait(timeout=0.01) == 1
    assert not waiting.done()
    jobs.start()
    jobs.start()
    assert waiting.result() == 0


def test_clear_waiting(make, gate):
    jobs, ran = make(1), qmill.Queue()
    running = jobs.put(gate.hold)
    waiting = [jobs.put(ran.put, 1), jobs.submit(ran.put, 1), jobs.put(ran.put, 1, lane="a")]
    gate.wait_for_start()
    jobs.clear_waiting()
    assert [job.cancelled() for job in waiting] == [True] * 3
    gate.permit("went on")
    assert running.result() == "went on"
    assert jobs.wait() == 0
    assert ran.empty()
    assert {job.state for job in jobs.collect()} == {"done", "cancelled"}
    assert jobs.put(int).result() == 0


def test_clear_waiting_of_an_empty_queue(jobs):
    jobs.clear_waiting()
    jobs.stop_all()
    assert jobs.put(int).result() == 0


def test_stop_all_of_processes(gate):
    with qmill.JobQueue(2) as jobs:
        some = [jobs.put(gate.hold, retries=3) for _ in range(4)]
        gate.wait_for_start()
        gate.wait_for_start()
        jobs.stop_all()
        assert jobs.wait() == 0
        assert all(job.done() for job in some)
        assert [job.cancelled() for job in some[2:]] == [True, True]
        for job in some[:2]:
            with pytest.raises((CancelledError, qmill.WorkerDied)):
                job.result()
        assert gate.started.empty()
        assert jobs.put(int).result() == 0
        assert len(jobs.collect()) == 5


def test_stop_all_of_threads_spares_what_runs(gate):
    with qmill.JobQueue(1, engine="thread") as jobs:
        running, waiting = jobs.put(gate.hold), jobs.put(int)
        gate.wait_for_start()
        jobs.stop_all()
        assert waiting.cancelled()
        gate.permit("went on")
        assert running.result() == "went on"
        assert jobs.put(int).result() == 0
