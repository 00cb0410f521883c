"""Calls that wait, and their timeouts."""

from __future__ import annotations

import queue as stdlib

import pytest
from conformance_support import LIMIT_S, Call, blocked

import qmill

from .filling import drain, fill, not_waiting


@not_waiting
@pytest.mark.parametrize("method", ["get", "peek"])
def test_an_empty_queue_raises_empty(queue, method, how):
    with pytest.raises(stdlib.Empty):
        getattr(queue, method)(**how)


@not_waiting
def test_get_many_of_an_empty_queue_raises_empty(queue, how):
    with pytest.raises(stdlib.Empty):
        queue.get_many(3, **how)


@not_waiting
def test_a_full_queue_raises_full(make_queue, how):
    queue = fill(make_queue(maxsize=2), [1, 2])
    with pytest.raises(stdlib.Full):
        queue.put(3, **how)
    assert drain(queue) == [1, 2]


@not_waiting
def test_what_need_not_wait_is_done_whatever_the_timeout(make_queue, how):
    queue = make_queue(maxsize=1)
    queue.put("there", **how)
    assert queue.peek(**how) == "there"
    assert queue.get(**how) == "there"
    assert queue.put_many(["again"], **how) == 1
    assert queue.get_many(5, **how) == ["again"]


def test_nowait_methods_raise_the_stdlib_errors(make_queue):
    queue = make_queue(maxsize=1)
    with pytest.raises(stdlib.Empty):
        queue.get_nowait()
    queue.put_nowait(1)
    with pytest.raises(stdlib.Full):
        queue.put_nowait(2)


def test_empty_and_full_are_the_stdlib_classes():
    assert qmill.Empty is stdlib.Empty
    assert qmill.Full is stdlib.Full


def test_shut_down_is_the_stdlib_class_where_there_is_one():
    assert qmill.ShutDown is getattr(stdlib, "ShutDown", qmill.ShutDown)


def test_block_and_timeout_may_be_given_by_position(make_queue):
    queue = make_queue(maxsize=1)
    queue.put(1, True, 1.0)
    with pytest.raises(stdlib.Full):
        queue.put(2, False, None)
    assert queue.peek(True, 1.0) == 1
    assert queue.get(True, 1.0) == 1
    with pytest.raises(stdlib.Empty):
        queue.get(False)
    with pytest.raises(stdlib.Empty):
        queue.get_many(1, True, 0)


LONG_WAITS = [None, 1e12, float("inf")]


@pytest.mark.parametrize("timeout", LONG_WAITS, ids=str)
@pytest.mark.parametrize("method", ["get", "peek"])
def test_put_wakes_whoever_waits_for_an_object(queue, method, timeout):
    waiting = blocked(getattr(queue, method), timeout=timeout)
    queue.put("come")
    assert waiting.result() == "come"


@pytest.mark.parametrize("timeout", LONG_WAITS, ids=str)
def test_get_wakes_a_blocked_put(make_queue, timeout):
    queue = fill(make_queue(maxsize=1), ["first"])
    waiting = blocked(queue.put, "second", timeout=timeout)
    assert queue.get() == "first"
    waiting.result()
    assert queue.get() == "second"


def test_each_put_wakes_one_getter(queue):
    waiting = [blocked(queue.get) for _ in range(3)]
    fill(queue, ["a", "b", "c"])
    assert sorted(call.result() for call in waiting) == ["a", "b", "c"]


def test_each_get_wakes_one_putter(make_queue):
    queue = fill(make_queue(maxsize=1), [0])
    waiting = [blocked(queue.put, number) for number in (1, 2, 3)]
    assert sorted(queue.get(timeout=LIMIT_S) for _ in range(4)) == [0, 1, 2, 3]
    for call in waiting:
        call.result()


def test_a_getter_whose_time_is_up_takes_nothing_later(queue):
    with pytest.raises(stdlib.Empty):
        queue.get(timeout=0.01)
    queue.put("for the next")
    assert queue.qsize() == 1
    assert queue.get_nowait() == "for the next"


def test_a_put_whose_time_is_up_puts_nothing_later(make_queue):
    queue = fill(make_queue(maxsize=1), ["there"])
    with pytest.raises(stdlib.Full):
        queue.put("too late", timeout=0.01)
    assert drain(queue) == ["there"]
    assert queue.statistics().put == 1


def test_a_blocked_get_leaves_the_other_calls_free(queue):
    waiting = blocked(queue.get)
    assert (queue.qsize(), queue.empty(), queue.full()) == (0, True, False)
    with pytest.raises(stdlib.Empty):
        queue.get_nowait()
    queue.put(1)
    assert waiting.result() == 1


def test_many_threads_of_one_process_wait_at_once(queue):
    waiting = [Call(queue.get) for _ in range(20)]
    for call in waiting:
        call.wait_until_blocked()
    fill(queue, range(20))
    assert sorted(call.result() for call in waiting) == list(range(20))
