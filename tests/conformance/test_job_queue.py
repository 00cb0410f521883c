"""What `qmill.JobQueue` promises beyond an executor: order, lanes, attempts, records, room."""

from __future__ import annotations

import array
import csv
import datetime
import gc
import logging
import os
import random
import re
import select
import threading
import types
import weakref
from collections import Counter, deque, namedtuple
from concurrent.futures import CancelledError
from functools import partial

import numpy
import pandas
import pytest
from conformance_support import LIMIT_S, Call, blocked, wait_for_end_of

import qmill
from qmill import testing


@pytest.fixture
def paused(make):
    """A queue with one worker that has not been started."""
    return make(1, auto_start=False)


def make_fail():
    """Return a function that travels by value: for one of this module a worker imports pytest."""

    def fail(*_):
        raise KeyError("a key")

    return fail


fail = make_fail()


def outputs_of(jobs):
    return [job.output for job in jobs]


def sizes_of(jobs):
    """Return how many wait, work and are completed."""
    return tuple(jobs.size(**{part: True}) for part in ("waiting", "working", "completed"))


def take_one(queue):
    got = queue.get()
    return got.data if isinstance(got, qmill.Msg) else got


def run_all(jobs):
    jobs.start()
    assert jobs.wait() == 0


# -- put ------------------------------------------------------------------------------------------

Words = type("Words", (list,), {"__module__": "nowhere"})
Pair = type("Pair", (tuple,), {"__module__": "nowhere"})
Point = namedtuple("Point", "x y", module="nowhere")  # travels by value, as `fail` does

ARGS = {
    "None": (lambda: None, ()),
    "an empty list": (lambda: [], ()),
    "a number": (lambda: 5, (5,)),
    "zero": (lambda: 0, (0,)),
    "False": (lambda: False, (False,)),
    "a str": (lambda: "abc", ("abc",)),
    "an empty str": (lambda: "", ("",)),
    "a function": (lambda: len, (len,)),
    "a list": (lambda: [1, 2], (1, 2)),
    "a tuple": (lambda: (1, "b"), (1, "b")),
    "a tuple in a list": (lambda: [(1, 2)], ((1, 2),)),
    "a list with None": (lambda: [None], (None,)),
    "a subclass of list": (lambda: Words(["a", "b"]), ("a", "b")),
    "a subclass of tuple": (lambda: Pair((1, 2)), (1, 2)),
    # one value, which happens to be iterable
    "a named tuple": (lambda: Point(1, 2), (Point(1, 2),)),
    "a struct sequence": (lambda: os.stat_result(range(10)), (os.stat_result(range(10)),)),
    "a range": (lambda: range(3), (range(3),)),
    "a dict": (lambda: {"a": 1, "b": 2}, ({"a": 1, "b": 2},)),
    "an empty dict": (lambda: {}, ({},)),
    "a set": (lambda: {1}, ({1},)),
    "bytes": (lambda: b"ab", (b"ab",)),
    "a deque": (lambda: deque([1, 2]), (deque([1, 2]),)),
    "an array": (lambda: array.array("i", [1, 2]), (array.array("i", [1, 2]),)),
    "a counter": (lambda: Counter("ab"), (Counter("ab"),)),
}


@pytest.mark.parametrize(("make_args", "wanted"), ARGS.values(), ids=ARGS)
def test_forms_of_args(jobs, make_args, wanted):
    job = jobs.put(lambda *args: args, make_args())
    assert job.args == wanted
    assert job.result() == wanted


def make_frame():
    return pandas.DataFrame({"a": [1], "b": [2]})


def test_a_frame_as_args_is_one_argument(jobs):
    """A function was called with the names of its columns."""
    assert jobs.put(lambda *args: [arg.shape for arg in args], make_frame()).result() == [(1, 2)]
    assert jobs.put(lambda *args: [arg.shape for arg in args], numpy.eye(3)).result() == [(3, 3)]


def test_a_generator_as_args_is_one_argument():
    with qmill.JobQueue(1, engine="thread") as jobs:
        items = (2 * n for n in range(3))
        assert jobs.put(lambda *args: args, items).result() == (items,)
    with qmill.JobQueue(1) as jobs:
        error = jobs.put(print, (n for n in range(3)), suppress_errors=True).exception()
        assert type(error) is qmill.SerializationError


@pytest.mark.parametrize("kwargs", [[], [("a", 1)], "", "ab", 3, (1, 2), {1}])
def test_a_second_argument_beside_args_is_told_to_stand_in_a_tuple(some_queue, kwargs):
    """An empty one was dropped without a word."""
    with pytest.raises(TypeError, match=r"kwargs must be a mapping.*put\(pow, \(2, 3\)\)"):
        some_queue.put(pow, 2, kwargs)


@pytest.mark.parametrize(
    "item",
    [3, None, "ab", b"ab", {"a": 1}, {1, 2}, make_frame()],
    ids=lambda item: type(item).__name__,
)
def test_what_starmap_does_not_spread(some_queue, item):
    with pytest.raises(TypeError, match=r"(?s)item of starmap must be a tuple.*\(x,\)"):
        some_queue.starmap(print, [item])
    for argument, call in (
        ("initargs", lambda: qmill.JobQueue(1, initargs=item)),
        ("args", lambda: qmill.Worker(print, item)),
    ):
        with pytest.raises(TypeError, match=rf"(?s){argument} must be a tuple.*\(x,\)"):
            call()


@pytest.mark.parametrize(
    "item",
    [(1, 2), [1, 2], Point(1, 2), range(1, 3), {1: 1, 2: 2}.values(), numpy.array([1, 2])],
    ids=lambda item: type(item).__name__,
)
def test_what_starmap_spreads(jobs, item):
    (job,) = jobs.starmap(lambda *args: list(args), [item])
    assert job.result() == [1, 2]


# -- large arguments ------------------------------------------------------------------------------

LARGE = 100_000


class Held:
    """An argument whose end can be seen."""

    def __init__(self, size):
        self.content = bytes(size)


def let_go(ref):
    gc.collect()
    return ref() is None


def print_nothing(*args, **kwargs):
    """Take anything."""


print_nothing.__module__ = "nowhere"
Held.__module__ = "nowhere"

WAYS_TO_HOLD = {
    "args": lambda held: (print_nothing, ("name", held), None),
    "kwargs": lambda held: (print_nothing, ("name",), {"held": held}),
    "inside": lambda held: (print_nothing, ("name", [{"a": (1, held)}]), None),
    "partial": lambda held: (partial(print_nothing, held), ("name",), None),
    "method": lambda held: (types.MethodType(print_nothing, held), ("name",), None),
}


@pytest.mark.parametrize("make_call", WAYS_TO_HOLD.values(), ids=WAYS_TO_HOLD)
def test_a_completed_job_does_not_hold_large_arguments(jobs, make_call):
    """100 jobs with arrays held 894 MiB until somebody fetched them."""
    held = Held(LARGE)
    ref = weakref.ref(held)
    job = jobs.put(*make_call(held))
    del held
    assert job.result() is None
    jobs.put(print_nothing)  # the engine remembers the last function
    assert jobs.wait() == 0
    assert let_go(ref)
    record = job.to_dict()
    assert (job.state, record["function"], record["args"][0]) == ("done", "print_nothing", "name")
    shown = str(record["args"]) + str(record["kwargs"])
    assert ("Held object" in shown) == (
        type(job.function) is types.FunctionType and len(shown) > 20
    )


@pytest.mark.parametrize("make_call", WAYS_TO_HOLD.values(), ids=WAYS_TO_HOLD)
def test_a_completed_job_holds_small_arguments(jobs, make_call):
    held = Held(100)
    function, args, kwargs = make_call(held)
    job = jobs.put(function, args, kwargs)
    assert job.result() is None
    assert jobs.wait() == 0
    assert (job.function, job.args, job.kwargs) == (function, args, kwargs)


def test_a_completed_job_holds_all_if_it_is_told_to(make):
    jobs = make(1, keep_args=True)
    held = Held(LARGE)
    job = jobs.put(print_nothing, (held,), {"held": held})
    assert jobs.wait() == 0
    assert job.args == (held,)
    assert job.kwargs == {"held": held}


def test_arrays_and_texts_are_told_by_shape_and_beginning(jobs):
    job = jobs.put(print_nothing, (numpy.zeros((100, 200)), "x" * LARGE, 5, None, [1] * LARGE))
    jobs.wait()
    array_text, text, five, none, list_text = job.args
    assert array_text == "<numpy.ndarray of shape (100, 200)>"
    assert text.startswith("'xxx")
    assert (five, none) == (5, None)
    assert list_text.startswith("[1, 1, ")
    assert sum(map(len, (array_text, text, list_text))) < 300


def test_a_job_holds_its_arguments_until_all_are_told(make, tmp_path):
    """Callbacks and the log see them; so do retries."""
    seen = []
    path = tmp_path / "log.csv"
    held = Held(LARGE)
    jobs = make(1, callback=lambda job: seen.append(job.args), log_file=path, auto_start=False)
    job = jobs.put(fail, (held, "x" * LARGE), retries=1, suppress_errors=True)
    job.add_done_callback(lambda job: seen.append(job.args))
    assert job.args[0] is held
    jobs.start()
    assert jobs.wait() == 0
    assert job.attempts == 2
    assert [args[0] for args in seen] == [held, held]
    assert len(path.read_text()) > LARGE
    assert "Held object" in job.to_dict()["args"][0]


@pytest.mark.parametrize("how", ["cancelled", "cannot be sent", "lane"])
def test_a_job_that_never_ran_does_not_hold_large_arguments(how):
    held = Held(LARGE)
    ref = weakref.ref(held)
    with qmill.JobQueue(1, auto_start=False) as jobs:
        options = {"suppress_errors": True}
        if how == "lane":
            options |= {"lane": 1, "stop_on_lane_error": True}
            jobs.put(fail, **options)
        args = (held, threading.Lock()) if how == "cannot be sent" else (held,)
        job = jobs.put(print_nothing, args, **options)
        del held, args
        if how == "cancelled":
            job.cancel()
    assert job.state in ("cancelled", "failed")
    assert let_go(ref)
    assert "Held object" in job.args[0]


