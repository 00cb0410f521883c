"""Starting processes and knowing when they end: fork, fork server and spawn behind one handle.

    start(work, job, method) ─┬─ fork ───────── os.fork ──────────────────> child
                              ├─ forkserver ─── fork_server.py ── fork ───> child
                              └─ spawn ──────── python -c ... ────────────> child

Where no interpreter is known that could be started (see interpreter.py), only the fork remains.

The child's side is in child_main.py. A child gets two things: a *channel*, a socket to its
starter, on which its setup comes first, and the *lifeline*, a pipe whose other end only this
process holds. When this process ends, however it ends, the kernel kills every child through the
lifeline. The descendants of the children are then killed, too: by the fork server for the children
that it has forked (see fork_server.py), by a guard for this process's own children (see guard.py).

A child imports the program's script only if that guards its start (see main_module.py).
`forkserver` is safe with any threads here, since the server has only one; `fork` copies this
process's memory and is only as safe as `os.fork`.

A fork server belongs to the process that started it; it is started when first needed, and killed
when that process ends.

Source: pidfd_open(2), fcntl(2) F_SETSIG and O_ASYNC, PIDFD_GET_INFO of linux/pidfd.h.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import socket
import struct
import sys
import time
from functools import partial
from io import FileIO
from itertools import starmap
from typing import TYPE_CHECKING, Any

from ..errors import NotSupported
from ..packing import definitions, main_module
from ..queues.shared.core import core_info
from ..system import frames, frozen, interpreter, lifecycle, module_path, native, streams
from ..system.alive import Alive
from ..system.opened import Descriptor, duplicate, owned, pipe
from . import child_main, fork_server, guard, inherited, likeness

if TYPE_CHECKING:
    from collections.abc import Callable

METHODS = ("forkserver", "spawn", "fork") if hasattr(os, "fork") else ("spawn",)
"""The start methods of this platform; the first is the default."""

_TRANSPORTS = {
    "portable": ["qmill.queues.portable.portable_queue"],
    "shared": ["qmill.queues.shared.queue"],
}

# Chosen at import, as the choice loads the core: a forked child could not go on with an import that
# another thread had begun at the fork.
PRELOADED = ["qmill.workers.api", *_TRANSPORTS.get(core_info().transport or "", ())]
"""Modules that the fork server imports once, for all children; those above this one add theirs."""

SERVER_TRIES = 3
"""A start fails after this number of fork servers in a row that ended before they answered."""

STOP_CHECK_S = 1.0
"""Seconds without an answer after which `start` checks whether a signal stopped the server."""

UNKNOWN_EXIT = 255
"""The exit code of a process whose exit status could not be read."""

_chosen_method: str | None = None


def set_start_method(method: str | None) -> None:
    """Choose the start method of process workers that are started without a `start_method`.

    Args:
        method: "forkserver" (safe with threads; the default on POSIX), "spawn" (a new interpreter;
            the default elsewhere), "fork" (copy-on-write memory of this process; unsafe while
            other threads run), or None for the default.

    Raises:
        ValueError: The method is unknown, or this platform does not have it.
    """
    global _chosen_method
    _chosen_method = None if method is None else _check_method(method)


def get_start_method(method: str | None = None) -> str:
    """Return `method`, checked, or for None the start method in force.

    The method in force is the choice of `set_start_method`, else the environment variable
    `QMILL_START_METHOD`, else the default of the platform. The default is "fork" where no
    interpreter is known that could be started, as in some frozen programs.
    """
    if method is not None:
        return _check_method(method)
    if _chosen_method is not None:
        return _chosen_method
    if from_environment := os.environ.get("QMILL_START_METHOD"):
        return _check_method(from_environment, "QMILL_START_METHOD")
    return METHODS[0] if "fork" not in METHODS or interpreter.is_known() else "fork"


def usable_start_method(method: str | None = None) -> str:
    """Return the start method, as `get_start_method`, if this process can start others by it.

    Raises:
        NotSupported: The method needs an interpreter, and none is known.
        RuntimeError: This process is a copy of a program that was to be its worker.
    """
    frozen.check_has_begun()
    method = get_start_method(method)
    if method != "fork":
        interpreter.check_known()
    return method


def is_method_chosen() -> bool:
    """Whether the program or its environment has said how processes start."""
    return _chosen_method is not None or bool(os.environ.get("QMILL_START_METHOD"))


def _check_method(method: object, argument: str = "start_method") -> str:
    if method not in METHODS:
        raise ValueError(f"{argument} must be one of {', '.join(METHODS)}; got {method!r}")
    return str(method)


class Process:
    """A started process.

    Attributes:
        pid: The process id.
        channel: The socket to the process.
        sentinel: A file descriptor that is readable once the process has ended.
        max_rss_bytes: Its peak resident memory, in bytes; set when `exitcode` is.
        told_exitcode: As `exitcode`, but None also for a status that could not be read.
    """

    def __init__(
        self, pid: int, channel: socket.socket, sentinel: FileIO, status: FileIO, *, is_ours: bool
    ) -> None:
        self.pid = pid
        self.channel = channel
        self.sentinel = sentinel.fileno()
        self._sentinel = sentinel
        self._is_ours = is_ours  # a child of this process, else of the fork server
        self._server = None if is_ours else _fork_server.current()
        # The fork server, or our own child as the last thing it does, writes its exit status here.
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
                self.told_exitcode = code = self._reap() if self._is_ours else self._read_status()
                self._exitcode = UNKNOWN_EXIT if code is None else code
            return self._exitcode

    def _reap(self) -> int | None:
        try:
            _, status, usage = os.wait4(self.pid, 0)
        except ChildProcessError:  # SIGCHLD is ignored, or something else here waits for children
            if (code := kept_exit_code(self.sentinel)) is not None:
                return code
            # A process of its own may hold the pipe open.
            ready = self._status is not None and wait_readable([self._status], 0)
            return self._read_status() if ready else None
        self.max_rss_bytes = child_main.max_rss_bytes(usage)
        return os.waitstatus_to_exitcode(status)

    def _read_status(self) -> int | None:
        assert self._status is not None
        status = self._status.fileno()
        while not self._told and not _is_answered(status):
            if self._server is not None and _is_stopped(self._server):
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
        self.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
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

    def __del__(self) -> None:
        self.close()
        self._sentinel.close()


_PID = struct.Struct("!i")


def wait_readable(files: list[Any], timeout: float | None) -> list[Any]:
    """Wait until a file is readable; return the readable files, none if `timeout` has passed."""
    deadline = None if timeout is None else time.monotonic() + timeout
    with _selector(timeout) as selector:
        for file in files:
            selector.register(file, selectors.EVENT_READ)
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
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


def start(
    work: str,
    job: Any,
    method: str,
    pack: Callable[[Any], tuple[bytes | bytearray, Any]],
    *,
    leads_group: bool = True,
) -> Process:
    """Start a process.

    Args:
        work: The function that runs in the process, as "module:function"; it is called with the
            channel and a function that returns the job.
        job: The argument of `work`. Under "fork" it is inherited, else packed.
        method: One of `METHODS`.
        pack: Packs the job and the globals that it uses, as `environment.dumps_for_process`. It
            runs before anything is started, and may raise.
        leads_group: Whether the process is going to lead a process group. The group then shows
            which processes it has started; else a guard finds them.

    Raises:
        OSError: The system refuses another process.
        NotSupported: This is no POSIX system, or no interpreter is known that could be started.
        RuntimeError: This process is a worker that is importing the script, or a copy of a frozen
            program that was to be a worker.
    """
    main_module.check_may_start()
    frozen.check_has_begun()
    if not hasattr(socket, "send_fds"):
        raise NotSupported("process workers need a POSIX system; use kind='thread' on this one")
    if method == "fork":
        inherited.run_tracker()
        line = lifeline() if leads_group else native.shielded(_guardian.lifeline, id)
        return _fork(work, job, line, leads_group=leads_group)
    how = _start_by_server if method == "forkserver" else partial(_start_spawned, leads_group)
    estate = inherited.Estate()
    process = None
    try:
        packed = estate.pack(pack, job)
        # The output of this process comes before the child's. A notebook's streams make a socket
        # for each thread that flushes them, so no short-lived thread does.
        streams.flush()
        process = native.shielded(how, Process.abandon)
        if method == "spawn" and not leads_group:
            _guardian.watch(process)
        _send_setup(process.channel, work, packed, estate)
        process.keep(estate.kept)
        estate.close()
        return process
    except BaseException:
        if process is not None:
            process.abandon()
        estate.close()
        raise


def _start(how: Callable[[socket.socket, socket.socket], Process]) -> Process:
    ours, theirs = native.socketpair()
    try:
        return how(ours, theirs)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()


def _start_spawned(leads_group: bool) -> Process:
    line = lifeline() if leads_group else _guardian.lifeline()
    return _start(lambda ours, theirs: _spawn(ours, theirs, line))


def _start_by_server() -> Process:
    """Start a process by the fork server, or by another one if that is killed meanwhile.

    Each try has a channel of its own: the server may have died after the fork, and its child, which
    nobody knows, has the old one.
    """
    _fork_server.forget_ended()
    for _ in range(SERVER_TRIES):
        try:
            return _start(_fork_server.fork)
        except _ServerGoneError:
            pass
    raise ChildProcessError(
        f"the fork server, which starts processes, has ended {SERVER_TRIES} times in a row before "
        "it had started one: something kills it, or it cannot begin, and what it has printed may "
        'tell why; start_method="spawn" does without it'
    )


def _send_setup(
    channel: socket.socket,
    work: str,
    job: tuple[bytes | bytearray, Any],
    estate: inherited.Estate,
) -> None:
    """Send a child its setup: this process's environment and import path, and the job."""
    packed, names = job
    environment, things = (None, {}) if names is None else names
    multiprocessing = inherited.settings_for(estate)  # may add a descriptor
    setup = {
        "environ": dict(os.environ),
        "cwd": _cwd(),
        "path": module_path.folders(),
        "modules": module_path.by_file(),
        "argv": sys.argv,
        "work": work,
        "script": main_module.importable(),
        "environment": environment,
        "things": list(things),
        "start_method": _chosen_method,
        "likeness": likeness.of_this_process(),
        "multiprocessing": multiprocessing,
        "num_descriptors": len(estate),
    }
    parts = frames.encode((setup,), [packed, *things.values()])
    try:
        while parts:
            parts = frames.send_some(channel, parts)
        estate.send(channel)
    except ConnectionError:
        pass  # the child has died already, which its sentinel shows


