"""Threads that outlive their job."""

from __future__ import annotations

import functools
import itertools
import logging
import queue

import pytest

import qmill
from qmill import JobTimeout

from .. import functions, job_functions
from ..programs import LIMIT_S, Call, Watch, wait_until_asleep
from .health import check_healthy, outcome


class Heard(logging.Handler):
    """Hears what is logged."""

    def __init__(self):
        super().__init__()
        self.records = queue.SimpleQueue()

    def emit(self, record):
        self.records.put(record)

    def next(self):
        return self.records.get(timeout=LIMIT_S).getMessage()


@pytest.fixture
def heard():
    """The records of the logger "qmill" from WARNING on."""
    handler = Heard()
    logger = logging.getLogger("qmill")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture
def go_on():
    """Lets threads go on that have been left."""
    go_on = qmill.Queue()
    yield go_on
    go_on.put_many([None] * 10)  # those that a failed test has left


ENDS_OF_WORKERS = {
    "recycled": ({"max_jobs_per_worker": 1}, lambda jobs: None),
    "too large": ({"max_memory_per_worker": 1}, lambda jobs: None),
    "fewer": ({}, lambda jobs: jobs.set_workers(1)),
    "auto_stop": ({"auto_stop": True}, lambda jobs: None),
    "shutdown": ({}, lambda jobs: jobs.shutdown(wait=False)),
}


@pytest.mark.parametrize("how", ENDS_OF_WORKERS)
def test_a_thread_that_a_job_has_left_is_waited_for(quick_method, how, heard, go_on):
    """It was cut off after 10 seconds, and nothing was said."""
    told, gate = qmill.Queue(), qmill.Queue()
    options, end_worker = ENDS_OF_WORKERS[how]
    jobs = qmill.JobQueue(2, **options)
    busy = jobs.submit(functions.tell_and_wait, told, gate)
    told.get()
    pid = jobs.submit(job_functions.leave_thread, told, go_on).result(LIMIT_S)
    if how == "auto_stop":
        gate.put(None)
    end_worker(jobs)
    if how == "shutdown":
        gate.put(None)
    said = heard.next()
    assert f"(pid {pid})" in said
    assert f"worker {jobs.name}-" in said
    assert "thread saver" in said
    assert "MainThread" not in said
    go_on.put(None)
    assert told.get(timeout=LIMIT_S) == "saved"
    gate.put(None)
    busy.result(LIMIT_S)
    jobs.shutdown()
    assert heard.records.empty()


def test_the_time_that_a_worker_has_to_end_does_not_count_for_its_threads(
    quick_method, heard, go_on, monkeypatch
):
    told = qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        monkeypatch.setattr("qmill.engines.process.engine.EXIT_GRACE_S", 1.0)
        jobs.submit(job_functions.leave_thread, told, go_on, grace_s=1.5).result(LIMIT_S)
        end = Call(jobs.shutdown)
        assert "thread saver" in heard.next()  # so the second has passed
        go_on.put(None)
        end.result()
    assert told.get(block=False) == "saved"
    assert heard.records.empty()


def test_a_process_that_a_job_has_left_is_waited_for(quick_method, heard, go_on):
    told = qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        jobs.submit(job_functions.leave_thread, told, go_on, kind="process").result(LIMIT_S)
        end = Call(jobs.shutdown)
        assert "process saver" in heard.next()
        go_on.put(None)
        end.result()
    assert told.get(block=False) == "saved"


def test_the_jobs_of_a_queue_that_a_job_has_left_are_waited_for(quick_method, heard, go_on):
    told = qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        jobs.submit(job_functions.leave_queue, told, go_on).result(LIMIT_S)
        end = Call(jobs.shutdown)
        assert "qmill-dispatcher" in heard.next()
        go_on.put(None)
        end.result()
    assert told.get(block=False) == "saved"


def test_an_idle_pool_that_a_job_has_left_is_nothing_to_wait_for(quick_method, heard):
    with qmill.JobQueue(1) as jobs:
        jobs.submit(job_functions.leave_idle_pool).result(LIMIT_S)
    assert heard.records.empty()


def test_a_worker_that_does_not_end_is_killed_and_that_is_said(quick_method, heard, monkeypatch):
    monkeypatch.setattr("qmill.engines.process.engine.EXIT_GRACE_S", 0.2)
    with qmill.JobQueue(1) as jobs:
        jobs.submit(job_functions.leave_exit_function, qmill.Queue()).result(LIMIT_S)
    said = heard.next()
    assert f"worker {jobs.name}-1" in said
    assert "0.2 s" in said
    assert "killed" in said


