"""Workers: functions that run in a process or thread of their own, from the moment they are made.

The module has the functions and the class that users call, and the end of the workers with the
program; `runners` runs the workers' functions.
"""

from __future__ import annotations

import signal
import sys
import time
import warnings
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

from ..errors import WorkerDied
from ..packing.explain import describe
from ..packing.guesses import check_function
from ..processes import handles, launch
from ..queues.checks import check_wait
from ..system import lifecycle, native, processors
from ..system.alive import Alive
from ..system.finalizers import finalizer
from ..system.generic import Generic, T
from .runners import ProcessRunner, ThreadRunner, log_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..system.generic import P

NUM_CPUS: int = processors.count()
"""The processors that this process may use, by its affinity and the quota of its control groups."""

NUM_THREADS: int = min(32, NUM_CPUS + 4)
"""The default number of threads for work that waits, as in `concurrent.futures`."""

EXIT_GRACE_S = 0.5
"""Seconds that all workers together have to end by themselves when this process exits."""

TERMINATE_GRACE_S = 2.0
"""Seconds that all workers together have to end after SIGTERM."""


class Worker(Generic[T]):
    """A function running in a process or thread of its own; it starts at once.

    Args:
        fn: The function to run.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        kind: "process" or "thread".
        start_method: How the process starts: "forkserver", "spawn" or "fork"; None for the one
            in force (`qmill.set_start_method`).
        name: Its name in messages; None for the function's name and a number.

    Raises:
        TypeError: `fn` cannot be called, or an argument is a queue for threads.
        ValueError: An unknown kind or start method.
        SerializationError: The function or an argument cannot be sent to a process.
        OSError: The system refuses another process.

    Crash: a process worker does not outlive the process that started it, even if that is killed.
    A worker that is killed raises `WorkerDied` from `result`, `exception` and `Q.stop`.
    """

    _told = True  # nothing to log yet

    ends_at_exit = True
    """Whether the interpreter's exit waits for the worker, and then ends it."""

    def __init__(
        self,
        fn: Callable[..., T],
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        kind: str = "process",
        start_method: str | None = None,
        name: str | None = None,
    ) -> None:
        check_function("fn", fn)
        if kind not in ("process", "thread"):
            raise ValueError(f"kind must be 'process' or 'thread', not {kind!r}")
        if kind == "thread" and start_method is not None:
            raise ValueError(f"start_method={start_method!r} needs kind='process', not 'thread'")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a str or None, not {type(name).__name__} {name!r}")
        self.name = name or f"{getattr(fn, '__name__', type(fn).__name__)}-{_next_number()}"
        self.kind = kind
        job = (fn, as_tuple("args", args), as_dict(kwargs))
        self._runner: ThreadRunner | ProcessRunner
        self._runner = ThreadRunner(job, self) if kind == "thread" else ProcessRunner(self.name)
        try:
            if isinstance(self._runner, ThreadRunner):
                self._runner.start()
                _in_threads.add(self)
            else:
                self._runner.start(job, launch.usable_start_method(start_method))
                _remember(self)
            self._told = False
        except BaseException:  # Ctrl-C, for one
            self._runner.abandon()
            _running.discard(self)
            raise

    @classmethod
    def around(cls, runner: Any, name: str, kind: str) -> Worker[Any]:
        """Make a worker for a process or thread that the caller has started; logs no failures.

        Args:
            runner: Has the methods and attributes of the runners in runners.py.
            name: Its name in messages.
            kind: "process" or "thread".
        """
        worker = object.__new__(cls)
        worker.name, worker.kind, worker._runner, worker._told = name, kind, runner, True
        return worker

    def __repr__(self) -> str:
        return f"<qmill.Worker {self.name} kind={self.kind!r} {self._state()}>"

    def _state(self) -> str:
        if self.is_alive():
            return f"running pid={self.pid}"
        return "ended" if self.exitcode is None else f"ended exitcode={self.exitcode}"

    @property
    def pid(self) -> int | None:
        """The id of the process; for a thread, of the process it runs in."""
        return self._runner.pid

    ident = pid

    @property
    def exitcode(self) -> int | None:
        """Its exit code: 0, 1 for an exception, minus a signal's number; None while alive.

        A thread has 0 or 1. 255 also means that the status could not be read: the process was
        killed together with its fork server, or where SIGCHLD is ignored on Linux before 6.15.
        """
        return self._runner.exitcode

    @property
    def sentinel(self) -> int:
        """A file descriptor that is readable once the process has ended.

        Raises:
            ValueError: A thread has none.
        """
        return self._runner.sentinel

    def is_alive(self) -> bool:
        """Return whether the worker still runs."""
        return not self._runner.wait(0)

    def join(self, timeout: float | None = None) -> None:
        """Wait until the worker has ended.

        Args:
            timeout: Seconds to wait at most; None is no limit. See `is_alive` for how it went.
        """
        self._runner.wait(check_wait(True, timeout))

    def terminate(self) -> None:
        """Ask the process to end (SIGTERM).

        Raises:
            ValueError: A thread cannot be ended from outside.
        """
        self._runner.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process at once (SIGKILL).

        Raises:
            ValueError: A thread cannot be ended from outside.
        """
        self._runner.send_signal(handles.SIGKILL)

    def result(self, timeout: float | None = None) -> T:
        """Wait for the function's return value, and return it.

        Args:
            timeout: Seconds to wait at most; None is no limit.

        Raises:
            TimeoutError: It has not returned in time. It runs on.
            WorkerDied: The process ended before it had a result.
            SerializationError: The return value cannot be sent between processes.
            OSError: There was no room for the return value; the error names the limit.
            Exception: The function's own, with the remote traceback as its cause.
        """
        kind, value = self._outcome(timeout)
        self._told = True
        if kind != "result":
            raise value
        returned: T = value
        return returned

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end, and return the exception that `result` raises, or None.

        Args:
            timeout: Seconds to wait at most; None is no limit.

        Raises:
            TimeoutError: It has not ended in time.
        """
        kind, value = self._outcome(timeout)
        self._told = True
        return value if kind != "result" else None

    def _failure(self) -> BaseException | None:
        """Wait for the end; return the function's exception, None also for an unsendable value."""
        kind, value = self._outcome(None)
        self._told = True
        return value if kind == "error" else None

    def _outcome(self, timeout: float | None) -> tuple[str, Any]:
        outcome = self._runner.outcome(check_wait(True, timeout))
        if outcome is None:
            raise TimeoutError(f"worker {self.name} has not ended within {timeout} s")
        return outcome

    def __reduce__(self) -> Any:
        raise TypeError("a Worker belongs to the process that started it and cannot be sent")

    @finalizer
    def __del__(self) -> None:
        if not self._told and self._runner.wait(0):
            self._tell()

    def _tell(self) -> None:
        """Log a failure that the program has not asked for with `result` or `exception`."""
        outcome = self._runner.outcome(0)
        if outcome is not None and outcome[0] == "error":
            error = outcome[1]
            # Ctrl-C stops all processes, and this program reports it once.
            if not (isinstance(error, WorkerDied) and error.signal == signal.SIGINT):
                log_failure(self.name, error)
        self._told = True