def _cwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it has been removed
        return None


# -- the lifeline ------------------------------------------------------------------------------

_lifeline: tuple[int, int] | None = None


def lifeline() -> int:
    """Return the children's end of this process's lifeline."""
    if _lifeline is None:
        native.shielded(_make_lifeline, id)
    assert _lifeline is not None
    return _lifeline[0]


def _make_lifeline() -> None:
    global _lifeline
    with native.fork_lock:
        if _lifeline is None:
            _lifeline = os.pipe()


# -- three ways to start -----------------------------------------------------------------------


def _fork(work: str, job: Any, line: int, *, leads_group: bool) -> Process:
    """Fork a child; in this thread, whose memory and thread-local values it is to have.

    One instruction forks and notes the child's id, and each descriptor has an owner from the first:
    a handler may raise between any two.
    """
    streams.flush()  # the output of this process comes before the child's
    definitions.know_mains()
    ours, theirs = native.socketpair()
    line_there = duplicate(line)  # the at-fork handler closes the original
    status, status_there = pipe()
    pids: list[int] = []
    process = None
    mask = native.original("_signal", "pthread_sigmask")  # that of `signal` is Python
    # Signals are blocked: an exception that a handler raises in the middle of a fork is lost in an
    # at-fork handler, or makes the child go on with the parent's code.
    blocked = mask(signal.SIG_BLOCK, ())
    try:
        mask(signal.SIG_BLOCK, signal.valid_signals())
        pids.extend(starmap(native.original("os", "fork"), [()]))
        if pids == [0]:
            native.after_fork_in_child()
            status.close()
            there = line_there.fileno(), status_there.fileno()
            child_main.run_forked(work, job, ours, theirs, *there, blocked)
        process = _own(pids[0], ours, status)
        for end in (theirs, line_there, status_there):
            end.close()
        with contextlib.suppress(ConnectionError):  # it was killed
            ours.send(b"g")  # it waits, so that it cannot end before its pidfd is open
        if not leads_group:
            _guardian.watch(process)
        mask(signal.SIG_SETMASK, blocked)
        return process
    except BaseException:
        mask(signal.SIG_SETMASK, blocked)
        if process is not None:
            process.abandon()
        elif pids:
            child = native.Started(pids[0])
            child.kill()
            child.wait()
        for each in (ours, theirs, line_there, status, status_there):
            each.close()
        raise


