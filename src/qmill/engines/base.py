"""The interface of engines: an engine runs jobs and reports their ends, driven by one thread.

A `JobQueue`'s dispatcher is the only thread that calls an engine, but for `prepare` and `wake`:

    offer(job) ... flush() ── grow(n) ── wait() ──> reports

An engine knows nothing of priorities, lanes and retries; it is offered the job that is to run next.
`offer` is called with the queue's lock held and makes no system call; `flush` does what it decided.
"""

from __future__ import annotations

import socket
import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

from ..jobs import kept

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..jobs.job import Job

DONE, FAILED, DIED, TIMED_OUT, RETURNED, NOT_STARTED, LOGGED = range(7)


class Report(NamedTuple):
    """The end of a job, or of a worker.

    Attributes:
        what: DONE; FAILED (the function raised, or its result cannot be sent); DIED (the worker
            did, while it ran the job); TIMED_OUT (an engine that keeps time has killed it);
            RETURNED (it was not begun, and may be offered again); NOT_STARTED (no job: a worker
            could not be started); LOGGED (no job: a record of the worker's logging).
        job: The job.
        value: What the function returned; or the exception; or the logging.LogRecord. Of a chunk,
            what its calls have come to (`Outcome`); an exception only if none of them was made.
        started_s: When the function was called, on the monotonic clock.
        ended_s: When it ended.
        exitcode: 0, 1 for an exception, or how the worker ended.
        worker: The worker's name.
    """

    what: int
    job: Job | None
    value: Any = None
    started_s: float | None = None
    ended_s: float | None = None
    exitcode: int | None = None
    worker: str | None = None


class Settings(NamedTuple):
    """The settings of every engine; see `JobQueue`."""

    name: str
    max_workers: int
    initializer: Callable[..., Any] | None = None
    initargs: tuple[Any, ...] = ()
    max_jobs_per_worker: int | None = None
    max_memory_per_worker: int | None = None


class Engine(ABC):
    """Runs jobs in workers.

    Attributes:
        can_kill: Whether a running job can be ended from outside.
        keeps_time: Whether it kills jobs by itself when their timeout is over.
        max_workers: How many workers there may be.
    """

    can_kill = False
    keeps_time = False
    max_workers: int

    def moment_of(self, function: Callable[..., Any]) -> Any:
        """Return what a function is at this moment, for jobs that are prepared later.

        Raises:
            SerializationError: It cannot be sent.
        """
        return None

    @abstractmethod
    def prepare(self, job: Job, moment: Any = None) -> None:
        """Make a job ready to be offered; any thread may call it, with no lock held.

        Args:
            job: The job.
            moment: What `moment_of` has returned: the function and its globals are those of then.
                None is now.

        Raises:
            SerializationError: The function or an argument cannot be sent.
        """

    @abstractmethod
    def offer(self, job: Job) -> bool:
        """Accept a job, if there is room for it."""

    @abstractmethod
    def flush(self) -> None:
        """Start the jobs that were accepted."""

    @abstractmethod
    def grow(self, num_waiting: int) -> None:
        """Start workers for jobs that wait, as many as may still be started."""

    @property
    @abstractmethod
    def num_startable(self) -> int:
        """The number of workers that `grow` might still start."""

    def has_large_arguments(self, job: Job) -> bool:
        """Tell whether the arguments of a job that was prepared take more than `KEPT_BYTES`."""
        return kept.are_large(job.args or (), job.kwargs)

    def mean_of(self, function: Callable[..., Any]) -> float | None:
        """Return the seconds that calls of a function take here, if that has been measured."""
        return None

    def recall(self) -> None:
        """Take back the jobs that no worker has begun; they are reported as RETURNED."""
        return

    def kill(self, job: Job) -> None:
        """Begin to kill a job that was accepted, if it is still here.

        It is reported as what it ends as, RETURNED if it had not begun.
        """
        return

    @property
    def num_ahead(self) -> int:
        """The number of accepted jobs that wait behind another one in a worker."""
        return 0

    @abstractmethod
    def resize(self, max_workers: int) -> None:
        """Change the number of workers; those too many end when they have nothing to do."""

    @abstractmethod
    def wait(self, timeout: float | None) -> list[Report]:
        """Wait for reports, or until `wake` is called.

        Args:
            timeout: Seconds to wait at most; None is no limit.

        Returns:
            What there is to tell, in the order in which it happened; perhaps nothing.
        """

    @abstractmethod
    def wake(self) -> None:
        """End the `wait` that runs or comes next; any thread may call it."""

    @abstractmethod
    def stop_workers(self) -> None:
        """Tell all workers to end once they have nothing to do; `wait` sees to it."""

    def hurry(self) -> None:
        """Wait for nothing that jobs have left in their workers: these are to end, soon."""
        return

    @property
    @abstractmethod
    def num_workers(self) -> int:
        """The number of workers, those that are about to end included."""

    @abstractmethod
    def close(self) -> None:
        """Free what is left, once there are no workers."""

    def forget_in_child(self) -> None:
        """Drop, in a forked child, the parent's workers."""
        return

    def host_of(self, worker: str | None) -> str | None:
        """Return the name of the machine that a worker runs on; any thread."""
        return None if worker is None else _THIS_HOST


