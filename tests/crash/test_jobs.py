"""Jobs: what each ends as that breaks its worker, its pool or its parent, and what is left then."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import logging
import os
import queue
import random
import resource
import select
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import qmill
from qmill import JobTimeout, LaneError, SerializationError, WorkerDied
from qmill.packing.serialize import RemoteTraceback
from qmill.processes import launch

from . import functions
from .functions import Troubled
from .programs import LIMIT_S, ROOT, Call, Watch, descriptors, wait_until, wait_until_asleep

QUICK = [method for method in launch.METHODS if method != "spawn"]
"""The start methods that are quick enough for many workers."""


@pytest.fixture(params=QUICK)
def quick_method(request, monkeypatch):
    """Each quick start method, in force for this test."""
    monkeypatch.setenv("QMILL_START_METHOD", request.param)
    return request.param


def check_healthy(jobs):
    """See that a queue still runs jobs, and that nothing is left in it."""
    some = [jobs.submit(functions.add, number, 1) for number in range(20)]
    assert [job.result(LIMIT_S) for job in some] == list(range(1, 21))
    assert jobs.wait() == 0
    assert jobs.size(waiting=True) == jobs.size(working=True) == 0


def outcome(job):
    """Wait for a job; return its result or its exception."""
    try:
        return job.result(LIMIT_S)
    except BaseException as error:
        return error


def marks(path):
    """Count how often each number was written into a file."""
    return Counter(map(int, path.read_text().split())) if path.exists() else Counter()


# -- what each job ends as ------------------------------------------------------------------------


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
    # what cannot be packed
    "an argument that cannot be packed": unsent(functions.echo, threading.Lock()),
    "an argument that raises when it is packed": unsent(
        functions.echo, Troubled("packed", "raises"), text="trouble"
    ),
    "an argument that exits when it is packed": unsent(functions.echo, Troubled("packed", "exits")),
    "an argument deep inside": unsent(functions.echo, functions.nested(50_000)),
    "a callable that cannot be packed": unsent(functools.partial(functions.echo, threading.Lock())),
    "a callable that raises when it is packed": unsent(Troubled("packed", "raises")),
    "a result that cannot be packed": unsent(functions.a_lock),
    "a generator": unsent(functions.a_generator),
    "a result that raises when it is packed": unsent(
        functions.give, "packed", "raises", text="trouble"
    ),
    "a result deep inside": unsent(functions.nested, 50_000),
    "a result that ends its worker when it is packed": died(3, functions.give, "packed", "dies"),
    # what cannot be rebuilt in the worker
    "an argument that raises when it is rebuilt": unsent(
        functions.echo, Troubled("rebuilt", "raises"), text="trouble"
    ),
    "an argument that exits when it is rebuilt": unsent(
        functions.echo, Troubled("rebuilt", "exits")
    ),
    "an argument that ends its worker": died(3, functions.echo, Troubled("rebuilt", "dies")),
    "an argument that kills its worker": died(-9, functions.echo, Troubled("rebuilt", "is killed")),
    "a callable that raises when it is rebuilt": unsent(Troubled("rebuilt", "raises")),
    # what cannot be rebuilt in the parent
    "a result that raises when it is rebuilt": unsent(functions.give, "rebuilt", "raises"),
    "a result that exits when it is rebuilt": unsent(functions.give, "rebuilt", "exits"),
    "a result that interrupts when it is rebuilt": unsent(functions.give, "rebuilt", "interrupts"),
    "a result that escapes when it is rebuilt": unsent(functions.give, "rebuilt", "escapes"),
    # exceptions
    "an exception": failed(ValueError, functions.fail, text="of the worker's"),
    "an exception that takes no attributes": failed(functions.FrozenError, functions.fail_frozen),
    "an exception without a text": failed(functions.BrokenStr, functions.fail_without_text),
    "an exception with what cannot be packed": unsent(
        functions.fail_with_a_lock, text="with a lock"
    ),
    "an exception that raises when it is packed": unsent(
        functions.throw, "packed", "raises", text="TroubledError"
    ),
    "an exception that exits when it is packed": unsent(
        functions.throw, "packed", "exits", text="TroubledError"
    ),
    "an exception with other arguments": unsent(functions.fail_oddly, text="3: odd"),
    "an exception that raises when it is rebuilt": unsent(
        functions.throw, "rebuilt", "raises", text="TroubledError"
    ),
    "an exception that exits when it is rebuilt": unsent(
        functions.throw, "rebuilt", "exits", text="TroubledError"
    ),
    "an exception that interrupts when it is rebuilt": unsent(
        functions.throw, "rebuilt", "interrupts", text="TroubledError"
    ),
    "an exception that escapes when it is rebuilt": unsent(
        functions.throw, "rebuilt", "escapes", text="TroubledError"
    ),
    "an exception that is something else": unsent(
        functions.throw, "rebuilt", "is another", text="TroubledError"
    ),
    "an exception deep inside": unsent(functions.fail_deeply, 50_000, text="ValueError"),
    "recursion": failed(RecursionError, functions.recurse),
    "StopIteration": failed(StopIteration, functions.fail_with, StopIteration(3)),
    "GeneratorExit": failed(GeneratorExit, functions.fail_with, GeneratorExit()),
    "an exception of no Exception": failed(functions.Escape, functions.escape, text="escaped"),
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
    "closed descriptors": died(None, functions.close_descriptors),
    "a closed channel": died(None, functions.close_channel_and_wait),
    "closed streams": done(functions.close_streams),
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
        for function in (functions.fail_oddly, functions.fail_with_a_lock):
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
        exits = functools.partial(functions.exit_at, where=2, code=code)
        results = jobs.map(exits, range(10), chunksize=chunksize)
        if code == 0:
            assert list(results) == [0, 1, None, *range(3, 10)]
        else:
            with pytest.raises(WorkerDied) as info:
                list(results)
            assert info.value.exitcode == code
        check_healthy(jobs)


# -- the items of a map ---------------------------------------------------------------------------


def take_until_death(results):
    """Return what comes before the death that has to come."""
    taken = []
    with pytest.raises(WorkerDied) as info:
        for result in results:
            taken.append(result)
    return taken, info.value


def check_named(error, number):
    """See that a death tells for which item it was."""
    assert (error.index, error.job) == (number, f"item {number} ({number})")
    assert f"running item {number} ({number})" in str(error)
    assert repr(error) == f"WorkerDied({str(error)!r})"
    assert error.__notes__ == [f"item {number} of map: {number}"]


@pytest.mark.parametrize("chunksize", [None, 1, 7, 100])
@pytest.mark.parametrize("how", ["SIGKILL", "os._exit(3)", "segfault"])
@pytest.mark.parametrize("where", [0, 41, 99])
def test_a_death_costs_the_item_whose_call_it_was(quick_method, chunksize, how, where, tmp_path):
    file = tmp_path / "marks"
    function = functools.partial(functions.mark_or_die, path=str(file), deaths={where: how})
    with qmill.JobQueue(2) as jobs:
        taken, error = take_until_death(jobs.map(function, range(100), chunksize=chunksize))
        assert taken == list(range(where))
        check_named(error, where)
        check_healthy(jobs)
    assert max(marks(file).values()) == 1


def test_a_death_in_qmill_map_comes_after_all_results_before_it(method, tmp_path):
    file = tmp_path / "marks"
    function = functools.partial(functions.mark_or_die, path=str(file), deaths={5000: "SIGKILL"})
    taken, error = take_until_death(qmill.map(function, range(6000), max_workers=2))
    assert taken == list(range(5000))
    check_named(error, 5000)
    assert max(marks(file).values()) == 1


@pytest.mark.parametrize("make", [str, functions.Plain, functions.decimal, functions.large])
def test_results_of_every_kind_outlive_their_worker(quick_method, make, tmp_path):
    """Those that the codec writes, those that it does not, and large ones."""
    file = tmp_path / "marks"
    deaths = {33: "SIGKILL"}
    function = functools.partial(functions.mark_or_die, path=str(file), deaths=deaths, make=make)
    with qmill.JobQueue(1) as jobs:
        taken, error = take_until_death(jobs.map(function, range(50), chunksize=50))
        assert taken == [make(number) for number in range(33)]
        check_named(error, 33)
    assert marks(file) == dict.fromkeys(range(34), 1)


@pytest.mark.parametrize("chunksize", [None, 1, 30, 200])
def test_a_map_goes_on_after_deaths_and_calls_each_item_once(quick_method, chunksize, tmp_path):
    file = tmp_path / "marks"
    deaths = {0: "SIGKILL", 50: "os._exit(0)", 51: "SIGKILL", 120: "segfault", 199: "SIGKILL"}
    function = functools.partial(functions.mark_or_die, path=str(file), deaths=deaths)
    with qmill.JobQueue(2) as jobs:
        options = {"chunksize": chunksize, "return_exceptions": True}
        for number, result in enumerate(jobs.map(function, range(200), **options)):
            if number in deaths:
                check_named(result, number)
            else:
                assert result == number
        states = jobs.summary().states
        assert (states["done"], states["died"]) == (195, 5)
        check_healthy(jobs)
    assert marks(file) == dict.fromkeys(range(200), 1)


@pytest.mark.parametrize("chunksize", [None, 1, 30, 200])
def test_only_the_item_of_a_death_is_tried_again(quick_method, chunksize, tmp_path):
    file = tmp_path / "marks"
    where = [0, 50, 51, 120, 199]
    function = functools.partial(functions.die_at_first, path=str(file), where=where)
    with qmill.JobQueue(2) as jobs:
        results = jobs.map(function, range(200), chunksize=chunksize, retries=1)
        assert list(results) == list(range(200))
        assert jobs.summary().retries == 5
    assert marks(file) == {number: 2 if number in where else 1 for number in range(200)}


def test_an_item_that_dies_too_often_ends_the_map(quick_method, tmp_path):
    file = tmp_path / "marks"
    function = functools.partial(functions.mark_or_die, path=str(file), deaths={5: "SIGKILL"})
    with qmill.JobQueue(1) as jobs:
        taken, error = take_until_death(jobs.map(function, range(9), chunksize=9, retries=2))
        assert taken == [0, 1, 2, 3, 4]
        check_named(error, 5)
    assert marks(file)[5] == 3


def test_workers_that_cannot_start_cost_a_chunk_that_goes_on_one_item(quick_method, tmp_path):
    """The third in a row costs the next job, and of a chunk the next call."""
    begin = {"initializer": functions.die_at_starts}
    begin["initargs"] = (str(tmp_path / "starts"), [2, 3, 4])
    file = tmp_path / "marks"
    function = functools.partial(functions.mark_or_die, path=str(file), deaths={3: "SIGKILL"})
    with qmill.JobQueue(1, **begin) as jobs:
        results = list(jobs.map(function, range(9), chunksize=9, return_exceptions=True))
        death, not_started = results[3:5]
        check_named(death, 3)
        assert (not_started.index, not_started.job) == (4, "item 4 (4)")
        assert not_started.__notes__ == [
            "3 workers in a row died before they were ready",
            "item 4 of map: 4",
        ]
        assert results[:3] + results[5:] == [0, 1, 2, 5, 6, 7, 8]
    assert marks(file) == {n: 1 for n in range(9) if n != 4}


@pytest.mark.parametrize("chunksize", [1, 2, 9])
def test_an_item_that_ends_its_worker_when_it_is_rebuilt(quick_method, chunksize):
    items = [0, 1, Troubled("rebuilt", "is killed"), 3, 4]
    with qmill.JobQueue(1) as jobs:
        taken, error = take_until_death(jobs.map(functions.echo, items, chunksize=chunksize))
        assert (taken, error.index) == ([0, 1], 2)
        options = {"chunksize": chunksize, "return_exceptions": True}
        results = list(jobs.map(functions.echo, items, **options))
        assert results.pop(2).index == 2
        assert results == [0, 1, 3, 4]
        check_healthy(jobs)


def test_a_result_that_ends_its_worker_when_it_is_packed(quick_method):
    with qmill.JobQueue(1) as jobs:
        whens, whats = ["rebuilt", "packed", "rebuilt"], ["is another", "dies", "is another"]
        taken, error = take_until_death(jobs.map(functions.give, whens, whats, chunksize=3))
        assert (len(taken), error.index, error.exitcode) == (1, 1, 3)


def test_a_worker_that_is_killed_from_outside_costs_the_item_that_it_runs(quick_method):
    told, gate = qmill.Queue(), qmill.Queue()
    function = functools.partial(functions.tell_pid_and_wait, told=told, gate=gate, where=7)
    with qmill.JobQueue(1) as jobs:
        results = jobs.map(function, range(20), chunksize=20)
        os.kill(told.get(), signal.SIGKILL)
        taken, error = take_until_death(results)
        assert taken == list(range(7))
        check_named(error, 7)


def test_cancelling_a_chunk_that_runs_again(quick_method, tmp_path):
    """It is the queue's again between its attempts, and is let go with the others."""
    told, gate = qmill.Queue(), qmill.Queue()
    function = functools.partial(functions.tell_pid_and_wait, told=told, gate=gate, where=7)
    with qmill.JobQueue(1) as jobs:
        results = jobs.map(function, range(20), chunksize=10, retries=5)
        for _ in range(2):
            os.kill(told.get(), signal.SIGKILL)
        told.get()
        results.close()
        gate.put("go on")
        assert jobs.wait(timeout=LIMIT_S) == 0
        check_healthy(jobs)


