"""Threads, sockets and selectors of the operating system, also where gevent has replaced them.

`gevent.monkey.patch_all` replaces threads by greenlets, and the standard library's sockets and
selectors by ones that let other greenlets run. The threads with which qmill drives workers must be
real threads: they run on while a greenlet waits in C code. So qmill uses the original functions,
locks, sockets and selectors, which gevent keeps. A lock of gevent would not do: releasing it may
need the main thread to wake another. Long waits in a greenlet, for a result, use gevent's own
primitives, so that other greenlets run meanwhile.

A lock of eventlet cannot be released by another thread, so functions that need threads raise
`NotSupported` where eventlet has replaced threads.

Source: `gevent.monkey.get_original`, `eventlet.patcher.original`.
"""

from __future__ import annotations

import _thread
import os
import sys
import threading
from collections import deque
from itertools import starmap
from operator import itemgetter, methodcaller
from queue import Empty
from time import monotonic

from ..errors import NotSupported
from . import lifecycle

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    import queue
    import selectors
    import socket
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar("T")
    _Lock = threading.Condition  # its users see this type
else:
    _Lock = _thread.RLock


def original(module: str, name: str) -> Any:
    """Return a standard-library module's own object of a name, before any monkey patching."""
    monkey: Any = sys.modules.get("gevent.monkey")
    if hasattr(monkey, "get_original"):  # else another thread is just importing it
        return monkey.get_original(module, name)
    patcher: Any = sys.modules.get("eventlet.patcher")
    if module in ("select", "socket") and hasattr(patcher, "original"):
        return getattr(patcher.original(module), name)
    __import__(module)
    return getattr(sys.modules[module], name)


def Lock() -> threading.Lock:  # noqa: N802
    """Make a lock that is held for a moment only: no other greenlet runs while a caller waits."""
    lock: threading.Lock = original("_thread", "allocate_lock")()
    return lock


def RLock() -> Any:  # noqa: N802
    """Make a reentrant lock that is held for a moment only, as `Lock`."""
    return original("_thread", "RLock")()


def Condition() -> threading.Condition:  # noqa: N802
    """Make a condition with its own reentrant lock; other greenlets run while one waits in it."""
    made: threading.Condition = _GreenCondition(RLock()) if has_greenlets() else _Condition()
    return made


class _Condition(_Lock):
    """A `threading.Condition` that is safe if a signal handler raises at any moment.

    The standard library's would then release a lock that it does not hold, or leave it locked.
    CPython runs handlers between bytecode instructions, never inside a C function. So each step
    is one call of a C function: the condition is itself the lock, so `with` calls its methods; one
    call of `extend` releases the lock and notes that; one call of `deque` wakes all sleepers.
    """

    def __init__(self) -> None:
        self._sleepers: deque[queue.SimpleQueue[None]] = deque()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for a notification, at most `timeout` seconds; return False if none came."""
        sleeper = simple_queue()
        depth: list[Any] = []  # the state of the lock, once it is released
        try:
            self._sleepers.append(sleeper)
            depth.extend(starmap(self._release_save, _ONCE))  # type: ignore[attr-defined]
            sleeper.get(True, None if timeout is None else max(0.0, timeout))
        except Empty:
            return False
        finally:
            try:
                if depth:
                    self._acquire_restore(depth[0])  # type: ignore[attr-defined]
            finally:
                if sleeper in self._sleepers:
                    self._sleepers.remove(sleeper)
        return True

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """Wait until the predicate is true, at most `timeout` seconds; return its last value."""
        deadline = None if timeout is None else monotonic() + timeout
        while not (result := predicate()):
            left = seconds_left(deadline)
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result

    def notify_all(self) -> None:
        """Wake all waiting threads."""
        deque(map(_wake, self._sleepers), 0)


_ONCE = ((),)  # the arguments of one call
_wake = methodcaller("put", None)


class _GreenCondition(threading.Condition):
    """A condition in which greenlets can wait, also when no other greenlet can run.

    gevent raises LoopExit in a wait without a timeout if it knows no event that could end the wait.
    A timeout is such an event, so a wait without one is a series of waits with long timeouts.
    """

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is not None:
            return super().wait(timeout)
        while not super().wait(LONGEST_WAIT_S):
            pass
        return True


class Event:
    """A `threading.Event` that is safe if a signal handler raises at any moment."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._is_set = False

    def is_set(self) -> bool:
        """Whether the event is set."""
        return self._is_set

    def set(self) -> None:
        """Set the event, and wake all waiting threads."""
        with self._changed:
            self._is_set = True
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the event is set, at most `timeout` seconds; return whether it is set."""
        with self._changed:
            return bool(self._changed.wait_for(self.is_set, timeout))


LONGEST_WAIT_S = 1_000_000.0
"""The longest timeout that all waiting functions accept; `poll` has an int of milliseconds."""


def seconds_left(deadline: float | None) -> float | None:
    """Return the time until a moment of the monotonic clock, 0.0 after it; None for no limit."""
    return None if deadline is None else max(0.0, deadline - monotonic())


def simple_queue() -> queue.SimpleQueue[Any]:
    """Make the original `queue.SimpleQueue`, for threads of this process."""
    made: queue.SimpleQueue[Any] = original("queue", "SimpleQueue")()
    return made


def socketpair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets, as `socket.socketpair`."""
    import _socket  # in which nothing is replaced

    # One instruction passes the descriptors from their owners to the new ones. All that
    # `socket.socket` does beside is done before: a handler may raise in what is Python.
    make: Any = original("socket", "socket")
    ours, theirs = made = make.__new__(make), make.__new__(make)
    ours._io_refs = theirs._io_refs = 0
    ours._closed = theirs._closed = False
    default = (-1, -1)
    numbers = map(methodcaller("detach"), _socket.socketpair())
    deque(map(_socket.socket.__init__, made, default, default, default, numbers), 0)
    return ours, theirs


