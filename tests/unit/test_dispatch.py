"""The dispatcher by itself (`dispatch`, `settling`), on a played engine and a clock of numbers."""

from __future__ import annotations

import itertools
import math
from concurrent.futures import CancelledError
from queue import SimpleQueue

import pytest

import qmill
from qmill.job_queue import dispatch, settling
from qmill.job_queue.dispatch import Dispatcher
from qmill.jobs.job import Job, Options

from ..crash.programs import Call
from ..limits import _no_test_hangs  # noqa: F401 (a fixture)
from .played_engine import PlayedEngine


class Bench:
    """A dispatcher, its engine, and jobs with a name each."""

    def __init__(self, engine, maxsize=0, auto_stop_s=math.inf):
        self.engine = engine
        self.dispatcher = Dispatcher(engine, "played", maxsize, None, auto_stop_s, False)
        self.dispatcher.resume()
        self._numbers = itertools.count(1)

    def put(self, name, priority=100, *, block=True, **options):
        options = Options(name=name, **options)
        number, now = next(self._numbers), self.engine.now
        job = Job(number, print, (), None, priority, options, self.dispatcher, now)
        self.dispatcher.put(job, block)
        return job

    def put_all(self, names, **options):
        return [self.put(name, **options) for name in names]

    @property
    def running(self):
        self.engine.settle()
        return "".join(job.name for job in self.engine.running)

    @property
    def begun(self):
        self.engine.settle()
        return "".join(job.name for job in self.engine.begun)

    def finish(self, *jobs, result=None):
        for job in jobs:
            self.engine.settle()
            self.engine.finish(job, result)
        self.engine.settle()

    def fail(self, job, error):
        self.engine.settle()
        self.engine.fail(job, error)
        self.engine.settle()

    def die(self, job):
        self.engine.settle()
        self.engine.die(job)
        self.engine.settle()

    def advance(self, seconds):
        self.engine.advance(seconds)
        self.engine.settle()

    def end(self):
        self.engine.kills = True
        self.dispatcher.cancel_all()
        self.dispatcher.shut_down(wait=True, cancel_waiting=True)


@pytest.fixture
def make(monkeypatch):
    """Makes benches that end with the test."""
    made = []

    def make(max_workers=1, max_ahead=0, **options):
        engine = PlayedEngine(max_workers, max_ahead)
        for module in (dispatch, settling):
            monkeypatch.setattr(module, "monotonic", engine.clock)
        made.append(Bench(engine, **options))
        return made[-1]

    yield make
    for bench in made:
        bench.end()


@pytest.fixture
def bench(make):
    return make()


# -- order ----------------------------------------------------------------------------------------


def test_jobs_begin_in_the_order_of_their_puts(bench):
    a, b, c = bench.put_all("abc")
    assert bench.running == "a"
    bench.finish(a, result=7)
    assert a.result() == 7
    assert bench.running == "b"
    bench.finish(b, c)
    assert bench.begun == "abc"


def test_there_are_as_many_workers_as_jobs_and_no_more_than_allowed(make):
    bench = make(max_workers=3)
    bench.put("a")
    assert bench.running == "a"
    assert bench.engine.num_workers == 1
    bench.put_all("bcd")
    assert bench.running == "abc"
    assert bench.engine.num_workers == 3


def test_workers_for_all_jobs_that_wait_are_asked_for_at_once(make):
    bench = make(max_workers=3)
    bench.dispatcher.pause()
    bench.put_all("ab")
    bench.dispatcher.resume()
    assert bench.running == "ab"
    assert bench.engine.asked == [2]


def test_the_smallest_priority_is_first(bench):
    first = bench.put("a")
    assert bench.running == "a"
    low, high = bench.put("l", 200), bench.put("h", 1)
    changed = bench.put("c", 300)
    assert bench.dispatcher.reprioritise(changed, 0)
    bench.finish(first)
    assert bench.running == "c"
    assert not bench.dispatcher.reprioritise(changed, 500)
    bench.finish(changed, high, low)
    assert bench.begun == "achl"


def test_a_put_wakes_no_dispatcher_whose_engine_has_refused_a_job(bench, monkeypatch):
    bench.put_all("ab")
    assert bench.running == "a"
    wakes, wake = [], bench.engine.wake
    monkeypatch.setattr(bench.engine, "wake", lambda: wakes.append(None) or wake())
    bench.put_all("cd")
    assert wakes == []
    assert bench.running == "a"