@pytest.mark.parametrize("retries", [0, 3])
def test_calls_of_maps_whose_workers_are_killed_at_random(
    quick_method, retries, worker_pids, tmp_path
):
    """No item is called more often than it is to be tried, and no result is lost."""
    seed = int(os.environ.get("QMILL_TEST_SEED") or random.randrange(1 << 32))
    print(f"QMILL_TEST_SEED={seed}")
    rng = random.Random(seed)
    file, num_kills = tmp_path / "marks", 0
    numbers = range(30_000)
    with qmill.JobQueue(3) as jobs:
        options = {"return_exceptions": True, "retries": retries, "buffersize": 3000}
        results = []
        for result in jobs.map(functools.partial(functions.mark, str(file)), numbers, **options):
            results.append(result)
            if rng.random() < 0.002:
                with a_worker(rng, worker_pids) as worker:
                    num_kills += send_signal(worker, signal.SIGKILL)
        check_healthy(jobs)
    counts = marks(file)
    assert len(results) == len(numbers)
    for number, result in enumerate(results):
        if result == number:
            assert 1 <= counts[number] <= 1 + retries
        else:
            assert (type(result), result.index) == (WorkerDied, number)
            assert counts[number] <= 1 + retries
    assert sum(result == number for number, result in enumerate(results)) >= 30_000 - num_kills


# -- descriptors, streams, memory -----------------------------------------------------------------


def test_a_job_that_fills_stdout(start_program):
    program = start_program(
        """
with qmill.JobQueue(1) as jobs:
    jobs.submit(functions.say, "x" * (1 << 20) + "\\n").result()
    os.write(1, b"done")
"""
    )
    output, errors = program.finish()
    assert errors == ""
    assert len(output) == (1 << 20) + len("\ndone")
    assert output.endswith("x\ndone")  # what a job has printed is there when its result is


