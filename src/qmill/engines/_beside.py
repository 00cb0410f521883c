"""A path through shared memory for payloads that are too large for a channel: one way only.

The one who sends makes a ring, whose file goes over the channel once; then each payload is put into
it, and a message on the channel says which one it is. The pages are used again and again, where a
file for each payload would have to get new ones. Where there is no native core, or no memory, the
caller sends a file.
"""

from __future__ import annotations

import itertools
import mmap
import struct
from collections import defaultdict
from typing import TYPE_CHECKING, Any
from weakref import ref

from .. import _core
from . import _packets as packets

if TYPE_CHECKING:
    from collections.abc import Callable

_TICKET = struct.Struct("<I")

_LARGEST_BYTES = 1 << 24
"""Larger payloads have a file each: a ring keeps some of the memory that it once needed."""

_FREE_BYTES = 1 << 26
"""Not more memory than this waits for the next copies."""

_POPULATE = getattr(mmap, "MAP_POPULATE", 0)
"""The kernel gives all pages at once, in half the time of one by one; only Linux does."""


class Copies:
    """Makes copies of what is sent later, in memory that is used again when one is forgotten.

    To get new pages takes longer than to fill them.
    """

    def __init__(self) -> None:
        self._used: dict[int, tuple[ref[memoryview], mmap.mmap]] = {}
        self._free: defaultdict[int, list[mmap.mmap]] = defaultdict(list)  # by size

    def join(self, parts: list[Any]) -> bytes | memoryview:
        """Return parts as one: bytes, or what no other object may look at any longer than it is."""
        size = sum(map(len, parts))
        if not packets.BESIDE_BYTES < size <= _LARGEST_BYTES:
            return b"".join(parts)
        step = 1 << (size.bit_length() - 3)  # a copy wastes a quarter at most
        rounded = -(-size // step) * step
        memory = self._recycled(rounded) or _new_memory(rounded)
        copy, start = memoryview(memory)[:size], 0
        for part in parts:
            copy[start : start + len(part)] = part
            start += len(part)
        forgotten = ref(copy, self._take_back)
        self._used[id(forgotten)] = forgotten, memory
        return copy

    def _recycled(self, size: int) -> mmap.mmap | None:
        try:
            return self._free[size].pop()
        except IndexError:
            return None

    def _take_back(self, forgotten: ref[memoryview]) -> None:
        _, memory = self._used.pop(id(forgotten))
        free = sum(size * len(memories) for size, memories in list(self._free.items()))
        if free + len(memory) <= _FREE_BYTES:
            self._free[len(memory)].append(memory)


def _new_memory(size: int) -> mmap.mmap:
    try:
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _POPULATE)
    except OSError as error:
        raise MemoryError(f"no memory for {size} bytes that are to be sent") from error


class Outbox:
    """The end that sends."""

    def __init__(self) -> None:
        self._ring: Any = None
        self._is_known = False  # whether the other side has been told of the ring
        self._can_share = _core.why_not() is None
        self._numbers = itertools.cycle(range(1 << 32))

    def put(self, parts: list[Any], tell: Callable[[int], None]) -> bytes | None:
        """Put a payload; return what the message says of it, or None if it has to go in a file.

        Args:
            parts: Bytes-like.
            tell: Called once, with a descriptor that is to be sent; it may raise, and is then
                called again.
        """
        if not self._can_share or sum(map(len, parts)) > _LARGEST_BYTES:
            return None
        ticket = _TICKET.pack(next(self._numbers))
        try:
            if self._ring is None:
                self._ring = _new_ring()
            if not self._is_known:
                tell(self._ring.fileno())
                self._is_known = True
            self._ring.put_parts([*parts, ticket])
        except MemoryError:
            return None
        return ticket

    def forget_in_child(self) -> None:
        """Send files from now on: the ring is in step with one process's messages, the parent's."""
        self._ring = None
        self._can_share = False


def _new_ring() -> Any:
    try:
        from ..queues import rings

        return rings.create(0)
    except OSError as error:  # of the import, too: it needs a descriptor
        raise MemoryError from error


class Inbox:
    """The end that receives.

    Args:
        copies: Whether a payload is copied when it comes, and not lent: for a process that may fork
            while it has many, as each child would have to copy them.
    """

    def __init__(self, copies: bool) -> None:
        self._ring: Any = None
        self._copies = copies

    def open(self, descriptor: int) -> None:
        """Open the ring that the other side has sent; the descriptor is this one's then.

        Raises:
            QueueGone: It is none.
        """
        from ..queues import rings

        self._ring = rings.attach(descriptor, was_sent=True)

    def take(self, ticket: bytes) -> memoryview:
        """Return a payload: memory of this process's own.

        One whose message was never sent, since a signal came between, is left out.

        Raises:
            Empty: There is none.
        """
        while True:
            taken: memoryview = self._ring.take_bytes()
            if taken[-_TICKET.size :] == ticket:
                taken = taken[: -_TICKET.size]
                return memoryview(bytearray(taken)) if self._copies else taken
