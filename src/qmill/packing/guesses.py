"""Names that users of other libraries guess, each with the right name in this package."""

from __future__ import annotations

from functools import partial, wraps
from types import BuiltinFunctionType, FunctionType

from .explain import describe

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")

_POOL = "qmill.JobQueue(4), with put, submit, map and starmap, or qmill.map(f, items)"

NAMES = {
    "Executor": _POOL,
    "Event": "multiprocessing.Event, given to qmill.run or in initargs",
    "JoinableQueue": "qmill.Queue, which has task_done and join",
    "LifoQueue": "qmill.Queue or queue.LifoQueue",
    "Lock": "multiprocessing.Lock, given to qmill.run or in initargs",
    "Manager": "qmill.Queue, which any process can be given, or multiprocessing.Manager",
    "Parallel": "@qmill.parallel, or qmill.map(f, items)",
    "Pipe": "qmill.Queue or multiprocessing.Pipe",
    "Pool": _POOL,
    "PriorityQueue": "qmill.JobQueue, whose jobs have priorities, or queue.PriorityQueue",
    "Process": "qmill.run(f, *args) or qmill.Worker(f, args)",
    "ProcessPool": _POOL,
    "ProcessPoolExecutor": _POOL,
    "SimpleQueue": "qmill.Queue",
    "Thread": "qmill.run_thread(f, *args)",
    "ThreadPool": f"{_POOL}, with engine='thread'",
    "ThreadPoolExecutor": f"{_POOL}, with engine='thread'",
    "as_completed": "concurrent.futures.as_completed(jobs), or the method of a JobQueue",
    "cpu_count": "qmill.NUM_CPUS",
    "delayed": "@qmill.parallel, or the method put of a JobQueue",
    "imap": "qmill.map(f, items)",
    "imap_unordered": "qmill.map(f, items, ordered=False)",
    "job": "qmill.Job",
    "jobqueue": "qmill.JobQueue",
    "put": "the method put of a JobQueue",
    "queue": "qmill.Queue",
    "starmap": "the method starmap of a JobQueue, or qmill.map(f, firsts, seconds)",
    "submit": "the method submit of a JobQueue",
    "wait": "concurrent.futures.wait(jobs), or the method wait of a JobQueue",
    "worker": "qmill.Worker",
}
"""Names that this package does not have, and the functions or classes to use instead."""

_MAX_WORKERS = (
    *("concurrency", "cores", "jobs", "max_processes", "max_threads", "max_worker", "n_cores"),
    *("n_jobs", "n_processes", "n_procs", "n_threads", "n_workers", "njobs", "nprocs", "nworkers"),
    *("num_jobs", "num_processes", "num_procs", "num_threads", "num_workers", "pool_size"),
    *("processes", "procs", "threads", "workers"),
)

ARGUMENTS = {
    **dict.fromkeys(_MAX_WORKERS, "max_workers"),
    "backend": "engine",
    "batch_size": "chunksize",
    "buffer_size": "buffersize",
    "chunk_size": "chunksize",
    "context": "mp_context",
    "executor": "engine",
    "job_runner": "engine",
    "kind": "engine",
    "logfile": "log_file",
    "max_size": "maxsize",
    "max_tasks_per_child": "max_jobs_per_worker",
    "maxtasksperchild": "max_jobs_per_worker",
    "qid": "name",
    "show_progress": "progress",
    "thread_name_prefix": "name",
}
"""Arguments that do not exist in this package, and the arguments to use instead."""


def explain_name(name: str) -> str:
    """Return an error text: the package has no such name; with the name to use, if known."""
    hint = f"; use {NAMES[name]}" if name in NAMES else ""
    return f"module 'qmill' has no attribute {name!r}{hint}"


def explain_arguments(**more: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function: for a guessed argument its TypeError names the one to use instead.

    Args:
        **more: Further guessed arguments of this function, each with a text to use instead.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        accepted = arguments_of(function)
        name = function.__qualname__.removesuffix(".__init__")

        @wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            check_arguments(name, kwargs, accepted, more)
            return function(*args, **kwargs)

        return checked

    return decorate


def arguments_of(function: Callable[..., Any]) -> frozenset[str]:
    """Return the names of a function's arguments."""
    code = getattr(function, "__wrapped__", function).__code__
    return frozenset(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])


def check_arguments(
    name: str, given: Mapping[str, Any], accepted: frozenset[str], more: Mapping[str, str] = {}
) -> None:
    """Raise TypeError if a keyword argument has a guessed name, with the right one in the text.

    Args:
        name: The name of the called function, for the text.
        given: The keyword arguments.
        accepted: The names of the function's arguments.
        more: Further guessed arguments of this function, each with a text to use instead.
    """
    for guess in given:
        if guess in accepted:
            continue
        right = more.get(guess) or ARGUMENTS.get(guess)
        if right in accepted or guess in more:
            raise TypeError(
                f"{name}() got an unexpected keyword argument {guess!r}: here it is {right}"
            )


def check_function(argument: str, function: Any) -> None:
    """Check that an object is a function that can be called for its result.

    Args:
        argument: The name of the argument, for the error's text.
        function: The object.

    Raises:
        TypeError: The object cannot be called, or it is asynchronous: its result would be a
            coroutine, which no caller awaits.
    """
    kind = type(function)
    if kind is FunctionType:
        if function.__code__.co_flags & _ASYNCHRONOUS:
            raise TypeError(_explain_coroutine(argument, function))
    elif kind is BuiltinFunctionType:
        return
    elif not callable(function):
        raise TypeError(
            f"{argument} must be callable, not {type(function).__name__} {describe(function)}: "
            "give the function itself and, separately, its arguments, not the result of a call"
        )
    elif _is_asynchronous(function):
        raise TypeError(_explain_coroutine(argument, function))


_ASYNCHRONOUS = 0x80 | 0x200  # inspect.CO_COROUTINE, CO_ASYNC_GENERATOR


def _is_asynchronous(function: Any) -> bool:
    """Whether a method, a partial or a callable instance calls an `async def` function."""
    inner = _inner(function)
    if type(inner) is not FunctionType:
        inner = _inner(type(inner).__call__)
    return type(inner) is FunctionType and bool(inner.__code__.co_flags & _ASYNCHRONOUS)


def _inner(function: Any) -> Any:
    while not isinstance(function, type):
        if isinstance(function, partial):
            function = function.func
        elif type(getattr(function, "__func__", None)) is FunctionType:  # of a method
            return function.__func__
        else:
            break
    return function


def _explain_coroutine(argument: str, function: Any) -> str:
    name = getattr(_inner(function), "__name__", type(function).__name__)
    return (
        f"{argument} must be an ordinary function, not the asynchronous {name}: its coroutine "
        "would not be awaited. Give a function that runs it to completion, such as "
        f"def job(*args): return asyncio.run({name}(*args))"
    )


def explain_engine(engine: Any) -> str:
    """Return an error text: the accepted engines; with the intended one, if it can be guessed."""
    hint = ""
    if isinstance(engine, str):
        word = engine.lower()
        meant = {"thread": "'thread'", "process": "'process'", "dask": "qmill.engines.Dask()"}
        hint = next((f": did you mean {meant[m]}?" for m in meant if m in word), "")
    elif isinstance(engine, type):
        hint = f": did you mean {engine.__name__}()?"
    return (
        "engine must be 'process', 'thread' or one of qmill.engines, such as "
        f"qmill.engines.Dask(); got {describe(engine)}{hint}"
    )
