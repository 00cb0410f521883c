"""Handles of processes that this one has started: their ends, exit codes and signals.

    Process     a worker; a child of this process, or of its fork server
    Helper      a process that serves this one, as the fork server does, started when first needed

The end of a process makes its *sentinel* readable: a pidfd or, where the system has none, the pipe
to which the exit status of the process is written. A pidfd names the same process for ever, so no
signal hits another process that has got the number of an ended one.

Source: pidfd_open(2), PIDFD_GET_INFO of linux/pidfd.h.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import socket
import struct
import time
from io import FileIO
from itertools import starmap
from typing import TYPE_CHECKING, Any

from ..errors import WorkerDied
from ..system import interpreter, native
from ..system.finalizers import finalizer
from ..system.opened import owned, pipe
from . import child_main

if TYPE_CHECKING:
    from collections.abc import Callable

SIGKILL = getattr(signal, "SIGKILL", signal.SIGTERM)

STOP_CHECK_S = 1.0
"""Seconds without an answer after which a wait for a process checks whether a signal stopped it."""

UNKNOWN_EXIT = 255
"""The exit code of a process whose exit status could not be read."""


class Process:
    """A started process.

    Args:
        pid: The process id.
        channel: This process's end of the socket to the process.
        sentinel: As the attribute.
        status: The reading end of the pipe for the exit status, to which the fork server writes,
            or a child of this process as its last act.
        server: The fork server that is the parent of the process; None if this process is that.

    Attributes:
        pid: The process id.
        channel: The socket to the process.
        sentinel: A file descriptor that is readable once the process has ended.
        max_rss_bytes: Its peak resident memory, in bytes; set when `exitcode` is.
        told_exitcode: As `exitcode`, but None also for a status that could not be read.
    """

    def __init__(
        self,
        pid: int,
        channel: socket.socket,
        sentinel: FileIO,
        status: FileIO,
        server: native.Started | None = None,
    ) -> None:
        self.pid = pid
        self.channel = channel
        self.sentinel = sentinel.fileno()
        self._sentinel = sentinel
        self._server = server
        self._status: FileIO | None = status
        self._told: list[bytes] = []  # the bytes read from `_status`
        self._exitcode: int | None = None
        self.told_exitcode: int | None = None
        self.max_rss_bytes: int | None = None
        self._kept: list[Any] = []
        self._lock = native.Lock()

    def keep(self, objects: list[Any]) -> None:
        """Keep objects alive as long as the process."""
        self._kept += objects

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the process has ended; False if `timeout` seconds passed first."""
        return self._exitcode is not None or bool(wait_readable([self.sentinel], timeout))

    @property
    def exitcode(self) -> int | None:
        """The exit status; minus the signal's number if a signal ended it; None while it runs."""
        with self._lock:
            if self._exitcode is None and wait_readable([self.sentinel], 0):
                self.told_exitcode = code = self._read_status() if self._server else self._reap()
                self._exitcode = UNKNOWN_EXIT if code is None else code
            return self._exitcode

    def _reap(self) -> int | None:
        code, self.max_rss_bytes = reap(self.pid, self.sentinel)
        # A process of its own may hold the pipe open.
        if code is None and self._status is not None and wait_readable([self._status], 0):
            return self._read_status()
        return code

    def _read_status(self) -> int | None:
        assert self._status is not None
        status = self._status.fileno()
        while not self._told and not is_answered(status):
            if self._server is not None and is_stopped(self._server):
                return None
        if not self._told:  # one instruction reads and keeps the status: a signal cannot lose it
            self._told.extend(starmap(os.read, [(status, child_main.STATUS.size)]))
        [told] = self._told
        if not told:
            return kept_exit_code(self.sentinel)
        code, self.max_rss_bytes = child_main.STATUS.unpack(told)
        return int(code)

    def send_signal(self, number: int) -> None:
        """Send a signal unless the process has ended; never hits another process of that pid."""
        with self._lock:
            if self._exitcode is not None:
                return
            try:
                if hasattr(signal, "pidfd_send_signal"):
                    signal.pidfd_send_signal(self.sentinel, number)
                else:
                    os.kill(self.pid, number)
            except ProcessLookupError:
                pass

    def abandon(self) -> None:
        """End the process at once, and wait for that."""
        self.send_signal(SIGKILL)
        self.wait()
        _ = self.exitcode  # no zombie is left

    def close(self) -> None:
        """Close all but the sentinel, on which another thread may still wait."""
        self.channel.close()
        self._kept = []
        with self._lock:
            if self._status is not None and self._status is not self._sentinel:
                self._status.close()
            self._status = None

    def forget_in_child(self) -> None:
        """Close the handle in a forked child: the process is not a child of the child."""
        self._lock = native.Lock()  # another thread of the parent may have held the old one
        self.close()

    @finalizer
    def __del__(self) -> None:
        if hasattr(self, "_lock"):  # else a handler has raised in the constructor
            self.close()
            self._sentinel.close()


def connected(start: Callable[[socket.socket, FileIO, tuple[int, int]], Process]) -> Process:
    """Start a process that has a channel and a pipe for its exit status.

    Args:
        start: Starts it; is called with this process's ends of the two, and with the descriptors
            of the other ends, which are closed here afterwards.
    """
    ours, theirs = native.socketpair()
    ends: list[Any] = [ours]
    with theirs:
        try:
            status, status_there = pipe()
            ends.append(status)
            with status_there:
                return start(ours, status, (theirs.fileno(), status_there.fileno()))
        except BaseException:
            for end in ends:
                end.close()
            raise


