"""The fork server: a process with one thread and no state, from which children fork quickly.

    owner ── "f" + (channel, status pipe) ──> server ── fork ──> child
          <── pid + pidfd ───────────────────
    server ── exit code, when the child has ended ──> status pipe

It ignores Ctrl-C, which the terminal sends to all processes: the owner decides which ones end.

A fork server belongs to the process that started it, its owner; see `ForkServer`. An owner that
ends normally kills the server first. If the control socket closes, the owner has died
without doing so, and the server ends the owner's remaining processes. The kernel kills the workers.
By that the processes that the workers have started become children of the server, which is their
*subreaper*. The server kills them if they are still in the owner's process group or in that of a
worker.

Source: prctl(2) PR_SET_CHILD_SUBREAPER.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import selectors
import signal
import socket
import struct
from functools import partial
from io import FileIO
from typing import NoReturn

from ..errors import NotSupported
from ..queues.shared.core import MODULES, choose
from ..system import lifecycle, native, streams, threads
from ..system.opened import Descriptor
from . import child_main
from .guard import children
from .handles import Helper, Process, connected, is_answered, is_stopped, signal_group

_NUMBER = struct.Struct("!i")
_PR_SET_CHILD_SUBREAPER = 36

PRELOADED = ["qmill.workers.api"]
"""Modules that the fork server imports once, for all children; those above this one add theirs."""

# Chosen at import, as the choice loads the core: a forked child could not go on with an import that
# another thread had begun at the fork.
with contextlib.suppress(NotSupported):  # QMILL_TRANSPORT is wrong, as the first queue will tell
    PRELOADED.append(f"qmill.{MODULES[choose()]}")

SERVER_TRIES = 3
"""A start fails after this number of fork servers in a row that ended before they answered."""

# -- the server --------------------------------------------------------------------------------

_groups: set[int] = set()
"""The process groups that children may have made for themselves, by their leaders' ids."""


def main(control_fd: int, lifeline: int, modules: list[str]) -> NoReturn:
    """Import the modules that every child needs, then serve until the owner is gone."""
    for module in modules:
        importlib.import_module(module)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _adopt_orphans()
    control = socket.socket(fileno=control_fd)
    woken, waker = socket.socketpair()
    for sock in (woken, waker):
        sock.setblocking(False)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    statuses: dict[int, int] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is woken:
                    with contextlib.suppress(BlockingIOError):
                        woken.recv(4096)
                    _reap(statuses)
                else:
                    _serve(control, lifeline, statuses, [woken, waker, selector])


def _serve(
    control: socket.socket,
    lifeline: int,
    statuses: dict[int, int],
    ours: list[socket.socket | selectors.BaseSelector],
) -> None:
    try:
        request, fds, _, _ = socket.recv_fds(control, 1, 2)
    except ConnectionError:
        request = b""
    if not request:
        _end_orphans()
        os._exit(0)
    channel, status = fds
    for descriptor in fds:
        os.set_inheritable(descriptor, False)
    streams.flush()  # for one, the output of a site's start-up
    try:
        pid = os.fork()
    except OSError as error:
        control.send(_NUMBER.pack(-(error.errno or 1)))
        os.close(channel)
        os.close(status)
        return
    if pid == 0:
        _be_child(channel, lifeline, [control, *ours], [status, *statuses.values()])
    os.close(channel)
    statuses[pid] = status
    _groups.add(pid)
    if hasattr(os, "pidfd_open"):
        pidfd = os.pidfd_open(pid)
        socket.send_fds(control, [_NUMBER.pack(pid)], [pidfd])
        os.close(pidfd)
    else:
        control.send(_NUMBER.pack(pid))


def _be_child(
    channel: int,
    lifeline: int,
    ours: list[socket.socket | selectors.BaseSelector],
    statuses: list[int],
) -> NoReturn:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for thing in ours:
        thing.close()
    for status in statuses:
        os.close(status)
    child_main.run_from_server(socket.socket(fileno=channel), lifeline)


def _reap(statuses: dict[int, int]) -> None:
    """Report how children have ended."""
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if not signal_group(pid, 0):
            _groups.discard(pid)
        descriptor = statuses.pop(pid, None)
        if descriptor is None:  # it was adopted
            continue
        with contextlib.suppress(BrokenPipeError):
            code, rss_bytes = os.waitstatus_to_exitcode(status), child_main.max_rss_bytes(usage)
            os.write(descriptor, child_main.STATUS.pack(code, rss_bytes))
        os.close(descriptor)


