"""For tests of programs that use queues: kill their processes, and look at what is left.

    kill_at, each_death   a process dies at its n-th operation on a queue
    storm                 many die at random instants; every message is accounted for
    nothing_left_behind   no process, thread, descriptor or file stays

All of it takes any object with `put` and `get`, so the same test can be run on a
`multiprocessing.Queue`, to see what it would find there.
"""

from __future__ import annotations

from ._kills import Death, each_death, kill_at
from ._leftovers import nothing_left_behind
from ._storms import StormReport, get_each, iterate, storm

__all__ = [
    "Death",
    "StormReport",
    "each_death",
    "get_each",
    "iterate",
    "kill_at",
    "nothing_left_behind",
    "storm",
]
