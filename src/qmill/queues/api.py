"""The interface of queues on every transport: the class `Queue`, and checks of its arguments.

`Queue(...)` makes an instance of the transport that fits: one subclass, in one file, each.

    local/thread.py               ThreadQueue    references between threads; nothing is pickled
    shared/queue.py               SharedQueue    in shared memory; no process owns it (Linux, with
                                                 the native core)
    portable/portable_queue.py    PortableQueue  pickled, kept by a broker thread of the creating
                                                 process

A transport implements every method that raises NotImplementedError here. `qmill.Q` is built on the
underscored ones: ENDs, and readers that hold a message under a lease until they are done.

Invariants, for every transport:
- a message is waiting, leased, or taken; `unfinished` = the messages put and not yet done;
- ENDs are no messages: they need no room, are never leased, and do not count as unfinished;
- an END is handed out only when no earlier message can come back: every lease is held by the
  process that asks for the next message, by a reader that waits too, or by the process that put
  the END (if that one dies, no process waits for the END any more).
"""

from __future__ import annotations

from collections.abc import Iterable

from ..system.generic import Generic, T
from .checks import check_memory
from .leases import Hold, loop, release

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Self

    from .statistics import Statistics


POISON_DEATHS = 3
"""A message whose readers died this often is set aside."""


