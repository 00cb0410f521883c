"""Fill a queue, and empty it."""

from __future__ import annotations

import pytest
from conformance_support import NOT_WAITING

not_waiting = pytest.mark.parametrize("how", NOT_WAITING, ids=str)


def fill(queue, items):
    assert queue.put_many(items) == len(items)
    return queue


def drain(queue):
    """Take everything that is there now."""
    items = []
    while not queue.empty():
        items.append(queue.get_nowait())
    return items
