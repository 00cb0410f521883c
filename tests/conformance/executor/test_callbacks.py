"""Callbacks of futures."""

from __future__ import annotations

import logging
import operator
import sys
import threading

from conformance_support import LIMIT_S

import qmill

from .failing import FREED_AFTER_S, fail


def test_done_callbacks_are_called_in_their_order(jobs, gate):
    job, called, over = jobs.submit(gate.hold), [], threading.Event()
    for number in range(3):
        job.add_done_callback(lambda job, number=number: called.append((number, job)))
    job.add_done_callback(lambda _: over.set())
    gate.permits.put(1)
    assert over.wait(LIMIT_S)
    assert called == [(0, job), (1, job), (2, job)]


def test_a_done_callback_that_comes_late_is_called_at_once(jobs):
    job, called = jobs.submit(fail), []
    job.exception()
    job.add_done_callback(called.append)
    assert called == [job]


def test_a_done_callback_that_raises_is_logged_and_hurts_nobody(jobs, gate, caplog):
    job, over = jobs.submit(gate.hold), threading.Event()

    def raise_something(_):
        raise ZeroDivisionError("in a callback")

    job.add_done_callback(raise_something)
    job.add_done_callback(lambda _: over.set())
    with caplog.at_level(logging.ERROR):
        gate.permits.put(1)
        assert over.wait(LIMIT_S)
        assert job.result() == 1
    told = [record for record in caplog.records if record.exc_info]
    assert [record.exc_info[0] for record in told] == [ZeroDivisionError]
    assert jobs.submit(int).result() == 0


def test_a_done_callback_that_exits_hurts_nobody(make, gate):
    jobs = make(1)
    job, over = jobs.submit(gate.hold), threading.Event()
    job.add_done_callback(lambda _: sys.exit("in a callback"))
    job.add_done_callback(lambda _: over.set())
    gate.permits.put(1)
    assert over.wait(FREED_AFTER_S)
    jobs.put(int)
    assert jobs.wait(timeout=FREED_AFTER_S) == 0


def test_done_callbacks_of_cancelled_jobs_are_called(make):
    jobs, called = make(1, auto_start=False), []
    job = jobs.submit(int)
    job.add_done_callback(called.append)
    job.cancel()
    jobs.shutdown()  # waits until everything is told
    assert called == [job]
    job.cancel()
    assert called == [job]


def test_a_done_callback_may_use_the_queue(jobs, gate):
    job, added, over = jobs.submit(gate.hold), [], threading.Event()

    def add(_):
        added.append(jobs.submit(operator.neg, 5))
        added.append(jobs.size())
        over.set()

    job.add_done_callback(add)
    gate.permits.put(1)
    assert over.wait(LIMIT_S)
    assert added[0].result() == -5


def test_done_callbacks_are_called_once_for_all_attempts(make):
    jobs, called, tickets = make(1, auto_start=False), [], qmill.Queue()
    tickets.put_many([False, False, True])

    def fail_twice():
        if not tickets.get():
            raise KeyError
        return "at last"

    job = jobs.put(fail_twice, retries=2)
    over = threading.Event()
    job.add_done_callback(called.append)
    job.add_done_callback(lambda _: over.set())
    jobs.start()
    assert over.wait(LIMIT_S)
    assert job.result() == "at last"
    assert called == [job]
