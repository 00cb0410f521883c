"""Queues in jobs, start methods, and programs that fork."""

from __future__ import annotations

import multiprocessing
import operator
import os
import sys

import pytest
from conformance_support import ENGINES

import qmill
from qmill.processes import launch

from ...examples import programs
from .failing import SpecialError, multiplier, raise_special


@pytest.mark.parametrize("inner", ENGINES)
def test_a_job_may_have_a_queue_of_its_own(jobs, inner):
    def nest(base):
        with qmill.JobQueue(2, engine=inner) as nested:
            return list(nested.map(operator.add, [base] * 3, range(3)))

    some = [jobs.submit(nest, base) for base in (10, 20, 30)]
    assert [job.result() for job in some] == [[b, b + 1, b + 2] for b in (10, 20, 30)]


def test_three_levels_of_queues():
    def nest(level):
        if not level:
            return [os.getpid()]
        with qmill.JobQueue(1) as jobs:
            return [os.getpid(), *jobs.submit(nest, level - 1).result()]

    assert len(set(nest(3))) == 4


def test_a_queue_cannot_be_sent_into_its_jobs():
    with qmill.JobQueue(1) as jobs:
        with pytest.raises(qmill.SerializationError):
            jobs.submit(len, [jobs]).result()
        with pytest.raises(qmill.SerializationError):
            jobs.submit(lambda: jobs.size()).result()
        assert jobs.submit(int).result() == 0


def describe_process():
    return os.getppid(), getattr(sys, "set_by_the_test", None)


def check_start_method(start_method, parent, inherited):
    assert (parent == os.getpid()) == (start_method != "forkserver")
    assert (inherited == "inherited") == (start_method == "fork")


@pytest.mark.parametrize("start_method", launch.METHODS)
def test_start_methods(monkeypatch, start_method):
    monkeypatch.setattr(sys, "set_by_the_test", "inherited", raising=False)
    with qmill.JobQueue(1, start_method=start_method) as jobs:
        check_start_method(start_method, *jobs.submit(describe_process).result())
        assert jobs.submit(multiplier(3), 5).result() == 15
        assert type(jobs.submit(raise_special).exception()) is SpecialError


@pytest.mark.parametrize("start_method", launch.METHODS)
def test_the_start_method_of_a_context(monkeypatch, start_method):
    monkeypatch.setattr(sys, "set_by_the_test", "inherited", raising=False)
    context = multiprocessing.get_context(start_method)
    with qmill.JobQueue(1, mp_context=context) as jobs:
        check_start_method(start_method, *jobs.submit(describe_process).result())


def test_the_start_method_in_force(monkeypatch):
    monkeypatch.setattr(sys, "set_by_the_test", "inherited", raising=False)
    monkeypatch.setenv("QMILL_START_METHOD", "fork")
    with qmill.JobQueue(1) as jobs:
        check_start_method("fork", *jobs.submit(describe_process).result())


def test_workers_see_the_parents_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SET_BY_THE_TEST", "seen")
    monkeypatch.chdir(tmp_path)
    with qmill.JobQueue(1) as jobs:
        assert jobs.submit(os.getenv, "SET_BY_THE_TEST").result() == "seen"
        assert jobs.submit(os.getcwd).result() == os.getcwd()


FORK = """
import os, sys
import qmill

def refused(name, call):
    try:
        call()
    except RuntimeError:
        print(name, "refused", flush=True)
    else:
        print(name, "done", flush=True)

permits = qmill.Queue()
jobs = qmill.JobQueue(1, engine={engine!r}, start_method={start_method!r})
assert jobs.submit(pow, 2, 3).result() == 8
running, waiting = jobs.put(permits.get), jobs.submit(pow, 2, 4)
child = os.fork()
if not child:
    refused("submit", lambda: jobs.submit(pow, 2, 3))
    refused("put", lambda: jobs.put(pow, (2, 3)))
    refused("map", lambda: list(jobs.map(abs, [1])))
    refused("starmap", lambda: jobs.starmap(pow, [(2, 3)]))
    with qmill.JobQueue(2, engine={engine!r}, start_method={start_method!r}) as own:
        print("child", own.submit(pow, 2, 5).result(), *own.map(abs, [-1, -2]), flush=True)
    print("child", *qmill.map(abs, [-3, -4], engine={engine!r}), flush=True)
    {end}
_, status = os.waitpid(child, 0)
print("status", status)
permits.put("permitted")
print("parent", running.result(), waiting.result(), jobs.submit(pow, 2, 6).result())
jobs.shutdown()
"""

FORKED = """\
submit refused
put refused
map refused
starmap refused
child 32 1 2
child 3 4
status 0
parent permitted 16 64
"""


