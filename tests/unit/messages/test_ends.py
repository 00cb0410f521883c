"""A reader's end: by END, and by shutdown."""

from __future__ import annotations

import pytest

import qmill
from qmill import END_MSG, Msg, Q

from .calls import data_of, fill, in_thread, orders_of

# -- ENDs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end",
    [
        lambda q: q.end(),
        lambda q: q.put(kind="END"),
        lambda q: q.put(END_MSG),
        lambda q: q.put(Msg("ignored", "END")),
        lambda q: q.put_nowait(kind="END"),
    ],
    ids=["end()", "put(kind)", "put(END_MSG)", "put(Msg)", "put_nowait"],
)
def test_ways_to_end(q, end):
    assert end(q.put(1)) is q
    q.put(2)
    assert data_of(q) == [1]
    assert q.get().data == 2


def test_one_end_ends_one_reader(q):
    q.put(1).end().put(2).end().put(3)
    assert [data_of(q), data_of(q)] == [[1], [2]]
    assert q.qsize() == 1


def test_several_ends_in_a_row(q):
    q.end().end()
    assert [list(q), list(q)] == [[], []]
    assert q.empty()


def test_ends_need_no_room(kind):
    q = Q(kind, maxsize=1)
    q.put(1).end().end()
    assert q.qsize() == 3
    assert q.full()
    assert data_of(q) == [1]
    assert not q.full()
    q.put_nowait(2)  # the END that waits takes no room, either
    assert list(q) == []


def test_ends_count_in_qsize_but_not_as_unfinished(q):
    q.end()
    assert q.qsize() == 1
    assert not q.empty()
    assert q.statistics().unfinished == 0
    assert q.statistics().put == 0
    q.join()


def test_get_gives_the_end_message(q):
    q.put(1).end()
    assert q.get().data == 1
    assert q.get() is END_MSG
    with pytest.raises(qmill.Empty):
        q.get_nowait()


def test_an_end_comes_alone_from_get_many(q):
    q.put(1).put(2).end().end().put(3)
    assert q.get_many(10) == [Msg(1), Msg(2)]
    assert q.get_many(10) == [END_MSG]
    assert q.get_many(10) == [END_MSG]
    assert q.get_many(10) == [Msg(3)]


def test_peek(q):
    q.put(1, kind="a").end()
    assert q.peek() == q.peek() == Msg(1, "a")
    q.get()
    assert q.peek() is END_MSG
    assert q.qsize() == 1
    q.get()
    with pytest.raises(qmill.Empty):
        q.peek(block=False)
    with pytest.raises(qmill.Empty):
        q.peek(timeout=0)


@pytest.mark.parametrize("manner", [{"block": False}, {"timeout": 0}, {"timeout": 0.001}])
def test_empty(q, manner):
    for call in (q.get, q.peek, lambda **manner: q.get_many(3, **manner)):
        with pytest.raises(qmill.Empty):
            call(**manner)
    with pytest.raises(qmill.Empty):
        q.get_nowait()


# -- the end by shutdown --------------------------------------------------------------------------


@pytest.mark.parametrize("read", [iter, Q.sorted], ids=["iter", "sorted"])
def test_shutdown_ends_iteration_when_the_queue_is_empty(q, read):
    q.put(1).put(2)
    q.shutdown()
    assert data_of(read(q)) == [1, 2]
    assert list(read(q)) == []
    with pytest.raises(qmill.ShutDown):
        q.get()
    with pytest.raises(qmill.ShutDown):
        q.put(3)
    with pytest.raises(qmill.ShutDown):
        q.put_many([3])


def test_sorted_gives_at_a_shutdown_what_is_left(q):
    fill(q, [3, 1])
    q.shutdown()
    assert orders_of(q.sorted()) == [1, 3]


def test_shutdown_ends_a_reader_that_waits(q):
    got = in_thread(lambda: list(q))
    q.put(1)
    q.shutdown()
    assert data_of(got()) == [1]


def test_immediate_shutdown_throws_away_what_waits(q):
    q.put(1).end()
    q.shutdown(immediate=True)
    assert list(q) == []
    q.join()


def test_stop_and_items_after_a_shutdown_do_not_hang(q):
    q.put(1)
    q.shutdown()
    assert data_of(q.items()) == [1]
    assert q.stop([]) is q