def test_leaving_by_an_exception_waits_for_no_thread(quick_method, go_on):
    told = qmill.Queue()
    with pytest.raises(KeyError, match="mine"), qmill.JobQueue(2) as jobs:
        pid = jobs.submit(job_functions.leave_thread, told, go_on).result(LIMIT_S)
        watch = Watch([pid])
        raise KeyError("mine")
    assert watch.wait() == []
    assert told.empty()


def test_leaving_by_an_exception_waits_for_no_thread_of_a_worker_that_ends_already(
    quick_method, heard, go_on
):
    with pytest.raises(KeyError), qmill.JobQueue(1, max_jobs_per_worker=1) as jobs:
        pid = jobs.submit(job_functions.leave_thread, qmill.Queue(), go_on).result(LIMIT_S)
        watch = Watch([pid])
        assert "thread saver" in heard.next()
        raise KeyError
    assert watch.wait() == []


@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_a_worker_that_is_killed_waits_for_no_thread(quick_method, how, go_on):
    told = qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        pid = jobs.submit(job_functions.leave_thread, told, go_on).result(LIMIT_S)
        watch = Watch([pid])
        if how == "timeout":
            wait = functions.tell_and_wait, (told, qmill.Queue())
            job = jobs.put(*wait, timeout=0.1, suppress_errors=True)
            assert type(outcome(job)) is JobTimeout
        else:
            job = jobs.submit(functions.tell_and_wait, told, qmill.Queue())
            told.get()
            job.cancel()
        assert watch.wait() == []
        check_healthy(jobs)


def test_a_map_that_is_closed_early_waits_for_no_thread(quick_method, go_on):
    told = qmill.Queue()
    leave = functools.partial(job_functions.leave_thread, told)
    pids = qmill.map(leave, itertools.repeat(go_on), max_workers=1)
    watch = Watch([next(pids)])
    pids.close()
    assert watch.wait() == []
    assert told.empty()


def test_a_map_waits_for_the_threads_of_its_calls(quick_method, heard, go_on):
    told = qmill.Queue()
    leave = functools.partial(job_functions.leave_thread, told)
    every = Call(lambda: list(qmill.map(leave, [go_on], max_workers=1)))
    assert "thread saver" in heard.next()
    go_on.put(None)
    every.result()
    assert told.get(block=False) == "saved"


def test_workers_that_wait_for_threads_do_not_become_ever_more(heard, go_on, monkeypatch):
    monkeypatch.setattr("qmill.engines.process.engine.MAX_LINGERING", 1)
    told = qmill.Queue()
    with qmill.JobQueue(1, max_jobs_per_worker=1) as jobs:
        for _ in range(2):
            jobs.submit(job_functions.leave_thread, told, go_on).result(LIMIT_S)
            heard.next()
        waiting = jobs.submit(functions.add, 1, 2)
        assert jobs._dispatcher.engine.num_startable == 0
        assert jobs._dispatcher.engine.num_workers == 2
        go_on.put(None)
        assert waiting.result(LIMIT_S) == 3  # a place has become free
        go_on.put(None)


LEAVES_A_THREAD = """
from tests.crash.programs import Call
told, go_on = qmill.Queue(), qmill.Queue()
def leave(jobs):
    tell(jobs.submit(job_functions.leave_thread, told, go_on).result())
"""


def test_a_program_waits_for_the_threads_of_its_jobs(start_program):
    program = start_program(
        LEAVES_A_THREAD
        + """
Call(lambda: (input(), go_on.put(None)))
leave(qmill.JobQueue(1))
import atexit
atexit.register(lambda: tell(*told.get_many(10)))
"""
    )
    program.hear()
    program.tell()
    assert program.hear() == ["saved"]
    program.finish()
    assert program.exitcode == 0


@pytest.mark.parametrize(
    "where",
    [
        "leave(qmill.JobQueue(1))",
        "with qmill.JobQueue(1) as jobs: leave(jobs)",
        "with qmill.JobQueue(1) as jobs: leave(jobs); input()",
        "jobs = qmill.JobQueue(1); leave(jobs); jobs.shutdown()",
    ],
)
def test_ctrl_c_waits_for_no_thread(start_program, where):
    program = start_program(LEAVES_A_THREAD + where)
    (pid,) = program.hear_pids()
    watch = Watch([pid])
    if "input" not in where:
        wait_until_asleep(program.pid)
    program.interrupt_group()
    program.finish()
    assert watch.wait() == []
