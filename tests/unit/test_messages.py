"""What `qmill.Q` and `qmill.Msg` promise within one process, and the mailbox under them."""

from __future__ import annotations

import gc
import itertools
import pickle
import threading

import pytest
from hypothesis import given, settings, strategies as st

import qmill
from qmill import END_MSG, Msg, Q
from qmill.queues.api import END
from qmill.queues.local.mailbox import (
    LOCAL,
    Client,
    GetCall,
    JoinCall,
    Mailbox,
    MailReader,
    PutCall,
)

from ..limits import _no_test_hangs  # noqa: F401 (a fixture)

LIMIT_S = 30.0


@pytest.fixture(params=["process", "thread"])
def kind(request):
    return request.param


@pytest.fixture
def q(kind):
    return Q(kind)


def data_of(messages):
    return [message.data for message in messages]


def fill(q, orders):
    for order in orders:
        q.put(f"#{order}", order=order)


def orders_of(messages):
    return [message.order for message in messages]


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


# -- sorted ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("put", "start", "read"),
    [
        ([], 0, []),
        ([0, 1, 2], 0, [0, 1, 2]),
        ([2, 0, 1], 0, [0, 1, 2]),
        ([3, 2, 1], 1, [1, 2, 3]),
        ([2, 1], 0, [1, 2]),
        ([5, 0, 2], 0, [0, 2, 5]),
        ([0, 0, 1, 0], 0, [0, 0, 1, 0]),
        ([1, 1, 0, 0], 0, [0, 1, 1, 0]),
        ([5, 4, 6], 5, [5, 4, 6]),
        ([-1, -2, 0], 0, [-1, -2, 0]),
        ([-1, -2, 0], -2, [-2, -1, 0]),
        ([10**30, 0], 0, [0, 10**30]),
    ],
)
def test_sorted(q, put, start, read):
    fill(q, put)
    q.end()
    messages = list(q.sorted(start))
    assert orders_of(messages) == read
    assert data_of(messages) == [f"#{order}" for order in read]


def test_messages_of_the_same_order_keep_theirs(q):
    q.put("first", order=1).put("second", order=1).put("zero").end()
    assert data_of(q.sorted()) == ["zero", "first", "second"]


def test_messages_of_the_same_order_are_not_compared(q):
    q.put({"a"}, order=1).put({"b"}, order=1).end()
    assert data_of(q.sorted()) == [{"a"}, {"b"}]


def test_sorted_gives_a_message_as_soon_as_it_is_due(q):
    fill(q, [2, 0, 1])
    messages = q.sorted()
    assert orders_of(itertools.islice(messages, 3)) == [0, 1, 2]
    messages.close()


def test_sorted_stops_at_the_first_end(q):
    fill(q, [1, 0])
    q.end()
    fill(q, [2])
    assert orders_of(q.sorted()) == [0, 1]
    assert q.qsize() == 1


@given(orders=st.lists(st.integers(-3, 12)), start=st.integers(-2, 4))
@settings(deadline=None, max_examples=80)
@pytest.mark.parametrize("kind", ["process", "thread"])
def test_sorted_of_any_orders(kind, orders, start):
    q = Q(kind)
    fill(q, orders)
    q.end()
    read = orders_of(q.sorted(start))
    assert sorted(read) == sorted(orders)
    # What model there is: nothing waits that is due, and what is not due comes at the end, sorted.
    due, waiting, expected = start, [], []
    for order in orders:
        waiting = sorted([*waiting, order])
        while waiting and waiting[0] <= due:
            due = max(due, waiting[0] + 1)
            expected.append(waiting.pop(0))
    assert read == expected + waiting
    assert q.statistics().unfinished == 0


# -- items ----------------------------------------------------------------------------------------


def test_items_ends_the_queue_and_reads_it(q):
    fill(q, [2, 0, 1])
    assert orders_of(q.items()) == [2, 0, 1]
    assert q.empty()


def test_items_sorted(q):
    fill(q, [2, 0, 1])
    assert orders_of(q.items(sort=True)) == [0, 1, 2]


def test_items_again_gives_what_came_since(q):
    fill(q, [1])
    assert orders_of(q.items()) == [1]
    fill(q, [2])
    assert orders_of(q.items()) == [2]
    assert list(q.items()) == []


