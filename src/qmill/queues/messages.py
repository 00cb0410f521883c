"""Messages, and `Q`: a queue of messages with an end, read by workers.

    q.put(...) ──> [ msg | msg | END | END ] ──lease──> for msg in q: ...
                        ^                                  │ asks for the next: done
                        └── the reader ended in the middle ┘

One END stops one reader. A reader holds its current message under a lease. If the reader ends
before it has finished the message, another reader gets it. After three deaths the message is set
aside as poison.
"""

from __future__ import annotations

import heapq
import itertools
import os
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import Poisoned, ShutDown
from ..system.generic import Generic, T
from .api import END, Queue, Reader
from .checks import check_items
from .leases import Hold, leave, loop

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from ..workers.api import Worker
    from .statistics import Statistics

    Result = TypeVar("Result")

END_KIND = "END"


@dataclass(slots=True)
class Msg(Generic[T]):
    """A message.

    Attributes:
        data: The content: any object.
        kind: The sort of message, for readers that handle several; "END" stops a reader.
        order: Its number among the messages, for `Q.sorted` and `Q.items(sort=True)`.
    """

    data: T = None  # type: ignore[assignment]
    kind: str = ""
    order: int = 0


_SLOTS = tuple(vars(Msg)[name] for name in ("data", "kind", "order"))


def _made(data: Any, kind: str, order: int) -> Msg[Any]:
    """Make a message without `Msg.__init__`, in which a signal handler could lose the data."""
    message = _new(Msg)
    message.data, message.kind, message.order = data, kind, order
    return message


_new: Callable[[type[Msg[Any]]], Msg[Any]] = object.__new__

END_MSG: Msg[Any] = Msg(kind=END_KIND)
"""The message that stops a reader."""


