"""Workers: functions that run in a process or thread of their own, from the moment they are made.

    parent                                          child
    ──────                                          ─────
    run(fn, ...) ── setup, packed (fn, args) ────>  fn(*args)
    result()     <─ ("result" | "error", bytes) ──  ends

An outcome that is too large for the channel's buffer goes through a file without a name. So a
worker never waits for its parent to read the result: the parent can join first and ask later.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
import warnings
import weakref
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

from ..errors import SerializationError, WorkerDied
from ..packing import definitions, remote_errors, serialize
from ..packing.environment import dumps_for_process
from ..packing.explain import describe
from ..packing.guesses import check_function
from ..processes import child_main, handles, launch
from ..queues import leases
from ..system import frames, lifecycle, nameless_files, native, processors, streams
from ..system.alive import Alive
from ..system.generic import Generic, T
from ..system.opened import take

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from io import FileIO

    from ..system.generic import P

logger = logging.getLogger("qmill")

NUM_CPUS: int = processors.count()
"""The processors that this process may use, by its affinity and the quota of its control groups."""

NUM_THREADS: int = min(32, NUM_CPUS + 4)
"""The default number of threads for work that waits, as in `concurrent.futures`."""

EXIT_GRACE_S = 0.5
"""Seconds that all workers together have to end by themselves when this process exits."""

TERMINATE_GRACE_S = 2.0
"""Seconds that all workers together have to end after SIGTERM."""

_SMALL_BYTES = 1 << 15  # an outcome up to this size fits into the channel's buffer


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
        self._runner: _ThreadRunner | _ProcessRunner
        self._runner = _ThreadRunner(job, self) if kind == "thread" else _ProcessRunner(self.name)
        try:
            if isinstance(self._runner, _ThreadRunner):
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
            runner: Has the methods and attributes of this module's runners.
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
        self._runner.wait(_check_timeout(timeout))

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
        outcome = self._runner.outcome(_check_timeout(timeout))
        if outcome is None:
            raise TimeoutError(f"worker {self.name} has not ended within {timeout} s")
        return outcome

    def __reduce__(self) -> Any:
        raise TypeError("a Worker belongs to the process that started it and cannot be sent")

    def __del__(self) -> None:
        if not self._told and self._runner.wait(0):
            self._tell()

    def _tell(self) -> None:
        """Log a failure that the program has not asked for with `result` or `exception`."""
        self._told = True
        outcome = self._runner.outcome(0)
        if outcome is None or outcome[0] != "error":
            return
        interrupted = isinstance(outcome[1], WorkerDied) and outcome[1].signal == signal.SIGINT
        if not interrupted:  # Ctrl-C stops all processes, and this program reports it once
            _log_failure(self.name, outcome[1])


def _log_failure(name: str, error: BaseException) -> None:
    logger.error("worker %s failed", name, exc_info=error)


def run(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Worker[T]:
    """Run a function in a process of its own; every argument goes to the function.

    Returns:
        The worker, already running. Errors as `Worker`.
    """
    return _made(fn, args, kwargs)


def run_thread(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Worker[T]:
    """Run a function in a thread of its own; every argument goes to the function.

    Returns:
        The worker, already running.
    """
    return _made(fn, args, kwargs, kind="thread")


def _made(fn: Callable[..., T], *args: Any, **options: Any) -> Worker[T]:
    """Make a worker; it is no more running if a handler raises before this returns it.

    Handlers run after each call of a C function, such as that of a class, but not between the
    return of a Python function and the next call.
    """
    worker: Worker[T] = object.__new__(Worker)
    worker.__init__(fn, *args, **options)  # type: ignore[misc]
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


def _check_timeout(timeout: float | None) -> float | None:
    from ..queues.checks import check_wait

    return check_wait(True, timeout)


# -- threads -----------------------------------------------------------------------------------


class _ThreadRunner:
    """Runs a function in a thread, and keeps its outcome."""

    def __init__(self, job: tuple[Any, ...], worker: Worker[Any]) -> None:
        self.pid = os.getpid()
        self._name = worker.name
        self._worker = weakref.ref(worker)
        self._outcome: tuple[str, Any] | None = None
        self._jobs = [job]
        # A thread counts as ended if an exception of a signal handler leaves its `join`.
        self._has_ended = native.Event()
        self._thread = threading.Thread(target=self._run, name=worker.name, daemon=False)

    def start(self) -> None:
        """Start the thread."""
        native.start_thread(self._thread.start)

    def abandon(self) -> None:
        """Have the thread end at once if it has not begun the job: its worker was not made."""
        self._jobs.clear()

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._has_ended.set()

    def _work(self) -> None:
        try:
            fn, args, kwargs = self._jobs.pop()
        except IndexError:
            return
        try:
            self._outcome = "result", fn(*args, **kwargs)
        except SystemExit as error:
            leases.give_back()
            self._outcome = ("result", None) if not error.code else ("error", error)
        except BaseException as error:
            leases.give_back()
            self._outcome = "error", error
            let_go(error)
            if self._worker() is None:
                _log_failure(self._name, error)

    @property
    def exitcode(self) -> int | None:
        if not self._has_ended.is_set() or self._outcome is None:
            return None
        return int(self._outcome[0] == "error")

    @property
    def sentinel(self) -> int:
        raise ValueError("a worker of kind='thread' has no sentinel; use join")

    def wait(self, timeout: float | None) -> bool:
        if threading.current_thread() is self._thread:
            return False
        if timeout == 0 or not self._has_ended.wait(timeout):
            return self._has_ended.is_set()
        self._thread.join()  # it has nothing more to do
        return True

    def outcome(self, timeout: float | None) -> tuple[str, Any] | None:
        return self._outcome if self.wait(timeout) else None

    def send_signal(self, number: int) -> None:
        raise ValueError(
            "a worker of kind='thread' cannot be ended from outside; "
            "end its queue, or use kind='process'"
        )


def let_go(error: BaseException) -> None:
    """Clear the local variables of a traceback's frames; an iterator there would keep its leases.

    Args:
        error: The exception that has the traceback.
    """
    import traceback

    traceback.clear_frames(error.__traceback__)


# -- processes ---------------------------------------------------------------------------------


class _ProcessRunner:
    """Runs a function in a process, and keeps its outcome."""

    _process: handles.Process

    def __init__(self, name: str) -> None:
        self._name = name
        self._frames = frames.FrameReader()
        self._got: list[Any] = []  # ends with the outcome's frame, once that has come
        self._file: list[FileIO] = []  # the file that holds a large outcome
        self._outcome: tuple[str, Any] | None = None
        self._closed = False
        self._lock = native.RLock()

    def start(self, job: tuple[Any, ...], method: str) -> None:
        """Start the process."""
        if method == "fork":
            _check_sendable(job)
            definitions.know_namespace(getattr(job[0], "__globals__", {}))
        named = (*job, self._name)
        self._process = launch.start(
            "qmill.workers.api:_work", named, method, dumps_for_process, leads_group=False
        )
        self.pid = self._process.pid

    def abandon(self) -> None:
        """End the process at once, if it has been started: its worker was not made."""
        if hasattr(self, "_process"):
            self._process.abandon()

    @property
    def exitcode(self) -> int | None:
        return self._process.exitcode

    @property
    def sentinel(self) -> int:
        return self._process.sentinel

    def wait(self, timeout: float | None) -> bool:
        """Wait for the end of the process."""
        if self._closed:
            return True
        process = self._process
        if not process.wait(timeout):
            return False
        with self._lock:
            if not self._closed:
                self._read_outcome()
                code = process.told_exitcode if process.exitcode is not None else None
                if self._outcome is None:
                    self._outcome = "error", handles.death(self.pid, code, self._name)
                while self._file:
                    self._file.pop().close()
                process.close()
                self._closed = True
        return True

    def outcome(self, timeout: float | None) -> tuple[str, Any] | None:
        """Wait for the outcome, which may come before the process ends."""
        process = self._process
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._closed and self._outcome is None:
            left = handles.seconds_left(deadline)
            try:
                ready = handles.wait_readable([process.channel, process.sentinel], left)
            except ValueError:  # another thread has just closed the channel: all has been read
                ready = [process.sentinel]
            if process.sentinel in ready:
                self.wait(None)
            with self._lock:
                if not self._closed:
                    self._read_outcome()
            if not ready:
                break
        return self._outcome

    def _read_outcome(self) -> None:
        """Read the outcome if the worker has sent it; never waits."""
        if self._outcome is not None:
            return
        channel = self._process.channel
        channel.setblocking(False)
        got = self._got
        try:
            # One instruction reads the frame from the channel and keeps it, so that an exception
            # of a signal handler in between does not lose it.
            while not got or got[-1] is None:
                got.extend(map(self._frames.receive, (channel,)))
            (kind, in_file), (data, *_) = got[-1]
            if in_file:
                data = self._read_file(channel)
        except (EOFError, OSError, MemoryError) as error:
            if nameless_files.is_shortage(error):
                self._outcome = "unsent", error
            return  # else nothing more is there now, or it died in the middle
        if kind == "error":
            self._outcome = "error", remote_errors.load_error(data)
        elif kind == "unsent":
            self._outcome = "unsent", remote_errors.load_error(data)
        else:
            try:
                self._outcome = "result", serialize.loads(data)
            except SerializationError as error:
                self._outcome = "unsent", error

    def _read_file(self, channel: socket.socket) -> bytearray:
        """Receive the file that follows a frame, and return its content."""
        if not self._file and not take(channel, self._file):
            raise nameless_files.file_lost()
        [file] = self._file
        data = bytearray(os.fstat(file.fileno()).st_size)
        file.seek(0)
        file.readinto(data)
        return data

    def forget_in_child(self) -> None:
        """Close the runner in a forked child: the process is not a child of the child."""
        self._lock = native.RLock()  # another thread of the parent may have held the old one
        self._closed = True
        self._process.forget_in_child()

    def send_signal(self, number: int) -> None:
        with self._lock:
            if not self._closed:
                self._process.send_signal(number)


def _check_sendable(job: tuple[Any, ...]) -> None:
    """Refuse queues for threads among the arguments, which a fork would pass without pickling."""
    parts: list[Any] = [job]
    seen: set[int] = set()
    while parts:
        part = parts.pop()
        if isinstance(part, (dict, list, tuple, set, frozenset)):
            if id(part) not in seen:
                seen.add(id(part))
                parts.extend(part.values() if isinstance(part, dict) else part)
        elif (check := getattr(type(part), "_check_sendable", None)) is not None:
            check(part)


def _work(channel: socket.socket, get_job: Callable[[], tuple[Any, ...]]) -> int:
    """Run the function in its process, send its outcome, and return the exit code."""
    try:
        fn, args, kwargs, child_main.worker_name = get_job()
        value = fn(*args, **kwargs)
    except KeyboardInterrupt:
        leases.give_back()
        return child_main.INTERRUPTED
    except SystemExit as error:
        leases.give_back()
        if (code := exit_code(error)) == 0:
            _send(channel, "result", serialize.dumps(None))
        return code
    except BaseException as error:
        leases.give_back()
        _send(channel, "error", remote_errors.dump_error(error))
        let_go(error)
        return 1
    try:
        packed = serialize.dumps(value, serialize.InlineExports())
    except Exception as error:
        _send(channel, "unsent", remote_errors.dump_error(error))
    else:
        _send(channel, "result", packed)
    return 0


def exit_code(error: SystemExit) -> int:
    """Return the exit status of a `SystemExit`; print its argument to stderr if it is no number."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    import sys

    print(error.code, file=sys.stderr)
    return 1