def test_a_job_that_a_fork_has_handed_on_does_not_hold_large_arguments():
    held = Held(LARGE)
    held.lock = threading.Lock()
    refs = [weakref.ref(held)]
    with qmill.JobQueue(1, start_method="fork", max_jobs_per_worker=1) as jobs:
        job = jobs.put(print_nothing, (held,))
        other = jobs.submit(print_nothing, held)
        del held
        assert (job.result(), other.result()) == (None, None)
    assert let_go(refs[0])
    assert job.state == other.state == "done"


def test_keyword_arguments(jobs):
    assert jobs.put(dict, kwargs={"a": 1, "b": 2}).result() == {"a": 1, "b": 2}
    assert jobs.put(int, "101", {"base": 2}).result() == 5
    kwargs = dict.fromkeys(["function", "args", "kwargs", "self", "name", "timeout", "fn"], 1)
    assert jobs.put(dict, None, kwargs).result() == kwargs


@pytest.mark.parametrize("kind", [qmill.Queue, qmill.Q])
def test_a_queue_as_args_is_one_argument(jobs, kind):
    queue = kind()
    queue.put("kept")
    job = jobs.put(take_one, queue)
    assert job.result() == "kept"


def test_changing_kwargs_afterwards_changes_nothing(paused):
    args, kwargs = [1], {"a": 1}
    job = paused.put(lambda *args, **kwargs: (args, kwargs), args, kwargs)
    args.append(2)
    kwargs["b"] = 2
    paused.start()
    assert job.result() == ((1,), {"a": 1})


def test_what_a_job_knows_before_it_runs(paused):
    job = paused.put(len, ["abc"])
    assert isinstance(job, qmill.Job)
    assert (job.id, job.name, job.priority, job.lane, job.timeout) == (1, 1, 100, None, None)
    assert (job.function, job.args, job.kwargs or {}) == (len, ("abc",), {})
    assert (job.state, job.output, job.attempts, job.exitcode) == ("waiting", None, 0, None)
    assert (job.started, job.ended, job.processed, job.runtime) == (None, None, None, None)
    assert job.submitted is not None


def test_jobs_are_numbered_from_one(paused):
    some = [paused.put(int), paused.submit(int), paused.put(int, name="c"), paused.put(int)]
    assert [job.id for job in some] == [1, 2, 3, 4]
    assert [job.name for job in some] == [1, 2, "c", 4]


def test_what_a_job_knows_when_it_is_done(jobs):
    job = jobs.put(len, ["abc"], name="length", priority=7, lane="one")
    assert jobs.get() is job
    assert (job.name, job.priority, job.lane) == ("length", 7, "one")
    assert (job.state, job.output, job.attempts, job.exitcode) == ("done", 3, 1, 0)
    assert job.submitted <= job.started <= job.ended <= job.processed
    assert job.runtime >= 0
    assert isinstance(job.worker, str)
    assert (job.function, job.args) == (len, ("abc",))


def test_what_a_job_knows_when_it_has_failed(jobs):
    job = jobs.put(fail)
    assert jobs.get() is job
    assert (job.state, job.output, job.exitcode) == ("failed", None, 1)
    assert job.ended is not None


def test_the_repr_of_queues_and_jobs(make):
    jobs = make(1, name="press")
    job = jobs.put(len, ["abc"], name="length")
    jobs.wait()
    assert "press" in repr(jobs)
    assert "length" in repr(job)
    assert "done" in repr(job)


def test_a_job_has_the_variables_of_the_moment_of_its_put():
    """PAINS 28: yesterday's helper is used, silently."""
    factor = 2

    def scale(number):
        return factor * number

    with qmill.JobQueue(1) as jobs:
        assert jobs.put(scale, 1).result() == 2
        jobs.pause()
        before = jobs.put(scale, 1)
        factor = 3
        after = jobs.put(scale, 1, priority=1)
        jobs.start()
        assert (before.result(), after.result()) == (2, 3)
        assert list(jobs.map(scale, [2, 3])) == [6, 9]


def test_a_function_of_a_thread_is_the_function_itself():
    factor = 2

    def scale(number):
        return factor * number

    with qmill.JobQueue(1, engine="thread") as jobs:
        assert jobs.put(scale, 1).result() == 2
        factor = 3
        assert jobs.put(scale, 1).result() == 3


class Counted:
    """Tells how often it is pickled and unpickled."""

    def __init__(self, pickled, unpickled):
        self.pickled, self.unpickled = pickled, unpickled

    def __reduce__(self):
        self.pickled.append(None)
        return rebuild_counted, (self.unpickled,)

    def __call__(self, number):
        return -number


def rebuild_counted(unpickled):
    unpickled.put(None)
    return Counted([], unpickled)


@pytest.mark.parametrize("form", ["closure", "partial"])
def test_a_function_reaches_each_worker_once(form):
    pickled, unpickled = [], qmill.Queue()
    negate = Counted(pickled, unpickled)
    function = partial(negate) if form == "partial" else lambda number: negate(number)
    with qmill.JobQueue(2) as jobs:
        some = [jobs.put(function, number) for number in range(20)]
        assert [job.result() for job in some] == [-number for number in range(20)]
    assert unpickled.qsize() <= 2


def test_an_instance_is_called_as_it_is_when_it_is_put():
    """Unlike a function it has a state, which may change from job to job."""
    negate = Counted([], qmill.Queue())
    with qmill.JobQueue(1) as jobs:
        some = [jobs.put(negate, number) for number in range(3)]
        assert [job.result() for job in some] == [0, -1, -2]
    assert len(negate.pickled) == 3


# -- size, wait -----------------------------------------------------------------------------------


def test_sizes(make, gate):
    jobs = make(2)
    assert sizes_of(jobs) == (0, 0, 0)
    some = [jobs.put(gate.hold) for _ in range(5)]
    gate.wait_for_start()
    gate.wait_for_start()
    assert sizes_of(jobs) == (3, 2, 0)
    assert jobs.size() == 5
    assert jobs.size(waiting=True, working=True) == 5
    assert jobs.size(waiting=True, completed=True) == 3
    gate.permit(*range(5))
    assert jobs.wait() == 0
    assert sizes_of(jobs) == (0, 0, 5)
    assert jobs.get() in some
    assert jobs.size() == 4
    jobs.collect()
    assert jobs.size() == 0


def test_jobs_of_submit_and_map_never_enter_the_completed_queue(jobs):
    some = [jobs.submit(int), jobs.submit(fail)]
    assert list(jobs.map(abs, [-1, -2])) == [1, 2]
    jobs.options(priority=1).submit(int).result()
    jobs.wait()
    assert all(job.done() for job in some)
    assert sizes_of(jobs) == (0, 0, 0)
    assert jobs.collect() == []
    assert jobs.get() is None


def test_wait_for_nothing(jobs):
    assert jobs.wait() == 0
    assert jobs.wait(timeout=0) == 0
    assert jobs.wait(3) == 0
    jobs.put(int)
    jobs.wait()
    assert jobs.wait() == 0


def test_wait_waits_for_put_and_submit(make, gate):
    jobs = make(2)
    some = [jobs.put(gate.hold), jobs.submit(gate.hold)]
    call = blocked(jobs.wait)
    gate.permit("first")
    assert not call.returned()
    gate.permit("second")
    assert call.result() == 0
    assert all(job.done() for job in some)


def test_wait_with_a_timeout_tells_how_many_are_left(make, gate):
    jobs = make(1)
    for _ in range(3):
        jobs.put(gate.hold)
    assert jobs.wait(timeout=0) == 3
    assert jobs.wait(timeout=0.01) == 3
    gate.permit()
    jobs.get()
    assert jobs.wait(timeout=0) == 2
    gate.permit(1, 2)
    assert jobs.wait(timeout=LIMIT_S) == 0


def test_wait_for_some_counts_from_now_on(make, gate):
    jobs = make(1)
    for _ in range(4):
        jobs.put(gate.hold)
    call = blocked(jobs.wait, 1)
    gate.permit()
    assert call.result() == 3
    call = blocked(jobs.wait, 2)
    gate.permit()
    gate.permit()
    assert call.result() == 1
    gate.permit()
    assert jobs.wait(100) == 0


def test_wait_for_more_than_there_are(jobs):
    for _ in range(3):
        jobs.put(int)
    assert jobs.wait(100) == 0


def test_wait_ends_when_the_rest_is_cancelled(paused):
    paused.put(int)
    paused.submit(int)
    call = blocked(paused.wait)
    paused.clear_waiting()
    assert call.result() == 0


def test_several_may_wait(make, gate):
    jobs = make(1)
    jobs.put(gate.hold)
    calls = [blocked(jobs.wait), blocked(jobs.wait, 1), blocked(jobs.get, timeout=LIMIT_S)]
    gate.permit()
    assert [calls[0].result(), calls[1].result()] == [0, 0]
    assert calls[2].result().state == "done"


# -- get, collect, as_completed -------------------------------------------------------------------


def test_get_gives_the_lowest_priority_number_of_equals_the_oldest(jobs):
    for priority in (3, 1, 2, 1, -1, 1.5):
        jobs.put(abs, priority, priority=priority)
    jobs.wait()
    got = [jobs.get() for _ in range(6)]
    assert [(job.priority, job.id) for job in got] == [
        (-1, 5),
        (1, 2),
        (1, 4),
        (1.5, 6),
        (2, 3),
        (3, 1),
    ]
    assert jobs.get() is None


def test_get_waits_for_a_job(make, gate):
    jobs = make(1)
    job = jobs.put(gate.hold)
    call = blocked(jobs.get)
    gate.permit("fetched")
    assert call.result() is job
    assert job.output == "fetched"


@pytest.mark.parametrize("how", [{"block": False}, {"timeout": 0}, {"timeout": 0.01}], ids=str)
def test_get_when_nothing_is_completed_yet(make, gate, how):
    jobs = make(1)
    job = jobs.put(gate.hold)
    assert jobs.get(**how) is None
    gate.permit()
    jobs.wait()
    assert jobs.get(**how) is job


