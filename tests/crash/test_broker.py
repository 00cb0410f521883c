"""The broker's processes and forks: who dies, forks, is interrupted or runs out of descriptors."""

from __future__ import annotations

import os
import signal
import threading

import pytest

import qmill
from qmill.packing import definitions
from qmill.queues.portable import addresses, broker, client, connections, portable_queue
from qmill.system import frames

from . import broker_functions, functions
from .programs import LIMIT_S, Call, Program

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")


@pytest.fixture(autouse=True)
def _by_a_broker(monkeypatch):
    monkeypatch.setenv("QMILL_TRANSPORT", "portable")


@pytest.fixture
def program():
    """Starts one program."""
    programs = []

    def start(source):
        programs.append(Program(source, "forkserver"))
        return programs[-1]

    yield start
    for started in programs:
        started.clean_up()


# -- the end of a process -------------------------------------------------------------------------


def test_a_child_that_multiprocessing_joins_at_exit_still_has_its_queue(program):
    ended = program(
        """
import multiprocessing.util  # before qmill registers anything with the queue's broker
def put(gate, q):
    gate.get()
    q.put(1)
    tell("put")
gate, q = qmill.Queue(), qmill.Queue()
child = multiprocessing.get_context("fork").Process(target=put, args=(gate, q))
child.start()
gate.put("open")
"""
    )
    assert ended.hear() == ["put"]
    _, errors = ended.finish()
    assert (ended.exitcode, errors) == (0, "")


def test_who_still_wants_something_when_the_program_ends_gets_queue_gone(program, run):
    creator = program(
        """
import pickle
q = qmill.Queue()
tell(pickle.dumps(q).hex())
input()
"""
    )
    [pickled] = creator.hear()
    worker = run(broker_functions.get_from_pickle, bytes.fromhex(pickled))
    creator.tell()
    creator.finish()
    with pytest.raises(qmill.QueueGone):
        worker.result(LIMIT_S)


def test_what_a_live_process_took_is_not_done_because_it_dropped_its_handle(run):
    q, told, gate = qmill.Queue(), qmill.Queue(), qmill.Queue()
    q.put_many(["taken", "waiting"])
    worker = run(broker_functions.take_and_drop, q._published(), q._number, told, gate)
    assert told.get(timeout=LIMIT_S) == "dropped"
    assert q.statistics().unfinished == 2
    gate.put("go on")
    worker.join()
    q._settle()
    assert q.statistics().unfinished == 1  # it has ended now


# -- forks ----------------------------------------------------------------------------------------


def test_a_fork_after_a_named_queue_was_closed(capfd):
    with_a_name = qmill.Queue(name="closed")
    with_a_name.close()
    worker = qmill.Worker(functions.nothing, start_method="fork")
    assert worker.result(LIMIT_S) is None
    worker.join()
    assert capfd.readouterr().err == ""
    assert with_a_name.name == "closed"


def test_an_interrupted_get_takes_nothing_although_a_forked_child_has_the_socket(run):
    q, told, gate = qmill.Queue(), qmill.Queue(), qmill.Queue()
    worker = run(broker_functions.fork_and_be_interrupted, q, told, gate)
    assert told.get(timeout=LIMIT_S) == "interrupted"
    q.put("precious")
    assert q.get_nowait() == "precious"
    gate.put("end")
    worker.join()


def test_a_fork_while_a_name_is_opened_does_not_lock_the_others_out(tmp_path, monkeypatch):
    from qmill.queues.names import name_files

    monkeypatch.setenv("QMILL_DIR", str(tmp_path))
    with name_files.locked(str(tmp_path)):
        release, wait = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(wait)
            os.read(release, 1)  # holds a copy of the lock's descriptor until told
            os._exit(0)
    try:
        opening = Call(lambda: qmill.Queue(name="free").close())
        opening.result()
    finally:
        os.write(wait, b"x")
        os.waitpid(child, 0)
        os.close(release)
        os.close(wait)


def test_a_forked_child_has_none_of_its_parents_sockets(run):
    q = qmill.Queue()
    worker = run(broker_functions.churn_and_count_sockets_of_children, q)
    assert set(worker.result(LIMIT_S)) == {0}


def test_a_forked_child_holds_a_queue_that_its_parent_drops():
    gate, there = qmill.Queue(), qmill.Queue()
    here = broker.this_broker()
    queue = qmill.Queue()
    number = queue._number
    child = os.fork()
    if child == 0:
        gate.get()
        queue.put("kept")
        there.put([queue])
        gate.get()
        os._exit(0)
    del queue
    assert here.find(number) is not None
    gate.put("go")
    [queue] = there.get(timeout=LIMIT_S)
    assert queue.get(timeout=LIMIT_S) == "kept"
    gate.put("end")
    os.waitpid(child, 0)
    del queue
    here.settle()
    assert here.find(number) is None


def test_the_child_of_a_client_holds_a_queue_that_nobody_else_has(run):
    here = broker.this_broker()
    questions, told, goon = qmill.Queue(), qmill.Queue(), qmill.Queue()
    worker = run(broker_functions.fork_and_drop, questions, told, goon)
    queue = qmill.Queue()
    number = queue._number
    questions.put([queue])
    del queue
    assert told.get(timeout=LIMIT_S) == "dropped"
    here.settle()
    mailbox = here.find(number)
    assert mailbox is not None
    goon.put(True)
    worker.result(LIMIT_S)
    assert [record.payload for record in mailbox._records]
    del mailbox
    here.settle()
    assert here.find(number) is None


