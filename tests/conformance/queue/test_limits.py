"""Limits and counts, and another maxsize."""

from __future__ import annotations

from functools import partial

import pytest
from conformance_support import LIMIT_S, Call, blocked

import qmill

from .filling import drain, fill

# -- limits and counts ----------------------------------------------------------------------------


@pytest.mark.parametrize("maxsize", [0, -1, -3])
def test_no_maxsize_is_no_limit(make_queue, maxsize):
    queue = fill(make_queue(maxsize=maxsize), range(1000))
    assert not queue.full()
    assert queue.maxsize == 0
    assert queue.statistics().maxsize == 0
    assert queue.qsize() == 1000


def test_counts_are_exact_after_each_call(make_queue):
    """PAINS 11: `Empty` from a queue that is not; no `qsize` on macOS."""
    queue = make_queue(maxsize=2)
    counts = [(queue.qsize(), queue.empty(), queue.full())]
    for step in (partial(queue.put, 1), partial(queue.put, 2), queue.get, queue.get):
        step()
        counts.append((queue.qsize(), queue.empty(), queue.full()))
    assert counts == [
        (0, True, False),
        (1, False, False),
        (2, False, True),
        (1, False, False),
        (0, True, False),
    ]


def test_no_empty_from_a_queue_that_is_not(queue):
    """PAINS 11: `Empty` from a queue that is not; no `qsize` on macOS."""
    for number in range(200):
        queue.put(number)
        assert queue.get_nowait() == number


def test_a_queue_knows_its_maxsize_and_that_it_has_no_name(make_queue):
    queue = make_queue(maxsize=7)
    assert (queue.maxsize, queue.name) == (7, None)


def test_statistics_tell_all_counts(make_queue):
    queue = fill(make_queue(maxsize=9), ["a", "b", "c"])
    queue.get()
    queue.get()
    queue.task_done()
    assert queue.statistics()._asdict() == {
        "size": 1,
        "leased": 0,
        "unfinished": 2,
        "put": 3,
        "taken": 2,
        "done": 1,
        "lost": 0,
        "redelivered": 0,
        "poisoned": 0,
        "maxsize": 9,
    }


def test_looking_does_not_count_as_taking(queue):
    fill(queue, [1])
    queue.peek()
    assert queue.statistics().taken == 0


def test_unfinished_tasks_count_down_to_the_end_of_join(queue):
    assert queue.unfinished_tasks == 0
    fill(queue, "abc")
    assert queue.unfinished_tasks == 3
    queue.get()
    assert queue.unfinished_tasks == 3
    queue.task_done()
    assert queue.unfinished_tasks == 2
    queue.shutdown(immediate=True)
    assert queue.unfinished_tasks == 0
    queue.join()


@pytest.mark.parametrize("immediate", [False, True])
def test_a_queue_tells_that_it_is_shut_down(queue, immediate):
    queue.put(1)
    assert queue.is_shutdown is False
    queue.shutdown(immediate)
    assert queue.is_shutdown is True
    queue.shutdown()
    assert queue.is_shutdown is True


@pytest.mark.parametrize("attribute", ["is_shutdown", "unfinished_tasks"])
def test_what_only_tells_cannot_be_set(queue, attribute):
    with pytest.raises(AttributeError):
        setattr(queue, attribute, 1)


# -- another maxsize ------------------------------------------------------------------------------


def test_a_maxsize_that_is_set_is_the_limit(make_queue):
    queue = fill(make_queue(maxsize=2), [0, 1])
    queue.maxsize = 3
    assert (queue.maxsize, queue.statistics().maxsize, queue.full()) == (3, 3, False)
    queue.put_nowait(2)
    assert queue.full()
    with pytest.raises(qmill.Full):
        queue.put_nowait(3)
    assert drain(queue) == [0, 1, 2]


def test_a_larger_maxsize_lets_in_those_that_wait_and_no_more(make_queue):
    queue = fill(make_queue(maxsize=1), [0])
    waiting = [blocked(queue.put, number) for number in (1, 2, 3)]
    queue.maxsize = 3
    for _ in range(2):
        assert queue.get(timeout=LIMIT_S) in range(4)
    for call in waiting:
        call.result()
    assert queue.qsize() == 2