@pytest.mark.parametrize("how", [{}, {"timeout": LIMIT_S}, {"block": False}], ids=str)
def test_get_gives_none_when_nothing_is_left(jobs, how):
    assert jobs.get(**how) is None
    jobs.put(int)
    assert jobs.get() is not None
    assert jobs.get(**how) is None


def test_get_gives_none_when_all_that_was_left_is_nobodys_to_fetch(make, gate):
    jobs = make(1)
    jobs.submit(gate.hold)
    call = blocked(jobs.get)
    gate.permit()
    assert call.result() is None


def test_get_gives_failed_and_cancelled_jobs(paused):
    bad, dropped, good = paused.put(fail), paused.put(int), paused.put(int)
    dropped.cancel()
    run_all(paused)
    got = [paused.get() for _ in range(3)]
    assert set(got) == {bad, dropped, good}
    assert [job.state for job in (bad, dropped, good)] == ["failed", "cancelled", "done"]


def test_each_completed_job_goes_to_one_of_several_getters(make, gate):
    jobs = make(1)
    some = [jobs.put(gate.hold) for _ in range(3)]
    calls = [blocked(jobs.get) for _ in range(4)]
    gate.permit(1, 2, 3)
    got = [call.result() for call in calls]
    assert sorted(job.id for job in got if job is not None) == [job.id for job in some]
    assert got.count(None) == 1


def test_collect(make, gate):
    jobs = make(1)
    some = [jobs.put(int, priority=priority) for priority in (2, 1, 3)]
    jobs.wait()
    held = jobs.put(gate.hold)
    assert jobs.collect(1) == [some[1]]
    assert jobs.collect(0) == []
    assert jobs.collect() == [some[0], some[2]]
    assert jobs.collect() == []
    gate.permit()
    jobs.wait()
    assert jobs.collect(10) == [held]


def test_a_thousand_reversed_priorities_come_out_reversed(make):
    jobs = make(2, auto_start=False)
    for number in range(1000):
        jobs.put(abs, number, priority=-number)
    run_all(jobs)
    assert outputs_of(jobs.collect()) == list(reversed(range(1000)))


def test_as_completed_fetches_all(make):
    jobs = make(2, auto_start=False)
    some = {jobs.put(abs, number) for number in range(20)}
    jobs.start()
    got = list(jobs.as_completed())
    assert len(got) == 20
    assert set(got) == some
    assert sizes_of(jobs) == (0, 0, 0)
    assert list(jobs.as_completed()) == []


def test_as_completed_gives_jobs_while_others_run(make, gate):
    jobs = make(2)
    slow = jobs.put(gate.hold)
    gate.wait_for_start()
    quick = jobs.put(int)
    completed = jobs.as_completed()
    assert next(completed) is quick
    gate.permit()
    assert list(completed) == [slow]


def test_as_completed_sees_jobs_that_are_put_meanwhile(jobs):
    jobs.put(abs, 3)
    seen = []
    for job in jobs.as_completed():
        seen.append(job.output)
        if job.output:
            jobs.put(abs, job.output - 1)
    assert seen == [3, 2, 1, 0]


# -- priorities -----------------------------------------------------------------------------------


def test_jobs_run_in_the_order_of_their_priorities(paused):
    ran = qmill.Queue()
    priorities = list(range(200))
    random.Random(7).shuffle(priorities)
    for priority in priorities:
        paused.put(ran.put, priority, priority=priority)
    run_all(paused)
    assert ran.get_many(200) == list(range(200))


def test_jobs_of_equal_priority_run_in_the_order_of_put(paused):
    ran = qmill.Queue()
    for number in range(100):
        paused.put(ran.put, [(number % 3, number)], priority=number % 3)
    run_all(paused)
    order = ran.get_many(100)
    assert order == sorted(order)


def test_put_submit_and_map_share_the_priorities(paused):
    ran = qmill.Queue()
    paused.put(ran.put, "put", priority=2)
    paused.submit(ran.put, "submit")
    results = paused.options(priority=1).map(ran.put, ["map"])
    paused.options(priority=-5).submit(ran.put, "options")
    paused.put(ran.put, "late", priority=101)
    run_all(paused)
    assert len(list(results)) == 1
    assert ran.get_many(5) == ["options", "map", "put", "submit", "late"]


@pytest.mark.parametrize("priorities", [(-1.5, 0, 0.5, 10**9), (float("-inf"), 3, float("inf"))])
def test_priorities_are_any_numbers(paused, priorities):
    ran = qmill.Queue()
    for priority in reversed(priorities):
        paused.put(ran.put, priority, priority=priority)
    run_all(paused)
    assert ran.get_many(len(priorities)) == list(priorities)


def test_an_urgent_job_overtakes_those_that_wait(make, gate):
    jobs, ran = make(1), qmill.Queue()
    held = jobs.put(gate.hold)
    gate.wait_for_start()
    for number in range(5):
        jobs.put(ran.put, number)
    jobs.put(ran.put, "urgent", priority=1)
    gate.permit()
    jobs.wait()
    assert held.done()
    assert ran.get_many(6) == ["urgent", 0, 1, 2, 3, 4]


def test_an_urgent_job_overtakes_what_was_sent_ahead_behind_a_long_one(make):
    """Short jobs are sent ahead of time, but what waits behind a long one is taken back."""
    jobs, ran = make(1), qmill.Queue()
    for number in range(300):  # each is short, so that the next ones will be sent ahead
        jobs.submit(ran.put, number)
    jobs.wait()
    assert ran.get_many(300) == list(range(300))
    for _ in range(3):
        jobs.submit(select.select, [], [], [], 0.1)
    for number in range(5):
        jobs.submit(ran.put, number)
    jobs.options(priority=1).submit(ran.put, "urgent")
    jobs.wait()
    assert ran.get_many(6) == ["urgent", 0, 1, 2, 3, 4]


def test_reprioritize(paused):
    ran = qmill.Queue()
    some = [paused.put(ran.put, number, priority=number) for number in range(5)]
    assert paused.reprioritize(some[3], -1) is True
    assert paused.reprioritize(some[0], 10) is True
    assert (some[3].priority, some[0].priority) == (-1, 10)
    run_all(paused)
    assert ran.get_many(5) == [3, 1, 2, 4, 0]
    assert [job.id for job in paused.collect()] == [4, 2, 3, 5, 1]


def test_reprioritize_what_has_begun(make, gate):
    jobs = make(1)
    job = jobs.put(gate.hold)
    gate.wait_for_start()
    assert jobs.reprioritize(job, 1) is False
    gate.permit()
    assert jobs.get() is job
    assert jobs.reprioritize(job, 1) is False


def test_reprioritize_many(paused):
    ran = qmill.Queue()
    some = [paused.submit(ran.put, number) for number in range(300)]
    wanted = list(range(300))
    random.Random(7).shuffle(wanted)
    for priority, number in enumerate(wanted):
        assert paused.reprioritize(some[number], priority)
    run_all(paused)
    assert ran.get_many(300) == wanted


# -- pause, start, clear, stop --------------------------------------------------------------------


def test_a_queue_that_was_not_started_runs_nothing(paused):
    some = [paused.put(int), paused.submit(int)]
    assert sizes_of(paused) == (2, 0, 0)
    assert paused.wait(timeout=0.01) == 2
    assert paused.get(timeout=0) is None
    paused.start()
    assert [job.result() for job in some] == [0, 0]
    assert paused.put(int).result() == 0


def test_pause_lets_what_runs_go_on(make, gate):
    jobs = make(1)
    running, waiting = jobs.put(gate.hold), jobs.put(int)
    gate.wait_for_start()
    jobs.pause()
    jobs.pause()
    gate.permit("went on")
    assert running.result() == "went on"
    assert jobs.wait(timeout=0.01) == 1
    assert not waiting.done()
    jobs.start()
    jobs.start()
    assert waiting.result() == 0


def test_clear_waiting(make, gate):
    jobs, ran = make(1), qmill.Queue()
    running = jobs.put(gate.hold)
    waiting = [jobs.put(ran.put, 1), jobs.submit(ran.put, 1), jobs.put(ran.put, 1, lane="a")]
    gate.wait_for_start()
    jobs.clear_waiting()
    assert [job.cancelled() for job in waiting] == [True] * 3
    gate.permit("went on")
    assert running.result() == "went on"
    assert jobs.wait() == 0
    assert ran.empty()
    assert {job.state for job in jobs.collect()} == {"done", "cancelled"}
    assert jobs.put(int).result() == 0


def test_clear_waiting_of_an_empty_queue(jobs):
    jobs.clear_waiting()
    jobs.stop_all()
    assert jobs.put(int).result() == 0


def test_stop_all_of_processes(gate):
    with qmill.JobQueue(2) as jobs:
        some = [jobs.put(gate.hold, retries=3) for _ in range(4)]
        gate.wait_for_start()
        gate.wait_for_start()
        jobs.stop_all()
        assert jobs.wait() == 0
        assert all(job.done() for job in some)
        assert [job.cancelled() for job in some[2:]] == [True, True]
        for job in some[:2]:
            with pytest.raises((CancelledError, qmill.WorkerDied)):
                job.result()
        assert gate.started.empty()
        assert jobs.put(int).result() == 0
        assert len(jobs.collect()) == 5


def test_stop_all_of_threads_spares_what_runs(gate):
    with qmill.JobQueue(1, engine="thread") as jobs:
        running, waiting = jobs.put(gate.hold), jobs.put(int)
        gate.wait_for_start()
        jobs.stop_all()
        assert waiting.cancelled()
        gate.permit("went on")
        assert running.result() == "went on"
        assert jobs.put(int).result() == 0


# -- workers --------------------------------------------------------------------------------------


def test_so_many_jobs_run_at_a_time(make, gate):
    jobs = make(3)
    for _ in range(5):
        jobs.put(gate.hold)
    for _ in range(3):
        gate.wait_for_start()
    assert sizes_of(jobs) == (2, 3, 0)
    assert gate.started.empty()
    gate.permit(*range(5))
    assert jobs.wait() == 0


