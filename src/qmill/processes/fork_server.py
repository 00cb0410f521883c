"""The fork server: a process with one thread and no state, from which children fork quickly.

    owner ── "f" + (channel, status pipe) ──> server ── fork ──> child
          <── pid + pidfd ───────────────────
    server ── exit code, when the child has ended ──> status pipe

It ignores Ctrl-C, which the terminal sends to all processes: the owner decides which ones end.

An owner that ends normally kills the server first. If the control socket closes, the owner has died
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
from typing import NoReturn

from ..system import streams
from . import child_main

_NUMBER = struct.Struct("!i")
_PR_SET_CHILD_SUBREAPER = 36

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
        if not _has_members(pid):
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
    while orphans := [pid for pid in _children() if _group_of(pid) in _groups]:
        for pid in orphans:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for pid in orphans:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _has_members(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
