"""A module that another thread has imported half is not there yet, and nobody fails for it."""

from __future__ import annotations

import pytest

from .programs import Program

# A thread that stays in the middle of its import of a module until `go_on` is set.
HALF = """
import importlib.util

begun, go_on = threading.Event(), threading.Event()

class Slowly:
    def find_spec(self, name, path=None, target=None):
        if name != HALF:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def slowly(module):
            begun.set()
            go_on.wait()
            execute(module)
        spec.loader.exec_module = slowly
        return spec

def import_half(name):
    global HALF, importer
    assert name not in sys.modules
    HALF = name
    sys.meta_path.insert(0, Slowly())
    importer = threading.Thread(target=importlib.import_module, args=(name,), daemon=True)
    importer.start()
    begun.wait()

def import_the_rest():
    go_on.set()
    importer.join()
"""

BARE = """
import os, sys, threading
import qmill
"""


@pytest.fixture
def run_program():
    """Runs a program that begins with `prelude` to its end; returns what it has written."""
    started = []

    def run(source, prelude=BARE, method="", transport=""):
        environ = {"QMILL_TRANSPORT": transport}
        started.append(Program(HALF + source, method, prelude=prelude, **environ))
        return (*started[-1].finish(), started[-1].exitcode)

    yield run
    for program in started:
        program.clean_up()


USES = {
    "put and get": "q = qmill.Queue(); q.put(1); print(q.get())",
    "a Q": "q = qmill.Q(); q.put(1); q.end(); print(*[msg.data for msg in q])",
    "a named queue": "q = qmill.Queue(name='half'); q.put(1); print(q.get())",
    "a pickled queue": "import pickle; q = qmill.Queue(); q.put(1)\n"
    "print(pickle.loads(pickle.dumps(q)).get())",
    "a fork": "q = qmill.Queue(); q.put(1); w = qmill.run(q.get); print(w.result()); w.join()\n"
    "assert w.exitcode == 0",
    "a fork server": "w = qmill.Worker(abs, (-1,), start_method='forkserver'); print(w.result())",
    "a JobQueue": "with qmill.JobQueue(1) as jobs: print(jobs.submit(abs, -1).result())",
}


@pytest.mark.parametrize("transport", ["", "portable"])
@pytest.mark.parametrize("rest", ["", "import_the_rest()"], ids=["", "whole at the end"])
@pytest.mark.parametrize("use", USES)
def test_multiprocessing_is_imported_meanwhile(run_program, use, rest, transport):
    source = f"import_half('multiprocessing.util')\n{USES[use]}\n{rest}\n"
    assert run_program(source, method="fork", transport=transport) == ("1\n", "", 0)


@pytest.mark.parametrize(
    "module", ["multiprocessing.forkserver", "multiprocessing.resource_tracker"]
)
def test_leftovers_are_looked_for_meanwhile(run_program, module):
    source = f"""
from qmill import testing
import_half({module!r})
with testing.nothing_left_behind():
    print(1)
"""
    assert run_program(source) == ("1\n", "", 0)


@pytest.mark.parametrize("module", ["shared.rings", "portable.client", "portable.broker"])
def test_the_program_ends_while_the_queues_are_imported(module, run_program):
    assert run_program(f"import_half('qmill.queues.{module}')") == ("", "", 0)


def test_a_child_of_multiprocessing_leaves_a_queue_that_was_made_meanwhile(run_program):
    """It has the message back whose reader ends without an acknowledgment."""
    source = """
import_half("multiprocessing.util")
q = qmill.Q()
import_the_rest()
import multiprocessing
context = multiprocessing.get_context("fork")

def take():
    iter_of_q = iter(q)
    print(next(iter_of_q).data, flush=True)
    globals()["kept"] = iter_of_q

q.put("again")
child = context.Process(target=take)
child.start()
child.join()
q.end()
print(child.exitcode, *[msg.data for msg in q])
"""
    assert run_program(source) == ("again\n0 again\n", "", 0)


def test_plain_data_loads_no_module_that_packs_objects(run_program):
    told, errors, exitcode = run_program(
        """
def loaded():
    return sorted(name for name in sys.modules if name.startswith("qmill.packing"))
class Point:
    place = 3
queue = qmill.Queue()
for data in [1, "a", b"b", 2.5, None, {"a": [1, (2, 3)]}, bytes(10**6)]:
    queue.put(data)
    assert queue.get() == data
print(loaded())
queue.put(Point())
print(queue.get().place, "qmill.packing.serialize" in loaded())
"""
    )
    assert (told.splitlines(), errors, exitcode) == (["[]", "3 True"], "", 0)


def test_a_fork_while_another_thread_loads_what_packs_objects(run_program):
    """The child has whole modules, or none: it can pack objects itself."""
    told, errors, exitcode = run_program(
        """
import logging  # else it might add its fork hooks in the middle of the fork, and CPython complain
class Point:
    place = 3
begun = threading.Event()
class Tells:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("qmill.packing"):
            begun.set()
sys.meta_path.insert(0, Tells())
queue = qmill.Queue()
thread = threading.Thread(target=queue.put, args=(Point(),))
thread.start()
begun.wait()
if (child := os.fork()) == 0:
    sys.meta_path.pop(0)
    mine = qmill.Queue()
    mine.put(Point())
    os._exit(mine.get().place)
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), queue.get().place)
"""
    )
    assert (told.split(), errors, exitcode) == (["3", "3"], "", 0)