def test_more_workers(make, gate):
    jobs = make(1)
    for _ in range(4):
        jobs.put(gate.hold)
    gate.wait_for_start()
    assert sizes_of(jobs) == (3, 1, 0)
    jobs.set_workers(3)
    gate.wait_for_start()
    gate.wait_for_start()
    assert sizes_of(jobs) == (1, 3, 0)
    gate.permit(*range(4))
    assert jobs.wait() == 0


def test_fewer_workers(make, gate):
    jobs = make(3)
    some = [jobs.put(gate.hold) for _ in range(4)]
    for _ in range(3):
        gate.wait_for_start()
    jobs.set_workers(1)
    gate.permit(1, 2)
    assert {jobs.get().output, jobs.get().output} == {1, 2}
    assert sizes_of(jobs) == (1, 1, 0)
    assert gate.started.empty()
    gate.permit(3)
    gate.wait_for_start()
    assert jobs.get().output == 3
    assert sizes_of(jobs) == (0, 1, 0)
    gate.permit(4)
    assert jobs.wait() == 0
    assert sorted(job.output for job in some) == [1, 2, 3, 4]


def test_workers_are_kept_from_job_to_job(engine):
    with qmill.JobQueue(2, engine=engine) as jobs:
        some = [
            jobs.put(os.getpid if engine == "process" else threading.get_ident, name=number)
            for number in range(20)
        ]
        assert len({job.result() for job in some}) <= 2
        assert len({job.worker for job in some}) <= 2


def test_auto_stop_ends_processes_when_all_is_done():
    with qmill.JobQueue(2, auto_stop=True) as jobs:
        pids = {jobs.put(os.getpid).result()}
        assert all(wait_for_end_of(pid) for pid in pids)
        again = {job.result() for job in [jobs.put(os.getpid) for _ in range(4)]}
        assert not again & pids
        assert all(wait_for_end_of(pid) for pid in again)
        assert jobs.wait() == 0
        assert len(jobs.collect()) == 5


def test_auto_stop_ends_threads_when_all_is_done():
    with qmill.JobQueue(2, engine="thread", auto_stop=True) as jobs:
        for _ in range(2):
            thread = jobs.put(threading.current_thread).result()
            thread.join(LIMIT_S)
            assert not thread.is_alive()


def test_auto_stop_waits_until_all_is_done(make, gate):
    jobs = make(1, auto_stop=True)
    jobs.put(gate.hold)
    last = jobs.put(int)
    gate.permit("went on")
    assert last.result() == 0
    assert outputs_of(jobs.as_completed()) == ["went on", 0]


def test_auto_stop_in_seconds_ends_processes_that_have_waited_so_long():
    with qmill.JobQueue(1, auto_stop=0.05) as jobs:
        for _ in range(3):
            assert wait_for_end_of(jobs.put(os.getpid).result())


def test_auto_stop_in_seconds_ends_threads_that_have_waited_so_long():
    with qmill.JobQueue(1, engine="thread", auto_stop=0.05) as jobs:
        for _ in range(3):
            thread = jobs.put(threading.current_thread).result()
            thread.join(LIMIT_S)
            assert not thread.is_alive()


def test_auto_stop_in_seconds_keeps_workers_until_then():
    with qmill.JobQueue(1, auto_stop=3600) as jobs:
        found = set()
        for _ in range(3):
            found.add(jobs.put(os.getpid).result())
            assert jobs.wait() == 0
        assert len(found) == 1


@pytest.mark.parametrize("wrong", [-1, float("nan")])
def test_auto_stop_is_a_time_or_a_bool(make, wrong):
    with pytest.raises(ValueError, match="auto_stop must be"):
        make(1, auto_stop=wrong)
    with pytest.raises(TypeError, match="auto_stop must be a number of seconds or a bool"):
        make(1, auto_stop=None)


def test_auto_remove_keeps_nothing(make):
    jobs = make(2, auto_remove=True)
    some = [jobs.put(abs, number) for number in range(10)]
    assert jobs.wait() == 0
    assert outputs_of(some) == list(range(10))
    assert sizes_of(jobs) == (0, 0, 0)
    assert jobs.collect() == []
    assert jobs.get() is None


# -- room -----------------------------------------------------------------------------------------


def test_put_waits_for_room(make, gate):
    jobs = make(1, maxsize=2)
    jobs.put(gate.hold)
    jobs.put(gate.hold)
    call = blocked(jobs.put, abs, -3)
    gate.permit()
    job = call.result()
    gate.permit()
    assert job.result() == 3


@pytest.mark.parametrize("add", ["submit", "starmap", "map", "options"])
def test_every_way_of_adding_waits_for_room(make, gate, add):
    jobs = make(1, maxsize=1)
    jobs.put(gate.hold)
    calls = {
        "submit": lambda: [jobs.submit(abs, -3).result()],
        "starmap": lambda: [job.result() for job in jobs.starmap(abs, [(-3,), (-3,)])][1:],
        "map": lambda: list(jobs.map(abs, [-3])),
        "options": lambda: [jobs.options(priority=1).submit(abs, -3).result()],
    }
    call = blocked(calls[add])
    gate.permit()
    assert call.result() == [3]


def test_put_without_block_raises_when_there_is_no_room(make, gate):
    jobs = make(1, maxsize=2)
    jobs.put(gate.hold)
    jobs.put(gate.hold, block=False)
    with pytest.raises(qmill.Full):
        jobs.put(int, block=False)
    assert jobs.size() == 2
    gate.permit(1, 2)
    jobs.wait()
    assert jobs.put(int, block=False).result() == 0


def test_completed_jobs_need_no_room(make):
    jobs = make(1, maxsize=1)
    for _ in range(5):
        jobs.put(int)
    jobs.wait()
    assert jobs.size(completed=True) == 5


def test_cancelling_makes_room(make):
    jobs = make(1, maxsize=1, auto_start=False)
    job = jobs.put(int)
    call = blocked(jobs.put, int)
    job.cancel()
    call.result()
    with pytest.raises(qmill.Full):
        jobs.put(int, block=False)


def test_a_job_that_is_retried_needs_no_room_of_its_own(make):
    tickets = qmill.Queue()
    tickets.put_many([False, True])
    jobs = make(1, maxsize=1)
    assert jobs.put(take_ticket(tickets), retries=1).result() == "at last"


def test_a_put_that_waits_for_room_ends_with_the_queue(make, gate):
    jobs = make(1, maxsize=1)
    jobs.put(gate.hold)
    call = blocked(jobs.put, int)
    jobs.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="shut"):
        call.result()
    gate.permit()


# -- lanes ----------------------------------------------------------------------------------------


def test_jobs_of_a_lane_run_one_after_another(make, gate):
    jobs = make(3)
    for number in range(3):
        jobs.put(gate.hold, number, lane="a")
    assert gate.wait_for_start() == 0
    assert sizes_of(jobs) == (2, 1, 0)
    jobs.put(int).result()
    assert gate.started.empty()
    gate.permit()
    assert gate.wait_for_start() == 1
    assert gate.started.empty()
    gate.permit()
    assert gate.wait_for_start() == 2
    gate.permit()
    assert jobs.wait() == 0


@pytest.mark.parametrize("lanes", [("a", "b"), (1, (1, 2)), (0, ""), (False, "0")], ids=str)
def test_lanes_do_not_wait_for_each_other(make, gate, lanes):
    jobs = make(2)
    for lane in lanes:
        jobs.put(gate.hold, [lane], lane=lane)
        jobs.put(gate.hold, [lane], lane=lane)
    assert {gate.wait_for_start(), gate.wait_for_start()} == set(lanes)
    assert sizes_of(jobs) == (2, 2, 0)
    gate.permit(*range(4))
    assert jobs.wait() == 0


def test_only_the_head_of_a_lane_competes(paused):
    """A lane, too, is in the order of priorities, and those behind its head wait for their turn."""
    ran = qmill.Queue()
    paused.put(ran.put, "slow", lane="a", priority=50)
    paused.put(ran.put, "also slow", lane="a", priority=50)
    paused.put(ran.put, "head", lane="a", priority=20)
    paused.put(ran.put, "first", priority=10)
    paused.put(ran.put, "between", priority=30)
    paused.put(ran.put, "last", priority=60)
    run_all(paused)
    assert ran.get_many(6) == ["first", "head", "between", "slow", "also slow", "last"]


def test_a_lane_goes_on_after_a_failure(jobs):
    bad, good = jobs.put(fail, lane="a"), jobs.put(int, lane="a")
    assert good.result() == 0
    assert bad.state == "failed"


def test_a_lane_stops_after_a_failure_up_to_the_first_that_does_not_mind(paused):
    ran = qmill.Queue()
    flag = {"lane": "a", "stop_on_lane_error": True}
    bad = paused.put(fail, lane="a")
    dropped = [paused.put(ran.put, number, **flag) for number in range(2)]
    brave = paused.put(ran.put, "brave", lane="a")
    after = paused.put(ran.put, "after", **flag)
    other = paused.put(ran.put, "other", lane="b", stop_on_lane_error=True)
    run_all(paused)
    assert bad.state == "failed"
    for job in dropped:
        assert (job.state, job.cancelled(), job.done()) == ("cancelled", True, True)
        with pytest.raises(qmill.LaneError):
            job.result()
        with pytest.raises(CancelledError):
            job.exception()
    assert (brave.state, after.state, other.state) == ("done", "done", "done")
    assert set(ran.get_many(3)) == {"brave", "after", "other"}
    assert len(paused.collect()) == 6


def test_a_lane_that_runs_empty_forgets_its_error(jobs):
    jobs.put(fail, lane="a")
    jobs.wait()
    assert jobs.put(int, lane="a", stop_on_lane_error=True).result() == 0