def test_a_batch_that_waits_goes_on_with_a_larger_maxsize(make_queue):
    queue = make_queue(maxsize=2)
    waiting = blocked(queue.put_many, range(7))
    queue.maxsize = 5
    assert not waiting.returned()
    queue.maxsize = 7
    assert waiting.result() == 7
    assert drain(queue) == list(range(7))


@pytest.mark.parametrize("unbounded", [0, -1, -(2**70)])
def test_no_limit_any_more_lets_in_all_that_wait(make_queue, unbounded):
    queue = fill(make_queue(maxsize=1), [0])
    waiting = [blocked(queue.put, 1), blocked(queue.put_many, range(2, 300))]
    queue.maxsize = unbounded
    assert [call.result() for call in waiting] == [None, 298]
    assert (queue.maxsize, queue.full(), queue.qsize()) == (0, False, 300)


def test_a_smaller_maxsize_removes_nothing_and_lets_in_no_more(make_queue):
    queue = fill(make_queue(maxsize=4), range(4))
    waiting = blocked(queue.put, 4)
    queue.maxsize = 2
    assert queue.qsize() == 4
    for number in range(2):
        assert queue.get() == number
        assert queue.full()
        waiting.wait_until_blocked()
    with pytest.raises(qmill.Full):
        queue.put(9, timeout=0.01)
    assert queue.get() == 2
    waiting.result()
    assert queue.full()
    assert drain(queue) == [3, 4]


def test_a_limit_where_there_was_none(make_queue):
    queue = fill(make_queue(), range(3))
    queue.maxsize = 2
    assert queue.full()
    with pytest.raises(qmill.Full):
        queue.put_nowait(3)
    waiting = blocked(queue.put, 3)
    assert queue.get_many(2) == [0, 1]
    waiting.result()
    assert drain(queue) == [2, 3]


def test_free_memory_can_be_limited_and_given_back(make_queue):
    queue = make_queue()
    assert queue.max_idle_memory is None
    fill(queue, [b"x" * 100_000, "stays"])
    assert queue.get() == b"x" * 100_000
    assert queue.trim() >= 0
    assert queue.trim() == 0
    queue.max_idle_memory = 0
    fill(queue, [b"y" * 100_000])
    assert drain(queue) == ["stays", b"y" * 100_000]
    assert queue.trim() == 0
    queue.max_idle_memory = None
    assert queue.max_idle_memory is None
    for wrong, error in ((-1, ValueError), (1.5, TypeError), ("1", TypeError), (True, TypeError)):
        with pytest.raises(error, match="max_idle_memory must be"):
            queue.max_idle_memory = wrong
    queue.close()
    with pytest.raises(ValueError, match="closed"):
        queue.trim()


def test_a_limit_that_comes_and_goes_stops_nobody_for_good(make_queue):
    queue = make_queue(maxsize=1)
    putters = [Call(queue.put_many, range(200)) for _ in range(2)]
    taken = []
    while len(taken) < 400:
        queue.maxsize = len(taken) % 4
        taken += queue.get_many(3, timeout=LIMIT_S)
    assert [putter.result() for putter in putters] == [200, 200]
    assert sorted(taken) == sorted([*range(200), *range(200)])


def test_readers_under_leases_make_room_by_the_new_maxsize(make_queue):
    queue = fill(make_queue(), range(3))
    reader = queue._reader()
    lease, _ = reader.take(None)
    queue.maxsize = 2
    waiting = blocked(queue.put, 3)
    lease, item = reader.take(lease)
    assert item == 1
    waiting.result()
    reader.close()


@pytest.mark.parametrize("maxsize", ["3", 1.5, None, True, [2]], ids=repr)
def test_setting_a_maxsize_that_is_no_int_changes_nothing(make_queue, maxsize):
    queue = make_queue(maxsize=3)
    with pytest.raises(TypeError, match="maxsize") as caught:
        queue.maxsize = maxsize
    assert repr(maxsize) in str(caught.value)
    assert queue.maxsize == 3


def test_the_largest_maxsize_is_a_limit_and_a_larger_one_is_refused(make_queue):
    queue = make_queue(maxsize=2**63 - 1)
    queue.put_nowait(1)
    with pytest.raises(ValueError, match="maxsize"):
        queue.maxsize = 2**63
    assert queue.maxsize == 2**63 - 1
    queue.put_nowait(2)
