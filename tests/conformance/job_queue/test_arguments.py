"""Arguments of jobs: their forms, and large ones."""

from __future__ import annotations

import array
import gc
import os
import threading
import types
import weakref
from collections import Counter, deque, namedtuple
from functools import partial

import numpy
import pandas
import pytest

import qmill

from .common_jobs import fail


def take_one(queue):
    got = queue.get()
    return got.data if isinstance(got, qmill.Msg) else got


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
