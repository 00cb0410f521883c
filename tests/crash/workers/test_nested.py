"""Workers of workers, and their threads."""

from __future__ import annotations

import os

import qmill

from .. import functions, job_functions
from ..programs import LIMIT_S, Watch

# -- threads of workers ---------------------------------------------------------------------------


def test_a_worker_that_waits_for_its_threads_says_so(method, run):
    told, go_on = qmill.Queue(), qmill.Queue()
    worker = run(job_functions.leave_thread_and_log, told, go_on)
    assert worker.result(LIMIT_S) == worker.pid
    said = told.get(timeout=LIMIT_S)
    assert f"worker {worker.name} (pid {worker.pid})" in said
    assert "thread saver" in said
    assert worker.is_alive()
    go_on.put(None)
    worker.join(LIMIT_S)
    assert worker.exitcode == 0
    assert told.get_many(10) == ["saved"]


# -- workers of workers ---------------------------------------------------------------------------


def test_workers_start_workers(method, run):
    pids = run(functions.descend, 3).result()
    assert len(set(pids) | {os.getpid()}) == 5


def test_workers_of_a_worker_end_with_it_when_it_is_killed(method, run):
    pids, gate = qmill.Queue(), qmill.Queue()
    worker = run(functions.descend_and_wait, 2, pids, gate)
    watch = Watch([pids.get() for _ in range(3)])
    worker.kill()
    assert watch.wait() == []


def test_workers_of_a_worker_that_ends_normally_are_terminated_with_a_warning(start_program):
    program = start_program(
        """
ready, gate = qmill.Queue(), qmill.Queue()
worker = qmill.run(functions.leave_a_worker_behind, ready, gate)
worker.result()
worker.join()
tell(worker.exitcode)
"""
    )
    assert program.hear() == ["0"]
    _, errors = program.finish()
    assert "still ran" in errors
    assert "tell_and_wait" in errors
