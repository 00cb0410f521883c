"""The transport for Linux: a queue in shared memory, kept by nobody and outliving whoever dies.

A queue is a sealed file without a name (`memfd`), mapped by each process that uses it; it is gone
when the last of them is. `_core/ring.c` keeps it right whatever happens to them.

A pickle carries the queue's number and where a descriptor of its file is to be found: in the
process that pickled it, under /proc. If that has ended, any other process of this user that has the
file open does as well.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from .._core._ring import Ring
from ..errors import QueueGone
from ..serialize import check_stays_here
from . import exits
from .base import Queue, Reader, check_maxsize

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .base import Statistics

_FAST = (
    "put",
    "put_nowait",
    "put_many",
    "get",
    "get_nowait",
    "get_many",
    "peek",
    "full",
    "statistics",
    "task_done",
    "join",
    "shutdown",
)

_rings: WeakValueDictionary[bytes, Any] = WeakValueDictionary()
"""What is mapped in this process, by the queue's number."""

_kept: set[Any] = set()
"""Rings that stay mapped until this process ends: a pickle of them may be anywhere, or this process
has taken something that it may still tell to be done."""


class SharedQueue(Queue):
    """A queue in shared memory. See `qmill.Queue`."""

    def __init__(
        self,
        maxsize: int = 0,
        *,
        kind: str = "process",
        name: str | None = None,
        persistent: bool = False,
    ) -> None:
        if persistent:
            raise ValueError("persistent=True needs a name, by which the queue is found again")
        number = uuid.uuid4().bytes
        file = os.memfd_create(f"qmill-{number.hex()}", os.MFD_CLOEXEC)
        try:
            ring = Ring.create(file, check_maxsize(maxsize), number)
        except MemoryError:
            os.close(file)
            raise
        _rings[number] = ring
        self._use(ring)

    def _use(self, ring: Any) -> None:
        self._ring = ring
        exits.hook_exit()
        if type(self) is SharedQueue:  # a subclass may have methods of its own
            # A method of the ring is called at once, and not through one of ours.
            self.__dict__.update((name, getattr(ring, name)) for name in _FAST)

    def __reduce__(self) -> Any:
        self._check_open()
        check_stays_here()
        return _attach, reduce_ring(self._ring)[1]

    def __repr__(self) -> str:
        return f"<qmill.Queue kind='process' maxsize={self._ring.maxsize} at {id(self):#x}>"

    def close(self) -> None:
        self._closed = True
        for name in _FAST:
            self.__dict__.pop(name, None)

    @property
    def name(self) -> str | None:
        return None

    @property
    def maxsize(self) -> int:
        return int(self._ring.maxsize)

    def unlink(self) -> None:
        self._check_open()
        raise ValueError(f"{self!r} has no name to unlink")

    # -- called by subclasses, and when the handle is closed ---------------------------------------

    @property
    def _open_ring(self) -> Any:
        self._check_open()
        return self._ring

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

    # -- what Q stands on --------------------------------------------------------------------------

    def _settle(self) -> None:
        self._open_ring.settle()

    def _end(self, count: int, tag: bytes) -> None:
        for _ in range(count):
            self._open_ring.end(tag)

    def _withdraw_ends(self, tag: bytes) -> int:
        return int(self._open_ring.withdraw_ends(tag))

    def _take_poisoned(self) -> list[Any]:
        found: list[Any] = []
        while one := self._open_ring.take_poisoned():
            found += one
        return found

    def _reader(self) -> Reader:
        return _SharedReader(self._open_ring)


class _SharedReader(Reader):
    """A reader's leases; a forked child begins anew, as they are its parent's."""

    def __init__(self, ring: Any) -> None:
        self._ring = ring
        self._generation = ring.generation()
        self._number = ring.new_reader()

    def take(self, done: int | None) -> tuple[int, Any]:
        ring = self._ring
        if self._generation != ring.generation():
            _SharedReader.__init__(self, ring)
        elif done:
            ring.lease_done(self._number, done)
        taken: tuple[int, Any] = ring.take(self._number)
        return taken

    def done(self, lease: int) -> None:
        if self._generation == self._ring.generation():
            self._ring.lease_done(self._number, lease)

    def close(self, unread: Iterable[int] = ()) -> None:
        if self._number and self._generation == self._ring.generation():
            for lease in unread:
                self._ring.lease_give_back(self._number, lease)
            self._ring.close_reader(self._number)
            self._number = 0


def reduce_ring(ring: Any) -> Any:
    """Return the pickle of a ring: how it is found."""
    _kept.add(ring)
    return attach_ring, (ring.uuid, os.getpid(), ring.fileno())


def attach_ring(number: bytes, pid: int, file: int) -> Any:
    """Return the ring of a pickle."""
    ring = _rings.get(number)
    if ring is None:
        ring = _rings[number] = _find(number, pid, file)
        _kept.add(ring)
        exits.hook_exit()
    return ring


def _attach(number: bytes, pid: int, file: int) -> SharedQueue:
    """Rebuild a handle from its pickle.

    A function and no class method: cloudpickle sends these by value, with the globals they use.
    """
    queue: SharedQueue = object.__new__(SharedQueue)
    queue._use(attach_ring(number, pid, file))
    return queue


def _find(number: bytes, pid: int, file: int) -> Any:
    """Map a queue that another process has."""
    try:
        return _open(f"/proc/{pid}/fd/{file}", number)
    except (OSError, QueueGone):
        pass
    wanted = f"/memfd:qmill-{number.hex()}"
    for process in os.listdir("/proc"):
        if not process.isdigit():
            continue
        folder = f"/proc/{process}/fd"
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            for name in os.listdir(folder):
                path = f"{folder}/{name}"
                with contextlib.suppress(OSError, QueueGone):
                    if os.readlink(path).startswith(wanted):
                        return _open(path, number)
    raise QueueGone("no process has the queue any more")


def _open(path: str, number: bytes) -> Any:
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        return Ring.attach(file, number)
    except BaseException:
        os.close(file)
        raise


def leave() -> None:
    """End this process's part in every queue: what it has taken counts as done."""
    for ring in list(_rings.values()):
        ring.leave()
    _kept.clear()


exits.leavers.append(leave)
