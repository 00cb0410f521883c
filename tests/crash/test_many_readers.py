"""Loops over one queue by the thousand, as a server that keeps a loop for each of its clients."""

from __future__ import annotations

import pytest

import qmill

NUM_LOOPS = 10_000


def begin_loops(queue, num_loops):
    """Begin loops over the queue, each with one message in hand, and return them."""
    loops = []
    for number in range(num_loops):
        loop = iter(queue)
        assert next(loop) == number
        loops.append(loop)
    return loops


@pytest.mark.parametrize("transport", ["shared", "portable"])
def test_ten_thousand_loops_at_once(monkeypatch, transport):
    if transport == "shared" and not qmill.core_info().core:
        pytest.skip("needs the native core")
    monkeypatch.setenv("QMILL_TRANSPORT", transport)
    queue = qmill.Queue()
    for number in range(NUM_LOOPS + 2):
        queue.put(number)
    loops = begin_loops(queue, NUM_LOOPS)
    assert queue.statistics().leased == NUM_LOOPS
    assert queue.get() == NUM_LOOPS
    del loops
    assert next(iter(queue)) == NUM_LOOPS + 1
    assert queue.statistics().done == NUM_LOOPS + 1, "`get` leaves that to `task_done`"


def test_a_loop_that_is_one_too_many_is_refused_alone(monkeypatch):
    if not qmill.core_info().core:
        pytest.skip("needs the native core")
    monkeypatch.setenv("QMILL_TRANSPORT", "shared")
    queue = qmill.Queue()
    limit = 16_383 - 1  # the process itself takes one place
    for number in range(limit + 2):
        queue.put(number)
    loops = begin_loops(queue, limit)
    with pytest.raises(OSError, match="takes no more until one of them ends"):
        next(iter(queue))
    assert queue.get() == limit, "the refused loop took nothing, and other calls go on"
    del loops[0]
    assert next(iter(queue)) == limit + 1
