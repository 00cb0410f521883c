"""Messages in order of their numbers, and their items."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings, strategies as st

from qmill import Q

from .calls import data_of, fill, orders_of

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
