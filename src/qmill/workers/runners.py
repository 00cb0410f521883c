"""Runners: run a function in a thread or a process, and keep its outcome.

    parent                                          child
    ──────                                          ─────
    run(fn, ...) ── setup, packed (fn, args) ────>  fn(*args)
    result()     <─ ("result" | "error", bytes) ──  ends

An outcome that is too large for the channel's buffer goes through a file without a name. So a
worker never waits for its parent to read the result: the parent can join first and ask later.

An outcome is a pair: "result" and the value; "error" and the function's exception, or a
`WorkerDied`; "unsent" and the error that kept the value from being sent.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
import traceback
import weakref
from typing import TYPE_CHECKING, Any

from ..errors import SerializationError
from ..packing import definitions, remote_errors, serialize
from ..packing.environment import dumps_for_process
from ..processes import child_main, handles, launch
from ..queues import leases
from ..system import frames, nameless_files, native, streams, threads
from ..system.opened import take

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import FileIO

    from .api import Worker

logger = logging.getLogger("qmill")

_SMALL_BYTES = 1 << 15  # an outcome up to this size fits into the channel's buffer


def log_failure(name: str, error: BaseException) -> None:
    """Log the exception of a worker that the program has not asked for."""
    logger.error("worker %s failed", name, exc_info=error)


# -- threads -----------------------------------------------------------------------------------


class ThreadRunner:
    """Runs a function in a thread.

    Args:
        job: The function, its positional and its keyword arguments.
        worker: The worker of the thread; its failure is logged if that is gone by then.
    """

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
        threads.start_thread(self._thread.start)

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
                log_failure(self._name, error)

    @property
    def exitcode(self) -> int | None:
        """Return 0, or 1 for an exception; None while the thread runs."""
        if not self._has_ended.is_set() or self._outcome is None:
            return None
        return int(self._outcome[0] == "error")

    @property
    def sentinel(self) -> int:
        """Raise the error of a worker that has none."""
        raise ValueError("a worker of kind='thread' has no sentinel; use join")

    def wait(self, timeout: float | None) -> bool:
        """Wait for the end of the thread; False if it has not ended."""
        if threading.current_thread() is self._thread:
            return False
        if timeout == 0 or not self._has_ended.wait(timeout):
            return self._has_ended.is_set()
        self._thread.join()  # it has nothing more to do
        return True

    def outcome(self, timeout: float | None) -> tuple[str, Any] | None:
        """Wait for the end of the thread, and return the outcome; None if it has not ended."""
        return self._outcome if self.wait(timeout) else None

    def send_signal(self, number: int) -> None:
        """Raise the error of a worker that cannot get one."""
        raise ValueError(
            "a worker of kind='thread' cannot be ended from outside; "
            "end its queue, or use kind='process'"
        )


def let_go(error: BaseException) -> None:
    """Clear the local variables of a traceback's frames; an iterator there would keep its leases.

    Args:
        error: The exception that has the traceback.
    """
    traceback.clear_frames(error.__traceback__)


# -- processes ---------------------------------------------------------------------------------


class ProcessRunner:
    """Runs a function in a process.

    Args:
        name: The name of the worker.
    """

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
        """Start the process.

        Args:
            job: The function, its positional and its keyword arguments.
            method: The start method.
        """
        if method == "fork":
            _check_sendable(job)
            definitions.know_namespace(getattr(job[0], "__globals__", {}))
        named = (*job, self._name)
        self._process = launch.start(
            "qmill.workers.runners:work", named, method, dumps_for_process, leads_group=False
        )
        self.pid = self._process.pid

    def abandon(self) -> None:
        """End the process at once, if it has been started: its worker was not made."""
        if hasattr(self, "_process"):
            self._process.abandon()

    @property
    def exitcode(self) -> int | None:
        """The exit code of the process; None while it runs."""
        return self._process.exitcode

    @property
    def sentinel(self) -> int:
        """A file descriptor that is readable once the process has ended."""
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
            left = native.seconds_left(deadline)
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
        try:
            loads = serialize.loads if kind == "result" else remote_errors.load_error
            self._outcome = kind, loads(data)
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
        """Send a signal unless the process has ended."""
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


def work(channel: socket.socket, get_job: Callable[[], tuple[Any, ...]]) -> int:
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
        inline = b"" if descriptor >= 0 else data
        frames.send_all(channel, frames.encode((kind, descriptor >= 0), [inline]))
        if descriptor >= 0:
            socket.send_fds(channel, [b"f"], [descriptor])
    except ConnectionError:
        pass  # the parent, which would have read it, has ended
    finally:
        if descriptor >= 0:
            os.close(descriptor)