def test_more_workers_take_jobs_that_wait(bench):
    bench.put_all("abc")
    assert bench.running == "a"
    bench.dispatcher.resize(2)
    assert bench.running == "ab"


def test_no_job_begins_during_a_pause(bench):
    a, b = bench.put_all("ab")
    assert bench.running == "a"
    bench.dispatcher.pause()
    bench.finish(a)
    assert bench.running == ""
    bench.dispatcher.resume()
    assert bench.running == "b"
    assert a.done()
    assert not b.done()


def test_a_pause_takes_back_jobs_that_were_sent_ahead(make):
    bench = make(max_ahead=2)
    a, b, c = bench.put_all("abc")
    assert bench.running == "a"
    assert bench.engine.ahead == [b, c]
    assert bench.dispatcher.sizes() == (2, 1, 0)
    bench.dispatcher.pause()
    bench.engine.settle()
    assert bench.engine.ahead == []
    assert (b.attempts, c.attempts) == (0, 0)
    assert bench.dispatcher.sizes() == (2, 1, 0)
    bench.put("d")
    bench.dispatcher.resume()
    bench.engine.settle()
    assert [job.name for job in bench.engine.ahead] == ["b", "c"]  # before the newer one


# -- room -----------------------------------------------------------------------------------------


def test_a_put_waits_for_room(make):
    bench = make(maxsize=2)
    a, _ = bench.put_all("ab")
    assert bench.running == "a"
    with pytest.raises(qmill.Full, match="2 jobs wait or work"):
        bench.put("c", block=False)
    waiting = Call(bench.put, "c").wait_until_blocked()
    bench.finish(a)
    assert waiting.result().name == "c"


# -- timeouts -------------------------------------------------------------------------------------


def test_a_job_is_killed_at_its_deadline(bench):
    a = bench.put("a", timeout=5.0, suppress_errors=True)
    assert bench.running == "a"
    assert bench.engine.settle() == 5.0
    bench.advance(4.5)
    assert bench.engine.killed == []
    bench.advance(0.5)
    assert bench.engine.killed == [a]
    with pytest.raises(qmill.JobTimeout, match="longer than its timeout of 5 s"):
        a.result(0)


def test_the_time_of_a_job_begins_when_a_worker_has_it(bench):
    a, b = bench.put_all("ab", timeout=5.0)
    assert bench.running == "a"
    bench.advance(4.0)
    bench.finish(a)
    assert bench.running == "b"
    assert b.started == bench.dispatcher.wall_time(bench.engine.now)
    assert bench.engine.settle() == 5.0
    bench.finish(b)
    assert bench.engine.settle() is None


def test_the_nearest_deadline_ends_the_rest(make):
    bench = make(max_workers=3)
    bench.put("a", timeout=9.0)
    b = bench.put("b", timeout=2.0, suppress_errors=True)
    bench.put("c")
    assert bench.running == "abc"
    assert bench.engine.settle() == 2.0
    bench.advance(2.0)
    assert type(b.exception(0)) is qmill.JobTimeout
    assert bench.engine.settle() == 7.0


@pytest.mark.parametrize(("ended_s", "in_time"), [(4.9, True), (5.1, False)])
def test_a_result_counts_if_it_was_there_before_the_deadline(bench, ended_s, in_time):
    """The report of a job that has ended may come after the order to kill it."""
    bench.engine.kills = False
    a = bench.put("a", timeout=5.0, suppress_errors=True)
    assert bench.running == "a"
    begun = bench.engine.now
    bench.advance(5.5)
    assert bench.engine.killed == [a]
    assert not a.done()
    bench.engine.now = begun + ended_s
    bench.finish(a, result="there")
    if in_time:
        assert a.result(0) == "there"
    else:
        assert type(a.exception(0)) is qmill.JobTimeout


@pytest.mark.parametrize("retry_timeouts", [False, True])
def test_a_timeout_is_retried_if_that_was_asked_for(bench, retry_timeouts):
    a = bench.put("a", timeout=5.0, retries=1, retry_timeouts=retry_timeouts, suppress_errors=True)
    assert bench.running == "a"
    bench.advance(5.0)
    assert a.done() != retry_timeouts
    assert bench.begun == "aa" if retry_timeouts else "a"


# -- retries --------------------------------------------------------------------------------------


