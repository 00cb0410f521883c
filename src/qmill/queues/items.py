"""The generator under each loop over a queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ShutDown
from .api import END
from .leases import leave

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from .api import Queue
    from .leases import Hold


def read(queue: Queue, hold: Hold, unpacked: Callable[[Any], Any]) -> Generator[Any, None, None]:
    """Give objects, each under a lease, until a queue is shut down and empty or an END comes.

    Args:
        queue: The queue.
        hold: The loop's hold.
        unpacked: Turns the object that was put into the object that the loop gives.
    """
    reader = queue._reader()
    hold.begin(reader)
    try:
        while (taken := reader.take(hold.finish()))[1] is not END:
            lease, item = taken
            yield hold.give((lease, unpacked(item)))
    except ShutDown:
        pass
    leave(hold, False)
