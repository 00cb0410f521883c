"""The guard: a process that ends the processes started by the workers of a dead program.

    owner ── pidfd of each worker ──────────> guard
      └───── lifeline of these workers ────────┘   both hold its writing end

A fork server is its workers' parent, and adopts the processes that they leave. Workers of "fork"
and "spawn" are the program's own children: if they were killed together with the program, no
process could find out any more which processes they had started. So these workers die a moment
after their owner. When the control socket closes, the guard stops each of them and its descendants,
from the top down, so that no process is added meanwhile, and kills them all. A worker of which the
guard has not been told yet dies by the lifeline, which closes as the guard ends; if the guard was
killed before, the owner's end alone closes it.

Processes that have made a process group or a session of their own are left alone, as by the fork
server. The guard has its own session, so that it gets no signals from the terminal, as at Ctrl-Z.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
from typing import NoReturn

PID = struct.Struct("!i")
"""A worker's process id, which comes with its pidfd."""

_STOP_MS = 1000
"""Milliseconds that a process has to stop; one that is stuck in the kernel starts no others."""


def main(control_fd: int, lifeline: int) -> NoReturn:
    """Serve until the owner is gone.

    Args:
        control_fd: The socket to the owner.
        lifeline: The writing end, which this process holds until it ends.
    """
    os.set_inheritable(lifeline, False)
    owners_group = os.getpgrp()
    with contextlib.suppress(OSError):  # this process leads a group already
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=control_fd)
    workers: dict[int, int] = {}  # pids, by pidfd
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor != control_fd:
                poll.unregister(descriptor)
                del workers[descriptor]
                os.close(descriptor)
                continue
            worker = _receive(control)
            if worker is None:
                _end_all(workers, owners_group)
                os._exit(0)
            pidfd, workers[pidfd] = worker
            poll.register(pidfd, select.POLLIN)


def _receive(control: socket.socket) -> tuple[int, int] | None:
    """Receive a worker's pidfd and pid; None at the end."""
    try:
        data, descriptors, _, _ = socket.recv_fds(control, PID.size, 1)
    except ConnectionError:
        return None
    if not descriptors:
        return None
    os.set_inheritable(descriptors[0], False)
    return descriptors[0], *PID.unpack(data)


def _end_all(workers: dict[int, int], owners_group: int) -> None:
    """Kill the workers' descendants and the workers, also those not yet on their lifeline."""
    doomed: list[int] = []
    for pidfd, pid in workers.items():
        with contextlib.suppress(OSError):  # it has just ended
            groups = {owners_group, os.getpgid(pid)}
            doomed += _stopped_tree(pid, pidfd, groups)
    for pidfd in [*doomed, *workers]:
        _signal(pidfd, signal.SIGKILL)


def _stopped_tree(pid: int, pidfd: int, groups: set[int]) -> list[int]:
    """Stop a process and its descendants in these groups; return the descendants' pidfds."""
    doomed, parents = [], [(pid, pidfd)]
    while parents:
        parent, parents_pidfd = parents.pop()
        _stop(parent, parents_pidfd)
        for child in children(parent):  # a stopped parent reaps none: they stay who they are
            with contextlib.suppress(OSError):
                if os.getpgid(child) in groups:
                    pidfd = os.pidfd_open(child)
                    doomed.append(pidfd)
                    parents.append((child, pidfd))
    return doomed


def _stop(pid: int, pidfd: int) -> None:
    """Stop a process, and wait for that: until then it may start others."""
    if not _signal(pidfd, signal.SIGSTOP):
        return
    ends = select.poll()
    ends.register(pidfd, select.POLLIN)
    for _ in range(_STOP_MS):  # a loop, as only its parent is notified of the stop
        if _state(pid) in b"TtZX" or ends.poll(1):
            return


def _signal(pidfd: int, number: int) -> bool:
    """Signal a process; False if it has ended, or is another user's."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except OSError:
        return False
    return True


def _state(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split(maxsplit=1)[0]
    except OSError:
        return b"X"


def children(pid: int) -> list[int]:
    """List the processes that a process has started and that are still its children."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with (
                contextlib.suppress(OSError),  # the thread has just ended
                open(f"/proc/{pid}/task/{thread}/children", "rb") as file,
            ):
                found += map(int, file.read().split())
    return found
