"""Jobs are cancelled and queues stopped; callbacks that fail."""

from __future__ import annotations

import logging
import os
import select
import threading
from concurrent.futures import CancelledError

import pytest

import qmill
from qmill import JobTimeout

from .. import functions, job_functions
from ..programs import LIMIT_S, Call, Watch
from .health import check_healthy, marks, outcome


def test_cancel_kills_what_runs(method):
    """PAINS 15: a running task cannot be cancelled."""
    told = qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        jobs.submit(functions.nothing).result()
        job = jobs.put(functions.tell_and_wait, [told, qmill.Queue()], retries=5)
        called = []
        job.add_done_callback(called.append)
        watch = Watch([told.get()])
        assert job.cancel()
        assert job.cancelled()
        assert isinstance(outcome(job), CancelledError)
        assert watch.wait() == []
        check_healthy(jobs)
        assert called == [job], "callbacks fire once"
        assert told.empty(), "a job that was cancelled is not retried"
        assert job.state == "cancelled"


def test_callbacks_of_a_cancelled_job_do_not_wait_for_its_end():
    told, has_ended = qmill.Queue(), qmill.Queue(kind="thread")
    with qmill.JobQueue(1) as jobs:
        job = jobs.submit(job_functions.ignore_sigterm_and_wait, told)
        with open(os.pidfd_open(told.get()), "rb") as process:
            job.add_done_callback(
                lambda _: has_ended.put(bool(select.select([process], [], [], 0)[0]))
            )
            assert job.cancel()
            assert has_ended.get(timeout=LIMIT_S) is False, "SIGKILL comes after two seconds"


def test_cancel_of_a_job_that_waits(quick_method):
    told, gate = qmill.Queue(), qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        first = jobs.submit(functions.tell_and_wait, told, gate)
        told.get()
        waiting = jobs.put(job_functions.do_and_tell, [told, "never"])
        called = []
        waiting.add_done_callback(called.append)
        assert waiting.cancel()
        assert isinstance(outcome(waiting), CancelledError)
        gate.put("open")
        assert first.result() == "open"
        check_healthy(jobs)
        assert told.empty()
        assert called == [waiting]


def test_stop_all(quick_method):
    told, gate = qmill.Queue(), qmill.Queue()
    with qmill.JobQueue(2) as jobs:
        some = [jobs.put(functions.tell_and_wait, [told, gate]) for _ in range(20)]
        watch = Watch([told.get(), told.get()])
        jobs.stop_all()
        assert {job.cancelled() for job in some} == {True}
        assert watch.wait() == []
        assert jobs.wait() == 0
        check_healthy(jobs)
        assert told.empty()


def test_leaving_by_an_exception_kills(method):
    told = qmill.Queue()
    with pytest.raises(ZeroDivisionError), qmill.JobQueue(2) as jobs:
        running = [jobs.submit(functions.tell_and_wait, told, qmill.Queue()) for _ in range(5)]
        watch = Watch([told.get(), told.get()])
        raise ZeroDivisionError
    assert watch.wait() == []
    assert {job.cancelled() for job in running} == {True}
    assert told.empty()


def test_leaving_by_an_exception_while_workers_start(quick_method):
    """Nothing runs that one would have to wait for."""
    gate = qmill.Queue()
    with pytest.raises(ZeroDivisionError):
        with qmill.JobQueue(2, initializer=functions.tell_and_wait, initargs=(gate, gate)) as jobs:
            job = jobs.submit(functions.nothing)
            raise ZeroDivisionError
    assert job.cancelled()


def test_stop_all_while_others_submit(quick_method, tmp_path):
    file = str(tmp_path / "marks")

    def submit(first):
        return [
            jobs.submit(job_functions.mark, file, number) for number in range(first, first + 300)
        ]

    with qmill.JobQueue(2) as jobs:
        calls = [Call(submit, 1000 * number) for number in range(3)]
        for _ in range(10):
            jobs.submit(functions.nothing).exception()
            jobs.stop_all()
        some = [job for call in calls for job in call.result()]
        assert jobs.wait() == 0
        check_healthy(jobs)
    counts = marks(tmp_path / "marks")
    for job in some:
        if job.cancelled():
            continue
        assert counts[job.result()] == 1
    assert max(counts.values(), default=0) <= 1


