"""Workers: what comes back, and what happens when they, their readers or their parents die."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import re
import select
import signal
import sys
import threading
import traceback

import pytest

import qmill
from qmill.packing.serialize import RemoteTraceback
from qmill.processes import launch, trees

from . import functions
from .programs import LIMIT_S, Call, Watch, descriptors, wait_until, wait_until_asleep


@pytest.fixture(params=["process", "thread"])
def kind(request):
    return request.param


def data_of(messages):
    return [message.data for message in messages]


# -- what comes back ------------------------------------------------------------------------------


def test_result(method, run):
    assert run(functions.add, 1, b=2).result() == 3


@pytest.mark.parametrize("start_method", launch.METHODS)
def test_the_start_method_of_one_worker(start_method):
    worker = qmill.Worker(functions.parent_pid, start_method=start_method)
    assert (worker.result() == os.getpid()) == (start_method != "forkserver")
    worker.join()


def test_result_of_a_thread():
    worker = qmill.run_thread(functions.add, 1, b=2)
    assert worker.result() == 3
    assert worker.pid == os.getpid()
    assert worker.exitcode == 0


def test_every_argument_goes_to_the_function(method, run):
    names = ["args", "kwargs", "kind", "start_method", "name", "fn", "self", "timeout", "job"]
    kwargs = dict.fromkeys(names, 1)
    assert run(functions.take_everything, 1, 2, **kwargs).result() == ((1, 2), kwargs)


def test_every_argument_goes_to_the_function_of_a_thread():
    kwargs = dict.fromkeys(["args", "kwargs", "kind", "name", "fn", "self"], 1)
    assert qmill.run_thread(functions.take_everything, 1, **kwargs).result() == ((1,), kwargs)


def test_life_of_a_worker(method, run):
    gate = qmill.Queue()
    worker = run(functions.wait_for, gate)
    assert worker.is_alive()
    assert worker.exitcode is None
    assert worker.pid not in (None, os.getpid())
    assert re.fullmatch(r"wait_for-\d+", worker.name)
    assert f"running pid={worker.pid}" in repr(worker)
    worker.join(0)
    worker.join(0.001)
    assert worker.is_alive()
    assert not select.select([worker.sentinel], [], [], 0)[0]
    with pytest.raises(TimeoutError, match=worker.name):
        worker.result(0.001)
    with pytest.raises(TimeoutError):
        worker.exception(0)
    gate.put("opened")
    assert select.select([worker.sentinel], [], [], LIMIT_S)[0]
    worker.join(LIMIT_S)
    assert not worker.is_alive()
    assert worker.exitcode == 0
    assert worker.result(0) == "opened"
    assert worker.exception() is None
    assert "exitcode=0" in repr(worker)
    worker.join()
    worker.terminate()
    worker.kill()


def test_life_of_a_thread():
    gate = qmill.Queue(kind="thread")
    worker = qmill.Worker(functions.wait_for, (gate,), kind="thread", name="waits")
    assert worker.is_alive()
    assert worker.exitcode is None
    assert worker.name == "waits"
    assert [thread.name for thread in threading.enumerate() if thread.name == "waits"] == ["waits"]
    with pytest.raises(TimeoutError):
        worker.result(0)
    for call in (worker.terminate, worker.kill, lambda: worker.sentinel):
        with pytest.raises(ValueError, match="thread"):
            call()
    gate.put(1)
    worker.join()
    assert not worker.is_alive()
    assert worker.result() == 1


def test_a_name(method, workers):
    workers.append(qmill.Worker(functions.fail, name="reader 3"))
    assert workers[0].name == "reader 3"
    assert "reader 3" in repr(workers[0])


def test_the_result_is_kept_after_join(method, run):
    worker = run(functions.take_everything, "a")
    worker.join()
    assert worker.result() is worker.result()


def test_an_exception_is_raised_as_itself_with_the_remote_traceback(method, run):
    worker = run(functions.fail)
    with pytest.raises(ValueError, match="of the worker's") as info:
        worker.result()
    cause = info.value.__cause__
    assert isinstance(cause, RemoteTraceback)
    assert "in fail" in str(cause)
    assert "functions.py" in str(cause)
    assert "in fail" in "".join(traceback.format_exception(info.value))
    assert worker.exception() is info.value
    worker.join()
    assert worker.exitcode == 1


def test_an_exception_of_a_thread_is_raised_as_itself():
    worker = qmill.run_thread(functions.fail)
    with pytest.raises(ValueError, match="of the worker's"):
        worker.result()
    assert worker.exitcode == 1


def test_notes_are_kept(method, run):
    assert run(functions.fail_with_a_note).exception().__notes__ == ["a note"]


@pytest.mark.parametrize("function", [functions.fail_oddly, functions.fail_without_text])
def test_an_exception_that_cannot_be_rebuilt_arrives_wrapped(method, run, function):
    """PAINS 7: an exception that cannot be unpickled hangs the pool."""
    error = run(function).exception()
    assert not isinstance(error, qmill.WorkerDied)
    assert f"in {function.__name__}" in str(error.__cause__)


def test_a_result_that_cannot_be_pickled_raises(method, run):
    """PAINS 6: an item that cannot be pickled vanishes or hangs."""
    worker = run(functions.a_lock)
    with pytest.raises(qmill.SerializationError, match=r"_thread\.lock"):
        worker.result()
    worker.join()
    with pytest.raises(qmill.SerializationError):
        worker.result()


def test_a_result_that_cannot_be_rebuilt_raises(method, run):
    """PAINS 6: an item that cannot be pickled vanishes or hangs."""
    with pytest.raises(qmill.SerializationError, match="Unrebuildable"):
        run(functions.a_thing_that_cannot_be_rebuilt).result()


def test_the_result_and_the_exception_agree_about_a_result_that_cannot_be_pickled(run):
    worker = run(functions.a_lock)
    assert isinstance(worker.exception(), qmill.SerializationError)


@pytest.mark.parametrize("size", [0, 32_000, 33_000, 250_000, 50_000_000])
def test_a_result_of_any_size_can_be_joined_before_it_is_read(method, run, size):
    """PAINS 4: join before drain deadlocks."""
    worker = run(functions.many_bytes, size)
    worker.join(LIMIT_S)
    assert worker.exitcode == 0
    assert len(worker.result()) == size


def test_large_results_arrive_while_they_are_waited_for(method, run):
    """PAINS 4: join before drain deadlocks."""
    calls = [run(functions.many_bytes, 100_000) for _ in range(4)]
    assert [len(worker.result()) for worker in calls] == [100_000] * 4


@pytest.mark.parametrize("timeout", [None, LIMIT_S])
def test_a_large_result_that_comes_in_two_pieces(run, timeout):
    """PAINS 4: join before drain deadlocks."""
    # The parent sees the first piece before the worker has sent the second.
    gate = qmill.Queue()
    worker = run(functions.slow_to_send, 1_000_000, gate)
    call = Call(worker.result, timeout).wait_until_blocked()
    gate.put("open")
    assert len(call.result()) == 1_000_000


def test_looking_at_a_worker_whose_large_result_comes_in_two_pieces(run):
    gate = qmill.Queue()
    worker = run(functions.slow_to_send, 1_000_000, gate)
    select.select([worker._runner._process.channel], [], [], LIMIT_S)
    with pytest.raises(TimeoutError):
        worker.result(0)
    gate.put("open")
    assert len(worker.result()) == 1_000_000


def test_an_instance_of_a_local_class_keeps_its_identity(method, run):
    assert type(run(functions.local_instance).result()).__name__ == "Local"
    local = functions.make_local()
    assert type(run(local).result()) is local


def test_several_threads_ask_one_worker(method, run):
    for _ in range(5):
        gate = qmill.Queue()
        worker = run(functions.wait_for, gate)
        calls = [
            Call(ask)
            for ask in [worker.result, worker.join, worker.exception, worker.is_alive] * 3
            + [lambda worker=worker: watch(worker)] * 3
        ]
        gate.put("opened")
        assert [call.result() for call in calls[0:12:4]] == ["opened"] * 3
        for call in calls:
            call.result()


def watch(worker):
    while worker.is_alive():
        worker.exitcode
        repr(worker)


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda: qmill.run(3), TypeError, ["fn", "callable", "3"]),
        (lambda: qmill.run_thread("f"), TypeError, ["fn", "callable", "'f'"]),
        (lambda: qmill.Worker(None), TypeError, ["fn", "None"]),
        (lambda: qmill.Worker(len, kind="fork"), ValueError, ["kind", "'fork'", "'process'"]),
        (lambda: qmill.Worker(len, kind=None), ValueError, ["kind", "None"]),
        (
            lambda: qmill.Worker(len, start_method="threads"),
            ValueError,
            ["start_method", "'threads'", "spawn"],
        ),
        (
            lambda: qmill.Worker(len, kind="thread", start_method="spawn"),
            ValueError,
            ["start_method", "thread"],
        ),
        (lambda: qmill.Worker(len, name=3), TypeError, ["name", "3"]),
        (lambda: qmill.Worker(len, 3), TypeError, []),
        (lambda: qmill.Worker(len, (), 3), TypeError, []),
        (lambda: qmill.set_start_method("x"), ValueError, ["'x'", "spawn"]),
    ],
)
def test_bad_arguments(make, error, told):
    with pytest.raises(error) as info:
        make()
    for piece in told:
        assert piece in str(info.value)


@pytest.mark.parametrize("timeout", [-1, -0.5, float("nan")])
def test_bad_timeouts(timeout):
    worker = qmill.run_thread(functions.nothing)
    for call in (worker.join, worker.result, worker.exception):
        with pytest.raises(ValueError, match="timeout"):
            call(timeout)
    worker.join()


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_arguments_that_cannot_be_pickled_raise_from_run(start_method, monkeypatch):
    """PAINS 18: forkserver and spawn cannot pickle; functions of notebooks hang."""
    monkeypatch.setenv("QMILL_START_METHOD", start_method)
    with pytest.raises(qmill.SerializationError, match=r"lock.*start_method='fork'"):
        qmill.run(functions.add, {"lock": threading.Lock()})


def test_what_cannot_be_pickled_is_shared_under_fork(workers):
    """PAINS 18: forkserver and spawn cannot pickle; functions of notebooks hang."""
    lock = threading.Lock()
    workers.append(qmill.Worker(lambda: lock.acquire(False), start_method="fork"))
    assert workers[0].result() is True


def test_lambdas_and_closures_run_in_workers(method, run):
    """PAINS 18: forkserver and spawn cannot pickle; functions of notebooks hang."""
    factor = 3
    assert run(lambda number: factor * number, 4).result() == 12


@pytest.mark.parametrize("wrap", [lambda q: q, lambda q: [q]], ids=["itself", "in a list"])
@pytest.mark.parametrize("make", [lambda: qmill.Q("thread"), lambda: qmill.Queue(kind="thread")])
def test_a_queue_for_threads_is_refused_by_run(method, workers, make, wrap):
    with pytest.raises(TypeError, match="kind='thread'"):
        workers.append(qmill.run(functions.take_everything, wrap(make())))


def test_a_worker_cannot_be_sent(method, run):
    worker = run(functions.nothing)
    with pytest.raises(qmill.SerializationError, match="cannot be sent") as info:
        qmill.Queue().put([worker])
    assert "obj[0], a qmill.workers.api.Worker" in str(info.value)  # not a part of it


# -- start methods --------------------------------------------------------------------------------


@pytest.fixture
def chosen():
    yield qmill.set_start_method
    qmill.set_start_method(None)


def test_start_methods(chosen, monkeypatch):
    monkeypatch.delenv("QMILL_START_METHOD", raising=False)
    assert qmill.get_start_method() == "forkserver"
    monkeypatch.setenv("QMILL_START_METHOD", "spawn")
    assert qmill.get_start_method() == "spawn"
    chosen("fork")
    assert qmill.get_start_method() == "fork"
    assert qmill.get_start_method("spawn") == "spawn"
    chosen(None)
    assert qmill.get_start_method() == "spawn"
    monkeypatch.setenv("QMILL_START_METHOD", "")
    assert qmill.get_start_method() == "forkserver"


def test_a_bad_start_method_in_the_environment_is_told(monkeypatch):
    monkeypatch.setenv("QMILL_START_METHOD", "threads")
    with pytest.raises(ValueError, match=r"QMILL_START_METHOD.*'threads'"):
        qmill.run(functions.nothing)


def test_the_chosen_start_method_is_used(chosen):
    chosen("fork")
    assert qmill.run(functions.parent_pid).result() == os.getpid()
    chosen("forkserver")
    assert qmill.run(functions.parent_pid).result() != os.getpid()


# -- the world that a worker sees -----------------------------------------------------------------


def test_a_worker_sees_the_world_of_the_moment_of_its_start(method, run, tmp_path, monkeypatch):
    run(functions.nothing).join()  # a fork server runs already
    for number in range(2):
        there = tmp_path / str(number)
        there.mkdir()
        monkeypatch.setenv("QMILL_TEST_WORLD", str(number))
        monkeypatch.chdir(there)
        monkeypatch.setattr(sys, "path", [str(there), *sys.path])
        monkeypatch.setattr(sys, "argv", ["program", str(number)])
        seen = run(functions.look_around, "QMILL_TEST_WORLD").result()
        assert seen == (str(number), str(there), sys.path, sys.argv)
    monkeypatch.delenv("QMILL_TEST_WORLD")
    assert run(functions.look_around, "QMILL_TEST_WORLD").result()[0] is None


def test_a_worker_imports_a_module_written_a_moment_ago(method, run, tmp_path, monkeypatch):
    (tmp_path / f"fresh_{method}.py").write_text("def answer(): return 42")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module(f"fresh_{method}")
    assert run(module.answer).result() == 42


def test_standard_input_is_the_parents_alone(method, run):
    assert run(functions.standard_input).result() == ("", b"")


def test_a_working_directory_that_is_gone(method, run, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    try:
        assert run(functions.add, 1, 2).result() == 3
    finally:
        os.chdir(tmp_path)


def test_output_appears_once(start_program):
    program = start_program(
        """