@pytest.mark.parametrize("sort", [False, True])
def test_items_cached(q, sort):
    fill(q, [1, 0])
    first = list(q.items(cache=True, sort=sort))
    assert orders_of(first) == ([0, 1] if sort else [1, 0])
    again = list(q.items(cache=True, sort=sort))
    assert [one is other for one, other in zip(first, again, strict=True)] == [True, True]


def test_items_of_an_empty_queue_are_cached_too(q):
    assert list(q.items(cache=True)) == []
    fill(q, [1])
    assert list(q.items(cache=True)) == []
    assert orders_of(q.items()) == [1]


def test_items_without_cache_after_a_cached_one_reads_the_queue(q):
    fill(q, [0])
    list(q.items(cache=True))
    fill(q, [1])
    assert orders_of(q.items()) == [1]
    assert orders_of(q.items(cache=True)) == [0]


def test_items_beside_an_end_that_was_put_before(q):
    q.put(1).end()
    assert data_of(q.items()) == [1]


# -- leases ---------------------------------------------------------------------------------------


def counts(q):
    found = q.statistics()
    return found.leased, found.unfinished


@pytest.fixture(params=[iter, Q.sorted], ids=["iter", "sorted"])
def read(request):
    return request.param


def test_a_message_is_done_when_the_next_is_asked_for(q, read):
    fill(q, [0, 1])
    q.end()
    messages = read(q)
    assert counts(q) == (0, 2)
    next(messages)
    assert counts(q) == (1, 2)
    next(messages)
    assert counts(q) == (1, 1)
    assert list(messages) == []
    assert counts(q) == (0, 0)
    q.join()


def test_sorted_keeps_its_lease_on_what_it_buffers(q):
    fill(q, [2, 1, 0])
    messages = q.sorted()
    next(messages)
    assert counts(q) == (3, 3)
    next(messages)
    assert counts(q) == (2, 2)
    messages.close()
    assert counts(q) == (1, 2)  # 2 was never handed out: it is there for the next reader
    assert q.get().order == 2
    assert counts(q)[0] == 0


def test_sorted_lets_go_one_by_one_at_the_end(q):
    fill(q, [3, 2, 1])
    q.end()
    messages = q.sorted()
    for left in (3, 2, 1):
        next(messages)
        assert counts(q) == (left, left)
    assert list(messages) == []
    assert counts(q) == (0, 0)


def test_break_acknowledges(q, read):
    fill(q, [0, 1])
    for message in read(q):
        assert message.order == 0
        break
    gc.collect()
    assert counts(q) == (0, 1)
    assert q.get().order == 1


def left_by(q, read, error):
    """Leave a loop over a queue by an exception, and handle it."""
    with pytest.raises(type(error), match="of the user's"):
        for _ in read(q):
            raise error
    gc.collect()


def test_an_exception_keeps_the_message_until_the_next_call(q, read):
    fill(q, [0, 1])
    left_by(q, read, ValueError("of the user's"))
    assert counts(q) == (1, 2)  # telling is no call that goes on
    assert q.qsize() == 1
    q.put("on")
    assert counts(q) == (0, 2)


def test_closing_the_iterator_keeps_the_message_until_the_next_call(q, read):
    fill(q, [0])
    messages = read(q)
    next(messages)
    messages.close()
    assert counts(q) == (1, 1)
    q.join()
    assert counts(q) == (0, 0)


def test_garbage_collection_of_the_iterator_acknowledges(q, read):
    fill(q, [0, 1])
    cycle = [read(q)]
    cycle.append(cycle)
    next(cycle[0])
    assert counts(q) == (1, 2)
    del cycle
    gc.collect()
    assert counts(q) == (0, 1)


def test_an_iterator_that_was_never_started_holds_nothing(q, read):
    fill(q, [0])
    read(q)
    assert counts(q) == (0, 1)


def test_get_holds_no_lease_and_needs_task_done(q):
    q.put(1)
    q.get()
    assert counts(q) == (0, 1)
    q.task_done()
    assert counts(q) == (0, 0)
    with pytest.raises(ValueError, match="task_done"):
        q.task_done()


def test_two_iterators_share_the_messages(q):
    fill(q, range(4))
    one, other = iter(q), iter(q)
    assert [next(one).order, next(other).order, next(one).order] == [0, 1, 2]
    assert counts(q) == (2, 3)
    del one
    assert counts(q) == (1, 2)
    del other


