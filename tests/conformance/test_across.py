"""What a queue does between processes: sent, shared, and whoever dies."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_all_start_methods

import conformance_children as children
import numpy
import pytest
from conformance_children import Box, Unmakeable, Unpicklable, Unrebuildable
from conformance_support import CALLS, LIMIT_S, Call, blocked

import qmill

# A forkserver's children die like spawned ones.
forked_and_fresh = pytest.mark.parametrize(
    "context",
    [method for method in ("fork", "spawn") if method in get_all_start_methods()],
    indirect=True,
)
each_death = pytest.mark.parametrize("how", children.DEATHS)


def get(queue):
    """Take what is on its way: a bound on the wait, so that a lost message fails the test."""
    return queue.get(timeout=LIMIT_S)


def drain(queue):
    """Take everything that is there now."""
    items = []
    while not queue.empty():
        items.append(queue.get_nowait())
    return items


# -- a queue is a value that can be sent ----------------------------------------------------------


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


# -- what travels ---------------------------------------------------------------------------------


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


# -- nobody's death hurts the others --------------------------------------------------------------


@each_death
@forked_and_fresh
def test_what_was_put_is_there_even_if_the_process_ends_on_the_next_line(start, process_queue, how):
    child = start(children.end_before_anything_else, process_queue, "last words", how)
    assert child.exitcode() == {"os._exit": 0, "SIGKILL": -signal.SIGKILL}[how]
    assert process_queue.get_nowait() == "last words"


@each_death
@forked_and_fresh
def test_a_large_object_is_there_even_if_the_process_ends_on_the_next_line(start, own_queue, how):
    item = b"last words" * 500_000
    start(children.end_before_anything_else, own_queue, item, how).exitcode()
    assert own_queue.get_nowait() == item


@pytest.mark.parametrize("method", ["get", "peek"])
@forked_and_fresh
def test_a_killed_reader_swallows_nothing(start, process_queue, method):
    """PAINS 1: a killed process held the queue's lock: everyone hangs."""
    start(children.use, process_queue, method).wait_until_blocked().kill()
    process_queue.put("kept")
    assert get(process_queue) == "kept"
    counts = process_queue.statistics()
    assert (counts.put, counts.taken, counts.lost) == (1, 1, 0)


@forked_and_fresh
@pytest.mark.parametrize("method", ["get", "peek"])
def test_what_a_reader_did_not_live_to_see_goes_back(start, process_queue, method):
    """PAINS 1: a killed process held the queue's lock: everyone hangs."""
    reader = start(children.use, process_queue, method).wait_until_blocked()
    reader.signal(signal.SIGSTOP)
    process_queue.put("on its way to the reader")
    process_queue.put("next")
    reader.kill()
    # The death is noticed in its own time, and the message goes to the front then.
    assert {get(process_queue) for _ in range(2)} == {"on its way to the reader", "next"}
    counts = process_queue.statistics()
    assert (counts.put, counts.taken, counts.lost) == (2, 2, 0)


@forked_and_fresh
def test_a_stopped_reader_keeps_nobody_else_waiting(start, process_queue):
    reader = start(children.use, process_queue, "get").wait_until_blocked()
    reader.signal(signal.SIGSTOP)
    item = b"more than a socket takes" * 200_000
    process_queue.put(item)
    process_queue.put("for others")
    # Whether the first one is for who waits longest is up to the transport.
    first = get(process_queue)
    reader.signal(signal.SIGCONT)
    assert [first, reader.result()] in ([item, "for others"], ["for others", item])


@forked_and_fresh
def test_a_killed_reader_does_not_keep_a_message_from_other_readers(start, process_queue):
    """PAINS 1: a killed process held the queue's lock: everyone hangs."""
    doomed = start(children.use, process_queue, "get").wait_until_blocked()
    other = start(children.use, process_queue, "get").wait_until_blocked()
    doomed.kill()
    process_queue.put("kept")
    assert other.result() == "kept"


@forked_and_fresh
def test_a_reader_killed_beside_its_forked_child_swallows_nothing(start, process_queue):
    """PAINS 1: a killed process held the queue's lock: everyone hangs."""
    doomed = start(children.get_beside_a_forked_process, process_queue).wait_until_blocked()
    doomed.kill()
    process_queue.put("kept")
    assert get(process_queue) == "kept"
    doomed.tell("its child may end")