class Started:
    """A child process, with those methods of `subprocess.Popen` that this package uses.

    One instruction both waits for the process and notes that: an exception of a signal handler
    does not lose the status, nor is a process waited for twice.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ended: list[tuple[int, int]] = []  # its id and status, when it has been waited for
        self._is_ours = True

    def kill(self) -> None:
        """Send the process SIGKILL, unless it has been waited for."""
        import signal

        if self._is_ours and not self._ended:
            os.kill(self.pid, signal.SIGKILL)

    def poll(self) -> int | None:
        """Return the exit code if the process has ended, else None; 0 if that is not known."""
        return self._wait(os.WNOHANG)

    def wait(self) -> int | None:
        """Wait until the process has ended, and return its exit code."""
        return self._wait(0)

    communicate = wait

    def _wait(self, options: int) -> int | None:
        if self._is_ours and not self._ended:
            waited = starmap(original("os", "waitpid"), [(self.pid, options)])
            try:
                self._ended.extend(filter(itemgetter(0), waited))
            except ChildProcessError:  # other code here has waited for it
                self._is_ours = False
        if not self._is_ours:
            return 0
        return os.waitstatus_to_exitcode(self._ended[0][1]) if self._ended else None

    def forget(self) -> None:
        """Be the process of a parent, in a child that was forked."""
        self._is_ours = False


def start_program(arguments: list[str], descriptors: list[int], options: dict[str, Any]) -> Started:
    """Start a program with an empty standard input, in any thread.

    Args:
        arguments: The program, and its arguments.
        descriptors: The file descriptors that it inherits, beside standard output and error.
        options: Further options, as for `subprocess.Popen`.
    """
    import signal
    import subprocess

    if not has_greenlets() or not options.keys() <= {"env", "cwd"}:
        started = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, pass_fds=descriptors, **options
        )
        started.returncode = 0  # it is waited for by its id
        return Started(started.pid)
    # gevent's Popen works in the main thread only, and gevent has patched parts of the original.
    pid = original("os", "posix_spawn")(
        arguments[0],
        arguments,
        options.get("env", os.environ),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            *((os.POSIX_SPAWN_DUP2, each, each) for each in descriptors),  # makes it inheritable
        ],
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
    )
    return Started(pid)


def fork() -> int:
    """Fork this process in any thread. Return the child's id, and 0 in the child."""
    pid: int = original("os", "fork")()
    if pid == 0:
        after_fork_in_child()
    return pid


def after_fork_in_child() -> None:
    """Let gevent begin anew in a child that the original `os.fork` has made."""
    if "gevent.monkey" in sys.modules:
        from gevent import reinit

        reinit()


def default_selector() -> selectors.BaseSelector:
    """Return an original selector, in which a thread of the operating system waits."""
    selector: selectors.BaseSelector = original("selectors", "DefaultSelector")()
    return selector


def has_greenlets() -> bool:
    """Whether gevent has replaced threads by greenlets."""
    monkey: Any = sys.modules.get("gevent.monkey")
    return hasattr(monkey, "is_object_patched") and bool(
        monkey.is_object_patched("threading", "_start_new_thread")
        or monkey.is_object_patched("threading", "_start_joinable_thread")
    )


def check_threads(what: str) -> None:
    """Check that eventlet has not replaced threads.

    Args:
        what: The object or function that needs threads, for the error's text.

    Raises:
        NotSupported: eventlet has replaced threads.
    """
    patcher: Any = sys.modules.get("eventlet.patcher")
    if hasattr(patcher, "is_monkey_patched") and patcher.is_monkey_patched("thread"):
        raise NotSupported(
            f"{what} needs threads, but eventlet.monkey_patch() has replaced them by greenlets, "
            "and one waiting greenlet would stop all: use eventlet.monkey_patch(thread=False)"
        )


fork_lock = RLock()
"""Held while a process forks, and while descriptors are made that a forked child must close."""


def load(name: str) -> Any:
    """Import a module in any thread. No fork comes meanwhile: its child could never import it."""
    with fork_lock:
        __import__(name)
    return sys.modules[name]


lifecycle.at_fork(
    lifecycle.FORK_LOCK,
    before=fork_lock.acquire,
    in_parent=fork_lock.release,
    in_child=fork_lock.release,  # by the child's only thread, which has acquired it
)
