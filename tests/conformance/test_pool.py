"""Programs for `multiprocessing` do the same with `qmill.compat.multiprocessing`, and do not hang.

The programs in `support/pool_programs` are run twice, the second time with the imports changed.
"""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from conformance_support import LIMIT_S

import qmill
import qmill.compat.multiprocessing as ours
from qmill.compat.multiprocessing.pool import ThreadPool

METHODS = multiprocessing.get_all_start_methods()
PROGRAMS = Path(__file__).parent / "support" / "pool_programs"
NAMES = sorted(path.stem for path in PROGRAMS.glob("*.py"))
SPAWNED = ["kept_state", "names"]  # the others start so many processes that this takes long
RUNS = [
    (name, method)
    for name, method in itertools.product(NAMES, METHODS)
    if method != "spawn" or name in SPAWNED
]


def changed(source):
    """Change the imports of a program."""
    package = "qmill.compat.multiprocessing"
    source = re.sub(
        r"^import multiprocessing$", f"import {package} as multiprocessing", source, flags=re.M
    )
    return re.sub(r"^(import|from) multiprocessing\b", rf"\1 {package}", source, flags=re.M)


class Run:
    """A program that runs, and all processes that it starts."""

    def __init__(self, path, source, *arguments):
        path.write_text(source)
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore:This process", str(path), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def interrupt(self):
        os.killpg(self._process.pid, signal.SIGINT)

    def read_line(self):
        return self._process.stdout.readline()

    def end(self):
        """Wait for the end; returns the exit code, the output and what went to standard error."""
        try:
            output, errors = self._process.communicate(timeout=2 * LIMIT_S)
        finally:
            self.kill()
        return self._process.returncode, output, errors

    def kill(self):
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self._process.wait()


@pytest.fixture
def start(tmp_path):
    runs = []

    def start(name, source, *arguments):
        runs.append(Run(tmp_path / name, source, *arguments))
        return runs[-1]

    yield start
    for run in runs:
        run.kill()


@pytest.mark.parametrize(("name", "method"), RUNS)
def test_a_program_does_the_same(start, name, method):
    source = (PROGRAMS / f"{name}.py").read_text()
    runs = [start("theirs.py", source, method), start("ours.py", changed(source), method)]
    theirs, outcome = [run.end() for run in runs]
    assert theirs[0] == 0, theirs
    assert outcome[:2] == theirs[:2], outcome[2]


# -- what hangs with the original, or is refused there -----------------------------------------


@pytest.fixture(params=METHODS)
def make_pool(request, monkeypatch):
    """Makes pools of a start method; workers do not import pytest's main."""
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    pools = []

    def make_pool(*args, **kwargs):
        pools.append(ours.get_context(request.param).Pool(*args, **kwargs))
        return pools[-1]

    yield make_pool
    for pool in pools:
        pool.terminate()
        pool.join()


def by_value():
    """Return functions that travel by value: for one of this module a worker imports pytest."""

    def end(how):
        if how == "exit":
            sys.exit(3)
        if how == "os exit":
            os._exit(0)
        if how == "interrupt":
            raise KeyboardInterrupt
        if isinstance(how, signal.Signals):
            os.kill(os.getpid(), how)
        return how

    return end


end = by_value()
DEATHS = ["exit", "os exit", "interrupt", signal.SIGKILL]


def collect(results):
    """Return what an iterator gives, exceptions by their names."""
    found = []
    while True:
        try:
            found.append(next(results))
        except StopIteration:
            return found
        except Exception as error:
            found.append(type(error).__name__)


