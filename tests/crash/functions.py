"""Functions of workers: importable there, and quick to import."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import logging
import os
import resource
import signal
import sys
import threading

import qmill

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
    print(text, end="")


def say_each(q):
    for msg in q:
        print(msg.data, end="")


def say_and_fail(text):
    print(text, end="")
    print(text, end="", file=sys.stderr)
    raise ValueError(text)


def say_both(text):
    print(text, end="")
    print(text, end="", file=sys.stderr)


def say_and_flush(text):
    print(text, end="", flush=True)


def say_and_turn_away(text):
    """Print, and put other streams in the place of those that have the text."""
    say_both(text)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def run_and_join(fn, /, *args):
    worker = qmill.run(fn, *args)
    worker.join()
    return worker.result()


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


def read_and_hold_politely(q, ready, gate):
    """Keep the first message; SIGTERM ends this as `sys.exit` does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    for message in q:
        ready.put(message.data)
        gate.get()


def read_and_fail_with_an_iterator(q):
    messages = iter(q)
    raise ValueError(next(messages).data)


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