@forked_and_fresh
def test_a_killed_writer_costs_nobody_anything(start, make_process_queue):
    """PAINS 1: a killed process held the queue's lock: everyone hangs."""
    queue = make_process_queue(maxsize=1)
    queue.put("first")
    start(children.use, queue, "put", "never returned").wait_until_blocked().kill()
    assert queue.get_nowait() == "first"
    waiting = Call(queue.put, "last")
    while (item := get(queue)) != "last":
        assert item == "never returned"  # whole or not at all
    waiting.result()
    assert queue.empty()


@forked_and_fresh
def test_a_killed_joiner_costs_nobody_anything(start, process_queue):
    """PAINS 1: a killed process held the queue's lock: everyone hangs."""
    process_queue.put("task")
    start(children.use, process_queue, "join").wait_until_blocked().kill()
    process_queue.get()
    process_queue.task_done()
    process_queue.join()


@each_death
@forked_and_fresh
def test_join_does_not_wait_for_the_tasks_of_the_dead(start, process_queue, how):
    """PAINS 1: a killed process held the queue's lock: everyone hangs."""
    process_queue.put_many(range(5))
    start(children.take_and_end, process_queue, 3, how).exitcode()
    for _ in range(2):
        process_queue.get_nowait()
        process_queue.task_done()
    process_queue.join()
    counts = process_queue.statistics()
    assert (counts.done, counts.unfinished, counts.lost) == (5, 0, 3)


@forked_and_fresh
def test_the_death_of_the_last_worker_releases_whoever_joins(start, process_queue):
    """PAINS 1: a killed process held the queue's lock: everyone hangs."""
    process_queue.put("task")
    taker = start(children.get_and_hold, process_queue)
    assert taker.hear() == "task"
    waiting = blocked(process_queue.join)
    taker.kill()
    waiting.result()
    assert process_queue.statistics().lost == 1


@forked_and_fresh
def test_tasks_that_were_done_are_not_lost_with_their_process(start, process_queue):
    process_queue.put_many([1, 2])
    taker = start(children.take_all_and_do, process_queue)
    process_queue.join()
    taker.kill()
    process_queue.put(3)
    assert get(process_queue) == 3
    process_queue.task_done()
    process_queue.join()
    assert process_queue.statistics().lost == 0


@forked_and_fresh
def test_join_does_not_wait_for_a_process_that_ended_well(start, process_queue):
    process_queue.put("task")
    assert start(children.use, process_queue, "get").wait_for_result() == "task"
    process_queue.join()
    assert process_queue.statistics().unfinished == 0


@forked_and_fresh
def test_random_deaths_lose_no_message_that_nobody_took(start, process_queue):
    """PAINS 1: a killed process held the queue's lock: everyone hangs."""
    process_queue.put_many(range(10))
    for _ in range(3):
        start(children.take_and_end, process_queue, 1, "SIGKILL").exitcode()
        start(children.end_before_anything_else, process_queue, "put", "SIGKILL").exitcode()
    assert drain(process_queue) == [*range(3, 10), "put", "put", "put"]


def test_a_job_that_dies_with_a_message_in_hand_costs_that_job(process_transport):
    """PAINS 2: the pool hangs after a worker is killed."""
    inbox, outbox = qmill.Queue(), qmill.Queue()
    inbox.put_many(range(8))
    with qmill.JobQueue(2) as jobs:
        done = [jobs.put(children.pass_on_or_die, (inbox, outbox, 3)) for _ in range(8)]
    assert [type(job.exception()) for job in done].count(qmill.WorkerDied) == 1
    assert sorted(drain(outbox)) == [0, 1, 2, 4, 5, 6, 7]
    inbox.join()
    assert inbox.statistics().lost == 1


def test_a_process_is_joined_before_its_results_are_read(start, own_queue):
    """PAINS 4: join before drain deadlocks."""
    results = [bytes([number]) * 200_000 for number in range(8)]
    start(children.put_each, own_queue, results).result()
    assert drain(own_queue) == results


@forked_and_fresh
@pytest.mark.parametrize("maxsize", [0, 1])
def test_a_process_killed_while_it_sends_much_costs_nobody_anything(start, make_own_queue, maxsize):
    """PAINS 8: a crash during a large send hangs."""
    queue = make_own_queue(maxsize)
    item = os.urandom(1000) * 5000
    for number in range(5):
        sender = start(children.put_without_end, queue, item)
        assert sender.hear() == "ready"
        for _ in range(number):
            assert get(queue) == item
        sender.kill()
        assert all(sent == item for sent in drain(queue))
        queue.put("next")
        while (sent := get(queue)) != "next":  # a put by the dead one may have been on its way
            assert sent == item


