"""`JobQueue`: a priority queue of function calls, run by workers, each with a record.

    put, submit ──> waiting ──> working ──> completed ──> get, collect, as_completed
                                   └──────> result(), concurrent.futures.as_completed, ...

`JobQueue` is the public class: it checks arguments and makes jobs. `jobs.scheduler` decides which
job runs next, an engine runs it, and `_dispatch` connects the scheduler with the engine.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import operator
import os
import traceback
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from ..engines.api import ALL, Engine, EngineFactory, Settings
from ..errors import NotSupported, SerializationError
from ..jobs.job import DEFAULT_OPTIONS, Chunk, Job, MapCall, Options
from ..jobs.kept import BOUND, remains_of
from ..jobs.records import RecordLog
from ..packing.guesses import check_function, explain_arguments, explain_engine
from ..processes import inherited, launch
from ..queues.checks import check_wait
from ..system import native
from ..system.generic import T
from ..workers import api
from . import dispatch
from .checks import (
    as_args,
    as_kwargs,
    check_auto_stop,
    check_callable,
    check_count,
    check_int,
    check_number,
    check_workers,
)
from .chunks import ChunkedMap
from .map_calls import MapCalls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Literal, TypedDict, Unpack

    import pandas

    from ..observe.summary import Summary
    from ..system.generic import A, B, C, D, E, P

    class OptionsOfMap(TypedDict, total=False):
        """Arguments of each `map`."""

        timeout: float | None
        chunksize: int | None
        buffersize: int | None
        progress: Any

    class OptionsOfJobsMap(OptionsOfMap, total=False):
        """Arguments of `JobQueue.map`."""

        job_timeout: float | None
        retries: int


logger = logging.getLogger("qmill")

DEFAULT_PRIORITY = 100


_OF_OPTIONS = {
    name: f"an option, as in jobs.options({name}=...).map(...)"
    for name in ("priority", "lane", "name", "retries", "backoff")
}


class MapLimits(NamedTuple):
    """Options for the pace of a `map`; see `JobQueue.map`."""

    timeout: float | None
    chunksize: int | None
    buffersize: int | None
    job_timeout: float | None
    return_exceptions: bool = False


class JobQueue(Executor):
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
        _bar_type(progress)
        if max_workers is None:
            max_workers = _default_workers(engine)
        self.name = os.urandom(4).hex() if name is None else str(name)
        self._max_workers = check_workers(max_workers)
        settings = Settings(
            self.name,
            self._max_workers,
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
        self._engine = _make_engine(engine, settings, start_method, mp_context)
        try:
            log = _open_log(log_file)
        except BaseException:
            if self._engine is not engine:  # an engine that the caller passed stays the caller's
                self._engine.close()
            raise
        self._dispatcher = dispatch.Dispatcher(
            self._engine, self.name, maxsize, log, auto_stop_s, auto_remove
        )
        self._callback = callback
        self._keep_args = bool(keep_args)
        self._progress = progress
        self._shown = dispatch.Progress(0, 0, 0, 0)  # the counts when a progress bar last closed
        self._ids = itertools.count(1)
        self._finalizer = weakref.finalize(self, _let_end, self._dispatcher)
        self._finalizer.atexit = False
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

    @property
    def max_workers(self) -> int:
        """The number of jobs that run at a time: as given, or the cluster's current threads."""
        return self._engine.max_workers if self._max_workers == ALL else self._max_workers

    # -- jobs in -------------------------------------------------------------------------------

    def put(
        self,
        function: Callable[..., T],
        args: Any = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        name: Any = None,
        priority: float = DEFAULT_PRIORITY,
        lane: Any = None,
        timeout: float | None = None,
        retries: int = 0,
        backoff: float = 0.0,
        retry_timeouts: bool = False,
        suppress_errors: bool = False,
        stop_on_lane_error: bool = False,
        block: bool = True,
    ) -> Job[T]:
        """Put a job in the queue. After it has ended, it is kept until it is fetched.

        Args:
            function: The function to call. It is sent to each worker once, with the global names
                that it uses as they are now. Later jobs send only the globals that have changed.
            args: Its positional arguments: a list or a tuple of them. Any other object is a single
                argument, including a named tuple, a dict, an array or another iterable.
            kwargs: Its keyword arguments: a mapping.
            name: The job's name in its record and in messages; None for its id.
            priority: Jobs with lower numbers run first; equal ones in the order of `put`.
            lane: Any hashable value: jobs of one lane run one after another.
            timeout: Seconds that the job may run. Then it is *killed* (SIGTERM, after 2 seconds
                SIGKILL) with the processes that it has started, and fails with `JobTimeout`. None
                is no limit. (The `timeout` of `job.result` only limits the waiting.)
            retries: How often to try again if the function raises or the worker dies.
            backoff: Seconds to wait before the first retry, doubled each time, with jitter.
            retry_timeouts: Whether to retry as well after the job was killed for its timeout.
            suppress_errors: Whether to keep its failure out of the log. The job has it in any case.
            stop_on_lane_error: Whether to cancel the job (`LaneError`) if the job before it in its
                lane fails or was itself cancelled for that reason.
            block: Whether to wait for room in a full queue.

        Returns:
            The job. If its function or arguments cannot be pickled, the job fails; `put` does not
            raise.

        Raises:
            TypeError: An argument has the wrong type; `function` is not callable, or is `async`.
            ValueError: A number is out of range.
            NotSupported: `timeout` is given and the engine cannot kill jobs (also a ValueError).
            RuntimeError: The queue was shut down.
            Full: The queue is full and `block` is false.
        """
        if (
            name is None
            and lane is None
            and timeout is None
            and retries == 0
            and backoff == 0
            and not suppress_errors
            and not stop_on_lane_error
        ):
            options = DEFAULT_OPTIONS
        else:
            options = self._check_options(
                Options(
                    name,
                    lane,
                    timeout,
                    retries,
                    backoff,
                    bool(retry_timeouts),
                    bool(suppress_errors),
                    bool(stop_on_lane_error),
                )
            )
        if kwargs is not None:
            kwargs = as_kwargs(kwargs)
        job: Job[T] = self._put(
            Job, function, as_args(args), kwargs, priority, options, True, block
        )
        return job

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Job[T]:
        """Put a job that only the returned object gives access to: `get` does not fetch it.

        Args:
            fn: The function to call.
            *args: Its arguments.
            **kwargs: Its keyword arguments. `options` sets priority, timeout and so on.

        Returns:
            The job. It releases its function and arguments when it has ended.

        Raises:
            RuntimeError: The queue was shut down.
        """
        job: Job[T] = self._put(
            Job, fn, args, kwargs or None, DEFAULT_PRIORITY, DEFAULT_OPTIONS, False, True
        )
        return job

    def options(
        self,
        *,
        name: Any = None,
        priority: float = DEFAULT_PRIORITY,
        lane: Any = None,
        timeout: float | None = None,
        retries: int = 0,
        backoff: float = 0.0,
        retry_timeouts: bool = False,
        suppress_errors: bool = False,
        stop_on_lane_error: bool = False,
    ) -> WithOptions:
        """Return an object with a `submit` and a `map` whose jobs have these options; see `put`.

        >>> jobs.options(priority=1, timeout=60).submit(fn, x)  # doctest: +SKIP
        """
        options = Options(
            name,
            lane,
            timeout,
            retries,
            backoff,
            bool(retry_timeouts),
            bool(suppress_errors),
            bool(stop_on_lane_error),
        )
        return WithOptions(self, check_number("priority", priority), self._check_options(options))

    def _check_options(self, options: Options, timeout_argument: str = "timeout") -> Options:
        try:
            hash(options.lane)
        except TypeError:
            raise TypeError(
                f"lane must be hashable, such as a str or a number; got "
                f"{type(options.lane).__name__} {options.lane!r}"
            ) from None
        if options.timeout is not None:
            check_number(timeout_argument, options.timeout, above_0=True, unit=" of seconds")
            if not self._engine.can_kill:
                raise NotSupported(
                    f"{timeout_argument}={options.timeout!r}: this engine cannot kill a running "
                    "job, engine='process' can; to wait for a limited time use job.result(timeout)"
                )
        check_int("retries", options.retries)
        check_number("backoff", options.backoff, from_0=True, unit=" of seconds")
        return options

    def _put(
        self,
        kind: Callable[..., Job],
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        priority: float,
        options: Options,
        kept: bool,
        block: bool,
        moment: Any = None,
    ) -> Any:
        check_function("function", function)
        if type(priority) is not int:
            check_number("priority", priority)
        dispatcher = self._dispatcher
        job = kind(
            next(self._ids), function, args, kwargs, priority, options, dispatcher, monotonic()
        )
        job._kept = kept
        if kept:
            # The job holds the callback, not the dispatcher: the dispatcher lives as long as its
            # thread, and would keep the callback's owner alive, which may be this queue.
            job._callback = self._callback
        try:
            self._engine.prepare(job, moment)
        except SerializationError as error:
            job._packet = _without_frames(error)  # the job fails when its turn comes
            if job._is_chunk:
                job._sink = None  # `MapCalls.make` makes one job for each of its calls instead
        # Most arguments are small, and a plain function carries no data; a bound one does.
        may_be_large = type(job._packet) is not bytes or type(function) in BOUND
        if may_be_large and kept and not self._keep_args:
            job._remains = remains_of(job, self._engine.has_large_arguments(job))
        dispatcher.put(job, block)
        return job

    @overload  # type: ignore[override]  # it needs one iterable or more
    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        return_exceptions: Literal[True],
        **options: Unpack[OptionsOfJobsMap],
    ) -> Iterator[T | BaseException]: ...

    @overload
    def map(
        self,
        fn: Callable[[A], T],
        a: Iterable[A],
        /,
        *,
        return_exceptions: Literal[False] = ...,
        **options: Unpack[OptionsOfJobsMap],
    ) -> Iterator[T]: ...

    @overload
    def map(
        self,
        fn: Callable[[A, B], T],
        a: Iterable[A],
        b: Iterable[B],
        /,
        *,
        return_exceptions: Literal[False] = ...,
        **options: Unpack[OptionsOfJobsMap],
    ) -> Iterator[T]: ...

    @overload
    def map(
        self,
        fn: Callable[[A, B, C], T],
        a: Iterable[A],
        b: Iterable[B],
        c: Iterable[C],
        /,
        *,
        return_exceptions: Literal[False] = ...,
        **options: Unpack[OptionsOfJobsMap],
    ) -> Iterator[T]: ...

    @overload
    def map(
        self,
        fn: Callable[[A, B, C, D], T],
        a: Iterable[A],
        b: Iterable[B],
        c: Iterable[C],
        d: Iterable[D],
        /,
        *,
        return_exceptions: Literal[False] = ...,
        **options: Unpack[OptionsOfJobsMap],
    ) -> Iterator[T]: ...

    @overload
    def map(
        self,
        fn: Callable[[A, B, C, D, E], T],
        a: Iterable[A],
        b: Iterable[B],
        c: Iterable[C],
        d: Iterable[D],
        e: Iterable[E],
        /,
        *,
        return_exceptions: Literal[False] = ...,
        **options: Unpack[OptionsOfJobsMap],
    ) -> Iterator[T]: ...

    @overload
    def map(
        self,
        fn: Callable[..., T],
        a: Iterable[Any],
        b: Iterable[Any],
        c: Iterable[Any],
        d: Iterable[Any],
        e: Iterable[Any],
        f: Iterable[Any],
        /,
        *iterables: Iterable[Any],
        return_exceptions: Literal[False] = ...,
        **options: Unpack[OptionsOfJobsMap],
    ) -> Iterator[T]: ...

    @explain_arguments(**_OF_OPTIONS)
    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        job_timeout: float | None = None,
        return_exceptions: bool = False,
        retries: int = 0,
        progress: Any = None,
    ) -> Iterator[Any]:
        """Call a function for each item, in parallel; the results come in the order of the items.

        Args:
            fn: The function to call.
            *iterables: Its arguments, one iterable for each; the shortest one ends the map.
            timeout: Seconds from now until which `next` waits for a result; then it raises
                TimeoutError.
            chunksize: How many calls make one job; None chooses it by the duration of the calls.
            buffersize: How many results may be computed ahead of the caller; the input is then read
                lazily. None submits all calls before `map` returns.
            job_timeout: Seconds that one call may take before it is killed. Implies a chunksize
                of 1; no other one is accepted with it.
            return_exceptions: Whether a failed item yields its exception in the place of its
                result, and the iteration continues, as with `asyncio.gather`.
            retries: How often to call the function again for an item if it raises or its worker
                dies. Other items of the chunk are not called again. `options(...).map` has
                `backoff` and the other options.
            progress: Whether to show a progress bar, from the first result that is asked for. Takes
                the values of `JobQueue(progress=...)`; None is the queue's own setting.

        Returns:
            An iterator of results. When it is closed or garbage-collected, calls that have not
            begun are cancelled. Without `buffersize`, if no result was asked for, all calls still
            run.

        Raises:
            TimeoutError: From the iterator: a result was not there in time.
            Exception: From the iterator: the exception of an item's call; the iteration ends there.
                A note (`__notes__`) gives the item's index, and the item in brief.
            WorkerDied: From the iterator: the process that ran the call for this item died.
            TypeError: An argument has the wrong type.
            ValueError: A number is out of range.
            NotSupported: `job_timeout` is given and the engine cannot kill jobs.
        """
        limits = MapLimits(timeout, chunksize, buffersize, job_timeout, return_exceptions)
        options = map_options(retries)
        return self._map(fn, iterables, limits, options=options, progress=progress)

    def _map(
        self,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        limits: MapLimits,
        priority: float = DEFAULT_PRIORITY,
        options: Options = DEFAULT_OPTIONS,
        *,
        lazy: bool = False,
        ordered: bool = True,
        progress: Any = None,
        moment: Any = None,
    ) -> Iterator[Any]:
        self._check_map(fn, iterables, limits)
        make_bar = _bar_type(self._progress if progress is None else progress)
        total = min(operator.length_hint(i, -1) for i in iterables)
        timeout, chunksize, buffersize, job_timeout, return_exceptions = limits
        lazy = lazy or buffersize is not None
        if job_timeout is not None:
            chunksize = 1
            options = options._replace(timeout=job_timeout)
        unpack, stops = len(iterables) > 1, not return_exceptions
        ended: deque[Job] = deque()
        sink = None if ordered else ended
        mapping = ChunkedMap(
            self._calls_of(fn, unpack, stops, priority, options, moment, sink),
            self._dispatcher.cancel_waiting_of,
            zip(*iterables, strict=False) if unpack else iter(iterables[0]),
            total,
            ended,
            num_workers=max(1, self.max_workers),
            chunksize=chunksize,
            window=buffersize,
            lazy=lazy,
            mean_s=self._engine.mean_of(fn),
            return_exceptions=return_exceptions,
        )
        mapping.fill()
        deadline = None if timeout is None else monotonic() + timeout
        if ordered:
            results = mapping.in_order(deadline)
        else:
            results = mapping.as_completed(deadline, self._dispatcher.changed)
        if lazy:
            next(results)  # only a generator that has begun runs its `finally` when it is closed
        if make_bar is None:
            return results
        from ..observe.progress import follow

        return follow(make_bar, results, None if total < 0 else total, self._dispatcher)

    def _calls_of(
        self,
        fn: Callable[..., Any],
        unpack: bool,
        stops: bool,
        priority: float = DEFAULT_PRIORITY,
        options: Options = DEFAULT_OPTIONS,
        moment: Any = None,
        sink: deque[Job] | None = None,
    ) -> MapCalls:
        """Return the object that makes the jobs of a map.

        Args:
            fn: The function to call.
            unpack: Whether each item is a tuple of arguments.
            stops: Whether results after a failed call are not needed.
            priority: As for `put`.
            options: As for `put`.
            moment: The function's state when the map was called, from `_moment_of`; None for now.
            sink: Jobs are appended to it as they end; None for no such list.
        """
        moment = moment or self._moment_of(fn)

        def submit(items: list[Any], index: int) -> Chunk | MapCall:
            kind: Callable[..., Job]
            args: tuple[Any, ...]
            if len(items) == 1:
                kind = partial(MapCall, index=index, sink=sink)
                args = items[0] if unpack else (items[0],)
            else:
                kind = partial(Chunk, index=index, stops=stops, sink=sink)
                args = items, unpack, not stops or options.retries > 0
            job: Chunk | MapCall = self._put(
                kind, fn, args, None, priority, options, False, True, moment
            )
            return job

        return MapCalls(submit, unpack)

    def _moment_of(self, fn: Callable[..., Any]) -> Any:
        """Return a function's state now, for later calls; None if it cannot be pickled."""
        try:
            return self._engine.moment_of(fn)
        except SerializationError:
            return None  # the jobs will fail

    def _check_map(
        self, fn: Callable[..., Any], iterables: tuple[Iterable[Any], ...], limits: MapLimits
    ) -> None:
        check_function("fn", fn)
        if not iterables:
            raise TypeError("map needs an iterable for each argument of fn; got none")
        for iterable in iterables:
            if not isinstance(iterable, Iterable) and not hasattr(iterable, "__getitem__"):
                raise TypeError(f"map needs iterables; got {type(iterable).__name__} {iterable!r}")
        check_wait(True, limits.timeout)
        check_count("chunksize", limits.chunksize, or_none=True)
        check_count("buffersize", limits.buffersize, or_none=True)
        if limits.job_timeout is not None:
            self._check_options(Options(timeout=limits.job_timeout), "job_timeout")
            if limits.chunksize not in (None, 1):
                raise ValueError(f"job_timeout needs a chunksize of 1; got {limits.chunksize}")

    def starmap(
        self, function: Callable[..., T], iterable: Iterable[Iterable[Any]], **options: Any
    ) -> list[Job[T]]:
        """Put a job for each tuple of positional arguments.

        Args:
            function: The function to call.
            iterable: The tuples, or other iterables; each is unpacked, as by `itertools.starmap`.
            **options: Options of `put`, for all of these jobs.

        Returns:
            The jobs, in the order of the tuples.

        Raises:
            TypeError: An item is not iterable, or is a str, a mapping, a set or a data frame, whose
                items are hardly meant as arguments. Also the errors of `put`.
        """
        as_tuple = functools.partial(api.as_tuple, "each item of starmap")
        return [self.put(function, as_tuple(args), **options) for args in iterable]

    def starmapkw(
        self, function: Callable[..., T], iterable: Iterable[Mapping[str, Any]], **options: Any
    ) -> list[Job[T]]:
        """Put a job for each dict of keyword arguments.

        Args:
            function: The function to call.
            iterable: The dicts.
            **options: Options of `put`, for all of these jobs.

        Returns:
            The jobs, in the order of the dicts.
        """
        return [self.put(function, None, kwargs, **options) for kwargs in iterable]

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
        check_wait(True, timeout)
        deadline = None if timeout is None else monotonic() + timeout
        dispatcher = self._dispatcher
        dispatcher.check_is_ours()
        make_bar = _bar_type(self._progress if progress is None else progress)
        if make_bar is not None:
            aim = 0 if n is None else max(0, dispatcher.num_left() - n)
            return self._watch(make_bar, aim, math.inf if deadline is None else deadline)
        with dispatcher.changed:
            aim = 0 if n is None else max(0, dispatcher.num_left() - n)
            while (left := dispatcher.num_left()) > aim:
                if not _wait_for_change(dispatcher, deadline):
                    break
            return left

    def wait_worker(self, timeout: float | None = None) -> bool:
        """Wait until a worker is idle: fewer jobs wait or work than there are workers.

        Args:
            timeout: Seconds to wait at most; None is no limit.

        Returns:
            Whether a worker is idle; False if the timeout expired.
        """
        check_wait(True, timeout)
        deadline = None if timeout is None else monotonic() + timeout
        dispatcher = self._dispatcher
        dispatcher.check_is_ours()
        with dispatcher.changed:
            while dispatcher.num_left() >= self.max_workers:
                if not _wait_for_change(dispatcher, deadline):
                    return False
            return True

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
        check_wait(True, timeout)
        deadline = None if timeout is None else monotonic() + timeout
        dispatcher = self._dispatcher
        dispatcher.check_is_ours()
        job = None
        try:
            with dispatcher.changed:
                while (job := dispatcher.pop_completed()) is None:
                    if not block or not dispatcher.num_left():
                        break
                    if not _wait_for_change(dispatcher, deadline):
                        break
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
        self._finalizer.detach()

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        try:
            if exc_type is not None:
                self._dispatcher.abort()
            elif (make_bar := _bar_type(self._progress)) is not None:
                self.shutdown(wait=False)
                self._watch(make_bar, 0, math.inf)
            self.shutdown(wait=True)
        except BaseException:  # Ctrl-C, perhaps before the queue was shut down
            self._dispatcher.abort()
            self.shutdown()
            raise


