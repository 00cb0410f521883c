"""`map` and `parallel`: call a function for many items, with a job queue made for the call."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, overload

from ..packing.guesses import arguments_of, check_arguments, check_function, explain_arguments
from ..system.generic import T
from .options import MapLimits, map_options
from .queue import JobQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Concatenate, Literal, Unpack

    from ..engines.api import EngineFactory
    from ..system.generic import A, B, C, D, E, P
    from .options import OptionsOfJobsMap

    class OptionsOfOwnMap(OptionsOfJobsMap, total=False):
        """Arguments of `qmill.map`."""

        max_workers: int | None
        engine: str | EngineFactory
        ordered: bool
        start_method: str | None

    from ..jobs.job import Job


_OPTIONS = arguments_of(JobQueue.__init__)


@overload
def map(
    fn: Callable[..., T],
    *iterables: Iterable[Any],
    return_exceptions: Literal[True],
    **options: Unpack[OptionsOfOwnMap],
) -> Iterator[T | BaseException]: ...


@overload
def map(
    fn: Callable[[A], T],
    a: Iterable[A],
    /,
    *,
    return_exceptions: Literal[False] = ...,
    **options: Unpack[OptionsOfOwnMap],
) -> Iterator[T]: ...


@overload
def map(
    fn: Callable[[A, B], T],
    a: Iterable[A],
    b: Iterable[B],
    /,
    *,
    return_exceptions: Literal[False] = ...,
    **options: Unpack[OptionsOfOwnMap],
) -> Iterator[T]: ...


@overload
def map(
    fn: Callable[[A, B, C], T],
    a: Iterable[A],
    b: Iterable[B],
    c: Iterable[C],
    /,
    *,
    return_exceptions: Literal[False] = ...,
    **options: Unpack[OptionsOfOwnMap],
) -> Iterator[T]: ...


@overload
def map(
    fn: Callable[[A, B, C, D], T],
    a: Iterable[A],
    b: Iterable[B],
    c: Iterable[C],
    d: Iterable[D],
    /,
    *,
    return_exceptions: Literal[False] = ...,
    **options: Unpack[OptionsOfOwnMap],
) -> Iterator[T]: ...


@overload
def map(
    fn: Callable[[A, B, C, D, E], T],
    a: Iterable[A],
    b: Iterable[B],
    c: Iterable[C],
    d: Iterable[D],
    e: Iterable[E],
    /,
    *,
    return_exceptions: Literal[False] = ...,
    **options: Unpack[OptionsOfOwnMap],
) -> Iterator[T]: ...


@overload
def map(
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
    **options: Unpack[OptionsOfOwnMap],
) -> Iterator[T]: ...


@explain_arguments()
def map(
    fn: Callable[..., Any],
    *iterables: Iterable[Any],
    max_workers: int | None = None,
    engine: str | EngineFactory = "process",
    ordered: bool = True,
    chunksize: int | None = None,
    buffersize: int | None = None,
    timeout: float | None = None,
    job_timeout: float | None = None,
    return_exceptions: bool = False,
    retries: int = 0,
    start_method: str | None = None,
    progress: Any = False,
) -> Iterator[Any]:
    """Call a function for each item, in parallel, with workers of its own.

    The input is read lazily, a little ahead of the workers, so it may be endless.

    Args:
        fn: The function to call.
        *iterables: Its arguments, one iterable for each; the shortest one ends the map.
        max_workers: How many calls run at a time; None for the number of processors.
        engine: "process", "thread" or an engine of `qmill.engines`; see `JobQueue`.
        ordered: Whether results come in the order of the items; else in the order in which their
            calls end.
        chunksize: How many calls make one job; None chooses it by the duration of the calls.
        buffersize: How many items may be read ahead of the yielded results; None chooses.
        timeout: Seconds from the first `next` until which a later one waits for a result; then it
            raises TimeoutError.
        job_timeout: Seconds that one call may take before it is killed (`JobTimeout`).
        return_exceptions: Whether a failed item yields its exception in the place of its result,
            and the iteration continues, as with `asyncio.gather`.
        retries: How often to call the function again for an item if it raises or its worker dies.
            Other items of the chunk are not called again.
        start_method: How worker processes start; see `JobQueue`.
        progress: Whether to show a progress bar, from the first `next` on; see `JobQueue`.

    Returns:
        An iterator of results. Its workers start with the first `next`. They end when all calls are
        done, when the iterator raises, and when it is closed or garbage-collected; running calls
        are then killed.

    Raises:
        Exception: From the iterator: the exception of an item's call, with the remote traceback as
            its cause. A note (`__notes__`) gives the item's index, and the item in brief.
        WorkerDied: From the iterator: the process that ran the call for this item died.
        TimeoutError: From the iterator: a result was not there in time.
        TypeError: An argument has the wrong type.
        ValueError: A number is out of range.
        ImportError: `progress=True` needs tqdm: `pip install 'qmill[progress]'`.
    """
    jobs = JobQueue(max_workers, engine=engine, start_method=start_method, progress=progress)
    limits = MapLimits(timeout, chunksize, buffersize, job_timeout, return_exceptions)
    options = map_options(retries)
    jobs._check_map(fn, iterables, limits)
    moment = jobs._moment_of(fn)

    def run() -> Iterator[Any]:
        try:
            yield from jobs._map(
                fn, iterables, limits, options=options, lazy=True, ordered=ordered, moment=moment
            )
        except BaseException:  # a call has failed, or the iterator is closed before its end
            jobs._dispatcher.abort()
            raise
        finally:
            jobs.shutdown()

    return run()


@overload
def parallel(
    function: Callable[Concatenate[A, P], T], /
) -> Callable[Concatenate[Iterable[A], P], list[Job[T]]]: ...
@overload
def parallel(
    *, max_workers: int | None = None, **options: Any
) -> Callable[
    [Callable[Concatenate[A, P], T]], Callable[Concatenate[Iterable[A], P], list[Job[T]]]
]: ...
def parallel(
    function: Callable[..., Any] | None = None,
    /,
    *,
    max_workers: int | None = None,
    **options: Any,
) -> Any:
    """Decorate a function so that a call of it runs a job for each item of an iterable.

    >>> @qmill.parallel(max_workers=6)  # doctest: +SKIP
    ... def shrink(path, size): ...
    >>> jobs = shrink(paths, size=128)  # doctest: +SKIP

    Args:
        function: The function; its first parameter is the item.
        max_workers: How many jobs run at a time; None for the number of processors.
        **options: Further arguments of `JobQueue`, such as `progress=True`.

    Returns:
        A function of (iterable, *args, **kwargs). The iterable can also be given as `items=` or
        `iterable=`. The function waits for all jobs and returns them in the order of the items, as
        a list of `Job`, with outputs, errors and records. It can be called any number of times.
    """
    check_arguments("parallel", options, _OPTIONS)
    if function is None:
        return functools.partial(parallel, max_workers=max_workers, **options)
    if not callable(function):
        raise TypeError(
            f"parallel decorates a function; got {type(function).__name__} {function!r}. "
            "Options are given by name, as in @qmill.parallel(max_workers=6)"
        )
    check_function("function", function)

    @functools.wraps(function)
    def in_parallel(*args: Any, **kwargs: Any) -> list[Job]:
        items, args = _items_of(args, kwargs)
        with JobQueue(max_workers, **options) as jobs:
            return [jobs.put(function, (item, *args), kwargs) for item in items]

    return in_parallel


def _items_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, tuple[Any, ...]]:
    """Return the iterable of a call, and its other positional arguments."""
    for name in ("items", "iterable"):
        if name in kwargs:
            return kwargs.pop(name), args
    if not args:
        raise TypeError("the first argument must be an iterable of items, or items=...")
    return args[0], args[1:]
