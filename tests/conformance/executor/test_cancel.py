"""Futures are cancelled."""

from __future__ import annotations

from concurrent.futures import (
    CancelledError,
)

import pytest
from conformance_support import blocked

import qmill

from .failing import fail


@pytest.mark.parametrize("how", ["put", "submit"])
def test_cancelling_what_waits(make, how):
    jobs, ran = make(1, auto_start=False), qmill.Queue()
    first, job, last = (getattr(jobs, how)(ran.put, number) for number in range(3))
    assert job.cancel()
    assert job.cancel()
    assert (job.cancelled(), job.done(), job.running()) == (True, True, False)
    for ask in (job.result, job.exception):
        with pytest.raises(CancelledError):
            ask()
    jobs.start()
    first.result()
    last.result()
    assert ran.get_many(3) == [0, 2]


def test_cancelling_wakes_who_waits_for_the_result(make):
    job = make(1, auto_start=False).submit(int)
    call = blocked(job.result)
    job.cancel()
    with pytest.raises(CancelledError):
        call.result()


def test_cancelling_what_is_over(jobs):
    good, bad = jobs.submit(int), jobs.submit(fail)
    assert (good.result(), type(bad.exception())) == (0, KeyError)
    assert not good.cancel()
    assert not bad.cancel()
    assert not good.cancelled()


def test_cancelling_what_runs_in_a_thread(gate):
    with qmill.JobQueue(1, engine="thread") as jobs:
        job = jobs.submit(gate.hold)
        gate.wait_for_start()
        assert not job.cancel()
        gate.permits.put("goes on")
        assert job.result() == "goes on"


def test_cancelling_what_runs_in_a_process(gate):
    with qmill.JobQueue(1) as jobs:
        job = jobs.submit(gate.hold)
        gate.wait_for_start()
        assert job.cancel()
        assert job.cancelled()
        with pytest.raises(CancelledError):
            job.result()
        assert jobs.submit(int).result() == 0
