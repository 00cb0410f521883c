"""What the engines' conformance tests run as jobs, wherever that is.

They talk to the test through named pipes: those of one machine reach each other whatever lies in
between, and whoever opens or reads one waits.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress


def tell(path, *words):
    """Say something to the test."""
    with open(path, "w") as pipe:
        pipe.write(" ".join(map(str, words)) + "\n")


def wait_for_permit(path):
    """Wait until the test gives one."""
    with open(path, "rb", buffering=0) as pipe:
        return pipe.read(1).decode()


def hold(started, permits, result=None):
    """Say that it runs, and run until it is permitted to end."""
    tell(started, os.getpid())
    wait_for_permit(permits)
    return result


def hold_stubbornly(started, permits):
    """The same, whatever SIGTERM says."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hold(started, permits)


def hold_with_children(started, permits):
    """The same, with a process that it has started."""
    child = subprocess.Popen(["sleep", "600"])
    tell(started, os.getpid(), child.pid)
    wait_for_permit(permits)


def mark(path, word=""):
    """Leave a line in a file, by one write; returns how many there are now."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(file, f"{word}\n".encode())
    finally:
        os.close(file)
    with open(path) as lines:
        return len(lines.readlines())


def end(how):
    ENDS[how]()


def _segfault():
    with suppress(ImportError):
        import faulthandler

        faulthandler.disable()
    ctypes.string_at(0)


def _raise():
    raise LookupError("on purpose")


ENDS = {
    "raise": _raise,
    "os._exit(0)": lambda: os._exit(0),
    "os._exit(3)": lambda: os._exit(3),
    "sys.exit(3)": lambda: sys.exit(3),
    "segfault": _segfault,
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


def end_at_first(path, how):
    """End in some way, but only for the first time."""
    if mark(path) == 1:
        end(how)
    return "in the end"


def mark_and_end(number, path, how, ends, times=1):
    """Leave a line; for some numbers end in some way, or raise, but only for the first times."""
    mark(path, number)
    with open(path) as lines:
        if number in ends and lines.read().split().count(str(number)) <= times:
            end(how)
    return number


def tell_or_hold(number, started, permits, where):
    """For one number, say that it runs, and wait."""
    if number == where:
        hold(started, permits)
    return number


def mark_and_fail(path):
    mark(path)
    raise ValueError("each time")


def add(a, b=0):
    return a + b


def fail(text):
    raise ValueError(text)


def a_lock():
    return threading.Lock()


def type_name(thing):
    return type(thing).__name__


def echo(thing):
    return thing


def pid(_=None):
    return os.getpid()


class Sour:
    """Is packed well, and cannot be rebuilt."""

    def __reduce__(self):
        return fail, ("sour",)


def make_sour():
    return Sour()


class Counted:
    """Leaves a line in a file each time that it is rebuilt."""

    def __init__(self, path, content):
        self.path = path
        self.content = content

    def __getstate__(self):
        mark(f"{self.path}.packed")
        return self.__dict__

    def __setstate__(self, state):
        self.__dict__.update(state)
        mark(self.path, os.getpid())


def content_of(handle, _=None):
    return handle.value.content, os.getpid()


def set_first(array, value):
    """Change an array in place, and return it."""
    array[0] = value
    return array


def look_into(handle):
    """Tell of a shared array: its sum, whether it can be written, whether it is a copy."""
    array = handle.value
    return int(array.sum()), array.flags.writeable, array.flags.owndata


def is_same(handle, number):
    return id(handle.value) == number


def log(text):
    logging.getLogger("jobs").error(text)


state = {}


def initialize(word):
    state["word"] = word


def word_of_initializer():
    return state.get("word")


def fail_to_start():
    raise OSError("not today")


def look_at_type(handle):
    return type(handle.value).__name__


def are_threads_daemons():
    """Tell whether the threads that a job starts are cut off at the end."""
    return threading.Thread(target=print).daemon


def leave_thread(started, permits, grace_s=0.01):
    """Leave a thread that ends when it is permitted to; the wait for it is told after so long."""
    from qmill.processes import child_main

    child_main.EXIT_GRACE_S = grace_s
    threading.Thread(target=hold_and_tell, args=(started, permits), name="saver").start()
    return os.getpid()


def hold_and_tell(started, permits):
    wait_for_permit(permits)
    tell(started, "saved")
