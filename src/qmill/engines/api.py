"""The interface of engines: an engine runs jobs and reports how they ended; one thread drives it.

A `JobQueue`'s dispatcher is the only thread that calls an engine, except `prepare` and `wake`:

    offer(job) ... flush() ── grow(n) ── wait() ──> reports

An engine does not see priorities, lanes and retries; it is offered the job that is to run next.
`offer` is called with the queue's lock held and makes no system call; `flush` sends the jobs.
"""

from __future__ import annotations

import socket
import sys
from abc import ABC, abstractmethod
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from ..jobs import kept

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..jobs.job import Job


class Event(IntEnum):
    """The kinds of reports. Frames of workers carry numbers of the first three groups.

    Code uses the names below, which it finds more quickly than those in the class.
    """

    # Answers of a worker to a job.
    DONE = 0  # the function has returned
    FAILED = 1  # the function has raised, or its arguments or its result cannot be sent
    # Results of a chunk, before all its calls are made.
    SOME = 2  # a part; see `kept_results`
    ONE = 3  # one large result
    # Other reports of a worker.
    LOGGED = 4  # the worker has logged a record
    NOT_STARTED = 5  # the worker could not start, or cannot go on
    READY = 6  # the worker is ready for jobs
    DEFINED = 7  # the next answers refer to this definition
    SPENT = 8  # the worker is too large and gets no more jobs
    LINGERS = 9  # the worker was asked to end, and waits for threads of its jobs
    SENT_MEMORY = 10  # the shared memory for large payloads is open
    SENT_KEPT = 11  # the memory that keeps the results of chunks is open
    # Reports that only engines make.
    DIED = 12  # the worker has died while it ran the job
    TIMED_OUT = 13  # an engine with `keeps_time` has killed the job
    RETURNED = 14  # the job was not begun, and may be offered again


DONE, FAILED = Event.DONE, Event.FAILED
SOME, ONE, LOGGED, NOT_STARTED = Event.SOME, Event.ONE, Event.LOGGED, Event.NOT_STARTED
READY, DEFINED, SPENT, LINGERS = Event.READY, Event.DEFINED, Event.SPENT, Event.LINGERS
SENT_MEMORY, SENT_KEPT = Event.SENT_MEMORY, Event.SENT_KEPT
DIED, TIMED_OUT, RETURNED = Event.DIED, Event.TIMED_OUT, Event.RETURNED