def _own(pid: int, channel: socket.socket, status: FileIO) -> Process:
    """Return the handle of a child of this process."""
    sentinel = open_sentinel(pid)
    return Process(pid, channel, status if sentinel is None else sentinel, status, is_ours=True)


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


def _spawn(ours: socket.socket, theirs: socket.socket, line: int) -> Process:
    status, status_there = pipe()
    with status_there:
        fds = [theirs.fileno(), line, status_there.fileno()]
        try:
            child = _start_interpreter(child_main.main, tuple(fds), fds)
        except BaseException:
            status.close()
            raise
    return _own(child.pid, ours, status)


def _start_interpreter(
    main: Callable[..., Any],
    arguments: tuple[Any, ...],
    fds: list[int],
    without_site: bool = False,
) -> native.Started:
    cwd = None if _cwd() else os.sep  # some interpreters do not start in a removed folder
    return interpreter.start(main, arguments, fds, without_site=without_site, cwd=cwd)


class _ServerGoneError(Exception):
    """The fork server ended, or was stopped, before it answered."""


def _is_answered(descriptor: int) -> bool:
    """Wait until the descriptor is readable; False after `STOP_CHECK_S` seconds without that.

    No other greenlet runs meanwhile, as this may be a thread that gevent does not know.
    """
    poll = native.original("select", "poll")()  # which takes no descriptor
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(STOP_CHECK_S * 1000))


