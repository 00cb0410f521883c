"""Portable queues whose process is stopped or killed: whoever uses them comes back, and is told."""

from __future__ import annotations

import logging
import os
import pickle
import queue as queue_module
import signal
import sys
import threading

import pytest

import qmill
from qmill.queues.portable import addresses

from .programs import LIMIT_S, Call, Program

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to see who is stopped")

MAKER = """
import pickle
q = qmill.Queue(2)
q.put("there")
tell(pickle.dumps(q).hex())
input()
"""


@pytest.fixture(autouse=True)
def _by_a_broker(monkeypatch):
    monkeypatch.setenv("QMILL_TRANSPORT", "portable")


class Kept:
    """A queue of two places with one message, and the process that keeps it."""

    def __init__(self, kind):
        if kind == "named":
            self.maker = None
            self.queue = qmill.Queue(2, name=f"kept-{os.getpid()}")
            self.queue.put("there")
        else:
            self.maker = Program(MAKER, "forkserver")
            self.queue = pickle.loads(bytes.fromhex(self.maker.hear()[0]))
        self.queue.qsize()
        self.pid = addresses.peer_pid(self.queue._access.endpoint.anchor.connection.sock)
        assert self.maker is None or self.pid == self.maker.pid

    def signal(self, number):
        os.kill(self.pid, number)
        if number == signal.SIGSTOP:
            while state(self.pid) != "T":
                pass
        elif number == signal.SIGKILL:
            while state(self.pid) not in "ZX":
                pass

    def clean_up(self):
        name = self.queue.name
        self.queue.close()
        self.queue = None
        if state(self.pid) not in "ZX":
            os.kill(self.pid, signal.SIGCONT)
        elif name is not None:
            qmill.Queue(name=name).unlink()  # what a killed keeper has left in the folder
        if self.maker is not None:
            self.maker.clean_up()


