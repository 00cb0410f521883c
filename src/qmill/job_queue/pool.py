"""The pools of `multiprocessing` on a job queue: their calls, their results, and how they end.

    apply, apply_async ──────> a job ─────────────────────────────> ApplyResult
    map, starmap, ..._async ─> chunks, all at once ───────────────> MapResult
    imap, imap_unordered ────> chunks, from a thread that reads ──> IMapIterator

A pool has the names, arguments and errors of `multiprocessing.pool.Pool`, with two differences. A
call whose worker dies raises `WorkerDied`, and a call that `terminate` has prevented raises
`multiprocessing.ProcessError`; the original waits for ever in both cases.
"""

from __future__ import annotations

import itertools
import multiprocessing
import multiprocessing.pool as stdlib_pool
import os
import signal
import threading
import types
import warnings
import weakref
from collections import deque
from concurrent.futures import CancelledError
from multiprocessing.pool import CLOSE, INIT, RUN, TERMINATE
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..errors import SerializationError
from ..packing import remote_errors
from ..processes import child_main
from ..system import native
from .queue import JobQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ..processes.launch import Process
    from .map_calls import MapCalls, MapJob

CHUNKS_PER_WORKER = 4
"""`map` cuts its input into this many chunks for each worker, as `multiprocessing` does."""

FED_AHEAD = 1000
"""The thread of `imap` reads on while fewer calls than this wait for a worker."""


