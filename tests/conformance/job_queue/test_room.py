"""A queue with limited room: `put` waits, or is refused."""

from __future__ import annotations

import pytest
from conformance_support import blocked

import qmill

from .common_jobs import take_ticket


def test_put_waits_for_room(make, gate):
    jobs = make(1, maxsize=2)
    jobs.put(gate.hold)
    jobs.put(gate.hold)
    call = blocked(jobs.put, abs, -3)
    gate.permit()
    job = call.result()
    gate.permit()
    assert job.result() == 3


@pytest.mark.parametrize("add", ["submit", "starmap", "map", "options"])
def test_every_way_of_adding_waits_for_room(make, gate, add):
    jobs = make(1, maxsize=1)
    jobs.put(gate.hold)
    calls = {
        "submit": lambda: [jobs.submit(abs, -3).result()],
        "starmap": lambda: [job.result() for job in jobs.starmap(abs, [(-3,), (-3,)])][1:],
        "map": lambda: list(jobs.map(abs, [-3])),
        "options": lambda: [jobs.options(priority=1).submit(abs, -3).result()],
    }
    call = blocked(calls[add])
    gate.permit()
    assert call.result() == [3]


def test_put_without_block_raises_when_there_is_no_room(make, gate):
    jobs = make(1, maxsize=2)
    jobs.put(gate.hold)
    jobs.put(gate.hold, block=False)
    with pytest.raises(qmill.Full):
        jobs.put(int, block=False)
    assert jobs.size() == 2
    gate.permit(1, 2)
    jobs.wait()
    assert jobs.put(int, block=False).result() == 0


def test_completed_jobs_need_no_room(make):
    jobs = make(1, maxsize=1)
    for _ in range(5):
        jobs.put(int)
    jobs.wait()
    assert jobs.size(completed=True) == 5


def test_cancelling_makes_room(make):
    jobs = make(1, maxsize=1, auto_start=False)
    job = jobs.put(int)
    call = blocked(jobs.put, int)
    job.cancel()
    call.result()
    with pytest.raises(qmill.Full):
        jobs.put(int, block=False)


def test_a_job_that_is_retried_needs_no_room_of_its_own(make):
    tickets = qmill.Queue()
    tickets.put_many([False, True])
    jobs = make(1, maxsize=1)
    assert jobs.put(take_ticket(tickets), retries=1).result() == "at last"


def test_a_put_that_waits_for_room_ends_with_the_queue(make, gate):
    jobs = make(1, maxsize=1)
    jobs.put(gate.hold)
    call = blocked(jobs.put, int)
    jobs.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="shut"):
        call.result()
    gate.permit()