GARBAGE = {
    "a byte": (b"x", 1),
    "zeros": (bytes(29), 1),
    "many zeros": (bytes(290), 50),
    "noise": (bytes(range(256)), 4),
    "much noise": (bytes(range(256)), 4096),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_a_job_that_writes_into_all_descriptors(start_program, what):
    garbage, times = GARBAGE[what]
    program = start_program(
        f"""
with qmill.JobQueue(1) as jobs:
    wrong = jobs.put(functions.write_everywhere, ({garbage}, {times}), suppress_errors=True)
    wrong.exception()
    tell(wrong.state)
    tell(*[jobs.submit(functions.add, i, 1).result() for i in range(20)])
    tell(jobs.wait(), jobs.size(waiting=True), jobs.size(working=True))
"""
    )
    assert program.hear()[0] in ("done", "failed", "died")
    assert program.hear() == [str(number) for number in range(1, 21)]
    assert program.hear() == ["0", "0", "0"]
    program.finish()
    assert program.exitcode == 0


def test_a_worker_that_runs_out_of_memory(quick_method):
    with qmill.JobQueue(
        1, initializer=functions.limit_memory, initargs=(100 << 20,), name="poor"
    ) as jobs:
        pid = jobs.submit(functions.pid).result()
        job = jobs.put(functions.many_bytes, 1 << 30, suppress_errors=True)
        assert type(outcome(job)) is MemoryError
        assert (job.state, job.exitcode) == ("failed", 1)
        assert jobs.submit(functions.pid).result() == pid
        # There is room for this, but not for what has to be sent.
        job = jobs.put(functions.many_bytes, 70 << 20, suppress_errors=True)
        assert isinstance(outcome(job), (bytes, MemoryError, SerializationError, WorkerDied))
        check_healthy(jobs)
        job = jobs.put(functions.size_of, functions.many_bytes(150 << 20), suppress_errors=True)
        assert isinstance(outcome(job), (MemoryError, SerializationError, OSError, WorkerDied))
        check_healthy(jobs)


def test_a_worker_that_grew_too_large_is_replaced(quick_method):
    """A forked worker begins with what its parent has."""
    resident, mapped = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    now = (resident - mapped) * resource.getpagesize()  # files are mapped anew when they are used
    limit = (now if quick_method == "fork" else 30 << 20) + (90 << 20)
    with qmill.JobQueue(1, max_memory_per_worker=limit) as jobs:
        small = {jobs.submit(functions.hoard, 1).result() for _ in range(10)}
        assert len(small) == 1
        assert small == {jobs.submit(functions.hoard, 120 << 20).result()}
        many = [jobs.submit(functions.hoard, 50 << 20) for _ in range(12)]
        pids = Counter(job.result() for job in many)
        assert not small & set(pids)
        assert max(pids.values()) <= 5
        check_healthy(jobs)


def test_no_descriptor_is_left_open(quick_method):
    def use(num_jobs, num_deaths):
        with qmill.JobQueue(2) as jobs:
            some = [jobs.submit(functions.add, number) for number in range(num_jobs)]
            large = [jobs.submit(functions.many_bytes, 1 << 17) for _ in range(20)]
            deaths = [jobs.submit(functions.die, "SIGKILL") for _ in range(num_deaths)]
            assert [job.result() for job in some] == list(range(num_jobs))
            assert {len(job.result()) for job in large} == {1 << 17}
            assert {type(job.exception()) for job in deaths} == {WorkerDied}
            gc.collect()
            return len(descriptors())

    num_open = use(10, 1)
    gc.collect()
    before = descriptors()
    assert use(1000, 100) <= num_open + 8  # a worker's
    gc.collect()
    assert descriptors() == before


# -- what jobs have started -----------------------------------------------------------------------


def still_there(pids):
    """Wait until processes have ended; return those that do not."""
    left = []
    for pid in pids:
        try:
            left += Watch([pid]).wait()
        except ProcessLookupError:
            pass
    return left


def assert_gone(pids):
    """See that these processes have ended; those that have not are killed for the next test."""
    left = still_there(pids)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


def started_pids(jobs, told, **options):
    """Put a job that starts processes and waits; return it, its worker and its processes."""
    job = jobs.put(functions.start_sleepers, [told], options, suppress_errors=True)
    return job, told.get(timeout=LIMIT_S)


def time_out(jobs, told, **kwargs):
    """Have such a job time out, with more time if it had not started its processes yet."""
    timeout = 0.3
    while True:
        job = jobs.put(
            functions.start_sleepers, [told], kwargs, timeout=timeout, suppress_errors=True
        )
        assert type(outcome(job)) is JobTimeout
        if not told.empty():
            return told.get()
        timeout *= 3


@pytest.mark.parametrize("how", ["segfault", "SIGKILL", "os._exit(0)", "os._exit(3)", "SIGTERM"])
def test_what_a_job_has_started_goes_when_it_dies(quick_method, how):
    told = qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        job = jobs.put(functions.start_sleepers, [told, how], suppress_errors=True)
        assert type(outcome(job)) is WorkerDied
        assert still_there(told.get()) == []
        check_healthy(jobs)


@pytest.mark.parametrize("how", ["cancel", "stop_all", "from outside"])
def test_what_a_job_has_started_goes_when_it_is_killed(quick_method, how):
    told = qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        job, pids = started_pids(jobs, told)
        if how == "cancel":
            assert job.cancel()
        elif how == "stop_all":
            jobs.stop_all()
        else:
            os.kill(pids[0], signal.SIGKILL)
        assert still_there(pids) == []
        check_healthy(jobs)


def test_what_a_job_has_started_goes_when_it_times_out(method):
    told = qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        assert still_there(time_out(jobs, told)) == []
        check_healthy(jobs)


@pytest.mark.parametrize("options", [{}, {"auto_stop": True}])
def test_what_a_job_has_started_goes_even_if_it_ignores_sigterm(options):
    told = qmill.Queue()
    with qmill.JobQueue(4, **options) as jobs:
        cancelled, pids = started_pids(jobs, told, stubborn=True)
        dead = jobs.put(
            functions.start_sleepers, [told, "segfault"], {"stubborn": True}, suppress_errors=True
        )
        pids += told.get()
        assert cancelled.cancel()
        assert type(outcome(dead)) is WorkerDied
        pids += time_out(jobs, told, stubborn=True)
        assert still_there(pids) == []
        check_healthy(jobs)


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_what_a_job_has_started_goes_even_from_a_session_of_its_own(how):
    told = qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        if how == "cancel":
            job, pids = started_pids(jobs, told, detached=True)
            job.cancel()
        else:
            pids = time_out(jobs, told, detached=True)
        assert_gone(pids)


def test_what_the_job_of_a_nested_queue_has_started_goes(quick_method):
    told = qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        job = jobs.submit(functions.start_a_nested_queue_and_wait, told)
        pids = told.get()
        job.cancel()
        assert_gone(pids)


def test_a_fork_in_a_job_does_not_hide_the_workers_end(quick_method):
    """It has copies of all descriptors of the worker, but not the worker's job."""
    told = qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        job = jobs.submit(functions.fork_in_a_job, told)
        worker, child = told.get()
        assert job.result() == child
        os.kill(worker, signal.SIGKILL)
        check_healthy(jobs)
        assert still_there([worker, child]) == []


# -- lanes, retries, timeouts ---------------------------------------------------------------------


def test_a_lane_whose_first_job_dies(quick_method):
    with qmill.JobQueue(2, auto_start=False) as jobs:
        put = functools.partial(jobs.put, lane="a", suppress_errors=True)
        first = put(functions.die, "SIGKILL")
        stopped = [put(functions.add, number, stop_on_lane_error=True) for number in range(3)]
        runs = [put(functions.add, number) for number in range(2)]
        again = put(functions.add, 7, stop_on_lane_error=True)
        jobs.start()
        assert type(outcome(first)) is WorkerDied
        assert {type(outcome(job)) for job in stopped} == {LaneError}
        assert {job.state for job in stopped} == {"cancelled"}
        assert [outcome(job) for job in [*runs, again]] == [0, 1, 7]
        check_healthy(jobs)


def test_a_retry_after_a_death(quick_method, tmp_path):
    file = tmp_path / "marks"
    with qmill.JobQueue(2) as jobs:
        job = jobs.put(functions.die_until, (str(file), 5, 3), retries=2, suppress_errors=True)
        assert outcome(job) == 5
        assert (job.attempts, marks(file)[5], job.state) == (3, 3, "done")
        job = jobs.put(functions.die_until, (str(file), 6, 30), retries=2, suppress_errors=True)
        assert type(outcome(job)) is WorkerDied
        assert (job.attempts, marks(file)[6], job.state) == (3, 3, "died")


def test_a_timeout_where_nothing_can_be_killed():
    with qmill.JobQueue(1, engine="thread") as jobs:
        with pytest.raises(qmill.NotSupported, match="process"):
            jobs.put(functions.nothing, timeout=1)
        with pytest.raises(qmill.NotSupported, match="process"):
            jobs.options(timeout=1)
        with pytest.raises(qmill.NotSupported, match="process"):
            jobs.map(functions.echo, [1], job_timeout=1)


def test_a_job_that_leaves_politely_at_its_timeout_has_timed_out(quick_method):
    """`sys.exit(0)` is the usual handler of SIGTERM, and not a result."""
    told = qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        timeout = 0.2
        while told.empty():
            job = jobs.put(functions.exit_on_sigterm, [told], timeout=timeout, suppress_errors=True)
            error = outcome(job)
            timeout *= 3
        assert (job.state, type(error)) == ("timed out", JobTimeout)
        check_healthy(jobs)


def test_a_job_that_ignores_sigterm_holds_up_nobody(quick_method):
    """PAINS 23: a job that ignores SIGTERM freezes the queue."""
    told = qmill.Queue()
    with qmill.JobQueue(2) as jobs:
        timeout = 0.2
        while told.empty():
            job = jobs.put(
                functions.ignore_sigterm_and_wait, [told], timeout=timeout, suppress_errors=True
            )
            while not job.done():
                assert jobs.put(functions.add, (1, 2)).result() == 3
                assert jobs.size(working=True) <= 2
                jobs.get(block=False)
            assert type(outcome(job)) is JobTimeout
            timeout *= 3
        assert job.exitcode == -signal.SIGKILL
        assert still_there([told.get()]) == []


def test_many_timeouts_at_once(quick_method):
    """PAINS 23: a job that ignores SIGTERM freezes the queue."""
    with qmill.JobQueue(4) as jobs:
        stuck = [
            jobs.put(functions.wait_for, [qmill.Queue()], timeout=0.05, suppress_errors=True)
            for _ in range(20)
        ]
        assert {type(outcome(job)) for job in stuck} == {JobTimeout}
        assert {job.state for job in stuck} == {"timed out"}
        check_healthy(jobs)


# -- deaths without end ---------------------------------------------------------------------------


def test_what_has_lost_its_worker_is_told(quick_method):
    """PAINS 2: the pool hangs after a worker is killed."""
    with qmill.JobQueue(2) as jobs:
        some = [
            jobs.put(functions.die, "os._exit(3)", suppress_errors=True)
            if number == 2
            else jobs.put(functions.add, number)
            for number in range(6)
        ]
        ends = [outcome(job) for job in some]
        assert isinstance(ends.pop(2), WorkerDied)
        assert ends == [0, 1, 3, 4, 5]
    results = qmill.map(functions.die, ["os._exit(3)"] * 6, max_workers=2)
    with pytest.raises(WorkerDied, match="exit code 3"):
        list(results)


@pytest.mark.parametrize("num_deaths", [200])
def test_the_queue_outlives_all_its_workers(quick_method, num_deaths, tmp_path):
    """PAINS 3: one crash breaks the pool for ever."""
    file = tmp_path / "marks"
    with qmill.JobQueue(2) as jobs:
        deaths, others = [], []
        for number in range(num_deaths):
            deaths.append(
                jobs.put(
                    functions.mark_and_die,
                    (str(file), number, ["SIGKILL", "os._exit(3)"][number % 2]),
                    suppress_errors=True,
                )
            )
            others.append(jobs.put(functions.mark, (str(file), num_deaths + number)))
        assert jobs.wait() == 0
        assert {job.state for job in deaths} == {"died"}
        assert {job.state for job in others} == {"done"}
        check_healthy(jobs)
    assert marks(file) == dict.fromkeys(range(2 * num_deaths), 1)


@pytest.fixture
def worker_pids():
    """Tell which processes run jobs: new children of this process, or of its fork server."""
    others = set(workers_and_others())
    return lambda: [pid for pid in workers_and_others() if pid not in others]


def workers_and_others():
    """Return this process's children, and its fork servers', but not these servers."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] not in "ZX":
                parents[int(name)] = int(fields[1])
    servers = {pid for pid in fork_servers() if pid in parents}
    owners = {os.getpid(), *servers}
    return [pid for pid, parent in parents.items() if parent in owners and pid not in servers]


def fork_servers():
    pids = []
    for pid in Path("/proc/self/task").glob("*/children"):
        for child in pid.read_text().split():
            try:
                command = Path(f"/proc/{child}/cmdline").read_bytes()
            except OSError:
                continue
            if b"fork_server" in command:
                pids.append(int(child))
    return pids


@contextlib.contextmanager
def a_worker(rng, worker_pids):
    """Give a handle of a worker at random, or None; it is not of another one with its number."""
    pid = rng.choice(sorted(worker_pids()) or [None])
    try:
        pidfd = None if pid is None else os.pidfd_open(pid)
    except ProcessLookupError:
        pidfd = None
    try:
        yield pidfd if pidfd is not None and pid in worker_pids() else None
    finally:
        if pidfd is not None:
            os.close(pidfd)


def send_signal(pidfd, number):
    """Send a signal to a worker, if there is one; return whether there was."""
    try:
        if pidfd is not None:
            signal.pidfd_send_signal(pidfd, number)
            return True
    except ProcessLookupError:
        pass
    return False


CHUNKED = 30  # calls of one map, in chunks of 10


def map_marks(jobs, file, first, count):
    """Map over numbers again and again; return what came of each map."""
    ends = []
    for start in range(first, first + count * CHUNKED, CHUNKED):
        numbers = range(start, start + CHUNKED)
        try:
            ends.append(list(jobs.map(functions.mark, [file] * CHUNKED, numbers, chunksize=10)))
        except WorkerDied as error:
            ends.append(error)
    return ends


@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_killed_at_random(method, num_workers, worker_pids, tmp_path):
    seed = int(os.environ.get("QMILL_TEST_SEED") or random.randrange(1 << 32))
    print(f"QMILL_TEST_SEED={seed}")
    rng = random.Random(seed)
    num_jobs, num_maps = (600, 10) if method == "spawn" else (2500, 40)
    largest_step = num_jobs // (5 if method == "spawn" else 40)
    file = str(tmp_path / "marks")
    num_kills = 0
    with qmill.JobQueue(num_workers) as jobs:
        some = [
            jobs.put(
                functions.mark,
                (file, number),
                retries=3 if rng.random() < 0.1 else 0,
                priority=rng.randrange(3),
                lane=rng.randrange(5) if rng.random() < 0.05 else None,
                suppress_errors=True,
            )
            for number in range(num_jobs)
        ]
        maps = Call(map_marks, jobs, file, num_jobs, num_maps)
        while jobs.wait(n=rng.randrange(1, largest_step)):
            with a_worker(rng, worker_pids) as worker:  # whatever it is about
                if send_signal(worker, signal.SIGKILL):
                    num_kills += 1
                    select.select([worker], [], [])  # until it is dead it may take another job
        mapped = maps.result()
        assert jobs.wait() == 0
        assert len(jobs.collect()) == num_jobs
        check_healthy(jobs)
    counts = marks(tmp_path / "marks")
    num_deaths = sum(isinstance(end, WorkerDied) for end in mapped)
    for job, number in zip(some, range(num_jobs), strict=True):
        error = job.exception()
        assert job.state == ("done" if error is None else "died"), error
        assert error is None or isinstance(error, WorkerDied)
        assert (error is None) <= counts[number] <= job.attempts
        num_deaths += job.attempts - (error is None)
    for index, end in enumerate(mapped):
        numbers = range(num_jobs + index * CHUNKED, num_jobs + (index + 1) * CHUNKED)
        if isinstance(end, list):
            assert end == list(numbers)
        assert all(isinstance(end, list) <= counts[number] <= 1 for number in numbers)
    assert num_deaths <= num_kills, "a death costs one job, the one that was running"


# -- recycling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3])
def test_recycling_under_load(quick_method, limit):
    """PAINS 9: recycling workers deadlocks."""

    def submit(jobs, first):
        some = [jobs.submit(functions.echo, first + number) for number in range(20)]
        pids = [jobs.submit(functions.pid) for _ in range(20)]
        dead = jobs.submit(functions.die, "SIGKILL")
        assert [job.result() for job in some] == list(range(first, first + 20))
        assert isinstance(dead.exception(), WorkerDied)
        return [job.result() for job in pids]

    with qmill.JobQueue(3, max_jobs_per_worker=limit) as jobs:
        calls = [Call(submit, jobs, 100 * number) for number in range(3)]
        pids = Counter(pid for call in calls for pid in call.result())
        assert max(pids.values()) <= limit
        check_healthy(jobs)


def test_recycling_while_maps_run(quick_method):
    with qmill.JobQueue(2, max_jobs_per_worker=2) as jobs:
        calls = [
            Call(lambda: list(jobs.map(functions.add, range(100), chunksize=10))) for _ in range(3)
        ]
        assert all(call.result() == list(range(100)) for call in calls)


def test_a_queue_that_stops_its_workers_each_time(quick_method):
    def use(first):
        for number in range(first, first + 15):
            assert jobs.submit(functions.echo, number).result(LIMIT_S) == number
            jobs.put(functions.nothing).cancel()

    with qmill.JobQueue(2, auto_stop=True) as jobs:
        for call in [Call(use, 100 * number) for number in range(2)]:
            call.result()
        for number in range(10):
            assert jobs.submit(functions.echo, number).result(LIMIT_S) == number
            assert jobs.wait() == 0


def test_pause_and_start_under_load(quick_method, tmp_path):
    file, rng = str(tmp_path / "marks"), random.Random(7)
    with qmill.JobQueue(2) as jobs:
        some = [jobs.put(functions.mark, (file, number)) for number in range(2000)]
        while jobs.wait(n=rng.randrange(1, 60)):
            jobs.pause()
            jobs.reprioritize(rng.choice(some), rng.randrange(200))
            jobs.start()
        assert [job.result() for job in some] == list(range(2000))
    assert marks(tmp_path / "marks") == dict.fromkeys(range(2000), 1)


def test_timeouts_under_load_cost_no_other(quick_method, tmp_path):
    file, gate = str(tmp_path / "marks"), qmill.Queue()
    with qmill.JobQueue(3) as jobs:
        some, stuck = [], []
        for number in range(2000):
            some.append(jobs.put(functions.mark, (file, number)))
            if number % 100 == 0:
                stuck.append(
                    jobs.put(functions.wait_for, [gate], timeout=0.03, suppress_errors=True)
                )
        assert {type(outcome(job)) for job in stuck} == {JobTimeout}
        assert [outcome(job) for job in some] == list(range(2000))
    assert marks(tmp_path / "marks") == dict.fromkeys(range(2000), 1)


# -- jobs that were sent ahead --------------------------------------------------------------------


def learn(jobs, file):
    """Run quick calls of a function until it is known to be short."""
    some = [jobs.submit(functions.mark_and_wait, file, -1) for _ in range(200)]
    assert {job.result() for job in some} == {-1}


def test_short_jobs_do_not_wait_behind_a_long_one(quick_method, tmp_path):
    file, told, gate = str(tmp_path / "marks"), qmill.Queue(), qmill.Queue()
    with qmill.JobQueue(2) as jobs:
        learn(jobs, file)
        for turn in range(5):
            jobs.pause()
            long = jobs.submit(functions.mark_and_wait, file, 1000 + turn, told, gate)
            numbers = range(turn * 100, turn * 100 + 60)
            short = [jobs.submit(functions.mark_and_wait, file, number) for number in numbers]
            jobs.start()
            assert [job.result(LIMIT_S) for job in short] == list(numbers)
            assert not long.done()
            gate.put(None)
            assert long.result(LIMIT_S) == 1000 + turn
            told.get()
    counts = marks(tmp_path / "marks")
    assert all(count == 1 for number, count in counts.items() if number != -1)


def test_what_was_sent_ahead_to_a_worker_that_dies_runs_elsewhere(quick_method, tmp_path):
    file, told, gate = str(tmp_path / "marks"), qmill.Queue(), qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        for turn in range(5):
            learn(jobs, file)
            jobs.pause()
            first = jobs.submit(functions.mark_and_wait, file, 1000 + turn, told, gate)
            numbers = range(turn * 100, turn * 100 + 60)
            short = [jobs.submit(functions.mark_and_wait, file, number) for number in numbers]
            jobs.start()
            os.kill(told.get(), signal.SIGKILL)
            assert isinstance(outcome(first), WorkerDied)
            assert [job.result(LIMIT_S) for job in short] == list(numbers)
    counts = marks(tmp_path / "marks")
    assert all(count == 1 for number, count in counts.items() if number != -1)


def test_cancelling_what_was_sent_ahead(quick_method, tmp_path):
    file, told, gate = str(tmp_path / "marks"), qmill.Queue(), qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        learn(jobs, file)
        for turn in range(10):
            jobs.pause()
            first = jobs.submit(functions.mark_and_wait, file, 1000 + turn, told, gate)
            numbers = range(turn * 100, turn * 100 + 30)
            short = [jobs.submit(functions.mark_and_wait, file, number) for number in numbers]
            jobs.start()
            told.get()
            assert all(job.cancel() for job in short[::2])
            gate.put(None)
            assert first.result(LIMIT_S) == 1000 + turn
            assert [job.result(LIMIT_S) for job in short[1::2]] == list(numbers[1::2])
            assert all(isinstance(outcome(job), CancelledError) for job in short[::2])
    counts = marks(tmp_path / "marks")
    for number in (100 * turn + each for turn in range(10) for each in range(30)):
        # One that is cancelled may begin before its worker hears of it.
        assert 1 - (number + 1) % 2 <= counts[number] <= 1


@pytest.mark.parametrize("how", ["pause", "cancel"])
def test_a_slow_worker_from_which_jobs_are_taken_back_again_and_again(quick_method, how):
    """It has not read what it was sent meanwhile, and that may not fill its channel."""
    with qmill.JobQueue(1) as jobs:
        quick = [jobs.submit(functions.size_of, bytes(900)) for _ in range(300)]
        assert {job.result() for job in quick} == {900}
        pid = jobs.submit(functions.pid).result()
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: ") T " in Path(f"/proc/{pid}/stat").read_text())
        try:
            some = [jobs.submit(functions.size_of, bytes(900)) for _ in range(640)]
            for _ in range(30):
                wait_until(lambda: any(job.running() for job in some))
                given = next(job for job in some if job.running())
                if how == "cancel":
                    assert given.cancel()
                else:
                    jobs.pause()
                    wait_until(lambda: not any(job.running() for job in some))
                    jobs.start()
            os.kill(pid, signal.SIGCONT)
            assert {job.result(LIMIT_S) for job in some if not job.cancelled()} == {900}
        except BaseException:
            os.kill(pid, signal.SIGKILL)  # so that the queue can end
            raise
        check_healthy(jobs)


def test_workers_stopped_at_random(quick_method, worker_pids, tmp_path):
    """As by an overloaded machine: each stands still for a while, at any place."""
    seed = int(os.environ.get("QMILL_TEST_SEED") or random.randrange(1 << 32))
    print(f"QMILL_TEST_SEED={seed}")
    rng, file = random.Random(seed), str(tmp_path / "marks")
    with qmill.JobQueue(2) as jobs:
        some = [jobs.put(functions.mark, (file, number)) for number in range(2500)]
        left = len(some)
        while left:
            for _ in range(rng.randrange(3)):
                rng.choice(some).cancel()
            if rng.random() < 0.2:
                jobs.pause()
                jobs.start()
            with a_worker(rng, worker_pids) as worker:
                send_signal(worker, signal.SIGSTOP)
                left = jobs.wait(n=rng.randrange(1, 20), timeout=0.1)  # it may have the last
                send_signal(worker, signal.SIGCONT)
        for number, job in enumerate(some):
            assert job.cancelled() or outcome(job) == number
        check_healthy(jobs)
    counts = marks(tmp_path / "marks")
    assert all((not job.cancelled()) <= counts[n] <= 1 for n, job in enumerate(some))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_cancel_races_with_the_end(quick_method, num_workers, tmp_path):
    file = str(tmp_path / "marks")
    cancelled = []
    with qmill.JobQueue(num_workers) as jobs:
        learn(jobs, file)
        some = []
        for number in range(2000):
            some.append(jobs.put(functions.mark_and_wait, (file, number)))
            if number % 5 == 4:
                job = some[-random.randrange(1, 30) if number > 30 else -1]
                if job.cancel():
                    cancelled.append(job)
        assert jobs.wait() == 0
        check_healthy(jobs)
    counts = marks(tmp_path / "marks")
    for number, job in enumerate(some):
        assert job.cancelled() == (job in cancelled)
        if job.cancelled():
            assert counts[number] <= 1
        else:  # nobody but who was cancelled pays for it
            assert (job.state, outcome(job), counts[number]) == ("done", number, 1)


# -- cancel, stop, callbacks ----------------------------------------------------------------------


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
        job = jobs.submit(functions.ignore_sigterm_and_wait, told)
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
        waiting = jobs.put(functions.do_and_tell, [told, "never"])
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
        return [jobs.submit(functions.mark, file, number) for number in range(first, first + 300)]

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


FAILURES = {"an error": ValueError, "an exit": SystemExit, "an escape": functions.Escape}


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
                jobs.put(functions.log_everything, ("theirs", "hello")).result()
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


# -- workers come and go --------------------------------------------------------------------------


def test_the_number_of_workers_changes_live(quick_method, worker_pids):
    told, gate = qmill.Queue(), qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        some = [jobs.submit(functions.tell_and_wait, told, gate) for _ in range(12)]
        told.get()
        jobs.set_workers(4)
        for _ in range(3):
            told.get()
        assert jobs.size(working=True) == 4
        jobs.set_workers(1)
        gate.put_many([0] * 4)
        told.get()
        wait_until(lambda: jobs.size(waiting=True) == 7)
        assert jobs.size(working=True) == 1
        wait_until(lambda: len(worker_pids()) == 1)
        gate.put_many([0] * 8)
        assert {job.result() for job in some} == {0}


def test_the_number_of_workers_changes_under_load(quick_method, tmp_path):
    file, rng = str(tmp_path / "marks"), random.Random(5)
    with qmill.JobQueue(2) as jobs:
        some = [jobs.put(functions.mark, (file, number)) for number in range(1500)]
        while jobs.wait(n=rng.randrange(1, 100)):
            jobs.set_workers(rng.choice([1, 2, 5]))
        assert [job.result() for job in some] == list(range(1500))
        check_healthy(jobs)
    assert marks(tmp_path / "marks") == dict.fromkeys(range(1500), 1)


def test_a_fork_server_that_is_killed(monkeypatch):
    monkeypatch.setenv("QMILL_START_METHOD", "forkserver")
    told, gate = qmill.Queue(), qmill.Queue()
    with qmill.JobQueue(2) as jobs:
        running = jobs.submit(functions.tell_and_wait, told, gate)
        told.get()
        [server] = fork_servers()
        watch = Watch([server])
        os.kill(server, signal.SIGKILL)
        assert watch.wait() == []
        assert [jobs.submit(functions.add, number).result() for number in range(20)]
        dead = jobs.put(functions.die, "SIGKILL", suppress_errors=True)
        assert isinstance(outcome(dead), WorkerDied)
        gate.put("open")
        assert running.result() == "open"
        running = jobs.submit(functions.tell_and_wait, told, gate)
        [server] = fork_servers()
        os.kill(server, signal.SIGKILL)
        os.kill(told.get(), signal.SIGKILL)
        assert isinstance(outcome(running), WorkerDied)
        check_healthy(jobs)


def refuse_processes(monkeypatch):
    """Have the system refuse to start processes, as at a limit."""

    def refuse(*_, **__):
        raise BlockingIOError(11, "too many processes")

    for server in fork_servers():
        watch = Watch([server])
        os.kill(server, signal.SIGKILL)
        watch.wait()
    monkeypatch.setattr(os, "fork", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)


def test_no_process_can_be_started(method, monkeypatch):
    with qmill.JobQueue(2) as jobs, monkeypatch.context() as patch:
        refuse_processes(patch)
        some = [
            jobs.put(functions.add, number, suppress_errors=True, retries=1) for number in range(3)
        ]
        assert {type(outcome(job)) for job in some} == {BlockingIOError}
        assert {job.state for job in some} == {"failed"}
        patch.undo()
        check_healthy(jobs)


def test_no_more_processes_can_be_started(method, monkeypatch):
    """With one worker there, the others are only missed."""
    told, gate = qmill.Queue(), qmill.Queue()
    with qmill.JobQueue(3) as jobs, monkeypatch.context() as patch:
        running = jobs.submit(functions.tell_and_wait, told, gate)
        told.get()
        refuse_processes(patch)
        some = [jobs.put(functions.add, number) for number in range(20)]
        gate.put("open")
        assert running.result() == "open"
        assert [job.result(LIMIT_S) for job in some] == list(range(20))
        patch.undo()
        check_healthy(jobs)


def test_an_initializer_that_fails(method):
    with qmill.JobQueue(2, initializer=functions.fail, initargs=("to begin",)) as jobs:
        some = [jobs.put(functions.nothing, suppress_errors=True) for _ in range(5)]
        assert {type(outcome(job)) for job in some} == {ValueError}
        assert {job.state for job in some} == {"failed"}
    with qmill.JobQueue(2, initializer=functions.die, initargs=("SIGKILL",)) as jobs:
        some = [jobs.put(functions.nothing, suppress_errors=True) for _ in range(5)]
        assert {type(outcome(job)) for job in some} == {WorkerDied}
        assert {job.state for job in some} == {"died"}


@pytest.mark.parametrize("num_deaths", [2, 3])
def test_a_worker_that_is_killed_while_it_starts_is_replaced(num_deaths, method, tmp_path):
    """It costs no job; the third in a row costs one."""
    deaths = tmp_path / "deaths"
    begin = {"initializer": functions.die_first, "initargs": (str(deaths), num_deaths)}
    with qmill.JobQueue(1, **begin) as jobs:
        some = [jobs.put(functions.nothing, suppress_errors=True) for _ in range(5)]
        errors = [error for job in some if (error := outcome(job)) is not None]
        assert marks(deaths) == Counter([0] * num_deaths)
        assert len(errors) == (num_deaths == 3)
        for error in errors:
            assert (type(error), error.signal) == (WorkerDied, signal.SIGKILL)
            assert error.__notes__ == ["3 workers in a row died before they were ready"]
        check_healthy(jobs)


def test_descriptors_run_out(start_program, method):
    program = start_program(
        """
import gc, logging, resource
logging.disable()
LIMITS = resource.getrlimit(resource.RLIMIT_NOFILE)

def take_all_but(spare):
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, LIMITS[1]))
    held = []
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        pass
    for _ in range(spare):
        os.close(held.pop())
    return held