class Report(NamedTuple):
    """An event of a job or of a worker.

    A report is made where a worker's bytes are read or a function is called, and stays as it is.
    Engines return reports of DONE, FAILED, DIED, TIMED_OUT and RETURNED, and, without a job, of
    LOGGED and NOT_STARTED.

    Attributes:
        what: The kind of event.
        job: The job, or None.
        value: The result of the function; or the exception; or the logging.LogRecord. For a chunk,
            the `Outcome` of its calls; an exception only if none of them was made.
        started_s: When the function was called, on the monotonic clock.
        ended_s: When it ended, on the monotonic clock.
        exitcode: 0; 1 for an exception; else the exit code of the worker.
        worker: The worker's name.
    """

    what: Event
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
        can_kill: Whether a running job can be killed.
        keeps_time: Whether the engine itself kills jobs whose timeout has expired.
        max_workers: The most workers at a time.
    """

    can_kill = False
    keeps_time = False
    max_workers: int

    def moment_of(self, function: Callable[..., Any]) -> Any:
        """Return the state of a function at this moment, for jobs that are prepared later.

        Raises:
            SerializationError: The function cannot be pickled.
        """
        return None

    @abstractmethod
    def prepare(self, job: Job, moment: Any = None) -> None:
        """Pickle a job, so that it can be offered. Any thread may call this, with no lock held.

        Args:
            job: The job.
            moment: The value of an earlier `moment_of`: the job uses the function and its globals
                as they were then. None is now.

        Raises:
            SerializationError: The function or an argument cannot be pickled.
        """

    @abstractmethod
    def offer(self, job: Job) -> bool:
        """Accept a job if there is room for it; return whether it was accepted."""

    @abstractmethod
    def flush(self) -> None:
        """Start the jobs that were accepted."""

    def grow(self, num_waiting: int) -> None:
        """Start workers for waiting jobs, at most as many as are still allowed."""
        return

    @property
    @abstractmethod
    def num_startable(self) -> int:
        """The number of workers that `grow` might still start."""

    def has_large_arguments(self, job: Job) -> bool:
        """Return whether the arguments of a prepared job take more than `KEPT_BYTES`."""
        return kept.are_large(job.args or (), job.kwargs)

    def mean_of(self, function: Callable[..., Any]) -> float | None:
        """Return the mean duration of calls of a function in seconds; None if there was none."""
        return None

    def recall(self) -> None:
        """Take back the jobs that no worker has begun; they are reported as RETURNED."""
        return

    def kill(self, job: Job) -> None:
        """Begin to kill a job that was accepted, unless it has ended.

        A report follows as for any other job: RETURNED if the job had not begun.
        """
        return

    @property
    def num_ahead(self) -> int:
        """The number of accepted jobs that wait behind another one in a worker."""
        return 0

    def resize(self, max_workers: int) -> None:
        """Change the number of workers; surplus workers end when they are idle."""
        self.max_workers = max_workers

    @abstractmethod
    def wait(self, timeout: float | None) -> list[Report]:
        """Wait for reports, or until `wake` is called.

        Args:
            timeout: Seconds to wait at most; None is no limit.

        Returns:
            The reports, in the order of their events; perhaps none.
        """

    @abstractmethod
    def wake(self) -> None:
        """End the current `wait`, or the next one if there is none; any thread may call this."""

    @abstractmethod
    def stop_workers(self) -> None:
        """Ask all workers to end when they are idle; `wait` handles their ends."""

    def hurry(self) -> None:
        """End idle workers soon, even if threads or processes of their jobs still run."""
        return

    @property
    @abstractmethod
    def num_workers(self) -> int:
        """The number of workers, including those that are about to end."""

    @abstractmethod
    def close(self) -> None:
        """Close the engine's files; there are no workers any more."""

    def forget_in_child(self) -> None:
        """Close, in a forked child, the handles of the parent's workers."""
        return

    def host_of(self, worker: str | None) -> str | None:
        """Return the name of the machine that a worker runs on; any thread may call this."""
        return None if worker is None else _THIS_HOST


class EngineFactory(ABC):
    """Makes engines, for engines that need more than a name, such as an address."""

    @abstractmethod
    def make(self, settings: Settings) -> Engine:
        """Make an engine.

        Args:
            settings: As for all engines; a `max_workers` of `ALL` means no limit.
        """


ALL = sys.maxsize
"""As many workers as there are; for engines whose workers exist already, as in a cluster."""

_THIS_HOST = socket.gethostname()


Outcome = tuple[list[Any], dict[int, BaseException]]
"""Outcomes of a chunk's calls: the list of results, with None where a call failed, and the
exceptions by place. Calls that were not made are missing at the end of the list."""


def call(job: Job) -> Any:
    """Call a job's function in this process."""
    assert job.function is not None
    args = job.args or ()
    if job._is_chunk:
        return _call_chunk_here(job)
    return job.function(*args, **job.kwargs) if job.kwargs else job.function(*args)


CHUNK_S = 0.025
"""The intended duration, in seconds, of a chunk of a map's quick calls, by measured call times.

With busy workers, sending a chunk and taking in its results costs 0.2 ms, 1 % of this.
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
    except BaseException as error:  # must not end the thread, which has other jobs to run
        fail(error)
    return results, errors


def lost(num_calls: int, error: BaseException) -> Outcome:
    """Return the outcome of a chunk that died with unknown results: all calls count as made."""
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
        function: The function to call.
        items: The items: arguments, or tuples of arguments if `unpack`.
        unpack: Whether each item is a tuple of arguments.
        go_on: Whether to go on after a call that raises.
        to_do: The places of the items for which to call it; None is all.
        keep: Called with the result of each call before the next one begins. If `keep` raises, the
            call has failed.
        fail: Called with the exception of each call that fails.
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
            keep(None)  # `sys.exit()` ends this call only, with success
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            fail(error)
            if not go_on:
                return