print("from the parent", end="; ")
qmill.run(functions.say, "from the worker; ").join()
print("after it")
"""
    )
    assert program.finish() == ("from the parent; from the worker; after it\n", "")


INTERRUPTED_AT_ONCE = """
import atexit, tempfile, weakref
folder = tempfile.TemporaryDirectory()
atexit.register(print, "exit function of", os.getpid())
os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGINT))
worker = qmill.run(print, "not reached")
print(type(worker.exception()).__name__, os.path.isdir(folder.name))
"""


def test_an_interrupt_right_after_the_fork_runs_nothing_of_the_parents(start_program, method):
    if method != "fork":
        pytest.skip("the others share nothing with the parent")
    program = start_program(INTERRUPTED_AT_ONCE)
    assert program.finish() == (f"WorkerDied True\nexit function of {program.pid}\n", "")


def test_a_finalizer_of_the_worker_runs_at_its_end_and_the_parents_does_not(start_program):
    output, errors = start_program(
        """
import weakref
def finalize(text):
    class Thing:
        pass
    kept.append(Thing())
    weakref.finalize(kept[-1], print, text, flush=True)
kept = []
finalize("the parent's")
qmill.run(finalize, "the worker's").join()
print("worker has ended", flush=True)
"""
    ).finish()
    assert (output, errors) == ("the worker's\nworker has ended\nthe parent's\n", "")


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
    """What is logged of workers that have failed."""
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


# -- stop -----------------------------------------------------------------------------------------


def test_stop_ends_and_joins(method, run):
    q, out = qmill.Q(), qmill.Q()
    crew = [run(functions.read_to, q, out) for _ in range(2)]
    q.put_many(range(20))
    assert q.stop(crew) is q
    assert not any(worker.is_alive() for worker in crew)
    assert sorted(data_of(out.items())) == list(range(20))
    assert q.empty()
    assert q.statistics().unfinished == 0


def test_stop_takes_one_worker_and_any_iterable(method, run):
    q, out = qmill.Q(), qmill.Q()
    q.stop(run(functions.read_to, q, out))
    q.stop(run(functions.read_to, q, out) for _ in range(2))
    q.stop([])
    assert q.empty()


def test_stop_ends_threads_too(kind):
    q, out = qmill.Q(kind), qmill.Q("thread")
    crew = [qmill.run_thread(functions.read_to, q, out) for _ in range(3)]
    q.put_many(range(9))
    q.stop(crew)
    assert sorted(data_of(out.items())) == list(range(9))


def test_stop_raises_one_failure_as_itself(method, run):
    q = qmill.Q()
    q.put("one failure")
    with pytest.raises(ValueError, match="one failure") as info:
        q.stop([run(functions.read_and_fail, q)])
    assert isinstance(info.value.__cause__, RemoteTraceback)
    assert data_of(q.items()) == ["one failure"]  # it came back, and no END is left over


def test_stop_raises_several_failures_as_a_group(method, run):
    q = qmill.Q()
    q.put_many(["one", "two"])
    crew = [run(functions.read_and_fail, q), run(functions.read_and_fail, q)]
    with pytest.raises(ExceptionGroup) as info:
        q.stop(crew)
    assert {type(error) for error in info.value.exceptions} == {ValueError}
    assert {str(error) for error in info.value.exceptions} <= {"one", "two"}
    assert data_of(q.items()) == ["one", "two"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_ends_politely_gives_its_message_back(method, run, number):
    q, ready, gate = qmill.Q(), qmill.Queue(), qmill.Queue()
    q.put("in hand")
    worker = run(functions.read_and_hold_politely, q, ready, gate)
    assert ready.get(timeout=LIMIT_S) == "in hand"
    os.kill(worker.pid, number)
    worker.join()
    q._queue._settle()
    assert (q.statistics().leased, q.statistics().redelivered) == (0, 1)
    assert q.get(block=False).data == "in hand"


def test_a_message_whose_handling_always_raises_ends_each_worker_once(method, run):
    q = qmill.Q()
    q.put("bad")
    reads = [functions.read_and_fail, functions.read_and_fail_with_an_iterator] * 2
    with pytest.raises(ExceptionGroup) as info:
        q.stop([run(read, q) for read in reads])
    assert [str(error) for error in info.value.exceptions] == ["bad"] * 4
    assert (q.statistics().poisoned, q.statistics().redelivered) == (0, 4)
    assert q.get(block=False).data == "bad"


def test_stop_with_a_dead_worker(method, run):
    q, out, ready, gate = qmill.Q(), qmill.Q(), qmill.Queue(), qmill.Queue()
    dead = run(functions.tell_and_wait, ready, gate)
    alive = run(functions.ready_read_to, q, out, ready)
    ready.get_many(1)
    ready.get()
    dead.kill()
    dead.join()
    q.put_many(range(5))
    with pytest.raises(qmill.WorkerDied) as info:
        q.stop([dead, alive])
    assert info.value.pid == dead.pid
    assert data_of(out.items()) == list(range(5))
    assert q.empty()


def test_stop_with_all_workers_dead(method, run):
    q, out = qmill.Q(), qmill.Q()
    crew = [run(functions.read_until_killed, q, out) for _ in range(2)]
    q.put_many(["deadly", "deadly", "left"])
    for worker in crew:
        worker.join()
    with pytest.raises(ExceptionGroup) as info:
        q.stop(crew)
    assert [type(error) for error in info.value.exceptions] == [qmill.WorkerDied] * 2
    # Nothing is lost, and no END is left over.
    assert data_of(q.items()) == ["deadly", "deadly", "left"]


def test_stop_with_workers_that_die_meanwhile(method, run):
    q, out, ready, gate = qmill.Q(), qmill.Q(), qmill.Queue(), qmill.Queue()
    crew = [run(functions.read_and_hold_at, "held", q, out, ready, gate) for _ in range(2)]
    q.put_many(["held", "held", 1, 2])
    pids = {ready.get(), ready.get()}
    assert pids == {worker.pid for worker in crew}
    stop = Call(q.stop, crew).wait_until_blocked()
    for worker in crew:
        worker.kill()
    with pytest.raises(ExceptionGroup):
        stop.result()
    assert data_of(q.items()) == ["held", "held", 1, 2]


def test_stop_with_workers_that_returned_early(method, run):
    q = qmill.Q()
    q.put_many(range(4))
    crew = [run(functions.read_one, q) for _ in range(2)]
    q.stop(crew)
    assert sorted(worker.result() for worker in crew) == [0, 1]
    assert data_of(q.items()) == [2, 3]


def test_stop_needs_no_room_in_a_full_queue(method, run):
    q, out, gate = qmill.Q(maxsize=2), qmill.Q(), qmill.Queue()
    worker = run(functions.gated_read, q, out, gate)
    q.put_many(range(2))
    assert q.full()
    stop = Call(q.stop, worker)
    wait_until(lambda: q.qsize() == 3)
    gate.put("open")
    assert stop.result() is q
    assert data_of(out.items()) == [0, 1]


def test_stop_joins_workers_that_have_put_much(method, run):
    """PAINS 4: join before drain deadlocks."""
    q, out = qmill.Q(), qmill.Q()
    q.stop([run(functions.put_large, out, 8, 200_000)])
    assert sum(len(message.data) for message in out.items()) == 1_600_000


def test_stop_twice(method, run):
    q, out = qmill.Q(), qmill.Q()
    worker = run(functions.read_to, q, out)
    assert q.stop(worker).stop(worker) is q
    assert q.empty()


# -- readers that are killed ----------------------------------------------------------------------


@pytest.mark.parametrize("read", ["__iter__", "sorted"])
def test_another_reader_gets_the_message_of_a_killed_one(method, run, read):
    q, ready, gate = qmill.Q(), qmill.Queue(), qmill.Queue()
    q.put("in hand").put("unread", order=1)
    reader = run(functions.read_and_hold, read, q, ready, gate)
    assert ready.get() == "in hand"
    reader.kill()
    reader.join()
    out = qmill.Q()
    other = run(functions.read_to, q, out)
    q.stop(other)
    assert data_of(out.items()) == ["in hand", "unread"]
    assert q.statistics().redelivered >= 1


def test_nothing_is_lost_and_only_the_message_in_hand_comes_twice(method, run):
    q, out, ready, gate = qmill.Q(), qmill.Q(), qmill.Queue(), qmill.Queue()
    q.put_many(range(30))
    # Each of them passes on what is before its message, and is killed with that in its hands.
    for held in (7, 15, 16):
        reader = run(functions.read_and_hold_at, held, q, out, ready, gate)
        ready.get()
        reader.kill()
        reader.join()
    q.stop(run(functions.read_to, q, out))
    assert data_of(out.items()) == list(range(30))
    counts = q.statistics()
    assert (counts.redelivered, counts.lost, counts.unfinished) == (3, 0, 0)


def test_messages_that_a_killed_sorted_reader_had_buffered_come_again(method, run):
    q, ready, gate = qmill.Q(), qmill.Queue(), qmill.Queue()
    for order in (3, 1, 2, 0):
        q.put(f"#{order}", order=order)
    reader = run(functions.read_and_hold, "sorted", q, ready, gate)
    assert ready.get() == "#0"
    assert q.statistics().leased == 4
    reader.kill()
    reader.join()
    out = qmill.Q()
    q.stop(run(functions.sorted_to, q, out))
    assert data_of(out.items()) == ["#0", "#1", "#2", "#3"]


def test_several_sorted_readers_come_to_the_end(method, run):
    q, out = qmill.Q(), qmill.Q()
    crew = [run(functions.sorted_to, q, out) for _ in range(3)]
    for order in range(1, 60):  # 0 never comes: everything is buffered until the END
        q.put(order, order=order)
    q.stop(crew)
    assert sorted(data_of(out.items())) == list(range(1, 60))


def test_several_sorted_readers_come_to_the_end_although_one_is_killed(method, run):
    q, out = qmill.Q(), qmill.Q()
    ready, gate = qmill.Queue(), qmill.Queue()
    for order in (0, 5, 6, 7):
        q.put(order, order=order)
    victim = run(functions.read_and_hold, "sorted", q, ready, gate)
    assert ready.get() == 0
    crew = [run(functions.sorted_to, q, out) for _ in range(2)]
    stop = Call(q.stop, [victim, *crew])
    wait_until(lambda: q.qsize() == 3)  # nothing but ENDs
    victim.kill()
    with pytest.raises(qmill.WorkerDied):
        stop.result()
    assert sorted(data_of(out.items())) == [0, 5, 6, 7]
    assert q.empty()


def test_a_message_that_kills_its_readers_is_set_aside_and_told(method, run):
    q, out = qmill.Q(), qmill.Q()
    crew = [run(functions.read_until_killed, q, out) for _ in range(4)]
    q.put(1).put("deadly", kind="k", order=5).put(2)
    with pytest.raises(ExceptionGroup) as info:
        q.stop(crew)
    *died, poisoned = info.value.exceptions
    assert [type(error) for error in died] == [qmill.WorkerDied] * 3
    assert isinstance(poisoned, qmill.Poisoned)
    assert poisoned.messages == [qmill.Msg("deadly", "k", 5)]
    assert "deadly" in str(poisoned)
    assert sorted(data_of(out.items())) == [1, 2]
    assert q.empty()
    q.requeue(poisoned.messages[0])
    assert q.poisoned() == []
    assert (q.get(), q.unfinished_tasks) == (qmill.Msg("deadly", "k", 5), 1)


def test_a_message_that_kills_all_readers_is_told_by_stop_at_once(method, run):
    for _ in range(3):
        q, out = qmill.Q(), qmill.Q()
        crew = [run(functions.read_until_killed, q, out) for _ in range(3)]
        q.put("deadly")
        with pytest.raises(ExceptionGroup) as info:
            q.stop(crew)
        kinds = [type(error) for error in info.value.exceptions]
        assert kinds == [qmill.WorkerDied] * 3 + [qmill.Poisoned]


def test_what_stop_leaves_is_there_at_once(method, run):
    """The broker's thread may hear of a death later than whoever joins the dead."""
    for _ in range(5):
        q, out = qmill.Q(), qmill.Q()
        reader = run(functions.read_until_killed, q, out)
        q.put("deadly")
        with pytest.raises(qmill.WorkerDied):
            q.stop(reader)
        assert (q.qsize(), q.statistics().leased, q.statistics().redelivered) == (1, 0, 1)