def state(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(") ")[2][0]
    except FileNotFoundError:
        return "X"


@pytest.fixture(params=["unnamed", "named"])
def kept(request):
    """Make a queue that another process keeps."""
    made = Kept(request.param)
    yield made
    made.clean_up()


@pytest.fixture
def warnings():
    """Collect what qmill logs."""
    records = queue_module.SimpleQueue()
    handler = logging.Handler()
    handler.emit = lambda record: records.put(record.getMessage())
    logger = logging.getLogger("qmill")
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def read_one(queue):
    for message in queue:
        return message
    return None


TIMED = {
    "put": (lambda queue: queue.put(1, timeout=0.1), qmill.Full),
    "put_nowait": (lambda queue: queue.put_nowait(1), qmill.Full),
    "put of much": (lambda queue: queue.put(bytes(3_000_000), timeout=0.1), qmill.Full),
    "put_many": (lambda queue: queue.put_many([1, 2], timeout=0.1), qmill.Full),
    "get": (lambda queue: queue.get(timeout=0.1), qmill.Empty),
    "get_nowait": (lambda queue: queue.get_nowait(), qmill.Empty),
    "get_many": (lambda queue: queue.get_many(5, timeout=0.1), qmill.Empty),
    "peek": (lambda queue: queue.peek(timeout=0.1), qmill.Empty),
    "peek at once": (lambda queue: queue.peek(block=False), qmill.Empty),
}

WAITING = {
    "put": (lambda queue: queue.put(1), None),
    "get": (lambda queue: queue.get(), "there"),
    "get_many": (lambda queue: queue.get_many(3), ["there"]),
    "peek": (lambda queue: queue.peek(), "there"),
    "iterate": (read_one, "there"),
    "qsize": (lambda queue: queue.qsize(), 1),
    "empty": (lambda queue: queue.empty(), False),
    "full": (lambda queue: queue.full(), False),
    "statistics": (lambda queue: queue.statistics().size, 1),
    "unfinished_tasks": (lambda queue: queue.unfinished_tasks, 1),
    "maxsize": (lambda queue: queue.maxsize, 2),
    "set maxsize": (lambda queue: setattr(queue, "maxsize", 5), None),
    "is_shutdown": (lambda queue: queue.is_shutdown, False),
    "task_done": (lambda queue: queue.task_done(), None),
    "poisoned": (lambda queue: queue.poisoned(), []),
    "shutdown": (lambda queue: queue.shutdown(), None),
}


@pytest.mark.parametrize("name", TIMED)
def test_a_call_with_a_timeout_comes_back_from_a_stopped_broker(kept, name):
    call, error = TIMED[name]
    kept.signal(signal.SIGSTOP)
    with pytest.raises(error, match=f"process {kept.pid} .* is stopped"):
        call(kept.queue)
    kept.signal(signal.SIGCONT)
    assert kept.queue.qsize() == 1  # it has not been carried out belatedly
    assert kept.queue.get(timeout=LIMIT_S) == "there"


@pytest.mark.parametrize("kept", ["unnamed"], indirect=True)  # each waits for a second
@pytest.mark.parametrize("name", WAITING)
def test_a_call_without_a_timeout_names_a_stopped_broker_and_goes_on(kept, name, warnings):
    call, outcome = WAITING[name]
    kept.signal(signal.SIGSTOP)
    calling = Call(call, kept.queue)
    told = warnings.get(timeout=LIMIT_S)
    assert f"process {kept.pid} " in told
    kept.signal(signal.SIGCONT)
    assert calling.result() == outcome
    assert warnings.empty()


@pytest.mark.parametrize("name", [*{**TIMED, **WAITING}, "join", "pickle"])
def test_every_call_says_that_a_killed_broker_is_gone(kept, name):
    calls = {name: call for name, (call, _) in {**TIMED, **WAITING}.items()}
    calls["join"] = lambda queue: queue.join()
    calls["pickle"] = lambda queue: pickle.loads(pickle.dumps(queue)).qsize()
    kept.signal(signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(qmill.QueueGone):
            calls[name](kept.queue)


@pytest.mark.parametrize("name", ["get", "join", "iterate"])
def test_a_call_that_waits_learns_that_the_broker_was_killed(kept, name):
    waits = {
        "get": lambda: [kept.queue.get() for _ in range(2)],
        "join": lambda: kept.queue.join(),
        "iterate": lambda: list(kept.queue),
    }
    calling = Call(waits[name])
    calling.wait_until_blocked()
    kept.signal(signal.SIGKILL)
    with pytest.raises(qmill.QueueGone):
        calling.result()


def test_a_put_that_waits_for_room_learns_that_the_broker_was_killed(kept):
    kept.queue.put(2)
    calling = Call(kept.queue.put, 3)
    calling.wait_until_blocked()
    kept.signal(signal.SIGKILL)
    with pytest.raises(qmill.QueueGone):
        calling.result()


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_handle_is_closed_and_dropped_whatever_its_broker_does(kept, number):
    others = [pickle.loads(pickle.dumps(kept.queue)) for _ in range(3)]
    kept.signal(number)
    others.pop().close()
    del others
    if number == signal.SIGSTOP:
        with pytest.raises(qmill.Empty):
            kept.queue.get(timeout=0.1)
        kept.signal(signal.SIGCONT)
        assert kept.queue.get(timeout=LIMIT_S) == "there"


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_fork_does_not_wait_for_a_broker(kept, number):
    kept.signal(number)
    child = os.fork()
    if child == 0:
        try:
            kept.queue.get(timeout=0.1)
        except qmill.QueueGone:
            os._exit(1)
        except qmill.Empty:
            os._exit(2)
        finally:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == (2 if number == signal.SIGSTOP else 1)


USER = """
import logging, os, pickle, sys, threading
q = pickle.loads(bytes.fromhex(sys.stdin.readline())) if {unnamed} else qmill.Queue(name={name!r})
q.put("mine")
q.get()
loop = iter(q)
assert next(loop) == "mine"
tell("ready")
input()
"""


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_program_ends_whatever_the_broker_of_its_queue_does(kept, number):
    unnamed = kept.maker is not None
    user = Program(USER.format(unnamed=unnamed, name=kept.queue.name), "forkserver")
    try:
        if unnamed:
            user.tell(pickle.dumps(kept.queue).hex())
        assert user.hear() == ["ready"]
        kept.signal(number)
        user.tell()
        _, errors = user.finish()
        assert (user.exitcode, errors) == (0, "")
    finally:
        user.clean_up()


def test_a_name_whose_keeper_is_stopped_is_refused_and_stops_no_other_name():
    kept = Kept("named")
    try:
        kept.signal(signal.SIGSTOP)
        opening = Call(qmill.Queue, name=kept.queue.name)
        with pytest.raises(TimeoutError, match=f"process {kept.pid} .* is stopped"):
            opening.result()
        qmill.Queue(name=f"other-{os.getpid()}").close()
        kept.signal(signal.SIGCONT)
        again = qmill.Queue(name=kept.queue.name)
        assert again.get(timeout=LIMIT_S) == "there"
        again.close()
    finally:
        kept.clean_up()


def test_a_name_whose_keeper_was_killed_begins_anew():
    kept = Kept("named")
    try:
        kept.signal(signal.SIGKILL)
        with pytest.raises(qmill.QueueGone):
            kept.queue.unlink()
        again = qmill.Queue(name=kept.queue.name)
        assert again.qsize() == 0
        again.close()
    finally:
        kept.clean_up()


def test_threads_of_one_process_are_told_of_their_own_broker():
    here, there = Kept("unnamed"), Kept("unnamed")
    try:
        here.signal(signal.SIGSTOP)
        barrier = threading.Barrier(2)

        def take(queue):
            barrier.wait(LIMIT_S)
            return queue.get(timeout=0.1)

        stopped, fine = Call(take, here.queue), Call(take, there.queue)
        assert fine.result() == "there"
        with pytest.raises(qmill.Empty, match="is stopped"):
            stopped.result()
    finally:
        here.clean_up()
        there.clean_up()
