"""Threads, sockets and selectors of the operating system, also where gevent has replaced them.

`gevent.monkey.patch_all` puts greenlets in the place of threads, and sockets and selectors that
give way to other greenlets in the place of the standard library's. The threads with which qmill
drives workers have to be threads: they go on while a greenlet waits in C code. So they start by the
functions that gevent has kept, and use the locks, sockets and selectors that it has kept: one of
gevent's locks, when it is released, may need the main thread to tell another. What a greenlet waits
in for long, for a result, is gevent's, so that others run meanwhile.

Of eventlet's locks none may be released by another thread, so what needs threads is refused there.

Source: `gevent.monkey.get_original`, `eventlet.patcher.original`.
"""

from __future__ import annotations

import _socket
import _thread
import os
import sys
import threading
from collections import deque
from itertools import starmap
from operator import methodcaller
from queue import Empty
from time import monotonic

from .errors import NotSupported

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    import queue
    import selectors
    import socket
    from collections.abc import Callable
    from typing import Any

    _Lock = threading.Condition  # as which it is used
else:
    _Lock = _thread.RLock


def original(module: str, name: str) -> Any:
    """Return what a module of the standard library has of a name when nothing has replaced it."""
    monkey: Any = sys.modules.get("gevent.monkey")
    if hasattr(monkey, "get_original"):  # else another thread is just importing it
        return monkey.get_original(module, name)
    patcher: Any = sys.modules.get("eventlet.patcher")
    if module in ("select", "socket") and hasattr(patcher, "original"):
        return getattr(patcher.original(module), name)
    __import__(module)
    return getattr(sys.modules[module], name)


def Lock() -> threading.Lock:  # noqa: N802
    """Make a lock that is held for a moment only: who waits for it lets no greenlet run."""
    lock: threading.Lock = original("_thread", "allocate_lock")()
    return lock


def RLock() -> Any:  # noqa: N802
    """Make a reentrant lock that is held for a moment only, as `Lock`."""
    return original("_thread", "RLock")()


def Condition() -> threading.Condition:  # noqa: N802
    """Make a condition with a reentrant lock of its own; greenlets go on while one waits in it."""
    made: threading.Condition = _GreenCondition(RLock()) if has_greenlets() else _Condition()
    return made