def test_a_death_costs_one_call(make_pool):
    pool = make_pool(2)
    with pytest.raises(qmill.WorkerDied):
        pool.apply(end, (signal.SIGKILL,))
    result = pool.map_async(end, ["a", signal.SIGKILL, "b"], 3)
    with pytest.raises(qmill.WorkerDied) as caught:
        result.get(LIMIT_S)
    assert caught.value.index == 1
    assert pool.map(end, range(5)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("make_pool", ["fork"], indirect=True)
def test_every_kind_of_death_costs_one_call(make_pool):
    pool = make_pool(2)
    for how in DEATHS:
        result = pool.map_async(end, ["a", how, "b"], 3)
        with pytest.raises(qmill.WorkerDied) as caught:
            result.get(LIMIT_S)
        assert caught.value.index == 1
        assert collect(pool.imap(end, ["a", how, "b"], 2)) == ["a", "WorkerDied", "b"]
        found = collect(pool.imap_unordered(end, ["a", how, "b"], 2))
        assert sorted(found) == ["WorkerDied", "a", "b"]
    assert pool.map(end, range(5)) == [0, 1, 2, 3, 4]


def test_workers_killed_while_idle_are_replaced(make_pool):
    pool = make_pool(2)
    for worker in pool._pool:
        worker.kill()
        worker.join(LIMIT_S)
    assert pool.map(end, range(4)) == [0, 1, 2, 3]


def test_an_initializer_that_fails_fails_the_calls(make_pool):
    pool = make_pool(2, int, ("no number",))
    for call in (
        lambda: pool.apply(end, (1,)),
        lambda: pool.map(end, range(3)),
        lambda: list(pool.imap(end, range(3))),
    ):
        with pytest.raises(ValueError, match="no number"):
            call()


@pytest.mark.parametrize("make_pool", ["fork"], indirect=True)
def test_an_initializer_that_kills_its_worker_fails_the_calls(make_pool):
    pool = make_pool(1, end, (signal.SIGKILL,))
    with pytest.raises(qmill.WorkerDied):
        pool.apply(end, (1,))


def test_results_of_a_terminated_pool_raise(make_pool):
    pool, gate = make_pool(1), qmill.Queue()
    calls = pool.apply_async(gate.get), pool.map_async(end, [1, 2]), pool.apply_async(end, (1,))
    ordered, unordered = pool.imap(end, range(3)), pool.imap_unordered(end, range(3))
    pool.terminate()
    pool.join()
    for call in calls:
        with pytest.raises(multiprocessing.ProcessError):
            call.get(LIMIT_S)
    for results in (ordered, unordered):
        with pytest.raises(multiprocessing.ProcessError):
            results.next(LIMIT_S)
    assert not [worker for worker in pool._pool if worker.is_alive()]


def test_what_the_original_does_not_send(make_pool):
    pool, queue = make_pool(2), ours.Queue()
    assert pool.map(lambda n: n + 1, [1, 2]) == [2, 3]
    assert pool.apply(lambda: lambda: 5)() == 5
    pool.starmap(lambda q, n: q.put(n), [(queue, 1), (queue, 2)])
    assert sorted([queue.get(), queue.get()]) == [1, 2]


def test_an_item_that_cannot_be_sent_costs_no_other_one_of_its_chunk(make_pool):
    pool = make_pool(2)
    for _ in range(20):  # the chunk fails while its calls are made anew
        results, outcomes = pool.imap_unordered(end, [1, threading.Lock(), 2, 3], 4), []
        while True:
            try:
                outcomes.append(results.next(LIMIT_S))
            except StopIteration:
                break
            except TypeError:
                outcomes.append("not sent")
        assert sorted(outcomes, key=str) == [1, 2, 3, "not sent"]


def test_an_endless_input_does_not_stop_other_calls(make_pool):
    pool = make_pool(2)
    ordered = pool.imap(end, itertools.count())
    unordered = pool.imap_unordered(end, itertools.count())
    assert [next(ordered) for _ in range(3)] == [0, 1, 2]
    assert len({next(unordered) for _ in range(3)}) == 3
    assert pool.apply(end, ("another",)) == "another"


def test_an_input_of_a_wrong_length_fails_its_map():
    class Sized:
        def __len__(self):
            return 10

        def __iter__(self):
            yield 1
            raise OSError("no more")

    with ThreadPool(1) as pool:
        for call in (pool.map_async, pool.starmap_async):
            with pytest.raises((OSError, TypeError)):
                call(abs, Sized(), 1).get(LIMIT_S)


def test_stop_iteration_in_a_map_is_an_exception_as_others(make_pool):
    def stop(number):
        raise StopIteration(number)

    with pytest.raises(StopIteration):
        make_pool(1).map(stop, [1, 2], 2)


def test_sys_exit_with_0_is_a_call_that_returns_none(make_pool):
    assert make_pool(1).map(lambda _: sys.exit(0), [1, 2]) == [None, None]


def test_several_threads_read_one_iterator_and_ask_one_result():
    gate = threading.Event()
    with ThreadPool(2) as pool:
        for kind in (pool.imap, pool.imap_unordered):
            read, results = [], kind(abs, range(500))
            readers = [threading.Thread(target=read.extend, args=(results,)) for _ in range(4)]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join(LIMIT_S)
            assert sorted(read) == list(range(500))
        result = pool.apply_async(gate.wait)
        got = []
        waiters = [
            threading.Thread(target=lambda: got.append(result.get(LIMIT_S))) for _ in range(4)
        ]
        for waiter in waiters:
            waiter.start()
        assert not result.ready()
        with pytest.raises(ValueError, match="not ready"):
            result.successful()
        with pytest.raises(multiprocessing.TimeoutError):
            result.get(0.001)
        gate.set()
        for waiter in waiters:
            waiter.join(LIMIT_S)
        assert got == [True] * 4


def test_a_callback_that_raises_is_logged(make_pool, caplog):
    def fail(value):
        raise ValueError("in the callback")

    pool = make_pool(1)
    result = pool.apply_async(end, (1,), callback=fail)
    assert result.get(LIMIT_S) == 1
    assert pool.apply(end, (2,)) == 2
    pool.close()
    pool.join()  # the exception is logged after the result is there
    assert "in the callback" in caplog.text


def test_active_children_lists_workers_of_pools(make_pool):
    pool = make_pool(2)
    pids = {worker.pid for worker in pool._pool}
    assert pids <= {child.pid for child in ours.active_children()}
    assert all("PoolWorker-" in worker.name for worker in pool._pool)
    pool.terminate()
    pool.join()
    assert not pids & {child.pid for child in ours.active_children()}


def test_a_dropped_pool_warns_and_its_workers_end(make_pool):
    pool = type(make_pool(1))(2)  # not by the fixture, which keeps its pools
    workers = pool._pool
    assert pool.apply(end, (1,)) == 1
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
        pool.__del__()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a warning would keep the pool
        del pool
        gc.collect()
    for worker in workers:
        worker.join(LIMIT_S)
        assert not worker.is_alive()


@pytest.mark.parametrize("method", METHODS)
def test_executors_take_the_contexts(method, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    with ProcessPoolExecutor(2, mp_context=ours.get_context(method)) as executor:
        assert list(executor.map(abs, [-1, -2])) == [1, 2]


def test_a_queue_class_says_that_none_can_be_derived_from_it():
    with pytest.raises(TypeError, match="give your class an attribute that is a queue"):
        type("Mine", (ours.queues.Queue,), {})


LEAVES = """
import qmill, sys

mapping, nested, refers = {}, {"inner": []}, []
refers.append(mapping)

def init(value):
    mapping["key"] = value
    nested["inner"].append(value)

def look():
    return mapping, nested

method = sys.argv[1]
"""

LOOKS = """
    with qmill.JobQueue(1, start_method=method, initializer=init, initargs=(5,)) as jobs:
        print(jobs.submit(look).result(), jobs.submit(lambda: mapping).result())
        mapping["key"] = "of the program"
        print(jobs.submit(look).result())
"""


@pytest.mark.parametrize("guard", ['if __name__ == "__main__":', "if True:"])
@pytest.mark.parametrize("method", METHODS)
def test_a_job_queue_keeps_what_an_initializer_has_changed(start, guard, method):
    run = start("ours.py", f"{LEAVES}{guard}{LOOKS}", method)
    kept = "({'key': 5}, {'inner': [5]}) {'key': 5}"
    assert run.end()[:2] == (0, f"{kept}\n({{'key': 'of the program'}}, {{'inner': [5]}})\n")


def test_processes_leave_nothing():
    context = ours.get_context("fork")

    def use():
        process = context.Process(target=abs, args=(1,))
        process.start()
        process.join()
        assert process.exitcode == 0

    use()
    gc.collect()
    before = len(os.listdir("/dev/fd"))
    for _ in range(50):
        use()
    gc.collect()
    assert len(os.listdir("/dev/fd")) == before


# -- programs that end -------------------------------------------------------------------------

HEAD = """
import itertools, os, sys, threading
import multiprocessing

def square(number):
    return number * number

def hang(number):
    threading.Event().wait()

def begin(method):
    context = multiprocessing.get_context(method)
    return context, context.Pool(2)
"""

ENDINGS = {
    "endless calls": "pool.map_async(hang, range(5))\nprint(pool._state)",
    "a closed pool that works": "pool.apply_async(hang, (1,))\npool.close()",
    "an endless input": "print(next(pool.imap(square, itertools.count())))",
    "an exit code": "pool.apply_async(hang, (1,))\nsys.exit(5)",
    "a thread that goes on": """
def work():
    print([pool.map(square, range(3)) for _ in range(5)][-1])
threading.Thread(target=work).start()""",
    "an iterator that is left": """
for _ in range(20):
    next(pool.imap_unordered(square, range(100)))
    next(pool.imap(square, range(100)))
print("left")""",
    "a child with a pool": """
def child():
    global inner
    inner = context.Pool(1)
    print(inner.map(square, [3]), flush=True)
    inner.apply_async(hang, (1,))
process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join()
print(process.exitcode)""",
    "a daemon": """
context.Process(target=hang, args=(1,), daemon=True).start()
context.Process(target=print, args=("not a daemon",)).start()""",
}


def program(body):
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    begin = "    method = sys.argv[1]\n    context, pool = begin(method)"
    return f'{HEAD}\nif __name__ == "__main__":\n{begin}\n{lines}\n'


OUTCOMES = {
    "endless calls": (0, "RUN\n"),
    "a closed pool that works": (0, ""),
    "an endless input": (0, "0\n"),
    "an exit code": (5, ""),
    "a thread that goes on": (0, "[0, 1, 4]\n"),
    "an iterator that is left": (0, "left\n"),
    "a child with a pool": (0, "[9]\n0\n"),
    "a daemon": (0, "not a daemon\n"),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_program_ends(start, ending, method):
    run = start("ours.py", changed(program(ENDINGS[ending])), method)
    assert run.end() == (*OUTCOMES[ending], "")


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_ctrl_c_ends_a_program_that_waits_for_a_map(start, method):
    body = """
def told(gate, number):
    gate.put(number)
    threading.Event().wait()

gate = multiprocessing.Queue()
result = pool.starmap_async(told, [(gate, n) for n in range(4)], 1)
gate.get(), gate.get()
try:
    print("begun", flush=True)
    result.get()
except KeyboardInterrupt:
    print("interrupted", flush=True)
    pool.terminate()
    pool.join()
"""
    run = start("ours.py", changed(program(body)), method)
    assert run.read_line() == "begun\n"
    run.interrupt()
    assert run.end() == (0, "interrupted\n", "")


def test_a_forked_child_has_no_part_in_its_parents_pool(start):
    body = """
print(pool.map(square, [1]), flush=True)
pid = os.fork()
if pid == 0:
    try:
        pool.apply(square, (2,))
    except RuntimeError as error:
        print("belongs to the parent" in str(error), len(multiprocessing.active_children()))
    with context.Pool(1) as own:
        print(own.map(square, [3]), flush=True)
    os._exit(0)
print(os.waitpid(pid, 0)[1], pool.map(square, [4]))
pool.close()
pool.join()
"""
    run = start("ours.py", changed(program(body)), "fork")
    assert run.end() == (0, "[1]\nTrue 0\n[9]\n0 [16]\n", "")


def test_the_package_in_the_place_of_multiprocessing(start):
    body = """
sys.modules["multiprocessing"] = multiprocessing
import concurrent.futures, multiprocessing.shared_memory
from multiprocessing import Pool, synchronize
from multiprocessing.managers import BaseManager
with Pool(2) as other, concurrent.futures.ProcessPoolExecutor(1) as executor:
    print(other.map(square, [1, 2]), list(executor.map(square, [3])))
print(type(pool).__module__.partition(".")[0], synchronize.__name__)
"""
    run = start("ours.py", changed(program(body)), "fork")
    assert run.end() == (0, "[1, 4] [9]\nqmill multiprocessing.synchronize\n", "")


def test_pools_and_iterators_leave_nothing():
    def num_descriptors():
        return len(os.listdir("/dev/fd"))

    context = ours.get_context("fork")

    def use(how):
        pool = context.Pool(1)
        next(pool.imap(end, range(9)))
        next(pool.imap_unordered(end, range(9)))
        getattr(pool, how)()
        pool.join()

    use("close")
    before = num_descriptors(), threading.active_count()
    for how in ["close", "terminate"] * 5:
        use(how)
    assert (num_descriptors(), threading.active_count()) == before
