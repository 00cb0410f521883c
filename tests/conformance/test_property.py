"""Any sequence of calls of one thread does what a `collections.deque` and some counters say."""

from __future__ import annotations

from collections import deque

import pytest
from conformance_support import HERE
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import qmill

objects = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
# Ways to call that do not wait for long when they have to wait, and change nothing when not.
manners = st.sampled_from([{"block": False}, {"timeout": 0}, {"timeout": 0.001}])
limits = st.sampled_from([-1, 0, 1, 2, 3, 7])


class QueueAndModel(RuleBasedStateMachine):
    """A queue, and what it should be."""

    kind = "thread"

    def __init__(self):
        super().__init__()
        self.queue = None

    @initialize(maxsize=limits)
    def make(self, maxsize):
        self.queue = qmill.Queue(maxsize, kind=self.kind)
        self.maxsize = max(0, maxsize)
        self.waiting = deque()
        self.counts = dict.fromkeys(("put", "taken", "done", "redelivered"), 0)
        self.shut = False

    def room(self):
        return max(0, self.maxsize - len(self.waiting)) if self.maxsize else 1000

    def unfinished(self):
        return self.counts["put"] - self.counts["done"]

    def expect_refusal(self, error, call):
        with pytest.raises(qmill.ShutDown if self.shut else error):
            call()

    # -- what the model says about each call

    @rule(item=objects, manner=manners)
    def put(self, item, manner):
        if self.shut or not self.room():
            self.expect_refusal(qmill.Full, lambda: self.queue.put(item, **manner))
            return
        assert self.queue.put(item, **manner) is None
        self.waiting.append(item)
        self.counts["put"] += 1

    @rule(items=st.lists(objects, min_size=1, max_size=5), manner=manners)
    def put_many(self, items, manner):
        if self.shut:
            self.expect_refusal(None, lambda: self.queue.put_many(items, **manner))
            return
        fitting = items[: self.room()]
        assert self.queue.put_many(iter(items), **manner) == len(fitting)
        self.waiting.extend(fitting)
        self.counts["put"] += len(fitting)

    @rule(manner=manners)
    def get(self, manner):
        if not self.waiting:
            self.expect_refusal(qmill.Empty, lambda: self.queue.get(**manner))
            return
        assert self.queue.get(**manner) == self.waiting.popleft()
        self.counts["taken"] += 1

    @rule(max_items=st.integers(1, 6), manner=manners)
    def get_many(self, max_items, manner):
        if not self.waiting:
            self.expect_refusal(qmill.Empty, lambda: self.queue.get_many(max_items, **manner))
            return
        expected = [self.waiting.popleft() for _ in range(min(max_items, len(self.waiting)))]
        assert self.queue.get_many(max_items, **manner) == expected
        self.counts["taken"] += len(expected)

    @rule(manner=manners)
    def peek(self, manner):
        if not self.waiting:
            self.expect_refusal(qmill.Empty, lambda: self.queue.peek(**manner))
            return
        assert self.queue.peek(**manner) == self.waiting[0]

    @rule()
    def task_done(self):
        if not self.unfinished():
            with pytest.raises(ValueError, match="task_done"):
                self.queue.task_done()
            return
        self.queue.task_done()
        self.counts["done"] += 1

    @precondition(lambda self: not self.unfinished())
    @rule()
    def join(self):
        self.queue.join()

    @precondition(lambda self: self.shut)
    @rule()
    def iterate(self):
        assert list(self.queue) == list(self.waiting)
        self.counts["taken"] += len(self.waiting)
        self.counts["done"] += min(len(self.waiting), self.unfinished())
        self.waiting.clear()

    @precondition(lambda self: self.waiting)
    @rule(releases=st.booleans())
    def read_one(self, releases):
        for item in self.queue:
            assert item == self.waiting[0]
            if releases:
                self.queue.release(item)
            break
        self.counts["taken"] += 1
        self.counts["redelivered"] += releases
        if not releases:
            self.waiting.popleft()
            self.counts["done"] += min(1, self.unfinished())

    @precondition(lambda self: self.counts["put"] > 3)
    @rule(immediate=st.booleans())
    def shutdown(self, immediate):
        self.queue.shutdown(immediate)
        self.shut = True
        if immediate:
            self.counts["done"] += min(len(self.waiting), self.unfinished())
            self.waiting.clear()

    @rule(maxsize=limits)
    def set_maxsize(self, maxsize):
        self.queue.maxsize = maxsize
        self.maxsize = max(0, maxsize)

    # -- what holds at any time

    @invariant()
    def the_counts_are_exact(self):
        if self.queue is None:
            return
        assert self.queue.qsize() == len(self.waiting)
        assert self.queue.empty() == (not self.waiting)
        if not self.shut:
            assert self.queue.full() == (not self.room())
        assert self.queue.is_shutdown == self.shut
        assert self.queue.maxsize == self.maxsize
        assert self.queue.unfinished_tasks == self.unfinished()
        expected = dict.fromkeys(self.queue.statistics()._fields, 0) | self.counts
        expected |= {"size": len(self.waiting), "maxsize": self.maxsize}
        expected["unfinished"] = self.unfinished()
        assert self.queue.statistics()._asdict() == expected

    def teardown(self):
        if self.queue is not None:
            self.queue.close()


@pytest.mark.parametrize("place", HERE, ids=str)
def test_a_queue_does_what_its_model_does(place, monkeypatch):
    monkeypatch.setenv("QMILL_TRANSPORT", place.transport)
    machine = type(f"QueueAndModel_{place.transport}", (QueueAndModel,), {"kind": place.kind})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=100,
            stateful_step_count=30,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