class _Condition(_Lock):
    """A `threading.Condition` that an exception of a signal handler may leave at any moment.

    One of the standard library then releases a lock that it does not hold, or leaves it locked.
    CPython runs handlers between its instructions, and never within a function in C. So the lock is
    this very object, whose `with` calls such a function; one call of `extend` releases the lock and
    notes that; one call of `deque` wakes all that wait.
    """

    def __init__(self) -> None:
        self._sleepers: deque[queue.SimpleQueue[None]] = deque()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until a thread notifies, or for so many seconds; False if none has."""
        sleeper = simple_queue()
        depth: list[Any] = []  # how often the lock was held, once it is released
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
        """Wait until a function returns something true, or for so many seconds."""
        deadline = None if timeout is None else monotonic() + timeout
        while not (result := predicate()):
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result

    def notify_all(self) -> None:
        """Wake all that wait."""
        deque(map(_wake, self._sleepers), 0)


_ONCE = ((),)  # the arguments of one call
_wake = methodcaller("put", None)


class _GreenCondition(threading.Condition):
    """A condition in which greenlets wait, also when no other greenlet is left to run.

    gevent has a wait fail (LoopExit) of which it does not know what could end it: a timer is that.
    """

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is not None:
            return super().wait(timeout)
        while not super().wait(LONGEST_WAIT_S):
            pass
        return True


class Event:
    """A `threading.Event` that an exception of a signal handler may leave at any moment."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._is_set = False

    def is_set(self) -> bool:
        """Whether it has happened."""
        return self._is_set

    def set(self) -> None:
        """Let those go on that wait for it."""
        with self._changed:
            self._is_set = True
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has happened, or for so many seconds; False if it has not."""
        with self._changed:
            return bool(self._changed.wait_for(self.is_set, timeout))


LONGEST_WAIT_S = 1_000_000.0
"""The longest timeout that all ways to wait accept; poll takes an int of milliseconds."""


def simple_queue() -> queue.SimpleQueue[Any]:
    """Make a `queue.SimpleQueue`, between threads."""
    made: queue.SimpleQueue[Any] = original("queue", "SimpleQueue")()
    return made


def socketpair() -> tuple[socket.socket, socket.socket]:
    """Return two sockets that are connected, as `socket.socketpair`."""
    ours, theirs = _socket.socketpair()
    make: Any = original("socket", "socket")
    return make(fileno=ours.detach()), make(fileno=theirs.detach())


class Started:
    """A process that was started; as far as it goes a `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def kill(self) -> None:
        """End it at once."""
        import signal

        os.kill(self.pid, signal.SIGKILL)

    def poll(self) -> int | None:
        """Return its exit code if it has ended."""
        if self.returncode is None:
            pid, status = original("os", "waitpid")(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self) -> int:
        """Wait for its end."""
        if self.returncode is None:
            _, status = original("os", "waitpid")(self.pid, 0)
            self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    communicate = wait


def start_program(arguments: list[str], descriptors: list[int], options: dict[str, Any]) -> Any:
    """Start a program with an empty standard input, in any thread.

    Args:
        arguments: The program, and what it is given.
        descriptors: What it inherits beside standard output and error.
        options: Further ones of `subprocess.Popen`.

    Returns:
        A `subprocess.Popen`, or a `Started`.
    """
    import signal
    import subprocess

    if not has_greenlets() or not options.keys() <= {"env", "cwd"}:
        return subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, pass_fds=descriptors, **options
        )
    # gevent's Popen is for the main thread, and of the other one it has taken parts away.
    pid = original("os", "posix_spawn")(
        arguments[0],
        arguments,
        options.get("env", os.environ),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            *((os.POSIX_SPAWN_DUP2, each, each) for each in descriptors),  # is then inherited
        ],
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
    )
    return Started(pid)


def fork() -> int:
    """Fork this process in any thread; 0 in the child."""
    pid: int = original("os", "fork")()
    if pid == 0 and "gevent.monkey" in sys.modules:
        from gevent import reinit

        reinit()
    return pid


def default_selector() -> selectors.BaseSelector:
    """Return a selector in which a thread waits."""
    selector: selectors.BaseSelector = original("selectors", "DefaultSelector")()
    return selector


def has_greenlets() -> bool:
    """Whether gevent has put greenlets in the place of threads."""
    monkey: Any = sys.modules.get("gevent.monkey")
    return hasattr(monkey, "is_object_patched") and bool(
        monkey.is_object_patched("threading", "_start_new_thread")
        or monkey.is_object_patched("threading", "_start_joinable_thread")
    )


def check_threads(what: str) -> None:
    """Refuse to do what needs threads of the operating system where eventlet has replaced them.

    Raises:
        NotSupported: It has.
    """
    patcher: Any = sys.modules.get("eventlet.patcher")
    if hasattr(patcher, "is_monkey_patched") and patcher.is_monkey_patched("thread"):
        raise NotSupported(
            f"{what} needs threads, and eventlet.monkey_patch() has put greenlets in their place, "
            "of which one that waits stops all: use eventlet.monkey_patch(thread=False)"
        )


class Thread(threading.Thread):
    """A daemon thread of the operating system.

    Args:
        target: What it runs.
        name: What it is called.
    """

    def __init__(self, target: Callable[[], object], name: str) -> None:
        super().__init__(target=target, name=name, daemon=True)
        self._over = Condition() if has_greenlets() else None
        self._has_ended = False

    def start(self) -> None:
        """Start it.

        Raises:
            RuntimeError: The system or the interpreter starts no more threads.
        """
        if self._over is None:
            super().start()
            return
        from gevent import get_hub

        # Greenlets that wait for this thread and nothing else are to wait, and not to fail.
        self._lives = get_hub().loop.async_()
        self._lives.start(self._lives.stop)
        original("_thread", "start_new_thread")(self._run_natively, ())

    def _run_natively(self) -> None:
        """Do what a thread does for which gevent takes a greenlet."""
        assert self._over is not None
        ident = original("_thread", "get_ident")()
        _running[ident] = self
        try:
            self.run()
        finally:
            del _running[ident]
            with self._over:
                self._has_ended = True
                self._over.notify_all()
            self._lives.send()

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended; greenlets go on meanwhile."""
        if self._over is None:
            super().join(timeout)
        else:
            with self._over:
                self._over.wait_for(lambda: self._has_ended, timeout)


_running: dict[int, Thread] = {}  # those that threading does not know


def current_thread() -> threading.Thread:
    """Return the thread that calls, as `threading.current_thread`; it may be a `Thread`."""
    thread = _running and _running.get(original("_thread", "get_ident")())
    return thread or threading.current_thread()


def _after_fork_in_child() -> None:
    _running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
