"""`task_done` and `join`."""

from __future__ import annotations

import pytest
from conformance_support import blocked

from .filling import fill


def test_join_of_an_unused_queue_returns(queue):
    queue.join()


def test_join_returns_when_all_is_done(queue):
    fill(queue, [1, 2])
    waiting = blocked(queue.join)
    queue.get()
    queue.task_done()
    queue.get()
    assert not waiting.returned()
    queue.task_done()
    waiting.result()


def test_join_waits_for_what_was_taken_but_not_done(queue):
    queue.put(1)
    queue.get()
    waiting = blocked(queue.join)
    queue.task_done()
    waiting.result()


def test_several_threads_join_at_once(queue):
    queue.put(1)
    waiting = [blocked(queue.join) for _ in range(3)]
    queue.get()
    queue.task_done()
    for call in waiting:
        call.result()


def test_join_can_be_used_again(queue):
    for _ in range(3):
        queue.put(1)
        queue.get()
        queue.task_done()
        queue.join()


def test_task_done_without_a_task_is_an_error(queue):
    with pytest.raises(ValueError, match="task_done"):
        queue.task_done()


def test_task_done_once_too_often_is_an_error(queue):
    queue.put(1)
    queue.get()
    queue.task_done()
    with pytest.raises(ValueError, match="task_done"):
        queue.task_done()
    assert queue.statistics().done == 1


def test_task_done_may_be_said_of_what_is_not_taken_yet(queue):
    queue.put(1)
    queue.task_done()  # as in the standard library
    queue.join()
    with pytest.raises(ValueError, match="task_done"):
        queue.task_done()
    assert queue.get_nowait() == 1