class WithOptions:
    """`submit` and `map` of a queue, for jobs with options; returned by `JobQueue.options`."""

    def __init__(self, queue: JobQueue, priority: float, options: Options) -> None:
        self._queue = queue
        self._priority = priority
        self._options = options

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Job[T]:
        """Put a job as `JobQueue.submit` does, with these options."""
        job: Job[T] = self._queue._put(
            Job, fn, args, kwargs or None, self._priority, self._options, False, True
        )
        return job

    @overload
    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        return_exceptions: Literal[True],
        **options: Unpack[OptionsOfMap],
    ) -> Iterator[T | BaseException]: ...

    @overload
    def map(
        self,
        fn: Callable[[A], T],
        a: Iterable[A],
        /,
        *,
        return_exceptions: Literal[False] = ...,
        **options: Unpack[OptionsOfMap],
    ) -> Iterator[T]: ...

    @overload
    def map(
        self,
        fn: Callable[[A, B], T],
        a: Iterable[A],
        b: Iterable[B],
        /,
        *,
        return_exceptions: Literal[False] = ...,
        **options: Unpack[OptionsOfMap],
    ) -> Iterator[T]: ...

    @overload
    def map(
        self,
        fn: Callable[[A, B, C], T],
        a: Iterable[A],
        b: Iterable[B],
        c: Iterable[C],
        /,
        *,
        return_exceptions: Literal[False] = ...,
        **options: Unpack[OptionsOfMap],
    ) -> Iterator[T]: ...

    @overload
    def map(
        self,
        fn: Callable[[A, B, C, D], T],
        a: Iterable[A],
        b: Iterable[B],
        c: Iterable[C],
        d: Iterable[D],
        /,
        *,
        return_exceptions: Literal[False] = ...,
        **options: Unpack[OptionsOfMap],
    ) -> Iterator[T]: ...

    @overload
    def map(
        self,
        fn: Callable[[A, B, C, D, E], T],
        a: Iterable[A],
        b: Iterable[B],
        c: Iterable[C],
        d: Iterable[D],
        e: Iterable[E],
        /,
        *,
        return_exceptions: Literal[False] = ...,
        **options: Unpack[OptionsOfMap],
    ) -> Iterator[T]: ...

    @overload
    def map(
        self,
        fn: Callable[..., T],
        a: Iterable[Any],
        b: Iterable[Any],
        c: Iterable[Any],
        d: Iterable[Any],
        e: Iterable[Any],
        f: Iterable[Any],
        /,
        *iterables: Iterable[Any],
        return_exceptions: Literal[False] = ...,
        **options: Unpack[OptionsOfMap],
    ) -> Iterator[T]: ...

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        return_exceptions: bool = False,
        progress: Any = None,
    ) -> Iterator[Any]:
        """Call a function for each item as `JobQueue.map` does, with these options.

        `job_timeout` is the `timeout` of these options.
        """
        job_timeout = self._options.timeout
        limits = MapLimits(timeout, chunksize, buffersize, job_timeout, return_exceptions)
        return self._queue._map(
            fn, iterables, limits, self._priority, self._options, progress=progress
        )


