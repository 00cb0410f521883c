"""`threads.shielded`: a call in which no signal handler runs, and waits in it that are cut off."""

from __future__ import annotations

import signal
import threading

import pytest

from qmill.system import threads


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


class Gate:
    """A wait that only `open` ends."""

    def __init__(self):
        self.is_waited_at = threading.Event()
        self._lock = threading.Lock()
        self._lock.acquire()

    def open(self):
        self._lock.release()

    def wait(self):
        """Wait until it is opened; return whether that was because the caller has given up."""
        try:
            with threads.cut_off_by(self.open):
                self.is_waited_at.set()
                self._lock.acquire()
        except threads.GivenUpError:
            return True
        return False


def test_the_result_is_that_of_the_function():
    assert threads.shielded(lambda: 7, id) == 7


def test_an_exception_is_that_of_the_function():
    with pytest.raises(ZeroDivisionError):
        threads.shielded(lambda: 1 / 0, id)


def test_a_wait_is_cut_off_when_the_caller_is_interrupted(interrupt_when):
    gate, ends = Gate(), []

    def make():
        ends.append(gate.wait())
        raise threads.GivenUpError

    interrupt_when(gate.is_waited_at)
    with pytest.raises(Interrupted):
        threads.shielded(make, id)
    assert ends == [True], "and the function is over"


def test_waits_that_begin_later_are_cut_off_too(interrupt_when):
    gates, undone = [Gate(), Gate()], []
    interrupt_when(gates[0].is_waited_at)
    with pytest.raises(Interrupted):
        threads.shielded(lambda: [gate.wait() for gate in gates], undone.append)
    assert undone == [[True, True]], "the function has returned all the same"


def test_a_wait_that_has_ended_is_not_cut_off(interrupt_when):
    gate, cuts = Gate(), []

    def make():
        with threads.cut_off_by(lambda: cuts.append("the first")):
            pass
        gate.wait()

    interrupt_when(gate.is_waited_at)
    with pytest.raises(Interrupted):
        threads.shielded(make, id)
    assert cuts == []


def test_without_another_thread_a_wait_is_as_it_is():
    with threads.cut_off_by(lambda: 1 / 0):
        pass