def _is_stopped(server: native.Started) -> bool:
    """Whether a signal has stopped a child of this process."""
    if not hasattr(os, "waitid"):
        return False
    try:
        how = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, server.pid, how) is not None
    except ChildProcessError:
        return False


class _ForkServer:
    """This process's fork server: started when first needed, again after it was killed or stopped.

    A forked process has the user and the root folder of its server. So if this process has changed
    these, it starts another server. The older one stays, to report how its children end.
    """

    def __init__(self) -> None:
        self._lock = native.Lock()
        self._control: socket.socket | None = None
        self._server: native.Started | None = None
        self._identity: object = None  # of this process when it started the server
        self._older: list[tuple[socket.socket, native.Started | None]] = []

    def current(self) -> native.Started | None:
        """Return the server's process."""
        return self._server

    def forget_ended(self) -> None:
        """Forget a server that was killed between two starts."""
        with self._lock:
            if self._server is not None and self._server.poll() is not None:
                self._drop()

    def fork(self, ours: socket.socket, theirs: socket.socket) -> Process:
        """Have the server fork a child that holds `theirs`.

        Raises:
            _ServerGoneError: It was killed, or is stopped.
            OSError: It cannot fork, or cannot be started.
        """
        status, status_there = pipe()
        with status_there:
            try:
                with self._lock:
                    pid, sentinel = self._ask(theirs.fileno(), status_there.fileno())
                    sentinel = status if sentinel is None else sentinel
                    return Process(pid, ours, sentinel, status, is_ours=False)
            except BaseException:
                status.close()
                raise

    def _ask(self, *fds: int) -> tuple[int, FileIO | None]:
        """Return a new child's pid and pidfd, if the system has these."""
        if self._control is not None and self._identity != _identity():
            self._set_aside()
        if self._control is None:
            self._start()
        assert self._control is not None
        assert self._server is not None
        try:
            with native.cut_off_by(self._server.kill):
                socket.send_fds(self._control, [b"f"], list(fds))
                while not _is_answered(self._control.fileno()):
                    if _is_stopped(self._server):
                        self._set_aside()
                        raise _ServerGoneError
                answer, received, _, _ = socket.recv_fds(self._control, _PID.size, 1)
        except ConnectionError:
            answer = b""
        except _ServerGoneError:
            raise
        except BaseException:  # nobody will read the answer that is under way
            self._drop()
            raise
        if not answer:
            self._drop()
            raise _ServerGoneError
        (pid,) = _PID.unpack(answer)
        if pid < 0:
            raise OSError(-pid, f"the fork server cannot fork: {os.strerror(-pid)}")
        if not received:
            return pid, None
        os.set_inheritable(received[0], False)
        return pid, Descriptor(received[0])

    def _start(self) -> None:
        with native.fork_lock:  # a child must find our end, and close it
            self._control, theirs = native.socketpair()
        self._identity = _identity()
        with theirs:
            fds = [theirs.fileno(), lifeline()]
            try:
                self._server = _start_interpreter(fork_server.main, (*fds, PRELOADED), fds)
            except BaseException:
                self._drop()
                raise

    def _set_aside(self) -> None:
        """Send the server no more requests; it stays, to report how its children end."""
        assert self._control is not None
        self._older.append((self._control, self._server))
        self._control = self._server = None

    def _drop(self) -> None:
        """End the server; it may be stopped by a signal, or a program that is no server.

        It is killed before the control socket is closed: a server that sees the socket close
        takes this process for dead, and kills its children's descendants.
        """
        if self._server is not None:
            try:
                self._server.kill()
            except PermissionError:  # this process has another user now
                self._close_control()
            self._server.wait()
            self._server = None
        self._close_control()

    def _close_control(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None

    def stop(self) -> None:
        """End the server; its children are not affected."""
        with self._lock:
            self._drop()
            while self._older:
                self._control, self._server = self._older.pop()
                self._drop()

    def forget_in_child(self) -> None:
        """Close the sockets to the parent's servers in a forked child; it cannot wait for them."""
        self._lock = native.Lock()
        for control, server in [(self._control, self._server), *self._older]:
            if control is not None:
                control.close()
            if server is not None:
                server.forget()
        self._control = self._server = None
        self._older.clear()


class _Guardian:
    """This process's guard, started when first needed, and again if it was killed."""

    def __init__(self) -> None:
        self._lock = native.Lock()
        self._control: socket.socket | None = None
        self._guard: native.Started | None = None
        self._line: tuple[int, int] | None = None  # its writing end is the guard's, too
        self._watched = Alive()

    def lifeline(self) -> int:
        """Return the children's end of the lifeline that the guard holds, too.

        Where there can be no guard, for want of /proc or of an interpreter, return the children's
        end of this process's own lifeline.

        Raises:
            OSError: The system refuses another process.
        """
        if not _can_guard():
            return lifeline()
        with self._lock:
            if self._guard is None or self._guard.poll() is not None:
                self._start()
            assert self._line is not None
            return self._line[0]

    def watch(self, process: Process) -> None:
        """Have the descendants of a child of this process end when this process ends."""
        with self._lock:
            self._watched.add(process)
            self._tell(process)

    def _tell(self, process: Process) -> None:
        if self._control is not None:
            with contextlib.suppress(OSError):  # it was killed; the next start makes another one
                number = guard.PID.pack(process.pid)
                socket.send_fds(self._control, [number], [process.sentinel])

    def _start(self) -> None:
        self._close_control()
        with native.fork_lock:  # a child must find our ends, and close them
            if self._line is None:
                self._line = os.pipe()
            self._control, theirs = native.socketpair()
        with theirs:
            fds = [theirs.fileno(), self._line[1]]
            try:
                self._guard = _start_interpreter(guard.main, tuple(fds), fds, without_site=True)
            except BaseException:
                self._close_control()
                raise
        for process in list(self._watched):
            if not process.wait(0):
                self._tell(process)

    def _close_control(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None

    def descriptors(self) -> list[int]:
        """List the descriptors that stay open for the life of this process."""
        control = [] if self._control is None else [self._control.fileno()]
        return [*control, *(self._line or ())]

    def stop(self) -> None:
        """Kill the guard, then close the control socket: it takes that for this process's death."""
        with self._lock:
            if self._guard is not None:
                with contextlib.suppress(PermissionError):  # this process has another user now
                    self._guard.kill()
                    self._guard.wait()
                self._guard = None
            self._close_control()

    def forget_in_child(self) -> None:
        """Close the descriptors of the parent's guard in a forked child."""
        self._lock = native.Lock()
        self._close_control()
        for descriptor in self._line or ():
            os.close(descriptor)
        if self._guard is not None:
            self._guard.forget()
        self._guard = self._line = None
        self._watched = Alive()


def _can_guard() -> bool:
    return (
        hasattr(os, "pidfd_open")
        and os.path.exists(f"/proc/self/task/{os.getpid()}/children")
        and interpreter.is_known()
    )


_guardian = _Guardian()


def _identity() -> object:
    """Return the users and groups of this process and its root folder; None if not known."""
    names = ("getresuid", "getresgid", "getgroups", "geteuid", "getegid")
    try:
        root = os.stat(os.sep)
    except OSError:
        return None
    return [getattr(os, name)() for name in names if hasattr(os, name)], root.st_dev, root.st_ino


_fork_server = _ForkServer()
stop_fork_server = _fork_server.stop


def _close_lifeline() -> None:
    """Close a forked child's copy, which would keep the parent's children alive after its death."""
    global _lifeline
    for descriptor in _lifeline or ():
        os.close(descriptor)
    _lifeline = None


lifecycle.at_exit(lifecycle.FORK_SERVER, stop_fork_server)
lifecycle.at_exit(lifecycle.GUARD, _guardian.stop)
lifecycle.at_fork(lifecycle.FORK_SERVER, in_child=_fork_server.forget_in_child)
lifecycle.at_fork(lifecycle.GUARD, in_child=_guardian.forget_in_child)
lifecycle.at_fork(lifecycle.LIFELINE, in_child=_close_lifeline)