def map_options(retries: int) -> Options:
    """Return the options of a map's jobs."""
    return (
        DEFAULT_OPTIONS._replace(retries=check_int("retries", retries))
        if retries
        else DEFAULT_OPTIONS
    )


def _let_end(dispatcher: dispatch.Dispatcher) -> None:
    """Shut a queue down that is garbage; the jobs in it still run."""
    dispatcher.shut_down(wait=False, cancel_waiting=False)


def _bar_type(progress: Any) -> Callable[..., Any] | None:
    """Return the class of progress bars, or None; see `observe.progress.bar_type`."""
    if progress is None or progress is False:
        return None
    from ..observe.progress import bar_type

    return bar_type(progress)


def _wait_for_change(dispatcher: dispatch.Dispatcher, deadline: float | None) -> bool:
    """Wait, with the dispatcher's lock held, until a job ends; False if the deadline has passed."""
    if deadline is None:
        dispatcher.changed.wait()
        return True
    left = deadline - monotonic()
    return left > 0 and dispatcher.changed.wait(left)


def _make_engine(
    engine: str | Engine | EngineFactory,
    settings: Settings,
    start_method: str | None,
    mp_context: Any,
) -> Engine:
    if isinstance(engine, Engine):
        return engine
    if isinstance(engine, EngineFactory):
        if start_method is not None or mp_context is not None:
            raise NotSupported(
                f"start_method and mp_context are for engine='process', not for {engine!r}"
            )
        return engine.make(settings)
    if engine == "process":
        from ..engines.process.engine import ProcessEngine

        if start_method is None and mp_context is not None:
            if not hasattr(mp_context, "get_start_method"):
                raise TypeError(
                    "mp_context must be a context of multiprocessing, not "
                    f"{type(mp_context).__name__} {mp_context!r}; "
                    "a start method's name goes into start_method"
                )
            start_method = mp_context.get_start_method()
        if start_method is None:
            start_method = _method_for(settings)
        return ProcessEngine(settings, launch.get_start_method(start_method))
    if engine != "thread":
        raise ValueError(explain_engine(engine))
    for argument in ("max_jobs_per_worker", "max_memory_per_worker"):
        if getattr(settings, argument) is not None:
            raise NotSupported(
                f"{argument}: engine='thread' cannot replace workers; engine='process' can"
            )
    if start_method is not None or mp_context is not None:
        raise NotSupported("start_method and mp_context are for engine='process'")
    if native.has_greenlets():
        raise NotSupported(
            "engine='thread': gevent.monkey has put greenlets in the place of threads; use "
            "gevent.pool, or gevent.monkey.patch_all(thread=False), or engine='process'"
        )
    from ..engines.thread import ThreadEngine

    return ThreadEngine(settings)


