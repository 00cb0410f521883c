"""Order and contents; peek and iteration."""

from __future__ import annotations

import pytest
from conformance_children import Box
from conformance_support import Call, blocked

from .filling import fill

# -- order and contents ---------------------------------------------------------------------------


def test_objects_come_out_in_the_order_they_went_in(queue):
    for number in range(100):
        queue.put(number)
    assert [queue.get() for _ in range(100)] == list(range(100))


def test_put_nowait_and_get_nowait(queue):
    queue.put_nowait("first")
    queue.put_nowait("second")
    assert (queue.get_nowait(), queue.get_nowait()) == ("first", "second")


@pytest.mark.parametrize(
    "item",
    [
        None,
        False,
        0,
        -(2**70),
        1.5,
        "",
        "\udcff",
        b"",
        [],
        {},
        (),
        {1: [("a",), {b"b"}]},
        Exception,
    ],
    ids=repr,
)
def test_what_you_put_is_what_you_get(queue, item):
    queue.put(item)
    got = queue.get()
    assert got == item
    assert type(got) is type(item)


def test_exceptions_travel_as_objects(queue):
    queue.put(KeyError("a key"))
    got = queue.get()
    assert type(got) is KeyError
    assert got.args == ("a key",)


def test_lambdas_and_closures_travel(queue):
    offset = 40
    queue.put(lambda number: number + offset)
    assert queue.get()(2) == 42


def test_instances_keep_their_class(queue):
    queue.put(Box([1, 2]))
    got = queue.get()
    assert type(got) is Box
    assert got.content == [1, 2]


def test_a_large_object_travels(queue):
    item = bytes(range(256)) * 20_000
    queue.put(item)
    assert queue.get() == item


def test_threads_get_each_item_exactly_once(make_queue):
    queue = make_queue(maxsize=3)
    takers = [Call(list, queue) for _ in range(3)]
    putters = [Call(fill_one_by_one, queue, range(start, start + 50)) for start in (0, 100, 200)]
    for putter in putters:
        putter.result()
    queue.shutdown()
    taken = [taker.result() for taker in takers]
    assert sorted(sum(taken, [])) == [*range(50), *range(100, 150), *range(200, 250)]
    for items in taken:
        for start in (0, 100, 200):
            of_one_putter = [item for item in items if start <= item < start + 100]
            assert of_one_putter == sorted(of_one_putter)


def fill_one_by_one(queue, items):
    for item in items:
        queue.put(item)


# -- peek -----------------------------------------------------------------------------------------


def test_peek_shows_what_get_returns_and_leaves_it(queue):
    fill(queue, ["first", "second"])
    assert [queue.peek() for _ in range(3)] == ["first"] * 3
    assert queue.qsize() == 2
    assert queue.get() == "first"
    assert queue.peek() == "second"


def test_peek_leaves_no_room_in_a_full_queue(make_queue):
    queue = fill(make_queue(maxsize=1), [1])
    queue.peek()
    assert queue.full()


def test_each_peek_between_processes_gives_a_copy(process_queue):
    process_queue.put(["mutable"])
    process_queue.peek().append("changed")
    assert process_queue.peek() == ["mutable"]
    assert process_queue.get() == ["mutable"]


def test_a_put_wakes_all_peekers(queue):
    waiting = [blocked(queue.peek), blocked(queue.peek)]
    queue.put("seen by all")
    assert [call.result() for call in waiting] == ["seen by all"] * 2
    assert queue.get() == "seen by all"


def test_a_getter_does_not_wait_behind_a_peeker(queue):
    peeker, getter = blocked(queue.peek), blocked(queue.get)
    queue.put("one")
    assert getter.result() == "one"
    queue.put("two")
    assert peeker.result() in ("one", "two")  # whichever it found


def test_who_waits_in_front_of_a_getter_sees_what_it_gets(thread_queue):
    waiting = [blocked(thread_queue.peek), blocked(thread_queue.peek), blocked(thread_queue.get)]
    thread_queue.put("seen by all")
    assert [call.result() for call in waiting] == ["seen by all"] * 3
    assert thread_queue.empty()


# -- iteration ------------------------------------------------------------------------------------


def test_iteration_goes_on_until_shut_down_and_empty(queue):
    fill(queue, [1, 2, 3])
    queue.shutdown()
    assert list(queue) == [1, 2, 3]


def test_iteration_waits_for_more(queue):
    waiting = blocked(list, queue)
    fill(queue, ["late", "later"])
    queue.shutdown()
    assert waiting.result() == ["late", "later"]


def test_iteration_can_be_left_and_taken_up_again(queue):
    fill(queue, [1, 2, 3])
    queue.shutdown()
    assert next(iter(queue)) == 1
    assert list(queue) == [2, 3]
