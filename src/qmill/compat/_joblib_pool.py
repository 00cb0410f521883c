"""The job queue that calls of `joblib.Parallel` use, kept from one call to the next.

It is kept since starting workers takes longer than most calls. One queue is kept at a time. A call
that needs workers of another kind replaces it; calls that still use the old queue keep that until
they end.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from ..job_queue.queue import JobQueue
from ..system import lifecycle
from . import _joblib_worker

if TYPE_CHECKING:
    from collections.abc import Callable


class Kind(NamedTuple):
    """The workers that a call needs: their number, and the settings of their start and end."""

    num_workers: int
    variables: dict[str, str]  # environment variables of the workers
    start_method: str
    initializer: Callable[..., Any] | None = None
    initargs: Any = ()
    idle_worker_timeout: float | bool = 300.0
    max_jobs_per_worker: int | None = None
    max_memory_per_worker: int | None = None

    def is_like(self, other: Kind) -> bool:
        """Whether workers of the other kind can be used instead."""
        try:
            return bool(self == other)
        except Exception:  # initargs such as arrays have no plain ==
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
    """A queue, and the number of its users."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.queue = kind.make()
        self.num_users = 0


_lock = threading.RLock()
_kept: Pool | None = None


def take(kind: Kind) -> Pool:
    """Return the kept pool, replaced by a new one if it is of another kind; count one more user."""
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
    """Count one user less of a pool; shut it down if it has no user and is not kept."""
    with _lock:
        pool.num_users -= 1
        if pool is not _kept:
            _end_if_unused(pool)


def end_kept() -> None:
    """Stop keeping the pool; if it has no users, shut it down and wait until its workers ended."""
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
    """Forget the parent's pool in a forked child, which cannot use it."""
    global _lock, _kept
    _lock, _kept = threading.RLock(), None


lifecycle.at_fork(lifecycle.JOBLIB_POOL, in_child=_forget_in_child)