class _End:
    """The type of `END`, the mark of a queue's end that a reader takes in place of a message."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "END"

    def __reduce__(self) -> str:
        return "END"


END = _End()


class Queue(Generic[T]):
    """A first-in, first-out queue between threads, processes and programs.

    Objects come out as they were put in. A queue can be pickled at any time to any process: as an
    argument of a pool's task, of an executor, of a process, inside a message on another queue.

    Args:
        maxsize: The most messages that may wait; 0 or less is no limit but memory. None opens a
            named queue with the limit that it has, and makes any other queue without a limit.
        kind: "process" for any reader; "thread" for readers in this process only, which get the
            very object that was put (nothing is pickled).
        name: Opens the queue of this name, or creates it, for the programs of one user. 1 to 200
            bytes, without "/" and NUL. It lives while any process has it open.
        persistent: Keeps a named queue, with its unread messages, until `unlink()`.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An unknown kind; a bad name; a `maxsize` that is not the limit of the
            named queue.
        PermissionError: The name is held by another user.
        TimeoutError: The process that keeps the named queue is stopped by a signal.

    Crash: a process that dies costs the others nothing: its leased messages go back, messages that
        it took otherwise count as done and as `statistics().lost`. A put that returned is in the
        queue. A queue without a name is gone with the last process that has it, or, where it is not
        in shared memory, with the one that made it; then every caller gets `QueueGone`.
    """

    _closed = False
    _listed: dict[int, tuple[Any, int]] = {}  # noqa: RUF012 (replaced, never changed, when empty)
    _ring: Any = None  # the native object that has the messages, in shared memory

    def __new__(
        cls,
        maxsize: int | None = None,
        *,
        kind: str = "process",
        name: str | None = None,
        persistent: bool = False,
    ) -> Self:
        """Make a queue of the transport that fits."""
        made: Any = _transport(kind, name, persistent) if cls is Queue else cls
        return object.__new__(made)  # type: ignore[no-any-return]

    def __init__(
        self,
        maxsize: int | None = None,
        *,
        kind: str = "process",
        name: str | None = None,
        persistent: bool = False,
    ) -> None:
        raise NotImplementedError

    # -- putting ------------------------------------------------------------------------------

    def put(self, obj: T, block: bool = True, timeout: float | None = None) -> None:
        """Put an object at the end of the queue.

        The object is serialised here and now, and when `put` returns it is in the queue.

        Args:
            obj: Anything, or for `kind="process"` anything that pickle or cloudpickle takes.
            block: Wait for room in a full queue.
            timeout: Seconds to wait at most; None is no limit, 0 does not wait.

        Raises:
            Full: There was no room in time.
            ShutDown: The queue has been shut down.
            SerializationError: The object cannot be pickled; nothing was put.
            ValueError: A negative timeout, or this handle is closed.
            QueueGone: The process that kept the queue is gone.

        Blocks: while the queue is full. Ctrl-C interrupts it.
        """
        raise NotImplementedError

    def put_nowait(self, obj: T) -> None:
        """Put an object without waiting; `Full` if there is no room."""
        self.put(obj, False)

    def put_many(self, items: Iterable[T], block: bool = True, timeout: float | None = None) -> int:
        """Put several objects, in order and in one go.

        All are serialised before the first is put: if one cannot be, the queue stays as it was.

        Args:
            items: The objects. They are read to the end before the first is put.
            block: Wait for room.
            timeout: Seconds to wait at most for all of them; None is no limit.

        Returns:
            How many were put: all, or as many of the first as there was room for in time.

        Raises:
            ShutDown: The queue has been shut down, and none of them was put.
            SerializationError: One cannot be pickled; none was put.
            ValueError: A negative timeout, or this handle is closed.
        """
        raise NotImplementedError

    # -- getting ------------------------------------------------------------------------------

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take the object at the front of the queue.

        Args:
            block: Wait for an object.
            timeout: Seconds to wait at most; None is no limit, 0 does not wait.

        Returns:
            The object. It was taken at most once: if this process dies now, no other one gets it.

        Raises:
            Empty: Nothing came in time.
            ShutDown: The queue is shut down and empty.
            SerializationError: The object cannot be rebuilt here. It was taken; the queue goes on.
            ValueError: A negative timeout, or this handle is closed.
            QueueGone: The process that kept the queue is gone.

        Blocks: while the queue is empty. Ctrl-C interrupts it.
        """
        raise NotImplementedError

    def get_nowait(self) -> T:
        """Take the object at the front without waiting; `Empty` if there is none."""
        return self.get(False)

    def get_many(self, max_items: int, block: bool = True, timeout: float | None = None) -> list[T]:
        """Take up to `max_items` objects: wait for the first, then take those that are there.

        Args:
            max_items: The most to take, at least 1.
            block: Wait for the first object.
            timeout: Seconds to wait at most for the first; None is no limit.

        Returns:
            One object or more, in order.

        Raises:
            Empty, ShutDown, SerializationError, ValueError, QueueGone: as `get`. An object that
                cannot be rebuilt ends the list before it, and is raised by the next call.
        """
        raise NotImplementedError

    def peek(self, block: bool = True, timeout: float | None = None) -> T:
        """Return the object that `get` would return, and leave it there.

        Each call gives a copy of its own, but for `kind="thread"`. Arguments and errors as `get`.
        """
        raise NotImplementedError

    def __iter__(self) -> Iterator[T]:
        """Read objects until the queue is shut down and empty; each is held until it is done.

        Asking for the next object acknowledges the last one as done, and so does `break`. After an
        exception the last one stays held until this thread's next call on the queue, which
        acknowledges it, or the end of the thread or process, which gives it back.
        """
        self._check_open()
        return self._messages(None, ()) or self._loop(lambda item: item)

    def _loop(self, unpacked: Callable[[Any], Any]) -> Iterator[Any]:
        """Return an iterator over the objects that a new reader takes."""
        from .items import read

        hold = Hold(self._left)
        return loop(read(self, hold, unpacked), hold)

    def release(self, obj: T, delay: float = 0.0) -> None:
        """Give back an object in the middle of a loop: it waits again, for any reader.

        The loop goes on, and asking for the next object does not count this one as done.

        Args:
            obj: The object, the very same one, that a loop of this thread over this queue has in
                hand; or had when an exception ended the loop.
            delay: Seconds for which no reader gets it. It counts as waiting all the while.

        Raises:
            ValueError: No such loop holds it, or the delay is negative.
            TypeError: The delay is no number.
        """
        self._check_open()
        release(self._left, obj, delay)

    def poisoned(self) -> list[T]:
        """List the objects set aside because three readers died with each; remove none."""
        found = self._set_aside(False)
        self._listed = {id(obj): (obj, number) for obj, number in found}
        return [obj for obj, _ in found]

    def requeue(self, obj: T) -> None:
        """Put an object that is set aside back to its place, with its deaths counted anew.

        Args:
            obj: One of the very objects that the last `poisoned()` of this handle has listed.

        Raises:
            ValueError: It is none of these, or another call has put it back.
        """
        _, number = self._listed.pop(id(obj), (None, None))
        if number is None or not self._requeue(number):
            raise ValueError(
                "obj is not set aside, or not from the last poisoned() of this handle: "
                f"{obj!r:.100}"
            )

    # -- counting -----------------------------------------------------------------------------

    def qsize(self) -> int:
        """Return how many messages wait; exact, on every platform."""
        return self.statistics().size

    def empty(self) -> bool:
        """Return whether nothing waits."""
        return self.statistics().size == 0

    def full(self) -> bool:
        """Return whether `put` would have to wait."""
        raise NotImplementedError

    def statistics(self) -> Statistics:
        """Return the counts of this queue, all of one moment; deaths so far are accounted for."""
        raise NotImplementedError

    # -- finishing ----------------------------------------------------------------------------

    def task_done(self) -> None:
        """Acknowledge one object taken by `get` as finished.

        Raises:
            ValueError: Called more often than objects were put.
        """
        raise NotImplementedError

    def join(self) -> None:
        """Wait until every object put is done.

        An object that a process took and died with counts as done, and so does one that
        `shutdown(immediate=True)` threw away.

        Blocks: until then. Ctrl-C interrupts it.
        """
        raise NotImplementedError

    def shutdown(self, immediate: bool = False) -> None:
        """Refuse further puts; gets go on until the queue is empty. Both then raise `ShutDown`.

        Args:
            immediate: Throw away the waiting objects, too, counting them as done.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close this process's handle: later calls raise `ValueError`. Others are not affected."""
        raise NotImplementedError

    def join_thread(self) -> None:
        """Do nothing: there is no feeder thread. Kept for `multiprocessing.Queue`'s users."""

    def cancel_join_thread(self) -> None:
        """Do nothing: exit never waits for readers. Kept for `multiprocessing.Queue`'s users."""

    def unlink(self) -> None:
        """Give up the queue's name and its unread objects; the next to open the name begins anew.

        Raises:
            ValueError: The queue has no name.
        """
        raise NotImplementedError

    @property
    def name(self) -> str | None:
        """The name under which other programs open this queue, if it has one."""
        raise NotImplementedError

    @property
    def maxsize(self) -> int:
        """The most messages that may wait; 0 is no limit.

        It can be set, for every process that has the queue. A larger limit lets waiting `put`s go
        on at once. A smaller one removes nothing: there is room again when fewer messages wait.
        """
        raise NotImplementedError

    @maxsize.setter
    def maxsize(self, maxsize: int) -> None:
        raise NotImplementedError

    @property
    def max_idle_memory(self) -> int | None:
        """The most bytes of free memory that the queue keeps for its next messages.

        Memory that messages have used is faster than new memory. None, the default, is 64 MiB, or
        the memory of three messages if they are larger than 21 MiB, up to 256 MiB. It can be set,
        for every process that has the queue; 0 keeps none. Only queues in shared memory keep any:
        for others the number is checked, and changes nothing.

        Raises:
            TypeError, ValueError: It is set to a value that is neither None nor an int from 0.
        """
        return None

    @max_idle_memory.setter
    def max_idle_memory(self, size: int | None) -> None:
        check_memory(size)

    def trim(self) -> int:
        """Give the free memory that the queue keeps for its next messages back to the system.

        Waiting messages stay, and so does memory that a view into a message still uses. A queue
        that is not in shared memory keeps no free memory.

        Returns:
            How many bytes were given back; 0 if there was nothing.

        Raises:
            ValueError: The handle is closed.
        """
        self._check_open()
        return 0

    @property
    def is_shutdown(self) -> bool:
        """Whether `shutdown` has been called, by any process."""
        raise NotImplementedError

    @property
    def unfinished_tasks(self) -> int:
        """The number of messages that were put and are not done; `join` waits until it is 0."""
        return self.statistics().unfinished

    # -- for Q ----------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Wait until every event so far, such as the death of a reader, is counted."""

    def _end(self, count: int, tag: bytes) -> None:
        """Put `count` ENDs that `_withdraw_ends(tag)` can take back."""
        raise NotImplementedError

    def _withdraw_ends(self, tag: bytes) -> int:
        """Take back the ENDs of this tag that no reader has taken, and return how many."""
        raise NotImplementedError

    @property
    def _left(self) -> list[Any]:
        """The holds of loops that this process has left by an exception; see leases.py."""
        raise NotImplementedError

    def _set_aside(self, only_new: bool) -> list[tuple[Any, int]]:
        """List the messages that were set aside, each with a number for `_requeue`.

        Args:
            only_new: Only those that no such call has returned before.
        """
        raise NotImplementedError

    def _requeue(self, number: int) -> bool:
        """Put back a message that was set aside; return whether it still was."""
        raise NotImplementedError

    def _reader(self) -> Reader:
        """Return a new reader, which takes messages under leases."""
        raise NotImplementedError

    def _messages(self, cls: type | None, slots: tuple[Any, ...]) -> Iterator[Any] | None:
        """Return a native iterator over messages; None if the transport has none.

        Args:
            cls: The message class of `qmill.Q`: each message comes as an instance of it. None for
                the objects as they were put.
            slots: The slots of the class for data, kind and order.
        """
        return None

    def _check_sendable(self) -> None:
        """Raise `ThreadQueueSent` if this queue is for the threads of one process."""

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"{self!r} is closed")