def test_a_put_that_returned_is_there_although_the_worker_dies(method, run):
    out = qmill.Q()
    run(functions.read_until_killed, out_of(["a", "deadly"]), out).join()
    assert out.get(timeout=LIMIT_S).data == "a"


def out_of(items):
    q = qmill.Q()
    q.put_many(items)
    return q


# -- threads of workers ---------------------------------------------------------------------------


def test_a_worker_that_waits_for_its_threads_says_so(method, run):
    told, go_on = qmill.Queue(), qmill.Queue()
    worker = run(functions.leave_thread_and_log, told, go_on)
    assert worker.result(LIMIT_S) == worker.pid
    said = told.get(timeout=LIMIT_S)
    assert f"worker {worker.name} (pid {worker.pid})" in said
    assert "thread saver" in said
    assert worker.is_alive()
    go_on.put(None)
    worker.join(LIMIT_S)
    assert worker.exitcode == 0
    assert told.get_many(10) == ["saved"]


# -- workers of workers ---------------------------------------------------------------------------


def test_workers_start_workers(method, run):
    pids = run(functions.descend, 3).result()
    assert len(set(pids) | {os.getpid()}) == 5


def test_workers_of_a_worker_end_with_it_when_it_is_killed(method, run):
    pids, gate = qmill.Queue(), qmill.Queue()
    worker = run(functions.descend_and_wait, 2, pids, gate)
    watch = Watch([pids.get() for _ in range(3)])
    worker.kill()
    assert watch.wait() == []


