"""Start methods, and the surroundings that a worker finds."""

from __future__ import annotations

import importlib
import os
import sys

import pytest

import qmill

from .. import functions

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
