"""What the workers of these tests run: importable there, and quick to import."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import logging
import os
import pickle
import resource
import signal
import sys
import threading

import qmill
from qmill.queues import portable

from .programs import wait_until_asleep

# -- outcomes -------------------------------------------------------------------------------------


def add(a, b=0):
    return a + b


def take_everything(*args, **kwargs):
    return args, kwargs


def pid():
    return os.getpid()


def parent_pid():
    return os.getppid()


def nothing():
    pass


def fail(text="of the worker's"):
    raise ValueError(text)


class OddInit(Exception):
    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")


class BrokenStr(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def fail_oddly():
    raise OddInit(3, "odd")


def fail_without_text():
    raise BrokenStr


def fail_with_a_note():
    error = ValueError("text")
    error.add_note("a note")
    raise error


def interrupt():
    raise KeyboardInterrupt


def leave(code):
    sys.exit(code)


def a_lock():
    return threading.Lock()


class Unrebuildable:
    def __init__(self):
        self.x = 1

    def __setstate__(self, state):
        raise ValueError("not here")


def a_thing_that_cannot_be_rebuilt():
    return Unrebuildable()


def many_bytes(size):
    return b"x" * size


def slow_to_send(size, gate):
    """Return many bytes; the descriptor that carries them is sent when the gate opens."""
    import socket

    original = socket.send_fds

    def send_fds(*args):
        gate.get()
        return original(*args)

    socket.send_fds = send_fds
    return b"x" * size


def local_instance():
    return make_local()()


_local = None


def make_local():
    """Return a class that no module has, always the same."""
    global _local
    if _local is None:

        class Local:
            pass

        _local = Local
    return _local


# -- deaths ---------------------------------------------------------------------------------------


def die(how):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.disable()
    DEATHS[how]()


def _segfault():
    ctypes.string_at(0)


DEATHS = {
    "os._exit(3)": lambda: os._exit(3),
    "os._exit(0)": lambda: os._exit(0),
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "segfault": _segfault,
    "abort": os.abort,
}


# -- the world ------------------------------------------------------------------------------------


def look_around(variable):
    return os.environ.get(variable), os.getcwd(), list(sys.path), list(sys.argv)


def standard_input():
    return sys.stdin.read(), os.read(0, 1)


def say(text):
    print(text)


# -- queues ---------------------------------------------------------------------------------------


def wait_for(gate):
    return gate.get()


def tell_and_wait(ready, gate):
    ready.put(os.getpid())
    return gate.get()


def read_to(q, out):
    """Pass on what is read."""
    for message in q:
        out.put(message.data, order=message.order)


def ready_read_to(q, out, ready):
    ready.put(os.getpid())
    read_to(q, out)


def sorted_to(q, out):
    """Pass on what is read, in order."""
    for message in q.sorted():
        out.put(message.data, order=message.order)


def read_and_hold(read, q, ready, gate):
    """Tell of the first message, and keep it."""
    for message in getattr(q, read)():
        ready.put(message.data)
        gate.get()


def read_and_hold_at(data, q, out, ready, gate):
    """Pass on what is read; keep one message."""
    for message in q:
        if message.data == data:
            ready.put(os.getpid())
            gate.get()
        out.put(message.data)


def read_until_killed(q, out):
    """Pass on what is read; some messages kill."""
    for message in q:
        if message.data == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        out.put(message.data)


def read_one(q):
    for message in q:
        return message.data
    return None


def read_and_fail(q):
    for message in q:
        raise ValueError(message.data)


def gated_read(q, out, gate):
    gate.get()
    read_to(q, out)


def put_large(out, count, size):
    for _ in range(count):
        out.put(b"x" * size)


def hand_over(queue):
    return queue.put("from the worker")


# -- workers of workers ---------------------------------------------------------------------------


def descend(depth):
    """Return the numbers of the processes of a chain of workers."""
    below = qmill.run(descend, depth - 1).result() if depth else []
    return [os.getpid(), *below]


def descend_and_wait(depth, pids, gate):
    pids.put(os.getpid())
    if depth:
        qmill.run(descend_and_wait, depth - 1, pids, gate).join()
    gate.get()


def leave_a_worker_behind(ready, gate):
    qmill.run(tell_and_wait, ready, gate)
    ready.get()


def busy_start():
    """What a process does that was started while others held all sorts of locks."""
    logging.getLogger("churn").warning("in the worker")
    importlib.import_module("json.tool")
    with contextlib.redirect_stdout(None):
        print(bytearray(1 << 20)[:1])
    thread = threading.Thread(target=nothing)
    thread.start()
    thread.join()
    return os.getpid()


# -- stuck ----------------------------------------------------------------------------------------


def stick(how, pids):
    """Stay in C code that holds the interpreter's lock."""
    pids.put(os.getpid())
    STUCK[how]()


STUCK = {
    "sleep": lambda: ctypes.PyDLL(None).sleep(1000),
    "pow": lambda: pow(7, 10**9),
}


def ignore_and_tell(numbers, ready, gate):
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    ready.put(os.getpid())
    gate.get()


# -- the broker's clients -------------------------------------------------------------------------


def get_from_pickle(pickled):
    """Wait at a queue that comes as a pickle of somebody else."""
    return pickle.loads(pickled).get()


def take_and_drop(address, number, told, gate):
    """Take a message through a handle that goes at once, and live on."""
    queue = portable.PortableQueue._attach(address, number, 0, None)
    queue.get()
    queue.close()
    del queue
    gc.collect()
    told.put("dropped")
    gate.get()


def read_nested(q):
    """Read with two readers of one process."""
    return [message.data for first in q for message in (first, *q)]


class Interrupted(Exception):
    """What a signal's handler raises."""


def fork_and_be_interrupted(q, told, gate):
    """Be interrupted in `get` while a forked child has a copy of the socket."""
    forked, end = os.pipe()

    def interrupt(*_):
        raise Interrupted

    signal.signal(signal.SIGUSR1, interrupt)

    def fork():
        wait_until_asleep(os.getpid())
        if os.fork() == 0:
            os.close(end)
            os.read(forked, 1)
            os._exit(0)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    thread = threading.Thread(target=fork)
    thread.start()
    try:
        q.get()
    except Interrupted:
        pass
    thread.join()
    told.put("interrupted")
    gate.get()
    os.close(end)
    os.wait()


def churn_and_count_sockets_of_children(q):
    """Fork while threads use a queue, and count which sockets of the queue the children have."""
    over = threading.Event()

    def churn():
        while not over.is_set():
            q.put(1)
            q.get()

    threads = [threading.Thread(target=churn) for _ in range(3)]
    for thread in threads:
        thread.start()
    counts = []
    for _ in range(30):
        pid = os.fork()
        if pid == 0:
            ends = list(portable._endpoints.values())
            os._exit(len(ends))
        counts.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    over.set()
    for thread in threads:
        thread.join()
    return counts
