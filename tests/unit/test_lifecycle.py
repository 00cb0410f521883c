"""The table of phases: in which order a process ends and forks, also when a phase fails."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qmill.system import lifecycle

NAMES = {phase: name for name, phase in vars(lifecycle).items() if phase in lifecycle.TABLE}
ORDER = [NAMES[phase] for phase in lifecycle.TABLE]
AT_EXIT = [name for name in ORDER if name != "CHILDREN"]  # that phase has a function already
SHUFFLED = random.Random(16).sample(AT_EXIT, len(AT_EXIT))

START = """
import atexit, os, sys, threading
from qmill.system import lifecycle

def tell(*words):
    os.write(1, " ".join(words).encode() + b"\\n")

def at_exit(name, function=tell):
    lifecycle.at_exit(getattr(lifecycle, name), lambda: function(name))

def fail(name):
    tell(name)
    raise error_type(f"{name} failed")

def fork(in_child, *args):
    if (pid := os.fork()) == 0:
        try:
            in_child(*args)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
"""


def run(source: str) -> tuple[list[str], str]:
    """Run a program; return the lines of its output, and its errors."""
    done = subprocess.run(
        [sys.executable, "-c", START + source], capture_output=True, text=True, timeout=60
    )
    return done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("names", [AT_EXIT, AT_EXIT[::-1], SHUFFLED])
def test_a_process_ends_in_the_order_of_the_table(names: list[str]) -> None:
    assert run(f"for name in {names}: at_exit(name)") == (AT_EXIT, "")


@pytest.mark.parametrize("module", ["multiprocessing.util", "logging", "threading"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_also_with_the_exit_functions_of_others(module: str, when: str) -> None:
    others = {"before": "", "after": "", when: f"import {module}\n"}
    source = f"for name in {AT_EXIT}: at_exit(name)\n"
    assert run(others["before"] + source + others["after"]) == (AT_EXIT, "")


def test_the_exit_functions_of_others_run_at_their_moment() -> None:
    told, _ = run(
        """
at_exit("FORK_SERVER")
at_exit("BROKER")
atexit.register(tell, "registered between")
at_exit("WORKERS")
atexit.register(tell, "registered last")
at_exit("PENDING_JOBS")
threading.Thread(target=lambda: (threading.main_thread().join(), tell("a thread"))).start()
"""
    )
    assert told[0] == "PENDING_JOBS"
    assert told[1:] == [
        "a thread", "registered last", "WORKERS", "registered between", "FORK_SERVER", "BROKER",
    ]  # fmt: skip


def test_a_phase_that_is_registered_too_late_runs_at_the_moment_of_a_lower_one() -> None:
    told, _ = run(
        """
at_exit("WORKERS")
atexit.register(tell, "registered between")
at_exit("FORK_SERVER")
"""
    )
    assert told == ["WORKERS", "FORK_SERVER", "registered between"]


def test_the_queues_end_after_the_children_of_multiprocessing() -> None:
    source = """
import multiprocessing
go_on = multiprocessing.get_context("fork").Event()
def wait():
    go_on.wait()
    tell("a child")
at_exit("WORKERS", lambda name: (tell(name), go_on.set()))
at_exit("RINGS")
multiprocessing.get_context("fork").Process(target=wait).start()
"""
    assert run(source) == (["WORKERS", "a child", "RINGS"], "")


def test_a_child_of_multiprocessing_ends_its_queues() -> None:
    source = """
import multiprocessing
at_exit("BROKER", lambda name: tell(name, "of the", multiprocessing.current_process().name))
at_exit("RINGS", lambda name: tell(name, "of the", multiprocessing.current_process().name))
def use_queues():
    lifecycle.end_with_multiprocessing()
    lifecycle.end_with_multiprocessing()
lifecycle.end_with_multiprocessing()
child = multiprocessing.get_context("fork").Process(target=use_queues, name="child")
child.start()
child.join()
"""
    told, errors = run(source)
    assert told[:2] == ["RINGS of the child", "BROKER of the child"]
    assert set(told[2:]) == {"RINGS of the MainProcess", "BROKER of the MainProcess"}
    assert errors == ""


@pytest.mark.parametrize("error", ["ValueError", "KeyboardInterrupt"])
@pytest.mark.parametrize("names", [AT_EXIT, AT_EXIT[::-1]])
def test_an_error_in_a_phase_skips_no_other(names: list[str], error: str) -> None:
    told, errors = run(f"error_type = {error}\nfor name in {names}: at_exit(name, fail)")
    assert told == AT_EXIT
    for name in AT_EXIT:
        assert f"{error}: {name} failed" in errors


AT_FORK = f"""
def at_fork(name, function):
    lifecycle.at_fork(
        getattr(lifecycle, name),
        before=lambda: function("before " + name),
        in_parent=lambda: function("in parent " + name),
        in_child=lambda: function("in child " + name),
    )
for name in {SHUFFLED}:
    at_fork(name, function)
fork(tell, "forked")
"""


@pytest.mark.parametrize("function", ["tell", "fail"])
def test_forks_pass_the_table_down_and_up(function: str) -> None:
    told, errors = run(f"error_type = ValueError\nfunction = {function}\n" + AT_FORK)
    num = len(AT_EXIT)
    assert told[:num] == [f"before {name}" for name in AT_EXIT]
    up = AT_EXIT[::-1]
    assert [line for line in told if "parent" in line] == [f"in parent {name}" for name in up]
    assert [line for line in told if "child" in line] == [f"in child {name}" for name in up]
    assert errors.count("ValueError: ") == (0 if function == "tell" else 3 * num)


def test_the_fork_lock_is_taken_and_released_in_c_code() -> None:
    """A signal handler runs between the steps of Python code; it could leave the lock locked."""
    told, errors = run(
        """
from qmill.system import native
steps = []
sys.settrace(lambda frame, event, arg: steps.append(frame.f_code.co_filename))
pid = os.fork()
sys.settrace(None)
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
tell(repr([step for step in steps if "qmill" in step]))
"""
    )
    assert (told, errors) == (["[]"], "")


def test_a_forked_worker_forgets_the_exit_functions_of_the_program_only() -> None:
    source = """
import weakref
class Thing: pass
thing = Thing()
for name in ("BROKER", "GUARD", "WORKERS"):
    at_exit(name)
atexit.register(tell, "the program's")
weakref.finalize(thing, tell, "the program's")
def end():
    lifecycle.begin_in_child()
    atexit.register(tell, "the worker's")
    atexit._run_exitfuncs()
    lifecycle.end_children_and_queues()
    tell("ended")
fork(end)
os._exit(0)
"""
    assert run(source) == (["the worker's", "WORKERS", "GUARD", "BROKER", "ended"], "")


def test_a_module_that_is_being_imported_counts_as_not_loaded() -> None:
    source = """
import types
from importlib.machinery import ModuleSpec
half = types.ModuleType("half")
half.__spec__ = ModuleSpec("half", None)
half.__spec__._initializing = True
sys.modules["half"] = half
tell(str(lifecycle.loaded("half")), str(lifecycle.loaded("none")), lifecycle.loaded("os").__name__)
"""
    assert run(source) == (["None None os"], "")


def test_the_docs_have_the_same_table() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "design.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([A-Z_]+)` \|", docs, re.MULTILINE) == ORDER
