"""The job queue that calls of `joblib.Parallel` use, kept from one call to the next.

There is one at a time, as starting workers takes longer than most calls. A call that needs another
kind of workers replaces it; who uses the one before keeps that until its own end.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from ..job_queue import JobQueue
from . import _joblib_worker

if TYPE_CHECKING:
    from collections.abc import Callable


class Kind(NamedTuple):
    """The properties of workers that a call needs: their number, and how they begin and end."""

    num_workers: int
    variables: dict[str, str]  # of their environment
    start_method: str
    initializer: Callable[..., Any] | None = None
    initargs: Any = ()
    idle_worker_timeout: float | bool = 300.0
    max_jobs_per_worker: int | None = None
    max_memory_per_worker: int | None = None

    def is_like(self, other: Kind) -> bool:
        """Whether workers of the other kind serve as well."""
        try:
            return bool(self == other)
        except Exception:  # initargs such as arrays do not tell
            return False

    def make(self) -> JobQueue:
        """Make a queue that starts such workers when they are needed."""
        variables = _joblib_worker.Variables(self.variables)
        return JobQueue(
            self.num_workers,
            initializer=_joblib_worker.begin,
            initargs=(variables, self.initializer, self.initargs),
            auto_stop=self.idle_worker_timeout,
            start_method=self.start_method,
            max_jobs_per_worker=self.max_jobs_per_worker,
            max_memory_per_worker=self.max_memory_per_worker,
            name="joblib",
        )


class Pool:
    """A queue, and how many use it."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.queue = kind.make()
        self.num_users = 0


_lock = threading.RLock()
_kept: Pool | None = None


def take(kind: Kind) -> Pool:
    """Return the pool that is kept, if it is of this kind, or one that replaces it."""
    global _kept
    with _lock:
        before = _kept
        if before is None or not before.kind.is_like(kind):
            _kept = Pool(kind)
            _end_if_unused(before)
        assert _kept is not None
        _kept.num_users += 1
        return _kept


def give_back(pool: Pool) -> None:
    """Use a pool no longer."""
    with _lock:
        pool.num_users -= 1
        if pool is not _kept:
            _end_if_unused(pool)


def end_kept() -> None:
    """Keep no pool any more, and wait for the end of its workers if nobody uses them."""
    global _kept
    with _lock:
        pool, _kept = _kept, None
        _end_if_unused(pool)
    if pool is not None and not pool.num_users:
        pool.queue.shutdown(wait=True)


def _end_if_unused(pool: Pool | None) -> None:
    if pool is not None and not pool.num_users:
        pool.queue.shutdown(wait=False)


def _forget_in_child() -> None:
    """A forked child has no part in its parent's queue."""
    global _lock, _kept
    _lock, _kept = threading.RLock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
