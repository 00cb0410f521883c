"""What multiprocessing shares between processes: how each thing is made, used there and seen here.

Importable in workers. `make` returns the thing for the other process, and the one to look at here.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from multiprocessing import shared_memory
from multiprocessing.managers import BaseManager
from typing import Any, NamedTuple

import qmill

LIMIT_S = 30.0


class Thing(NamedTuple):
    make: Callable[[Any], tuple[Any, Any]]  # of a context: for the other process, for this one
    use: Callable[[Any], None]  # in the other process
    seen: Callable[[Any], bool]  # in this one, once the other has used it
    has_lock: bool = False  # of multiprocessing: one of a fork context goes to forked processes

    def is_seen(self, here, result):
        """Look at it when `result` has returned; a barrier is one for both."""
        if self.use is wait:
            return self.seen(here) and result() is None
        return result() is None and self.seen(here)


def itself(name, *args):
    def make(context):
        thing = getattr(context, name)(*args)
        return thing, thing

    return make


def acquire(lock):
    assert lock.acquire(True, LIMIT_S)


def is_taken(lock):
    return not lock.acquire(False)


def one_is_left(semaphore):
    return semaphore.acquire(True, LIMIT_S) and not semaphore.acquire(False)


def wait(barrier):
    barrier.wait(LIMIT_S)


def has_met(barrier):
    barrier.wait(LIMIT_S)
    return not barrier.broken


def add_one(value):
    value.value += 1


def fill(array):
    array[:] = range(len(array))


def is_filled(array):
    return list(array) == [0, 1, 2]


def send(connection):
    connection.send("word")


def received(connection):
    return connection.poll(LIMIT_S) and connection.recv() == "word"


def make_pipe(context):
    here, there = context.Pipe()
    return there, here


def make_sockets(context):
    here, there = socket.socketpair()
    here.settimeout(LIMIT_S)
    return there, (here, there)


def send_bytes(sock):
    with sock:
        sock.sendall(b"word")


def received_bytes(sockets):
    here, there = sockets
    with here, there:
        return here.recv(4) == b"word"


def put(queue):
    queue.put("word")


def got(queue):
    return queue.get() == "word"


def make_memory(context):
    memory = shared_memory.SharedMemory(create=True, size=3)
    return memory, Owner(memory, memory)


def make_shareable(context):
    shareable = shared_memory.ShareableList([7, 7, 7])
    return shareable, Owner(shareable, shareable.shm)


class Owner:
    """Unlinks shared memory once nobody looks at it any more."""

    def __init__(self, thing, memory):
        self.thing = thing
        self.memory = memory

    def __del__(self):
        self.memory.close()
        self.memory.unlink()


def fill_memory(memory):
    memory.buf[:3] = bytes(range(3))


def fill_shareable(shareable):
    for index in range(3):
        shareable[index] = index


def of_manager(name, *args):
    def make(context):
        manager = context.Manager()
        proxy = getattr(manager, name)(*args)
        return proxy, Managed(proxy, manager)

    return make


class Managed(NamedTuple):
    proxy: Any
    manager: Any


def of_managed(seen):
    def look(managed):
        try:
            return seen(managed.proxy)
        finally:
            managed.manager.shutdown()

    return look


def append(words):
    words.append("word")


def set_word(namespace):
    namespace.word = "word"


class Counter:
    def __init__(self):
        self.number = 0

    def add(self):
        self.number += 1

    def get(self):
        return self.number


class OwnManager(BaseManager):
    pass


OwnManager.register("Counter", Counter)


def make_counter(context):
    """A class of one's own, behind a manager with a key of its own."""
    manager = OwnManager(authkey=b"another", ctx=context)
    manager.start()
    counter = manager.Counter()
    return counter, Managed(counter, manager)


def add(counter):
    counter.add()