def test_a_job_that_succeeds_at_last_does_not_stop_its_lane(paused):
    tickets = qmill.Queue()
    tickets.put_many([False, True])
    first = paused.put(take_ticket(tickets), lane="a", retries=1)
    second = paused.put(int, lane="a", stop_on_lane_error=True)
    run_all(paused)
    assert (first.output, second.output) == ("at last", 0)


def test_a_lane_waits_for_the_retries_of_its_head(make):
    jobs, ran, tickets = make(2, auto_start=False), qmill.Queue(), qmill.Queue()
    tickets.put_many([False, False, True])

    def attempt():
        ran.put("attempt")
        if not tickets.get():
            raise KeyError
        return "at last"

    jobs.put(attempt, lane="a", retries=2, backoff=0.02)
    jobs.put(ran.put, "second", lane="a")
    run_all(jobs)
    assert ran.get_many(4) == ["attempt", "attempt", "attempt", "second"]


def test_a_user_who_cancels_a_job_does_not_stop_its_lane(paused):
    head = paused.put(int, lane="a")
    second = paused.put(int, lane="a", stop_on_lane_error=True)
    head.cancel()
    run_all(paused)
    assert second.result() == 0


def test_lanes_of_submit_and_map(make, gate):
    jobs = make(2)
    first = jobs.options(lane="a").submit(gate.hold, "first")
    results = jobs.options(lane="a").map(gate.hold, ["second"], chunksize=1)
    assert gate.wait_for_start() == "first"
    jobs.put(int).result()
    assert gate.started.empty()
    gate.permit(1)
    assert first.result() == 1
    assert gate.wait_for_start() == "second"
    gate.permit(2)
    assert list(results) == [2]


def test_many_lanes(jobs):
    ran = [qmill.Queue() for _ in range(5)]
    for number in range(100):
        jobs.put(ran[number % 5].put, number, lane=number % 5)
    jobs.wait()
    for lane, order in enumerate(ran):
        assert order.get_many(20) == list(range(lane, 100, 5))


# -- retries and timeouts -------------------------------------------------------------------------


def take_ticket(tickets):
    """Return a function that fails for each False in the queue and then succeeds."""

    def take():
        if not tickets.get():
            raise KeyError("no luck")
        return "at last"

    return take


def test_a_job_is_retried_until_it_succeeds(jobs):
    tickets = qmill.Queue()
    tickets.put_many([False, False, True, True])
    job = jobs.put(take_ticket(tickets), retries=3)
    assert job.result() == "at last"
    assert (job.attempts, job.state, job.exitcode) == (3, "done", 0)
    assert job.exception() is None
    assert tickets.qsize() == 1
    jobs.wait()
    assert jobs.collect() == [job]


def test_a_job_fails_when_its_retries_are_used_up(jobs):
    tickets = qmill.Queue()
    tickets.put_many([False, False, False, True])
    job = jobs.put(take_ticket(tickets), retries=2)
    with pytest.raises(KeyError, match="no luck"):
        job.result()
    assert (job.attempts, job.state) == (3, "failed")


def test_no_retries_unless_asked_for(jobs):
    job = jobs.put(fail)
    assert type(job.exception()) is KeyError
    assert job.attempts == 1


def test_retries_of_submit(jobs):
    tickets = qmill.Queue()
    tickets.put_many([False, True])
    assert jobs.options(retries=1).submit(take_ticket(tickets)).result() == "at last"


def test_others_run_during_a_backoff(make):
    jobs, tickets = make(1), qmill.Queue()
    tickets.put_many([False])
    job = jobs.put(take_ticket(tickets), retries=1, backoff=0.05)
    others = [jobs.put(abs, number) for number in range(5)]
    assert [job.result() for job in others] == list(range(5))
    assert not job.done()
    tickets.put(True)
    assert job.result() == "at last"
    assert job.attempts == 2


def test_cancelling_during_a_backoff(make):
    jobs, tickets = make(1, auto_start=False), qmill.Queue()
    tickets.put_many([False])
    job = jobs.put(take_ticket(tickets), retries=1, backoff=600)
    after = jobs.put(int)
    jobs.start()
    assert after.result() == 0
    assert not job.done()
    assert job.cancel()
    assert job.cancelled()
    assert jobs.wait() == 0


def test_a_shutdown_waits_for_retries(engine):
    tickets = qmill.Queue()
    tickets.put_many([False, True])
    with qmill.JobQueue(1, engine=engine) as jobs:
        job = jobs.put(take_ticket(tickets), retries=1, backoff=0.01)
    assert job.result(0) == "at last"


def test_a_timeout_kills(gate):
    with qmill.JobQueue(1) as jobs:
        job, after = jobs.put(gate.hold, timeout=0.1), jobs.put(int)
        with pytest.raises(qmill.JobTimeout) as raised:
            job.result()
        assert isinstance(raised.value, TimeoutError)
        assert job.done()
        assert (job.state, job.attempts, job.timeout) == ("timed out", 1, 0.1)
        assert job.exitcode not in (0, None)
        assert after.result() == 0
        assert set(jobs.as_completed()) == {job, after}


def test_a_job_that_is_quick_enough_is_not_killed():
    with qmill.JobQueue(1) as jobs:
        some = [jobs.put(abs, number, timeout=LIMIT_S) for number in range(20)]
        assert [job.result() for job in some] == list(range(20))
        assert len({job.worker for job in some}) == 1


def test_a_timeout_counts_from_the_jobs_start():
    with qmill.JobQueue(1) as jobs:
        jobs.submit(int).result()
        jobs.pause()
        job = jobs.put(int, timeout=0.2)
        with pytest.raises(TimeoutError):
            job.result(timeout=0.4)
        assert not job.done()
        jobs.start()
        assert job.result() == 0


def test_a_timeout_is_not_retried_unless_asked_for(gate):
    with qmill.JobQueue(1) as jobs:
        job = jobs.put(gate.hold, timeout=1, retries=5)
        gate.wait_for_start()
        assert type(job.exception()) is qmill.JobTimeout
        assert (job.attempts, gate.started.qsize()) == (1, 0)


def test_a_timeout_is_retried_when_asked_for(gate):
    with qmill.JobQueue(1) as jobs:
        job = jobs.put(gate.hold, timeout=1, retries=1, retry_timeouts=True)
        gate.wait_for_start()
        gate.wait_for_start()
        gate.permit("at last")
        assert job.result() == "at last"
        assert job.attempts == 2


def test_a_timeout_stops_a_lane(gate):
    with qmill.JobQueue(1) as jobs:
        head = jobs.put(gate.hold, lane="a", timeout=0.05)
        after = jobs.put(int, lane="a", stop_on_lane_error=True)
        with pytest.raises(qmill.LaneError):
            after.result()
        assert type(head.exception()) is qmill.JobTimeout


@pytest.mark.parametrize("how", ["put", "options submit", "options map", "map"])
def test_threads_refuse_timeouts(how):
    calls = {
        "put": lambda jobs: jobs.put(int, timeout=5),
        "options submit": lambda jobs: jobs.options(timeout=5).submit(int),
        "options map": lambda jobs: jobs.options(timeout=5).map(abs, [1]),
        "map": lambda jobs: jobs.map(abs, [1], job_timeout=5),
    }
    with qmill.JobQueue(1, engine="thread") as jobs:
        with pytest.raises(qmill.NotSupported, match="process") as raised:
            calls[how](jobs)
        assert isinstance(raised.value, ValueError)
        assert jobs.size() == 0


# -- callback -------------------------------------------------------------------------------------


def test_the_callback_gets_each_job_as_it_ends(make, gate):
    called = []
    jobs = make(2, callback=called.append)
    slow = jobs.put(gate.hold)
    gate.wait_for_start()
    quick = [jobs.put(abs, number) for number in range(3)]
    quick[-1].result()
    gate.permit()
    assert jobs.wait() == 0
    assert called[-1] is slow
    assert sorted(job.id for job in called) == [1, 2, 3, 4]


def test_callbacks_are_called_in_the_order_in_which_jobs_end(make, gate):
    called = []
    jobs = make(3, callback=called.append)
    gates = [qmill.Queue() for _ in range(3)]
    some = [jobs.put(queue.get) for queue in gates]
    for number in (1, 2, 0):
        gates[number].put(number)
        some[number].result()
    assert jobs.wait() == 0
    assert outputs_of(called) == [1, 2, 0]


def test_callbacks_are_called_for_every_end(make):
    called = []
    jobs = make(1, auto_start=False, callback=called.append)
    some = [jobs.put(abs, 1), jobs.put(fail), jobs.put(int), *jobs.starmap(abs, [(2,)])]
    some[2].cancel()
    lane = {"lane": "a", "stop_on_lane_error": True}
    some += [jobs.put(fail, **lane), jobs.put(int, **lane)]
    run_all(jobs)
    assert set(called) == set(some)
    assert len(called) == len(some)


def test_the_callback_is_not_for_submit_and_map(make):
    called = []
    jobs = make(1, callback=called.append)
    jobs.submit(int).result()
    assert list(jobs.map(abs, [1])) == [1]
    jobs.wait()
    assert called == []


def test_what_a_callback_returned_is_in_the_job(make):
    jobs = make(1, callback=lambda job: f"saw {job.output}")
    job = jobs.put(abs, -3)
    assert jobs.get() is job
    assert job.callback == "saw 3"
    assert job.processed >= job.ended


def test_what_a_callback_raised_is_in_the_job(make):
    jobs = make(1, callback=fail)
    some = [jobs.put(abs, number) for number in range(3)]
    assert set(jobs.as_completed()) == set(some)
    assert [type(job.callback) for job in some] == [KeyError] * 3
    assert outputs_of(some) == [0, 1, 2]
    assert [job.state for job in some] == ["done"] * 3


def test_a_job_is_completed_when_its_callback_has_returned(make):
    seen = []
    jobs = make(1, callback=lambda job: seen.append((job.processed, *sizes_of(jobs))))
    job = jobs.put(int)
    jobs.wait()
    assert seen == [(None, 0, 1, 0)]
    assert job.processed is not None
    assert sizes_of(jobs) == (0, 0, 1)


