"""The iterator over a queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ShutDown

if TYPE_CHECKING:
    from .base import Queue


class Items:
    """Takes objects until a queue is shut down and empty.

    Args:
        queue: The queue.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def __iter__(self) -> Items:
        return self

    def __next__(self) -> Any:
        try:
            return self._queue.get()
        except ShutDown:
            raise StopIteration from None
