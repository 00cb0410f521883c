"""The transport for Linux: a queue in shared memory, which survives the death of any process.

A queue is a file, mapped by each process that uses it: one that has no name at all (`memfd`), or
one in the folder of the named queues. It is gone when the last process that has it open is.
`_core` keeps it consistent when a process is killed at any step.
"""

from __future__ import annotations

from ...errors import QueueGone
from ..api import Queue, Reader
from ..checks import check_maxsize, check_memory, check_name, check_new_maxsize
from . import rings
from .core._ring import Messages

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from ..statistics import Statistics
    from .named_file import Hold

_FAST = (
    "put",
    "put_nowait",
    "put_many",
    "get",
    "get_nowait",
    "get_many",
    "peek",
    "qsize",
    "full",
    "statistics",
    "task_done",
    "join",
    "shutdown",
)


class SharedQueue(Queue):
    """A queue in shared memory. See `qmill.Queue`."""

    def __init__(
        self,
        maxsize: int | None = None,
        *,
        kind: str = "process",
        name: str | None = None,
        persistent: bool = False,
    ) -> None:
        check_name(name)
        limit = check_new_maxsize(maxsize)
        if name is not None:
            from .named_file import open_named

            self._use(*open_named(name, limit, bool(persistent)))
        elif persistent:
            raise ValueError("persistent=True needs a name, by which the queue is found again")
        else:
            self._use(rings.create(limit or 0))

    def _use(self, ring: Any, name: str | None = None, hold: Hold | None = None) -> None:
        self._ring = ring
        if name is not None:
            ring.name = name
        self._name = name
        self._hold = hold
        if type(self) is SharedQueue:  # a subclass may have methods of its own
            # For speed, callers get the ring's own methods, not ones of this class that call them.
            self.__dict__.update((name, getattr(ring, name)) for name in _FAST)

    def _use_gone(self, error: QueueGone) -> None:
        """Become a handle of a queue that is gone: each use raises the error.

        The handle exists, so that a message that contains it can still be read.
        """
        self._ring = _Gone(error)
        self._name = self._hold = None

    def __reduce__(self) -> Any:
        self._check_open()
        if self._hold is None:
            return _attach, rings.reduce_ring(self._open_ring)[1]
        return _attach_named, (self._name, self._hold.folder, *rings.whereabouts(self._ring))

    def __repr__(self) -> str:
        named = f" name={self._name!r}" if self._name is not None else ""
        ring = self._ring  # None if the handle is closed
        about = " gone" if type(ring) is _Gone else f" maxsize={ring.maxsize}" if ring else ""
        return f"<qmill.Queue kind='process'{named}{about} at {id(self):#x}>"

    def close(self) -> None:
        self._closed = True
        for name in _FAST:
            self.__dict__.pop(name, None)
        ring, self._ring = self._ring, None
        hold, self._hold = self._hold, None
        if hold is not None:  # else another thread was faster, or there is no name
            hold.close_handle()
        if ring is not None:
            rings.let_go(ring)

    @property
    def name(self) -> str | None:
        return self._name

    @property
    def maxsize(self) -> int:
        return int(self._open_ring.maxsize)

    @maxsize.setter
    def maxsize(self, maxsize: int) -> None:
        limit = check_maxsize(maxsize)
        self._open_ring.set_maxsize(limit)

    @property
    def max_idle_memory(self) -> int | None:
        size: int | None = self._open_ring.max_idle_memory
        return size

    @max_idle_memory.setter
    def max_idle_memory(self, size: int | None) -> None:
        told = check_memory(size)
        self._open_ring.set_max_idle_memory(told)

    def trim(self) -> int:
        return int(self._open_ring.trim())

    @property
    def is_shutdown(self) -> bool:
        return bool(self._open_ring.is_shutdown)

    def unlink(self) -> None:
        """Give up the queue's name; open handles go on, and the next to open it begins anew.

        Raises:
            ValueError: The queue has no name.
        """
        self._check_open()
        if self._hold is None:
            raise ValueError(f"{self!r} has no name to unlink")
        self._hold.unlink()

    # -- called by subclasses, and when the handle is closed ---------------------------------------

    @property
    def _open_ring(self) -> Any:
        ring = self._ring
        if ring is None:  # a thread that closes the handle says so first
            self._closed = True
        self._check_open()
        return ring

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        self._open_ring.put(obj, block, timeout)

    def put_many(
        self, items: Iterable[Any], block: bool = True, timeout: float | None = None
    ) -> int:
        return int(self._open_ring.put_many(items, block, timeout))

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        return self._open_ring.get(block, timeout)

    def get_many(
        self, max_items: int, block: bool = True, timeout: float | None = None
    ) -> list[Any]:
        found: list[Any] = self._open_ring.get_many(max_items, block, timeout)
        return found

    def peek(self, block: bool = True, timeout: float | None = None) -> Any:
        return self._open_ring.peek(block, timeout)

    def qsize(self) -> int:
        return int(self._open_ring.qsize())

    def empty(self) -> bool:
        return not self.qsize()

    def full(self) -> bool:
        return bool(self._open_ring.full())

    def statistics(self) -> Statistics:
        counts: Statistics = self._open_ring.statistics()
        return counts

    def task_done(self) -> None:
        self._open_ring.task_done()

    def join(self) -> None:
        self._open_ring.join()

    def shutdown(self, immediate: bool = False) -> None:
        self._open_ring.shutdown(immediate)

    # -- for Q -------------------------------------------------------------------------------------

    def _settle(self) -> None:
        self._open_ring.settle()

    def _end(self, count: int, tag: bytes) -> None:
        for _ in range(count):
            self._open_ring.end(tag)

    def _withdraw_ends(self, tag: bytes) -> int:
        return int(self._open_ring.withdraw_ends(tag))

    @property
    def _left(self) -> list[Any]:
        found: list[Any] = self._open_ring.left
        return found

    def _set_aside(self, only_new: bool) -> list[tuple[Any, int]]:
        found: list[tuple[Any, int]] = self._open_ring.set_aside(only_new)
        return found

    def _requeue(self, number: int) -> bool:
        return bool(self._open_ring.requeue(number))

    def _reader(self) -> Reader:
        return _SharedReader(self._open_ring)

    def _messages(self, cls: type | None, slots: tuple[Any, ...]) -> Iterator[Any]:
        ring = self._open_ring
        return Messages(ring, cls, slots) if type(ring) is not _Gone else ring.messages()


