"""The names of `ezpq` 0.1.0, on qmill: `import qmill.compat.ezpq01 as ezpq`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from multiprocessing import Process
from typing import TYPE_CHECKING, Any

from ..workers.api import NUM_CPUS
from . import _ezpq_job, _ezpq_queue
from ._ezpq_queue import or_none

if TYPE_CHECKING:
    from ..jobs.job import Job as QmillJob

__version__ = "0.1.0"
"""The version of ezpq that this module stands in for."""

KEYS = tuple(key for key in _ezpq_job.KEYS if key not in ("qid", "lane", "exception"))
"""The keys of a record."""


def record_of(job: QmillJob) -> dict[str, Any]:
    """Return a job's record as ezpq 0.1 makes it: a failed job's output is its exception's text."""
    record = _ezpq_job.record_of(job)
    if record["exception"] is not None:
        record["output"] = str(job._exception)
    return {key: record[key] for key in KEYS}


class Job(_ezpq_job.Job):
    """A call of a function, for `Queue.submit`.

    Args:
        function: The function.
        args: A list of its positional arguments, or a single value, which may be a tuple.
        kwargs: Its keyword arguments.
        name: The job's name; None for its id.
        priority: A job with a lower number runs first.
        timeout: The job is killed after so many seconds; 0 is no limit.
    """

    _keys = KEYS
    _record_of = staticmethod(record_of)

    def __init__(
        self,
        function: Callable[..., Any],
        args: Any = None,
        kwargs: Any = None,
        name: Any = None,
        priority: Any = 100,
        timeout: float = 0,
    ) -> None:
        super().__init__(function, args, kwargs, name, priority, timeout=timeout)

    @staticmethod
    def _listed(args: Any) -> list[Any] | None:
        return args if args is None or isinstance(args, list) else [args]


class Queue(_ezpq_queue.Queue):
    """A priority queue of jobs, each of which runs in a process or thread of its own.

    Args:
        job_runner: `multiprocessing.Process` or `threading.Thread`.
        n_workers: The number of jobs that may run at a time.
        max_size: The most jobs in the queue, completed ones included; 0 is no limit.
        auto_remove: Whether to discard the records of completed jobs.
        auto_start: Whether jobs run before `start()` is called.
        auto_stop: Whether the queue stops each time that all jobs are done.
        callback: Called with the record of each job that has ended.
        log_file: A CSV file for the records.
        poll: Has no effect, since the queue does not poll.
    """

    _keys = KEYS
    _record_of = staticmethod(record_of)

    def __init__(
        self,
        job_runner: Any = Process,
        n_workers: int = NUM_CPUS,
        max_size: int = 0,
        auto_remove: bool = False,
        auto_start: bool = True,
        auto_stop: bool = False,
        callback: Callable[[dict[str, Any]], Any] | None = None,
        log_file: Any = None,
        poll: float = 0.1,
    ) -> None:
        self._set_up(
            n_workers,
            max_size,
            job_runner,
            auto_remove=auto_remove,
            auto_start=auto_start,
            auto_stop=bool(auto_stop),
            callback=callback,
            log_file=log_file,
        )

    def __call__(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """Decorate a function: a call then runs a job for each item of its first argument."""

        def in_parallel(items: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
            return self._in_parallel(fun, items, args, kwargs)

        return in_parallel

    def put(
        self,
        function: Callable[..., Any],
        args: Any = None,
        kwargs: Any = None,
        name: Any = None,
        priority: Any = 100,
        timeout: float = 0,
    ) -> int:
        """Submit a job with these arguments, and return its id."""
        return self.submit(Job(function, args, kwargs, name, priority, timeout))

    def wait(self, n: int = 0, poll: float = 0.1, timeout: float = 0) -> int:
        """Wait until `n` more jobs have ended, 0 for all, at most `timeout` seconds.

        Returns:
            The number of jobs, of these `n`, that have not ended.
        """
        jobs = self._jobs
        with jobs._dispatcher.changed:  # no job ends between the count and the wait
            pending = self.remaining_jobs()
            wanted = min(n, pending) if n > 0 else pending
            left = jobs.wait(wanted, or_none(timeout))
        return max(0, left + wanted - pending)

    def wait_worker(self, poll: float = 0.1, timeout: float = 0) -> bool:
        """Wait until a worker is free, at most `timeout` seconds; return whether one is."""
        return self._jobs.wait_worker(or_none(timeout))

    def get(self, poll: float = 0, timeout: float = 0) -> dict[str, Any] | None:
        """Fetch the record of the completed job with the lowest priority number.

        If `poll` or `timeout` is positive, the call waits for one. It returns None if none is
        completed in time, or if there are no jobs.
        """
        return self._get(poll > 0 or timeout > 0, timeout)

    def stop_all(self, wait: bool = False) -> None:
        """Kill the running jobs; the waiting ones run next."""
        self._jobs.stop_working()
        if wait:
            self._jobs.wait()

    def clear(self) -> None:
        """Cancel waiting jobs, kill running ones, and forget all."""
        self.dispose()

    def has_waiting(self) -> bool:
        """Return whether any job is waiting."""
        return self.size(waiting=True) > 0

    def has_completed(self) -> bool:
        """Return whether there are records to fetch."""
        return self.size(completed=True) > 0

    def has_work(self) -> bool:
        """Return whether any job is waiting or running."""
        return self.remaining_jobs() > 0

    def is_started(self) -> bool:
        """Return whether the queue runs jobs."""
        return self._is_on()


class Plot:
    """A chart that shows for each job the time it waited and the time it ran.

    Args:
        jobs: Records, as `Queue.collect` returns them.
        color_by: The key of the records whose value chooses the colour.
        show_legend: Whether to show a legend of the colours.
        bar_width: The thickness of a bar.
        title: The chart's title.
    """

    def __init__(
        self,
        jobs: list[dict[str, Any]],
        color_by: str = "priority",
        show_legend: bool = True,
        bar_width: float = 1,
        title: str | None = None,
    ) -> None:
        from ..observe.plot import Plot as QmillPlot

        self._plot = QmillPlot(jobs, color_by, None, show_legend, bar_width, title)
        self.jobs_df = self._plot._table

    def build(self) -> Any:
        """Return the chart, a plotnine object."""
        return self._plot.build()
