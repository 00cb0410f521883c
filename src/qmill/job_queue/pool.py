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
import os
import signal
import threading
import warnings
import weakref
from concurrent.futures import CancelledError
from multiprocessing.pool import CLOSE, INIT, RUN, TERMINATE
from typing import TYPE_CHECKING, Any

from ..processes import child_main
from ..system.finalizers import finalizer
from .pool_results import ApplyResult, IMapIterator, IMapUnorderedIterator, MapResult
from .queue import JobQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ..processes.handles import Process


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
        engine.codec.hands_on = False
        return jobs

    @finalizer
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
