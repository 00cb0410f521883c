"""What a queue does, whatever carries it and whoever made it."""

from __future__ import annotations

import pickle
import queue as stdlib
import threading
from functools import partial

import pytest
from conformance_children import Box, Unpicklable, Unrebuildable
from conformance_support import CALLS, LIMIT_S, NOT_WAITING, Call, blocked

import qmill

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


# -- waiting --------------------------------------------------------------------------------------


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


# -- several at once ------------------------------------------------------------------------------


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


# -- task_done and join ---------------------------------------------------------------------------


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


# -- kind="thread" --------------------------------------------------------------------------------


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


# -- what cannot be right -------------------------------------------------------------------------

WAITING_METHODS = {
    "get": lambda queue, timeout: queue.get(timeout=timeout),
    "peek": lambda queue, timeout: queue.peek(timeout=timeout),
    "put": lambda queue, timeout: queue.put(1, timeout=timeout),
    "put_many": lambda queue, timeout: queue.put_many([1], timeout=timeout),
    "get_many": lambda queue, timeout: queue.get_many(1, timeout=timeout),
}


@pytest.mark.parametrize("method", WAITING_METHODS)
def test_a_negative_timeout_is_named(queue, method):
    for timeout in (-1, -0.001, float("-inf"), float("nan")):
        with pytest.raises(ValueError, match=rf"timeout.*{timeout!r}"):
            WAITING_METHODS[method](queue, timeout)
    assert queue.empty()


@pytest.mark.parametrize("method", WAITING_METHODS)
def test_a_timeout_that_is_no_number_is_named(queue, method):
    for timeout in ("soon", "1", b"1", [], 1j):
        with pytest.raises(TypeError) as caught:
            WAITING_METHODS[method](queue, timeout)
        assert "timeout" in str(caught.value)
        assert repr(timeout) in str(caught.value)
    assert queue.empty()


@pytest.mark.parametrize("max_items", [0, -1])
def test_a_max_items_out_of_range_is_named(queue, max_items):
    queue.put(1)
    with pytest.raises(ValueError, match=f"max_items.*{max_items}"):
        queue.get_many(max_items)
    assert queue.qsize() == 1


@pytest.mark.parametrize("max_items", ["3", 1.0, None, True], ids=repr)
def test_a_max_items_that_is_no_int_is_named(queue, max_items):
    queue.put(1)
    with pytest.raises(TypeError, match=f"max_items.*{max_items!r}"):
        queue.get_many(max_items)
    assert queue.qsize() == 1


KINDS = ["thread", "process"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("maxsize", ["3", 1.5, True, [2]], ids=repr)
def test_a_maxsize_that_is_no_int_is_named(kind, maxsize):
    with pytest.raises(TypeError) as caught:
        qmill.Queue(maxsize, kind=kind)
    assert "maxsize" in str(caught.value)
    assert repr(maxsize) in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("maxsize", [2**63, 2**64, 10**30], ids=repr)
def test_a_maxsize_beyond_all_memory_is_named(kind, maxsize):
    with pytest.raises(ValueError, match=f"maxsize.*{maxsize}"):
        qmill.Queue(maxsize, kind=kind)


@pytest.mark.parametrize("kind", ["fibre", "", None, 3, ["thread"]], ids=repr)
def test_an_unknown_kind_is_named_with_what_is_accepted(kind):
    with pytest.raises(ValueError) as caught:
        qmill.Queue(kind=kind)
    for word in ("kind", repr(kind), "'process'", "'thread'"):
        assert word in str(caught.value)


BAD_NAMES = {
    "slash": "a/b",
    "nul": "a\0b",
    "empty": "",
    "too long": "n" * 201,
    "too many bytes": "ü" * 101,
    "here": ".",
    "above": "..",
}


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
def test_a_bad_name_is_named(process_transport, name):
    with pytest.raises(ValueError, match="name") as caught:
        qmill.Queue(name=name)
    assert repr(name)[:30] in str(caught.value)


@pytest.mark.parametrize("name", [3, b"orders", ["orders"]], ids=repr)
def test_a_name_that_is_no_str_is_named(process_transport, name):
    with pytest.raises(TypeError) as caught:
        qmill.Queue(name=name)
    assert "name" in str(caught.value)
    assert repr(name) in str(caught.value)


def test_only_a_named_queue_can_be_persistent(process_transport):
    with pytest.raises(ValueError, match=r"persistent.*name|name.*persistent"):
        qmill.Queue(persistent=True)


def test_an_unknown_transport_is_named(monkeypatch):
    monkeypatch.setenv("QMILL_TRANSPORT", "pigeon")
    with pytest.raises(qmill.NotSupported, match=r"QMILL_TRANSPORT.*pigeon"):
        qmill.Queue()
