"""A one-way path through shared memory, for payloads that are too large for a channel.

The sender makes a ring and sends its file over the channel once. Then it puts each payload into the
ring, and sends a message on the channel that identifies it. The ring reuses its pages; a file for
each payload would need new ones. If there is no native core, or no memory, the caller sends a file.
"""

from __future__ import annotations

import itertools
import mmap
import struct
from collections import defaultdict
from typing import TYPE_CHECKING, Any
from weakref import ref

from ...queues.shared import core
from . import protocol as packets

if TYPE_CHECKING:
    from collections.abc import Callable

rings: Any = None
if core.why_not() is None:
    from ...queues.shared import rings

_TICKET = struct.Struct("<I")

_LARGEST_BYTES = 1 << 24
"""Larger payloads have a file each: a ring retains some of the memory that it once needed."""

_FREE_BYTES = 1 << 26
"""The most memory that is retained for the next copies."""

_POPULATE = getattr(mmap, "MAP_POPULATE", 0)
"""The kernel maps all pages at once, in half the time of one by one; only on Linux."""


class Copies:
    """Copies payloads that are sent later, into memory that is reused once a copy is garbage.

    It takes longer to get new pages than to fill them.
    """

    def __init__(self) -> None:
        self._used: dict[int, tuple[ref[memoryview], mmap.mmap]] = {}
        self._free: defaultdict[int, list[mmap.mmap]] = defaultdict(list)  # by size

    def join(self, parts: list[Any]) -> bytes | memoryview:
        """Join parts. A large result is a view of recycled memory, reused once it is garbage."""
        size = sum(map(len, parts))
        if not packets.BESIDE_BYTES < size <= _LARGEST_BYTES:
            return b"".join(parts)
        step = 1 << (size.bit_length() - 3)  # at most a quarter of the memory is wasted
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
    """The sending end."""

    def __init__(self) -> None:
        self._ring: Any = None
        self._is_known = False  # whether the other side has the ring's descriptor
        self._can_share = rings is not None and core.why_not() is None
        self._numbers = itertools.cycle(range(1 << 32))

    def put(self, parts: list[Any], tell: Callable[[int], None]) -> bytes | None:
        """Put a payload into the ring; return its ticket, or None if it has to go in a file.

        Args:
            parts: Bytes-like objects, which are joined.
            tell: Called once, with a descriptor to send. If it raises, the next `put` calls it
                again.
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
        """Use files from now on: the ring is in step with the messages of the parent only."""
        self._ring = None
        self._can_share = False


def _new_ring() -> Any:
    try:
        return rings.create(0)
    except OSError as error:  # there is no free descriptor
        raise MemoryError from error


class Inbox:
    """The receiving end.

    Args:
        copies: Whether to copy payloads rather than to lend the ring's memory: for a process that
            has many payloads and may fork, as each child would have to copy them.
    """

    def __init__(self, copies: bool) -> None:
        self._ring: Any = None
        self._copies = copies

    def open(self, descriptor: int) -> None:
        """Open the ring whose descriptor was received; the descriptor then belongs to it.

        Raises:
            QueueGone: The descriptor is not one of a ring.
        """
        self._ring = rings.attach(descriptor, was_sent=True)

    def take(self, ticket: bytes) -> memoryview:
        """Return the payload with this ticket, as memory that belongs to this process.

        Payloads before it are discarded: a signal has prevented their messages from being sent.

        Raises:
            Empty: The payload is not in the ring.
        """
        while True:
            taken: memoryview = self._ring.take_bytes()
            if taken[-_TICKET.size :] == ticket:
                taken = taken[: -_TICKET.size]
                return memoryview(bytearray(taken)) if self._copies else taken