THINGS = {
    "Lock": Thing(itself("Lock"), acquire, is_taken, True),
    "RLock": Thing(itself("RLock"), acquire, is_taken, True),
    "Semaphore": Thing(itself("Semaphore", 2), acquire, one_is_left, True),
    "BoundedSemaphore": Thing(itself("BoundedSemaphore", 2), acquire, one_is_left, True),
    "Event": Thing(itself("Event"), lambda event: event.set(), lambda event: event.is_set(), True),
    "Condition": Thing(itself("Condition"), acquire, is_taken, True),
    "Barrier": Thing(itself("Barrier", 2), wait, has_met, True),
    "Value": Thing(itself("Value", "i", 1), add_one, lambda value: value.value == 2, True),
    "Array": Thing(itself("Array", "i", 3), fill, is_filled, True),
    "RawValue": Thing(itself("RawValue", "i", 1), add_one, lambda value: value.value == 2),
    "RawArray": Thing(itself("RawArray", "i", 3), fill, is_filled),
    "Pipe": Thing(make_pipe, send, received),
    "socket": Thing(make_sockets, send_bytes, received_bytes),
    "Queue": Thing(itself("Queue"), put, got, True),
    "JoinableQueue": Thing(itself("JoinableQueue"), put, got, True),
    "SimpleQueue": Thing(itself("SimpleQueue"), put, got, True),
    "SharedMemory": Thing(
        make_memory, fill_memory, lambda owner: bytes(owner.thing.buf[:3]) == b"\0\1\2"
    ),
    "ShareableList": Thing(make_shareable, fill_shareable, lambda owner: is_filled(owner.thing)),
    "Manager.list": Thing(
        of_manager("list"), append, of_managed(lambda words: list(words) == ["word"])
    ),
    "Manager.Queue": Thing(of_manager("Queue"), put, of_managed(got)),
    "Manager.Lock": Thing(
        of_manager("Lock"), lambda lock: lock.acquire(), of_managed(lambda lock: is_taken(lock))
    ),
    "Manager.Namespace": Thing(
        of_manager("Namespace"), set_word, of_managed(lambda space: space.word == "word")
    ),
    "Manager of another key": Thing(
        make_counter, add, of_managed(lambda counter: counter.get() == 1)
    ),
}

# -- in workers -----------------------------------------------------------------------------------

given: Any = None


def initialize(name, thing):
    """Be the initializer of a pool's worker."""
    global given
    given = name, thing


def use_given():
    name, thing = given
    use(name, thing)


def use(name, thing):
    THINGS[name].use(thing)


class Holder:
    """Has a thing as an attribute, and calls."""

    def __init__(self, name, thing):
        self.name = name
        self.thing = thing

    def __call__(self):
        use(self.name, self.thing)

    method = __call__


class SlottedHolder:
    __slots__ = ("name", "things")

    def __init__(self, name, thing):
        self.name = name
        self.things = {"deep": (thing,)}

    def __call__(self):
        use(self.name, *self.things["deep"])


def current_key():
    return bytes(multiprocessing.current_process().authkey)


def start_method():
    return multiprocessing.get_start_method()


def nothing(*args):
    pass


def make_lock():
    return multiprocessing.get_context("spawn").Lock()


def hand_on(name, thing):
    """Use a thing in a worker of this worker."""
    qmill.run(use, name, thing).result(LIMIT_S)


def are_same(some, others):
    return some[0] is others["a"] and some[1] is others["b"]


def send_all(connections):
    for number, connection in enumerate(connections):
        connection.send(number)


def wait_for(event):
    assert event.wait(LIMIT_S)


def use_what_comes(name, queue):
    thing = queue.get(timeout=LIMIT_S)
    use(name, thing[0] if isinstance(thing, list) else thing)


def append_to_what_comes(queue):
    queue.get(timeout=LIMIT_S).append("word")


def take_turns(lock, value, connection, queue):
    with lock, value:
        value.value += 1
    connection.send("ready")
    queue.put("word")
    return value.value


def tell_and_stay(lock, value, connection, queue):
    """Hold nothing, and wait for the end."""
    with lock, value:
        value.value += 1
    connection.send("ready")
    signal.pause()


def kill_oneself():
    os.kill(os.getpid(), signal.SIGKILL)


class ForkingWhilePickled:
    """Forks whenever it is packed; the child ends with the number of new copies of a descriptor."""

    def __init__(self, file):
        self.file = file
        self.exitcodes = []
        self.num_before = self._num_copies()

    def __reduce__(self):
        pid = os.fork()
        if pid == 0:
            os._exit(self._num_copies() - self.num_before)
        self.exitcodes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        return int, ()

    def _num_copies(self):
        own = os.fstat(self.file.fileno())
        found = []
        for name in os.listdir("/proc/self/fd"):
            try:
                found.append(os.path.samestat(own, os.fstat(int(name))))
            except OSError:  # of the listing
                continue
        return sum(found)