# -- remaining processes of a dead owner ---------------------------------------------------------


def _adopt_orphans() -> None:
    """Become the parent of processes whose parent, a descendant of the server, has ended.

    Systems without subreapers do not have that.
    """
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes  # which takes milliseconds, and only the server needs it

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_orphans() -> None:
    """Kill the processes in the groups of the owner and its workers until none is left.

    Each kill may make further descendants children of the server.
    """
    _groups.add(os.getpgrp())
    while orphans := [pid for pid in children(os.getpid()) if _group_of(pid) in _groups]:
        for pid in orphans:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for pid in orphans:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


# -- the owner's side --------------------------------------------------------------------------


class _ServerGoneError(Exception):
    """The fork server ended, or was stopped, before it answered."""


class ForkServer(Helper):
    """A process's fork server, also started anew when it was stopped.

    A forked process has the user and the root folder of its server. So if this process has changed
    these, it starts another server. The older one stays, to report how its children end.
    """

    def __init__(self) -> None:
        super().__init__()
        self._identity: object = None  # of this process when it started the server
        self._older: list[tuple[socket.socket | None, native.Started | None]] = []

    def fork(self, lifeline: int) -> Process:
        """Start a process by the server, or by another one if that is killed meanwhile.

        Each try has a channel of its own: the server may have died after the fork, and its child,
        which nobody knows, has the old one.

        Args:
            lifeline: The children's end of this process's lifeline.

        Raises:
            OSError: The server cannot fork, or cannot be started.
        """
        with self._lock:
            if self._has_ended():
                self._drop()
        for _ in range(SERVER_TRIES):
            try:
                return connected(partial(self._fork, lifeline))
            except _ServerGoneError:
                pass
        raise ChildProcessError(
            f"the fork server, which starts processes, has ended {SERVER_TRIES} times in a row "
            "before it had started one: something kills it, or it cannot begin, and what it has "
            'printed may tell why; start_method="spawn" does without it'
        )

    def _fork(
        self, lifeline: int, ours: socket.socket, status: FileIO, there: tuple[int, int]
    ) -> Process:
        with self._lock:
            if self._control is not None and self._identity != _identity():
                self._set_aside()
            if self._control is None:
                self._identity = _identity()
                self._begin(main, lifeline, PRELOADED)
            assert self._control is not None
            assert self._process is not None
            pid, sentinel = self._ask(self._control, self._process, there)
            return Process(pid, ours, sentinel or status, status, self._process)

    def _ask(
        self, control: socket.socket, server: native.Started, fds: tuple[int, int]
    ) -> tuple[int, FileIO | None]:
        """Return a new child's pid and pidfd, if the system has these."""
        try:
            with threads.cut_off_by(server.kill):
                socket.send_fds(control, [b"f"], fds)
                while not is_answered(control.fileno()):
                    if is_stopped(server):
                        self._set_aside()
                        raise _ServerGoneError
                answer, received, _, _ = socket.recv_fds(control, _NUMBER.size, 1)
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
        (pid,) = _NUMBER.unpack(answer)
        if pid < 0:
            raise OSError(-pid, f"the fork server cannot fork: {os.strerror(-pid)}")
        if not received:
            return pid, None
        os.set_inheritable(received[0], False)
        return pid, Descriptor(received[0])

    def _set_aside(self) -> None:
        """Send the server no more requests; it stays, to report how its children end."""
        self._older.append((self._control, self._process))
        self._control = self._process = None

    def stop(self) -> None:
        """End the server; its children are not affected."""
        with self._lock:
            self._drop()
            while self._older:
                self._control, self._process = self._older.pop()
                self._drop()

    def forget_in_child(self) -> None:
        """Close the sockets to the parent's servers in a forked child; it cannot wait for them."""
        super().forget_in_child()
        while self._older:
            self._control, self._process = self._older.pop()
            super().forget_in_child()


def _identity() -> object:
    """Return the users and groups of this process and its root folder; None if not known."""
    names = ("getresuid", "getresgid", "getgroups", "geteuid", "getegid")
    try:
        root = os.stat(os.sep)
    except OSError:
        return None
    return [getattr(os, name)() for name in names if hasattr(os, name)], root.st_dev, root.st_ino


own_server = ForkServer()
fork = own_server.fork
stop = own_server.stop

lifecycle.at_exit(lifecycle.FORK_SERVER, stop)
lifecycle.at_fork(lifecycle.FORK_SERVER, in_child=own_server.forget_in_child)