class _SharedReader(Reader):
    """A reader of the ring; in a forked child it becomes a new one: the leases are the parent's."""

    def __init__(self, ring: Any) -> None:
        self._ring = ring
        self._generation = ring.generation()
        self._number = ring.new_reader()

    def _is_own(self) -> bool:
        return bool(self._number) and self._generation == self._ring.generation()

    def take(self, done: int) -> tuple[int, Any]:
        ring = self._ring
        if self._generation != ring.generation():
            _SharedReader.__init__(self, ring)
        elif done:
            ring.lease_done(self._number, done)
        taken: tuple[int, Any] = ring.take(self._number)
        return taken

    def done(self, lease: int) -> None:
        if self._is_own():
            self._ring.lease_done(self._number, lease)

    def release(self, lease: int, delay: float) -> bool:
        return self._is_own() and bool(self._ring.lease_release(self._number, lease, delay))

    def close(self, done: Iterable[int] = ()) -> None:
        if self._is_own():
            for lease in done:
                self._ring.lease_done(self._number, lease, False)
            self._ring.close_reader(self._number)
            self._number = 0


def _attach(number: bytes, pid: int, file: Any, pickle: int = 0) -> SharedQueue:
    """Rebuild a handle from its pickle.

    A function and no class method: cloudpickle sends these by value, with the globals they use.
    """
    queue: SharedQueue = object.__new__(SharedQueue)
    try:
        queue._use(rings.attach_ring(number, pid, file, pickle))
    except QueueGone as error:
        queue._use_gone(error)
    return queue


def _attach_named(name: str, folder: str, number: bytes, pid: int, file: Any) -> SharedQueue:
    """Rebuild a handle that keeps a named queue alive, as the first one does."""
    from .named_file import hold_again

    queue: SharedQueue = object.__new__(SharedQueue)
    try:
        queue._use(*hold_again(name, folder, number, pid, file))
    except QueueGone as error:
        queue._use_gone(error)
    return queue


class _Gone:
    """Stands for the ring of a queue that is gone: each attribute raises the error."""

    def __init__(self, error: QueueGone) -> None:
        self._why = str(error)

    def __getattr__(self, name: str) -> Any:
        raise QueueGone(self._why)
