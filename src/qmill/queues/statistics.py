"""The counts of a queue."""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from typing import NamedTuple

    class Statistics(NamedTuple):
        """Counts of one queue, all taken at one moment."""

        size: int
        leased: int
        unfinished: int
        put: int
        taken: int
        done: int
        lost: int
        redelivered: int
        poisoned: int
        maxsize: int
else:
    Statistics = namedtuple(
        "Statistics",
        "size leased unfinished put taken done lost redelivered poisoned maxsize",
    )
    Statistics.__doc__ = """Counts of one queue, all taken at one moment.

    Attributes:
        size: Messages and ENDs that wait to be taken.
        leased: Messages that readers hold and have not finished.
        unfinished: Messages put and not done; `join` waits until it is 0.
        put: Messages put since the queue was made.
        taken: Deliveries to readers, redeliveries included.
        done: Messages finished: `task_done`, an ended lease, or a dead process's share.
        lost: Those of `done` that a process took and died with.
        redelivered: Messages that came back: their reader died, ended or failed in the middle, or
            gave them back; or they were put back after they were set aside.
        poisoned: Messages set aside because their readers died each time.
        maxsize: The limit of waiting messages; 0 is none.
    """