def run(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Worker[T]:
    """Run a function in a process of its own; every argument goes to the function.

    Returns:
        The worker, already running. Errors as `Worker`.
    """
    return _made(fn, args, kwargs, "process")


def run_thread(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Worker[T]:
    """Run a function in a thread of its own; every argument goes to the function.

    Returns:
        The worker, already running.
    """
    return _made(fn, args, kwargs, "thread")


def _made(fn: Callable[..., T], args: Any, kwargs: Any, kind: str) -> Worker[T]:
    """Make a worker; it is no more running if a handler raises before this returns it.

    Handlers run after each call of a C function, such as that of a class, and after each call with
    unpacked arguments, but not between the return of a Python function and the next call.
    """
    worker: Worker[T] = object.__new__(Worker)
    worker.__init__(fn, args, kwargs, kind=kind)  # type: ignore[misc]
    return worker


def as_tuple(argument: str, args: Iterable[Any]) -> tuple[Any, ...]:
    """Return positional arguments as a tuple.

    Any iterable is accepted, as by a `threading.Thread`, except those whose items are hardly meant
    as arguments: the characters of a string, keys, columns, a set's items in any order.

    Raises:
        TypeError: `args` is no such iterable.
    """
    is_one = isinstance(args, _ONE_VALUE) or hasattr(type(args), "columns")  # a frame, a table
    try:
        if not is_one:
            return tuple(args)
    except TypeError:
        pass
    raise TypeError(
        f"{argument} must be a tuple or another iterable of arguments, not "
        f"{type(args).__name__} {describe(args)}; one argument x is given as (x,)"
    )


_ONE_VALUE = (str, bytes, bytearray, memoryview, Mapping, Set)


def as_dict(kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a copy of keyword arguments; a TypeError if they are no mapping."""
    try:
        return {} if kwargs is None else dict(kwargs)
    except (TypeError, ValueError):
        raise TypeError(
            f"kwargs must be a mapping or None, not {type(kwargs).__name__} {kwargs!r}"
        ) from None


_number_lock = native.Lock()
_number = 0


def _next_number() -> int:
    global _number
    with _number_lock:
        _number += 1
        return _number


# -- the end of this process -------------------------------------------------------------------

_running: set[Worker[Any]] = set()  # process workers only
_in_threads = Alive()


def _remember(worker: Worker[Any]) -> None:
    """Keep a process worker until it has ended, and release those that have."""
    forget_ended()
    _running.add(worker)


def forget_ended() -> None:
    """Release the process workers that have ended; else the next start does it."""
    for worker in list(_running):
        if not worker.is_alive():
            _running.discard(worker)


def end_workers() -> None:
    """Terminate the process workers that are still alive when the interpreter exits."""
    deadline = time.monotonic() + EXIT_GRACE_S
    to_end = [worker for worker in list(_running) if worker.ends_at_exit]
    for worker in to_end:
        worker.join(native.seconds_left(deadline))
    alive = [worker for worker in to_end if worker.is_alive()]
    if alive and getattr(sys, "last_type", None) is not KeyboardInterrupt:
        names = ", ".join(worker.name for worker in alive)
        warnings.warn(
            f"{len(alive)} worker(s) still ran when the program ended and were terminated: "
            f"{names}. End them first, as with q.stop(workers)",
            RuntimeWarning,
            stacklevel=2,
        )
    for worker in alive:
        worker.terminate()
    deadline = time.monotonic() + TERMINATE_GRACE_S
    for worker in alive:
        worker.join(native.seconds_left(deadline))
        if worker.is_alive():
            worker.kill()
            worker.join()
        worker._told = True
    for worker in [*_running, *_in_threads]:
        if not worker._told and not worker.is_alive():
            worker._tell()
    _running.difference_update(to_end)


def _after_fork_in_child() -> None:
    global _number_lock, _in_threads
    _number_lock = native.Lock()
    for worker in _running:
        worker._told = True
        if isinstance(worker._runner, ProcessRunner):
            worker._runner.forget_in_child()
    _running.clear()
    _in_threads = Alive()


lifecycle.at_exit(lifecycle.WORKERS, end_workers)
lifecycle.at_fork(lifecycle.WORKERS, in_child=_after_fork_in_child)
