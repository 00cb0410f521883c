"""Ends process trees: a signal, two seconds of grace, SIGKILL."""

from __future__ import annotations

import contextlib
import glob
import os
import select
import selectors
import signal
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from ..system import native
from .guard import children
from .handles import SIGKILL, signal_group

if TYPE_CHECKING:
    from collections.abc import Iterable

GRACE_S = 2.0
"""Seconds between SIGTERM and SIGKILL."""


class EndingTrees:
    """Process trees that were signalled, and are killed if they do not end in time.

    Args:
        selector: Reports the ends of processes; the data of its files are functions to call.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._trees: dict[ProcessTree, float] = {}  # trees, and the moments at which to kill them

    def __len__(self) -> int:
        return len(self._trees)

    def end(self, pid: int, number: int) -> None:
        """Signal a process's tree now, and kill its remaining processes later."""
        tree = ProcessTree(pid)
        tree.signal(number)
        if tree.is_over():
            tree.close()
            return
        self._trees[tree] = monotonic() + GRACE_S
        if tree.ends is not None:
            self._selector.register(tree.ends, selectors.EVENT_READ, partial(self._see_after, tree))

    def next_due(self) -> float | None:
        """Return the moment of the next kill; None if there is none."""
        return min(self._trees.values(), default=None)

    def kill_due(self, now: float) -> None:
        """Kill the trees whose grace is over."""
        for tree in [tree for tree, moment in self._trees.items() if moment <= now]:
            tree.signal(SIGKILL)
            self._drop(tree)

    def close(self) -> None:
        """Kill all trees now."""
        for tree in list(self._trees):
            tree.signal(SIGKILL)
            self._drop(tree)

    def forget_in_child(self) -> None:
        """Close the files, in a forked child: the trees are the parent's to kill."""
        for tree in self._trees:
            tree.close()

    def _see_after(self, tree: ProcessTree) -> None:
        """Forget a tree whose processes have all ended."""
        if tree in self._trees and tree.is_over():
            self._drop(tree)

    def _drop(self, tree: ProcessTree) -> None:
        del self._trees[tree]
        if tree.ends is not None:
            self._selector.unregister(tree.ends)
        tree.close()


class ProcessTree:
    """The processes that a worker's jobs have started, to be ended with the worker.

    These are the worker's process group and, as long as the worker lives, all its descendants, even
    in groups and sessions of their own. A process that has left both is not found.

    Args:
        pid: The worker's process id.

    Attributes:
        ends: A file that is readable when one of them has ended; None on systems without pidfds.
    """

    def __init__(self, pid: int) -> None:
        self._group = pid
        self._pidfds: set[int] = set()
        self.ends: select.epoll | None = None
        if hasattr(os, "pidfd_open") and os.path.exists("/proc/self/stat"):
            with contextlib.suppress(OSError):  # no descriptors left
                self.ends = native.original("select", "epoll")()
                self._add({*_descendants(pid), *_members(pid)})

    def _add(self, pids: Iterable[int]) -> None:
        assert self.ends is not None
        for pid in pids:
            with contextlib.suppress(OSError):  # the process has just ended
                pidfd = os.pidfd_open(pid)
                self._pidfds.add(pidfd)
                self.ends.register(pidfd, select.EPOLLIN)

    def signal(self, number: int) -> None:
        """Signal all processes of the tree."""
        for pidfd in self._pidfds:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(pidfd, number)
        signal_group(self._group, number)

    def is_over(self) -> bool:
        """Return whether all have ended; a zombie counts as ended, as it may never be reaped."""
        if self.ends is None:
            return not signal_group(self._group, 0)
        for pidfd, _ in self.ends.poll(0):
            self.ends.unregister(pidfd)  # closing is not enough if a forked process has it, too
            os.close(pidfd)
            self._pidfds.discard(pidfd)
        if not self._pidfds:
            self._add(_members(self._group))  # processes that were started since
        return not self._pidfds

    def close(self) -> None:
        """Close the files; the processes are left alone."""
        if self.ends is not None:
            self.ends.close()
        while self._pidfds:
            os.close(self._pidfds.pop())


def _members(group: int) -> list[int]:
    """List the processes of a process group, without zombies."""
    found: list[int] = []
    if not signal_group(group, 0):
        return found
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            # The name, in parentheses, may contain anything; the fields after it are regular.
            state, _, its_group = file.read().rpartition(b")")[2].split(maxsplit=3)[:3]
            if int(its_group) == group and state not in b"ZX":
                found.append(int(path.split("/")[2]))
    return found


def _descendants(pid: int) -> list[int]:
    """List the descendants of a process, parents first."""
    found, parents = [], [pid]
    while parents:
        started = children(parents.pop())
        found += started
        parents += started
    return found
