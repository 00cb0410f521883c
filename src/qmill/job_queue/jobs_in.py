"""The jobs that go into a job queue, one by one or by a `map`; the base of `JobQueue`."""

from __future__ import annotations

import itertools
import operator
import os
import traceback
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, overload

from ..engines.api import ALL
from ..errors import NotSupported, SerializationError
from ..jobs.job import DEFAULT_OPTIONS, Chunk, Job, MapCall, Options
from ..jobs.kept import BOUND, remains_of
from ..packing.guesses import check_function, explain_arguments
from ..queues.checks import check_wait
from ..system.generic import T
from ..workers import api
from .checks import as_args, as_kwargs, bar_type, check_count, check_int, check_number
from .chunks import ChunkedMap
from .map_calls import MapCalls
from .options import DEFAULT_PRIORITY, MapLimits, WithOptions, map_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Literal, TypeVar, Unpack

    from ..engines.api import Engine
    from ..system.generic import A, B, C, D, E, P
    from .dispatch import Dispatcher
    from .options import OptionsOfJobsMap

    J = TypeVar("J", bound=Job)

_OF_OPTIONS = {
    name: f"an option, as in jobs.options({name}=...).map(...)"
    for name in ("priority", "lane", "name", "retries", "backoff")
}


class JobQueue(Executor):
    """The methods of `queue.JobQueue` that put jobs into it.

    It has the name of the whole class, since Python's errors name a method by the class that
    defines it: "JobQueue.put() got an unexpected keyword argument".

    Args:
        max_workers: How many jobs run at a time; ALL for the threads of a cluster.
        engine: Packs the jobs.
        dispatcher: Takes the jobs.
        callback: As for `queue.JobQueue`.
        keep_args: As for `queue.JobQueue`.
        progress: As for `queue.JobQueue`.
    """

    def __init__(
        self,
        max_workers: int,
        engine: Engine,
        dispatcher: Dispatcher,
        callback: Callable[[Job], Any] | None,
        keep_args: bool,
        progress: Any,
    ) -> None:
        self._max_workers = max_workers
        self._engine = engine
        self._dispatcher = dispatcher
        self._callback = callback
        self._keep_args = keep_args
        self._progress = progress
        self._ids = itertools.count(1)

    @property
    def max_workers(self) -> int:
        """The number of jobs that run at a time: as given, or the cluster's current threads."""
        return self._engine.max_workers if self._max_workers == ALL else self._max_workers

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
        return self._put(Job, function, as_args(args), kwargs, priority, options, True, block)

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
        return self._put(
            Job, fn, args, kwargs or None, DEFAULT_PRIORITY, DEFAULT_OPTIONS, False, True
        )

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
        kind: Callable[..., J],
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        priority: float,
        options: Options,
        kept: bool,
        block: bool,
        moment: Any = None,
    ) -> J:
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
        make_bar = bar_type(self._progress if progress is None else progress)
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

        rest = None, priority, options, False, True, moment
        go_on = not stops or options.retries > 0

        def submit(items: list[Any], index: int) -> Chunk | MapCall:
            if len(items) == 1:
                args = items[0] if unpack else (items[0],)
                return self._put(partial(MapCall, index=index, sink=sink), fn, args, *rest)
            make = partial(Chunk, index=index, stops=stops, sink=sink)
            return self._put(make, fn, (items, unpack, go_on), *rest)

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
        as_tuple = partial(api.as_tuple, "each item of starmap")
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