def give_back(held):
    resource.setrlimit(resource.RLIMIT_NOFILE, LIMITS)
    for descriptor in held:
        os.close(descriptor)

def put_some(jobs):
    some = [jobs.submit(functions.add, i) for i in range(5)]
    some += [jobs.submit(functions.many_bytes, 1 << 17) for _ in range(2)]
    return some + [jobs.submit(functions.size_of, bytes(1 << 17)) for _ in range(2)]

def try_with(spare, jobs):
    held = take_all_but(spare)
    try:
        jobs = jobs or qmill.JobQueue(2)
        ends = [job.exception(20) for job in put_some(jobs)]
        assert all(isinstance(end, (type(None), OSError, qmill.WorkerDied)) for end in ends), ends
    except OSError:
        if jobs is not None:  # else there were too few for a queue
            raise
        return
    finally:
        give_back(held)
    for job in put_some(jobs):
        job.result(20)
    jobs.shutdown()

for spare in (0, 2, 4, 5, 6, 7, 8, 10):
    try_with(spare, None)
for spare in (0, 2, 5):
    with qmill.JobQueue(2) as jobs:
        jobs.submit(functions.nothing).result()
        try_with(spare, jobs)
gc.collect()
try:
    tell(os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT))
except ChildProcessError:
    tell("no child")
