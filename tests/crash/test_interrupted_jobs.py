"""An exception of a signal handler at each point of a call of a JobQueue: the queue goes on."""

from __future__ import annotations

import gc
import signal
import threading

import pytest

import qmill
from qmill.system import native

from .interruptions import Interrupted, Interruption
from .programs import LIMIT_S, Call

STEP = 3  # a handler runs after some instructions only: this leaves out few of its places


@pytest.fixture
def interruptions():
    """Makes calls, the first interrupted at one place, the next at a later one, until the end.

    Its function takes one that returns the call that is to be made of a new thing, and yields the
    instruction's number.
    """

    def interrupt(make):
        number = 1
        interruption.reached = True
        while interruption.reached:
            _, error = interruption.make(make(), number=number)
            assert error is None or isinstance(error, Interrupted), number
            error = None  # its frames keep what the call has used
            interruption.check_canaries()
            yield number
            number += STEP
        assert number > 3 * STEP

    handler = signal.getsignal(signal.SIGUSR1)
    interruption = Interruption()
    yield interrupt
    signal.signal(signal.SIGUSR1, handler)


def put(jobs):
    return lambda: jobs.put(abs, -10)


def put_first(jobs):
    return lambda: jobs.put(abs, -10, priority=-1)


def put_into_a_lane(jobs):
    return lambda: jobs.put(abs, -10, lane="lane", priority=-1)


def submit(jobs):
    return lambda: jobs.submit(abs, -10)


def cancel(jobs):
    return jobs.put(abs, -10).cancel


def cancel_in_a_lane(jobs):
    return jobs.put(abs, -10, lane="lane").cancel


def cancel_what_heads_a_lane(jobs):
    return jobs.put(abs, -10, lane="lane", priority=-1).cancel


def reprioritize(jobs):
    job = jobs.put(abs, -10)
    return lambda: jobs.reprioritize(job, -1)


def reprioritize_in_a_lane(jobs):
    job = jobs.put(abs, -10, lane="lane")
    return lambda: jobs.reprioritize(job, -1)


def clear_waiting(jobs):
    return jobs.clear_waiting


def look(jobs):
    return lambda: (jobs.size(), jobs.wait(timeout=0))


CALLS = [
    put,
    put_first,
    put_into_a_lane,
    submit,
    cancel,
    cancel_in_a_lane,
    cancel_what_heads_a_lane,
    reprioritize,
    reprioritize_in_a_lane,
    clear_waiting,
    look,
]


def jobs_of(jobs):
    return [jobs.put(abs, -1, lane="lane"), jobs.put(abs, -2), jobs.put(abs, -3, lane="lane")]


@pytest.mark.parametrize("call", CALLS)
def test_a_queue_goes_on(call, interruptions):
    def make():
        jobs.append(qmill.JobQueue(1, engine="thread", auto_start=False))
        before[:] = jobs_of(jobs[-1])
        return call(jobs[-1])

    jobs, before = [], []
    for number in interruptions(make):
        after = jobs_of(jobs[-1])
        jobs[-1].start()
        for job in after if call is clear_waiting else before + after:
            assert job.result(timeout=LIMIT_S) in (1, 2, 3), number
        Call(jobs[-1].shutdown).result()
        assert all(job.done() for job in before), number  # also what was cancelled


@pytest.mark.parametrize("how", [qmill.JobQueue.get, qmill.JobQueue.collect])
def test_a_completed_job_is_not_lost(how, interruptions):
    def make():
        jobs.append(qmill.JobQueue(1, engine="thread"))
        jobs[-1].put(abs, -1).result()
        jobs[-1].wait()
        returned.clear()
        return lambda: returned.append(how(jobs[-1]))

    jobs, returned = [], []
    for number in interruptions(make):
        if not returned:
            assert jobs[-1].get(timeout=LIMIT_S).output == 1, number
        jobs[-1].shutdown()


def test_a_condition_can_be_left_at_each_place(interruptions):
    def make():
        conditions.append(native.Condition())
        return lambda: use(conditions[-1])

    def use(condition):
        with condition:
            condition.wait(0)
            condition.notify_all()
            condition.wait_for(lambda: False, 0)

    conditions = []
    for number in interruptions(make):
        thread = threading.Thread(target=conditions[-1].acquire, daemon=True)
        thread.start()  # it gets the lock only if nobody has kept it
        thread.join(LIMIT_S)
        assert not thread.is_alive(), number


def test_a_queue_that_is_dropped_in_its_shutdown_runs_its_jobs_and_ends(interruptions):
    """Its last reference may be that of the interrupted call."""

    def make():
        jobs = qmill.JobQueue(1, engine="thread", auto_start=False)
        put.append(jobs.submit(abs, -1))
        return lambda: jobs.shutdown(wait=False)

    put, before = [], threading.enumerate()
    for number in interruptions(make):
        gc.collect()  # an exception and its frames are a cycle
        assert put.pop().result(timeout=LIMIT_S) == 1, number
        ended = [thread for thread in threading.enumerate() if thread not in before]
        assert all(Call(thread.join).result() is None for thread in ended), number
