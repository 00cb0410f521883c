"""Retries and timeouts of jobs."""

from __future__ import annotations

import pytest
from conformance_support import LIMIT_S

import qmill

from .common_jobs import fail, take_ticket


def test_a_job_is_retried_until_it_succeeds(jobs):
    tickets = qmill.Queue()
    tickets.put_many([False, False, True, True])
    job = jobs.put(take_ticket(tickets), retries=3)
    assert job.result() == "at last"
    assert (job.attempts, job.state, job.exitcode) == (3, "done", 0)
    assert job.exception() is None
    assert tickets.qsize() == 1
    jobs.wait()
    assert jobs.collect() == [job]


def test_a_job_fails_when_its_retries_are_used_up(jobs):
    tickets = qmill.Queue()
    tickets.put_many([False, False, False, True])
    job = jobs.put(take_ticket(tickets), retries=2)
    with pytest.raises(KeyError, match="no luck"):
        job.result()
    assert (job.attempts, job.state) == (3, "failed")


def test_no_retries_unless_asked_for(jobs):
    job = jobs.put(fail)
    assert type(job.exception()) is KeyError
    assert job.attempts == 1


def test_retries_of_submit(jobs):
    tickets = qmill.Queue()
    tickets.put_many([False, True])
    assert jobs.options(retries=1).submit(take_ticket(tickets)).result() == "at last"


def test_others_run_during_a_backoff(make):
    jobs, tickets = make(1), qmill.Queue()
    tickets.put_many([False])
    job = jobs.put(take_ticket(tickets), retries=1, backoff=600)
    others = [jobs.put(abs, number) for number in range(5)]
    assert [job.result() for job in others] == list(range(5))
    assert not job.done()
    assert job.attempts == 1
    job.cancel()


def test_a_retry_follows_its_backoff(make):
    jobs, tickets = make(1), qmill.Queue()
    tickets.put_many([False, True])
    job = jobs.put(take_ticket(tickets), retries=1, backoff=0.05)
    assert job.result() == "at last"
    assert job.attempts == 2


def test_cancelling_during_a_backoff(make):
    jobs, tickets = make(1, auto_start=False), qmill.Queue()
    tickets.put_many([False])
    job = jobs.put(take_ticket(tickets), retries=1, backoff=600)
    after = jobs.put(int)
    jobs.start()
    assert after.result() == 0
    assert not job.done()
    assert job.cancel()
    assert job.cancelled()
    assert jobs.wait() == 0


def test_a_shutdown_waits_for_retries(engine):
    tickets = qmill.Queue()
    tickets.put_many([False, True])
    with qmill.JobQueue(1, engine=engine) as jobs:
        job = jobs.put(take_ticket(tickets), retries=1, backoff=0.01)
    assert job.result(0) == "at last"


def test_a_timeout_kills(gate):
    with qmill.JobQueue(1) as jobs:
        job, after = jobs.put(gate.hold, timeout=0.1), jobs.put(int)
        with pytest.raises(qmill.JobTimeout) as raised:
            job.result()
        assert isinstance(raised.value, TimeoutError)
        assert job.done()
        assert (job.state, job.attempts, job.timeout) == ("timed out", 1, 0.1)
        assert job.exitcode not in (0, None)
        assert after.result() == 0
        assert set(jobs.as_completed()) == {job, after}


def test_a_job_that_is_quick_enough_is_not_killed():
    with qmill.JobQueue(1) as jobs:
        some = [jobs.put(abs, number, timeout=LIMIT_S) for number in range(20)]
        assert [job.result() for job in some] == list(range(20))
        assert len({job.worker for job in some}) == 1


def test_a_timeout_counts_from_the_jobs_start():
    with qmill.JobQueue(1) as jobs:
        jobs.submit(int).result()
        jobs.pause()
        job = jobs.put(int, timeout=0.2)
        with pytest.raises(TimeoutError):
            job.result(timeout=0.4)
        assert not job.done()
        jobs.start()
        assert job.result() == 0


def test_a_timeout_is_not_retried_unless_asked_for(gate):
    with qmill.JobQueue(1) as jobs:
        job = jobs.put(gate.hold, timeout=1, retries=5)
        gate.wait_for_start()
        assert type(job.exception()) is qmill.JobTimeout
        assert (job.attempts, gate.started.qsize()) == (1, 0)


def test_a_timeout_is_retried_when_asked_for(gate):
    with qmill.JobQueue(1) as jobs:
        job = jobs.put(gate.hold, timeout=1, retries=1, retry_timeouts=True)
        gate.wait_for_start()
        gate.wait_for_start()
        gate.permit("at last")
        assert job.result() == "at last"
        assert job.attempts == 2


def test_a_timeout_stops_a_lane(gate):
    with qmill.JobQueue(1) as jobs:
        head = jobs.put(gate.hold, lane="a", timeout=0.05)
        after = jobs.put(int, lane="a", stop_on_lane_error=True)
        with pytest.raises(qmill.LaneError):
            after.result()
        assert type(head.exception()) is qmill.JobTimeout


@pytest.mark.parametrize("how", ["put", "options submit", "options map", "map"])
def test_threads_refuse_timeouts(how):
    calls = {
        "put": lambda jobs: jobs.put(int, timeout=5),
        "options submit": lambda jobs: jobs.options(timeout=5).submit(int),
        "options map": lambda jobs: jobs.options(timeout=5).map(abs, [1]),
        "map": lambda jobs: jobs.map(abs, [1], job_timeout=5),
    }
    with qmill.JobQueue(1, engine="thread") as jobs:
        with pytest.raises(qmill.NotSupported, match="process") as raised:
            calls[how](jobs)
        assert isinstance(raised.value, ValueError)
        assert jobs.size() == 0
