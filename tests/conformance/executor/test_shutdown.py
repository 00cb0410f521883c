"""`shutdown`, and the end of a with block."""

from __future__ import annotations

import operator
from concurrent.futures import (
    CancelledError,
)

import pytest
from conformance_support import blocked

import qmill

# -- shutdown -------------------------------------------------------------------------------------


def test_shutdown_waits_for_all(make):
    jobs = make(2)
    some = [jobs.submit(operator.neg, number) for number in range(20)]
    jobs.shutdown()
    assert all(job.done() for job in some)
    assert [job.result(0) for job in some] == [-number for number in range(20)]


def test_shutdown_that_waits_blocks(jobs, gate):
    job = jobs.submit(gate.hold)
    call = blocked(jobs.shutdown)
    gate.permits.put(1)
    call.result()
    assert job.done()


def test_shutdown_without_waiting_lets_the_jobs_run(make, gate):
    jobs = make(1)
    held, waiting = jobs.submit(gate.hold), jobs.submit(int)
    jobs.shutdown(wait=False)
    assert not held.done()
    gate.permits.put("held")
    assert (held.result(), waiting.result()) == ("held", 0)
    jobs.shutdown()


@pytest.mark.parametrize("wait", [True, False])
def test_shutdown_that_cancels_spares_what_runs(make, gate, wait):
    jobs = make(1)
    held = jobs.submit(gate.hold)
    waiting = [jobs.submit(int), jobs.put(int)]
    gate.wait_for_start()
    waiting[0].add_done_callback(lambda _: gate.permits.put("held"))
    jobs.shutdown(wait=wait, cancel_futures=True)
    assert [job.cancelled() for job in waiting] == [True, True]
    assert held.result() == "held"
    jobs.shutdown()


def test_shutdown_again_and_of_an_unused_queue(make):
    jobs = make(2)
    jobs.shutdown()
    jobs.shutdown(wait=False)
    jobs.shutdown(cancel_futures=True)
    with make(2):
        pass


def test_shutdown_of_a_paused_queue_runs_its_jobs(make):
    jobs = make(1, auto_start=False)
    job = jobs.submit(int)
    jobs.shutdown()
    assert job.result(0) == 0


CALLS_THAT_ADD = {
    "submit": lambda jobs: jobs.submit(int),
    "put": lambda jobs: jobs.put(int),
    "put without block": lambda jobs: jobs.put(int, block=False),
    "map": lambda jobs: jobs.map(abs, [1]),
    "starmap": lambda jobs: jobs.starmap(abs, [(1,)]),
    "starmapkw": lambda jobs: jobs.starmapkw(dict, [{"a": 1}]),
    "options submit": lambda jobs: jobs.options(priority=1).submit(int),
    "options map": lambda jobs: jobs.options(priority=1).map(abs, [1]),
}


@pytest.mark.parametrize("call", CALLS_THAT_ADD.values(), ids=CALLS_THAT_ADD)
def test_no_more_jobs_after_shutdown(jobs, call):
    jobs.submit(int)
    jobs.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        call(jobs)


def test_no_more_jobs_while_a_shutdown_waits(jobs, gate):
    held = jobs.submit(gate.hold)
    call = blocked(jobs.shutdown)
    with pytest.raises(RuntimeError, match="shut"):
        jobs.submit(int)
    gate.permits.put(1)
    call.result()
    assert held.result() == 1


def test_what_is_completed_can_be_fetched_after_shutdown(jobs):
    put = [jobs.put(operator.neg, number) for number in range(5)]
    jobs.shutdown()
    assert jobs.size(completed=True) == 5
    assert jobs.get() is put[0]
    assert jobs.collect() == put[1:]
    assert jobs.get() is None
    assert jobs.wait() == 0


def test_jobs_that_end_after_shutdown_can_be_fetched(jobs, gate):
    job = jobs.put(gate.hold)
    jobs.shutdown(wait=False)
    call = blocked(jobs.get)
    gate.permits.put("fetched")
    assert call.result() is job
    assert list(jobs.as_completed()) == []


# -- leaving a with block -------------------------------------------------------------------------


def test_leaving_a_with_block_waits(make):
    with make(2) as jobs:
        some = [jobs.submit(operator.neg, number) for number in range(20)]
    assert [job.result(0) for job in some] == [-number for number in range(20)]
    with pytest.raises(RuntimeError):
        jobs.submit(int)


def test_leaving_a_with_block_of_a_paused_queue_runs_its_jobs(make):
    with make(2, auto_start=False) as jobs:
        job = jobs.put(int)
    assert job.result(0) == 0


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_leaving_a_with_block_by_an_exception_cancels_what_waits(make, gate, error):
    with pytest.raises(error):
        with make(1) as jobs:
            running, waiting = jobs.submit(gate.hold), jobs.submit(int)
            gate.wait_for_start()
            waiting.add_done_callback(lambda _: gate.permits.put(1))  # a thread is not killed
            raise error
    assert waiting.cancelled()
    assert running.done()
    with pytest.raises(RuntimeError):
        jobs.submit(int)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_leaving_a_with_block_by_an_exception_kills_what_runs(gate, error):
    with pytest.raises(error):
        with qmill.JobQueue(2) as jobs:
            running = [jobs.submit(gate.hold), jobs.put(gate.hold, retries=3)]
            for _ in running:
                gate.wait_for_start()
            raise error
    for job in running:
        assert job.done()
        with pytest.raises((CancelledError, qmill.WorkerDied)):
            job.result()
