"""A process that dies costs the others nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from multiprocessing import get_all_start_methods

import conformance_children as children
import pytest
from conformance_support import LIMIT_S, Call, blocked

import qmill

from .creators import drain, get

# A forkserver's children die like spawned ones.
forked_and_fresh = pytest.mark.parametrize(
    "context",
    [method for method in ("fork", "spawn") if method in get_all_start_methods()],
    indirect=True,
)
each_death = pytest.mark.parametrize("how", children.DEATHS)


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
    # Memory that another test shares by multiprocessing meanwhile is not ours.
    assert not [name for name in left if not name.startswith(("sem.", "psm_", "pym-"))]
