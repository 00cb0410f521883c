"""A garbage collection in the middle of a call."""

from __future__ import annotations

import gc
import threading

import pytest

from qmill import Q

from .calls import counts, data_of, in_thread


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
