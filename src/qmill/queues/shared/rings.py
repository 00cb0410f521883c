"""Queues in shared memory that this process has mapped, and how it finds those of others.

A pickle carries the queue's number and the place of a descriptor of its file: in the process that
pickled it, under /proc. If that process has ended, any other process of this user that has the file
open will do. A process that is being started is given a descriptor instead: it may change its user
before it opens the queue.

A process that has pickled a queue keeps it until each pickle was loaded once, also if its last
handle is gone by then: a pickle has a number, and the queue's file has the numbers of those that
were loaded. As some pickles are never loaded, a process keeps the last few queues only.
"""

from __future__ import annotations

import os
import threading
from weakref import ref

from ...errors import QueueGone
from ...system import lifecycle, native
from ...system.control_groups import memory_files
from .core._ring import Ring, forgetting, watch_groups

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from typing import Any

watch_groups(memory_files())  # the kernel kills a process that exceeds a group's memory limit
_rings: dict[bytes, ref[Any]] = {}
"""The rings of this process by the queue's number, as long as they live."""

_PICKLES_KNOWN = 64
"""The number of pickles of one queue that are known: as many as its file has room for."""


class _Kept:
    """Queues kept for pickles that have not been loaded yet; the last `limit` queues."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.RLock()  # a collection of garbage may pickle a queue meanwhile
        self._pickles: dict[Any, list[int]] = {}  # by ring, the older ones first

    def add(self, ring: Any) -> int:
        """Keep a ring for a new pickle, and return the pickle's number."""
        number: int = ring.new_pickle()
        with self._lock:
            self.sweep()
            self._pickles[ring] = [*self._pickles.pop(ring, ())[1 - _PICKLES_KNOWN :], number]
            while len(self._pickles) > self._limit:
                self._pickles.pop(next(iter(self._pickles)), None)
        return number

    def sweep(self) -> None:
        """Release the queues of which all pickles were loaded."""
        with self._lock:
            for ring in list(self._pickles):
                self.sweep_one(ring)

    def sweep_one(self, ring: Any) -> None:
        """Release a queue if all its pickles were loaded."""
        with self._lock:
            if (pickles := self._pickles.get(ring)) is None:
                return
            pickles[:] = ring.not_loaded(pickles)
            if not pickles:
                self._pickles.pop(ring, None)

    def clear(self) -> None:
        """Release all queues."""
        self._pickles = {}
        self._lock = threading.RLock()

    def rings(self) -> list[Any]:
        """List the queues that are kept."""
        return list(self._pickles)


_sent = _Kept(256)
"""Kept for pickles in messages and jobs, which are read as a rule."""

_pickled = _Kept(16)
"""Kept for pickles of `pickle.dumps` itself, of which nobody knows whether they are ever loaded."""


def kept() -> list[Any]:
    """List the rings that are mapped for pickles under way, whether there is a handle or not."""
    return _sent.rings() + _pickled.rings()


def let_go(ring: Any) -> None:
    """Release a ring, as a handle is closed, if all its pickles were loaded."""
    _sent.sweep_one(ring)
    _pickled.sweep_one(ring)


def create(maxsize: int, path: str | None = None) -> Any:
    """Make a queue in a new file.

    Args:
        maxsize: Its limit.
        path: The path of the file; None for a file without a name.

    Raises:
        MemoryError: There is no room for it.
        FileExistsError: There is a file at this path.
    """
    _sent.sweep()
    _pickled.sweep()
    number = os.urandom(16)
    lifecycle.end_with_multiprocessing()
    return _known(Ring.create(path, maxsize, number))


def attach(file: int, number: bytes | None = None, was_sent: bool = False) -> Any:
    """Map the queue in a file; the ring owns the descriptor from then on.

    Args:
        file: A descriptor.
        number: The number of the queue that is expected there; None for any.
        was_sent: The process that made it has sent it over a channel of its own.

    Raises:
        QueueGone: The file is not that queue, or no queue.
    """
    lifecycle.end_with_multiprocessing()
    return _known(Ring.attach(file, number, was_sent))


