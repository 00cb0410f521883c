"""`JobQueue`: a priority queue of function calls, run by workers, each with a record.

    put, submit ──> waiting ──> working ──> completed ──> get, collect, as_completed
                                   └──────> result(), concurrent.futures.as_completed, ...

`JobQueue` is the public class; its base in `jobs_in` checks arguments and makes jobs.
`jobs.scheduler` decides which job runs next, an engine runs it, and `dispatch` connects the
scheduler with the engine.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..engines.api import Engine, EngineFactory, Settings
from ..jobs.job import Job
from ..jobs.records import RecordLog
from ..packing.guesses import explain_arguments
from ..queues.checks import check_wait
from ..system import native
from ..system.finalizers import finalizer
from ..workers import api
from .checks import (
    bar_type,
    check_auto_stop,
    check_callable,
    check_count,
    check_int,
    check_number,
    check_workers,
)
from .dispatch import Dispatcher, Progress
from .engine_choice import default_workers, make_engine
from .jobs_in import JobQueue as JobsIn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas

    from ..observe.summary import Summary

logger = logging.getLogger("qmill")


class JobQueue(JobsIn):
    """A priority queue of jobs, run in parallel; a `concurrent.futures.Executor`.

    Args:
        max_workers: How many jobs run at a time. None is the number of processors; for threads,
            that number + 4; for a cluster, the number of its threads.
        engine: "process", "thread", or an engine of `qmill.engines`, such as
            `qmill.engines.Dask(address)`.
        maxsize: The most jobs that may wait or work; `put` and `submit` wait for room. 0 is no
            limit.
        initializer: Called in each worker before its first job. If it raises, the job for which
            the worker was started fails with that exception.
        initargs: Positional arguments of `initializer`.
        callback: Called as `callback(job)` for each job of `put` and `starmap` that has ended, in
            the order in which they end, on a separate thread.
        log_file: A CSV file to which the record of each such job is appended, or a `RecordLog`. A
            file with another header is refused.
        auto_start: Whether jobs run from the beginning; else they wait for `start()`.
        auto_stop: Whether the workers end each time that all jobs are done; a number is the
            seconds that they wait for another job first. The next job starts workers again.
        auto_remove: Whether to discard jobs that have ended, rather than to keep them for `get`.
        keep_args: Whether jobs of `put` and `starmap` that have ended keep arguments of any size.
            Else arguments that take more than 64 KiB together (pickled; in memory for threads) are
            replaced by a short text, after the callback has returned and the record is written.
        start_method: How worker processes start: "forkserver", "spawn" or "fork"; None for the
            default (`qmill.set_start_method`). If no method was chosen and `initargs` has a lock of
            multiprocessing's fork context, which only forked processes can share, it is "fork".
        mp_context: A context of `multiprocessing`; its start method is used. For programs that
            pass the arguments of `ProcessPoolExecutor`.
        max_jobs_per_worker: A worker process is replaced after this many jobs; None is no limit.
        max_memory_per_worker: A worker process is replaced if its resident memory, in bytes,
            exceeds this after a job; None is no limit.
        name: The queue's name in records (`qid`); None for eight random hexadecimal digits.
        progress: Whether `wait`, `map` and the end of a `with` block show a progress bar. True
            shows a bar of tqdm if the standard error is a terminal or a notebook, and none
            elsewhere. A class like `tqdm.tqdm` always shows one.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A number is out of range; the engine or the start method is unknown; the log
            file has other contents.
        NotSupported: The engine does not support an argument.
        OSError: The log file cannot be opened.
        ImportError: `progress=True` needs tqdm: `pip install 'qmill[progress]'`.

    Leaving a `with` block normally waits for all jobs. An exception or Ctrl-C in the block cancels
    the waiting jobs and kills the running ones. When the interpreter exits, pending jobs still run.

    Crash: the death of a worker affects only the job that it was running, which fails with
    `WorkerDied` or is retried. A new worker replaces the dead one.
    """

    @explain_arguments()
    def __init__(
        self,
        max_workers: int | None = None,
        *,
        engine: str | Engine | EngineFactory = "process",
        maxsize: int = 0,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        callback: Callable[[Job], Any] | None = None,
        log_file: str | os.PathLike[str] | RecordLog | None = None,
        auto_start: bool = True,
        auto_stop: bool | float = False,
        auto_remove: bool = False,
        keep_args: bool = False,
        start_method: str | None = None,
        mp_context: Any = None,
        max_jobs_per_worker: int | None = None,
        max_memory_per_worker: int | None = None,
        name: str | None = None,
        progress: Any = False,
    ) -> None:
        native.check_threads("a JobQueue")
        check_callable("initializer", initializer)
        check_callable("callback", callback)
        bar_type(progress)
        if max_workers is None:
            max_workers = default_workers(engine)
        self.name = os.urandom(4).hex() if name is None else str(name)
        max_workers = check_workers(max_workers)
        settings = Settings(
            self.name,
            max_workers,
            initializer,
            api.as_tuple("initargs", initargs),
            check_count("max_jobs_per_worker", max_jobs_per_worker, or_none=True),
            check_count(
                "max_memory_per_worker",
                max_memory_per_worker,
                or_none=True,
                unit=" of bytes, such as 1 << 30",
            ),
        )
        maxsize = check_int("maxsize", maxsize)
        auto_stop_s = check_auto_stop(auto_stop)
        made = make_engine(engine, settings, start_method, mp_context)
        try:
            log = _open_log(log_file)
        except BaseException:
            if made is not engine:  # an engine that the caller passed stays the caller's
                made.close()
            raise
        dispatcher = Dispatcher(made, self.name, maxsize, log, auto_stop_s, auto_remove)
        super().__init__(max_workers, made, dispatcher, callback, bool(keep_args), progress)
        self._shown = Progress(0, 0, 0, 0)  # the counts when a progress bar last closed
        logger.debug("Initialized queue with %d workers.", self.max_workers)
        if auto_start:
            self.start()

    def __repr__(self) -> str:
        waiting, working, completed = self._dispatcher.sizes()
        return (
            f"<qmill.JobQueue {self.name} waiting={waiting} working={working} "
            f"completed={completed}>"
        )

    def __reduce__(self) -> Any:
        raise TypeError(
            "a JobQueue belongs to the process that made it and cannot be sent; "
            "make another one there, or send a qmill.Queue"
        )

    # -- jobs out ------------------------------------------------------------------------------

    def size(self, waiting: bool = False, working: bool = False, completed: bool = False) -> int:
        """Count jobs: those in the given states, or all.

        Args:
            waiting: Count jobs that have not begun.
            working: Count jobs that run, or whose callback runs.
            completed: Count jobs that have ended and were not fetched.
        """
        sizes = self._dispatcher.sizes()
        if not (waiting or working or completed):
            return sum(sizes)
        chosen = zip(sizes, (waiting, working, completed), strict=True)
        return sum(size for size, counted in chosen if counted)

    def wait(self, n: int | None = None, timeout: float | None = None, progress: Any = None) -> int:
        """Wait until jobs are done.

        Args:
            n: How many jobs have to end from now on; None is all.
            timeout: Seconds to wait at most; None is no limit.
            progress: Whether to show a progress bar. Takes the values of `JobQueue(progress=...)`;
                None is the queue's own setting. The bar counts the jobs since the last `wait` that
                ended with all jobs done.

        Returns:
            How many jobs still wait or work: 0 unless the timeout expired or `n` was given.
        """
        if n is not None:
            check_int("n", n)
        timeout = check_wait(True, timeout)
        deadline = math.inf if timeout is None else monotonic() + timeout
        dispatcher = self._dispatcher
        dispatcher.check_is_ours()
        make_bar = bar_type(self._progress if progress is None else progress)
        if make_bar is not None:
            aim = 0 if n is None else max(0, dispatcher.num_left() - n)
            return self._watch(make_bar, aim, deadline)
        with dispatcher.changed:
            aim = 0 if n is None else max(0, dispatcher.num_left() - n)
            dispatcher.changed.wait_for(lambda: dispatcher.num_left() <= aim, timeout)
            return dispatcher.num_left()

    def wait_worker(self, timeout: float | None = None) -> bool:
        """Wait until a worker is idle: fewer jobs wait or work than there are workers.

        Args:
            timeout: Seconds to wait at most; None is no limit.

        Returns:
            Whether a worker is idle; False if the timeout expired.
        """
        timeout = check_wait(True, timeout)
        dispatcher = self._dispatcher
        dispatcher.check_is_ours()
        with dispatcher.changed:
            return dispatcher.changed.wait_for(
                lambda: dispatcher.num_left() < self.max_workers, timeout
            )

    def _watch(self, make_bar: Callable[..., Any], aim: int, deadline: float) -> int:
        """Wait with a progress bar, unless no job has ended or is pending since the last one."""
        from ..observe.progress import watch

        before = self._dispatcher.progress()
        left = before.left
        if left or before.completed > self._shown.completed:
            left = watch(make_bar, self._dispatcher, self._shown, aim, deadline)
        if not left:
            self._shown = self._dispatcher.progress()
        return left

    def get(self, block: bool = True, timeout: float | None = None) -> Job | None:
        """Fetch the completed job with the lowest priority number, the oldest of equals.

        Args:
            block: Whether to wait for a completed job.
            timeout: Seconds to wait at most; None is no limit.

        Returns:
            The job. None if the timeout expired, or if no job is completed, waits or works.
        """
        timeout = check_wait(block, timeout)
        dispatcher = self._dispatcher
        dispatcher.check_is_ours()
        job = None
        try:
            with dispatcher.changed:
                if (job := dispatcher.pop_completed()) is None and block:
                    dispatcher.changed.wait_for(dispatcher.has_completed_or_is_done, timeout)
                    job = dispatcher.pop_completed()
        except BaseException:
            if job is not None:
                dispatcher.give_back([job])
            raise
        return job

    def collect(self, n: int | None = None) -> list[Job]:
        """Fetch the jobs that are completed now, without waiting.

        Args:
            n: The most jobs to fetch; None is all.

        Returns:
            The jobs, by priority number, the lowest first; equal ones by age, the oldest first.
        """
        if n is not None:
            check_int("n", n)
        jobs: list[Job] = []
        self._dispatcher.check_is_ours()
        try:
            with self._dispatcher.changed:
                while (n is None or len(jobs) < n) and (job := self.get(block=False)) is not None:
                    jobs.append(job)
        except BaseException:
            self._dispatcher.give_back(jobs)
            raise
        return jobs

    def as_completed(self) -> Iterator[Job]:
        """Fetch jobs as they are completed, until none is left; yields jobs."""
        while (job := self.get()) is not None:
            yield job

    # -- results and statistics ------------------------------------------------------------------

    def summary(self) -> Summary:
        """Return counts and durations of all jobs so far, from running totals: see `Summary`.

        >>> print(jobs.summary())  # doctest: +SKIP
        """
        from ..observe.summary import Summary

        return Summary.of(self.name, self.max_workers, *self._dispatcher.snapshot())

    def frame(self) -> pandas.DataFrame:
        """Return a pandas DataFrame of all jobs that were not fetched: waiting, working, completed.

        See `qmill.frame`.

        Raises:
            ImportError: pandas is not installed: `pip install 'qmill[plot]'`.
        """
        from ..observe.frame import frame

        return frame(self._held())

    def _held(self) -> list[Job[Any]]:
        """List the jobs that were not fetched: waiting, working and completed."""
        return self._dispatcher.held()

    # -- control -------------------------------------------------------------------------------

    def start(self) -> None:
        """Run jobs: from the first call on, or again after `pause`."""
        self._dispatcher.resume()

    def pause(self) -> None:
        """Start no more jobs until `start`; running jobs continue."""
        self._dispatcher.pause()

    def set_workers(self, n: int) -> None:
        """Change how many jobs run at a time; running jobs continue.

        Args:
            n: 1 or more.
        """
        self._max_workers = check_count("n", n)
        self._dispatcher.resize(self._max_workers)

    def reprioritize(self, job: Job, priority: float) -> bool:
        """Change a job's priority.

        Args:
            job: A job of this queue.
            priority: Jobs with lower numbers run first.

        Returns:
            False if the job has begun already, and the new priority has no effect.
        """
        if not isinstance(job, Job):
            raise TypeError(f"job must be a Job, not {type(job).__name__} {job!r}")
        if job._owner is not self._dispatcher:
            raise ValueError(f"{job!r} is a job of another queue")
        return self._dispatcher.reprioritise(job, check_number("priority", priority))

    def clear_waiting(self) -> None:
        """Cancel the jobs that have not begun."""
        self._dispatcher.cancel_waiting()

    def stop_all(self) -> None:
        """Cancel the jobs that have not begun, and kill the running ones if the engine can."""
        self._dispatcher.cancel_all()

    def stop_working(self) -> None:
        """Kill the running jobs, if the engine can; waiting jobs then run."""
        self._dispatcher.cancel_working()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more jobs, and end the workers when all jobs here are done.

        A paused queue resumes. Completed jobs can still be fetched.

        Args:
            wait: Whether to wait until the workers have ended.
            cancel_futures: Whether to cancel the jobs that have not begun.
        """
        self._dispatcher.shut_down(wait=wait, cancel_waiting=cancel_futures)

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        try:
            if exc_type is not None:
                self._dispatcher.abort()
            elif (make_bar := bar_type(self._progress)) is not None:
                self.shutdown(wait=False)
                self._watch(make_bar, 0, math.inf)
            self.shutdown(wait=True)
        except BaseException:  # Ctrl-C, perhaps before the queue was shut down
            self._dispatcher.abort()
            self.shutdown()
            raise

    @finalizer
    def __del__(self) -> None:
        """Let the workers of a queue that is garbage end, after the jobs in it."""
        dispatcher: Dispatcher | None = getattr(self, "_dispatcher", None)
        if dispatcher is None or dispatcher.is_of_parent or sys.is_finalizing():
            return  # None: the constructor has failed
        if not dispatcher.closed:  # not `shut`: a signal handler may leave a shutdown half done
            dispatcher.shut_down(wait=False, cancel_waiting=False)


def _open_log(log_file: Any) -> RecordLog | None:
    if log_file is None or isinstance(log_file, RecordLog):
        return log_file
    if not isinstance(log_file, (str, os.PathLike)):
        raise TypeError(f"log_file must be a path, not {type(log_file).__name__} {log_file!r}")
    return RecordLog(log_file)