def _send(channel: socket.socket, kind: str, data: bytes | bytearray) -> None:
    streams.flush()  # the function's output is there before its outcome
    descriptor = -1
    if len(data) > _SMALL_BYTES:
        try:
            descriptor = nameless_files.write_file([data])
        except OSError as error:
            kind, data = "unsent", remote_errors.dump_error(error)
    try:
        _send_all(
            channel, frames.encode((kind, descriptor >= 0), [data if descriptor < 0 else b""])
        )
        if descriptor >= 0:
            socket.send_fds(channel, [b"f"], [descriptor])
    except ConnectionError:
        pass  # the parent, which would have read it, has ended
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _send_all(channel: socket.socket, parts: list[frames.Blob]) -> None:
    while parts:
        parts = frames.send_some(channel, parts)


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
        worker.join(max(0.0, deadline - time.monotonic()))
    alive = [worker for worker in to_end if worker.is_alive()]
    if alive and not _interrupted():
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
        worker.join(max(0.0, deadline - time.monotonic()))
        if worker.is_alive():
            worker.kill()
            worker.join()
        worker._told = True
    for worker in [*_running, *_in_threads]:
        if not worker._told and not worker.is_alive():
            worker._tell()
    _running.difference_update(to_end)


def _interrupted() -> bool:
    import sys

    return getattr(sys, "last_type", None) is KeyboardInterrupt


def _after_fork_in_child() -> None:
    global _number_lock, _in_threads
    _number_lock = native.Lock()
    for worker in _running:
        worker._told = True
        if isinstance(worker._runner, _ProcessRunner):
            worker._runner.forget_in_child()
    _running.clear()
    _in_threads = Alive()


lifecycle.at_exit(lifecycle.WORKERS, end_workers)
lifecycle.at_fork(lifecycle.WORKERS, in_child=_after_fork_in_child)