def open_path(path: str, number: bytes | None = None, flags: int = 0, alone: bool = False) -> Any:
    """Map the queue in the file of a path.

    Args:
        path: The path of the file, or of a link to it under /proc.
        number: The number of the queue that is expected there; None for any.
        flags: Further flags of `os.open`.
        alone: The caller knows that no other process has it open: the file may be from before a
            restart of the machine.

    Raises:
        QueueGone: The file is not that queue, or no queue.
        OSError: The file cannot be opened.
    """
    lifecycle.end_with_multiprocessing()
    return _known(Ring.open(path, flags, number, alone))


def _known(ring: Any) -> Any:
    """Return the ring of this process for a queue: the one that it has, else this new one."""
    number = ring.uuid
    if (older := _find_here(number)) is not None:
        return older
    _rings[number] = ref(ring, forgetting(_rings, number))
    return ring


def _find_here(number: bytes) -> Any:
    """Return the ring that this process has of a queue, if it has one."""
    found = _rings.get(number)
    return None if found is None else found()


def _all() -> list[Any]:
    """List the rings of this process."""
    return [ring for found in list(_rings.values()) if (ring := found()) is not None]


def _serialize() -> Any:
    """Return the module, which is not loaded with this one: plain data needs none of it."""
    return native.load("qmill.packing.serialize")


def reduce_ring(ring: Any) -> Any:
    """Return the pickle of a ring: a function that finds it again, and its arguments."""
    found_by = whereabouts(ring)
    serialize = _serialize()
    packing, starting = serialize.packing, serialize.standard_library.starting
    if starting.heir is not None or packing.num_kept:  # the heir gets a descriptor, or we keep it
        return attach_ring, found_by
    pickle = (_sent if packing.depth else _pickled).add(ring)
    return attach_ring, (*found_by, pickle)


def whereabouts(ring: Any) -> tuple[bytes, int, Any]:
    """Return the arguments by which `find` finds a ring, while any process has it open.

    Raises:
        LocalQueueSent: The pickle would go to another machine.
    """
    serialize = _serialize()
    serialize.check_stays_here()
    file, heir = ring.fileno(), serialize.standard_library.starting.heir
    if heir is not None:
        file = heir.DupFd(heir.duplicate_for_child(file))
    return ring.uuid, os.getpid(), file


def attach_ring(number: bytes, pid: int, file: Any, pickle: int = 0) -> Any:
    """Return the ring of a pickle.

    Raises:
        QueueGone: No process has it any more.
    """
    ring = find(number, pid, file)
    if pickle:
        ring.pickle_loaded(pickle)
    return ring


def find(number: bytes, pid: int, file: Any) -> Any:
    """Map a queue that another process has, or had."""
    ring = _find_here(number)
    if ring is not None:
        return ring
    if not isinstance(file, int):
        return attach(file.detach(), number)
    why = "no process has the queue any more"
    try:
        return open_path(f"/proc/{pid}/fd/{file}", number)
    except PermissionError:
        why = (
            f"process {pid} has the queue, and this one may not open its files: it has another "
            "user, or has changed it. A worker that changes its user has to be given the queue "
            "before that, as an argument of `run` or in `initargs`"
        )
    except (OSError, QueueGone):
        pass
    wanted = f"/memfd:qmill-{number.hex()}"
    for process in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if not process.isdigit():
            continue
        folder = f"/proc/{process}/fd"
        try:
            names = os.listdir(folder)
        except OSError:  # the process has ended, or belongs to another user
            continue
        for name in names:
            path = f"{folder}/{name}"
            try:
                if os.readlink(path).startswith(wanted):
                    return open_path(path, number)
            except (OSError, QueueGone):
                pass
    raise QueueGone(why)


def _after_fork_in_child() -> None:
    _sent.clear()  # the parent keeps them
    _pickled.clear()


def leave() -> None:
    """Give up this process's part in every queue: the messages it has taken count as done."""
    for ring in _all():
        ring.leave()
    _sent.clear()
    _pickled.clear()


lifecycle.at_exit(lifecycle.RINGS, leave)
lifecycle.at_fork(lifecycle.RINGS, in_child=_after_fork_in_child)
