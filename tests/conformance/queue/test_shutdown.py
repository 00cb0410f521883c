"""`shutdown` and `close`."""

from __future__ import annotations

import pytest
from conformance_support import CALLS, LIMIT_S, blocked

import qmill

from .filling import fill

# -- shutdown -------------------------------------------------------------------------------------


PUTS = {
    "put": lambda queue: queue.put("item"),
    "put with timeout": lambda queue: queue.put("item", timeout=LIMIT_S),
    "put_nowait": lambda queue: queue.put_nowait("item"),
    "put_many": lambda queue: queue.put_many(["item"]),
}
GETS = {
    "get": lambda queue: queue.get(),
    "get with timeout": lambda queue: queue.get(timeout=LIMIT_S),
    "get_nowait": lambda queue: queue.get_nowait(),
    "get_many": lambda queue: queue.get_many(2),
    "peek": lambda queue: queue.peek(),
    "peek without blocking": lambda queue: queue.peek(block=False),
}
each_put = pytest.mark.parametrize("put", PUTS.values(), ids=PUTS)
each_get = pytest.mark.parametrize("get", GETS.values(), ids=GETS)


@each_put
def test_a_queue_that_is_shut_down_refuses_puts(make_queue, put):
    """PAINS 12: multiprocessing's queues have no `shutdown()`."""
    queue = make_queue(maxsize=5)
    queue.shutdown()
    with pytest.raises(qmill.ShutDown):
        put(queue)
    assert queue.empty()


@each_put
def test_a_full_queue_that_is_shut_down_says_so(make_queue, put):
    queue = fill(make_queue(maxsize=1), ["there"])
    queue.shutdown()
    with pytest.raises(qmill.ShutDown):
        put(queue)


@each_get
def test_what_is_left_can_be_taken_after_shutdown(queue, get):
    """PAINS 12: multiprocessing's queues have no `shutdown()`."""
    fill(queue, ["left", "over"])
    queue.shutdown()
    assert get(queue) in ("left", ["left", "over"])


@each_get
def test_a_queue_shut_down_and_empty_says_so(queue, get):
    """PAINS 12: multiprocessing's queues have no `shutdown()`."""
    fill(queue, ["left"])
    queue.shutdown()
    queue.get()
    with pytest.raises(qmill.ShutDown):
        get(queue)


@each_get
def test_immediate_shutdown_throws_away_what_waits(queue, get):
    fill(queue, [1, 2, 3])
    queue.shutdown(immediate=True)
    assert (queue.qsize(), queue.empty()) == (0, True)
    with pytest.raises(qmill.ShutDown):
        get(queue)


@pytest.mark.parametrize("immediate", [False, True])
@pytest.mark.parametrize("method", ["get", "peek"])
def test_shutdown_wakes_whoever_waits_for_an_object(queue, method, immediate):
    waiting = [blocked(getattr(queue, method)) for _ in range(2)]
    queue.shutdown(immediate)
    for call in waiting:
        with pytest.raises(qmill.ShutDown):
            call.result()


@pytest.mark.parametrize("immediate", [False, True])
def test_shutdown_wakes_blocked_putters(make_queue, immediate):
    queue = fill(make_queue(maxsize=1), ["there"])
    waiting = [blocked(queue.put, "more") for _ in range(2)]
    queue.shutdown(immediate=immediate)
    for call in waiting:
        with pytest.raises(qmill.ShutDown):
            call.result()
    assert queue.statistics().put == 1


def test_shutdown_wakes_iterations(queue):
    waiting = [blocked(list, queue) for _ in range(2)]
    queue.shutdown()
    assert [call.result() for call in waiting] == [[], []]


def test_shutdown_lets_put_many_tell_how_far_it_came(make_queue):
    queue = make_queue(maxsize=2)
    waiting = blocked(queue.put_many, range(5))
    queue.shutdown()
    assert waiting.result() == 2
    assert list(queue) == [0, 1]


def test_shutdown_of_put_many_that_put_nothing(make_queue):
    queue = fill(make_queue(maxsize=1), [0])
    waiting = blocked(queue.put_many, [1, 2])
    queue.shutdown()
    with pytest.raises(qmill.ShutDown):
        waiting.result()


def test_shutdown_leaves_joiners_waiting_for_the_tasks(queue):
    queue.put(1)
    waiting = blocked(queue.join)
    queue.shutdown()
    queue.get()
    assert not waiting.returned()
    queue.task_done()
    waiting.result()


def test_immediate_shutdown_releases_joiners(queue):
    fill(queue, [1, 2, 3])
    waiting = [blocked(queue.join) for _ in range(2)]
    queue.shutdown(immediate=True)
    for call in waiting:
        call.result()
    queue.join()


def test_immediate_shutdown_counts_what_it_throws_away_as_done(queue):
    fill(queue, [1, 2, 3])
    queue.shutdown(immediate=True)
    counts = queue.statistics()
    assert (counts.put, counts.taken, counts.done, counts.unfinished) == (3, 0, 3, 0)
    assert counts.lost == 0


def test_shutdown_twice_is_harmless_and_the_second_may_be_immediate(queue):
    fill(queue, [1, 2])
    queue.shutdown()
    queue.shutdown()
    assert queue.get() == 1
    queue.shutdown(immediate=True)
    assert queue.empty()
    queue.shutdown()
    with pytest.raises(qmill.ShutDown):
        queue.get()


# -- close, and what does nothing -----------------------------------------------------------------


def test_a_closed_handle_refuses_every_call(queue):
    queue.put("unread")
    queue.close()
    for call in CALLS.values():
        with pytest.raises(ValueError, match="is closed"):
            call(queue)


def test_close_twice_is_harmless(queue):
    queue.close()
    queue.close()


def test_a_closed_queue_has_a_repr(queue):
    queue.close()
    assert "Queue" in repr(queue)


def test_there_is_no_feeder_thread_to_join(queue):
    queue.put(1)
    assert queue.join_thread() is None
    assert queue.cancel_join_thread() is None
    assert queue.get_nowait() == 1


def test_a_nameless_queue_cannot_be_unlinked(queue):
    with pytest.raises(ValueError, match="name"):
        queue.unlink()
