"""Processes that are to end, with all that they have started: a signal, a grace, SIGKILL."""

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

from .. import _native

if TYPE_CHECKING:
    from collections.abc import Iterable

GRACE_S = 2.0
"""Seconds that a process has to end after SIGTERM, before SIGKILL."""

SIGKILL = getattr(signal, "SIGKILL", signal.SIGTERM)


class EndingTrees:
    """Process trees that have been told to end, and are killed when their time is over.

    Args:
        selector: What tells of their ends; its files' data are functions to call.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._trees: dict[ProcessTree, float] = {}  # what is to be killed, and when

    def __len__(self) -> int:
        return len(self._trees)

    def end(self, pid: int, number: int) -> None:
        """Signal what a process has started, and later kill who is left."""
        tree = ProcessTree(pid)
        tree.signal(number)
        if tree.is_over():
            tree.close()
            return
        self._trees[tree] = monotonic() + GRACE_S
        if tree.ends is not None:
            self._selector.register(tree.ends, selectors.EVENT_READ, partial(self._see_after, tree))

    def next_due(self) -> float | None:
        """Return when one is to be killed; None if there is none."""
        return min(self._trees.values(), default=None)

    def kill_due(self, now: float) -> None:
        """Kill those whose time is over."""
        for tree in [tree for tree, moment in self._trees.items() if moment <= now]:
            tree.signal(SIGKILL)
            self._drop(tree)

    def close(self) -> None:
        """Kill them all now."""
        for tree in list(self._trees):
            tree.signal(SIGKILL)
            self._drop(tree)

    def forget_in_child(self) -> None:
        """They are the parent's."""
        for tree in self._trees:
            tree.close()

    def _see_after(self, tree: ProcessTree) -> None:
        """Forget a tree of whom nobody is left: nothing has to wait for its time."""
        if tree in self._trees and tree.is_over():
            self._drop(tree)

    def _drop(self, tree: ProcessTree) -> None:
        del self._trees[tree]
        if tree.ends is not None:
            self._selector.unregister(tree.ends)
        tree.close()


class ProcessTree:
    """Processes that a worker's jobs have started, to be ended with it.

    That is the worker's process group, and, as long as the worker lives, all its descendants: those
    may be in groups and sessions of their own. Who has left both is not found.

    Args:
        pid: The worker's process.

    Attributes:
        ends: A file that is ready to be read when one of them has ended; None where there is no
            such thing.
    """

    def __init__(self, pid: int) -> None:
        self._group = pid
        self._pidfds: set[int] = set()
        self.ends: select.epoll | None = None
        if hasattr(os, "pidfd_open") and os.path.exists("/proc/self/stat"):
            with contextlib.suppress(OSError):  # no descriptors left
                self.ends = _native.original("select", "epoll")()
                self._add({*_descendants(pid), *_members(pid)})

    def _add(self, pids: Iterable[int]) -> None:
        assert self.ends is not None
        for pid in pids:
            with contextlib.suppress(OSError):  # it has just ended
                pidfd = os.pidfd_open(pid)
                self._pidfds.add(pidfd)
                self.ends.register(pidfd, select.EPOLLIN)

    def signal(self, number: int) -> None:
        """Signal all of them."""
        for pidfd in self._pidfds:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(pidfd, number)
        _signal_group(self._group, number)

    def is_over(self) -> bool:
        """See whether all have ended; zombies, which nobody may ever reap, have."""
        if self.ends is None:
            return not _signal_group(self._group, 0)
        for pidfd, _ in self.ends.poll(0):
            self.ends.unregister(pidfd)  # closing does not, if a forked process has it, too
            os.close(pidfd)
            self._pidfds.discard(pidfd)
        if not self._pidfds:
            self._add(_members(self._group))  # who has come since
        return not self._pidfds

    def close(self) -> None:
        """Forget them."""
        if self.ends is not None:
            self.ends.close()
        while self._pidfds:
            os.close(self._pidfds.pop())


def _signal_group(group: int, number: int) -> bool:
    """Signal a process group; False if there is none."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _members(group: int) -> list[int]:
    """List the processes of a process group that are no zombies."""
    found: list[int] = []
    if not _signal_group(group, 0):
        return found
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            # The name, in parentheses, may contain anything; what follows the last one is regular.
            state, _, its_group = file.read().rpartition(b")")[2].split(maxsplit=3)[:3]
            if int(its_group) == group and state not in b"ZX":
                found.append(int(path.split("/")[2]))
    return found


def _descendants(pid: int) -> list[int]:
    """List the processes that a process has started, and those have, from the top."""
    found, parents = [], [pid]
    while parents:
        parent = parents.pop()
        for path in glob.glob(f"/proc/{parent}/task/*/children"):
            with contextlib.suppress(OSError), open(path, "rb") as file:
                children = [int(word) for word in file.read().split()]
                found += children
                parents += children
    return found