"""
    )
    assert program.hear() == (["None"] if method == "forkserver" else ["no", "child"])
    _, errors = program.finish()
    assert errors == ""


# -- large things ---------------------------------------------------------------------------------


def test_large_arguments_and_results(method):
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(1 << 17, dtype="f8")
    with qmill.JobQueue(2) as jobs:
        for result in [job.result() for job in [jobs.submit(functions.echo, array)] * 4]:
            assert (result == array).all()
        result[0] = 7  # it is its owner's
        many = functions.many_bytes(50 << 20)
        assert jobs.submit(functions.echo, many).result() == many
        for size in [(1 << 16) + delta for delta in (-200, -100, -60, -30, -1, 0, 1, 100)]:
            assert jobs.submit(functions.echo, bytes(size)).result() == bytes(size)
        check_healthy(jobs)


def test_a_worker_that_dies_while_it_packs_much(quick_method):
    """PAINS 8: a crash during a large send hangs."""
    with qmill.JobQueue(1) as jobs:
        for size in (10, 60_000, 5 << 20):
            job = jobs.put(functions.give_laden, size, suppress_errors=True)
            assert isinstance(outcome(job), WorkerDied)
            check_healthy(jobs)


@pytest.fixture
def busy_parent(quick_method):
    """A queue of two workers whose dispatcher is held up while it rebuilds a result."""
    functions.Held.reading.clear()
    functions.Held.go_on.clear()
    with qmill.JobQueue(2) as jobs:
        yield jobs, functions.Held.reading, functions.Held.go_on
        functions.Held.go_on.set()
        check_healthy(jobs)


def test_a_worker_that_is_killed_while_it_sends(busy_parent):
    """PAINS 8: a crash during a large send hangs."""
    jobs, reading, go_on = busy_parent
    told, gate = qmill.Queue(), qmill.Queue()
    sends = jobs.put(functions.fill_channel, (told, gate, 50_000), suppress_errors=True)
    pid = told.get()
    held = jobs.submit(functions.give_held)
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
            job = jobs.submit(functions.size_of, bytes(size))
            more = [jobs.submit(functions.size_of, bytes(size)) for _ in range(5)]
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
        some = [jobs.submit(functions.of_many_classes(size)) for _ in range(10)]
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
        stopped = jobs.put(functions.tell_and_stop, [told], suppress_errors=True)
        pid = told.get()
        assert [jobs.submit(functions.add, number).result() for number in range(200)]
        many = [jobs.submit(functions.echo, bytes(1 << 18)) for _ in range(20)]
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
        first = jobs.submit(functions.mark_and_wait, file, 1, first_told, first_gate)
        held = jobs.submit(functions.give_held)
        others = [
            jobs.submit(functions.mark_and_wait, file, number, told, gate) for number in range(4)
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


# -- what a death tells ---------------------------------------------------------------------------


def test_a_death_names_pid_signal_exit_code_job_and_memory(method):
    """PAINS 22: "timeout or memory leak": a vague death."""
    told = qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        job = jobs.put(functions.tell_and_wait, [told, qmill.Queue()], name="a long one")
        pid = told.get()
        os.kill(pid, signal.SIGKILL)
        error = outcome(job)
        assert type(error) is WorkerDied
        assert (error.pid, error.signal, error.exitcode) == (pid, signal.SIGKILL, -signal.SIGKILL)
        assert error.job == "a long one"
        assert 1 << 20 < error.rss_bytes < 1 << 34
        for word in (str(pid), "SIGKILL", "a long one", "MiB"):
            assert word in str(error)
        record = job.to_dict()
        assert (record["exitcode"], record["state"]) == (-signal.SIGKILL, "died")
        assert "SIGKILL" in record["exception"]
        job = jobs.put(functions.die, "os._exit(3)", suppress_errors=True)
        error = outcome(job)
        assert (error.signal, error.exitcode, error.job) == (None, 3, job.id)
        assert "3" in str(error)


# -- logging --------------------------------------------------------------------------------------


def test_what_workers_log_reaches_the_parents_handlers(method, caplog):
    """PAINS 21: logs of workers are lost."""
    name = f"test.{method}"
    logging.getLogger(name).setLevel(logging.INFO)  # the root's is WARNING
    with qmill.JobQueue(1, name="logs") as jobs:
        pid = jobs.put(functions.log_everything, (name, "hello"), name="the job").result()
        jobs.submit(functions.log_everything, f"other.{method}", "hello").result()
    others = [record.levelname for record in caplog.records if record.name != name]
    assert others == ["WARNING", *["ERROR"] * 3]
    records = [record for record in caplog.records if record.name == name]
    assert [record.levelname for record in records] == ["INFO", "WARNING", *["ERROR"] * 3]
    assert records[0].getMessage() == "hello at 20"
    assert {record.process for record in records} == {pid}
    assert {record.processName for record in records} == {"logs-1"}
    assert {record.jobName for record in records} == {"the job"}
    assert records[-1].threadName == "logs"
    assert "ValueError: hello" in caplog.handler.format(records[-2])
    assert "in fail" in caplog.handler.format(records[-2])


def test_a_logger_with_a_handler_of_its_own(method):
    """PAINS 21: logs of workers are lost."""

    class Keeps(logging.Handler):
        def emit(self, record):
            kept.append(record.getMessage())

    kept, logger = [], logging.getLogger(f"private.{method}")
    logger.addHandler(Keeps())
    logger.propagate = False
    with qmill.JobQueue(1) as jobs:
        jobs.submit(functions.log_everything, logger.name, "hello").result()
    assert [text.split(" ", 1)[1] for text in kept] == [
        "at 30",
        "at 40",
        "with an exception",
        "in a thread",
    ]


EXTRAS = {
    "cannot be packed": functions.an_extra_lock,
    "cannot be rebuilt": functions.an_extra_that_cannot_be_rebuilt,
    "exits when it is rebuilt": functions.an_extra_that_exits,
}


@pytest.mark.parametrize("what", EXTRAS)
def test_a_log_record_with_an_extra_that(quick_method, what, caplog):
    """PAINS 21: logs of workers are lost."""
    with qmill.JobQueue(1) as jobs:
        pid = jobs.submit(functions.pid).result()
        job = jobs.submit(functions.log_with, EXTRAS[what])
        assert outcome(job) == "done"
        assert jobs.submit(functions.pid).result() == pid
        check_healthy(jobs)
    assert "said" in [record.getMessage() for record in caplog.records]


def test_a_long_record(method, caplog):
    with qmill.JobQueue(1) as jobs:
        jobs.submit(functions.log_with, dict, "x" * 300_000).result()
    assert [len(record.getMessage()) for record in caplog.records] == [300_000]


@pytest.mark.parametrize("size", [100, 40_000])
def test_processes_of_a_job_may_log(quick_method, size, caplog):
    """PAINS 21: logs of workers are lost."""
    with qmill.JobQueue(1) as jobs:
        job = jobs.submit(functions.log_in_processes, 4, 15, size)
        assert outcome(job) == [0] * 4
        check_healthy(jobs)
    logged = Counter(record.name for record in caplog.records)
    assert logged["here"] == 15
    assert logged["in a process"] in (0, 60)  # which of both is not promised


def test_a_process_of_a_job_may_log_while_a_thread_does(quick_method, caplog):
    """The locks of the moment have come along, which that thread may have held."""
    with qmill.JobQueue(1) as jobs:
        assert jobs.submit(functions.log_in_threads_and_processes, 25).result() == 0
        check_healthy(jobs)


# -- the world of a worker ------------------------------------------------------------------------


def test_libraries_get_their_share_of_the_processors(method, monkeypatch):
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"]
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for num_workers in (1, 2, 2 * qmill.NUM_CPUS):
        share = str(max(1, qmill.NUM_CPUS // num_workers))
        with qmill.JobQueue(num_workers) as jobs:
            told = jobs.submit(functions.library_threads, names).result()
            assert told == dict.fromkeys(names, share)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with qmill.JobQueue(2) as jobs:
        told = jobs.submit(functions.library_threads, names).result()
        assert told["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_a_queue_in_a_job(method):
    with qmill.JobQueue(2) as jobs:
        some = [jobs.submit(functions.nested_sum, number) for number in (10, 100)]
        assert [job.result(LIMIT_S) for job in some] == [45, 4950]


UNGUARDED = """
import qmill
class Odd(Exception):
    pass
