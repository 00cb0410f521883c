"""A `__del__` in which a signal handler raises."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys

import pytest

from qmill.system import finalizers

pytestmark = pytest.mark.skipif(
    finalizers.finalizer.__module__ == finalizers.__name__, reason="needs a compiler"
)


class Interrupted(Exception):
    """The exception of the handler."""


@pytest.fixture(autouse=True)
def _handler():
    def interrupt(*_):
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    yield
    signal.signal(signal.SIGUSR1, before)


class Dropped:
    """An object whose `__del__` is interrupted a number of times."""

    def __init__(self, num_interruptions, said):
        self.left = num_interruptions
        self.said = said

    @finalizers.finalizer
    def __del__(self):
        self.said.append("begun")
        if self.left:
            self.left -= 1
            os.kill(os.getpid(), signal.SIGUSR1)
            list(map(str, range(100)))
            pass
        self.said.append("done")


def drop(dropped):
    """Drop an object, and give the exception time to be raised."""
    dropped.clear()
    for _ in range(10):
        pass


@pytest.mark.parametrize("number", [1, 2, 5])
def test_the_exception_is_raised_after_the_work_is_done(number):
    said = []
    with pytest.raises(Interrupted):
        drop([Dropped(number, said)])
    assert said == ["begun"] * (number + 1) + ["done"]


def test_nothing_is_raised_without_a_signal():
    said = []
    drop([Dropped(0, said)])
    assert said == ["begun", "done"]


def test_a_second_signal_while_the_first_is_looked_at(monkeypatch):
    """Neither the work nor one of the two exceptions is lost."""
    said, asked = [], []
    getsignal = signal.getsignal

    def interrupted(number):
        if not asked:
            asked.append(number)
            os.kill(os.getpid(), signal.SIGUSR1)
        return getsignal(number)

    monkeypatch.setattr(signal, "getsignal", interrupted)
    with pytest.raises(Interrupted) as raised:
        drop([Dropped(1, said)])
    assert said == ["begun", "begun", "done"]
    assert isinstance(raised.value.__context__, Interrupted)


def test_an_error_of_the_function_itself_is_told_once(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: told.append(raised.exc_type))

    class Wrong:
        @finalizers.finalizer
        def __del__(self):
            raise ZeroDivisionError

    drop([Wrong()])
    assert told == [ZeroDivisionError]


def test_nothing_is_kept_alive():
    """Ten thousand interrupted ends leave no exception behind, nor its frames."""
    said = []
    for _ in range(100):
        with contextlib.suppress(Interrupted):
            drop([Dropped(1, said)])
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(10_000):
        with contextlib.suppress(Interrupted):
            drop([Dropped(1, said)])
        del said[:]
    gc.collect()
    assert len(gc.get_objects()) < before + 100


INTERRUPTED = """
import gc, os, signal
from qmill.system.finalizers import finalizer

class Dropped:
    @finalizer
    def __del__(self):
        if not told:
            told.append(self)
            os.kill(os.getpid(), signal.SIGINT)
            list(map(str, range(100)))
        done.append(True)

told, done = [], []
dropped = [Dropped()]
try:
    {drop}
    for _ in range(10):
        pass
    print("not interrupted")
except KeyboardInterrupt:
    print("interrupted", done)
"""


@pytest.mark.parametrize(
    "drop",
    ["dropped.clear()", "dropped.append(dropped); del dropped; gc.collect()"],
    ids=["alone", "in a collection of garbage"],
)
def test_ctrl_c_in_a_finalizer_interrupts_the_program(drop):
    """In a process without callbacks of other libraries, in which CPython would discard it."""
    command = [sys.executable, "-c", INTERRUPTED.format(drop=drop)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    assert done.stdout == "interrupted [True]\n"
