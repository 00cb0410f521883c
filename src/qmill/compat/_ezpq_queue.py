"""A queue of jobs, for the modules of all versions of ezpq."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from multiprocessing import Process
from threading import Thread
from typing import TYPE_CHECKING, Any

from ..job_queue.queue import JobQueue
from ..jobs.records import RecordLog
from ..workers.standard import START_METHOD
from ._ezpq_job import KEYS, Job, record_of

if TYPE_CHECKING:
    from typing import Self

    from ..jobs.job import Job as QmillJob

logger = logging.getLogger("qmill")


class Queue:
    """A priority queue of jobs, each of which runs in a process or thread of its own."""

    _keys: tuple[str, ...] = KEYS
    _record_of: Callable[[QmillJob], dict[str, Any]] = staticmethod(record_of)

    def _set_up(self, n_workers: int, max_size: int, job_runner: Any, **options: Any) -> None:
        """Keep the arguments of a constructor, and make the queue."""
        if job_runner not in (Process, Thread):
            raise AssertionError(
                f"job_runner must be multiprocessing.Process or threading.Thread; got {job_runner}"
            )
        self._n_workers = n_workers
        self._max_size = max_size
        self._in_threads = job_runner is Thread
        self._options = options
        self._is_started = options["auto_start"]
        self._open()

    def _open(self) -> JobQueue:
        """Make the `JobQueue` that runs the jobs."""
        options = dict(self._options)
        callback, path = options.pop("callback"), options["log_file"]
        if callback is not None:
            options["callback"] = functools.partial(_call, callback, self._record_of)
        if path is not None:
            options["log_file"] = RecordLog(path, self._keys, self._record_of)
        if self._in_threads:
            options["engine"] = "thread"
        else:
            options.update(start_method=START_METHOD, max_jobs_per_worker=1)
        options.update(auto_start=self._is_started, keep_args=True)
        self._queue: JobQueue | None = JobQueue(self._n_workers, **options)
        self._n_submitted = 0
        return self._queue

    @property
    def _jobs(self) -> JobQueue:
        return self._queue or self._open()

    def _in_parallel(self, function: Callable[..., Any], items: Any, args: Any, kwargs: Any) -> Any:
        """Run a decorated function for each item, and return the records."""
        self.start()
        for item in items:
            self.submit(Job(function, [item, *args], kwargs))
        self._jobs.wait()
        records = self.collect()
        self.dispose()
        return records

    def submit(self, job: Job) -> int:
        """Put a job in the queue, and return its id.

        Raises:
            Exception: The queue has `max_size` jobs, completed ones included.
            AssertionError: The job has a timeout, but the queue uses threads, which cannot be
                killed.
        """
        if self._in_threads and job.timeout > 0:
            raise AssertionError("a thread cannot be killed: timeout needs job_runner=Process")
        if self._max_size > 0 and self.size() + 1 > self._max_size:
            raise Exception("Max size exceeded.")
        job._job = self._jobs.put(
            job.function,
            tuple(job.args or ()),
            job.kwargs,
            name=job.name,
            priority=job.priority,
            lane=job.lane,
            timeout=job.timeout if job.timeout > 0 else None,
            suppress_errors=job._suppress_errors,
            stop_on_lane_error=job._stop_on_lane_error,
        )
        self._n_submitted += 1
        job.name = job._job.name
        return job._job.id

    def _get(self, wait: bool, timeout: float) -> dict[str, Any] | None:
        """Fetch a record."""
        if self._options["auto_remove"]:
            raise AssertionError("get needs auto_remove=False: with True no records are kept")
        job = self._jobs.get(wait, or_none(timeout))
        return None if job is None else self._record_of(job)

    def collect(self, n: int = 0) -> list[dict[str, Any]]:
        """Fetch the records of completed jobs, up to `n`; 0 is all."""
        return [self._record_of(job) for job in self._jobs.collect(n if n > 0 else None)]

    def size(self, waiting: bool = False, working: bool = False, completed: bool = False) -> int:
        """Return the number of jobs in the chosen states; of all jobs if none is chosen."""
        return self._jobs.size(waiting, working, completed)

    def n_submitted(self) -> int:
        """Return the number of submitted jobs."""
        return self._n_submitted

    def n_completed(self) -> int:
        """Return the number of submitted jobs that have ended, also failed or cancelled ones."""
        return self._n_submitted - self.remaining_jobs()

    def remaining_jobs(self) -> int:
        """Return the number of jobs that wait or run."""
        return self.size(waiting=True, working=True)

    def n_workers(self) -> int:
        """Return the number of jobs that may run at a time."""
        return self._n_workers

    def set_workers(self, n: int) -> None:
        """Set the number of jobs that may run at a time."""
        self._n_workers = n
        self._jobs.set_workers(n)

    def n_workers_free(self) -> int:
        """Return the number of further jobs that could run now."""
        return self._n_workers - self.size(working=True)

    def is_working(self) -> bool:
        """Return whether any job is running."""
        return self.size(working=True) > 0

    def is_busy(self) -> bool:
        """Return whether jobs wait, or all workers are busy."""
        return self.n_workers_free() <= 0 or self.size(waiting=True) > 0

    def is_empty(self) -> bool:
        """Return whether the queue has no jobs, also no completed ones."""
        return self.size() == 0

    def is_full(self) -> bool:
        """Return whether the queue has `max_size` jobs, completed ones included."""
        return 0 < self._max_size <= self.size()

    def _is_on(self) -> bool:
        return self._is_started and not (self._options["auto_stop"] and not self.remaining_jobs())

    def start(self) -> None:
        """Start running jobs."""
        self._is_started = True
        self._jobs.start()

    def _stop(self) -> None:
        """Start no further jobs."""
        self._is_started = False
        self._jobs.pause()

    def dispose(self) -> None:
        """Cancel waiting jobs, kill running ones, and forget all. The queue can be used again."""
        queue, self._queue = self._queue, None
        self._n_submitted = 0
        if queue is not None:
            queue.stop_all()
            queue.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.dispose()

    @staticmethod
    def log_csv(job: Any, path: Any = "ezpq_log.csv", append: bool = True) -> int:
        """Write a record to a CSV file; return 0, or -1 if that failed."""
        try:
            if not append:
                open(path, "w").close()
            if isinstance(job, dict):
                log = RecordLog(path, list(job))
                log.write([job])
                log.close()
        except (OSError, ValueError) as error:
            logger.error("%s could not be written: %s", path, error)
            return -1
        return 0


def _call(callback: Any, record_of: Callable[[QmillJob], Any], job: QmillJob) -> Any:
    """Call a user's callback with the record of a job, unless the job never ran."""
    return None if job._started is None else callback(record_of(job))


def or_none(timeout: float) -> float | None:
    """Convert a timeout of ezpq, where 0 is no limit, into one of qmill, where None is no limit."""
    return None if timeout == 0 else max(0.0, timeout)