class Helper:
    """A process that serves this one: started when first needed, and again if it was killed.

    It takes the end of its control socket for the death of this process.
    """

    def __init__(self) -> None:
        self._lock = native.Lock()
        self._control: socket.socket | None = None
        self._process: native.Started | None = None

    def _begin(
        self, main: Callable[..., Any], descriptor: int, *arguments: Any, **options: Any
    ) -> None:
        """Start the process, by a function of it that gets its end of the control socket first.

        Args:
            main: The function.
            descriptor: Another descriptor that it gets.
            arguments: More arguments, as for `interpreter.start`.
            options: As for `interpreter.start`.
        """
        with native.fork_lock:  # a child must find our end, and close it
            self._control, theirs = native.socketpair()
        with theirs:
            fds = [theirs.fileno(), descriptor]
            try:
                self._process = interpreter.start(main, (*fds, *arguments), fds, **options)
            except BaseException:
                self._close_control()
                raise

    def _has_ended(self) -> bool:
        """Whether the process has not been started, or was killed."""
        return self._process is None or self._process.poll() is not None

    def _drop(self) -> None:
        """End the process; it may be stopped by a signal, or a program that is no helper.

        It is killed before the control socket is closed, as it takes that for this one's death.
        """
        if self._process is not None:
            # If this process has another user now, the helper ends when its socket is closed; but
            # a signal may have stopped it, so nothing waits for that.
            with contextlib.suppress(PermissionError):
                self._process.kill()
                self._process.wait()
            self._process = None
        self._close_control()

    def _close_control(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None

    def stop(self) -> None:
        """End the process; those that this process has started are not affected."""
        with self._lock:
            self._drop()

    def forget_in_child(self) -> None:
        """Close the control socket in a forked child, which cannot wait for the process."""
        self._lock = native.Lock()
        self._close_control()
        if self._process is not None:
            self._process.forget()
            self._process = None


def wait_readable(files: list[Any], timeout: float | None) -> list[Any]:
    """Wait until a file is readable; return the readable files, none if `timeout` has passed."""
    deadline = None if timeout is None else time.monotonic() + timeout
    with _selector(timeout) as selector:
        for file in files:
            selector.register(file, selectors.EVENT_READ)
        while True:
            left = native.seconds_left(deadline)
            ready = selector.select(None if left is None else min(left, native.LONGEST_WAIT_S))
            if ready or (left is not None and left <= 0):
                return [key.fileobj for key, _ in ready]


def _selector(timeout: float | None) -> selectors.BaseSelector:
    """Return a selector for this thread; one that other greenlets run beside, if there are any."""
    if timeout != 0 and native.has_greenlets():
        return selectors.DefaultSelector()
    selector: selectors.BaseSelector = _Selector()
    return selector


_Selector: Any = getattr(selectors, "PollSelector", selectors.SelectSelector)


def open_sentinel(pid: int) -> FileIO | None:
    """Open a pidfd, which is readable once a child has ended; None where the system has none.

    Raises:
        OSError: There are no descriptors left.
    """
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return owned(os.pidfd_open, pid)
    except ProcessLookupError:  # it has ended, and other code here has waited for it
        ended, other_end = pipe()
        other_end.close()
        return ended


def death(pid: int | None, code: int | None, job: Any, rss_bytes: int | None = None) -> WorkerDied:
    """Return the error for a process that has ended without a result.

    Args:
        pid: Its id.
        code: Its exit code, minus the number of the signal that ended it; None if not known.
        job: The name of its job or worker.
        rss_bytes: Its peak resident memory, in bytes.
    """
    return WorkerDied(pid, code, -code if code is not None and code < 0 else None, job, rss_bytes)


def reap(pid: int, pidfd: int) -> tuple[int | None, int | None]:
    """Return how a child has ended: its exit code and its peak memory in bytes, None if not known.

    Args:
        pid: Its id.
        pidfd: A pidfd of it, for a code that is not told to this process otherwise.
    """
    try:
        _, status, usage = os.wait4(pid, 0)
    except ChildProcessError:  # SIGCHLD is ignored, or something else here waits for children
        return kept_exit_code(pidfd), None
    return os.waitstatus_to_exitcode(status), child_main.max_rss_bytes(usage)


_INFO = struct.Struct("Q52xi")
"""The kernel's `struct pidfd_info`: a mask of the known fields, 52 unused bytes, exit status."""
_PIDFD_GET_INFO, _INFO_EXIT = 0xC000FF0B | _INFO.size << 16, 1 << 3


def kept_exit_code(pidfd: int) -> int | None:
    """Return the exit code of a process that `wait4` cannot report here any more.

    Linux 6.15 and later keep it as long as a pidfd of the process is open; None on others.
    """
    asked = bytearray(_INFO.pack(_INFO_EXIT, 0))
    try:
        import fcntl

        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, asked)
    except (ImportError, OSError):  # it is a pipe, or this is another system
        return None
    known, status = _INFO.unpack(asked)
    return os.waitstatus_to_exitcode(status) if known & _INFO_EXIT else None


def is_answered(descriptor: int) -> bool:
    """Wait until the descriptor is readable; False after `STOP_CHECK_S` seconds without that.

    No other greenlet runs meanwhile, as this may be a thread that gevent does not know.
    """
    poll = native.original("select", "poll")()  # which takes no descriptor
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(STOP_CHECK_S * 1000))


def is_stopped(server: native.Started) -> bool:
    """Whether a signal has stopped a child of this process."""
    if not hasattr(os, "waitid"):
        return False
    try:
        how = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, server.pid, how) is not None
    except ChildProcessError:
        return False


def signal_group(group: int, number: int) -> bool:
    """Signal a process group; return whether it exists."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
