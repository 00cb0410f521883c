"""A garbage collection in the middle of a call, and several calls in one."""

from __future__ import annotations

import gc

import pytest

from qmill.errors import WorkerDied
from qmill.jobs.job import (
    DEFAULT_OPTIONS,
    FINISHED,
    Chunk,
    Job,
    MapCall,
)

from .alone import (
    NUMBERS,
    OWNER,
    ask_in_vain,
    cancel,
    function_of_a_job,
    in_child,
    make,
    succeed,
    wait_a_bit,
)

# -- a garbage collection in the middle of a call -------------------------------------------------


class WatchesWhenCollected:
    """Part of a cycle, so that a garbage collection, wherever it runs, watches other jobs."""

    def __init__(self, jobs, called):
        self.jobs, self.called, self.me = jobs, called, self

    def __del__(self):
        for job in self.jobs:
            job.add_done_callback(self.called.append)
        succeed(self.jobs[0])
        cancel(self.jobs[1])


USES = {
    "callback": lambda job: job.add_done_callback(Job.done),
    "condition": lambda job: job._condition,
    "waiters": lambda job: job._waiters,
    "result": ask_in_vain,
    "wait": wait_a_bit,
    "settle": lambda job: job._settle(FINISHED, None, None),
    "cancel": Job.cancel,
    "all of it": lambda job: (job.add_done_callback(Job.done), succeed(job), job.result()),
}


def use_while_garbage_is_collected(use):
    """Have a collection begin after one more allocation each time, up to the end of the use."""
    called = []
    gc.freeze()
    for allocations in range(1, 120):
        jobs = [make(), make(), make()]
        gc.collect()
        gc.disable()
        WatchesWhenCollected(jobs[:2], called)
        gc.set_threshold(allocations)
        gc.enable()
        use(jobs[2])
        gc.set_threshold(1000)
        gc.collect()
        assert called[-2:] == jobs[:2], "it was not collected"
        assert len(called) == 2 * allocations


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_jobs_may_be_watched_and_settled_in_a_garbage_collection(use):
    # A thread that waits for itself waits for ever: in a child, which can be ended.
    assert in_child(use_while_garbage_is_collected, use) == 0


# -- several calls in one -------------------------------------------------------------------------


def make_chunk(items, owner=OWNER, *, retries=0, **kwargs):
    args, options = (items, False, False), DEFAULT_OPTIONS._replace(retries=retries)
    number = next(NUMBERS)
    return Chunk(number, function_of_a_job, args, None, 100, options, owner, 5.0, **kwargs)


def test_a_chunk_counts_its_calls():
    chunk = make_chunk([1, 2, 3])
    assert chunk._is_chunk
    assert chunk._num_calls == 3
    succeed(chunk, "results")
    chunk._let_go()
    assert chunk._num_calls == 3
    assert chunk.result() == "results"


A, B = ValueError("a"), WorkerDied(1, -9, 9)


def test_a_chunk_whose_calls_all_return_is_whole():
    chunk = make_chunk("abc")
    assert chunk.is_whole(([1, 2, 3], {}))
    assert not chunk.is_whole(([1, 2], {}))
    assert not chunk.is_whole(([1, None, 3], {1: A}))


def test_a_chunk_that_stops_ends_with_the_first_call_that_fails():
    chunk = make_chunk("abcdef")
    assert chunk.add(([1, 2, None], {2: A})) == 0
    assert chunk._to_do == []
    assert chunk.outcome() == ([1, 2, None], {2: A})


def test_a_chunk_that_goes_on_makes_the_calls_that_are_left():
    chunk = make_chunk("abcdef", stops=False)
    assert chunk.add(([1, None, 3, None], {1: A, 3: B})) == 0
    assert (chunk._to_do, chunk._num_to_do, chunk._version) == ([4, 5], 2, 1)
    assert not chunk.is_whole(([5, 6], {}))
    assert chunk.add(([5, 6], {})) == 0
    assert chunk._to_do == []
    assert chunk.outcome() == ([1, None, 3, None, 5, 6], {1: A, 3: B})


@pytest.mark.parametrize("stops", [True, False])
def test_retries_of_a_chunk_count_for_each_call(stops):
    chunk = make_chunk("abcd", retries=2, stops=stops)
    assert chunk.add(([1, None], {1: A})) == 1  # a death: the others were not begun
    assert chunk._to_do == [1, 2, 3]
    assert chunk.add(([None, 3, None], {0: A, 2: A})) == 2
    assert chunk._to_do == [1, 3]
    assert chunk.add(([2, None], {1: B})) == 1
    assert chunk._to_do == [3]
    assert chunk.add(([None], {0: A})) == 0
    assert chunk._to_do == []
    assert chunk.outcome() == ([1, 2, 3, None], {3: A})


def test_a_chunk_that_stops_still_retries_what_comes_before_the_failure():
    chunk = make_chunk("abcd", retries=1)
    assert chunk.add(([None, None, 3, None], {0: A, 1: A, 3: A})) == 3
    assert chunk.add(([None, None, None], {0: A, 1: B, 2: B})) == 0
    assert chunk.outcome() == ([None], {0: A})


def test_a_chunk_that_stops_keeps_no_results_after_the_failure():
    chunk = make_chunk("abcd", retries=1)
    chunk.add(([1, None, 3, 4], {1: A}))
    chunk.add(([None], {0: B}))
    assert chunk.outcome() == ([1, None], {1: B})


def test_a_chunk_keeps_its_items_if_one_is_to_be_named():
    good, bad, broken = (make_chunk("abc") for _ in range(3))
    succeed(good, ([1, 2, 3], {}))
    succeed(bad, ([1, None], {1: A}))
    broken._settle(FINISHED, None, B)
    for chunk in (good, bad, broken):
        chunk._let_go()
        assert chunk.function is None
    assert (good.args, bad.args[0], broken.args[0]) == (None, "abc", "abc")


def test_a_call_of_a_map_keeps_its_item_if_it_is_to_be_named():
    good, bad = (
        MapCall(next(NUMBERS), abs, (-1,), None, 100, DEFAULT_OPTIONS, OWNER, 5.0, index=8)
        for _ in range(2)
    )
    succeed(good, 1)
    bad._settle(FINISHED, None, A)
    for call in (good, bad):
        call._let_go()
        assert (call.function, call._num_calls, call._title) == (None, 1, "item 8 of map")
    assert (good.args, bad.args) == (None, (-1,))


def test_titles():
    assert make_chunk("abc", index=10)._title == "items 10 to 12 of map"
    assert make(name="x")._title == "job x"
