"""A queue is a value that can be sent."""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor

import conformance_children as children
import pytest
from conformance_support import LIMIT_S, blocked

import qmill

from .creators import drain, get


def test_a_process_puts_and_this_one_gets(start, own_queue):
    start(children.put_each, own_queue, [1, "two", None]).result()
    assert drain(own_queue) == [1, "two", None]


def test_this_process_puts_and_another_gets(start, own_queue):
    own_queue.put_many([1, "two", None])
    own_queue.shutdown()
    assert start(children.take_all, own_queue).result() == [1, "two", None]


def test_two_other_processes_share_a_queue(start, process_queue):
    taker = start(children.take_all, process_queue)
    start(children.put_each, process_queue, range(20)).result()
    process_queue.shutdown()
    assert taker.result() == list(range(20))


def test_counts_are_exact_in_every_process(start, make_own_queue):
    """PAINS 11: `Empty` from a queue that is not; no `qsize` on macOS."""
    queue = make_own_queue(maxsize=2)
    queue.put(1)
    assert start(children.look, queue).result() == (1, False, False)
    start(children.put_each, queue, [2]).result()
    assert (queue.qsize(), queue.empty(), queue.full()) == (2, False, True)
    assert start(children.look, queue).result() == (2, False, True)


def test_what_was_put_is_there_at_once_for_others(start, own_queue):
    """PAINS 11: `Empty` from a queue that is not; no `qsize` on macOS."""
    for number in range(20):
        own_queue.put(number)
    own_queue.shutdown()
    assert start(children.use, own_queue, "get_many", 50).wait_for_result() == list(range(20))


def test_a_maxsize_that_is_set_here_lets_a_process_go_on(start, make_process_queue):
    queue = make_process_queue(maxsize=1)
    queue.put("there")
    putter = start(children.use, queue, "put", "more").wait_until_blocked()
    queue.maxsize = 2
    putter.result()
    assert [get(queue), get(queue)] == ["there", "more"]


def test_a_maxsize_that_is_set_by_a_process_lets_others_go_on(start, make_process_queue):
    queue = make_process_queue(maxsize=1)
    queue.put("there")
    here = blocked(queue.put, "more")
    there = start(children.use, queue, "put_many", ["a", "b"]).wait_until_blocked()
    start(children.use, queue, "__setattr__", "maxsize", 0).wait_for_result()
    here.result()
    assert there.result() == 2
    assert (queue.maxsize, queue.qsize()) == (0, 4)


def test_every_process_keeps_to_a_smaller_maxsize(start, make_process_queue):
    queue = make_process_queue(maxsize=3)
    queue.put_many([1, 2])
    start(children.use, queue, "__setattr__", "maxsize", 2).wait_for_result()
    assert (queue.maxsize, queue.full()) == (2, True)
    assert start(children.use, queue, "put_many", [3], False).wait_for_result() == 0
    same = pickle.loads(pickle.dumps(queue))
    assert (same.maxsize, same.full()) == (2, True)


def test_a_process_learns_that_the_queue_is_shut_down_and_what_is_unfinished(start, process_queue):
    process_queue.put_many("ab")
    other = start(children.use, process_queue, "__getattribute__", "unfinished_tasks")
    assert other.wait_for_result() == 2
    start(children.use, process_queue, "shutdown").wait_for_result()
    assert (process_queue.is_shutdown, process_queue.unfinished_tasks) == (True, 2)


def test_queue_as_pool_argument(context, own_queue):
    """PAINS 13: "should only be shared through inheritance"."""
    with children.pool_of(context, 2) as pool:
        pool.map(children.put_one, [(own_queue, number) for number in range(8)])
    assert sorted(drain(own_queue)) == list(range(8))


def test_pool_workers_read_from_a_queue(context, own_queue):
    """PAINS 13: "should only be shared through inheritance"."""
    own_queue.put_many(range(6))
    with children.pool_of(context, 2) as pool:
        assert sorted(pool.map(children.get_one, [own_queue] * 6)) == list(range(6))


def test_queue_as_executor_argument(context, own_queue):
    """PAINS 13: "should only be shared through inheritance"."""
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        list(executor.map(children.put_one, [(own_queue, number) for number in range(8)]))
        assert executor.submit(children.get_one, own_queue).result(LIMIT_S) in range(8)
    assert own_queue.qsize() == 7