class Q(Generic[T]):
    """A queue of messages with an end.

    Args:
        kind: "process" for readers in any process; "thread" for readers in this process, which get
            the objects themselves and no copies.
        maxsize: The most messages that may wait; 0 is no limit but memory. ENDs need no room. None
            keeps the limit of a named queue that exists already, and is no limit for a new queue.
        name: Opens the queue of this name, or creates it; any program of the same user can open it.

    Raises:
        TypeError, ValueError, PermissionError: As for `qmill.Queue`.

    Crash: if a reader is killed, exits or raises while it works on a message, another reader gets
    the message. So a message is handled at least once, and exactly once if no reader ends during
    its handling. A message during which three readers died is set aside and logged; `stop` raises
    `Poisoned`.
    """

    def __init__(
        self, kind: str = "process", *, maxsize: int | None = None, name: str | None = None
    ) -> None:
        self._use(Queue(maxsize, kind=kind, name=name), kind)

    def _use(self, queue: Queue[Any], kind: str) -> None:
        self._queue = queue
        self._ring = queue._ring  # for `quick_put`
        self._kind = kind
        self._cached: list[Msg[T]] = []  # by `items`
        self._has_cached_all = False
        self._listed: dict[int, tuple[Msg[T], int]] = {}  # messages set aside, for `requeue`

    @classmethod
    def _from_queue(cls, queue: Queue[Any]) -> Self:
        q = object.__new__(cls)
        q._use(queue, "process")
        return q

    def __reduce__(self) -> Any:
        self._check_sendable()
        return _of_queue, (type(self), self._queue)

    def _check_sendable(self) -> None:
        self._queue._check_sendable()

    def __repr__(self) -> str:
        return f"<qmill.Q on {self._queue!r}>"

    # -- putting --------------------------------------------------------------------------------

    def put(
        self,
        data: T | Msg[T] | None = None,
        *,
        kind: str = "",
        order: int = 0,
        block: bool = True,
        timeout: float | None = None,
    ) -> Self:
        """Put a message.

        Args:
            data: The content; a `Msg` is put as it is.
            kind: The sort of message. "END" puts an END, as `end` does.
            order: Its number among the messages.
            block: Whether to wait for room in a full queue.
            timeout: Seconds to wait at most; None is no limit.

        Returns:
            This queue, so that calls can be chained. Errors as for `qmill.Queue.put`.
        """
        if isinstance(data, Msg):
            message = data
        else:
            if not isinstance(kind, str):
                raise TypeError(f"kind must be a str, not {type(kind).__name__} {kind!r}")
            if type(order) is not int:
                _check_order("order", order)
            message = Msg(data, kind, order)  # type: ignore[arg-type]
        if message.kind == END_KIND:
            return self.end()
        self._queue.put(self._packed(message), block, timeout)
        return self

    def put_nowait(self, data: T | Msg[T] | None = None, *, kind: str = "", order: int = 0) -> Self:
        """Put a message without waiting; `Full` if there is no room."""
        return self.put(data, kind=kind, order=order, block=False)

    def put_many(
        self, items: Iterable[T | Msg[T]], block: bool = True, timeout: float | None = None
    ) -> int:
        """Put messages; each item is data or a `Msg`, but no END. As `qmill.Queue.put_many`."""
        messages = [item if isinstance(item, Msg) else Msg(item) for item in check_items(items)]
        for message in messages:
            if message.kind == END_KIND:
                raise ValueError("items must not hold an END; use end() after put_many")
        return self._queue.put_many([self._packed(message) for message in messages], block, timeout)

    def _packed(self, message: Msg[Any]) -> Any:
        """Return the object to send; between processes, a tuple, which pickles faster."""
        if self._kind == "thread" or type(message) is not Msg:
            return message
        return message.data, message.kind, message.order

    def _unpacked(self, item: Any) -> Msg[T]:
        """Return the message of a received object."""
        if item is END:
            return END_MSG
        return item if isinstance(item, Msg) else _made(*item)

    def end(self) -> Self:
        """Put an END, which stops one reader. It needs no room.

        Returns:
            This queue, so that calls can be chained.
        """
        return self._ended(lambda: self)

    def _ended(self, then: Callable[[], Result]) -> Result:
        """Put an END and return the result of `then`; if that raises, remove the END again."""
        tag = os.urandom(8)
        try:
            self._queue._end(1, tag)
            return then()
        except BaseException:  # Ctrl-C, for one
            self._queue._withdraw_ends(tag)
            raise

    def stop(self, workers: Worker[Any] | Iterable[Worker[Any]]) -> Self:
        """End the workers that read this queue: put an END for each, then wait for them.

        Args:
            workers: One worker or several.

        Returns:
            This queue.

        Raises:
            WorkerDied: A worker was killed, or exited before its function returned.
            Poisoned: Messages whose readers died three times were set aside.
            Exception: The exception that a worker raised.
            ExceptionGroup: Several of these.
            TypeError: `workers` is not a Worker or several.

        Blocks: until the workers have ended. It needs no room in the queue, and removes the ENDs
        that its workers have not read.
        """
        crew = [workers] if not isinstance(workers, Iterable) else list(workers)
        for worker in crew:
            if not hasattr(type(worker), "_failure"):  # a Worker, of a package above this one
                raise TypeError(
                    f"workers must be a Worker or several, not {type(worker).__name__} {worker!r}"
                )
        tag = os.urandom(8)
        try:
            self._queue._end(sum(worker.is_alive() for worker in crew), tag)
            for worker in crew:
                worker.join()
            self._queue._settle()  # the messages of dead workers are accounted for before counting
        finally:
            self._queue._withdraw_ends(tag)
        failures = [error for worker in crew if (error := worker._failure()) is not None]
        if poisoned := self._list_aside(True):
            failures.append(Poisoned(poisoned))
        if len(failures) == 1:
            raise failures[0]
        if failures:
            raise BaseExceptionGroup(f"{len(failures)} failures among the workers", failures)
        return self

    def poisoned(self) -> list[Msg[T]]:
        """List the messages that were set aside because three readers died with each."""
        return self._list_aside(False)

    def _list_aside(self, only_new: bool) -> list[Msg[T]]:
        found = [(self._unpacked(i), number) for i, number in self._queue._set_aside(only_new)]
        listed = {id(msg): (msg, number) for msg, number in found}
        self._listed = {**self._listed, **listed} if only_new else listed
        return [msg for msg, _ in found]

    def requeue(self, msg: Msg[T]) -> None:
        """Put a message that was set aside back in its place, with its count of deaths at 0.

        Args:
            msg: The very object that `poisoned` or `stop` of this handle has returned or raised.

        Raises:
            ValueError: It is no such object, or the message was put back already.
        """
        _, number = self._listed.pop(id(msg), (None, None))
        if number is None or not self._queue._requeue(number):
            raise ValueError(
                f"msg is not set aside, or not from this handle's poisoned(): {msg!r:.100}"
            )

    def release(self, msg: Msg[T], delay: float = 0.0) -> None:
        """Give back a message during a loop: any reader can get it again.

        The loop continues. Asking for the next message does not acknowledge this one.

        Args:
            msg: The very object that a loop of this thread over this queue has yielded last. If an
                exception has ended the loop, it can still be released.
            delay: Seconds for which no reader gets it. It counts as waiting for all that time.

        Raises:
            ValueError: No such loop holds it, or the delay is negative.
            TypeError: The delay is not a number.
        """
        self._queue.release(msg, delay)

    # -- reading --------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Msg[T]]:
        """Read messages until an END, or until the queue is shut down and empty.

        Asking for the next message acknowledges the last one, and so does `break`. After an
        exception the last message stays leased. This thread's next call on the queue acknowledges
        it; if the thread or process ends instead, another reader gets it.
        """
        return self._queue._messages(Msg, _SLOTS) or self._read()

    def _read(self) -> Iterator[Msg[T]]:
        return self._queue._loop(self._unpacked)

    def sorted(self, start: int = 0) -> Iterator[Msg[T]]:
        """Read messages in the order of `Msg.order`, until an END.

        A message waits in this process, under its lease, until all messages before it have come.
        At the END the waiting messages come in order, across gaps. A message whose turn is over
        comes at once. Messages that still wait here when the loop is left go back to the queue.

        Args:
            start: The `order` of the first message; each following message has the next number.
        """
        _check_order("start", start)
        self._queue._check_open()
        hold = Hold(self._queue._left)
        return loop(self._sort_with(hold, start), hold)

    def _take(self, reader: Reader, done: int) -> tuple[int, Msg[T]] | None:
        """Get the next message under a lease; None at the end."""
        try:
            lease, item = reader.take(done)
        except ShutDown:
            return None
        return None if item is END else (lease, self._unpacked(item))

    def _sort_with(self, hold: Hold, start: int) -> Generator[Msg[T], None, None]:
        reader = self._queue._reader()
        hold.begin(reader)
        early = hold.early  # a heap
        ties = itertools.count()
        due = start
        while (taken := self._take(reader, hold.finish())) is not None:
            lease, message = taken
            heapq.heappush(early, (message.order, next(ties), lease, message))
            while early and early[0][0] <= due:
                if done := hold.finish():
                    reader.done(done)
                order, _, lease, message = heapq.heappop(early)
                due = max(due, order + 1)
                yield hold.give((lease, message))
        while early:
            _, _, lease, message = heapq.heappop(early)
            yield hold.give((lease, message))
            if done := hold.finish():
                reader.done(done)
        leave(hold, False)

    def items(self, cache: bool = False, sort: bool = False) -> Iterator[Msg[T]]:
        """Put an END and read the messages before it.

        Args:
            cache: Whether to keep the messages; later calls with `cache` return the same ones.
            sort: Whether to return them in the order of `Msg.order`.
        """
        if not cache:
            return self._ended(self.sorted if sort else self.__iter__)
        if not self._has_cached_all:  # perhaps after an interrupted call: go on
            self._ended(lambda: self._cached.extend(self))
            self._has_cached_all = True
        return iter(sorted(self._cached, key=attrgetter("order")) if sort else self._cached)

    def get(self, block: bool = True, timeout: float | None = None) -> Msg[T]:
        """Get the next message and acknowledge it; `END_MSG` at an END. As `qmill.Queue.get`."""
        return self._unpacked(self._queue.get(block, timeout))

    def get_nowait(self) -> Msg[T]:
        """Get the next message without waiting; `Empty` if there is none."""
        return self.get(False)

    def get_many(
        self, max_items: int, block: bool = True, timeout: float | None = None
    ) -> list[Msg[T]]:
        """Get up to `max_items` messages. As `qmill.Queue.get_many`; an END comes alone."""
        return [self._unpacked(i) for i in self._queue.get_many(max_items, block, timeout)]

    def peek(self, block: bool = True, timeout: float | None = None) -> Msg[T]:
        """Return the message that `get` would return, without removing it."""
        return self._unpacked(self._queue.peek(block, timeout))

    # -- methods of the underlying queue ----------------------------------------------------------

    def qsize(self) -> int:
        """Return how many messages and ENDs wait."""
        return self._queue.qsize()

    def empty(self) -> bool:
        """Return whether no message and no END waits."""
        return self._queue.empty()

    def full(self) -> bool:
        """Return whether `put` would have to wait."""
        return self._queue.full()

    def statistics(self) -> Statistics:
        """Return the counts of this queue, all taken at the same moment."""
        return self._queue.statistics()

    def task_done(self) -> None:
        """Report a message of `get` as done; messages of a loop are reported by the loop."""
        self._queue.task_done()

    def join(self) -> None:
        """Wait until every message that was put is done."""
        self._queue.join()

    def shutdown(self, immediate: bool = False) -> None:
        """Refuse further puts; readers stop when the queue is empty. As `qmill.Queue.shutdown`."""
        self._queue.shutdown(immediate)

    def close(self) -> None:
        """Close this process's handle."""
        self._ring = None
        self._queue.close()

    def join_thread(self) -> None:
        """Do nothing: there is no feeder thread."""

    def cancel_join_thread(self) -> None:
        """Do nothing: exit never waits for readers."""

    def unlink(self) -> None:
        """Remove the queue's name and its unread messages."""
        self._queue.unlink()

    @property
    def name(self) -> str | None:
        """The name under which other programs open this queue, if it has one."""
        return self._queue.name

    @property
    def maxsize(self) -> int:
        """The most messages that may wait; 0 is no limit. It can be set: see `qmill.Queue`."""
        return self._queue.maxsize

    @maxsize.setter
    def maxsize(self, maxsize: int) -> None:
        self._queue.maxsize = maxsize

    @property
    def max_idle_memory(self) -> int | None:
        """The most bytes of free memory that the queue keeps. It can be set: see `qmill.Queue`."""
        return self._queue.max_idle_memory

    @max_idle_memory.setter
    def max_idle_memory(self, size: int | None) -> None:
        self._queue.max_idle_memory = size

    def trim(self) -> int:
        """Give the free memory that the queue keeps back; return how many bytes that is."""
        return self._queue.trim()

    @property
    def is_shutdown(self) -> bool:
        """Whether `shutdown` has been called, by any process."""
        return self._queue.is_shutdown

    @property
    def unfinished_tasks(self) -> int:
        """The number of messages that were put and are not done; `join` waits until it is 0."""
        return self._queue.unfinished_tasks

    @property
    def kind(self) -> str:
        """The readers that the queue is for: "process" or "thread"."""
        return self._kind


