"""Readers that are killed lose no message."""

from __future__ import annotations

import pytest

import qmill

from .. import functions
from ..programs import LIMIT_S, Call, wait_until
from .leftovers import data_of


@pytest.mark.parametrize("read", ["__iter__", "sorted"])
def test_another_reader_gets_the_message_of_a_killed_one(method, run, read):
    q, ready, gate = qmill.Q(), qmill.Queue(), qmill.Queue()
    q.put("in hand").put("unread", order=1)
    reader = run(functions.read_and_hold, read, q, ready, gate)
    assert ready.get() == "in hand"
    reader.kill()
    reader.join()
    out = qmill.Q()
    other = run(functions.read_to, q, out)
    q.stop(other)
    assert data_of(out.items()) == ["in hand", "unread"]
    assert q.statistics().redelivered >= 1


def test_nothing_is_lost_and_only_the_message_in_hand_comes_twice(method, run):
    q, out, ready, gate = qmill.Q(), qmill.Q(), qmill.Queue(), qmill.Queue()
    q.put_many(range(30))
    # Each of them passes on what is before its message, and is killed with that in its hands.
    for held in (7, 15, 16):
        reader = run(functions.read_and_hold_at, held, q, out, ready, gate)
        ready.get()
        reader.kill()
        reader.join()
    q.stop(run(functions.read_to, q, out))
    assert data_of(out.items()) == list(range(30))
    counts = q.statistics()
    assert (counts.redelivered, counts.lost, counts.unfinished) == (3, 0, 0)


def test_messages_that_a_killed_sorted_reader_had_buffered_come_again(method, run):
    q, ready, gate = qmill.Q(), qmill.Queue(), qmill.Queue()
    for order in (3, 1, 2, 0):
        q.put(f"#{order}", order=order)
    reader = run(functions.read_and_hold, "sorted", q, ready, gate)
    assert ready.get() == "#0"
    assert q.statistics().leased == 4
    reader.kill()
    reader.join()
    out = qmill.Q()
    q.stop(run(functions.sorted_to, q, out))
    assert data_of(out.items()) == ["#0", "#1", "#2", "#3"]


def test_several_sorted_readers_come_to_the_end(method, run):
    q, out = qmill.Q(), qmill.Q()
    crew = [run(functions.sorted_to, q, out) for _ in range(3)]
    for order in range(1, 60):  # 0 never comes: everything is buffered until the END
        q.put(order, order=order)
    q.stop(crew)
    assert sorted(data_of(out.items())) == list(range(1, 60))


def test_several_sorted_readers_come_to_the_end_although_one_is_killed(method, run):
    q, out = qmill.Q(), qmill.Q()
    ready, gate = qmill.Queue(), qmill.Queue()
    for order in (0, 5, 6, 7):
        q.put(order, order=order)
    victim = run(functions.read_and_hold, "sorted", q, ready, gate)
    assert ready.get() == 0
    crew = [run(functions.sorted_to, q, out) for _ in range(2)]
    stop = Call(q.stop, [victim, *crew])
    wait_until(lambda: q.qsize() == 3)  # nothing but ENDs
    victim.kill()
    with pytest.raises(qmill.WorkerDied):
        stop.result()
    assert sorted(data_of(out.items())) == [0, 5, 6, 7]
    assert q.empty()


def test_a_message_that_kills_its_readers_is_set_aside_and_told(method, run):
    q, out = qmill.Q(), qmill.Q()
    crew = [run(functions.read_until_killed, q, out) for _ in range(4)]
    q.put(1).put("deadly", kind="k", order=5).put(2)
    with pytest.raises(ExceptionGroup) as info:
        q.stop(crew)
    *died, poisoned = info.value.exceptions
    assert [type(error) for error in died] == [qmill.WorkerDied] * 3
    assert isinstance(poisoned, qmill.Poisoned)
    assert poisoned.messages == [qmill.Msg("deadly", "k", 5)]
    assert "deadly" in str(poisoned)
    assert sorted(data_of(out.items())) == [1, 2]
    assert q.empty()
    q.requeue(poisoned.messages[0])
    assert q.poisoned() == []
    assert (q.get(), q.unfinished_tasks) == (qmill.Msg("deadly", "k", 5), 1)


def test_a_message_that_kills_all_readers_is_told_by_stop_at_once(method, run):
    for _ in range(3):
        q, out = qmill.Q(), qmill.Q()
        crew = [run(functions.read_until_killed, q, out) for _ in range(3)]
        q.put("deadly")
        with pytest.raises(ExceptionGroup) as info:
            q.stop(crew)
        kinds = [type(error) for error in info.value.exceptions]
        assert kinds == [qmill.WorkerDied] * 3 + [qmill.Poisoned]


def test_what_stop_leaves_is_there_at_once(method, run):
    """The broker's thread may hear of a death later than whoever joins the dead."""
    for _ in range(5):
        q, out = qmill.Q(), qmill.Q()
        reader = run(functions.read_until_killed, q, out)
        q.put("deadly")
        with pytest.raises(qmill.WorkerDied):
            q.stop(reader)
        assert (q.qsize(), q.statistics().leased, q.statistics().redelivered) == (1, 0, 1)


def test_a_put_that_returned_is_there_although_the_worker_dies(method, run):
    out = qmill.Q()
    run(functions.read_until_killed, out_of(["a", "deadly"]), out).join()
    assert out.get(timeout=LIMIT_S).data == "a"


def out_of(items):
    q = qmill.Q()
    q.put_many(items)
    return q
