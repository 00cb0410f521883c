"""Workers die while large arguments and results are on their way."""

from __future__ import annotations

import os
import signal

import pytest

import qmill
from qmill import WorkerDied

from .. import functions, job_functions
from ..programs import LIMIT_S, wait_until, wait_until_asleep
from .health import check_healthy, learn, outcome


def test_large_arguments_and_results(method):
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(1 << 17, dtype="f8")
    with qmill.JobQueue(2) as jobs:
        for result in [job.result() for job in [jobs.submit(job_functions.echo, array)] * 4]:
            assert (result == array).all()
        result[0] = 7  # it is its owner's
        many = functions.many_bytes(50 << 20)
        assert jobs.submit(job_functions.echo, many).result() == many
        for size in [(1 << 16) + delta for delta in (-200, -100, -60, -30, -1, 0, 1, 100)]:
            assert jobs.submit(job_functions.echo, bytes(size)).result() == bytes(size)
        check_healthy(jobs)


def test_a_worker_that_dies_while_it_packs_much(quick_method):
    """PAINS 8: a crash during a large send hangs."""
    with qmill.JobQueue(1) as jobs:
        for size in (10, 60_000, 5 << 20):
            job = jobs.put(job_functions.give_laden, size, suppress_errors=True)
            assert isinstance(outcome(job), WorkerDied)
            check_healthy(jobs)


@pytest.fixture
def busy_parent(quick_method):
    """A queue of two workers whose dispatcher is held up while it rebuilds a result."""
    job_functions.Held.reading.clear()
    job_functions.Held.go_on.clear()
    with qmill.JobQueue(2) as jobs:
        yield jobs, job_functions.Held.reading, job_functions.Held.go_on
        job_functions.Held.go_on.set()
        check_healthy(jobs)


def test_a_worker_that_is_killed_while_it_sends(busy_parent):
    """PAINS 8: a crash during a large send hangs."""
    jobs, reading, go_on = busy_parent
    told, gate = qmill.Queue(), qmill.Queue()
    sends = jobs.put(job_functions.fill_channel, (told, gate, 50_000), suppress_errors=True)
    pid = told.get()
    held = jobs.submit(job_functions.give_held)
    assert reading.wait(LIMIT_S)
    gate.put("open")
    wait_until_asleep(pid)  # nobody reads what it says
    os.kill(pid, signal.SIGKILL)
    go_on.set()
    assert isinstance(outcome(sends), WorkerDied)
    assert held.result() == "let go"


@pytest.mark.parametrize("size", [10, 60_000, 5 << 20])
def test_a_worker_that_is_killed_while_it_is_sent_something(quick_method, size):
    """PAINS 8: a crash during a large send hangs."""
    with qmill.JobQueue(1) as jobs:
        for _ in range(3):
            pid = jobs.submit(functions.pid).result()
            os.kill(pid, signal.SIGSTOP)
            job = jobs.submit(job_functions.size_of, bytes(size))
            more = [jobs.submit(job_functions.size_of, bytes(size)) for _ in range(5)]
            wait_until(lambda job=job: job.running())
            os.kill(pid, signal.SIGKILL)
            # It had not begun: it runs elsewhere, or its death is told.
            assert outcome(job) == size or isinstance(outcome(job), WorkerDied)
            assert {each.result(LIMIT_S) for each in more} == {size}


@pytest.mark.parametrize("size", [1_000, 60_000])
def test_a_worker_that_is_killed_while_it_is_told_of_classes(monkeypatch, size):
    """PAINS 8: a crash during a large send hangs."""
    monkeypatch.setenv("QMILL_START_METHOD", "forkserver")
    with qmill.JobQueue(1) as jobs:
        pid = jobs.submit(functions.pid).result()
        os.kill(pid, signal.SIGSTOP)
        some = [jobs.submit(job_functions.of_many_classes(size)) for _ in range(10)]
        wait_until(some[0].running)
        os.kill(pid, signal.SIGKILL)
        ends = [outcome(job) for job in some]
        assert sum(isinstance(end, WorkerDied) for end in ends) <= 1
        assert {end for end in ends if not isinstance(end, WorkerDied)} == {8}
        check_healthy(jobs)


def test_a_worker_that_is_stuck_holds_up_no_other(quick_method):
    """PAINS 25: a shared pipe and its lock strand the next task.

    Each has a channel of its own, so what one does not read or finish is not in the way.
    """
    told = qmill.Queue()
    with qmill.JobQueue(2) as jobs:
        stopped = jobs.put(job_functions.tell_and_stop, [told], suppress_errors=True)
        pid = told.get()
        assert [jobs.submit(functions.add, number).result() for number in range(200)]
        many = [jobs.submit(job_functions.echo, bytes(1 << 18)) for _ in range(20)]
        assert {len(job.result()) for job in many} == {1 << 18}
        assert list(jobs.map(functions.add, range(1000))) == list(range(1000))
        os.kill(pid, signal.SIGKILL)
        assert isinstance(outcome(stopped), WorkerDied)
        check_healthy(jobs)


def test_a_job_that_has_just_ended_can_be_cancelled_at_no_others_cost(busy_parent, tmp_path):
    """The parent hears of an end a moment later, and its worker runs another job by then."""
    jobs, reading, go_on = busy_parent
    file = str(tmp_path / "marks")
    first_told, first_gate, told, gate = (qmill.Queue() for _ in range(4))
    for _ in range(3):
        go_on.set()
        learn(jobs, file)
        reading.clear()
        go_on.clear()
        jobs.pause()
        first = jobs.submit(job_functions.mark_and_wait, file, 1, first_told, first_gate)
        held = jobs.submit(job_functions.give_held)
        others = [
            jobs.submit(job_functions.mark_and_wait, file, number, told, gate)
            for number in range(4)
        ]
        jobs.start()
        assert reading.wait(LIMIT_S)
        first_told.get()
        first_gate.put(None)
        try:  # unless they were taken back, or not sent ahead
            told.get(timeout=0.5)
            told.get(timeout=0.1)
        except qmill.Empty:
            pass
        first.cancel()
        gate.put_many([None] * 4)
        go_on.set()
        assert held.result() == "let go"
        assert [outcome(job) for job in others] == list(range(4))
        while not told.empty():
            told.get()
