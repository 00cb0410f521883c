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
from _contextvars import copy_context  # lighter than `contextvars`
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
            left = None if deadline is None else deadline - monotonic()
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


class GivenUpError(Exception):
    """The caller of `shielded` has been interrupted, and waits no longer for its result."""


class _Waits:
    """The waits of a thread that `shielded` has started, by the functions that end them."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._cuts: list[Callable[[], object]] = []
        self.is_cut_off = False

    def cut_off(self) -> None:
        """End the present wait; those to come end at once, as `is_cut_off` is set."""
        with self._lock:
            for cut in self._cuts:
                cut()

    def begin(self, cut: Callable[[], object]) -> None:
        """Note the function that ends the wait that begins."""
        with self._lock:
            self._cuts.append(cut)
            if self.is_cut_off:
                cut()

    def end(self) -> None:
        """Forget the function, which is not called any more."""
        with self._lock:
            self._cuts.pop()


_of_thread = threading.local()


class cut_off_by:  # noqa: N801
    """Have a function end the wait in this block, if the caller of `shielded` is interrupted.

    Elsewhere than in a function that `shielded` calls in another thread, the block is as it is.

    Args:
        cut: The function; it may be called in another thread, while the block runs.

    Raises:
        GivenUpError: The block was cut off.
    """

    def __init__(self, cut: Callable[[], object]) -> None:
        self._cut = cut

    def __enter__(self) -> None:
        self._waits: _Waits | None = getattr(_of_thread, "waits", None)
        if self._waits is not None:
            self._waits.begin(self._cut)

    def __exit__(self, *_: object) -> None:
        if self._waits is not None:
            self._waits.end()
            if self._waits.is_cut_off:
                raise GivenUpError


def shielded(make: Callable[[], T], undo: Callable[[T], object]) -> T:
    """Call a function in which no signal handler runs.

    CPython runs handlers in the main thread only. So if that calls, the function runs in another
    one, in the caller's context. If a handler raises meanwhile, the function is over, and undone,
    when this raises; if one raises again, this does not wait for that. In the function, a wait that
    may last is a block of `cut_off_by`.

    Args:
        make: The function. It needs no lock that the caller holds.
        undo: Is called with its result.
    """
    is_main = _thread.get_ident() == threading.main_thread().ident
    if not is_main or has_greenlets():  # with greenlets, this thread cannot wait for another one
        return make()
    made: list[T] = []
    failed: list[BaseException] = []
    is_over = _thread.allocate_lock()
    is_over.acquire()
    waits = _Waits()

    def work() -> None:
        _of_thread.waits = waits
        try:
            made.append(make())
            if waits.is_cut_off:
                take_back()
        except BaseException as error:
            failed.append(error)
        finally:
            is_over.release()

    def take_back() -> None:
        while made:
            undo(made.pop())

    started: list[int] = []
    waited: list[bool] = []
    try:
        thread = (copy_context().run, (work,))
        try:
            started.extend(starmap(_thread.start_new_thread, [thread]))
        except RuntimeError:  # no more threads
            if started:
                raise
            return make()
        waited.extend(starmap(is_over.acquire, _ONCE))
        if failed:
            raise failed.pop()
        return made[0]
    except BaseException:
        waits.is_cut_off = True
        if started and not waited:
            waits.cut_off()
            is_over.acquire()
        take_back()
        raise


def start_thread(start: Callable[[], object]) -> None:
    """Start a thread, by its `start`, which an exception of a handler would leave half done."""
    shielded(start, id)


class Thread(threading.Thread):
    """A daemon thread of the operating system.

    Args:
        target: The function that it calls.
        name: The thread's name.
    """

    def __init__(self, target: Callable[[], object], name: str) -> None:
        super().__init__(target=target, name=name, daemon=True)
        self._over = Condition() if has_greenlets() else None
        self._has_ended = False

    def start(self) -> None:
        """Start the thread; it has started also if a signal handler raises meanwhile.

        Raises:
            RuntimeError: The system or the interpreter cannot start another thread.
        """
        if self._over is None:
            start_thread(super().start)
            return
        from gevent import get_hub

        # As long as this watcher is active, gevent lets greenlets wait for this thread alone,
        # instead of raising LoopExit in them.
        self._lives = get_hub().loop.async_()
        self._lives.start(self._lives.stop)
        original("_thread", "start_new_thread")(self._run_natively, ())

    def _run_natively(self) -> None:
        """Run in a real thread, and do the bookkeeping that `threading` does for its threads."""
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
        """Wait until the thread has ended, at most `timeout` seconds; other greenlets can run."""
        if self._over is None:
            super().join(timeout)
        else:
            with self._over:
                self._over.wait_for(lambda: self._has_ended, timeout)


_running: dict[int, Thread] = {}  # by thread id: the threads that `threading` does not know


def current_thread() -> threading.Thread:
    """Return the calling thread, as `threading.current_thread`, also if it is a `Thread`."""
    thread = _running and _running.get(original("_thread", "get_ident")())
    return thread or threading.current_thread()


fork_lock = RLock()
"""Held while a process forks, and while descriptors are made that a forked child must close."""

lifecycle.at_fork(lifecycle.THREADS, in_child=_running.clear)
lifecycle.at_fork(
    lifecycle.FORK_LOCK,
    before=fork_lock.acquire,
    in_parent=fork_lock.release,
    in_child=fork_lock.release,  # by the child's only thread, which has acquired it
)