WATCHED = """
import multiprocessing
import qmill
queue = qmill.Queue()
for method in multiprocessing.get_all_start_methods():
    process = multiprocessing.get_context(method).Process(target=queue.put, args=(method,))
    process.start()
    process.join()
workers = [qmill.run(queue.put, "worker") for _ in range(2)]
[worker.join() for worker in workers]
print(sorted(queue.get_many(10)))
"""


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs /dev/shm")
def test_nobody_tracks_or_unlinks_a_queues_memory(process_transport):
    """PAINS 19: resource_tracker warns, or unlinks the memory of others."""
    before = set(os.listdir("/dev/shm"))
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", WATCHED],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.stderr == ""
    methods = [*get_all_start_methods(), "worker", "worker"]
    assert done.stdout.strip() == repr(sorted(methods))
    left = set(os.listdir("/dev/shm")) - before
    # What another test beside this one shares by multiprocessing is not ours.
    assert not [name for name in left if not name.startswith(("sem.", "psm_", "pym-"))]


# -- the end of the process that made the queue ---------------------------------------------------

CREATOR = """
queue = qmill.Queue(maxsize=1)
if hear() == "full":
    queue.put("there")
tell(queue)
hear()
"""

FIRST_CALLS = ("put", "get", "qsize", "task_done", "join")

BLOCKED_CALLS = {
    "get": ("empty", lambda queue: queue.get()),
    "get with timeout": ("empty", lambda queue: queue.get(timeout=LIMIT_S)),
    "get_many": ("empty", lambda queue: queue.get_many(2)),
    "peek": ("empty", lambda queue: queue.peek()),
    "iteration": ("empty", lambda queue: next(iter(queue))),
    "put": ("full", lambda queue: queue.put("item")),
    "put_many": ("full", lambda queue: queue.put_many(["item"])),
    "join": ("full", lambda queue: queue.join()),
}


def created_elsewhere(start_program, state="empty"):
    """Return a program that has made a queue, and a handle to it."""
    creator = start_program(CREATOR)
    creator.tell(state)
    return creator, creator.hear()


def ends_well(creator):
    creator.tell("end")
    creator.finish()


def is_killed(creator):
    creator.kill()


each_end = pytest.mark.parametrize("ends", [ends_well, is_killed])


@each_end
@pytest.mark.parametrize(("state", "call"), BLOCKED_CALLS.values(), ids=BLOCKED_CALLS)
def test_a_blocked_call_learns_that_the_queue_is_gone(
    makers_transport, start_program, state, call, ends
):
    creator, queue = created_elsewhere(start_program, state)
    waiting = blocked(call, queue)
    ends(creator)
    with pytest.raises(qmill.QueueGone):
        waiting.result()
    queue.close()


def test_every_waiting_thread_and_process_learns_that_the_queue_is_gone(
    makers_transport, start_program, start
):
    creator, queue = created_elsewhere(start_program)
    threads = [blocked(queue.get) for _ in range(2)]
    processes = [start(children.use, queue, "get").wait_until_blocked() for _ in range(2)]
    creator.kill()
    for waiting in threads + processes:
        with pytest.raises(qmill.QueueGone):
            waiting.result()


def test_every_later_call_says_that_the_queue_is_gone(makers_transport, start_program):
    creator, queue = created_elsewhere(start_program)
    queue.qsize()
    creator.kill()
    for call in CALLS.values():
        with pytest.raises(qmill.QueueGone):
            call(queue)
    queue.close()


@pytest.mark.parametrize("call", [CALLS[name] for name in FIRST_CALLS], ids=FIRST_CALLS)
def test_the_first_call_after_the_end_says_that_the_queue_is_gone(
    makers_transport, start_program, call
):
    creator, queue = created_elsewhere(start_program)
    queue.qsize()
    creator.kill()
    with pytest.raises(qmill.QueueGone):
        call(queue)
    queue.close()


def test_a_handle_first_used_after_the_end_is_gone(makers_transport, start_program):
    creator, queue = created_elsewhere(start_program)
    pickled = pickle.dumps(queue)
    queue.close()
    creator.kill()
    with pytest.raises(qmill.QueueGone):
        pickle.loads(pickled).get()


@each_end
def test_a_queue_outlives_its_maker(common_transport, start_program, start, ends):
    creator, queue = created_elsewhere(start_program)
    queue.put("left behind")
    waiting = start(children.use, queue, "join").wait_until_blocked()
    ends(creator)
    assert get(queue) == "left behind"
    start(children.put_each, queue, ["later"]).result()
    assert get(queue) == "later"
    for _ in range(2):
        queue.task_done()
    waiting.result()
    queue.close()


