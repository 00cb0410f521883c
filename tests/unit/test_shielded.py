"""`native.shielded`: a call in which no signal handler runs, and waits in it that are cut off."""

from __future__ import annotations

import signal
import threading

import pytest

from qmill.system import native


class Interrupted(Exception):
    """Raised by the handler."""


@pytest.fixture
def interrupt_when():
    """Have a handler raise in the main thread as soon as an event is set."""

    def interrupt(signum, frame):
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    threads = []

    def begin(event):
        def kill():
            event.wait()
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

        threads.append(threading.Thread(target=kill))
        threads[-1].start()

    yield begin
    for thread in threads:
        thread.join()
    signal.signal(signal.SIGUSR1, before)


def closed_gate():
    gate = threading.Lock()
    gate.acquire()
    return gate


def test_the_result_is_that_of_the_function():
    assert native.shielded(lambda: 7, id) == 7


def test_an_exception_is_that_of_the_function():
    with pytest.raises(ZeroDivisionError):
        native.shielded(lambda: 1 / 0, id)


def test_a_wait_is_cut_off_when_the_caller_is_interrupted(interrupt_when):
    gate, waiting, ends = closed_gate(), threading.Event(), []

    def make():
        try:
            with native.cut_off_by(gate.release):
                waiting.set()
                gate.acquire()
        except native.GivenUpError:
            ends.append("given up")
            raise

    interrupt_when(waiting)
    with pytest.raises(Interrupted):
        native.shielded(make, id)
    assert ends == ["given up"], "and the function is over"


def test_waits_that_begin_later_are_cut_off_too(interrupt_when):
    gates, waiting, undone = [closed_gate(), closed_gate()], threading.Event(), []

    def make():
        for gate in gates:
            try:
                with native.cut_off_by(gate.release):
                    waiting.set()
                    gate.acquire()
            except native.GivenUpError:
                pass
        return "made all the same"

    interrupt_when(waiting)
    with pytest.raises(Interrupted):
        native.shielded(make, undone.append)
    assert undone == ["made all the same"]


def test_a_wait_that_has_ended_is_not_cut_off(interrupt_when):
    gate, waiting, cuts = closed_gate(), threading.Event(), []

    def make():
        with native.cut_off_by(lambda: cuts.append("the first")):
            pass
        try:
            with native.cut_off_by(gate.release):
                waiting.set()
                gate.acquire()
        except native.GivenUpError:
            pass

    interrupt_when(waiting)
    with pytest.raises(Interrupted):
        native.shielded(make, id)
    assert cuts == []


def test_without_another_thread_a_wait_is_as_it_is():
    with native.cut_off_by(lambda: 1 / 0):
        pass