def test_an_end_is_given_to_a_reader_of_the_process_that_put_it(q):
    # Somebody who reads his own queue in two nested loops must not wait for himself.
    q.put(1).end()
    outer = iter(q)
    next(outer)
    assert list(q) == []
    assert list_and_close(q.end(), outer) == []


def list_and_close(q, messages):
    rest = list(messages)
    assert counts(q) == (0, 0)
    return rest


def test_an_iteration_goes_on_after_an_interruption_elsewhere(q):
    q.put(1)
    for _ in q:
        break
    q.put(2).end()
    assert data_of(q) == [2]


# -- threads --------------------------------------------------------------------------------------


def in_thread(function):
    """Run a function in a thread; returns a function that waits for its result."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()

    def result():
        thread.join(LIMIT_S)
        assert results, "the thread hangs or has failed"
        return results[0]

    return result


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


# -- the mailbox ----------------------------------------------------------------------------------


class Answer:
    """Notes the answer to a call."""

    def __init__(self):
        self.calls = []

    def __call__(self, value, error):
        self.calls.append((value, error))

    @property
    def payloads(self):
        [(value, error)] = self.calls
        assert error is None
        return [record.payload for _, record in value]


def ask(mailbox, client, answer, **options):
    """Make a call that takes one record."""
    call = GetCall(client, answer, **options)
    mailbox.get(call)
    return call


class Box:
    """A mailbox, and readers of it in several processes."""

    def __init__(self, payloads="", maxsize=0):
        self.mailbox = Mailbox(maxsize)
        self.put(payloads)

    def put(self, payloads):
        call = PutCall(payloads, None)
        self.mailbox.put(call)
        assert call.admitted == len(payloads)

    def end(self, number=1, tag=b"", sender=LOCAL):
        self.mailbox.end(number, tag, sender)

    def reader(self, client=None):
        return BoxReader(self.mailbox, client or Client())

    @property
    def waiting(self):
        return self.mailbox.snapshot()

    @property
    def counts(self):
        return self.mailbox.statistics()


class BoxReader:
    def __init__(self, mailbox, client):
        self.mailbox, self.client = mailbox, client
        self.reader = MailReader(client)

    def take(self):
        """Take what must be there now."""
        call = ask(self.mailbox, self.client, Answer(), reader=self.reader)
        assert not call.pending
        [(self.lease, record)] = call.value
        return record.payload

    def wait(self):
        """Ask for what must not be there yet."""
        answer = Answer()
        call = ask(self.mailbox, self.client, answer, reader=self.reader)
        assert call.pending
        assert answer.calls == []
        return answer

    def done(self):
        self.mailbox.lease_done(self.reader, self.lease)

    def die(self, clean=False):
        self.mailbox.client_gone(self.client, [self.reader], clean)

    def close(self):
        """Leave the loop alive, with all in hand finished."""
        self.mailbox.close_reader(self.reader, list(self.reader.leases))


def test_an_end_waits_while_another_process_holds_a_message():
    box = Box("m")
    box.end()
    one, other = box.reader(), box.reader()
    assert one.take() == "m"
    answer = other.wait()
    one.done()
    assert answer.payloads == [END]


def test_an_end_waits_and_then_the_message_comes_back():
    box = Box("m")
    box.end()
    one, other = box.reader(), box.reader()
    one.take()
    answer = other.wait()
    one.die()
    assert answer.payloads == ["m"]
    assert box.counts.redelivered == 1
    assert box.counts.size == 1  # the END


def test_an_end_waits_until_the_holder_leaves_its_loop():
    box = Box("m")
    box.end()
    one, other = box.reader(), box.reader()
    one.take()
    answer = other.wait()
    one.close()
    assert answer.payloads == [END]


def test_an_end_is_handed_out_to_the_holder_itself():
    box = Box("m")
    box.end()
    one = box.reader()
    one.take()
    assert one.take() is END


def test_an_end_is_handed_out_when_all_holders_wait():
    box = Box("mn")
    box.end(2)
    one, other = box.reader(), box.reader()
    one.take()
    other.take()
    first = one.wait()
    second = Answer()
    ask(box.mailbox, other.client, second, reader=other.reader)
    assert first.payloads == [END]
    # One of them works off its buffer now: the other has to wait for what may come back.
    assert second.calls == []
    one.close()
    assert second.payloads == [END]


def test_messages_of_a_holder_that_dies_after_its_end_go_to_the_other():
    box = Box("mn")
    box.end(2)
    one, other = box.reader(), box.reader()
    one.take()
    other.take()
    one.wait()
    second = Answer()
    ask(box.mailbox, other.client, second, reader=other.reader)
    one.die()
    assert second.payloads == ["m"]
    assert other.take() is END


def test_a_call_is_answered_once_also_when_it_serves_another_first():
    # The broker sends what a call that is not pending has in `value`, and what `answer` is given:
    # a call that does both has two replies, and its client is one reply behind from then on.
    box = Box("m")
    one, other = box.reader(), box.reader()
    one.take()
    box.end()
    box.put("n")
    waits = other.wait()
    answer = Answer()
    call = ask(box.mailbox, one.client, answer, reader=one.reader)
    assert waits.payloads == [END]
    assert [record.payload for _, record in call.value] == ["n"]
    assert len(answer.calls) == (1 if call.pending else 0)


def test_an_end_is_handed_out_although_its_sender_holds_a_message():
    box = Box("m")
    sender = Client()
    box.end(sender=sender)
    holder, other = box.reader(sender), box.reader()
    holder.take()
    assert other.take() is END


def test_an_end_held_back_does_not_hold_back_get_of_messages_put_later_by_order():
    box = Box("m")
    box.end()
    one, other = box.reader(), box.reader()
    one.take()
    box.put("n")
    answer = other.wait()
    one.done()
    assert answer.payloads == [END]
    assert box.waiting == ["n"]


def test_withdrawing_an_end_serves_who_waited_behind_it():
    box = Box("m")
    box.end(tag=b"t")
    one, other = box.reader(), box.reader()
    one.take()
    box.put("n")
    answer = other.wait()
    assert box.mailbox.withdraw_ends(b"t") == 1
    assert answer.payloads == ["n"]


def test_only_ends_of_the_tag_are_withdrawn():
    box = Box("m")
    box.end(2, b"a")
    box.end(1, b"b")
    assert box.mailbox.withdraw_ends(b"a") == 2
    assert box.mailbox.withdraw_ends(b"a") == 0
    assert box.counts.size == 2
    reader = box.reader()
    assert [reader.take(), reader.take()] == ["m", END]


def test_redelivered_messages_come_first_and_in_their_order():
    box = Box("abcdef")
    one, other = box.reader(), box.reader()
    assert [one.take(), other.take(), one.take(), other.take()] == list("abcd")
    one.die()
    assert box.waiting == list("acef")
    other.die()
    assert box.waiting == list("abcdef")


def test_redelivered_messages_come_before_ends():
    box = Box("abc")
    box.end()
    one = box.reader()
    assert [one.take(), one.take(), one.take()] == list("abc")
    one.die()
    other = box.reader()
    assert [other.take() for _ in range(4)] == ["a", "b", "c", END]


def test_redelivered_messages_need_no_room():
    box = Box("ab", maxsize=2)
    reader = box.reader()
    reader.take()
    box.put("c")
    reader.die()
    assert box.waiting == list("abc")
    assert box.mailbox.full()


def test_a_reader_that_says_good_bye_gives_back_its_messages_and_has_not_died():
    box = Box("ab")
    for _ in range(5):
        reader = box.reader()
        reader.take()
        reader.die(clean=True)
    assert box.waiting == ["a", "b"]
    assert box.counts.unfinished == 2
    assert (box.counts.lost, box.counts.poisoned, box.counts.redelivered) == (0, 0, 5)


def test_three_deaths_poison_a_message():
    box = Box("ab")
    for death in range(3):
        assert box.counts.poisoned == 0
        reader = box.reader()
        assert reader.take() == "a", death
        reader.die()
    assert box.waiting == ["b"]
    assert box.counts.poisoned == 1
    assert box.counts.unfinished == 1
    assert box.mailbox.set_aside(True) == [(1, "a")]
    assert box.mailbox.set_aside(True) == []
    assert box.mailbox.set_aside(False) == [(1, "a")]
    assert box.mailbox.requeue(1)
    assert not box.mailbox.requeue(1)
    assert box.mailbox.set_aside(False) == []
    assert box.waiting == ["a", "b"]
    assert box.counts.unfinished == 2
    reader = box.reader()
    reader.take()
    reader.die()  # the first death again
    assert box.waiting == ["a", "b"]


def test_a_poisoned_message_releases_joiners():
    box = Box("a")
    joined = Answer()
    box.mailbox.join(call := JoinCall(joined))
    assert call.pending
    for _ in range(3):
        reader = box.reader()
        reader.take()
        reader.die()
    assert joined.calls == [(None, None)]


def test_what_a_dead_process_took_by_get_is_lost_and_counts_as_done():
    box = Box("ab")
    client = Client()
    assert not ask(box.mailbox, client, None).pending
    box.mailbox.client_gone(client, [], clean=False)
    assert box.counts.lost == 1
    assert box.counts.unfinished == 1
    assert box.waiting == ["b"]


def test_closing_a_reader_gives_back_what_it_never_saw():
    box = Box("abc")
    reader = box.reader()
    reader.take()
    done = [reader.lease]
    reader.take()  # its answer was lost on the way
    box.mailbox.close_reader(reader.reader, done)
    assert box.waiting == ["b", "c"]
    assert box.counts.unfinished == 2
    assert box.counts.leased == 0


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_what_is_released_waits_again_in_its_place():
    box = Box("abc")
    reader = box.reader()
    assert reader.take() == "a"
    lease = reader.lease
    assert reader.take() == "b"
    assert box.mailbox.release(reader.reader, lease, 0.0)
    assert not box.mailbox.release(reader.reader, lease, 0.0)
    assert box.waiting == ["a", "c"]
    assert (box.counts.leased, box.counts.unfinished, box.counts.redelivered) == (1, 3, 1)
    assert box.counts.taken == 2


def test_what_is_released_with_a_delay_comes_when_it_is_due_and_is_waited_for():
    clock = Clock()
    box = Box("ab")
    box.mailbox._clock = clock
    told = []
    box.mailbox.on_delay = lambda: told.append(box.mailbox.next_due())
    box.end()
    reader, other = box.reader(), box.reader()
    reader.take()
    box.mailbox.release(reader.reader, reader.lease, 10.0)
    assert told == [10.0]
    assert box.counts.size == 3
    assert box.counts.leased == 0
    assert reader.take() == "b"
    reader.done()
    answer = other.wait()  # an END is there, but not due before the message
    box.mailbox.shutdown(False)
    clock.now = 9.9
    box.mailbox.admit_due()
    assert answer.calls == []
    assert box.mailbox.next_due() == pytest.approx(0.1)
    clock.now = 10.0
    box.mailbox.admit_due()
    assert answer.payloads == ["a"]
    assert box.mailbox.next_due() is None


def test_delayed_messages_take_room_and_are_kept_and_thrown_away_with_the_others():
    box = Box("ab", maxsize=2)
    reader = box.reader()
    reader.take()
    box.mailbox.release(reader.reader, reader.lease, 3600.0)
    assert box.mailbox.full()
    assert box.waiting == ["a", "b"]
    box.mailbox.shutdown(True)
    assert box.waiting == []
    assert (box.counts.size, box.counts.unfinished) == (0, 0)


def test_a_call_that_takes_finds_what_has_become_due():
    clock = Clock()
    box = Box("a")
    box.mailbox._clock = clock
    reader = box.reader()
    reader.take()
    box.mailbox.release(reader.reader, reader.lease, 1.0)
    clock.now = 1.0
    assert reader.take() == "a"


def test_a_reader_that_dies_while_it_waits_gets_nothing():
    box = Box()
    one, other = box.reader(), box.reader()
    answers = [Answer(), Answer()]
    ask(box.mailbox, one.client, answers[0], reader=one.reader, is_alive=lambda: False)
    ask(box.mailbox, other.client, answers[1], reader=other.reader, is_alive=lambda: True)
    box.put("a")
    assert answers[0].calls == []
    assert answers[1].payloads == ["a"]


steps = st.lists(
    st.tuples(st.sampled_from(["put", "end", "take", "done", "die", "close"]), st.integers(0, 2)),
    max_size=60,
)


@given(steps=steps)
@settings(deadline=None, max_examples=150)
def test_no_message_is_lost_and_only_messages_of_the_dead_come_twice(steps):
    box = Box()
    readers = [box.reader() for _ in range(3)]
    answers = [None] * 3
    held = [[], [], []]  # messages in the hands of each reader
    finished, deaths, numbers = [], {}, itertools.count()

    def receive():
        for index, answer in enumerate(answers):
            if answer is not None and answer.calls:
                [(value, _)] = answer.calls
                answers[index] = None
                for lease, record in value:
                    if record.payload is not END:
                        held[index].append((lease, record.payload))

    for step, index in steps:
        reader = readers[index]
        if step == "put":
            box.put([next(numbers)])
        elif step == "end":
            box.end()
        elif step == "take" and answers[index] is None:
            answers[index] = Answer()
            call = ask(box.mailbox, reader.client, answers[index], reader=reader.reader)
            if not call.pending:
                answers[index].calls.append((call.value, None))
        elif step == "done" and held[index]:
            lease, payload = held[index].pop(0)
            box.mailbox.lease_done(reader.reader, lease)
            finished.append(payload)
        elif step == "close" and answers[index] is None:
            reader.close()
            finished += [payload for _, payload in held[index]]
            held[index] = []
        elif step == "die" and answers[index] is None:
            for _, payload in held[index]:
                deaths[payload] = deaths.get(payload, 0) + 1
            reader.die()
            held[index] = []
            readers[index] = box.reader()
        receive()
    poisoned = [payload for payload, count in deaths.items() if count >= 3]
    in_hands = [payload for hand in held for _, payload in hand]
    everything = box.waiting + in_hands + finished + poisoned
    assert sorted(everything) == list(range(next(numbers)))
    found = box.counts
    assert found.leased == len(in_hands)
    assert found.unfinished == len(box.waiting) + len(in_hands)
    assert found.poisoned == len(poisoned)


# -- a garbage collection in the middle of a call -------------------------------------------------


class PutsWhenCollected:
    """Part of a cycle, so that a garbage collection, wherever it runs, puts."""

    def __init__(self, q, data):
        self.q, self.data, self.me = q, data, self

    def __del__(self):
        self.q.put(self.data)


@pytest.fixture
def eager_collector():
    before = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    yield
    gc.set_threshold(*before)


def test_a_put_in_a_garbage_collection_is_not_lost(q, eager_collector):
    taken = []
    for number in range(500):
        PutsWhenCollected(q, -number - 1)
        q.put(number)
        taken.append(q.get().data)
    gc.collect()
    q.end()
    taken += data_of(q)
    assert sorted(taken) == list(range(-500, 500))


def test_puts_in_garbage_collections_of_several_threads(q, eager_collector):
    def work(base):
        for number in range(200):
            PutsWhenCollected(q, base + 1000 + number)
            q.put(base + number)
        return True

    workers = [in_thread(lambda base=base: work(base)) for base in (0, 10_000, 20_000)]
    assert all(worker() for worker in workers)
    gc.collect()
    q.end()
    expected = [
        base + step + n for base in (0, 10_000, 20_000) for step in (0, 1000) for n in range(200)
    ]
    assert sorted(data_of(q)) == sorted(expected)


def test_readers_collected_in_the_middle_of_a_call_let_go(q, eager_collector):
    q.put_many(range(300))
    for _ in range(300):
        cycle = [iter(q)]
        cycle.append(cycle)
        next(cycle[0])
        del cycle
        q.statistics()
    gc.collect()
    assert counts(q) == (0, 0)


def test_a_put_while_this_thread_holds_the_lock():
    """The worst moment, made on purpose: `__del__` runs while the mailbox is locked."""
    q = Q("thread")
    mailbox = q._queue._access.mailbox
    with mailbox._lock:
        mailbox._owner = threading.get_ident()
        q.put("from a collection")
        mailbox._owner = 0
    q.put("after it")
    assert sorted([q.get().data, q.get().data]) == ["after it", "from a collection"]


def test_a_get_while_this_thread_holds_the_lock_is_refused_and_does_not_hang():
    q = Q("thread")
    mailbox = q._queue._access.mailbox
    with mailbox._lock:
        mailbox._owner = threading.get_ident()
        with pytest.raises(RuntimeError, match="__del__"):
            q.get()
        mailbox._owner = 0
