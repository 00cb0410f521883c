"""Leases of loops over queues: acknowledge the message in hand, or give it back, when a loop ends.

    a loop is left by ...       its message ...
    break, return, its end      is done
    an exception in flight      stays held: done with this thread's next call on the queue,
                                or back in the queue with the end of the thread or process

A loop in a generator that is closed counts as left by an exception: the two look alike.

A loop has a `Hold`, which a thread's list keeps from the loop's first step to its end. A queue's
`left` is the list of the holds in this process whose loops were left by an exception; the list also
identifies the queue of a hold. `Loop` sees how a loop was left when the loop's iterator is freed.
"""

from __future__ import annotations

import sys
from _thread import _local, get_ident

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from typing import Any

    from .api import Reader

NOTHING: Any = object()
"""Stands for the message of a loop that has none in hand."""

DELAY_MAX_S = 100 * 365 * 86400.0


class Hold:
    """The message that one loop has in hand.

    Attributes:
        left: The queue's list of holds whose loops were left by an exception.
        given: The message that the loop's body has, or NOTHING.
        lease: The lease of that message; 0 for none.
        thread: The thread that runs the loop.
        among: The list of all holds of that thread.
        early: For `Q.sorted`, the messages not handed out yet: (order, tie, lease, message).
    """

    __slots__ = ("among", "early", "given", "lease", "left", "reader", "thread")

    def __init__(self, left: list[Any]) -> None:
        self.left = left
        self.given = NOTHING
        self.lease = 0
        self.reader: Reader | None = None
        self.thread = 0
        self.among: list[Any] | None = None
        self.early: list[tuple[Any, int, int, Any]] = []

    def begin(self, reader: Reader) -> None:
        """Begin the loop, in this thread."""
        self.reader = reader
        self.thread = get_ident()
        begin(self)

    def give(self, taken: tuple[int, Any]) -> Any:
        """Take a message with its lease in hand, and return the message."""
        self.lease, self.given = taken
        return self.given

    def finish(self) -> int:
        """Put the message out of hand, and return its lease, which the caller then ends."""
        lease, self.lease, self.given = self.lease, 0, NOTHING
        return lease

    def done(self) -> None:
        """Acknowledge the message in hand; the loop goes on."""
        lease = self.finish()
        if self.reader is not None and lease:
            self.reader.done(lease)

    def release(self, delay: float) -> bool:
        """Give back the message in hand; False if this process does not hold it."""
        lease = self.finish()
        return self.reader is not None and self.reader.release(lease, delay)

    def end(self) -> None:
        """End the loop, and acknowledge the message in hand."""
        reader, self.reader = self.reader, None
        if reader is not None:
            lease = self.finish()
            reader.close((lease,) if lease else ())

    def give_back(self) -> None:
        """End the loop, and give back the message in hand."""
        if self.lease:
            self.release(0.0)
        self.end()


class _Thread(_local):
    """The holds of one thread, which end with it."""

    def __init__(self) -> None:
        self.holds: list[Any] = []
        self._end = _ThreadEnd(self.holds)


class _ThreadEnd:
    __slots__ = ("_holds",)

    def __init__(self, holds: list[Any]) -> None:
        self._holds = holds

    def __del__(self) -> None:
        if not sys.is_finalizing():  # else the exit hooks have given back all messages
            for hold in [hold for hold in self._holds if hold in hold.left]:
                _forget(hold)
                hold.give_back()


_this_thread = _Thread()


def begin(hold: Any) -> None:
    """Count a hold among those of this thread."""
    hold.among = _this_thread.holds
    hold.among.append(hold)


def _forget(hold: Any) -> None:
    for among in (hold.among, hold.left):
        if among is not None and hold in among:
            among.remove(hold)


def leave(hold: Any, by_exception: bool) -> None:
    """Settle the hold of a loop that has been left: end it, or keep its message after an error."""
    if by_exception and hold.given is not NOTHING:
        hold.thread = get_ident()
        hold.left.append(hold)
        for _, _, lease, _ in hold.early:
            hold.reader.release(lease, 0.0)
    else:
        _forget(hold)
        hold.end()


def acknowledge(left: list[Any]) -> None:
    """Acknowledge the messages that this thread's loops over a queue still held after an error.

    Called with the thread's next call on the queue: the thread has gone on.
    """
    me = get_ident()
    for hold in [hold for hold in left if hold.thread == me]:
        _forget(hold)
        hold.end()


def task_done(left: list[Any]) -> bool:
    """Acknowledge the message that a loop of this thread over a queue has; False if none has."""
    for hold in reversed(_this_thread.holds):
        if hold.left is left and hold.given is not NOTHING:
            hold.done()
            return True
    return False


def release(left: list[Any], message: Any, delay: float) -> None:
    """Give back a message that a loop of this thread over this queue has in hand."""
    if not isinstance(delay, (int, float)) and not hasattr(type(delay), "__float__"):
        raise TypeError(f"delay must be a number of seconds, not {type(delay).__name__} {delay!r}")
    delay = float(delay)
    if not 0 <= delay <= DELAY_MAX_S:
        raise ValueError(f"delay must be 0 to {DELAY_MAX_S:.0f} seconds, not {delay!r}")
    for hold in reversed(_this_thread.holds):
        if hold.left is left and hold.given is message:
            held = hold.release(delay)
            if hold in left:  # its loop is over
                _forget(hold)
                hold.end()
            if held:
                return
    raise ValueError(
        f"msg is not a message that a loop of this thread over this queue holds: {message!r:.100}. "
        "Give the very object that the loop got, before it asks for the next one"
    )


def give_back() -> None:
    """Give back all messages that this thread holds: an exception has ended its function."""
    for hold in list(_this_thread.holds):
        _forget(hold)
        hold.give_back()


def log_set_aside(name: str | None, shown: str, deaths: int) -> None:
    """Log that a message was set aside.

    Args:
        name: The queue's name, or None.
        shown: The message in brief.
        deaths: How many readers have died with it.
    """
    import logging

    logging.getLogger("qmill").error(
        "a message of %s has killed %d readers and was set aside: %s. `poisoned()` lists it, and "
        "`requeue` puts it back",
        "a queue without a name" if name is None else f"the queue {name!r}",
        deaths,
        shown,
    )


def loop(messages: Generator[Any, None, None], hold: Hold) -> Iterator[Any]:
    """Return an iterator over messages that settles their hold when it is left."""
    global _loop
    if _loop is None:
        try:
            from .shared.core._ring import Loop as _loop
        except ImportError:  # no native core
            from .loops import Loop as _loop  # type: ignore[assignment]
    return _loop(messages, hold)  # type: ignore[no-any-return]


_loop: Any = None