def _method_for(settings: Settings) -> str | None:
    """Return "fork" if no start method was chosen and an argument of the initializer needs it.

    Code that takes any executor cannot pass a start method. For instance, `process_map` of tqdm
    makes its lock in multiprocessing's default context, which is also that of the standard
    library's executor.
    """
    if launch.is_method_chosen():
        return None
    needs_fork = inherited.needs_fork((settings.initializer, settings.initargs))
    return "fork" if needs_fork else None


def _default_workers(engine: object) -> int:
    if isinstance(engine, EngineFactory):
        return ALL
    return api.NUM_THREADS if engine == "thread" else api.NUM_CPUS


def _without_frames(error: SerializationError) -> SerializationError:
    """Remove the frames of an error's traceback: they keep the arguments of all callers alive."""
    if (cause := error.__cause__) is not None and cause.__traceback__ is not None:
        place = traceback.extract_tb(cause.__traceback__)[-1]
        if (
            os.path.dirname(os.path.dirname(__file__)) not in place.filename
        ):  # pickling code of the user
            cause.add_note(f'raised in File "{place.filename}", line {place.lineno}')
    each: BaseException | None = error
    while each is not None:
        BaseException.with_traceback(each, None)
        each = each.__cause__ or each.__context__
    return error


def _open_log(log_file: Any) -> RecordLog | None:
    if log_file is None or isinstance(log_file, RecordLog):
        return log_file
    if not isinstance(log_file, (str, os.PathLike)):
        raise TypeError(f"log_file must be a path, not {type(log_file).__name__} {log_file!r}")
    return RecordLog(log_file)