def test_a_job_that_fails_is_tried_again(bench):
    a = bench.put("a", retries=2)
    for _ in range(2):
        assert bench.running == "a"
        bench.fail(a, KeyError("a key"))
        assert not a.done()
    bench.finish(a, result="at last")
    assert (a.result(0), a.attempts, bench.begun) == ("at last", 3, "aaa")


def test_the_last_attempt_fails_the_job(bench):
    a = bench.put("a", retries=1, suppress_errors=True)
    error = KeyError("a key")
    bench.fail(a, ValueError("before"))
    bench.fail(a, error)
    assert (a.exception(0), a.attempts) == (error, 2)


def test_others_run_until_the_backoff_is_over(bench):
    a = bench.put("a", retries=1, backoff=10.0)
    b = bench.put("b")
    bench.fail(a, KeyError("a key"))
    assert bench.running == "b"
    delay = bench.engine.settle()
    assert 5.0 <= delay <= 15.0
    bench.finish(b)
    bench.advance(delay - 0.5)
    assert bench.running == ""
    bench.advance(0.5)
    assert bench.running == "a"


# -- lanes ----------------------------------------------------------------------------------------


def test_a_lane_has_one_job_at_a_time(make):
    bench = make(max_workers=3)
    a, b, c = bench.put_all("abc", lane="lane")
    bench.put("d")
    assert bench.running == "ad"
    bench.finish(a)
    assert bench.running == "db"
    bench.finish(b, c)
    assert bench.begun == "adbc"


def test_a_failure_stops_its_lane_if_that_was_asked_for(bench):
    options = {"lane": "lane", "stop_on_lane_error": True, "suppress_errors": True}
    a, b, c = bench.put_all("abc", **options)
    bench.put("d")
    bench.fail(a, KeyError("a key"))
    for job in (b, c):
        assert job.cancelled()
        assert type(job._exception) is qmill.LaneError
    assert bench.running == "d"


def test_a_lane_waits_for_the_retry_of_its_job(make):
    bench = make(max_workers=2)
    a, b = bench.put_all("ab", lane="lane", retries=1)
    bench.fail(a, KeyError("a key"))
    assert bench.running == "a"
    bench.finish(a)
    assert bench.running == "b"
    bench.finish(b)


# -- cancel ---------------------------------------------------------------------------------------


def test_a_job_that_waits_is_cancelled_without_the_engine(bench):
    a, b, c = bench.put_all("abc")
    assert bench.running == "a"
    assert b.cancel()
    with pytest.raises(CancelledError):
        b.result(0)
    bench.finish(a, c)
    assert bench.begun == "ac"
    assert bench.engine.killed == []
    assert not a.cancel()


def test_a_job_that_runs_is_cancelled_at_once_and_killed(bench):
    bench.engine.kills = False
    a, _ = bench.put("a", retries=5), bench.put("b")
    assert bench.running == "a"
    assert a.cancel()
    assert a.cancelled()
    bench.engine.settle()
    assert bench.engine.killed == [a]
    bench.die(a)
    assert bench.begun == "ab"  # it is not retried
    assert a.cancel()


def test_an_engine_that_cannot_kill_goes_on(bench, monkeypatch):
    monkeypatch.setattr(bench.engine, "can_kill", False)
    a = bench.put("a")
    assert bench.running == "a"
    assert not a.cancel()
    bench.finish(a, result=3)
    assert a.result(0) == 3


def test_a_result_after_the_cancel_is_dropped(bench):
    bench.engine.kills = False
    a = bench.put("a")
    assert bench.running == "a"
    assert a.cancel()
    bench.finish(a, result=3)
    assert a.cancelled()
    assert bench.dispatcher.num_left() == 0


def test_waiting_jobs_are_cancelled_although_they_were_sent_ahead(make):
    bench = make(max_ahead=1)
    a, b, c = bench.put_all("abc")
    assert bench.running == "a"
    assert bench.engine.ahead == [b]
    bench.dispatcher.cancel_waiting()
    bench.finish(a)
    assert [job.cancelled() for job in (a, b, c)] == [False, True, True]
    assert bench.begun == "a"


def test_jobs_that_others_were_cancelled_beside_keep_their_order(make):
    bench = make(max_ahead=2)
    _, b, c, d = bench.put_all("abcd")
    assert bench.running == "a"
    assert bench.engine.ahead == [b, c]
    bench.dispatcher.cancel_waiting_of([b])
    bench.engine.settle()
    assert bench.engine.ahead == [c, d]