class EngineFactory(ABC):
    """A factory of engines, where a name is not enough to choose one by."""

    @abstractmethod
    def make(self, settings: Settings) -> Engine:
        """Make an engine.

        Args:
            settings: As for all engines; a `max_workers` of `ALL` is no limit.
        """


ALL = sys.maxsize
"""As many workers as there are, where they are not this process's to start."""

_THIS_HOST = socket.gethostname()


Outcome = tuple[list[Any], dict[int, BaseException]]
"""Outcomes of a chunk's calls: results, with None where a call failed, and the exceptions by
their place. Calls that were not made are missing at the end of the list."""


def call(job: Job) -> Any:
    """Call a job's function in this process."""
    assert job.function is not None
    args = job.args or ()
    if job._is_chunk:
        return _call_chunk_here(job)
    return job.function(*args, **job.kwargs) if job.kwargs else job.function(*args)


CHUNK_S = 0.025
"""Seconds that a chunk of a map's quick calls is to take, by measure.

Giving out a chunk and taking its results costs 0.2 ms beside busy workers, so that is 1 %.
"""


def _call_chunk_here(job: Job) -> Outcome:
    assert job.function is not None
    assert job.args is not None
    items, unpack, go_on = job.args
    results: list[Any] = []
    errors: dict[int, BaseException] = {}

    def fail(error: BaseException) -> None:
        errors[len(results)] = error
        results.append(None)

    try:
        call_chunk(job.function, items, unpack, go_on, job._to_do, results.append, fail)
    except BaseException as error:  # it wants to end the thread, which has other jobs to do
        fail(error)
    return results, errors


def lost(num_calls: int, error: BaseException) -> Outcome:
    """Return the outcome of a chunk of whose calls nothing is known: all of them may have begun."""
    return [None] * num_calls, dict.fromkeys(range(num_calls), error)


def call_chunk(
    function: Callable[..., Any],
    items: list[Any],
    unpack: bool,
    go_on: bool,
    to_do: list[int] | None,
    keep: Callable[[Any], None],
    fail: Callable[[BaseException], None],
) -> None:
    """Call a function for each of several items.

    Args:
        function: What to call.
        items: Its arguments: one, or a tuple of them if `unpack`.
        unpack: Whether each item is a tuple of arguments.
        go_on: Whether to go on after a call that raises.
        to_do: The places of the items for which to call it; None is all.
        keep: Is given the result of each call before the next begins; it may raise, and then the
            call has failed.
        fail: Is given the exception of each call that fails.
    """
    rest = iter(items if to_do is None else [items[place] for place in to_do])
    while True:
        try:
            if unpack:
                for item in rest:
                    keep(function(*item))
            else:
                for item in rest:
                    keep(function(item))
            return
        except SystemExit as error:
            if error.code:
                raise
            keep(None)  # it ended this call, and well
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            fail(error)
            if not go_on:
                return