def test_queue_gone_is_an_os_error():
    assert issubclass(qmill.QueueGone, OSError)
    assert issubclass(qmill.QueueGone, qmill.QmillError)


def test_a_handle_whose_last_holder_is_gone_is_gone(process_transport, start_program):
    creator = start_program("queue = qmill.Queue(); tell(pickle.dumps(queue)); queue.close()")
    pickled = creator.hear()
    creator.finish()
    with pytest.raises(qmill.QueueGone):
        pickle.loads(pickled).get_nowait()


ENDS_WITH_A_QUEUE_UNDER_WAY = """
outbox = hear()
outbox.put({"question": "are you there", "reply": qmill.Queue()})
outbox.put("after it")
"""


def test_a_message_comes_although_the_queue_in_it_is_gone(start_program, own_queue):
    program = start_program(ENDS_WITH_A_QUEUE_UNDER_WAY)
    program.tell(own_queue)
    program.finish()
    message = get(own_queue)
    assert message["question"] == "are you there"
    for call in CALLS.values():
        with pytest.raises(qmill.QueueGone):
            call(message["reply"])
    assert "qmill.Queue" in repr(message)
    message["reply"].close()
    assert get(own_queue) == "after it"


# -- closing --------------------------------------------------------------------------------------


def test_closing_one_processes_handle_leaves_the_others(start, process_queue):
    holder = start(children.hold_closed, process_queue)
    assert holder.hear() == "closed"
    process_queue.put("open here")
    assert process_queue.get_nowait() == "open here"
    holder.tell("end")
    holder.result()


def test_closing_the_makers_handle_leaves_the_others(start, start_program, process_transport):
    creator = start_program(
        "queue = qmill.Queue(); tell(queue); hear(); queue.close(); tell('closed'); hear()"
    )
    queue = creator.hear()
    queue.put("before")
    creator.tell("close")
    assert creator.hear() == "closed"
    start(children.put_each, queue, ["after"]).result()
    assert drain(queue) == ["before", "after"]
    queue.close()
    ends_well(creator)


def test_a_closed_handle_can_be_sent_anew_by_others(start, process_queue):
    start(children.hold_closed, process_queue).tell("end")
    start(children.put_each, process_queue, ["again"]).result()
    assert get(process_queue) == "again"


# -- the end of a process with unread data --------------------------------------------------------


def test_unread_data_does_not_keep_a_process_from_ending(start, own_queue):
    """PAINS 5: unread data keeps a process from exiting."""
    start(children.put_each, own_queue, [b"x" * 5_000_000] * 2).result()
    assert own_queue.qsize() == 2


def test_unread_data_does_not_keep_its_maker_from_ending(process_transport, start_program):
    """PAINS 5: unread data keeps a process from exiting."""
    start_program("queue = qmill.Queue(); queue.put(b'x' * 20_000_000)").finish()


def test_a_forgotten_reader_thread_does_not_keep_a_process_from_ending(
    start_program, process_queue
):
    """PAINS 5: unread data keeps a process from exiting."""
    program = start_program(
        "queue = hear(); threading.Thread(target=queue.get, daemon=True).start(); tell('started')"
    )
    program.tell(process_queue)
    assert program.hear() == "started"
    program.finish()


# -- Ctrl-C ---------------------------------------------------------------------------------------

INTERRUPTED = """
queue, state, method, arguments = hear()
if isinstance(queue, str):
    queue = qmill.Queue(1, kind=queue)
if state == "full":
    queue.put("there")
tell("ready")
try:
    getattr(queue, method)(**arguments)
except KeyboardInterrupt:
    tell("interrupted")
hear()
while not queue.empty():
    queue.get()
queue.put("works on")
tell(queue.get())
"""

INTERRUPTIBLE = {
    "get": ("empty", "get", {}),
    "get with timeout": ("empty", "get", {"timeout": 1000.0}),
    "peek": ("empty", "peek", {}),
    "put": ("full", "put", {"obj": "more"}),
    "join": ("full", "join", {}),
}


def interrupt(program, queue, state, method, arguments):
    program.tell((queue, state, method, arguments))
    program.wait_until_blocked()
    program.signal(signal.SIGINT)
    assert program.hear() == "interrupted"


def ends_after_working_on(program):
    program.tell("go on")
    assert program.hear() == "works on"
    program.finish()


