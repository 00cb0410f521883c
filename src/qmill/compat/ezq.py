"""The names of `ezq` 3.0.4, on qmill: `import qmill.compat.ezq as ezq`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import Process
from queue import Empty as Empty
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal, Union

from ..job_queue import mapping
from ..queues.api import Queue
from ..queues.messages import END_MSG, Msg, PlainQ
from ..workers import standard
from ..workers.api import NUM_CPUS, NUM_THREADS

if TYPE_CHECKING:
    from typing import Self

__all__ = (
    "__version__",
    "Task",
    "Context",
    "ContextName",
    "Msg",
    "END_MSG",
    "MsgQ",
    "NUM_CPUS",
    "NUM_THREADS",
    "IS_MACOS",
    "Worker",
    "Q",
    "run",
    "run_thread",
    "map",
)

__version__ = "3.0.4"
"""The version of ezq that this module stands in for."""

Task = Callable[..., Any]
"""The function that a worker runs."""

Context = Union[Process, Thread]  # noqa: UP007
"""The process or thread in which a worker runs."""

ContextName = Literal["process", "thread"]
"""The names of the kinds of context."""

MsgQ = Queue
"""The type of the queue inside a `Q`."""

IS_MACOS: bool = sys.platform == "darwin"
"""Whether this is macOS."""


class _Of:
    """An attribute of a `Worker` that is looked up in its process or thread."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, worker: Worker | None, owner: type) -> Any:
        return self if worker is None else getattr(worker._worker, self._name)


class Worker:
    """A process or thread, which is started when the `Worker` is made.

    Args:
        context: A process or thread that has not been started.
    """

    # Attributes of processes and of threads.
    name, ident, daemon, start, run = _Of(), _Of(), _Of(), _Of(), _Of()
    join, is_alive = _Of(), _Of()
    # Attributes of processes only.
    pid, exitcode, sentinel, authkey = _Of(), _Of(), _Of(), _Of()
    terminate, kill, close = _Of(), _Of(), _Of()
    # Attributes of threads only.
    native_id, getName, setName, isDaemon, setDaemon = _Of(), _Of(), _Of(), _Of(), _Of()

    def __init__(self, context: Context) -> None:
        self._worker = context
        context.start()

    @staticmethod
    def process(task: Task, *args: Any, **kwargs: Any) -> Worker:
        """Run a function in its own process, which is forked if the system has `fork`."""
        process = standard.Process(target=task, args=args, kwargs=kwargs, daemon=True)
        return Worker(process)

    @staticmethod
    def thread(task: Task, *args: Any, **kwargs: Any) -> Worker:
        """Run a function in its own thread."""
        return Worker(standard.Thread(target=task, args=args, kwargs=kwargs, daemon=False))


class Q(PlainQ):
    """A queue of messages that can be ended.

    Args:
        kind: "process", or "thread" for a queue within this process, which does not pickle.
    """

    def __init__(self, kind: ContextName = "process") -> None:
        super().__init__(kind)

    def put(  # type: ignore[override]
        self, data: Any = None, *, kind: str = "", order: int = 0
    ) -> Self:
        """Put `Msg(data, kind, order)`, or `data` itself if it is a `Msg`; return this queue."""
        self.put_object(data if isinstance(data, Msg) else Msg(data, kind, order))
        return self

    def put_nowait(self, obj: Any) -> None:  # type: ignore[override]
        """Put an object unchanged, without waiting. Iterating over it needs `Msg` objects."""
        self.put_object(obj, block=False)

    def stop(self, workers: Any) -> Self:
        """End the workers that read this queue, one or several, and wait for them.

        Raises:
            Exception: The exception of a worker that failed; see `qmill.Q.stop`.
        """
        crew = [workers] if isinstance(workers, Worker) else workers
        return super().stop([standard.as_worker(getattr(each, "_worker", each)) for each in crew])


def run(task: Task, *args: Any, **kwargs: Any) -> Worker:
    """Run a function in its own process; all further arguments are passed to the function."""
    return Worker.process(task, *args, **kwargs)


def run_thread(task: Task, *args: Any, **kwargs: Any) -> Worker:
    """Run a function in its own thread; all further arguments are passed to the function."""
    return Worker.thread(task, *args, **kwargs)


def map(
    task: Task,
    *args: Iterable[Any],
    num: int | None = None,
    kind: ContextName = "process",
) -> Iterator[Any]:
    """Call a function for each item in parallel; the results come in the order of the items.

    Args:
        task: The function.
        *args: An iterable for each of the function's arguments.
        num: The number of workers; None for `NUM_CPUS` or `NUM_THREADS`.
        kind: "process" or "thread".
    """
    if kind not in ("process", "thread"):
        raise ValueError(f"kind must be 'process' or 'thread', not {kind!r}")
    if not args:
        return iter(())
    if kind == "thread":
        return mapping.map(task, *args, max_workers=num or NUM_THREADS, engine=kind)
    method = standard.START_METHOD
    return mapping.map(task, *args, max_workers=num or NUM_CPUS, start_method=method)