def test_callbacks_have_a_thread_of_their_own(make):
    threads = set()
    jobs = make(2, callback=lambda job: threads.add(threading.current_thread()))
    workers = (
        {jobs.put(threading.current_thread).result() for _ in range(3)}
        if (jobs.submit(os.getpid).result() == os.getpid())
        else set()
    )
    jobs.put(int)
    jobs.wait()
    assert len(threads) == 1
    assert not threads & {threading.main_thread(), *workers}


def test_a_callback_may_use_the_queue(make):
    seen = []

    def call_back(job):
        if job.output:
            jobs.put(abs, job.output - 1)
        jobs.reprioritize(job, 1)
        jobs.pause()
        seen.append((job.output, jobs.get(block=False), jobs.collect(), jobs.wait(timeout=0) > 0))
        jobs.start()
        jobs.set_workers(2)

    jobs = make(1, callback=call_back)
    jobs.put(abs, 3)
    assert jobs.wait() == 0
    assert [entry[0] for entry in seen] == [3, 2, 1, 0]
    fetched = [job for _, got, collected, _ in seen for job in [got, *collected] if job]
    assert outputs_of([*fetched, *jobs.collect()]) == [3, 2, 1, 0]


def test_callbacks_are_called_outside_all_locks(make):
    """Another thread can use the queue while a callback runs."""
    seen = []

    def call_back(job):
        if job.name == "first":
            calls = [
                Call(jobs.put, abs, -3),
                Call(jobs.size),
                Call(jobs.get, block=False),
                Call(jobs.reprioritize, job, 5),
                Call(jobs.submit, abs, -4),
            ]
            seen.extend(call.result() for call in calls)
            seen.append(seen[-1].result(LIMIT_S))

    jobs = make(1, callback=call_back)
    jobs.put(int, name="first")
    assert jobs.wait() == 0
    assert seen[0].output == 3
    assert seen[-1] == 4


def test_a_callback_that_blocks_delays_completions_but_not_dispatch(make, gate):
    unblock = threading.Event()
    jobs = make(1, callback=lambda job: unblock.wait(LIMIT_S))
    first = jobs.put(abs, -3)
    second = jobs.put(gate.hold)
    gate.wait_for_start()
    submitted = jobs.submit(abs, -4)
    gate.permit("went on")
    assert submitted.result(LIMIT_S) == 4
    assert sizes_of(jobs) == (0, 2, 0)
    assert jobs.get(timeout=0.01) is None
    unblock.set()
    assert list(jobs.as_completed()) == [first, second]
    assert second.output == "went on"


def test_a_callback_that_blocks_does_not_delay_kills(gate):
    unblock = threading.Event()
    with qmill.JobQueue(1, callback=lambda job: unblock.wait(LIMIT_S)) as jobs:
        pid = jobs.put(os.getpid).result(LIMIT_S)
        held = jobs.put(gate.hold, timeout=0.1)
        assert wait_for_end_of(pid)
        assert not unblock.is_set()
        assert jobs.submit(int).result(LIMIT_S) == 0
        unblock.set()
        assert type(held.exception(LIMIT_S)) is qmill.JobTimeout


def test_a_with_block_waits_for_callbacks(engine):
    called = []
    with qmill.JobQueue(2, engine=engine, callback=called.append) as jobs:
        some = [jobs.put(abs, number) for number in range(20)]
    assert sorted(called, key=lambda job: job.id) == some


# -- the log file ---------------------------------------------------------------------------------


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_log_file_has_a_row_for_each_job(make, tmp_path):
    path = tmp_path / "jobs.csv"
    with make(2, log_file=path, name="press") as jobs:
        some = [jobs.put(abs, -number, name=f"job {number}") for number in range(100)]
        jobs.submit(int)
        assert list(jobs.map(abs, [1])) == [1]
        some += jobs.starmap(divmod, [(7, 2)], priority=3)
    rows = rows_of(path)
    assert sorted(int(row["id"]) for row in rows) == [job.id for job in some]
    by_id = {int(row["id"]): row for row in rows}
    for job in some:
        row = by_id[job.id]
        assert list(row) == list(job.to_dict())
        assert (row["qid"], row["name"], row["state"]) == ("press", str(job.name), "done")
        assert (row["priority"], row["attempts"]) == (str(job.priority), "1")
        assert row["output"] == str(job.output)
    lines = path.read_text().splitlines()
    assert lines[0].startswith("qid,id,name,")
    assert len(lines) == 102


def test_the_log_file_has_failed_and_cancelled_jobs(make, tmp_path):
    path = tmp_path / "jobs.csv"
    with make(1, log_file=str(path), auto_start=False) as jobs:
        jobs.put(fail)
        jobs.put(int).cancel()
    failed, cancelled = sorted(rows_of(path), key=lambda row: int(row["id"]))
    assert (failed["state"], cancelled["state"]) == ("failed", "cancelled")
    assert "KeyError" in failed["exception"]
    assert (failed["cancelled"], cancelled["cancelled"]) == ("False", "True")


@pytest.mark.parametrize("text", ['a "quoted", one', "two\nlines", "grüße €", "=1+1", ",", "'"])
def test_the_log_file_keeps_any_text(make, tmp_path, text):
    path = tmp_path / "jobs.csv"
    with make(1, log_file=path) as jobs:
        jobs.put(str, text, name=text)
        jobs.put(int)
    first, second = rows_of(path)
    assert (first["name"], first["output"]) == (text, text)
    assert second["id"] == "2"


def test_the_rows_of_the_log_file_stay_whole_with_any_newline(make, tmp_path):
    path = tmp_path / "jobs.csv"
    with make(1, log_file=path) as jobs:
        for text in ("\r\n", "a\rb", "\n\n", '"\r"\n', "\0\v\f", "\u2028"):
            jobs.put(str, text, name=text)
    assert [int(row["id"]) for row in rows_of(path)] == [1, 2, 3, 4, 5, 6]
    assert {row["state"] for row in rows_of(path)} == {"done"}


def test_the_log_file_is_appended_to(make, tmp_path):
    path = tmp_path / "jobs.csv"
    for name in ("one", "other"):
        with make(1, log_file=path, name=name) as jobs:
            jobs.put(int)
    assert [row["qid"] for row in rows_of(path)] == ["one", "other"]
    assert path.read_text().count("qid") == 1


def test_a_log_file_that_two_queues_share(make, tmp_path):
    path = tmp_path / "jobs.csv"
    with make(1, log_file=path, name="one") as one, make(1, log_file=path, name="other") as other:
        for number in range(50):
            one.put(abs, number)
            other.put(abs, number)
    found = sorted((row["qid"], int(row["id"])) for row in rows_of(path))
    assert found == [(name, number) for name in ("one", "other") for number in range(1, 51)]
    assert path.read_text().count("qid") == 1


def test_a_log_file_tells_what_the_callback_did(make, tmp_path):
    path = tmp_path / "jobs.csv"
    with make(1, log_file=path, callback=lambda job: "called back") as jobs:
        jobs.put(int)
    [row] = rows_of(path)
    assert row["callback"] == "called back"
    assert row["processed"] >= row["ended"] >= row["started"] >= row["submitted"] > ""


def test_a_log_file_that_cannot_be_written(engine, tmp_path):
    with pytest.raises(OSError):
        qmill.JobQueue(1, engine=engine, log_file=tmp_path / "no such" / "jobs.csv")
    with pytest.raises(OSError):
        qmill.JobQueue(1, engine=engine, log_file=tmp_path)


def test_a_log_file_of_somebody_else_is_refused(engine, tmp_path):
    path = tmp_path / "accounts.csv"
    path.write_text("id,amount\n1,5\n")
    with testing.nothing_left_behind(), pytest.raises(ValueError, match="'id,amount'"):
        qmill.JobQueue(1, engine=engine, log_file=path)
    assert path.read_text() == "id,amount\n1,5\n"


# -- records --------------------------------------------------------------------------------------

KEYS = [
    *("qid", "id", "name", "priority", "lane", "timeout", "function", "args", "kwargs"),
    *("submitted", "started", "ended", "processed", "exitcode", "cancelled", "runtime"),
    *("output", "exception", "callback", "state", "worker", "attempts", "host"),
]


def test_the_record_of_a_job_that_is_done(make):
    jobs = make(1, name="press", callback=lambda job: "seen")
    job = jobs.put(divmod, [7, 2], name="division", priority=3, lane=("a", 1))
    jobs.wait()
    record = job.to_dict()
    assert list(record) == KEYS
    assert record["qid"] == "press"
    assert (record["id"], record["name"], record["priority"]) == (1, "division", 3)
    assert (record["lane"], record["timeout"]) == (("a", 1), None)
    assert "divmod" in record["function"]
    assert list(record["args"]) == [7, 2]
    assert not record["kwargs"]
    assert (record["exitcode"], record["cancelled"], record["attempts"]) == (0, False, 1)
    assert (record["output"], record["exception"]) == ((3, 1), None)
    assert (record["callback"], record["state"]) == ("seen", "done")
    assert record["worker"] == job.worker
    times = [record[key] for key in ("submitted", "started", "ended", "processed")]
    assert times == sorted(times)
    assert all(type(time) is datetime.datetime and time.tzinfo is None for time in times)
    assert abs(datetime.datetime.now() - times[0]) < datetime.timedelta(seconds=LIMIT_S)
    assert 0 <= record["runtime"] <= LIMIT_S


def test_the_record_of_a_job_that_failed(jobs):
    job = jobs.put(fail, kwargs=None)
    jobs.wait()
    record = job.to_dict()
    assert (record["state"], record["exitcode"], record["output"]) == ("failed", 1, None)
    assert "KeyError: 'a key'" in record["exception"]
    assert "in fail" in record["exception"]


def test_the_record_of_a_job_that_waits(paused):
    record = paused.put(int, kwargs={"base": 2}).to_dict()
    assert list(record) == KEYS
    assert (record["state"], record["started"], record["ended"]) == ("waiting", None, None)
    assert (record["cancelled"], record["kwargs"]) == (False, {"base": 2})


