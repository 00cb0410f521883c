"""An exception of a signal handler at each point of a call of a JobQueue: the queue goes on."""

from __future__ import annotations

import sys
import threading

import pytest

import qmill
from qmill import _native

from ..interruptions import interrupt, interruptions
from .programs import LIMIT_S, Call

pytestmark = pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 12, 5), reason="trace functions see no instructions there"
)


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
def test_a_queue_goes_on(call):
    number, reached = 0, True
    while reached:
        number += 1
        jobs = qmill.JobQueue(1, engine="thread", auto_start=False)
        before = jobs_of(jobs)
        reached, _ = interrupt(number, call(jobs))
        after = jobs_of(jobs)
        jobs.start()
        for job in after if call is clear_waiting else before + after:
            assert job.result(timeout=LIMIT_S) in (1, 2, 3), number
        for job in before:
            assert job.done(), number  # each is settled, if it was cancelled
        Call(jobs.shutdown).result()
    assert number > 3


@pytest.mark.parametrize("how", [qmill.JobQueue.get, qmill.JobQueue.collect])
def test_a_completed_job_is_not_lost(how):
    def make():
        jobs.append(qmill.JobQueue(1, engine="thread"))
        jobs[-1].put(abs, -1).result()
        jobs[-1].wait()
        return lambda: how(jobs[-1])

    jobs = []
    for number, _ in interruptions(make):
        assert jobs[-1].get(timeout=LIMIT_S).output == 1, number
        jobs[-1].shutdown()
    jobs[-1].shutdown()
    assert len(jobs) > 3


def test_a_condition_can_be_left_at_each_point():
    def make():
        conditions.append(_native.Condition())
        return lambda: use(conditions[-1])

    def use(condition):
        with condition:
            condition.wait(0)
            condition.notify_all()
            condition.wait_for(lambda: False, 0)

    conditions = []
    for number, _ in interruptions(make, is_ours=lambda file: file == _native.__file__):
        thread = threading.Thread(target=conditions[-1].acquire, daemon=True)
        thread.start()  # it gets the lock only if nobody has kept it
        thread.join(LIMIT_S)
        assert not thread.is_alive(), number
    assert len(conditions) > 3
