"""Queues of `kind="thread"`."""

from __future__ import annotations

import pickle
import threading

import pytest
from conformance_children import Box, Unpicklable, Unrebuildable

import qmill


@pytest.mark.parametrize(
    "item",
    [threading.Lock(), [], Unpicklable(), Unrebuildable()],
    ids=["lock", "list", "unpicklable", "unrebuildable"],
)
def test_a_thread_queue_shares_the_very_object(thread_queue, item):
    thread_queue.put(item)
    assert thread_queue.peek() is item
    assert thread_queue.get() is item


def test_put_many_and_get_many_of_a_thread_queue_share_the_very_objects(thread_queue):
    items = [object(), object()]
    thread_queue.put_many(items)
    assert [id(item) for item in thread_queue.get_many(2)] == [id(item) for item in items]


def test_a_thread_queue_keeps_no_object_that_was_taken(thread_queue):
    import weakref

    item = Box(1)
    gone = weakref.ref(item)
    thread_queue.put(item)
    thread_queue.peek()
    thread_queue.get()
    del item
    assert gone() is None


def test_a_thread_queue_cannot_be_pickled(thread_queue):
    with pytest.raises(TypeError, match="thread"):
        pickle.dumps(thread_queue)


@pytest.mark.parametrize("wrap", [lambda q: q, lambda q: [{"inner": q}], Box])
def test_a_thread_queue_cannot_be_sent_over_a_process_queue(thread_queue, process_queue, wrap):
    with pytest.raises(TypeError, match="thread"):
        process_queue.put(wrap(thread_queue))
    assert process_queue.empty()


@pytest.mark.parametrize("extra", [{"name": "orders"}, {"persistent": True}], ids=str)
def test_a_thread_queue_has_no_name(extra):
    with pytest.raises(ValueError, match=f"thread.*{next(iter(extra))}"):
        qmill.Queue(kind="thread", **extra)
