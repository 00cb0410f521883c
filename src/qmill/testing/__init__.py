"""For tests of programs that use queues: kill their processes, and check for leftovers.

    kill_at, each_death   a process dies at its n-th operation on a queue
    storm                 many processes die at random instants; every message is accounted for
    nothing_left_behind   no process, thread, descriptor or file stays

All of these take any object with `put` and `get`. So the same test can also be run on a
`multiprocessing.Queue`.
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
