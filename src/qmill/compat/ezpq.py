"""The names of `ezpq` 0.2.2, on qmill: `import qmill.compat.ezpq as ezpq`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from multiprocessing import Process
from typing import Any

from ..workers.api import NUM_CPUS
from . import _ezpq_queue
from ._ezpq_job import Job as Job
from ._ezpq_queue import or_none

logger = logging.getLogger("qmill")

__version__ = "0.2.2"
"""The version of ezpq that this module stands in for."""


class Queue(_ezpq_queue.Queue):
    """A priority queue of jobs, each of which runs in a process or thread of its own.

    Args:
        n_workers: The number of jobs that may run at a time.
        max_size: The most jobs in the queue, completed ones included; 0 is no limit.
        job_runner: `multiprocessing.Process` or `threading.Thread`.
        auto_remove: Whether to discard the records of completed jobs.
        auto_start: Whether jobs run before `start()` is called.
        auto_stop: Whether the queue stops each time that all jobs are done.
        callback: Called with the record of each job that has ended.
        log_file: A CSV file for the records.
        poll: Has no effect, since the queue does not poll.
        show_progress: Is kept as an attribute, and has no other effect.
        qid: The name of the queue in records; None chooses one.
    """

    def __init__(
        self,
        n_workers: int = NUM_CPUS,
        max_size: int = 0,
        job_runner: Any = Process,
        auto_remove: bool = False,
        auto_start: bool = True,
        auto_stop: bool = False,
        callback: Callable[[dict[str, Any]], Any] | None = None,
        log_file: Any = None,
        poll: float = 0.1,
        show_progress: bool = False,
        qid: Any = None,
    ) -> None:
        self.show_progress = show_progress
        self._set_up(
            n_workers,
            max_size,
            job_runner,
            auto_remove=auto_remove,
            auto_start=auto_start,
            auto_stop=bool(auto_stop),
            callback=callback,
            log_file=log_file,
            name=qid,
        )

    def __call__(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """Decorate a function: a call then runs a job for each item of its first argument."""

        def in_parallel(iterable: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
            return self._in_parallel(fun, iterable, args, kwargs)

        return in_parallel

    @property
    def is_running(self) -> bool:
        """Whether the queue runs jobs."""
        return self._is_on()

    def put(self, *args: Any, **kwargs: Any) -> int:
        """Submit `Job(*args, **kwargs)`, and return its id."""
        return self.submit(Job(*args, **kwargs))

    def map(
        self,
        function: Callable[..., Any],
        iterable: Iterable[Any],
        args: Any = None,
        kwargs: Any = None,
        timeout: float = 0,
        show_progress: bool = False,
    ) -> list[dict[str, Any]]:
        """Call a function for each item, wait for all jobs, and collect their records."""
        more = Job._listed(args) or []
        for item in iterable:
            self.put(function, [item, *more], kwargs, timeout=timeout)
        return self._wait_and_collect(show_progress)

    def starmap(
        self,
        function: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        args: Any = None,
        kwargs: Any = None,
        timeout: float = 0,
        show_progress: bool = False,
    ) -> list[dict[str, Any]]:
        """Call a function for each list of arguments, wait, and collect the records."""
        more = list(args or [])
        for item in iterable:
            self.put(function, [*item, *more], kwargs, timeout=timeout)
        return self._wait_and_collect(show_progress)

    def starmapkw(
        self,
        function: Callable[..., Any],
        iterable: Iterable[dict[str, Any]],
        args: Any = None,
        kwargs: Any = None,
        timeout: float = 0,
        show_progress: bool = False,
    ) -> list[dict[str, Any]]:
        """Call a function for each dict of keyword arguments, wait, and collect the records."""
        more = dict(kwargs or {})
        for item in iterable:
            self.put(function, args, {**item, **more}, timeout=timeout)
        return self._wait_and_collect(show_progress)

    def _wait_and_collect(self, show_progress: bool) -> list[dict[str, Any]]:
        self.wait(show_progress=show_progress)
        return self.collect()

    def wait(self, poll: float = 0, timeout: float = 0, show_progress: bool = False) -> int:
        """Wait for all jobs, at most `timeout` seconds; return the number of remaining jobs."""
        if show_progress:
            return self.waitpb(poll, timeout)
        return self._jobs.wait(timeout=or_none(timeout))

    def waitpb(self, poll: float = 0, timeout: float = 0) -> int:
        """Wait as `wait` does, and show a progress bar."""
        return self._jobs.wait(timeout=or_none(timeout), progress=True)

    def wait_worker(self, poll: float = 0, timeout: float = 0) -> bool:
        """Wait until a worker is free, at most `timeout` seconds; return whether one is."""
        return self._jobs.wait_worker(or_none(timeout))

    def get(self, wait: bool = False, poll: float = 0, timeout: float = 0) -> dict[str, Any] | None:
        """Fetch the record of the completed job with the lowest priority number.

        If `wait` is true, or `poll` or `timeout` is positive, the call waits for one. It returns
        None if none is completed in time, or if there are no jobs.
        """
        return self._get(wait or poll > 0 or timeout > 0, timeout)

    def clear_waiting(self) -> None:
        """Cancel the waiting jobs."""
        self._jobs.clear_waiting()

    def stop_all(self, wait: bool = True) -> None:
        """Cancel the waiting jobs, and kill the running ones."""
        self._jobs.stop_all()
        if wait:
            self._jobs.wait()


class Plot:
    """A chart that shows for each job the time it waited and the time it ran.

    Args:
        jobs: Records, as `Queue.collect` returns them.
    """

    def __init__(self, jobs: list[dict[str, Any]]) -> None:
        from ..observe.plot import Plot as QmillPlot

        self._plot = QmillPlot(jobs)
        self.jobs_df = self._plot._table

    def build(
        self,
        color_by: str = "qid",
        facet_by: str = "qid",
        facet_scale: str = "fixed",
        show_legend: bool = True,
        bar_width: float = 1,
        title: str | None = None,
        color_pal: list[str] | None = None,
        theme: str = "bw",
    ) -> Any:
        """Return the chart, a plotnine object; the arguments are those of `qmill.Plot`."""
        look = color_by, facet_by, facet_scale, show_legend, bar_width, title
        try:
            return self._plot.build(*look, color_pal, theme)
        except ValueError as error:
            if color_pal is None:
                raise
            chart = self._plot.build(*look, None, theme)
            logger.warning("color_pal is not used: %s", error)
            return chart
