"""Lanes, retries and timeouts of jobs whose workers die or are killed."""

from __future__ import annotations

import functools
import signal

import pytest

import qmill
from qmill import JobTimeout, LaneError, WorkerDied

from .. import functions, job_functions
from .health import check_healthy, marks, outcome, still_there


def test_a_lane_whose_first_job_dies(quick_method):
    with qmill.JobQueue(2, auto_start=False) as jobs:
        put = functools.partial(jobs.put, lane="a", suppress_errors=True)
        first = put(functions.die, "SIGKILL")
        stopped = [put(functions.add, number, stop_on_lane_error=True) for number in range(3)]
        runs = [put(functions.add, number) for number in range(2)]
        again = put(functions.add, 7, stop_on_lane_error=True)
        jobs.start()
        assert type(outcome(first)) is WorkerDied
        assert {type(outcome(job)) for job in stopped} == {LaneError}
        assert {job.state for job in stopped} == {"cancelled"}
        assert [outcome(job) for job in [*runs, again]] == [0, 1, 7]
        check_healthy(jobs)


def test_a_retry_after_a_death(quick_method, tmp_path):
    file = tmp_path / "marks"
    with qmill.JobQueue(2) as jobs:
        job = jobs.put(job_functions.die_until, (str(file), 5, 3), retries=2, suppress_errors=True)
        assert outcome(job) == 5
        assert (job.attempts, marks(file)[5], job.state) == (3, 3, "done")
        job = jobs.put(job_functions.die_until, (str(file), 6, 30), retries=2, suppress_errors=True)
        assert type(outcome(job)) is WorkerDied
        assert (job.attempts, marks(file)[6], job.state) == (3, 3, "died")


def test_a_timeout_where_nothing_can_be_killed():
    with qmill.JobQueue(1, engine="thread") as jobs:
        with pytest.raises(qmill.NotSupported, match="process"):
            jobs.put(functions.nothing, timeout=1)
        with pytest.raises(qmill.NotSupported, match="process"):
            jobs.options(timeout=1)
        with pytest.raises(qmill.NotSupported, match="process"):
            jobs.map(job_functions.echo, [1], job_timeout=1)


def test_a_job_that_leaves_politely_at_its_timeout_has_timed_out(quick_method):
    """`sys.exit(0)` is the usual handler of SIGTERM, and not a result."""
    told = qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        timeout = 0.2
        while told.empty():
            job = jobs.put(
                job_functions.exit_on_sigterm, [told], timeout=timeout, suppress_errors=True
            )
            error = outcome(job)
            timeout *= 3
        assert (job.state, type(error)) == ("timed out", JobTimeout)
        check_healthy(jobs)


def test_a_job_that_ignores_sigterm_holds_up_nobody(quick_method):
    """PAINS 23: a job that ignores SIGTERM freezes the queue."""
    told = qmill.Queue()
    with qmill.JobQueue(2) as jobs:
        timeout = 0.2
        while told.empty():
            job = jobs.put(
                job_functions.ignore_sigterm_and_wait, [told], timeout=timeout, suppress_errors=True
            )
            while not job.done():
                assert jobs.put(functions.add, (1, 2)).result() == 3
                assert jobs.size(working=True) <= 2
                jobs.get(block=False)
            assert type(outcome(job)) is JobTimeout
            timeout *= 3
        assert job.exitcode == -signal.SIGKILL
        assert still_there([told.get()]) == []


def test_many_timeouts_at_once(quick_method):
    """PAINS 23: a job that ignores SIGTERM freezes the queue."""
    with qmill.JobQueue(4) as jobs:
        stuck = [
            jobs.put(functions.wait_for, [qmill.Queue()], timeout=0.05, suppress_errors=True)
            for _ in range(20)
        ]
        assert {type(outcome(job)) for job in stuck} == {JobTimeout}
        assert {job.state for job in stuck} == {"timed out"}
        check_healthy(jobs)