def test_workers_of_a_worker_that_ends_normally_are_terminated_with_a_warning(start_program):
    program = start_program(
        """
ready, gate = qmill.Queue(), qmill.Queue()
worker = qmill.run(functions.leave_a_worker_behind, ready, gate)
worker.result()
worker.join()
tell(worker.exitcode)
"""
    )
    assert program.hear() == ["0"]
    _, errors = program.finish()
    assert "still ran" in errors
    assert "tell_and_wait" in errors


# -- the fork server ------------------------------------------------------------------------------


@pytest.fixture
def fork_server(monkeypatch, run):
    """The process number of this process's fork server."""
    monkeypatch.setenv("QMILL_START_METHOD", "forkserver")
    return run(functions.parent_pid).result()


def test_a_fork_server_that_was_killed(fork_server, run):
    ready, gate = qmill.Queue(), qmill.Queue()
    crew = [run(functions.tell_and_wait, ready, gate) for _ in range(2)]
    for _ in crew:
        ready.get()
    watch = Watch([fork_server])
    os.kill(fork_server, signal.SIGKILL)
    assert watch.wait() == []
    assert all(worker.is_alive() for worker in crew)
    next_worker = run(functions.parent_pid)
    assert next_worker.result() not in (fork_server, os.getpid())
    gate.put("one")
    gate.put("two")
    assert sorted(worker.result() for worker in crew) == ["one", "two"]


