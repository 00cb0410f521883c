"""The repr of queues and messages; bad arguments are refused."""

from __future__ import annotations

import pytest

import qmill
from qmill import Q

from .calls import in_thread

# -- what it says of itself -----------------------------------------------------------------------


def test_repr(kind):
    q = Q(kind, maxsize=3)
    assert "qmill.Q" in repr(q)
    assert f"kind={kind!r}" in repr(q)
    assert "maxsize=3" in repr(q)
    q.close()
    assert "qmill.Q" in repr(q)


def test_properties(kind):
    q = Q(kind, maxsize=3)
    assert (q.kind, q.maxsize, q.name) == (kind, 3, None)
    assert (q.is_shutdown, q.unfinished_tasks) == (False, 0)


def test_another_maxsize_lets_in_who_waits_and_ends_need_no_room(kind):
    q = Q(kind, maxsize=1).put(1).end()
    put = in_thread(lambda: q.put(2))
    q.maxsize = 2
    assert put() is q
    q.maxsize = 1
    q.end()
    with pytest.raises(qmill.Full):
        q.put_nowait(3)
    assert (q.maxsize, q.qsize(), q.unfinished_tasks) == (1, 4, 2)
    assert [m.data for m in q] == [1]
    assert [m.data for m in q] == [2]
    assert q.unfinished_tasks == 0


def test_a_queue_tells_that_it_is_shut_down(q):
    q.shutdown()
    assert q.is_shutdown is True


def test_what_does_nothing_is_there(q):
    q.put(1)
    assert q.cancel_join_thread() is None
    assert q.join_thread() is None


def test_a_closed_queue_says_so(q):
    q.close()
    for call in (q.get, q.put, q.end, q.qsize, q.empty, q.full, q.statistics, q.shutdown, q.join):
        with pytest.raises(ValueError, match="closed"):
            call()
    with pytest.raises(ValueError, match="closed"):
        next(iter(q))
    with pytest.raises(ValueError, match="closed"):
        q.stop([])


def test_there_is_no_attribute_that_is_not_written_out(q):
    with pytest.raises(AttributeError):
        q.no_such_thing


def test_statistics(kind):
    q = Q(kind, maxsize=9)
    q.put_many(range(5))
    q.end()
    q.get()
    messages = iter(q)
    next(messages)
    found = q.statistics()
    assert found._asdict() == {
        "size": 4,
        "leased": 1,
        "unfinished": 5,
        "put": 5,
        "taken": 2,
        "done": 0,
        "lost": 0,
        "redelivered": 0,
        "poisoned": 0,
        "maxsize": 9,
    }
    messages.close()


# -- bad arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        ("Q('fork')", ValueError, ["kind", "'fork'", "'process'", "'thread'"]),
        ("Q(None)", ValueError, ["kind", "None"]),
        ("Q(maxsize='3')", TypeError, ["maxsize", "'3'"]),
        ("Q(maxsize=2.0)", TypeError, ["maxsize", "2.0"]),
        ("Q('thread', name='n')", ValueError, ["name", "'n'", "thread"]),
        ("Q(name='a/b')", ValueError, ["name", "a/b"]),
        ("Q(name=3)", TypeError, ["name", "3"]),
        ("q.put(1, kind=3)", TypeError, ["kind", "3", "str"]),
        ("q.put(1, kind=None)", TypeError, ["kind", "None"]),
        ("q.put(1, order='first')", TypeError, ["order", "'first'"]),
        ("q.put(1, order=None)", TypeError, ["order", "None"]),
        ("q.put(1, timeout=-1)", ValueError, ["timeout", "-1"]),
        ("q.put(1, timeout=float('nan'))", ValueError, ["timeout", "nan"]),
        ("q.put(1, timeout='1')", TypeError, ["timeout", "'1'"]),
        ("q.get(timeout=-0.5)", ValueError, ["timeout", "-0.5"]),
        ("q.peek(timeout=-1)", ValueError, ["timeout", "-1"]),
        ("q.get_many(0)", ValueError, ["max_items", "0"]),
        ("q.get_many('2')", TypeError, ["max_items", "'2'"]),
        ("q.put_many(3)", TypeError, []),
        ("list(q.put(1).end().sorted('0'))", TypeError, ["start", "'0'"]),
        ("q.stop(3)", TypeError, ["workers", "3"]),
        ("q.stop([3])", TypeError, ["workers", "3"]),
        ("q.stop(None)", TypeError, ["workers", "None"]),
        ("q.unlink()", ValueError, ["name"]),
    ],
)
def test_bad_arguments(q, call, error, told):
    with pytest.raises(error) as info:
        eval(call, {"Q": Q, "q": q})
    for piece in told:
        assert piece in str(info.value)