class Pool:
    """A pool of worker processes, as `multiprocessing.pool.Pool`.

    Args:
        processes: How many workers; None for the number of processors.
        initializer: Called in each worker when it starts. If it raises, the calls fail with that
            exception.
        initargs: Positional arguments of `initializer`.
        maxtasksperchild: A worker is replaced after this many tasks. A task is a call of `apply`,
            or a chunk of another method. None is no limit.
        context: A context of `multiprocessing`, for its start method; None for the default one.

    Raises:
        TypeError: The initializer is not callable.
        ValueError: `processes` or `maxtasksperchild` is out of range.

    The workers start at once: under "fork" they have a copy of the program's state at that moment.
    Calls that remain when the interpreter exits are cancelled.

    Crash: the death of a worker affects only the call that it was running (`WorkerDied`).
    """

    _state = INIT
    _in_threads = False

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
    ) -> None:
        self._ctx = context or multiprocessing.get_context()
        self._processes = (os.cpu_count() or 1) if processes is None else processes
        if self._processes < 1:
            raise ValueError("Number of processes must be at least 1")
        tasks: Any = maxtasksperchild
        if tasks is not None and (not isinstance(tasks, int) or tasks <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._lock = threading.RLock()
        self._feeders: set[threading.Thread] = set()
        self._jobs = self._make_queue(initializer, tuple(initargs), maxtasksperchild)
        self._dispatcher = self._jobs._dispatcher
        self._dispatcher.waits_at_exit = False
        self._dispatcher.start_workers()
        self._state = RUN
        if not self._in_threads:
            _pools.add(self)

    def _make_queue(
        self,
        initializer: Callable[..., Any] | None,
        initargs: tuple[Any, ...],
        maxtasksperchild: int | None,
    ) -> JobQueue:
        jobs = JobQueue(
            self._processes,
            start_method=self._ctx.get_start_method(),
            initializer=_enter,
            initargs=(_prefix_of(self._ctx), os.getpid(), initializer, initargs),
            max_jobs_per_worker=maxtasksperchild,
            name="pool",
        )
        engine: Any = jobs._engine
        engine.hands_on = False
        return jobs

    def __del__(self) -> None:
        if self._state == RUN:
            warnings.warn(
                f"unclosed running multiprocessing pool {self!r}",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def __repr__(self) -> str:
        cls = type(self)
        return (
            f"<{cls.__module__}.{cls.__qualname__} state={self._state} pool_size={self._processes}>"
        )

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    @property
    def _pool(self) -> list[PoolWorker]:
        """The current workers, for programs that count or signal them."""
        engine: Any = self._jobs._engine
        prefix = _prefix_of(self._ctx)
        return [
            PoolWorker(f"{prefix}-{_number_in(link.name)}", link.process) for link in engine.links()
        ]

    def _repopulate_pool(self) -> None:
        """Do nothing: a worker that has ended is replaced when there is work for it."""

    def _check_running(self) -> None:
        if self._state != RUN:
            raise ValueError("Pool not running")

    # -- calls ---------------------------------------------------------------------------------

    def apply(
        self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}
    ) -> Any:
        """Call a function in a worker, and return its result."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> ApplyResult:
        """Call a function in a worker, in the background.

        Args:
            func: The function.
            args: Its positional arguments.
            kwds: Its keyword arguments.
            callback: Called with the result, in a thread of the pool.
            error_callback: Called with the exception, in a thread of the pool.
        """
        self._check_running()
        job = self._jobs.submit(func, *args, **kwds)
        result = ApplyResult(self, (job,), callback, error_callback)
        result._tell_when_done()
        return result

    def map(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """Call a function for each item, and return the results in the order of the items.

        Args:
            func: The function.
            iterable: The items.
            chunksize: How many calls make one task; None for a quarter of a worker's share.

        Raises:
            Exception: The exception of the first item whose call raised, once all calls have ended.
        """
        results: list[Any] = self._map_async(func, iterable, False, chunksize, None, None).get()
        return results

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult:
        """Do the same as `map` in the background; the callbacks are those of `apply_async`."""
        return self._map_async(func, iterable, False, chunksize, callback, error_callback)

    def starmap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
    ) -> list[Any]:
        """Call a function with the arguments of each item; otherwise as `map`."""
        results: list[Any] = self._map_async(func, iterable, True, chunksize, None, None).get()
        return results

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult:
        """Do the same as `starmap` in the background."""
        return self._map_async(func, iterable, True, chunksize, callback, error_callback)

    def _map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        unpack: bool,
        chunksize: int | None,
        callback: Callable[[list[Any]], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> MapResult:
        self._check_running()
        if not hasattr(iterable, "__len__"):
            iterable = list(iterable)
        if chunksize is None:
            num_chunks = self._processes * CHUNKS_PER_WORKER
            chunksize = -(-len(iterable) // num_chunks)  # type: ignore[arg-type]
        calls = self._jobs._calls_of(func, unpack, stops=False)
        result = MapResult(self, calls, (), callback, error_callback)
        try:
            items = map(tuple, iterable) if unpack else iter(iterable)
            while chunk := list(itertools.islice(items, max(1, chunksize))):
                result._jobs += calls.make(chunk)
        except Exception as error:  # raised by the input: `get` raises it, as the original does
            result._fail(error)
        result._tell_when_done()
        return result

    def imap(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1
    ) -> IMapIterator:
        """Call a function for each item; return an iterator of results in the order of the items.

        A thread of the pool reads the items, as long as fewer than `FED_AHEAD` calls wait.

        Args:
            func: The function.
            iterable: The items.
            chunksize: How many calls make one task.
        """
        return self._imap(IMapIterator, func, iterable, chunksize)

    def imap_unordered(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int = 1
    ) -> IMapIterator:
        """Do the same as `imap`, with results in the order in which the calls end."""
        return self._imap(IMapUnorderedIterator, func, iterable, chunksize)

    def _imap(
        self,
        kind: type[IMapIterator],
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int,
    ) -> IMapIterator:
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
        results = kind(self, func)
        feeder = threading.Thread(
            target=self._feed, args=(results, iter(iterable), chunksize), daemon=True
        )
        with self._lock:
            self._feeders.add(feeder)
        feeder.start()
        return results

    def _feed(self, results: IMapIterator, items: Iterator[Any], chunksize: int) -> None:
        """Read the items of an `imap`; runs in a thread of its own."""
        error: Exception | None = None
        try:
            while chunk := list(itertools.islice(items, chunksize)):
                results.feed(chunk)
                del chunk
                self._dispatcher.wait_for_few(FED_AHEAD)
        except Exception as why:  # raised by the input, or because the pool accepts no more calls
            error = CancelledError() if self._state == TERMINATE else why
        results.end(error)
        with self._lock:
            self._feeders.discard(threading.current_thread())
            self._shut_down_if_fed()

    # -- close and terminate -------------------------------------------------------------------

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()

    def close(self) -> None:
        """Accept no more calls; the workers end when the calls in the pool are done."""
        with self._lock:
            if self._state == RUN:
                self._state = CLOSE
                self._shut_down_if_fed()

    def _shut_down_if_fed(self) -> None:
        if self._state == CLOSE and not self._feeders:
            self._jobs.shutdown(wait=False)

    def terminate(self) -> None:
        """End the workers now; calls that have not returned raise `multiprocessing.ProcessError`.

        A thread of a `ThreadPool` cannot be stopped: it ends when its current call has returned.
        """
        self._state = TERMINATE
        self._dispatcher.abort()
        self._dispatcher.shut_down(wait=False, cancel_waiting=True)

    def join(self) -> None:
        """Wait until the workers have ended. After `terminate`, running threads are not waited for.

        Raises:
            ValueError: Neither `close` nor `terminate` was called.
        """
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._state not in (CLOSE, TERMINATE):
            raise ValueError("In unknown state")
        if self._state == CLOSE:
            for feeder in list(self._feeders):
                feeder.join()
        elif self._in_threads:
            return
        self._dispatcher.join()


class ThreadPool(Pool):
    """A pool of threads, as `multiprocessing.pool.ThreadPool`.

    Args:
        processes: How many threads; None for the number of processors.
        initializer: Called in each thread when it starts.
        initargs: Positional arguments of `initializer`.
    """

    _in_threads = True

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        super().__init__(processes, initializer, initargs)

    def _make_queue(
        self,
        initializer: Callable[..., Any] | None,
        initargs: tuple[Any, ...],
        maxtasksperchild: int | None,
    ) -> JobQueue:
        jobs = JobQueue(
            self._processes,
            engine="thread",
            initializer=initializer,
            initargs=initargs,
            name="pool",
        )
        engine: Any = jobs._engine
        engine.daemon = True
        return jobs

    @property
    def _pool(self) -> list[Any]:
        """The current threads."""
        engine: Any = self._jobs._engine
        return list(engine.threads)


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def active_workers() -> list[PoolWorker]:
    """Return the running workers of all pools of this process."""
    pools = [pool for pool in list(_pools) if not pool._dispatcher.is_of_parent]
    return [worker for pool in pools for worker in pool._pool if worker.is_alive()]


def _prefix_of(context: Any) -> str:
    """Return the beginning of the names of a context's workers."""
    name: str = context.Process.__name__
    return name.replace("Process", "PoolWorker")


def _number_in(name: str) -> int:
    return int(name.rpartition("-")[2])


def _enter(
    prefix: str, parent: int, initializer: Callable[..., Any] | None, initargs: tuple[Any, ...]
) -> None:
    """Set up this process as `multiprocessing` does for a worker, then call the initializer."""
    number = _number_in(child_main.worker_name)
    module: Any = multiprocessing.process
    process: Any = multiprocessing.Process(name=f"{prefix}-{number}", daemon=True)
    process._identity = (number,)
    process._parent_pid = parent
    module._current_process = process
    module._parent_process = module._ParentProcess(
        "MainProcess", parent, child_main.parent_sentinel
    )
    module._process_counter = itertools.count(1)
    module._children = set()
    if initializer is not None:
        initializer(*initargs)


class PoolWorker:
    """A worker process of a pool, with the part of the interface of `Process` that is in use.

    Attributes:
        name: Its name in messages.
        pid: Its process id.
    """

    daemon = True

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.pid = self.ident = process.pid
        self._process = process

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name!r} pid={self.pid}>"

    @property
    def exitcode(self) -> int | None:
        """The exit code, minus the signal's number if a signal ended it; None while it runs."""
        return self._process.exitcode

    @property
    def sentinel(self) -> int:
        """A file descriptor that is readable once it has ended."""
        return self._process.sentinel

    def is_alive(self) -> bool:
        """Return whether it runs."""
        return not self._process.wait(0)

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, or for `timeout` seconds."""
        self._process.wait(timeout)

    def terminate(self) -> None:
        """Ask it to end (SIGTERM)."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self._process.send_signal(signal.SIGKILL)


