"""Messages, and how they are put."""

from __future__ import annotations

import pickle
import threading

import pytest

import qmill
from qmill import END_MSG, Msg, Q

from .calls import data_of

# -- messages -------------------------------------------------------------------------------------


def test_a_message_has_data_kind_and_order():
    assert (Msg().data, Msg().kind, Msg().order) == (None, "", 0)
    assert Msg(1, "a", 2) == Msg(data=1, kind="a", order=2)
    assert Msg(1) != Msg(2)
    assert repr(Msg(1, "a", 2)) == "Msg(data=1, kind='a', order=2)"


def test_the_end_message_is_of_kind_end():
    assert END_MSG.kind == "END"


def test_a_message_can_be_pickled():
    assert pickle.loads(pickle.dumps(Msg([1], "a", 2))) == Msg([1], "a", 2)


# -- putting --------------------------------------------------------------------------------------


def test_put_can_be_chained(q):
    assert q.put(1).put(2, kind="b").put(3, order=7).end() is q
    assert list(q) == [Msg(1), Msg(2, "b"), Msg(3, "", 7)]


def test_put_nowait_can_be_chained(q):
    assert q.put_nowait(1, kind="a", order=2) is q
    assert q.get() == Msg(1, "a", 2)


def test_put_without_data(q):
    assert q.put().get() == Msg(None, "", 0)


def test_a_message_passes_as_it_is(q):
    q.put(Msg("x", "a", 5), kind="ignored", order=9)
    assert q.get() == Msg("x", "a", 5)


def test_a_message_of_a_subclass_passes_as_it_is(q):
    message = SpecialMsg("x", "a", 5)
    q.put(message)
    got = q.get()
    assert type(got) is SpecialMsg
    assert got == message


class SpecialMsg(Msg):
    pass


@pytest.mark.parametrize("data", [None, (), ("a", "b", 3), (1,), [Msg(1)], {"kind": "END"}, "END"])
def test_data_that_looks_like_something_else_is_data(q, data):
    q.put(data)
    assert q.get() == Msg(data)


def test_a_queue_for_threads_carries_the_very_objects():
    q, lock = Q("thread"), threading.Lock()
    message = Msg(lock)
    q.put(message).put(lock)
    assert q.get() is message
    assert q.get().data is lock


def test_a_queue_for_processes_carries_copies():
    q, data = Q(), [1]
    q.put(data)
    data.append(2)
    assert q.get().data == [1]


def test_what_cannot_be_pickled_raises_from_put():
    """PAINS 6: an item that cannot be pickled vanishes or hangs."""
    q = Q()
    with pytest.raises(qmill.SerializationError, match=r"lock"):
        q.put({"lock": threading.Lock()})
    with pytest.raises(qmill.SerializationError, match=r"lock"):
        q.put_many([1, threading.Lock()])
    assert q.empty()


def test_put_many(q):
    assert q.put_many([1, Msg(2, "b", 3), (4, "c", 5)]) == 3
    q.end()
    assert list(q) == [Msg(1), Msg(2, "b", 3), Msg((4, "c", 5))]


def test_put_many_takes_any_iterable(q):
    assert q.put_many(number for number in range(3)) == 3
    assert q.put_many([]) == 0
    assert q.qsize() == 3


def test_put_many_into_a_bounded_queue(kind):
    q = Q(kind, maxsize=2)
    assert q.put_many(range(5), block=False) == 2
    assert q.put_many(range(5), timeout=0) == 0
    assert data_of(q.get_many(5)) == [0, 1]


def test_put_many_refuses_ends(q):
    with pytest.raises(ValueError, match="END"):
        q.put_many([1, END_MSG])
    assert q.empty()


def test_full(kind):
    q = Q(kind, maxsize=1)
    q.put(1)
    assert q.full()
    with pytest.raises(qmill.Full):
        q.put_nowait(2)
    with pytest.raises(qmill.Full):
        q.put(2, block=False)
    with pytest.raises(qmill.Full):
        q.put(2, timeout=0)
    assert q.get().data == 1
    assert not q.full()
