"""The backend "qmill" of joblib: batches of tasks as jobs of a queue that is kept between calls.

    Parallel ── batch ──> submit ──> JobQueue ──> worker: run_batch(batch)
       <── callback(job) ── in the queue's reporter, which then asks for the next batch ──┘

joblib calls `configure` before and `terminate` after each call, or around a `with Parallel()`
block. One backend may serve several calls at a time, and `terminate` does not say which has ended:
so what a call needs is let go when no batch of any is under way, and taken again if one comes.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import joblib
from joblib.parallel import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
)

from .. import processes, serialize
from ..errors import WorkerDied
from . import _joblib_pool
from ._joblib_worker import Ended, run_batch
from ._mapped_arrays import MappedArrays

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..jobs.job import Job

try:
    from joblib.externals.loky.process_executor import TerminatedWorkerError
except ImportError:  # joblib without multiprocessing
    from concurrent.futures.process import BrokenProcessPool as TerminatedWorkerError

_OF_WORKERS = (
    "start_method",
    "initializer",
    "initargs",
    "idle_worker_timeout",
    "max_jobs_per_worker",
    "max_memory_per_worker",
)
"""Arguments of the backend for its workers."""

_OF_JOBLIB = frozenset(("verbose", "context"))
"""Arguments that `Parallel` gives to any backend, and that this one has no use for."""


class TaskWorkerDied(WorkerDied, TerminatedWorkerError):  # type: ignore[misc]
    """The worker of a task has died; programs for joblib catch it by the name it has there."""


class QmillBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """Runs tasks of joblib in worker processes of a `JobQueue`; `register` makes it known.

    Args:
        nesting_level: How many calls of `Parallel` this one is inside of; joblib knows.
        inner_max_num_threads: What each worker's numerical libraries may use; None for its share
            of the processors.
        **options: See `qmill.compat.joblib.register`.

    Raises:
        TypeError: An unknown option.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        _check_options(options)
        self._options = options
        self._lock = threading.RLock()
        self._kind: _joblib_pool.Kind | None = None
        self._pool: _joblib_pool.Pool | None = None
        self._arrays = MappedArrays(None, None, None)
        self._jobs: dict[Job, tuple[Any, list[Any]]] = {}  # those under way: Parallel, files

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many workers that makes: -1 is one for each processor, -2 one less."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning; -1 is all processors")
        if n_jobs is None or joblib.parallel.mp is None:  # as JOBLIB_MULTIPROCESSING=0 wants it
            return 1
        return n_jobs if n_jobs > 0 else max(joblib.cpu_count() + 1 + n_jobs, 1)

    def configure(
        self,
        n_jobs: int | None = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        max_nbytes: float | None = 1 << 20,
        mmap_mode: str | None = "r",
        temp_folder: str | None = None,
        **options: Any,
    ) -> int:
        """Prepare for a call, and return the number of workers."""
        num_workers = self.effective_n_jobs(n_jobs)
        if num_workers == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        for name in _OF_JOBLIB:
            options.pop(name, None)
        _check_options(options)
        with self._lock:
            self.parallel = parallel
            self._arrays = MappedArrays(max_nbytes, mmap_mode, temp_folder)
            self._let_go_of_pool()
            self._kind = self._kind_of(num_workers, self._options | options)
            self._pool = _joblib_pool.take(self._kind)
        return num_workers

    def _kind_of(self, num_workers: int, options: dict[str, Any]) -> _joblib_pool.Kind:
        given = {name: value for name, value in options.items() if value is not None}
        given["start_method"] = processes.get_start_method(given.get("start_method"))
        return _joblib_pool.Kind(num_workers, self._variables(num_workers), **given)

    def _variables(self, num_workers: int) -> dict[str, str]:
        """Return the variables that tell libraries how many threads to use in a worker."""
        limit = self.inner_max_num_threads
        share = max(joblib.cpu_count() // num_workers, 1)
        values = {
            name: os.environ.get(name, str(share)) if limit is None else str(limit)
            for name in self.MAX_NUM_THREADS_VARS
        }
        # Threads of TBB then count those of other processes, too.
        tbb = self.TBB_ENABLE_IPC_VAR
        return {tbb: os.environ.get(tbb, "1"), **values}

    def start_call(self) -> None:
        """Begin a call: what arrays have been sent may have changed since the one before."""
        self._arrays.forget()

    def submit(self, func: Callable[[], Any], callback: Any = None) -> Job:
        """Put a batch of tasks into the queue.

        Args:
            func: The batch.
            callback: Called with the job when that has ended.
        """
        with self._lock:
            if self._pool is None:
                assert self._kind is not None, "configure comes first"
                self._pool = _joblib_pool.take(self._kind)
            with self._arrays.packing() as files:
                job = self._pool.queue.submit(run_batch, func)
            self._jobs[job] = getattr(callback, "parallel", None), files
        job.add_done_callback(self._forget_job)
        if callback is not None:
            job.add_done_callback(callback)
        return job

    apply_async = submit  # before joblib 1.5

    def _forget_job(self, job: Any) -> None:
        with self._lock:
            self._jobs.pop(job, None)

    def retrieve_result_callback(self, out: Any) -> Any:
        """Return the results of a batch, or raise what one of its tasks has raised."""
        try:
            result = out.result()
        except WorkerDied as error:
            raise TaskWorkerDied(*error.args) from error.__cause__
        if isinstance(result, Ended):
            raise serialize.load_error(result.packed)
        return result

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel what has not begun of the calls that are given up, and kill what runs.

        The workers of other calls, and those that have nothing to do, stay.
        """
        with self._lock:
            jobs = [
                job
                for job, (parallel, _) in self._jobs.items()
                if getattr(parallel, "_aborting", True)
            ]
        owners: set[Any] = {job._owner for job in jobs}  # several, if n_jobs has changed meanwhile
        try:
            for owner in owners:
                owner.cancel_and_wait([job for job in jobs if job._owner is owner])
        finally:
            for job in jobs:
                self._forget_job(job)

    def terminate(self) -> None:
        """End a call; the workers stay for the next one."""
        with self._lock:
            if not self._jobs:
                self._arrays.forget()
                self._let_go_of_pool()
        self.reset_batch_stats()

    def _let_go_of_pool(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            _joblib_pool.give_back(pool)


def _check_options(options: dict[str, Any]) -> None:
    unknown = [name for name in options if name not in _OF_WORKERS]
    if unknown:
        raise TypeError(
            f"the joblib backend 'qmill' has no option {unknown[0]!r}; it has "
            f"{', '.join(_OF_WORKERS)}"
        )
