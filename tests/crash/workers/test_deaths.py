"""Deaths of workers, and failures that nobody asked for."""

from __future__ import annotations

import gc
import logging
import select
import signal
import threading

import pytest

import qmill

from .. import functions
from ..programs import LIMIT_S, wait_until

# -- deaths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "exitcode", "number", "told"),
    [
        ("os._exit(3)", 3, None, "exit code 3"),
        ("os._exit(0)", 0, None, "exit code 0"),
        ("SIGKILL", -9, 9, "SIGKILL"),
        ("SIGTERM", -15, 15, "SIGTERM"),
        ("segfault", -11, 11, "SIGSEGV"),
        ("abort", -6, 6, "SIGABRT"),
    ],
)
def test_a_death_is_told_with_all_that_is_known(method, run, how, exitcode, number, told):
    """PAINS 22: "timeout or memory leak": a vague death."""
    worker = run(functions.die, how)
    with pytest.raises(qmill.WorkerDied) as info:
        worker.result()
    died = info.value
    assert (died.pid, died.exitcode, died.signal) == (worker.pid, exitcode, number)
    assert died.job == worker.name
    assert worker.exitcode == exitcode
    for piece in (told, str(worker.pid), worker.name):
        assert piece in str(died)
    assert worker.exception() is died
    assert isinstance(died, RuntimeError)


@pytest.mark.parametrize(("end", "number"), [("terminate", 15), ("kill", 9)])
def test_terminate_and_kill(method, run, end, number):
    gate, ready = qmill.Queue(), qmill.Queue()
    worker = run(functions.tell_and_wait, ready, gate)
    ready.get()
    getattr(worker, end)()
    worker.join()
    assert worker.exitcode == -number
    assert worker.exception().signal == number


@pytest.mark.parametrize(("end", "number"), [("terminate", 15), ("kill", 9)])
def test_a_worker_that_is_killed_while_it_starts(method, run, end, number):
    worker = run(functions.wait_for, qmill.Queue())
    getattr(worker, end)()
    with pytest.raises(qmill.WorkerDied) as info:
        worker.result()
    assert info.value.signal == number


def test_a_worker_that_ignores_the_signal_is_killed(method, run):
    gate, ready = qmill.Queue(), qmill.Queue()
    worker = run(functions.ignore_and_tell, [signal.SIGTERM, signal.SIGINT], ready, gate)
    ready.get()
    worker.terminate()
    worker.kill()
    worker.join()
    assert worker.exitcode == -9


@pytest.mark.parametrize(
    ("code", "exitcode"), [(None, 0), (0, 0), (3, 3), (255, 255), ("a text", 1), (True, 1)]
)
def test_sys_exit(method, run, code, exitcode):
    worker = run(functions.leave, code)
    worker.join()
    assert worker.exitcode == exitcode
    error = worker.exception()
    if exitcode:
        assert isinstance(error, qmill.WorkerDied)
        assert (error.exitcode, error.signal) == (exitcode, None)


@pytest.mark.parametrize("code", [None, 0])
def test_sys_exit_without_a_code_is_no_failure_in_processes_as_in_threads(kind, code):
    worker = qmill.Worker(functions.leave, (code,), kind=kind)
    assert worker.exception() is None
    assert worker.result() is None
    qmill.Q().stop(worker)


@pytest.mark.parametrize("code", [3, "a text"])
def test_sys_exit_in_a_thread_is_a_failure(code):
    worker = qmill.run_thread(functions.leave, code)
    assert worker.exitcode is None or worker.exitcode == 1
    assert worker.exception() is not None


def test_a_keyboard_interrupt_of_the_workers_own(method, run):
    error = run(functions.interrupt).exception()
    assert isinstance(error, qmill.WorkerDied)
    assert error.signal == signal.SIGINT


def test_the_sentinel_tells_of_a_death(method, run):
    worker = run(functions.die, "SIGKILL")
    assert select.select([worker.sentinel], [], [], LIMIT_S)[0]


# -- failures that nobody asked for ---------------------------------------------------------------


@pytest.fixture
def failures(caplog):
    """The log of workers that have failed."""
    caplog.set_level(logging.ERROR, logger="qmill")
    return lambda: [record for record in caplog.records if record.name == "qmill"]


def test_a_failure_that_nobody_asked_for_is_logged(method, failures):
    worker = qmill.run(functions.fail)
    name = worker.name
    worker.join()
    del worker
    qmill.run(functions.nothing).join()
    gc.collect()
    [record] = failures()
    assert name in record.getMessage()
    assert record.exc_info[0] is ValueError


@pytest.mark.parametrize("ask", [qmill.Worker.result, qmill.Worker.exception, qmill.Q().stop])
def test_a_failure_that_somebody_asked_for_is_not_logged(method, failures, ask):
    worker = qmill.run(functions.fail)
    try:
        ask(worker)
    except ValueError:
        pass
    del worker
    qmill.run(functions.nothing).join()
    gc.collect()
    assert failures() == []


def test_asking_too_early_is_not_asking(failures):
    gate = qmill.Queue()
    worker = qmill.run(functions.read_and_fail, qmill.Q()._from_queue(gate))
    with pytest.raises(TimeoutError):
        worker.result(0)
    gate.put(("text", "", 0))
    worker.join()
    del worker
    qmill.run(functions.nothing).join()
    gc.collect()
    assert len(failures()) == 1


def test_a_failure_of_a_thread_that_nobody_holds_is_logged(failures):
    q = qmill.Q("thread")
    qmill.run_thread(functions.read_and_fail, q)
    gc.collect()
    q.put("text")
    wait_until(lambda: not any("read_and_fail" in t.name for t in threading.enumerate()))
    gc.collect()
    assert len(failures()) == 1


def test_a_failure_of_a_thread_that_has_ended_is_logged(failures):
    worker = qmill.run_thread(functions.fail)
    worker.join()
    del worker
    gc.collect()
    assert len(failures()) == 1


@pytest.mark.parametrize("start", ["run", "run_thread"])
def test_a_failure_is_logged_when_the_program_ends(start_program, start):
    program = start_program(f"worker = qmill.{start}(functions.fail, 'nobody asked')")
    _, errors = program.finish()
    assert program.exitcode == 0
    assert errors.count("ValueError: nobody asked\n") in (1, 2)  # the remote one, and itself
    assert "worker fail-1 failed" in errors
