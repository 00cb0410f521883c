"""Results and exceptions of workers."""

from __future__ import annotations

import os
import re
import select
import threading
import traceback

import pytest

import qmill
from qmill.packing.remote_errors import RemoteTraceback
from qmill.processes import launch

from .. import functions
from ..programs import LIMIT_S, Call


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
