"""Each job that breaks something, and its outcome."""

from __future__ import annotations

import functools
import signal
import sys
import threading
from typing import Any, NamedTuple

import pytest

import qmill
from qmill import SerializationError, WorkerDied
from qmill.packing.remote_errors import RemoteTraceback

from .. import functions, job_functions
from ..job_functions import Troubled
from .health import check_healthy, outcome


class Case(NamedTuple):
    """A job, and what it is to end as: a result, or the class and the text of an exception."""

    function: Any
    args: tuple[Any, ...]
    state: str
    result: Any
    exitcode: int | None = None  # None: it does not matter
    text: str = ""


def done(function, *args, result=None):
    return Case(function, args, "done", result, 0)


def failed(error, function, *args, text=""):
    return Case(function, args, "failed", error, 1, text)


def died(exitcode, function, *args):
    return Case(function, args, "died", WorkerDied, exitcode)


def unsent(function, *args, text=""):
    return failed(SerializationError, function, *args, text=text)


CASES = {
    "a result": done(functions.add, 1, 2, result=3),
    # objects that cannot be packed
    "an argument that cannot be packed": unsent(job_functions.echo, threading.Lock()),
    "an argument that raises when it is packed": unsent(
        job_functions.echo, Troubled("packed", "raises"), text="trouble"
    ),
    "an argument that exits when it is packed": unsent(
        job_functions.echo, Troubled("packed", "exits")
    ),
    "an argument deep inside": unsent(job_functions.echo, job_functions.nested(50_000)),
    "a callable that cannot be packed": unsent(
        functools.partial(job_functions.echo, threading.Lock())
    ),
    "a callable that raises when it is packed": unsent(Troubled("packed", "raises")),
    "a result that cannot be packed": unsent(functions.a_lock),
    "a generator": unsent(job_functions.a_generator),
    "a result that raises when it is packed": unsent(
        job_functions.give, "packed", "raises", text="trouble"
    ),
    "a result deep inside": unsent(job_functions.nested, 50_000),
    "a result that ends its worker when it is packed": died(
        3, job_functions.give, "packed", "dies"
    ),
    # objects that cannot be rebuilt in the worker
    "an argument that raises when it is rebuilt": unsent(
        job_functions.echo, Troubled("rebuilt", "raises"), text="trouble"
    ),
    "an argument that exits when it is rebuilt": unsent(
        job_functions.echo, Troubled("rebuilt", "exits")
    ),
    "an argument that ends its worker": died(3, job_functions.echo, Troubled("rebuilt", "dies")),
    "an argument that kills its worker": died(
        -9, job_functions.echo, Troubled("rebuilt", "is killed")
    ),
    "a callable that raises when it is rebuilt": unsent(Troubled("rebuilt", "raises")),
    # objects that cannot be rebuilt in the parent
    "a result that raises when it is rebuilt": unsent(job_functions.give, "rebuilt", "raises"),
    "a result that exits when it is rebuilt": unsent(job_functions.give, "rebuilt", "exits"),
    "a result that interrupts when it is rebuilt": unsent(
        job_functions.give, "rebuilt", "interrupts"
    ),
    "a result that escapes when it is rebuilt": unsent(job_functions.give, "rebuilt", "escapes"),
    # exceptions
    "an exception": failed(ValueError, functions.fail, text="of the worker's"),
    "an exception that takes no attributes": failed(
        job_functions.FrozenError, job_functions.fail_frozen
    ),
    "an exception without a text": failed(functions.BrokenStr, functions.fail_without_text),
    "an exception with what cannot be packed": unsent(
        job_functions.fail_with_a_lock, text="with a lock"
    ),
    "an exception that raises when it is packed": unsent(
        job_functions.throw, "packed", "raises", text="TroubledError"
    ),
    "an exception that exits when it is packed": unsent(
        job_functions.throw, "packed", "exits", text="TroubledError"
    ),
    "an exception with other arguments": unsent(functions.fail_oddly, text="3: odd"),
    "an exception that raises when it is rebuilt": unsent(
        job_functions.throw, "rebuilt", "raises", text="TroubledError"
    ),
    "an exception that exits when it is rebuilt": unsent(
        job_functions.throw, "rebuilt", "exits", text="TroubledError"
    ),
    "an exception that interrupts when it is rebuilt": unsent(
        job_functions.throw, "rebuilt", "interrupts", text="TroubledError"
    ),
    "an exception that escapes when it is rebuilt": unsent(
        job_functions.throw, "rebuilt", "escapes", text="TroubledError"
    ),
    "an exception that is something else": unsent(
        job_functions.throw, "rebuilt", "is another", text="TroubledError"
    ),
    "an exception deep inside": unsent(job_functions.fail_deeply, 50_000, text="ValueError"),
    "recursion": failed(RecursionError, job_functions.recurse),
    "StopIteration": failed(StopIteration, job_functions.fail_with, StopIteration(3)),
    "GeneratorExit": failed(GeneratorExit, job_functions.fail_with, GeneratorExit()),
    "an exception of no Exception": failed(
        job_functions.Escape, job_functions.escape, text="escaped"
    ),
    # ends
    "sys.exit()": done(functions.leave, None),
    "sys.exit(0)": done(functions.leave, 0),
    "sys.exit(3)": died(3, functions.leave, 3),
    "sys.exit(text)": died(1, functions.leave, "a last word"),
    "KeyboardInterrupt": died(-signal.SIGINT, functions.interrupt),
    "os._exit(0)": died(0, functions.die, "os._exit(0)"),
    "os._exit(3)": died(3, functions.die, "os._exit(3)"),
    "a crash": died(-signal.SIGSEGV, functions.die, "segfault"),
    "an abort": died(-signal.SIGABRT, functions.die, "abort"),
    "SIGKILL": died(-signal.SIGKILL, functions.die, "SIGKILL"),
    "SIGTERM": died(-signal.SIGTERM, functions.die, "SIGTERM"),
    "closed descriptors": died(None, job_functions.close_descriptors),
    "a closed channel": died(None, job_functions.close_channel_and_wait),
    "closed streams": done(job_functions.close_streams),
}