class Reader:
    """One iteration over a queue: it holds each message under a lease until it acknowledges it."""

    def take(self, done: int) -> tuple[int, Any]:
        """End the lease `done`, unless it is 0, and wait for the next message.

        Returns:
            The new lease and the object, or (0, END).

        Raises:
            ShutDown: The queue is shut down and empty.
            SerializationError: The object cannot be rebuilt here; it counts as done.
        """
        raise NotImplementedError

    def done(self, lease: int) -> None:
        """End one lease: its message is finished."""
        raise NotImplementedError

    def release(self, lease: int, delay: float) -> bool:
        """End one lease of a message that the caller got: it waits again.

        Args:
            lease: The lease.
            delay: Seconds for which no reader gets it.

        Returns:
            Whether there was such a lease.
        """
        raise NotImplementedError

    def close(self, done: Iterable[int] = ()) -> None:
        """End all leases, as the loop has ended without a death. Safe in a garbage collection.

        Args:
            done: Leases of messages that are finished. The messages of all others go back, as the
                loop never handed them out.
        """
        raise NotImplementedError


def _transport(kind: str, name: str | None, persistent: bool) -> type[Queue]:
    """Choose the class for a new queue."""
    if kind == "thread":
        if name is not None or persistent:
            raise ValueError(
                "a queue of kind='thread' belongs to one process and has no name; "
                f"got name={name!r}, persistent={persistent!r} (use kind='process')"
            )
        from .local.thread import ThreadQueue

        return ThreadQueue
    if kind != "process":
        raise ValueError(f"kind must be 'process' or 'thread', not {kind!r}")
    from .shared.core import choose

    if choose() == "shared":
        from .shared.queue import SharedQueue

        return SharedQueue
    from .portable.portable_queue import PortableQueue

    return PortableQueue


__all__ = ["END", "POISON_DEATHS", "Queue", "Reader"]