offset = 3
def shift(x):
    if x > 100:
        raise Odd(x)
    return x + offset
jobs = qmill.JobQueue(2)
some = [jobs.put(shift, i) for i in range(5)]
print([job.result() for job in some], list(qmill.map(lambda x: x * offset, range(4))))
try:
    jobs.put(shift, 200).result()
except Odd as error:
    print("odd", error)
jobs.shutdown()
"""


@pytest.mark.parametrize("how", ["script", "-", "-c"])
def test_an_unguarded_main(method, how, tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(UNGUARDED)
    command = {"script": [str(script)], "-": ["-"], "-c": ["-c", UNGUARDED]}[how]
    done = subprocess.run(
        [sys.executable, *command],
        input=UNGUARDED if how == "-" else "",
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=os.environ | {"PYTHONPATH": str(ROOT), "QMILL_START_METHOD": method},
    )
    assert done.stderr == ""
    assert done.stdout == "[3, 4, 5, 6, 7] [0, 3, 6, 9]\nodd 200\n"


# -- the parent's end -----------------------------------------------------------------------------

RUNNING = {
    "idle": "jobs.map(functions.add, range(3)); gate.get()",
    "waiting": "[jobs.submit(functions.tell_and_wait, told, gate) for _ in range(3)]",
    "stuck": "[jobs.submit(functions.stick, 'pow', told) for _ in range(3)]",
    "ignoring": "[jobs.submit(functions.ignore_and_tell, [1, 2, 13, 15], told, gate)"
    " for _ in range(3)]",
}


@pytest.mark.parametrize("what", RUNNING)
def test_no_worker_outlives_a_killed_parent(start_program, what):
    """PAINS 16: orphans live on after the parent is killed."""
    start = RUNNING[what]
    if what == "idle":
        start = "some = [jobs.submit(functions.tell_and_wait, told, gate) for _ in range(3)]"
    program = start_program(
        f"""