def _of_queue(cls: type[Q], queue: Queue) -> Q:
    """Rebuild a queue from its pickle."""
    return cls._from_queue(queue)


def _check_order(argument: str, order: object) -> None:
    if not isinstance(order, float) and not hasattr(type(order), "__index__"):
        raise TypeError(f"{argument} must be an int, not {type(order).__name__} {order!r}")


try:
    from .shared.core._ring import quick_put
except ImportError:  # no native core
    pass
else:
    Q.put = quick_put(Q.put, Msg)  # type: ignore[method-assign]


class PlainQ(Q):
    """A `Q` that sends any object as it was put, as the queues of ezq do.

    An object that is read as a message must have a `kind` and an `order`. An object whose `kind` is
    "END" is an END, whatever its class; readers get `end_message` for it.
    """

    end_message: Any = END_MSG

    def __iter__(self) -> Iterator[Any]:
        return self._read()

    def put_object(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put an object as it is. Arguments and errors as for `qmill.Queue.put`."""
        kind = getattr(obj, "kind", None)
        if isinstance(kind, str) and kind == END_KIND:
            self.end()
        else:
            self._queue.put(obj, block, timeout)

    def _unpacked(self, item: Any) -> Any:
        return self.end_message if item is END else item


def read_to_end(queue: Any) -> Iterator[Any]:
    """Read messages from any queue with a `get`, until one of the kind "END"."""
    while (message := queue.get()).kind != END_KIND:
        yield message


def in_order(items: Iterable[Any], start: int, key: Callable[[Any], Any]) -> Iterator[Any]:
    """Yield items in order, each as soon as all items before it have come.

    Args:
        items: The items to sort. At the end of the input the remaining ones come in order, across
            gaps.
        start: The key of the first item; each following item has the next number. An item whose
            turn is over comes at once.
        key: Returns an item's number.
    """
    early: list[tuple[Any, int, Any]] = []
    ties = itertools.count()
    due = start
    for item in items:
        heapq.heappush(early, (key(item), next(ties), item))
        while early and early[0][0] <= due:
            order, _, first = heapq.heappop(early)
            due = max(due, order + 1)
            yield first
    while early:
        yield heapq.heappop(early)[2]