def test_queue_inside_a_message_on_another_queue(start, make_own_queue):
    """PAINS 13: "should only be shared through inheritance"."""
    inbox, reply = make_own_queue(), make_own_queue()
    child = start(children.answer, inbox)
    inbox.put({"question": "are you there", "reply": reply})
    assert get(reply) == "ARE YOU THERE"
    child.result()


def test_a_queue_on_itself_is_the_same_queue(process_queue):
    process_queue.put(process_queue)
    process_queue.put("after it")
    same = process_queue.get()
    assert same.get() == "after it"


def test_a_handle_unpickled_in_the_same_process_is_the_same_queue(make_process_queue):
    queue = make_process_queue(maxsize=3)
    same = pickle.loads(pickle.dumps(queue))
    queue.put("one way")
    assert (same.qsize(), same.maxsize) == (1, 3)
    assert same.get() == "one way"
    same.put("the other")
    assert queue.get() == "the other"


def test_a_handle_can_be_handed_on(start_program, process_queue):
    program = start_program("tell(hear())")
    program.tell(process_queue)
    same = program.hear()
    program.finish()
    same.put("still the same")
    assert process_queue.get_nowait() == "still the same"


def test_plain_pickle_carries_a_queue_to_an_unrelated_program(start_program, process_queue):
    program = start_program("pickle.loads(hear()).put('hello')")
    program.tell(pickle.dumps(process_queue))
    assert get(process_queue) == "hello"
    program.finish()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_pickle_protocol_carries_a_queue(own_queue, protocol):
    pickle.loads(pickle.dumps(own_queue, protocol)).put(protocol)
    assert own_queue.get_nowait() == protocol


def test_each_item_reaches_exactly_one_consumer_in_its_producers_order(start, make_own_queue):
    queue = make_own_queue(maxsize=10)
    consumers = [start(children.take_all_and_do, queue) for _ in range(2)]
    producers = [
        start(children.put_each, queue, [(name, number) for number in range(100)])
        for name in ("a", "b")
    ]
    for producer in producers:
        producer.result()
    queue.join()
    queue.shutdown()
    taken = [consumer.result() for consumer in consumers]
    assert sorted(sum(taken, [])) == [(name, number) for name in "ab" for number in range(100)]
    for items in taken:
        for name in "ab":
            of_one_producer = [number for producer, number in items if producer == name]
            assert of_one_producer == sorted(of_one_producer)


def test_task_done_of_one_process_releases_join_in_another(start, process_queue):
    process_queue.put_many([1, 2])
    waiting = blocked(process_queue.join)
    process_queue.shutdown()
    start(children.take_all_and_do, process_queue).result()
    waiting.result()
    assert process_queue.statistics().lost == 0


def test_task_done_may_be_said_by_another_process_than_the_taker(start, process_queue):
    process_queue.put("item")
    taker = start(children.get_and_hold, process_queue)
    assert taker.hear() == "item"
    process_queue.task_done()
    process_queue.join()
    taker.tell("end")
    taker.result()
    assert process_queue.statistics().unfinished == 0


@pytest.mark.parametrize("immediate", [False, True])
@pytest.mark.parametrize("method", ["get", "peek"])
def test_shutdown_wakes_processes_that_wait(start, make_own_queue, method, immediate):
    """PAINS 12: multiprocessing's queues have no `shutdown()`."""
    queue = make_own_queue()
    waiting = start(children.use, queue, method).wait_until_blocked()
    queue.shutdown(immediate)
    with pytest.raises(qmill.ShutDown):
        waiting.result()


def test_shutdown_by_one_process_wakes_the_others(start, make_process_queue):
    """PAINS 12: multiprocessing's queues have no `shutdown()`."""
    queue = make_process_queue(maxsize=1)
    queue.put("there")
    putter = start(children.use, queue, "put", "more").wait_until_blocked()
    joiner = blocked(queue.join)
    assert start(children.use, queue, "shutdown", True).wait_for_result() is None
    with pytest.raises(qmill.ShutDown):
        putter.result()
    joiner.result()