told, gate = qmill.Queue(), qmill.Queue()
jobs = qmill.JobQueue(3)
{start}
pids = [told.get() for _ in range(3)]
if {what == "idle"}:
    gate.put_many([0] * 3)
    jobs.wait()
tell(*pids)
threading.Event().wait()
"""
    )
    watch = Watch(program.hear_pids())
    program.kill()
    assert watch.wait() == []


def test_no_worker_of_nested_queues_or_of_recycling_outlives_a_killed_parent(start_program):
    """PAINS 16: orphans live on after the parent is killed."""
    program = start_program(
        """
jobs = qmill.JobQueue(3, max_jobs_per_worker=1)
some = [jobs.submit(functions.add, i) for i in range(10_000)]
told = qmill.Queue()
nested = [jobs.options(priority=1).submit(functions.start_nested_workers, told) for _ in range(2)]
tell(*told.get(), *told.get())
threading.Event().wait()
"""
    )
    watch = Watch(program.hear_pids())
    program.kill()
    assert watch.wait() == []


# -- Ctrl-C ---------------------------------------------------------------------------------------

READY = """
import itertools
told, gate = qmill.Queue(), qmill.Queue()
def ready(num):
    tell(*[told.get() for _ in range(num)])
"""

INTERRUPTED = {
    "with": """
