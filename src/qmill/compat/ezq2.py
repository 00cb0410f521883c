"""The names of `ezq` 2.0.2 and 2.0.3, on qmill: `import qmill.compat.ezq2 as ezq`."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Process as Process
from operator import attrgetter
from queue import (
    Empty as Empty,
    Queue as ThreadSafeQueue,  # noqa: F401
)
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar, Union

from ..queues.messages import PlainQ, in_order, read_to_end
from ..workers import standard
from ..workers.api import NUM_CPUS, NUM_THREADS
from . import ezq

if TYPE_CHECKING:
    from typing import Self

__all__ = (
    "__author__",
    "__copyright__",
    "__email__",
    "__license__",
    "__pubdate__",
    "__url__",
    "__version__",
    "Process",
    "Queue",
    "Msg",
    "Q",
    "NUM_CPUS",
    "NUM_THREADS",
    "END_MSG",
    "run",
    "run_thread",
    "map",
    "put_msg",
    "iter_msg",
    "iter_q",
    "sortiter",
    "endq",
    "endq_and_wait",
)

# The metadata of the release of ezq that this module replaces.
__version__ = "2.0.3"
__pubdate__ = "2023-05-10T03:44:15Z"
__url__ = "https://github.com/metaist/ezq"
__author__ = "Metaist LLC"
__email__ = "metaist@metaist.com"
__copyright__ = "Copyright 2023 by Metaist LLC"
__license__ = "MIT"

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass
class Msg:
    """A message, as `qmill.Msg`, but with its fields in the order of ezq 2."""

    kind: str = ""
    data: Any = None
    order: int = 0


END_MSG: Msg = Msg(kind="END")
"""The message that ends a consumer's iteration."""


class Queue(PlainQ):
    """A queue between processes, whose objects need not be messages.

    Args:
        maxsize: The most objects that the queue holds; 0 is no limit.
    """

    end_message = END_MSG

    def __init__(self, maxsize: int = 0, *, _kind: str = "process") -> None:
        super().__init__(_kind, maxsize=max(0, maxsize))

    def put(  # type: ignore[override]
        self, obj: Any, block: bool = True, timeout: float | None = None
    ) -> None:
        """Put an object unchanged."""
        self.put_object(obj, block, timeout)

    def put_nowait(self, obj: Any) -> None:  # type: ignore[override]
        """Put an object unchanged, without waiting.

        Raises:
            queue.Full: There is no room.
        """
        self.put_object(obj, block=False)

    def stop(self, workers: Any) -> Self:
        """End the processes or threads that read this queue, and wait for them.

        Raises:
            Exception: The exception of a worker that failed; see `qmill.Q.stop`.
        """
        return super().stop([standard.as_worker(worker) for worker in _several(workers)])


class Q(Queue):
    """A queue of messages that can be ended.

    Args:
        thread: Whether the queue is within this process, for threads; it then does not pickle.
        *args, **kwargs: Further arguments, as for `Queue`.
    """

    def __init__(self, thread: bool = False, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, _kind="thread" if thread else "process")

    @property
    def q(self) -> Queue:
        """The queue inside; its `put` does not wrap an object in a message."""
        queue: Any = Queue._from_queue(self._queue)
        queue._kind = self._kind
        return queue  # type: ignore[no-any-return]

    def put(  # type: ignore[override]
        self, data: Any = None, kind: str = "", order: int = 0
    ) -> Self:
        """Put `Msg(kind, data, order)`, or `data` itself if it is a `Msg`; return this queue.

        Raises:
            queue.Full: There is no room.
        """
        self.put_object(data if isinstance(data, Msg) else Msg(kind, data, order), block=False)
        return self

    def sorted(self) -> Iterator[Any]:  # type: ignore[override]
        """Read messages in the order of `Msg.order`, from 0, until an END."""
        return super().sorted()


MsgQ = Queue
Worker = Union[Thread, Process]  # noqa: UP007
Workers = Union[Sequence[Thread], Sequence[Process]]  # noqa: UP007
SomeWorkers = Union[Worker, Workers]  # noqa: UP007
map_ = map


def run(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Process:
    """Run a function in its own process; all further arguments are passed to the function."""
    process = standard.Process(target=func, args=args, kwargs=kwargs, daemon=True)
    process.start()
    return process


def run_thread(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Thread:
    """Run a function in its own thread; all further arguments are passed to the function."""
    thread = standard.Thread(target=func, args=args, kwargs=kwargs, daemon=False)
    thread.start()
    return thread


def map(
    func: Callable[..., Any],
    *args: Iterable[Any],
    num: int | None = None,
    thread: bool = False,
) -> Iterator[Any]:
    """Call a function for each item in parallel; the results come in the order of the items.

    Args:
        func: The function.
        *args: An iterable for each of the function's arguments.
        num: The number of workers; None for `NUM_CPUS` or `NUM_THREADS`.
        thread: Whether the workers are threads.
    """
    return ezq.map(func, *args, num=num, kind="thread" if thread else "process")


def _deprecated(instead: str) -> Callable[[_Function], _Function]:
    def decorate(function: _Function) -> _Function:
        @functools.wraps(function)
        def warn_and_call(*args: Any, **kwargs: Any) -> Any:
            warnings.warn(f"Use {instead} instead.", DeprecationWarning, stacklevel=2)
            return function(*args, **kwargs)

        return warn_and_call  # type: ignore[return-value]

    return decorate


@_deprecated("Q.put(data)")
def put_msg(q: Any, kind: str = "", data: Any = None, order: int = 0) -> Any:
    """Put a message on a queue, which may be of another library, and return the queue."""
    q.put(Msg(kind, data, order))
    return q


@_deprecated("iter(Q)")
def iter_msg(q: Any, block: bool = True, timeout: float | None = 0.05) -> Iterator[Any]:
    """Read messages until an END; always waits for it, since `block` and `timeout` are ignored."""
    return _read(q)


@_deprecated("Q.items()")
def iter_q(q: Any) -> Iterator[Any]:
    """Put an END on a queue, and read its messages up to that."""
    q.put(END_MSG)
    return _read(q)


@_deprecated("Q.sorted()")
def sortiter(
    items: Iterable[Any], start: int = 0, key: Callable[[Any], int] = attrgetter("order")
) -> Iterator[Any]:
    """Yield items in the order of their keys, each as soon as all items before it have come."""
    return in_order(items, start, key)


@_deprecated("Q.end()")
def endq(q: Any) -> Any:
    """Put an END on a queue, and return the queue."""
    q.put(END_MSG)
    return q


@_deprecated("Q.stop(workers)")
def endq_and_wait(q: Any, workers: Any = None, *, procs: Any = None) -> Any:
    """End the processes or threads that read a queue, and wait for them.

    Args:
        q: The queue.
        workers: A process or thread, or a list of them.
        procs: The name of `workers` in ezq 2.0.2.

    Returns:
        The list of processes or threads.

    Raises:
        Exception: The exception of a worker that failed; see `qmill.Q.stop`.
    """
    crew = _several(procs if workers is None else workers)
    if isinstance(q, Queue):
        q.stop(crew)
    else:
        for _ in crew:
            q.put(END_MSG)
        for worker in crew:
            worker.join()
    return crew


def _several(workers: Any) -> Any:
    return [workers] if isinstance(workers, (Thread, Process)) else workers


def _read(q: Any) -> Iterator[Any]:
    return iter(q) if isinstance(q, Queue) else read_to_end(q)
