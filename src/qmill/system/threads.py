"""Threads of the operating system, and calls in which no signal handler runs.

`Thread` is a real thread also where gevent has replaced threads by greenlets; see `native`. A call
that is `shielded` runs in another thread, as CPython runs signal handlers in the main thread only.
"""

from __future__ import annotations

import _thread
import threading
from _contextvars import copy_context  # lighter than `contextvars`
from itertools import starmap

from . import lifecycle
from .native import Condition, has_greenlets, original

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")


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
        waited.extend(starmap(is_over.acquire, [()]))
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


lifecycle.at_fork(lifecycle.THREADS, in_child=_running.clear)
