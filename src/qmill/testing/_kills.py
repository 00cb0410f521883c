"""A process that dies at its n-th operation on a queue, and then at the one after it."""

from __future__ import annotations

import functools
import itertools
import os
import signal
from typing import TYPE_CHECKING, Any, NamedTuple

from ..workers.api import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Death(NamedTuple):
    """A process that was killed at one of its operations on a queue.

    Attributes:
        operation: The number of that operation, counted from 1.
        queue: The queue, as the dead process has left it.
    """

    operation: int
    queue: Any


def kill_at(queue: Any, operation: int, *, after: bool = False) -> Any:
    """Return a stand-in for a queue that kills the calling process at its n-th operation.

    Each process counts its own operations: calls of the stand-in's methods, assignments to its
    attributes, and steps of a loop over it.

    Args:
        queue: Any object. The stand-in can be sent to the same places as the queue.
        operation: The number of the operation that kills its process, by SIGKILL; 1 is the first.
        after: Kill it when the call is over, and before it returns. Otherwise the call is not made.

    Raises:
        ValueError: `operation` is less than 1.
    """
    if operation < 1:
        raise ValueError(f"operation must be 1 or more, not {operation!r}")
    return _Mortal(queue, operation, after)


class _Mortal:
    """Passes calls and assignments on to a queue, and kills the process at the deadly one."""

    def __init__(self, queue: Any, operation: int, after: bool) -> None:
        self._queue = queue
        self._operation = operation
        self._after = after
        self._pid = os.getpid()
        self._calls = itertools.count(1)

    def __reduce__(self) -> Any:
        return _Mortal, (self._queue, self._operation, self._after)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._queue, name)
        return functools.partial(self._call, attribute) if callable(attribute) else attribute

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            self._call(setattr, self._queue, name, value)

    def __iter__(self) -> Iterator[Any]:
        items = iter(self._queue)
        over = object()
        while (item := self._call(next, items, over)) is not over:
            yield item

    def _call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if self._pid != os.getpid():  # forked: it begins to count anew
            self._pid, self._calls = os.getpid(), itertools.count(1)
        is_deadly = next(self._calls) == self._operation
        if is_deadly and not self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if is_deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


def each_death(
    work: Callable[[Any], object],
    make_queue: Callable[[], Any],
    *,
    after: bool = False,
    start_method: str = "fork",
    patience_s: float = 60.0,
) -> Iterator[Death]:
    """Kill a process at its first operation on a queue, another one at its second, and so on.

    Each process has a queue of its own. The iteration stops when a process has finished its work:
    it has fewer operations than the number at which it was to die.

    Args:
        work: The function of each process; it is called with the queue.
        make_queue: Makes a queue with its first messages, if any.
        after: Kill the process after the operation, and not before.
        start_method: How the processes start; "fork" takes queues that cannot be pickled.
        patience_s: Seconds after which a process counts as hung.

    Yields:
        Each `Death`, for the caller to look at the queue.

    Raises:
        TimeoutError: A process neither died nor ended in time. It is killed.
        Exception: `work` has raised it.
    """
    for operation in itertools.count(1):
        queue = make_queue()
        mortal = kill_at(queue, operation, after=after)
        worker = Worker(work, (mortal,), start_method=start_method)
        worker.join(patience_s)
        if worker.is_alive():
            worker.kill()
            worker.join()
            worker.exception()
            raise TimeoutError(
                f"to be killed at operation {operation}, the process did not come to it "
                f"within {patience_s} s"
            )
        if worker.exitcode != -signal.SIGKILL:
            worker.result()
            return
        worker.exception()  # asks for the failure, so that it is not logged
        yield Death(operation, queue)
