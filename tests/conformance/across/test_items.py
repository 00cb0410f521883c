"""Items that travel between processes, and those that cannot."""

from __future__ import annotations

import os
import pickle
import threading

import conformance_children as children
import numpy
import pytest
from conformance_children import Box, Unmakeable, Unpicklable, Unrebuildable
from conformance_support import blocked

import qmill

from .creators import drain


@pytest.mark.parametrize("size", [5_000_000, 20_000_000], ids="{:,} bytes".format)
def test_large_bytes_travel(start, own_queue, size):
    item = os.urandom(1000) * (size // 1000)
    start(children.put_each, own_queue, [item]).result()
    assert own_queue.get_nowait() == item


def test_large_bytes_travel_to_another_process_and_back(start, make_own_queue):
    inbox, outbox = make_own_queue(), make_own_queue()
    item = os.urandom(1000) * 5000
    inbox.put_many([item, item])
    inbox.shutdown()
    start(children.pass_on, inbox, outbox).result()
    assert drain(outbox) == [item, item]


def test_numpy_arrays_travel(start, make_own_queue):
    inbox, outbox = make_own_queue(), make_own_queue()
    arrays = [
        numpy.arange(1_000_000, dtype=float).reshape(1000, 1000),
        numpy.arange(12).reshape(3, 4)[:, ::2],
        numpy.empty((0, 3)),
        numpy.array(["ä", "bcd"]),
    ]
    inbox.put_many(arrays)
    inbox.shutdown()
    start(children.pass_on, inbox, outbox).result()
    for sent, got in zip(arrays, drain(outbox), strict=True):
        numpy.testing.assert_array_equal(sent, got)
        assert sent.dtype == got.dtype


def test_an_array_that_was_got_is_ones_own(process_queue):
    array = numpy.zeros(100_000)
    process_queue.put(array)
    process_queue.peek()[:] = 1
    got = process_queue.get()
    got += 2
    assert (array == 0).all()
    assert (got == 2).all()


def test_an_object_is_serialised_by_the_put(process_queue):
    item = ["as it was"]
    array = numpy.zeros(100_000)
    process_queue.put((item, array))
    item.append("changed")
    array[:] = 1
    got_item, got_array = process_queue.get()
    assert got_item == ["as it was"]
    assert not got_array.any()


def test_an_object_is_serialised_before_put_waits(make_process_queue):
    queue = make_process_queue(maxsize=1)
    queue.put("first")
    item = ["as it was"]
    waiting = blocked(queue.put, item)
    item.append("changed")
    assert queue.get() == "first"
    waiting.result()
    assert queue.get() == ["as it was"]


UNPICKLABLE = {
    "a lock": (threading.Lock, ["lock"]),
    "in a dict": (lambda: {"outer": {"guard": threading.Lock()}}, ["outer", "guard", "lock"]),
    "in a list": (lambda: ["a", ["b", threading.Lock()]], ["[1][1]", "lock"]),
    "in an attribute": (
        lambda: Box({"jobs": [Box(threading.Lock())]}),
        [".content", "jobs", "[0]", "lock"],
    ),
    "in a closure": (lambda: closure_of(threading.Lock()), ["held_back", "lock"]),
    "by its own refusal": (lambda: [Unpicklable()], ["[0]", "Unpicklable", "refused to go"]),
}


def closure_of(held_back):
    return lambda: held_back


@pytest.mark.parametrize(("make", "words"), UNPICKLABLE.values(), ids=UNPICKLABLE)
def test_what_cannot_be_pickled_raises_from_put(process_queue, make, words):
    """PAINS 6: an item that cannot be pickled vanishes or hangs."""
    with pytest.raises(qmill.SerializationError) as caught:
        process_queue.put(make())
    assert isinstance(caught.value, pickle.PicklingError)
    for word in words:
        assert word in str(caught.value)
    assert process_queue.empty()
    assert process_queue.statistics().put == 0
    process_queue.put("the queue goes on")
    assert process_queue.get_nowait() == "the queue goes on"


def test_put_refuses_what_cannot_be_pickled_without_waiting_for_room(make_process_queue):
    """PAINS 6: an item that cannot be pickled vanishes or hangs."""
    queue = make_process_queue(maxsize=1)
    queue.put("full")
    with pytest.raises(qmill.SerializationError):
        queue.put(threading.Lock())


def test_what_cannot_be_unpickled_raises_from_that_get_only(process_queue):
    """PAINS 6: an item that cannot be pickled vanishes or hangs."""
    process_queue.put_many(["before", Unrebuildable(), "after"])
    assert process_queue.get() == "before"
    with pytest.raises(qmill.SerializationError, match="Unrebuildable.*refused to come back"):
        process_queue.get()
    assert process_queue.get() == "after"


def test_the_type_of_what_cannot_be_unpickled_is_named_even_if_a_function_makes_it(process_queue):
    """PAINS 6: an item that cannot be pickled vanishes or hangs."""
    process_queue.put(Unmakeable())
    with pytest.raises(qmill.SerializationError, match="Unmakeable"):
        process_queue.get()


def test_a_class_that_the_reader_lacks_is_named(start, own_queue):
    """PAINS 6: an item that cannot be pickled vanishes or hangs."""
    start(children.put_a_stranger, own_queue).result()
    own_queue.put("after")
    with pytest.raises(qmill.SerializationError, match=r"nowhere_to_be_found\.Stranger"):
        own_queue.get()
    assert own_queue.get() == "after"


def test_what_cannot_be_unpickled_was_taken(process_queue):
    process_queue.put(Unrebuildable())
    with pytest.raises(qmill.SerializationError):
        process_queue.get()
    assert process_queue.empty()
    assert process_queue.statistics().taken == 1
    process_queue.task_done()
    process_queue.join()


def test_peeking_at_what_cannot_be_unpickled_leaves_it(process_queue):
    process_queue.put(Unrebuildable())
    for _ in range(2):
        with pytest.raises(qmill.SerializationError, match="Unrebuildable"):
            process_queue.peek()
    assert process_queue.qsize() == 1


def test_get_many_ends_before_what_cannot_be_unpickled(process_queue):
    process_queue.put_many([1, 2, Unrebuildable(), 3])
    assert process_queue.get_many(10) == [1, 2]
    with pytest.raises(qmill.SerializationError, match="Unrebuildable"):
        process_queue.get_many(10)
    assert process_queue.get_many(10) == [3]


def test_what_get_many_leaves_can_be_taken_after_shutdown(process_queue):
    process_queue.put_many([1, Unrebuildable(), 3])
    process_queue.shutdown()
    assert process_queue.get_many(10) == [1]
    with pytest.raises(qmill.SerializationError):
        process_queue.get()
    assert list(process_queue) == [3]
    counts = process_queue.statistics()
    assert (counts.put, counts.taken, counts.size) == (3, 3, 0)


def test_get_after_get_many_meets_what_cannot_be_unpickled(process_queue):
    process_queue.put_many([1, Unrebuildable(), 3])
    assert process_queue.get_many(10) == [1]
    with pytest.raises(qmill.SerializationError, match="Unrebuildable"):
        process_queue.get()
    assert process_queue.get() == 3