def test_a_worker_that_dies_after_its_fork_server(fork_server, run):
    ready, gate = qmill.Queue(), qmill.Queue()
    worker = run(functions.tell_and_wait, ready, gate)
    ready.get()
    watch = Watch([fork_server])
    os.kill(fork_server, signal.SIGKILL)
    assert watch.wait() == []
    worker.kill()
    with pytest.raises(qmill.WorkerDied) as info:
        worker.result()
    assert info.value.pid == worker.pid


def test_a_fork_server_that_is_stopped_is_replaced(fork_server, run):
    os.kill(fork_server, signal.SIGSTOP)
    assert run(functions.parent_pid).result() not in (fork_server, os.getpid())
    watch = Watch([fork_server])
    launch.stop_fork_server()
    assert watch.wait() == []


def test_a_worker_of_a_stopped_fork_server_ends(fork_server, run):
    ready, gate = qmill.Queue(), qmill.Queue()
    worker = run(functions.tell_and_wait, ready, gate)
    ready.get()
    os.kill(fork_server, signal.SIGSTOP)
    gate.put("open")
    assert worker.result() == "open"
    worker.join()
    assert worker.exitcode == launch.UNKNOWN_EXIT
    launch.stop_fork_server()


def test_fork_servers_that_all_end_are_told(fork_server, run, monkeypatch):
    launch.stop_fork_server()
    monkeypatch.setattr(launch, "PRELOADED", ["no_such_module_of_a_test"])
    with pytest.raises(ChildProcessError, match="has ended 3 times in a row .*spawn"):
        run(functions.parent_pid)


