"""The joblib backend "qmill": runs batches of tasks as jobs of a queue that is kept between calls.

    Parallel ── batch ──> submit ──> JobQueue ──> worker: run_batch(batch)
       <── callback(job), in the queue's reporter; it submits the next batch ──┘

joblib calls `configure` before each call and `terminate` after it, or around a `with Parallel()`
block. One backend may serve several calls at the same time, and `terminate` does not say which of
them has ended. So the backend releases its pool when no batch of any call is running, and acquires
it again if another batch comes.
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

from ..errors import WorkerDied
from ..packing import remote_errors
from ..processes import launch
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
"""Arguments that `Parallel` passes to every backend, and that this one ignores."""


class TaskWorkerDied(WorkerDied, TerminatedWorkerError):  # type: ignore[misc]
    """The worker of a task has died. It is also joblib's error, which programs catch."""


class QmillBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """Runs tasks of joblib in worker processes of a `JobQueue`; `register` registers it.

    Args:
        nesting_level: The number of calls of `Parallel` around this one; joblib passes it.
        inner_max_num_threads: The number of threads that the numerical libraries of each worker
            may use; None for the worker's share of the processors.
        **options: See `qmill.compat.joblib.register`.

    Raises:
        TypeError: The backend has no option of that name.
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
        self._jobs: dict[Job, tuple[Any, list[Any]]] = {}  # unfinished jobs: their Parallel, files

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return the number of workers for `n_jobs`: -1 is one per processor, -2 one less."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning; -1 is all processors")
        if n_jobs is None or joblib.parallel.mp is None:  # JOBLIB_MULTIPROCESSING=0 sets mp to None
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
        given["start_method"] = launch.get_start_method(given.get("start_method"))
        return _joblib_pool.Kind(num_workers, self._variables(num_workers), **given)

    def _variables(self, num_workers: int) -> dict[str, str]:
        """Return the environment variables that set how many threads libraries use in a worker."""
        limit = self.inner_max_num_threads
        share = max(joblib.cpu_count() // num_workers, 1)
        values = {
            name: os.environ.get(name, str(share)) if limit is None else str(limit)
            for name in self.MAX_NUM_THREADS_VARS
        }
        # With this variable, TBB also counts the threads of other processes.
        tbb = self.TBB_ENABLE_IPC_VAR
        return {tbb: os.environ.get(tbb, "1"), **values}

    def start_call(self) -> None:
        """Begin a call: forget the files of arrays, which may have changed since the last call."""
        self._arrays.forget()

    def submit(self, func: Callable[[], Any], callback: Any = None) -> Job:
        """Put a batch of tasks into the queue.

        Args:
            func: The batch.
            callback: Called with the job when the job has ended.
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
        """Return the results of a batch, or raise the exception of one of its tasks."""
        try:
            result = out.result()
        except WorkerDied as error:
            raise TaskWorkerDied(*error.args) from error.__cause__
        if isinstance(result, Ended):
            raise remote_errors.load_error(result.packed)
        return result

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel the waiting jobs, and kill the running jobs, of calls that joblib has aborted.

        Idle workers and the workers of other calls keep running.
        """
        with self._lock:
            jobs = [
                job
                for job, (parallel, _) in self._jobs.items()
                if getattr(parallel, "_aborting", True)
            ]
        owners: set[Any] = {job._owner for job in jobs}  # several if n_jobs has changed meanwhile
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