def test_the_record_of_a_job_that_was_cancelled(paused):
    job = paused.put(int)
    job.cancel()
    paused.wait()
    record = job.to_dict()
    assert (record["state"], record["cancelled"], record["started"]) == ("cancelled", True, None)


def test_the_states_of_a_job(make, gate):
    jobs = make(1)
    running, waiting = jobs.put(gate.hold), jobs.put(int)
    gate.wait_for_start()
    assert (running.state, waiting.state) == ("working", "waiting")
    assert running.started is not None
    gate.permit()
    jobs.wait()
    assert (running.state, waiting.state) == ("done", "done")


def test_a_queue_without_a_name_has_eight_digits(make):
    qids = {make(1).put(int).to_dict()["qid"] for _ in range(3)}
    assert len(qids) == 3
    assert all(re.fullmatch(r"[0-9a-f]{8}", qid) for qid in qids)


# -- options, starmap -----------------------------------------------------------------------------


def test_options_submit(paused):
    chosen = paused.options(name="urgent", priority=1, lane="a", retries=2)
    job = chosen.submit(dict, a=1, name=2)
    assert (job.name, job.priority, job.lane) == ("urgent", 1, "a")
    paused.start()
    assert job.result() == {"a": 1, "name": 2}
    assert paused.collect() == []


def test_options_timeout(gate):
    with qmill.JobQueue(1) as jobs:
        job = jobs.options(timeout=0.05).submit(gate.hold)
        assert type(job.exception()) is qmill.JobTimeout


def test_options_map(jobs):
    assert list(jobs.options(priority=1).map(pow, [2, 3], [4, 5])) == [16, 243]
    assert list(jobs.options(retries=1).map(abs, range(10), chunksize=3)) == list(range(10))
    assert list(jobs.options(lane="a").map(abs, range(10), buffersize=2)) == list(range(10))


def test_options_can_be_used_again_and_change_nothing_else(paused):
    urgent = paused.options(priority=1)
    assert [urgent.submit(int).priority for _ in range(3)] == [1, 1, 1]
    assert paused.submit(int).priority == 100


def test_starmap(jobs):
    some = jobs.starmap(pow, [(2, 3), [3, 2], iter((5, 2, 7))], priority=7)
    assert [job.result() for job in some] == [8, 9, 4]
    assert [job.priority for job in some] == [7] * 3
    assert [job.args for job in some] == [(2, 3), (3, 2), (5, 2, 7)]
    jobs.wait()
    assert jobs.collect() == some


def test_starmapkw(jobs):
    some = jobs.starmapkw(dict, ({"a": number} for number in range(3)), lane="a")
    assert [job.result() for job in some] == [{"a": 0}, {"a": 1}, {"a": 2}]
    assert [job.lane for job in some] == ["a"] * 3
    jobs.wait()
    assert jobs.collect() == some


def test_starmap_of_nothing(jobs):
    assert jobs.starmap(pow, []) == []
    assert jobs.starmapkw(dict, []) == []
    assert jobs.wait() == 0


# -- what cannot be sent --------------------------------------------------------------------------


class Refuses:
    """Cannot be pickled."""

    def __reduce__(self):
        raise TypeError("refuses to be pickled")


def test_what_cannot_be_sent_fails_the_job_and_does_not_raise():
    lock = threading.Lock()
    calls = {
        "argument": (len, [[lock]]),
        "keyword argument": (dict, None, {"lock": lock}),
        "closure": (lambda: lock, None),
        "bound method": (lock.acquire, None),
    }
    with qmill.JobQueue(1) as jobs:
        for name, call in calls.items():
            job = jobs.put(*call, name=name)
            with pytest.raises(qmill.SerializationError):
                job.result()
            assert job.state == "failed"
        submitted = jobs.submit(len, Refuses())
        assert type(submitted.exception()) is qmill.SerializationError
        assert jobs.put(abs, -3).result() == 3
        assert len(list(jobs.as_completed())) == 5


def test_threads_need_no_pickle():
    lock = threading.Lock()
    with qmill.JobQueue(1, engine="thread") as jobs:
        assert jobs.put(lambda one: one, [lock]).result() is lock


@pytest.mark.parametrize("how", ["put", "submit"])
def test_what_cannot_be_pickled_fails_only_its_job(how):
    """PAINS 6: an item that cannot be pickled vanishes or hangs."""
    with qmill.JobQueue(1) as jobs:
        add = getattr(jobs, how)
        before, after = jobs.put(os.getpid), None
        bad_item = add(len, [threading.Lock()])
        bad_result = add(threading.Lock)
        after = jobs.put(os.getpid)
        for bad in (bad_item, bad_result):
            with pytest.raises(qmill.SerializationError, match="lock"):
                bad.result()
        assert before.result() == after.result()


def test_large_results_that_nobody_reads_keep_no_one(engine):
    """PAINS 4: join before drain deadlocks."""
    with qmill.JobQueue(2, engine=engine) as jobs:
        for _ in range(8):
            jobs.put(bytes, 200_000)
    assert [len(job.output) for job in jobs.collect()] == [200_000] * 8


def test_large_arguments_and_results_cross(make):
    """PAINS 4: join before drain deadlocks."""
    jobs = make(2)
    some = [jobs.put(bytes.upper, [b"x" * 3_000_000]) for _ in range(8)]
    assert all(job.result() == b"X" * 3_000_000 for job in some)


def test_an_error_is_raised_and_kept_with_its_traceback(jobs):
    """PAINS 24: a task that raises makes `map` return 3 of 8 results, silently."""

    def fail_at_three(number):
        if number == 3:
            raise ZeroDivisionError(number)
        return number

    some = [jobs.put(fail_at_three, number) for number in range(8)]
    jobs.wait()
    assert outputs_of(jobs.collect()) == [0, 1, 2, None, 4, 5, 6, 7]
    with pytest.raises(ZeroDivisionError):
        some[3].result()
    assert "in fail_at_three" in some[3].to_dict()["exception"]


# -- several threads ------------------------------------------------------------------------------


def use_at_random(jobs, seed):
    """Put jobs and do something to one of them now and then; return them."""
    chance, some = random.Random(seed), []

    def answer(number, is_bad):
        if is_bad:
            raise KeyError(number)
        return number

    for number in range(150):
        job = jobs.put(
            answer,
            (number, chance.random() < 0.1),
            priority=chance.randrange(5),
            lane=chance.choice([None, None, None, "a", 1]),
            retries=chance.choice([0, 0, 1]),
            stop_on_lane_error=chance.random() < 0.3,
            suppress_errors=True,
        )
        some.append(job)
        action = chance.choice(ACTIONS)
        action(jobs, chance.choice(some))
    return some


ACTIONS = [
    lambda jobs, job: job.cancel(),
    lambda jobs, job: jobs.reprioritize(job, 2.5),
    lambda jobs, job: jobs.set_workers(job.id % 3 + 1),
    lambda jobs, job: jobs.pause(),
    lambda jobs, job: jobs.start(),
    lambda jobs, job: jobs.submit(abs, -3),
    *[lambda jobs, job: None] * 20,
]


def test_every_job_ends_once_whatever_several_threads_do(make):
    called, told = [], []
    jobs = make(2, callback=called.append)
    putters = [Call(use_at_random, jobs, seed) for seed in range(4)]
    some = [job for putter in putters for job in putter.result()]
    for job in some:
        job.add_done_callback(told.append)
    jobs.start()
    getters = [Call(lambda: list(jobs.as_completed())) for _ in range(2)]
    got = [job for getter in getters for job in getter.result()]
    assert jobs.wait() == 0
    for those in (got, called, told):
        assert sorted(job.id for job in those) == sorted(job.id for job in some)
    for job in some:
        number, is_bad = job.args
        if job.state != "cancelled":
            assert (job.state, job.output) == (("failed", None) if is_bad else ("done", number))


def test_what_it_is_given_may_use_the_queue(jobs):
    """Iterables, like callbacks, are the users' own code: it runs outside all locks."""

    def generate():
        for number in range(5):
            yield jobs.submit(abs, -number).result()

    (job,) = jobs.starmap(lambda *args: args, [generate()])
    assert job.result() == (0, 1, 2, 3, 4)
    assert [job.result() for job in jobs.starmap(abs, ([n] for n in generate()))] == [0, 1, 2, 3, 4]
    assert list(jobs.map(abs, generate())) == [0, 1, 2, 3, 4]
    assert list(jobs.map(abs, generate(), buffersize=2)) == [0, 1, 2, 3, 4]


# -- log messages ---------------------------------------------------------------------------------


def test_debug_lines(engine, caplog):
    with caplog.at_level(logging.DEBUG, logger="qmill"):
        with qmill.JobQueue(3, engine=engine) as jobs:
            jobs.put(int, name="the job")
    told = [record for record in caplog.records if record.name.split(".")[0] == "qmill"]
    assert {record.levelno for record in told} == {logging.DEBUG}
    lines = [record.getMessage().lower() for record in told]
    initialised, queued, started, completed, stopped = (
        [bool(re.search(pattern, line)) for line in lines].index(True)
        for pattern in (
            "initiali[sz]ed .*3 workers",
            "queued job.*the job",
            "started job.*the job",
            "completed job.*the job",
            "stopped",
        )
    )
    assert initialised < started < completed < stopped
    assert initialised < queued < stopped  # told by another thread than the rest


def test_a_failure_that_nobody_asks_for_is_logged(make, caplog):
    with caplog.at_level(logging.INFO, logger="qmill"):
        jobs = make(1)
        jobs.put(fail, name="bad job", suppress_errors=False)
        jobs.wait()
        jobs.collect()
        gc.collect()
        jobs.shutdown()  # waits until everything is told
    told = [record for record in caplog.records if "bad job" in record.getMessage()]
    assert len(told) == 1
    assert told[0].levelno >= logging.WARNING


def test_a_failure_can_be_kept_out_of_the_log(make, caplog):
    with caplog.at_level(logging.INFO, logger="qmill"):
        jobs = make(1)
        jobs.put(fail, name="bad job", suppress_errors=True)
        jobs.wait()
        jobs.collect()
        gc.collect()
    assert caplog.records == []