STOPS_ITS_SERVER = """
server = qmill.run(functions.parent_pid).result()
if server != os.getpid():
    os.kill(server, signal.SIGSTOP)
print("the end", flush=True)
"""


def test_a_program_ends_although_its_fork_server_is_stopped(start_program):
    assert start_program(STOPS_ITS_SERVER).finish() == ("the end\n", "")


STARTS_OTHERS = """
import subprocess
def start_another(n, **how):
    other = subprocess.Popen(["sleep", "600"], **how)
    print(other.pid, flush=True)
    other.wait()
"""


def pids_left_by(program):
    pids = [pid for _ in range(2) for pid in program.hear_pids()]
    watch = Watch(pids)
    program.kill()
    left = watch.wait()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left


@pytest.mark.parametrize(
    "start",
    [
        "jobs = qmill.JobQueue(2); [jobs.submit(start_another, n) for n in range(2)]",
        "list(qmill.map(start_another, range(2), max_workers=2))",
    ],
)
def test_what_jobs_have_started_does_not_outlive_the_parent(start_program, start):
    assert pids_left_by(start_program(f"{STARTS_OTHERS}{start}\nsignal.pause()")) == []


@pytest.mark.parametrize(
    "start",
    [
        "workers = [qmill.run(start_another, n) for n in range(2)]",
        "import qmill.workers.standard as lib\n"
        "workers = [lib.Process(target=start_another, args=(n,)) for n in range(2)]\n"
        "[worker.start() for worker in workers]",
        "import qmill.workers.standard as lib\n"
        "workers = [lib.PlainProcess(target=start_another, args=(n,)) for n in range(2)]\n"
        "[worker.start() for worker in workers]",
    ],
)
def test_what_workers_have_started_does_not_outlive_the_parent(start_program, start):
    assert pids_left_by(start_program(f"{STARTS_OTHERS}{start}\nsignal.pause()")) == []


@pytest.mark.parametrize("submit", ["qmill.JobQueue(2).submit", "qmill.run"])
def test_what_has_a_session_of_its_own_outlives_the_parent(start_program, submit):
    start = f"submit = {submit}\nfor alone in (True, False):\n"
    start += "    kept = submit(start_another, 0, start_new_session=alone)"
    program = start_program(f"{STARTS_OTHERS}{start}\nsignal.pause()")
    pids = [pid for _ in range(2) for pid in program.hear_pids()]
    [alone] = [pid for pid in pids if os.getsid(pid) == pid]
    watch, others = Watch([alone]), Watch([pid for pid in pids if pid != alone])
    program.kill()
    assert others.wait() == []
    os.kill(alone, signal.SIGKILL)  # which raises if it has gone
    assert watch.wait() == []


def test_several_threads_start_workers_at_once(method):
    calls = [Call(lambda: qmill.run(functions.pid).result()) for _ in range(6)]
    pids = [call.result() for call in calls]
    assert len(set(pids)) == 6


# -- a process with threads -----------------------------------------------------------------------


class Churn:
    """Threads that are, at any moment, inside everybody's locks."""

    def __init__(self):
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(action,), daemon=True)
            for action in (self._log, self._import, self._allocate, self._lock, self._put)
        ]
        self._shared = threading.RLock()
        self._q = qmill.Q()
        self._logger = logging.getLogger("churn")
        self._logger.propagate = False
        self._handler = logging.FileHandler(os.devnull)
        self._logger.addHandler(self._handler)

    def __enter__(self):
        self._interval = sys.getswitchinterval()
        sys.setswitchinterval(0.0005)
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        sys.setswitchinterval(self._interval)
        self._logger.removeHandler(self._handler)
        self._handler.close()

    def _repeat(self, action):
        while not self._stop.is_set():
            action()

    def _log(self):
        self._logger.warning("churning")

    def _import(self):
        sys.modules.pop("json.tool", None)
        importlib.import_module("json.tool")

    def _allocate(self):
        [bytearray(size) for size in (1, 100, 10_000, 1_000_000)]

    def _lock(self):
        with self._shared:
            os.environ["QMILL_TEST_CHURN"] = "on"

    def _put(self):
        self._q.put(1)
        self._q.get()


@pytest.mark.parametrize(("start_method", "times"), [(None, 25), ("spawn", 3)])
def test_a_process_with_busy_threads_starts_workers(start_method, times, monkeypatch):
    monkeypatch.delenv("QMILL_START_METHOD", raising=False)
    monkeypatch.setenv("QMILL_TEST_CHURN", "on")
    with Churn():
        for _ in range(times):
            worker = qmill.Worker(functions.busy_start, start_method=start_method)
            assert worker.result(LIMIT_S) == worker.pid
            worker.join(LIMIT_S)
            assert worker.exitcode == 0


def test_descriptors_are_given_back(method):
    work = [functions.add, functions.fail, functions.many_bytes]

    def start_many(times):
        """Start workers, and keep the last one."""
        for number in range(times):
            worker = qmill.run(work[number % 3], 99_999)
            if number % 2:
                worker.exception()
            worker.join()
            worker.exception()
        gc.collect()
        return worker

    few = start_many(6)
    before = descriptors()
    del few
    many = start_many(50 if method != "spawn" else 12)
    assert descriptors() == before
    assert many.exitcode is not None


def test_descriptors_of_a_start_that_was_refused_are_given_back(method):
    before = descriptors()
    for _ in range(5):
        with pytest.raises(ValueError):
            qmill.Worker(functions.nothing, start_method="no such")
        if method != "fork":
            with pytest.raises(qmill.SerializationError):
                qmill.run(functions.add, threading.Lock())
    assert descriptors() == before


STARTS_MANY = """
import subprocess
def start_many(told):
    script = "echo; while :; do sleep 600 & sleep 0.01; done"
    shell = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE)
    shell.stdout.readline()
    told.put(shell.pid)
    shell.wait()
told = qmill.Queue()
own = subprocess.Popen(["sleep", "600"])
workers = [qmill.run(start_many, told) for _ in range(2)]
tell(own.pid, *[told.get() for _ in workers])
signal.pause()
"""