with qmill.JobQueue(2) as jobs:
    some = [jobs.put(functions.tell_and_wait, [told, gate]) for _ in range(20)]
    ready(2)
    some[5].result()
""",
    "at the end of with": """
with qmill.JobQueue(2) as jobs:
    some = [jobs.put(functions.tell_and_wait, [told, gate]) for _ in range(20)]
    ready(2)
""",
    "without with": """
jobs = qmill.JobQueue(2)
some = [jobs.put(functions.tell_and_wait, [told, gate]) for _ in range(20)]
ready(2)
jobs.wait()
""",
    "at exit": """
jobs = qmill.JobQueue(2)
some = [jobs.put(functions.tell_and_wait, [told, gate]) for _ in range(20)]
ready(2)
""",
    "in get": """
with qmill.JobQueue(2) as jobs:
    some = [jobs.put(functions.tell_and_wait, [told, gate]) for _ in range(20)]
    ready(2)
    jobs.get()
""",
    "in map": """
def items():
    for number in itertools.count():
        yield told
for _ in qmill.map(functools.partial(functions.tell_and_wait, gate=gate), items(), max_workers=2):
    pass
""",
}


@pytest.mark.parametrize("where", INTERRUPTED)
def test_ctrl_c_ends_everything_with_one_traceback(start_program, where):
    """PAINS 17: Ctrl-C hangs, and prints a page for each worker."""
    source = READY + INTERRUPTED[where]
    if where == "in map":
        source = source.replace("for _ in qmill", "Call(ready, 2)\nfor _ in qmill")
        source = "import functools\nfrom tests.crash.programs import Call\n" + source
    program = start_program(source)
    pids = program.hear_pids()
    for pid in [*pids, program.pid]:
        wait_until_asleep(pid)
    watch = Watch(pids)
    program.interrupt_group()
    _, errors = program.finish()
    assert watch.wait() == []
    if where == "at exit":  # the program itself is over
        assert errors.count("Traceback") <= 1, errors
        return
    assert errors.count("Traceback") == 1, errors
    assert errors.rstrip().endswith("KeyboardInterrupt"), errors
    assert errors.count("KeyboardInterrupt") == 1, errors
    assert program.exitcode == -signal.SIGINT


LOADS = {
    "jobs": """
with qmill.JobQueue(2) as jobs:
    some = [jobs.put(functions.add, (i, 1)) for i in range(100)]
    tell("go")
    while True:
        some += [jobs.put(functions.add, (i, 1)) for i in range(100)]
""",
    "map": """
told_already = False
for _ in qmill.map(functions.add, itertools.count(), max_workers=2):
    if not told_already:
        tell("go")
        told_already = True
""",
    "starting": """
tell("go")
while True:
    with qmill.JobQueue(3) as jobs:
        for _ in range(3):
            jobs.submit(functions.nothing)
""",
    "dying": """
with qmill.JobQueue(2) as jobs:
    tell("go")
    while True:
        jobs.put(functions.die, "SIGKILL", suppress_errors=True)
""",
}


@pytest.mark.parametrize("load", LOADS)
def test_ctrl_c_under_load(start_program, load):
    """PAINS 17: Ctrl-C hangs, and prints a page for each worker."""
    program = start_program("import itertools\n" + LOADS[load])
    assert program.hear() == ["go"]
    program.interrupt_group()
    _, errors = program.finish()
    assert errors.count("Traceback") == 1, errors
    assert errors.count("KeyboardInterrupt\n") == 1, errors
    assert program.exitcode == -signal.SIGINT


# -- threads that outlive their job ---------------------------------------------------------------


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
    """What the logger "qmill" says from WARNING on."""
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
    pid = jobs.submit(functions.leave_thread, told, go_on).result(LIMIT_S)
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
        jobs.submit(functions.leave_thread, told, go_on, grace_s=1.5).result(LIMIT_S)
        end = Call(jobs.shutdown)
        assert "thread saver" in heard.next()  # so the second has passed
        go_on.put(None)
        end.result()
    assert told.get(block=False) == "saved"
    assert heard.records.empty()


def test_a_process_that_a_job_has_left_is_waited_for(quick_method, heard, go_on):
    told = qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        jobs.submit(functions.leave_thread, told, go_on, kind="process").result(LIMIT_S)
        end = Call(jobs.shutdown)
        assert "process saver" in heard.next()
        go_on.put(None)
        end.result()
    assert told.get(block=False) == "saved"


def test_the_jobs_of_a_queue_that_a_job_has_left_are_waited_for(quick_method, heard, go_on):
    told = qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        jobs.submit(functions.leave_queue, told, go_on).result(LIMIT_S)
        end = Call(jobs.shutdown)
        assert "qmill-dispatcher" in heard.next()
        go_on.put(None)
        end.result()
    assert told.get(block=False) == "saved"


def test_an_idle_pool_that_a_job_has_left_is_nothing_to_wait_for(quick_method, heard):
    with qmill.JobQueue(1) as jobs:
        jobs.submit(functions.leave_idle_pool).result(LIMIT_S)
    assert heard.records.empty()


def test_a_worker_that_does_not_end_is_killed_and_that_is_said(quick_method, heard, monkeypatch):
    monkeypatch.setattr("qmill.engines.process.engine.EXIT_GRACE_S", 0.2)
    with qmill.JobQueue(1) as jobs:
        jobs.submit(functions.leave_exit_function, qmill.Queue()).result(LIMIT_S)
    said = heard.next()
    assert f"worker {jobs.name}-1" in said
    assert "0.2 s" in said
    assert "killed" in said


def test_leaving_by_an_exception_waits_for_no_thread(quick_method, go_on):
    told = qmill.Queue()
    with pytest.raises(KeyError, match="mine"), qmill.JobQueue(2) as jobs:
        pid = jobs.submit(functions.leave_thread, told, go_on).result(LIMIT_S)
        watch = Watch([pid])
        raise KeyError("mine")
    assert watch.wait() == []
    assert told.empty()


def test_leaving_by_an_exception_waits_for_no_thread_of_a_worker_that_ends_already(
    quick_method, heard, go_on
):
    with pytest.raises(KeyError), qmill.JobQueue(1, max_jobs_per_worker=1) as jobs:
        pid = jobs.submit(functions.leave_thread, qmill.Queue(), go_on).result(LIMIT_S)
        watch = Watch([pid])
        assert "thread saver" in heard.next()
        raise KeyError
    assert watch.wait() == []


@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_a_worker_that_is_killed_waits_for_no_thread(quick_method, how, go_on):
    told = qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        pid = jobs.submit(functions.leave_thread, told, go_on).result(LIMIT_S)
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
    leave = functools.partial(functions.leave_thread, told)
    pids = qmill.map(leave, itertools.repeat(go_on), max_workers=1)
    watch = Watch([next(pids)])
    pids.close()
    assert watch.wait() == []
    assert told.empty()


def test_a_map_waits_for_the_threads_of_its_calls(quick_method, heard, go_on):
    told = qmill.Queue()
    leave = functools.partial(functions.leave_thread, told)
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
            jobs.submit(functions.leave_thread, told, go_on).result(LIMIT_S)
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
    tell(jobs.submit(functions.leave_thread, told, go_on).result())
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


# -- very many ------------------------------------------------------------------------------------


def test_a_hundred_thousand_jobs():
    """PAINS 10: submitting very many jobs deadlocks."""
    with qmill.JobQueue(2) as jobs:
        for job in [jobs.submit(functions.nothing) for _ in range(100_000)]:
            assert job.result() is None
        check_healthy(jobs)