# -- wrong arguments ------------------------------------------------------------------------------

NAN = float("nan")

WRONG_MAKING = [
    ("max_workers", 0, ValueError),
    ("max_workers", -1, ValueError),
    ("max_workers", "2", TypeError),
    ("max_workers", 1.5, TypeError),
    ("engine", "fork", ValueError),
    ("engine", 3, (TypeError, ValueError)),
    ("maxsize", "1", TypeError),
    ("maxsize", 1.5, TypeError),
    ("initializer", 3, TypeError),
    ("initargs", 3, TypeError),
    ("callback", 3, TypeError),
    ("log_file", 3.5, TypeError),
    ("start_method", "spoon", ValueError),
    ("start_method", 3, (TypeError, ValueError)),
    ("mp_context", "fork", TypeError),
    ("max_jobs_per_worker", 0, ValueError),
    ("max_jobs_per_worker", "1", TypeError),
    ("max_memory_per_worker", 0, ValueError),
    ("max_memory_per_worker", "1", TypeError),
]


def ids_of(table):
    return [f"{row[0]}={row[1]!r}" for row in table]


@pytest.mark.parametrize(("name", "value", "error"), WRONG_MAKING, ids=ids_of(WRONG_MAKING))
def test_wrong_arguments_of_a_queue(name, value, error):
    with pytest.raises(error, match=name):
        qmill.JobQueue(**{name: value})


@pytest.mark.parametrize("number", [0, -1, -(10**30)])
def test_too_few_workers_are_refused_in_the_words_of_executors(engine, number):
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        qmill.JobQueue(number, engine=engine)
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        list(qmill.map(abs, [1], max_workers=number, engine=engine))


@pytest.mark.parametrize("name", ["max_jobs_per_worker", "max_memory_per_worker", "start_method"])
def test_threads_refuse_what_only_processes_can(name):
    value = "fork" if name == "start_method" else 1000
    with pytest.raises(qmill.NotSupported, match="process"):
        qmill.JobQueue(engine="thread", **{name: value})


def test_unknown_arguments():
    with pytest.raises(TypeError):
        qmill.JobQueue(workers=3)
    with pytest.raises(TypeError):
        qmill.JobQueue(2, "process")


WRONG_OPTIONS = [
    ("priority", "1", TypeError),
    ("priority", None, TypeError),
    ("priority", NAN, ValueError),
    ("lane", [], TypeError),
    ("timeout", "1", TypeError),
    ("timeout", -1, ValueError),
    ("timeout", NAN, ValueError),
    ("retries", -1, ValueError),
    ("retries", 1.5, TypeError),
    ("retries", "1", TypeError),
    ("retries", None, TypeError),
    ("retries", "", TypeError),
    ("backoff", -1, ValueError),
    ("backoff", "1", TypeError),
    ("backoff", None, TypeError),
    ("backoff", NAN, ValueError),
]

WAYS_TO_PUT = {
    "put": lambda jobs, **options: jobs.put(int, **options),
    "starmap": lambda jobs, **options: jobs.starmap(int, [()], **options),
    "starmapkw": lambda jobs, **options: jobs.starmapkw(int, [{}], **options),
    "options": lambda jobs, **options: jobs.options(**options),
}


@pytest.fixture(scope="module")
def some_queue():
    """One for calls that add nothing to it."""
    with qmill.JobQueue(1, auto_start=False) as jobs:
        yield jobs
        jobs.clear_waiting()


@pytest.mark.parametrize("way", WAYS_TO_PUT.values(), ids=WAYS_TO_PUT)
@pytest.mark.parametrize(("name", "value", "error"), WRONG_OPTIONS, ids=ids_of(WRONG_OPTIONS))
def test_wrong_options(some_queue, way, name, value, error):
    with pytest.raises(error, match=name):
        way(some_queue, **{name: value})


WRONG_CALLS = {
    "put a number": (lambda jobs: jobs.put(3), TypeError, "function"),
    "put None": (lambda jobs: jobs.put(None), TypeError, "function"),
    "put kwargs list": (lambda jobs: jobs.put(int, None, [1]), TypeError, "kwargs"),
    "put kwargs number": (lambda jobs: jobs.put(int, None, 3), TypeError, "kwargs"),
    "put unknown option": (lambda jobs: jobs.put(int, colour=1), TypeError, "colour"),
    "submit a number": (lambda jobs: jobs.submit(3), TypeError, "fn|function"),
    "map a number": (lambda jobs: jobs.map(3, [1]), TypeError, "fn|function"),
    "map no iterable": (lambda jobs: jobs.map(abs, 3), TypeError, "itera"),
    "map chunksize 0": (lambda jobs: jobs.map(abs, [1], chunksize=0), ValueError, "chunksize"),
    "map chunksize str": (lambda jobs: jobs.map(abs, [1], chunksize="1"), TypeError, "chunksize"),
    "map buffersize 0": (lambda jobs: jobs.map(abs, [1], buffersize=0), ValueError, "buffersize"),
    "map buffersize str": (
        lambda jobs: jobs.map(abs, [1], buffersize="1"),
        TypeError,
        "buffersize",
    ),
    "map timeout str": (lambda jobs: jobs.map(abs, [1], timeout="1"), TypeError, "timeout"),
    "map job_timeout str": (
        lambda jobs: jobs.map(abs, [1], job_timeout="1"),
        TypeError,
        "job_timeout",
    ),
    "map job_timeout -1": (
        lambda jobs: jobs.map(abs, [1], job_timeout=-1),
        ValueError,
        "job_timeout",
    ),
    "starmap a number": (lambda jobs: jobs.starmap(3, [()]), TypeError, "function"),
    "starmap no iterable": (lambda jobs: jobs.starmap(abs, 3), TypeError, "itera"),
    "starmapkw no dicts": (lambda jobs: jobs.starmapkw(abs, [3]), TypeError, "kwargs|mapping|dict"),
    "wait -1": (lambda jobs: jobs.wait(-1), ValueError, "n"),
    "wait str": (lambda jobs: jobs.wait("1"), TypeError, "n"),
    "wait timeout str": (lambda jobs: jobs.wait(timeout="1"), TypeError, "timeout"),
    "wait timeout nan": (lambda jobs: jobs.wait(timeout=NAN), ValueError, "timeout"),
    "get timeout str": (lambda jobs: jobs.get(timeout="1"), TypeError, "timeout"),
    "get timeout -1": (lambda jobs: jobs.get(timeout=-1), ValueError, "timeout"),
    "collect -1": (lambda jobs: jobs.collect(-1), ValueError, "n"),
    "collect str": (lambda jobs: jobs.collect("1"), TypeError, "n"),
    "set_workers 0": (lambda jobs: jobs.set_workers(0), ValueError, "n|workers"),
    "set_workers str": (lambda jobs: jobs.set_workers("1"), TypeError, "n|workers"),
    "set_workers None": (lambda jobs: jobs.set_workers(None), TypeError, "n|workers"),
    "reprioritize a number": (lambda jobs: jobs.reprioritize(3, 1), TypeError, "job"),
}


@pytest.mark.parametrize(("call", "error", "name"), WRONG_CALLS.values(), ids=WRONG_CALLS)
def test_wrong_arguments(some_queue, call, error, name):
    with pytest.raises(error, match=name):
        call(some_queue)


def test_a_wrong_priority_when_reprioritizing(paused):
    job = paused.put(int)
    for priority, error in (("1", TypeError), (None, TypeError), (NAN, ValueError)):
        with pytest.raises(error, match="priority"):
            paused.reprioritize(job, priority)
    assert job.priority == 100


def test_reprioritizing_a_job_of_another_queue(make):
    one, other = make(1, auto_start=False), make(1, auto_start=False)
    job = other.put(int)
    with pytest.raises(ValueError, match="job"):
        one.reprioritize(job, 1)


def test_keyword_arguments_that_are_none_fail_the_job(jobs):
    assert type(jobs.put(dict, None, {1: 2}).exception()) is TypeError
    assert jobs.put(int).result() == 0


def test_a_generator_of_args_that_raises(some_queue):
    def generate():
        yield 1
        raise ZeroDivisionError("in the arguments")

    with pytest.raises(ZeroDivisionError):
        some_queue.starmap(int, [generate()])
    with pytest.raises(ZeroDivisionError):
        some_queue.starmap(int, (1 / 0 for _ in range(2)))


# -- for programs that fork -----------------------------------------------------------------------


def test_stop_working_kills_what_it_can_and_lets_those_that_wait_have_their_turn(make, engine):
    gate, begun = qmill.Queue(), qmill.Queue()
    jobs = make(1)
    stopped = jobs.put(lambda: [begun.put(1), gate.get()])
    waiting = jobs.put(abs, -1)
    begun.get()
    jobs.stop_working()
    if engine == "thread":  # which cannot be killed
        gate.put("go on")
    assert jobs.wait() == 0
    assert stopped.state == ("done" if engine == "thread" else "cancelled")
    assert waiting.output == 1


def test_wait_worker_returns_when_there_are_fewer_jobs_than_workers(make):
    gate = qmill.Queue()
    jobs = make(1)
    assert jobs.wait_worker()
    jobs.put(lambda: gate.get())
    assert not jobs.wait_worker(timeout=0)
    gate.put("go on")
    assert jobs.wait_worker()


def test_what_cannot_be_pickled_is_inherited_by_a_fork_for_one_job():
    with qmill.JobQueue(1, start_method="fork", max_jobs_per_worker=1) as jobs:
        first = jobs.put(abs, -1)
        second = jobs.put(next, (iter([2, 3]),), name="second")
        lock = threading.Lock()
        lock.acquire()
        third = jobs.put(lambda lock, key: (lock.locked(), key), (lock,), {"key": "third"})
    assert [first.result(), second.result(), third.result()] == [1, 2, (True, "third")]


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_without_a_fork_it_fails_the_job(method):
    with qmill.JobQueue(1, start_method=method) as jobs:
        job = jobs.put(abs, threading.Lock())
    assert isinstance(job.exception(), qmill.SerializationError)