@pytest.mark.parametrize("options", [{}, {"auto_remove": True}])
def test_a_callback_that_blocks_does_not_keep_jobs_alive(quick_method, options):
    told, entered, go_on = qmill.Queue(), threading.Event(), threading.Event()

    def block(_):
        entered.set()
        go_on.wait(LIMIT_S)

    try:
        with qmill.JobQueue(2, callback=block, **options) as jobs:
            jobs.put(functions.nothing)
            assert entered.wait(LIMIT_S)
            stuck = jobs.put(functions.wait_for, [qmill.Queue()], timeout=0.1, suppress_errors=True)
            assert isinstance(outcome(stuck), JobTimeout)
            running = jobs.put(functions.tell_and_wait, [told, qmill.Queue()])
            watch = Watch([told.get()])
            assert running.cancel()
            assert watch.wait() == []
            assert jobs.put(functions.add, (1, 2)).result() == 3
            assert jobs.submit(functions.add, 1, 2).result() == 3
            go_on.set()
            assert jobs.wait() == 0
            check_healthy(jobs)
    finally:
        go_on.set()


FAILURES = {"an error": ValueError, "an exit": SystemExit, "an escape": job_functions.Escape}


@pytest.mark.parametrize("what", FAILURES)
def test_callbacks_that_raise(what, caplog):
    def fail(_):
        raise FAILURES[what]("of the callback")

    with qmill.JobQueue(1, callback=fail) as jobs:
        first, second = jobs.put(functions.nothing), jobs.put(functions.nothing)
        assert jobs.wait() == 0
        assert {type(job.callback) for job in (first, second)} == {FAILURES[what]}
        told = []
        for _ in range(2):
            job = jobs.submit(functions.nothing)
            job.add_done_callback(fail)
            job.add_done_callback(told.append)
            job.result()
        assert jobs.wait() == 0
        assert len(told) == 2
        check_healthy(jobs)
    assert "of the callback" in caplog.text


class BadHandler(logging.Handler):
    """A handler that ends the program, as some do when there is an error."""

    def emit(self, record):
        raise SystemExit(f"handled {record.name}")


@pytest.mark.parametrize("name", ["qmill", "theirs"])
def test_a_handler_that_exits_stops_nothing(name, caplog):
    def fail(_):
        raise ValueError("of the callback")

    logger, handler = logging.getLogger(name), BadHandler()
    logger.addHandler(handler)
    try:
        with qmill.JobQueue(1, callback=fail) as jobs:
            for _ in range(2):
                jobs.put(job_functions.log_everything, ("theirs", "hello")).result()
                assert jobs.wait() == 0
            check_healthy(jobs)
    finally:
        logger.removeHandler(handler)


def test_a_handler_that_blocks_does_not_keep_jobs_alive(quick_method):
    entered, go_on = threading.Event(), threading.Event()

    class Blocking(logging.Handler):
        def emit(self, _):
            entered.set()
            go_on.wait(LIMIT_S)

    logger, handler = logging.getLogger("qmill"), Blocking()
    logger.addHandler(handler)
    try:
        with qmill.JobQueue(2, auto_remove=True) as jobs:
            jobs.put(functions.fail)  # nobody holds it, so its failure is logged
            assert entered.wait(LIMIT_S)
            stuck = jobs.submit(functions.add, 1, 2)
            assert stuck.result(LIMIT_S) == 3
            stuck = jobs.options(timeout=0.1).submit(functions.wait_for, qmill.Queue())
            assert isinstance(outcome(stuck), JobTimeout)
            go_on.set()
    finally:
        go_on.set()
        logger.removeHandler(handler)
