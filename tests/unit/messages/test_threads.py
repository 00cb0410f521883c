"""Several threads use a queue, and hand messages over."""

from __future__ import annotations

import pickle

import pytest

from qmill import Msg, Q

from .calls import counts, data_of, fill, in_thread, orders_of

# -- threads --------------------------------------------------------------------------------------


def test_each_message_goes_to_one_of_several_readers(q):
    readers = [in_thread(lambda: data_of(q)) for _ in range(4)]
    q.put_many(range(200))
    for _ in readers:
        q.end()
    assert sorted(sum((reader() for reader in readers), [])) == list(range(200))
    assert counts(q) == (0, 0)


def test_several_sorted_readers_all_come_to_an_end(q):
    readers = [in_thread(lambda: orders_of(q.sorted())) for _ in range(3)]
    fill(q, range(10, 40))
    for _ in readers:
        q.end()
    read = [reader() for reader in readers]
    assert sorted(sum(read, [])) == list(range(10, 40))
    assert all(one == sorted(one) for one in read)


def test_a_put_waits_for_room_and_gets_it(kind):
    q = Q(kind, maxsize=1)
    q.put(1)
    put = in_thread(lambda: q.put(2))
    assert q.get().data == 1
    assert put() is q
    assert q.get().data == 2


# -- handing over ---------------------------------------------------------------------------------


def test_a_queue_for_processes_can_be_pickled():
    q = Q(maxsize=3)
    q.put(1)
    same = pickle.loads(pickle.dumps(q))
    assert (same.kind, same.maxsize, same.name) == ("process", 3, None)
    assert same.get() == Msg(1)
    same.put(Msg(2, "b", 3)).end()
    assert list(q) == [Msg(2, "b", 3)]


def test_a_queue_for_threads_cannot_be_pickled():
    with pytest.raises(TypeError, match="kind='thread'"):
        pickle.dumps(Q("thread"))


@pytest.mark.parametrize("wrap", [lambda q: q, lambda q: [q], lambda q: {"q": (q,)}])
def test_a_queue_for_threads_in_a_message_between_processes_is_a_type_error(wrap):
    q = Q()
    with pytest.raises(TypeError, match="kind='thread'"):
        q.put(wrap(Q("thread")))
    assert q.empty()


def test_a_queue_for_threads_in_a_message_between_threads_is_itself():
    outer, inner = Q("thread"), Q("thread")
    outer.put(inner)
    assert outer.get().data is inner


def test_a_queue_in_a_message():
    q, reply = Q(), Q()
    q.put(reply)
    q.get().data.put("answer")
    assert reply.get().data == "answer"