def check_end(job, case):
    result = outcome(job)
    assert job.state == case.state, result
    if case.state == "done":
        assert result == case.result
    else:
        assert type(result) is case.result
    if case.exitcode is not None:
        assert job.exitcode == case.exitcode
    if case.state == "died":
        assert (result.job, result.exitcode) == (job.name, job.exitcode)
    if case.text:
        assert case.text in str(result)


@pytest.mark.parametrize("name", CASES)
def test_a_job_ends_and_the_queue_lives(quick_method, name):
    case = CASES[name]
    with qmill.JobQueue(1) as jobs:
        check_end(jobs.put(case.function, case.args, suppress_errors=True), case)
        check_healthy(jobs)


def test_all_of_them_in_one_queue(method):
    with qmill.JobQueue(2) as jobs:
        put = {
            name: jobs.put(case.function, case.args, name=name, suppress_errors=True)
            for name, case in CASES.items()
        }
        ends = {name: (outcome(job), job.state)[1] for name, job in put.items()}
        check_healthy(jobs)
    assert ends == {name: case.state for name, case in CASES.items()}


CLOSURES = {"over what cannot be packed": threading.Lock(), "over a function": functions.nothing}


@pytest.mark.parametrize("over", CLOSURES)
def test_a_closure(method, over):
    held = CLOSURES[over]
    with qmill.JobQueue(1) as jobs:
        job = jobs.put(lambda: type(held).__name__, suppress_errors=True)
        if method == "fork" or over == "over a function":  # a fork has what its parent has
            assert outcome(job) == type(held).__name__
        else:
            assert type(outcome(job)) is SerializationError
            assert "lock" in str(job.exception())
        check_healthy(jobs)


def test_a_function_of_a_module_that_a_worker_does_not_have(method, monkeypatch):
    module = type(sys)("only_here")
    exec("def double(x): return 2 * x", vars(module))
    monkeypatch.setitem(sys.modules, "only_here", module)
    with qmill.JobQueue(1) as jobs:
        for _ in range(2):
            job = jobs.put(module.double, 2, suppress_errors=True)
            if method == "fork":
                assert outcome(job) == 4
            else:
                assert type(outcome(job)) is SerializationError
                assert "only_here" in str(job.exception())
        check_healthy(jobs)


def test_an_exception_that_cannot_be_rebuilt_arrives_wrapped(quick_method):
    """PAINS 7: an exception that cannot be unpickled hangs the pool."""
    with qmill.JobQueue(1) as jobs:
        for function in (functions.fail_oddly, job_functions.fail_with_a_lock):
            error = outcome(jobs.put(function, suppress_errors=True))
            assert type(error) is SerializationError
            assert isinstance(error.__cause__, RemoteTraceback)
            assert f"in {function.__name__}" in str(error.__cause__)
        check_healthy(jobs)


@pytest.mark.parametrize("code", [0, 3])
@pytest.mark.parametrize("chunksize", [1, 5])
def test_a_call_of_map_that_exits(quick_method, code, chunksize):
    """As a job it would be done with None, or its worker would be dead. No result is lost."""
    with qmill.JobQueue(1) as jobs:
        exits = functools.partial(job_functions.exit_at, where=2, code=code)
        results = jobs.map(exits, range(10), chunksize=chunksize)
        if code == 0:
            assert list(results) == [0, 1, None, *range(3, 10)]
        else:
            with pytest.raises(WorkerDied) as info:
                list(results)
            assert info.value.exitcode == code
        check_healthy(jobs)
