"""Messages in hand return when their reader fails."""

from __future__ import annotations

import gc

import pytest

from .calls import counts, data_of, fill


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