def test_what_starts_others_all_the_time_ends_and_what_is_the_programs_own_stays(start_program):
    program = start_program(STARTS_MANY)
    own, *shells = program.hear_pids()
    watch = Watch(shells)
    program.kill()
    assert watch.wait() == []
    wait_until(lambda: trees._members(program.pid) == [own])


def test_a_guard_that_was_killed_is_replaced(start_program):
    program = start_program(
        STARTS_OTHERS
        + """
from qmill import processes
workers = [qmill.run(start_another, 0)]
guard = processes._guardian._guard
if guard is not None:
    guard.kill()
    guard.wait()
assert workers[0].is_alive()
workers.append(qmill.run(start_another, 1))
signal.pause()
"""
    )
    assert pids_left_by(program) == []


# -- the parent's death ---------------------------------------------------------------------------


def test_no_worker_outlives_a_killed_parent(start_program):
    """PAINS 16: orphans live on after the parent is killed."""
    program = start_program(
        """
ready, gate = qmill.Queue(), qmill.Queue()
crew = [qmill.run(functions.tell_and_wait, ready, gate) for _ in range(3)]
tell(*[ready.get() for _ in crew])
gate.get()
"""
    )
    watch = Watch(program.hear_pids())
    program.kill()
    assert watch.wait() == []


@pytest.mark.parametrize("how", functions.STUCK)
def test_a_worker_that_is_stuck_in_c_dies_with_its_parent(start_program, how):
    """PAINS 16: orphans live on after the parent is killed."""
    program = start_program(
        f"""
pids = qmill.Queue()
worker = qmill.run(functions.stick, {how!r}, pids)
tell(pids.get())
worker.join()
"""
    )
    [pid] = program.hear_pids()
    if how == "sleep":
        wait_until_asleep(pid)
    watch = Watch([pid])
    program.kill()
    assert watch.wait() == []


def test_workers_of_workers_die_with_a_killed_parent(start_program):
    """PAINS 16: orphans live on after the parent is killed."""
    program = start_program(
        """
pids, gate = qmill.Queue(), qmill.Queue()
worker = qmill.run(functions.descend_and_wait, 2, pids, gate)
tell(*[pids.get() for _ in range(3)])
worker.join()
"""
    )
    watch = Watch(program.hear_pids())
    program.kill()
    assert watch.wait() == []


def test_a_worker_that_ignores_signals_dies_with_its_parent(start_program):
    """PAINS 16: orphans live on after the parent is killed."""
    program = start_program(
        """
ready, gate = qmill.Queue(), qmill.Queue()
ignored = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGIO, signal.SIGPIPE]
worker = qmill.run(functions.ignore_and_tell, ignored, ready, gate)
tell(ready.get())
worker.join()
"""
    )
    watch = Watch(program.hear_pids())
    program.kill()
    assert watch.wait() == []


def test_a_worker_that_is_starting_dies_with_its_parent(start_program):
    """PAINS 16: orphans live on after the parent is killed."""
    program = start_program(
        """
crew = [qmill.run(functions.stick, "sleep", qmill.Queue()) for _ in range(5)]
tell(*[worker.pid for worker in crew])
crew[0].join()
"""
    )
    watch = Watch(program.hear_pids())
    program.kill()
    assert watch.wait() == []


@pytest.mark.parametrize("fork", ["os.fork()", "multiprocessing", "subprocess"])
def test_workers_die_although_a_child_of_their_parent_lives(start_program, fork):
    """PAINS 16: orphans live on after the parent is killed."""
    program = start_program(
        f"""
import multiprocessing, subprocess
ready, gate = qmill.Queue(), qmill.Queue()
workers = [qmill.run(functions.tell_and_wait, ready, gate)]
pids = [ready.get()]
if {fork!r} == "os.fork()":
    child = os.fork()
    if child == 0:
        os.read(0, 1)
        os._exit(0)
elif {fork!r} == "multiprocessing":
    process = multiprocessing.get_context("fork").Process(target=os.read, args=(0, 1))
    process._config["daemon"] = False
    process.start()
    child = process.pid
else:
    child = subprocess.Popen(["sleep", "1000"], close_fds=False).pid
workers.append(qmill.run(functions.tell_and_wait, ready, gate))
pids.append(ready.get())
tell(child, *pids)
gate.get()
"""
    )
    child, *pids = program.hear_pids()
    alive, watch = Watch([child]), Watch(pids)
    program.kill()
    left = watch.wait()
    still_there = os.path.exists(f"/proc/{child}/stat")
    os.kill(child, signal.SIGKILL)
    assert alive.wait() == []
    assert left == []
    assert still_there


# -- the parent's normal end ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "exitcode"), [("", 0), ("sys.exit(7)", 7), ("raise ValueError", 1)]
)
def test_workers_that_still_run_are_terminated_with_a_warning(start_program, end, exitcode):
    program = start_program(
        f"""
ready, gate = qmill.Queue(), qmill.Queue()
worker = qmill.run(functions.tell_and_wait, ready, gate)
tell(ready.get())
input()
{end}
"""
    )
    watch = Watch(program.hear_pids())
    program.tell()
    _, errors = program.finish()
    assert watch.wait() == []
    assert program.exitcode == exitcode
    assert errors.count("RuntimeWarning") == 1
    assert "tell_and_wait-1" in errors
    assert "WorkerDied" not in errors


def test_a_worker_that_ignores_sigterm_does_not_keep_the_program(start_program):
    program = start_program(
        """
ready, gate = qmill.Queue(), qmill.Queue()
worker = qmill.run(functions.ignore_and_tell, [signal.SIGTERM], ready, gate)
tell(ready.get())
input()
"""
    )
    watch = Watch(program.hear_pids())
    program.tell()
    program.finish()
    assert watch.wait() == []
    assert program.exitcode == 0


def test_workers_that_are_about_to_end_are_not_warned_of(start_program):
    program = start_program(
        """
q, out, ready = qmill.Q(), qmill.Q(), qmill.Queue()
crew = [qmill.run(functions.ready_read_to, q, out, ready) for _ in range(2)]
for _ in crew:
    ready.get()  # on a busy machine it takes longer to begin than they have to end
q.end().end()
"""
    )
    output, errors = program.finish()
    assert (program.exitcode, output, errors) == (0, "", "")