# -- clients --------------------------------------------------------------------------------------


def test_a_connection_that_is_heard_of_after_its_anchors_end_is_settled():
    q = qmill.Queue()
    q.put("leased")
    address, number = q._published(), q._number
    identity = os.urandom(16)
    anchor = connections.Connection(address)
    other = connections.Connection(address)
    anchor.send("hello", identity, True, address.broker)
    anchor.close()
    broker.this_broker().settle()  # the client has ended for the broker
    other.send("hello", identity, False, address.broker)
    other.send("take", number, 1, None)
    other.receive()
    other.send("received")
    other.close()
    broker.this_broker().settle()
    counts = q.statistics()
    assert (counts.leased, counts.size, counts.redelivered) == (0, 1, 1)
    assert q.get_nowait() == "leased"


def test_a_message_that_no_reader_has_seen_is_not_poisoned():
    q = qmill.Queue()
    q.put("unseen")
    address, number = q._published(), q._number
    for _ in range(5):
        anchor, connection = connections.Connection(address), connections.Connection(address)
        identity = os.urandom(16)
        anchor.send("hello", identity, True, address.broker)
        connection.send("hello", identity, False, address.broker)
        connection.send("take", number, 1, None)
        broker.this_broker().settle()
        connection.close()
        anchor.close()  # killed before it could say that the message had come
        broker.this_broker().settle()
    counts = q.statistics()
    assert (counts.poisoned, counts.size) == (0, 1)


def test_a_broker_without_descriptors_accepts_again_when_there_are_some(program):
    starved = program(
        """
import resource
q = qmill.Queue()
q._published()
go, gone = os.pipe()
if os.fork() == 0:
    os.read(go, 1)
    q.put("from the child")
    os._exit(0)
resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
taken = []
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
os.write(gone, b"x")
try:
    q.get(timeout=0.3)
except qmill.Empty:
    pass
for descriptor in taken:
    os.close(descriptor)
tell(q.get())
os.wait()
"""
    )
    assert starved.hear() == ["from", "the", "child"]
    starved.finish()
    assert starved.exitcode == 0


def test_garbage_on_the_brokers_socket_harms_nobody():
    q = qmill.Queue()
    address = q._published()
    secret, wrong = address.secret, bytes(addresses.SECRET_BYTES)
    huge = frames.HEAD.pack(1 << 31, 0)
    lie = b"".join(frames.encode(("hello", b"me", False, b""), []))
    for garbage in (
        wrong,
        secret[:5],
        secret + b"\0" * 12,
        secret + huge,
        secret + frames.HEAD.pack(3, 0) + b"abc",
        secret + lie[:-1],
        secret + b"".join(frames.encode(("put", 0, True), [b"before hello"])),
        secret + lie + b"".join(frames.encode(("no such request", q._number), [])),
        secret + lie + b"".join(frames.encode(("get", q._number, "few"), [])),
    ):
        sock = _connect(address)
        sock.sendall(garbage)
        sock.shutdown(1)
        while sock.recv(1000):
            pass
        sock.close()
    broker.this_broker().settle()
    q.put("alive")
    assert client.RemoteAccess(client.endpoint(address), q._number).get(1, 0.0, True)


def _connect(address):
    import socket

    sock = socket.socket(socket.AF_UNIX)
    sock.connect(address.place)
    return sock


def test_reading_in_a_loop_over_the_same_queue_ends(run):
    q = qmill.Q()
    q.put(1).put(2).end().end()
    assert run(broker_functions.read_nested, q).result(LIMIT_S) == [1, 2]


def test_a_definition_is_fetched_once_by_each_reader():
    class Point:
        """Of no module that another process could import."""

    Point.__module__ = "__main__"
    Point.__qualname__ = "PointOfThisTest"
    sender = qmill.Queue()
    sender.put_many([Point() for _ in range(20)])
    reader = portable_queue.PortableQueue._attach(sender._published(), sender._number, None)
    reader._reached = client.RemoteAccess(client.endpoint(sender._published()), sender._number)
    definitions._known.clear()  # as in a process that has not made the class
    fetched = []
    fetch = reader._reached.fetch
    reader._reached.fetch = lambda key: fetched.append(key) or fetch(key)
    kinds = {type(reader.get()) for _ in range(20)}
    assert len(kinds) == len(fetched) == 1


def test_ctrl_c_in_any_blocking_call_leaves_no_ghost_in_line():
    interrupted = 0

    class Interrupt(Exception):
        pass

    def handler(*_):
        raise Interrupt

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        q = qmill.Queue()
        for _ in range(50):
            timer = threading.Thread(
                target=signal.pthread_kill, args=(threading.main_thread().ident, signal.SIGUSR1)
            )
            try:
                timer.start()
                q.get()
            except Interrupt:
                interrupted += 1
            finally:
                timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert interrupted == 50
    q.put("for the living")
    assert q.get_nowait() == "for the living"