@pytest.mark.parametrize(
    ("start_method", "end"),
    [
        ("forkserver", "os._exit(0)"),
        ("forkserver", "sys.exit(0)"),
        ("fork", "sys.exit(0)"),
        ("fork", "del jobs; sys.exit(0)"),
        ("spawn", "sys.exit(0)"),
    ],
)
def test_a_fork_of_a_process_with_a_queue_of_processes(start_method, end):
    source = FORK.format(engine="process", start_method=start_method, end=end)
    assert programs.run("-c", source) == FORKED


@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit(0)", "del jobs; sys.exit(0)"])
def test_a_fork_of_a_process_with_a_queue_of_threads(end):
    source = FORK.format(engine="thread", start_method=None, end=end)
    assert programs.run("-c", source) == FORKED


FORK_AND_WAIT = """
import os
import qmill

CALLS = {{
    "wait": lambda: jobs.wait(),
    "get": lambda: jobs.get(),
    "as_completed": lambda: list(jobs.as_completed()),
}}

permits = qmill.Queue()
jobs = qmill.JobQueue(1, engine={engine!r})
job = jobs.put(permits.get)
child = os.fork()
if not child:
    try:
        print("returned", CALLS[{call!r}](), flush=True)
    except RuntimeError:
        print("refused", flush=True)
    os._exit(0)
os.waitpid(child, 0)
permits.put("permitted")
print(job.result())
jobs.shutdown()
"""


@pytest.mark.parametrize("call", ["wait", "get", "as_completed"])
def test_a_forked_child_cannot_wait_for_jobs_of_its_parent(engine, call):
    source = FORK_AND_WAIT.format(engine=engine, call=call)
    assert programs.run("-c", source) == "refused\npermitted\n"


IMPORTS = """
import logging, os, sys, threading, time
import qmill
from qmill.system import native

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        is_main = threading.current_thread() is threading.main_thread()
        if not (name in sys.modules or is_main or native.fork_lock._is_owned()):
            print(name, "is imported in", threading.current_thread().name)

def fail():
    raise KeyError("no")

def die():
    os.kill(os.getpid(), 9)

def log():
    logging.getLogger("job").warning("logged")

class Broken:
    def __reduce__(self):
        return int, ("no number",)

if __name__ == "__main__":
    logging.disable()
    sys.meta_path.insert(0, Finder)
    method = {start_method!r}
    with qmill.JobQueue(2, start_method=method, log_file={log!r}, callback=str) as jobs:
        for function in (fail, die, log, int, Broken):
            jobs.put(function, retries=1)
        jobs.put(bytes, [1 << 20])
        jobs.put(time.sleep, [60], timeout=0.1)
        assert list(jobs.map(abs, range(1000))) == list(range(1000))
        jobs.wait()
"""


@pytest.mark.parametrize("start_method", multiprocessing.get_all_start_methods())
def test_no_thread_of_a_queue_imports_a_module(start_method, tmp_path):
    """A module that a thread is importing at a fork is locked in the child for ever.

    No fork comes while the lock of forks is held.
    """
    script = tmp_path / "imports.py"
    script.write_text(IMPORTS.format(start_method=start_method, log=str(tmp_path / "log.csv")))
    assert programs.run(str(script)) == ""


FORK_WHILE_STARTING = """
import os, signal, threading
import qmill

# A module that another thread is importing at the fork is locked in the child for ever.
qmill.JobQueue(1, start_method={start_method!r}).shutdown()

def start_workers():
    while not over.is_set():
        with qmill.JobQueue(2, start_method={start_method!r}) as jobs:
            jobs.submit(int).result()

over = threading.Event()
thread = threading.Thread(target=start_workers)
thread.start()
for number in range(10):
    child = os.fork()
    if not child:
        signal.alarm(10)
        with qmill.JobQueue(1, start_method={start_method!r}) as own:
            own.submit(int).result()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print("status", status, flush=True)
    if status:
        break
over.set()
thread.join()
"""


@pytest.mark.parametrize("start_method", ["forkserver", "fork"])
def test_a_fork_while_another_thread_starts_workers(start_method):
    source = FORK_WHILE_STARTING.format(start_method=start_method)
    assert programs.run("-c", source) == "status 0\n" * 10


FORK_IN_A_BLOCK = """
import os, sys
import qmill

with qmill.JobQueue(1, engine={engine!r}) as jobs:
    assert jobs.submit(pow, 2, 3).result() == 8
    permits = qmill.Queue()
    running = jobs.submit(permits.get)
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        print("status", status)
        permits.put("permitted")
        print("parent", running.result(), jobs.submit(pow, 2, 4).result())
    else:
        {leave}
if not child:
    os._exit(0)
"""


@pytest.mark.parametrize("leave", ["sys.exit(0)", "pass"])
def test_a_forked_child_that_leaves_the_block_hurts_nobody(engine, leave):
    """It has no workers to wait for: it may say so (RuntimeError), but neither hang nor kill."""
    source = FORK_IN_A_BLOCK.format(engine=engine, leave=leave)
    assert programs.run("-c", source) == "status 0\nparent permitted 16\n"
