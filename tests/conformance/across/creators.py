"""Queues that another program made, and handles that outlive it."""

from __future__ import annotations

from conformance_support import LIMIT_S


def get(queue):
    """Take what is on its way: a bound on the wait, so that a lost message fails the test."""
    return queue.get(timeout=LIMIT_S)


def drain(queue):
    """Take everything that is there now."""
    items = []
    while not queue.empty():
        items.append(queue.get_nowait())
    return items


CREATOR = """
queue = qmill.Queue(maxsize=1)
if hear() == "full":
    queue.put("there")
tell(queue)
hear()
"""


def created_elsewhere(start_program, state="empty"):
    """Return a program that has made a queue, and a handle to it."""
    creator = start_program(CREATOR)
    creator.tell(state)
    return creator, creator.hear()


def ends_well(creator):
    creator.tell("end")
    creator.finish()