@pytest.mark.parametrize("case", INTERRUPTIBLE.values(), ids=INTERRUPTIBLE)
def test_ctrl_c_interrupts_a_blocked_call(start_program, place, make_queue, case):
    program = start_program(INTERRUPTED)
    interrupt(program, place.kind if place.made == "here" else make_queue(1), *case)
    ends_after_working_on(program)


def test_an_interrupted_get_swallows_nothing(start_program, process_queue):
    program = start_program(INTERRUPTED)
    interrupt(program, process_queue, *INTERRUPTIBLE["get"])
    process_queue.put("for whoever asks")
    assert process_queue.get_nowait() == "for whoever asks"
    ends_after_working_on(program)


def test_an_interrupted_put_leaves_the_queue_whole(start_program, make_process_queue):
    queue = make_process_queue(maxsize=1)
    program = start_program(INTERRUPTED)
    interrupt(program, queue, *INTERRUPTIBLE["put"])
    assert drain(queue) in (["there"], ["there", "more"])
    ends_after_working_on(program)


HANDLES_A_SIGNAL = """
queue = hear() or qmill.Queue()
signal.signal(signal.SIGUSR1, lambda *_: queue.put("from the handler"))
tell("ready")
tell(queue.get())
"""


@pytest.mark.parametrize("made", ["here", "elsewhere"])
def test_a_signal_handler_may_put_while_its_thread_waits(start_program, make_own_queue, made):
    program = start_program(HANDLES_A_SIGNAL)
    program.tell(None if made == "here" else make_own_queue())
    program.wait_until_blocked()
    program.signal(signal.SIGUSR1)
    assert program.hear() == "from the handler"
    program.finish()


# -- fork -----------------------------------------------------------------------------------------

FORKS_WITH_THREADS = """
import multiprocessing, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # CPython's, about fork with threads
queue, results = hear() or (qmill.Queue(), qmill.Queue())
over = threading.Event()

def churn():
    while not over.is_set():
        queue.put(1)
        queue.peek()
        queue.get()

threads = [threading.Thread(target=churn) for _ in range(3)]
for thread in threads:
    thread.start()
context = multiprocessing.get_context("fork")
for number in range(20):
    process = context.Process(target=results.put, args=(number,))
    process.start()
    process.join(20)
    if process.exitcode != 0:
        tell(f"process {number}: exit code {process.exitcode}")
        process.kill()
        process.join()
over.set()
for thread in threads:
    thread.join()
tell(results.get_many(100))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.parametrize("made", ["here", "elsewhere"])
def test_a_process_forks_while_its_threads_use_the_queue(start_program, make_own_queue, made):
    program = start_program(FORKS_WITH_THREADS)
    program.tell(None if made == "here" else (make_own_queue(), make_own_queue()))
    assert program.hear() == list(range(20))
    program.finish()


FORKS_AND_ENDS = """
queue = qmill.Queue()
queue.put("made before the fork")
if os.fork() == 0:
    channel.close()
    queue.put("from the forked process")
    sys.exit(0)  # with all that Python does at exit
os.wait()
tell(queue)
hear()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_forked_process_that_ends_takes_nothing_with_it(process_transport, start_program):
    creator = start_program(FORKS_AND_ENDS)
    queue = creator.hear()
    assert drain(queue) == ["made before the fork", "from the forked process"]
    queue.close()
    ends_well(creator)


# -- what a queue costs ---------------------------------------------------------------------------


def open_files():
    return len(os.listdir("/proc/self/fd"))


linux_only = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux's /proc")


@linux_only
def test_closed_queues_give_back_their_descriptors(process_transport):
    def use():
        queue = qmill.Queue()
        queue.put(1)
        queue.get()
        queue.close()

    use()
    before = open_files()
    for _ in range(20):
        use()
    assert open_files() <= before


@linux_only
def test_closed_handles_give_back_their_descriptors(process_transport, start_program):
    creator, queue = created_elsewhere(start_program)
    pickled = pickle.dumps(queue)
    before = open_files()
    for _ in range(20):
        handle = pickle.loads(pickled)
        handle.put(1)
        handle.get()
    del handle
    assert open_files() <= before + 2
    queue.close()
    ends_well(creator)


@linux_only
def test_threads_that_end_give_back_their_descriptors(process_queue):
    def use():
        process_queue.put(1)
        process_queue.get()

    Call(use).result()
    before = open_files()
    for _ in range(20):
        Call(use).result()
    assert open_files() <= before + 2