# -- deaths ---------------------------------------------------------------------------------------


def test_a_death_fails_the_job_of_that_worker_only(make):
    bench = make(max_workers=2)
    a, b, _ = bench.put("a", suppress_errors=True), *bench.put_all("bc")
    assert bench.running == "ab"
    bench.die(a)
    error = a.exception(0)
    assert type(error) is qmill.WorkerDied
    assert (error.signal, error.job, a.exitcode) == (9, "a", -9)
    assert bench.running == "bc"
    assert bench.engine.num_workers == 2
    bench.finish(b, result=2)
    assert b.result(0) == 2


def test_a_job_whose_worker_died_is_retried_by_another(bench):
    a = bench.put("a", retries=1)
    bench.die(a)
    assert bench.running == "a"
    bench.finish(a, result=1)
    assert (a.result(0), a.attempts) == (1, 2)


def test_jobs_behind_the_one_that_killed_their_worker_are_sent_again(make):
    bench = make(max_ahead=2)
    a = bench.put("a", suppress_errors=True)
    b, c = bench.put_all("bc", retries=1, backoff=10.0)
    bench.die(a)
    assert bench.running == "b"
    bench.finish(b, c)
    assert (b.attempts, c.attempts, bench.begun) == (1, 1, "abc")


def test_a_worker_that_cannot_start_fails_the_job_that_waits_for_it(bench, monkeypatch):
    monkeypatch.setattr(bench.engine, "offer", lambda job: False)
    a, b = bench.put_all("ab", suppress_errors=True)
    bench.engine.settle()
    error = OSError("no more processes")
    bench.engine.fail_to_start(error)
    bench.engine.settle()
    assert a.exception(0) is error
    assert not b.done()
    monkeypatch.undo()


def test_an_engine_that_breaks_down_lets_no_caller_wait(make, monkeypatch):
    told = SimpleQueue()
    monkeypatch.setattr(dispatch.logger, "critical", lambda text, *args, **_: told.put(text % args))
    bench = make(maxsize=2)
    some = bench.put_all("ab", suppress_errors=True)
    assert bench.running == "a"
    waiting = Call(bench.put, "c").wait_until_blocked()
    bench.engine.break_down(ZeroDivisionError("a fault"))
    for job in some:
        error = job.exception(30)
        assert str(error) == "the queue played has failed"
        assert type(error.__cause__) is ZeroDivisionError
    with pytest.raises(RuntimeError, match="after shutdown"):
        waiting.result()
    assert told.get(timeout=30) == "the dispatcher of played has failed"


# -- the end --------------------------------------------------------------------------------------


def test_jobs_run_after_a_shutdown_and_then_the_engine_is_closed(bench):
    a, b = bench.put_all("ab")
    bench.dispatcher.shut_down(wait=False, cancel_waiting=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        bench.put("c")
    bench.finish(a)
    assert bench.running == "b"
    assert not bench.engine.closed
    bench.engine.finish(b)
    bench.dispatcher.join()
    assert b.done()
    assert bench.engine.closed
    assert bench.engine.num_workers == 0


def test_a_shutdown_cancels_what_waits_if_asked(bench):
    a, b = bench.put_all("ab")
    assert bench.running == "a"
    bench.dispatcher.shut_down(wait=False, cancel_waiting=True)
    assert b.cancelled()
    bench.engine.settle()
    bench.engine.finish(a, 1)
    bench.dispatcher.join()
    assert a.result(0) == 1


def test_a_shutdown_without_jobs_closes_the_engine(bench):
    bench.dispatcher.shut_down(wait=True, cancel_waiting=False)
    assert bench.engine.closed


def test_idle_workers_end_after_a_time_and_are_started_again(make):
    bench = make(auto_stop_s=10.0)
    a = bench.put("a")
    bench.finish(a)
    assert bench.engine.settle() == 10.0
    bench.advance(9.0)
    assert bench.engine.num_workers == 1
    bench.engine.advance(1.0)
    bench.dispatcher.join()
    assert bench.engine.num_workers == 0
    assert not bench.engine.closed
    bench.put("b")
    assert bench.running == "b"


def test_idle_workers_stay_without_a_limit(bench):
    bench.finish(bench.put("a"))
    assert bench.engine.settle() is None
    assert bench.engine.num_workers == 1
