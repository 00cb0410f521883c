"""The options of jobs and maps, and `WithOptions`: a queue together with options of its jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, overload

from ..jobs.job import DEFAULT_OPTIONS, Job, Options
from ..system.generic import T
from .checks import check_int

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Literal, TypedDict, Unpack

    from ..system.generic import A, B, C, D, E, P
    from .jobs_in import JobQueue

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


DEFAULT_PRIORITY = 100


class MapLimits(NamedTuple):
    """Options for the pace of a `map`; see `JobQueue.map`."""

    timeout: float | None
    chunksize: int | None
    buffersize: int | None
    job_timeout: float | None
    return_exceptions: bool = False


def map_options(retries: int) -> Options:
    """Return the options of a map's jobs."""
    return (
        DEFAULT_OPTIONS._replace(retries=check_int("retries", retries))
        if retries
        else DEFAULT_OPTIONS
    )


class WithOptions:
    """`submit` and `map` of a queue, for jobs with options; returned by `JobQueue.options`."""

    def __init__(self, queue: JobQueue, priority: float, options: Options) -> None:
        self._queue = queue
        self._priority = priority
        self._options = options

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Job[T]:
        """Put a job as `JobQueue.submit` does, with these options."""
        return self._queue._put(
            Job, fn, args, kwargs or None, self._priority, self._options, False, True
        )

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