def test_thread_workers_are_joined_when_the_program_ends(start_program):
    program = start_program(
        """
q = qmill.Q("thread")
def work():
    for message in q:
        pass
    tell("done")
worker = qmill.run_thread(work)
threading.Timer(0.05, q.end).start()
sys.exit(3)
"""
    )
    assert program.hear() == ["done"]
    _, errors = program.finish()
    assert (program.exitcode, errors) == (3, "")


# -- Ctrl-C ---------------------------------------------------------------------------------------

WAITS = {
    "get": "gate.get()",
    "join": "crew[0].join()",
    "result": "crew[0].result()",
    "stop": "other.stop(crew)",
    "iteration": "for _ in other: pass",
    "computing": "while True: pass",
}


@pytest.mark.parametrize("where", WAITS)
def test_ctrl_c_ends_everything_with_one_traceback(start_program, where):
    """PAINS 17: Ctrl-C hangs, and prints a page for each worker."""
    program = start_program(
        f"""
q, other, out, ready, gate = qmill.Q(), qmill.Q(), qmill.Q(), qmill.Queue(), qmill.Queue()
crew = [qmill.run(functions.ready_read_to, q, out, ready) for _ in range(4)]
tell(*[ready.get() for _ in crew])
{WAITS[where]}
"""
    )
    pids = program.hear_pids()
    for pid in pids:
        wait_until_asleep(pid)
    if where != "computing":
        wait_until_asleep(program.pid)
    watch = Watch(pids)
    program.interrupt_group()
    _, errors = program.finish()
    assert watch.wait() == []
    assert errors.count("Traceback") == 1, errors
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert errors.count("KeyboardInterrupt") == 1
    assert program.exitcode == -signal.SIGINT


def test_ctrl_c_that_the_program_handles(start_program):
    """PAINS 17: Ctrl-C hangs, and prints a page for each worker."""
    program = start_program(
        """
q, out, ready = qmill.Q(), qmill.Q(), qmill.Queue()
crew = [qmill.run(functions.ready_read_to, q, out, ready) for _ in range(2)]
tell(*[ready.get() for _ in crew])
try:
    crew[0].join()
except KeyboardInterrupt:
    try:
        q.stop(crew)
    except ExceptionGroup as group:
        tell(*[f"{type(error).__name__}:{error.signal}" for error in group.exceptions])
"""
    )
    for pid in program.hear_pids():
        wait_until_asleep(pid)
    wait_until_asleep(program.pid)
    program.interrupt_group()
    assert program.hear() == ["WorkerDied:2", "WorkerDied:2"]
    _, errors = program.finish()
    assert (program.exitcode, errors) == (0, "")


def test_ctrl_c_while_workers_start(start_program, method):
    """PAINS 17: Ctrl-C hangs, and prints a page for each worker."""
    program = start_program(
        """
gate = qmill.Queue()
tell("starting")
crew = []
while True:
    crew.append(qmill.run(functions.wait_for, gate))
    if len(crew) == 3:
        tell("go")
    if len(crew) > 30:
        gate.get()
"""
    )
    assert program.hear() == ["starting"]
    assert program.hear() == ["go"]
    os.kill(program.pid, signal.SIGINT)
    _, errors = program.finish()
    assert errors.count("KeyboardInterrupt\n") == 1, errors
    assert program.exitcode == -signal.SIGINT


# -- fork in the user's own program ---------------------------------------------------------------

FORK = """
q, out = qmill.Q(), qmill.Q()
crew = [qmill.run(functions.read_to, q, out) for _ in range(2)]
q.put(1)
assert out.get().data == 1
"""


@pytest.mark.parametrize("end", ["sys.exit(5)", "os._exit(5)", "os.kill(os.getpid(), 9)"])
def test_a_forked_child_that_ends_does_not_disturb_the_workers(start_program, end):
    program = start_program(
        FORK
        + f"""
if (child := os.fork()) == 0:
    {end}
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
q.put(2)
assert out.get().data == 2
assert all(worker.is_alive() for worker in crew)
crew.append(qmill.run(functions.read_to, q, out))
q.stop(crew)
tell(code)
"""
    )
    assert program.hear() == ["-9" if "kill" in end else "5"]
    assert program.finish() == ("", "")
    assert program.exitcode == 0


def test_a_forked_child_has_workers_of_its_own(start_program):
    program = start_program(
        FORK
        + """
if (child := os.fork()) == 0:
    tell("child", qmill.run(functions.add, 1, 2).result())
    q.put(3)
    sys.exit(0)
os.waitpid(child, 0)
tell("parent", out.get().data, qmill.run(functions.add, 2, 2).result())
q.stop(crew)
"""
    )
    assert program.hear() == ["child", "3"]
    assert program.hear() == ["parent", "3", "4"]
    assert program.finish() == ("", "")


def test_a_forked_child_can_look_at_its_parents_workers(start_program):
    program = start_program(
        FORK
        + """
if (child := os.fork()) == 0:
    for worker in crew:
        repr(worker), worker.name, worker.pid, worker.exitcode
    crew[0].kill()
    os._exit(4)
tell(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), *[w.is_alive() for w in crew])
q.stop(crew)
"""
    )
    assert program.hear() == ["4", "True", "True"]
    assert program.finish() == ("", "")


def test_a_fork_while_other_threads_look_at_the_workers(start_program):
    """The child has the locks of the moment: one that another thread held is held for ever."""
    program = start_program(
        FORK
        + """
import select
stop = threading.Event()
def look():
    while not stop.is_set():
        for worker in crew:
            worker.exitcode, worker.is_alive()
threads = [threading.Thread(target=look) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(150):
    if (child := os.fork()) == 0:
        os._exit(0)
    ended = select.select([pidfd := os.pidfd_open(child)], [], [], 10)[0]
    os.close(pidfd)
    if not ended:
        tell("a child hangs")
        os.kill(child, signal.SIGKILL)
        break
    os.waitpid(child, 0)
stop.set()
for thread in threads:
    thread.join()
q.stop(crew)
tell("done")
"""
    )
    assert program.hear() == ["done"]
    program.finish()
    assert program.exitcode == 0
