"""Processes that jobs have started end with them."""

from __future__ import annotations

import os
import signal

import pytest

import qmill
from qmill import JobTimeout, WorkerDied

from .. import job_functions
from ..programs import LIMIT_S
from .health import check_healthy, outcome, still_there


def assert_gone(pids):
    """See that these processes have ended; those that have not are killed for the next test."""
    left = still_there(pids)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


def started_pids(jobs, told, **options):
    """Put a job that starts processes and waits; return it, its worker and its processes."""
    job = jobs.put(job_functions.start_sleepers, [told], options, suppress_errors=True)
    return job, told.get(timeout=LIMIT_S)


def time_out(jobs, told, **kwargs):
    """Have such a job time out, with more time if it had not started its processes yet."""
    timeout = 0.3
    while True:
        job = jobs.put(
            job_functions.start_sleepers, [told], kwargs, timeout=timeout, suppress_errors=True
        )
        assert type(outcome(job)) is JobTimeout
        if not told.empty():
            return told.get()
        timeout *= 3


@pytest.mark.parametrize("how", ["segfault", "SIGKILL", "os._exit(0)", "os._exit(3)", "SIGTERM"])
def test_what_a_job_has_started_goes_when_it_dies(quick_method, how):
    told = qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        job = jobs.put(job_functions.start_sleepers, [told, how], suppress_errors=True)
        assert type(outcome(job)) is WorkerDied
        assert still_there(told.get()) == []
        check_healthy(jobs)


@pytest.mark.parametrize("how", ["cancel", "stop_all", "from outside"])
def test_what_a_job_has_started_goes_when_it_is_killed(quick_method, how):
    told = qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        job, pids = started_pids(jobs, told)
        if how == "cancel":
            assert job.cancel()
        elif how == "stop_all":
            jobs.stop_all()
        else:
            os.kill(pids[0], signal.SIGKILL)
        assert still_there(pids) == []
        check_healthy(jobs)


def test_what_a_job_has_started_goes_when_it_times_out(method):
    told = qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        assert still_there(time_out(jobs, told)) == []
        check_healthy(jobs)


@pytest.mark.parametrize("options", [{}, {"auto_stop": True}])
def test_what_a_job_has_started_goes_even_if_it_ignores_sigterm(options):
    told = qmill.Queue()
    with qmill.JobQueue(4, **options) as jobs:
        cancelled, pids = started_pids(jobs, told, stubborn=True)
        dead = jobs.put(
            job_functions.start_sleepers,
            [told, "segfault"],
            {"stubborn": True},
            suppress_errors=True,
        )
        pids += told.get()
        assert cancelled.cancel()
        assert type(outcome(dead)) is WorkerDied
        pids += time_out(jobs, told, stubborn=True)
        assert still_there(pids) == []
        check_healthy(jobs)


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_what_a_job_has_started_goes_even_from_a_session_of_its_own(how):
    told = qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        if how == "cancel":
            job, pids = started_pids(jobs, told, detached=True)
            job.cancel()
        else:
            pids = time_out(jobs, told, detached=True)
        assert_gone(pids)


def test_what_the_job_of_a_nested_queue_has_started_goes(quick_method):
    told = qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        job = jobs.submit(job_functions.start_a_nested_queue_and_wait, told)
        pids = told.get()
        job.cancel()
        assert_gone(pids)


def test_a_fork_in_a_job_does_not_hide_the_workers_end(quick_method):
    """It has copies of all descriptors of the worker, but not the worker's job."""
    told = qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        job = jobs.submit(job_functions.fork_in_a_job, told)
        worker, child = told.get()
        assert job.result() == child
        os.kill(worker, signal.SIGKILL)
        check_healthy(jobs)
        assert still_there([worker, child]) == []
