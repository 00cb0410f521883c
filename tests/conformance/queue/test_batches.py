"""Several items in one call."""

from __future__ import annotations

import threading

import pytest
from conformance_support import LIMIT_S, blocked

import qmill

from .filling import drain, fill, not_waiting


def test_put_many_tells_how_many_and_keeps_their_order(queue):
    assert queue.put_many(["a", "b", "c"]) == 3
    assert drain(queue) == ["a", "b", "c"]


def test_put_many_of_nothing(queue):
    assert queue.put_many([]) == 0
    assert queue.empty()


def test_put_many_takes_a_generator(queue):
    assert queue.put_many(number**2 for number in range(4)) == 4
    assert drain(queue) == [0, 1, 4, 9]


@not_waiting
def test_put_many_puts_what_there_is_room_for(make_queue, how):
    queue = fill(make_queue(maxsize=3), [0])
    assert queue.put_many([1, 2, 3, 4], **how) == 2
    assert drain(queue) == [0, 1, 2]


@not_waiting
def test_put_many_into_a_full_queue_puts_none(make_queue, how):
    queue = fill(make_queue(maxsize=1), [0])
    assert queue.put_many([1, 2], **how) == 0
    assert drain(queue) == [0]


def test_put_many_waits_for_room_for_all(make_queue):
    queue = make_queue(maxsize=2)
    waiting = blocked(queue.put_many, range(7))
    assert [queue.get(timeout=LIMIT_S) for _ in range(7)] == list(range(7))
    assert waiting.result() == 7


def test_a_failing_generator_leaves_the_queue_as_it_was(queue):
    def broken():
        yield 1
        yield 2
        raise ArithmeticError("no third")

    queue.put(0)
    with pytest.raises(ArithmeticError, match="no third"):
        queue.put_many(broken())
    assert drain(queue) == [0]


def test_put_many_with_an_unpicklable_item_leaves_the_queue_as_it_was(process_queue):
    """PAINS 6: an item that cannot be pickled vanishes or hangs."""
    process_queue.put(0)
    with pytest.raises(qmill.SerializationError):
        process_queue.put_many([1, threading.Lock(), 3])
    assert process_queue.qsize() == 1
    assert drain(process_queue) == [0]


def test_put_many_of_a_non_iterable_is_a_type_error(queue):
    with pytest.raises(TypeError):
        queue.put_many(3)
    assert queue.empty()


def test_get_many_takes_what_is_there(queue):
    fill(queue, range(5))
    assert queue.get_many(3) == [0, 1, 2]
    assert queue.get_many(3) == [3, 4]


def test_get_many_waits_for_the_first_only(queue):
    waiting = blocked(queue.get_many, 10)
    queue.put("the first")
    assert waiting.result() == ["the first"]


def test_get_many_makes_room(make_queue):
    queue = fill(make_queue(maxsize=2), [1, 2])
    waiting = [blocked(queue.put, 3), blocked(queue.put, 3)]
    assert queue.get_many(2) == [1, 2]
    for call in waiting:
        call.result()
    assert drain(queue) == [3, 3]


def test_each_of_get_many_counts_as_a_task(queue):
    fill(queue, [1, 2])
    queue.get_many(2)
    queue.task_done()
    assert queue.statistics().unfinished == 1
    queue.task_done()
    queue.join()