# -- results -----------------------------------------------------------------------------------


class ApplyResult:
    """The result of a call, perhaps of one that still runs; returned by `Pool.apply_async`.

    It is `ready` only after its callbacks have returned.
    """

    def __init__(
        self,
        pool: Pool,
        jobs: Iterable[Any],
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        self._in_threads = pool._in_threads
        self._jobs: deque[Any] = deque(jobs)
        self._lock = threading.RLock()
        self._success = True
        self._value: Any = None
        self._callbacks = callback, error_callback
        self._told = native.Event() if callback or error_callback else None

    def ready(self) -> bool:
        """Return whether the call has ended."""
        return self._wait(0)

    def successful(self) -> bool:
        """Return whether the call has returned a value.

        Raises:
            ValueError: The call has not ended.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._success

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the call has ended, or for `timeout` seconds."""
        self._wait(timeout)

    def get(self, timeout: float | None = None) -> Any:
        """Wait for the call's result.

        Args:
            timeout: Seconds to wait at most; None is no limit.

        Raises:
            multiprocessing.TimeoutError: The call has not ended in time.
            multiprocessing.ProcessError: The pool was terminated first.
            WorkerDied: The process that ran the call died.
            Exception: The exception of the call.
        """
        if not self._wait(timeout):
            raise multiprocessing.TimeoutError
        if self._success:
            return self._value
        raise self._value

    __class_getitem__: Any = classmethod(types.GenericAlias)

    def _wait(self, timeout: float | None) -> bool:
        """Wait for the outcome; False if the timeout expired first."""
        return self._collect(timeout) if self._told is None else self._told.wait(timeout)

    def _collect(self, timeout: float | None) -> bool:
        """Take in the outcomes of the jobs; False if one of them is not done in time."""
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            with self._lock:
                if not self._jobs:
                    return True
                job = self._jobs[0]
            if not _wait_for(job, deadline):
                return False
            with self._lock:
                if self._jobs and self._jobs[0] is job:  # not taken by another thread meanwhile
                    self._jobs.popleft()
                    self._take(job)

    def _take(self, job: Any) -> None:
        """Take in the outcome of one job."""
        try:
            self._value = job.result()
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Set the failure, unless there is one already."""
        if self._success:
            self._success = False
            self._value = _as_raised(error, self._in_threads)

    def _tell_when_done(self, _: object = None) -> None:
        """Call the callback once all jobs are done, in the thread that settles the last one."""
        if self._told is None:
            return
        if not self._collect(0):
            self._jobs[0].add_done_callback(self._tell_when_done)
            return
        callback = self._callbacks[0 if self._success else 1]
        try:
            if callback is not None:
                callback(self._value)
        finally:
            self._told.set()


AsyncResult = ApplyResult


class MapResult(ApplyResult):
    """The results of the calls of a `map_async`, as one list; perhaps of calls that still run."""

    def __init__(
        self,
        pool: Pool,
        calls: MapCalls,
        jobs: Iterable[MapJob],
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        super().__init__(pool, jobs, callback, error_callback)
        self._calls = calls
        self._results: list[Any] = []
        self._value = self._results

    @property
    def _number_left(self) -> int:
        """The number of chunks that are not done, for programs that show their progress with it."""
        with self._lock:
            return sum(not job.done() for job in self._jobs)

    def _take(self, job: MapJob) -> None:
        outcome = self._calls.settle(job, self._jobs)
        if outcome is not None:
            results, errors = outcome
            self._results += results
            if errors:
                self._fail(errors[min(errors)])


class IMapIterator:
    """The results of an `imap`, in the order of its items.

    A failed call raises its exception when its turn comes; later calls are not affected.
    """

    def __init__(self, pool: Pool, func: Callable[[Any], Any]) -> None:
        self._in_threads = pool._in_threads
        self._jobs: deque[Any] = deque()  # the jobs whose outcomes come next
        self._calls = self._make_calls(pool, func)
        self._outcomes: deque[tuple[bool, Any]] = deque()
        self._is_fed = False
        self._input_error: Exception | None = None

    def _make_calls(self, pool: Pool, func: Callable[[Any], Any]) -> MapCalls:
        self._changed = native.Condition()
        return pool._jobs._calls_of(func, False, stops=False)

    def __iter__(self) -> IMapIterator:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """Return the next result.

        Args:
            timeout: Seconds to wait for it at most; None is no limit.

        Raises:
            StopIteration: There are no more results.
            multiprocessing.TimeoutError: The result is not there in time.
            Exception: The exception of the call, or of reading its item.
        """
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            with self._changed:
                while not self._outcomes:
                    job = self._first_job(deadline)
                    if not job.done():
                        break
                    self._jobs.popleft()
                    self._take(job)
                else:
                    success, value = self._outcomes.popleft()
                    break
            if not _wait_for(job, deadline):
                raise multiprocessing.TimeoutError
        if success:
            return value
        raise value

    def _first_job(self, deadline: float | None) -> Any:
        """Wait for the job whose outcome comes next."""
        while not self._jobs:
            if self._is_over():
                error, self._input_error = self._input_error, None
                raise error or StopIteration
            left = None if deadline is None else deadline - monotonic()
            if (left is not None and left <= 0) or not self._changed.wait(left):
                raise multiprocessing.TimeoutError
        return self._jobs[0]

    def _is_over(self) -> bool:
        return self._is_fed

    def _take(self, job: MapJob) -> None:
        """Take in the outcome of one job."""
        parts: deque[MapJob] = deque()
        outcome = self._calls.settle(job, parts)
        if outcome is None:
            self._put_first(parts)
            return
        results, errors = outcome
        for place, result in enumerate(results):
            if (error := errors.get(place)) is not None:
                self._outcomes.append((False, _as_raised(error, self._in_threads)))
            else:
                self._outcomes.append((True, result))

    def _put_first(self, jobs: deque[MapJob]) -> None:
        self._jobs.extendleft(reversed(jobs))

    def feed(self, items: list[Any]) -> None:
        """Call the function for the next items, in the background."""
        jobs = self._calls.make(items)
        with self._changed:
            self._jobs.extend(jobs)
            self._changed.notify_all()

    def end(self, error: Exception | None) -> None:
        """Mark the input as complete; `error` is the exception that it raised, or None."""
        with self._changed:
            self._input_error = None if error is None else _as_raised(error, True)
            self._is_fed = True
            self._changed.notify_all()


class IMapUnorderedIterator(IMapIterator):
    """The results of an `imap_unordered`, in the order in which the calls end."""

    _num_left = 0  # jobs whose outcomes were not taken in

    def _make_calls(self, pool: Pool, func: Callable[[Any], Any]) -> MapCalls:
        self._changed = pool._dispatcher.changed
        return pool._jobs._calls_of(func, False, stops=False, sink=self._jobs)

    def _is_over(self) -> bool:
        return self._is_fed and not self._num_left

    def _take(self, job: MapJob) -> None:
        self._num_left -= 1
        super()._take(job)

    def _put_first(self, jobs: deque[MapJob]) -> None:
        self._num_left += len(jobs)

    def feed(self, items: list[Any]) -> None:
        """Call the function for the next items, in the background."""
        num_jobs = len(self._calls.make(items))
        with self._changed:
            self._num_left += num_jobs


def _wait_for(job: Any, deadline: float | None) -> bool:
    """Wait until a job is done; False if the deadline passes first."""
    if not job.done():
        try:
            job.exception(None if deadline is None else max(0.0, deadline - monotonic()))
        except CancelledError:
            pass
        except TimeoutError:
            return bool(job.done())
    return True


def _as_raised(error: BaseException, in_threads: bool) -> Any:
    """Return the exception that `multiprocessing` raises where a job queue raises this one."""
    if isinstance(error, CancelledError):
        return multiprocessing.ProcessError("the pool was terminated before this call had returned")
    cause = error.__cause__
    if isinstance(error, SerializationError):
        is_raised = isinstance(cause, remote_errors.RemoteTraceback)
        if error.is_of_result or is_raised:
            what = "the exception" if is_raised else "the result"
            encoding = stdlib_pool.MaybeEncodingError(error, what)  # type: ignore[attr-defined]
            encoding.__cause__ = error
            return encoding
        if cause is not None:
            cause.add_note(str(error))
            return cause
    if isinstance(cause, remote_errors.RemoteTraceback) and not in_threads:
        text = f'\n"""\n{cause.text}"""'
        told = stdlib_pool.RemoteTraceback(text)  # type: ignore[attr-defined]
        BaseException.__setattr__(error, "__cause__", told)
    return error
