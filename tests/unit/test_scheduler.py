"""Which job runs next, and when something is due: `jobs.scheduler`, with a clock of numbers."""

from __future__ import annotations

import gc
import itertools
import math
import random
import sys
import weakref
from collections import deque
from functools import total_ordering

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from qmill.jobs import scheduler as scheduler_module
from qmill.jobs.job import Job, Options
from qmill.jobs.scheduler import BACKOFF_MAX_S, JobHeap, Scheduler

from ..limits import _no_test_hangs  # noqa: F401 (a fixture)

# What most jobs of a heap may leave behind of others: some entries that are given up, not one for
# each job that ever was.
FEW = 128


class NoOwner:
    """The least that a job wants to know of its queue."""

    qid = "none"

    def log_later(self, what, error):
        raise AssertionError("no failure is told here")

    def cancel(self, job):
        return False

    def host_of(self, worker):
        return None if worker is None else "here"

    def wall_time(self, moment_s):
        return moment_s


class Bench:
    """A scheduler, and jobs with a name each; `uniform` gives the middle of a backoff."""

    def __init__(self, uniform=0.5):
        self.scheduler = Scheduler(lambda: self.uniform)
        self.uniform = uniform
        self._owner = NoOwner()
        self._numbers = itertools.count(1)

    def make(self, name=None, priority=100, *, kind=Job, **options):
        number = next(self._numbers)
        options = Options(name=name, **options)
        return kind(number, print, (), None, priority, options, self._owner, 0.0)

    def add(self, name=None, priority=100, **options):
        job = self.make(name, priority, **options)
        self.scheduler.add(job)
        return job

    def add_all(self, names, priority=100, **options):
        return [self.add(name, priority, **options) for name in names]

    def begin(self, now=0.0):
        """Take a job, and count the attempt, as who runs it does."""
        job = self.scheduler.take(now)
        job.attempts += 1
        return job

    def fail(self, job):
        return names_of(self.scheduler.finish(job, failed=True))

    def end(self, job):
        return names_of(self.scheduler.finish(job, failed=False))

    def run_all(self):
        """Run what can run, one after another: their names in order."""
        ran = []
        while self.scheduler.first() is not None:
            job = self.begin()
            ran.append(job.name)
            assert self.end(job) == []
        return ran

    @property
    def counts(self):
        scheduler = self.scheduler
        return scheduler.num_waiting, scheduler.num_working, scheduler.num_completed

    @property
    def first(self):
        job = self.scheduler.first()
        return None if job is None else job.name


def names_of(jobs):
    return [job.name for job in jobs]


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture
def scheduler(bench):
    return bench.scheduler


# -- the order of jobs ----------------------------------------------------------------------------


def test_an_empty_scheduler(bench, scheduler):
    assert bench.counts == (0, 0, 0)
    assert scheduler.first() is None
    assert scheduler.next_due() is None
    assert scheduler.due(1e9) == []
    assert scheduler.remove_all() == []
    assert scheduler.pop_completed() is None


def test_the_lower_priority_number_goes_first(bench):
    for priority in [100, 5, -3, 7.5, 0, 1e9, -math.inf, math.inf]:
        bench.add(priority, priority)
    assert bench.run_all() == [-math.inf, -3, 0, 5, 7.5, 100, 1e9, math.inf]


def test_of_equals_the_one_that_was_put_first_goes_first(bench):
    bench.add_all("ab")
    bench.add_all("xy", 7)
    bench.add_all("cd")
    assert bench.run_all() == list("xyabcd")


def test_equals_go_by_their_number_in_whichever_order_they_are_added(bench, scheduler):
    jobs = [bench.make(number) for number in range(50)]
    random.Random(3).shuffle(jobs)
    for job in jobs:
        scheduler.add(job)
    assert bench.run_all() == list(range(50))


def test_priorities_that_are_equal_and_not_the_same(bench):
    bench.add("a", 1)
    bench.add("b", 1.0)
    bench.add("c", True)
    assert bench.run_all() == list("abc")


def test_first_stays(bench, scheduler):
    job = bench.add("a")
    assert scheduler.first() is job
    assert scheduler.first() is job
    assert bench.counts == (1, 0, 0)


def test_a_taken_job_works(bench, scheduler):
    job = bench.add("a")
    assert scheduler.is_waiting(job)
    assert scheduler.take(0.0) is job
    assert bench.counts == (0, 1, 0)
    assert not scheduler.is_waiting(job)
    assert scheduler.first() is None


def test_a_finished_job_is_nowhere(bench, scheduler):
    job = bench.add("a")
    bench.begin()
    assert bench.end(job) == []
    assert bench.counts == (0, 0, 0)
    assert not scheduler.is_waiting(job)
    assert not scheduler.remove(job)


@pytest.mark.parametrize("failed", [False, True])
def test_a_failure_outside_lanes_stops_nobody(bench, scheduler, failed):
    bench.add("a")
    bench.add("b", stop_on_lane_error=True)
    assert scheduler.finish(bench.begin(), failed=failed) == []
    assert bench.run_all() == ["b"]


def test_jobs_finish_in_any_order(bench):
    bench.add_all("abcd")
    jobs = [bench.begin() for _ in range(4)]
    for job in (jobs[2], jobs[0], jobs[3]):
        bench.end(job)
    assert bench.counts == (0, 1, 0)


def test_a_job_that_is_put_back_competes_again_where_it_was(bench, scheduler):
    bench.add_all("abc")
    a, b = scheduler.take(0.0), scheduler.take(0.0)
    scheduler.put_back(b)
    assert bench.first == "b"
    scheduler.put_back(a)
    assert bench.counts == (3, 0, 0)
    assert scheduler.is_waiting(a)
    assert bench.run_all() == list("abc")


# -- removal --------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", "abcde")
def test_a_removed_job_does_not_run(bench, scheduler, which):
    jobs = dict(zip("abcde", bench.add_all("abcde"), strict=True))
    assert scheduler.remove(jobs[which]) is True
    assert not scheduler.is_waiting(jobs[which])
    assert bench.counts == (4, 0, 0)
    assert scheduler.remove(jobs[which]) is False
    assert bench.run_all() == [name for name in "abcde" if name != which]


def test_a_job_that_works_or_is_completed_cannot_be_removed(bench, scheduler):
    job = bench.add("a")
    bench.begin()
    assert scheduler.remove(job) is False
    assert bench.counts == (0, 1, 0)
    bench.end(job)
    scheduler.complete(job)
    assert scheduler.remove(job) is False
    assert bench.counts == (0, 0, 1)


def test_a_job_that_was_never_added_is_not_waiting(bench, scheduler):
    job = bench.make("a")
    assert not scheduler.is_waiting(job)
    assert scheduler.remove(job) is False
    assert scheduler.reprioritise(job, 3) is False


def test_all_are_removed_in_the_order_in_which_they_would_have_run(bench, scheduler):
    bench.add_all("ab", 5)
    bench.add_all("cd", 3, lane="lane")
    bench.add_all("ef", 4, lane="other")
    bench.add("g", 1, lane="lane")
    assert names_of(scheduler.remove_all()) == list("gcdefab")
    assert bench.counts == (0, 0, 0)
    assert scheduler.first() is None
    assert scheduler.remove_all() == []


def test_removing_all_leaves_what_works_and_is_completed(bench, scheduler):
    bench.add_all("abc", timeout=9)
    a, b = bench.begin(1.0), bench.begin(2.0)
    bench.end(a)
    scheduler.complete(a)
    assert names_of(scheduler.remove_all()) == ["c"]
    assert bench.counts == (0, 1, 1)
    assert scheduler.due(11.0) == [b]


def test_removing_all_takes_those_too_that_back_off_or_wait_in_a_busy_lane(bench, scheduler):
    bench.add("backs off", 1, backoff=5.0)
    bench.add("works", 2, lane="lane")
    bench.add("behind", 3, lane="lane")
    scheduler.retry(bench.begin(), 0.0)
    works = bench.begin()
    assert {job.name for job in scheduler.remove_all()} == {"backs off", "behind"}
    assert scheduler.next_due() is None
    assert scheduler.due(1e9) == []
    assert bench.counts == (0, 1, 0)
    assert bench.end(works) == []
    assert scheduler.first() is None


@pytest.mark.parametrize("before", ["works", "backs off", "waits"])
def test_a_lane_goes_on_after_all_were_removed(bench, scheduler, before):
    bench.add("a", lane="lane", backoff=5.0)
    if before == "works":
        job = bench.begin()
    elif before == "backs off":
        scheduler.retry(bench.begin(), 0.0)
    scheduler.remove_all()
    bench.add("b", lane="lane")
    if before == "works":
        assert bench.first is None
        bench.end(job)
    assert bench.run_all() == ["b"]


# -- other priorities -----------------------------------------------------------------------------


def test_a_waiting_job_gets_another_priority(bench, scheduler):
    a, b, _ = bench.add_all("abc")
    assert scheduler.reprioritise(a, 200) is True
    assert a.priority == 200
    assert bench.first == "b"
    assert scheduler.reprioritise(b, 150) is True
    assert bench.counts == (3, 0, 0)
    assert bench.run_all() == list("cba")


def test_a_job_that_gets_the_priority_of_another_goes_by_its_number(bench, scheduler):
    a = bench.add("a", 9)
    b = bench.add("b", 5)
    assert scheduler.reprioritise(b, 9)
    assert bench.first == "a"
    assert scheduler.reprioritise(a, 9)
    assert bench.run_all() == ["a", "b"]


def test_a_job_that_works_gets_no_other_priority(bench, scheduler):
    job = bench.add("a")
    bench.begin()
    assert scheduler.reprioritise(job, 1) is False
    assert bench.counts == (0, 1, 0)
    bench.end(job)
    assert scheduler.reprioritise(job, 1) is False
    assert bench.counts == (0, 0, 0)


def test_a_completed_job_gets_another_priority(bench, scheduler):
    bench.add_all("abc")
    jobs = [bench.begin() for _ in range(3)]
    for job in jobs:
        bench.end(job)
        scheduler.complete(job)
    assert scheduler.reprioritise(jobs[2], 1) is True
    assert scheduler.reprioritise(jobs[0], 101) is True
    assert names_of(pop_all_completed(scheduler)) == list("cba")
    assert scheduler.reprioritise(jobs[0], 1) is False


def test_a_job_that_backs_off_gets_another_priority(bench, scheduler):
    job = bench.add("a", backoff=4.0)
    bench.add("b", 50)
    scheduler.retry(bench_take(bench, "b", "a"), 10.0)
    assert scheduler.reprioritise(job, 1) is True
    assert scheduler.next_due() == 14.0
    bench.add("c", 2)
    scheduler.due(14.0)
    assert bench.run_all() == ["a", "c"]


def bench_take(bench, *names):
    """Take these, in this order; end all but the last, which is returned."""
    for name in names[:-1]:
        job = bench.begin()
        assert job.name == name
        bench.end(job)
    job = bench.begin()
    assert job.name == names[-1]
    return job


# -- completed jobs -------------------------------------------------------------------------------


def pop_all_completed(scheduler):
    popped = []
    while (job := scheduler.pop_completed()) is not None:
        popped.append(job)
    return popped


def test_completed_jobs_come_by_priority_then_by_number(bench, scheduler):
    plan = {"a": 5, "b": 1, "c": 5, "d": 0, "e": 1, "f": 9}
    jobs = [bench.make(name, priority) for name, priority in plan.items()]
    for job in reversed(jobs):
        scheduler.complete(job)
    assert bench.counts == (0, 0, 6)
    assert scheduler.pop_completed().name == "d"
    assert bench.counts == (0, 0, 5)
    assert names_of(pop_all_completed(scheduler)) == list("beacf")
    assert bench.counts == (0, 0, 0)


def test_jobs_are_completed_while_others_are_fetched(bench, scheduler):
    scheduler.complete(bench.make("a", 5))
    scheduler.complete(bench.make("b", 7))
    assert scheduler.pop_completed().name == "a"
    scheduler.complete(bench.make("c", 6))
    assert names_of(pop_all_completed(scheduler)) == ["c", "b"]


def test_completed_jobs_do_not_compete(bench, scheduler):
    job = bench.make("a", 1)
    scheduler.complete(job)
    assert scheduler.first() is None
    assert not scheduler.is_waiting(job)
    assert scheduler.remove_all() == []


# -- deadlines ------------------------------------------------------------------------------------


def test_a_deadline_counts_from_the_moment_it_was_taken(bench, scheduler):
    job = bench.add("a", timeout=5.0)
    assert scheduler.next_due() is None
    bench.begin(100.0)
    assert scheduler.next_due() == 105.0
    assert scheduler.due(104.99) == []
    assert scheduler.due(105.0) == [job]


def test_a_job_whose_time_is_up_is_told_once_and_works_until_it_is_finished(bench, scheduler):
    job = bench.add("a", timeout=5.0)
    bench.begin(0.0)
    assert scheduler.due(7.0) == [job]
    assert scheduler.due(8.0) == []
    assert scheduler.next_due() is None
    assert bench.counts == (0, 1, 0)
    assert bench.fail(job) == []
    assert bench.counts == (0, 0, 0)


def test_a_job_without_a_timeout_has_no_deadline(bench, scheduler):
    bench.add("a")
    bench.begin(0.0)
    assert scheduler.next_due() is None
    assert scheduler.due(1e12) == []


def test_several_deadlines(bench, scheduler):
    for name, timeout in zip("abcd", [4.0, 1.0, 3.0, 1.0], strict=True):
        bench.add(name, timeout=timeout)
    for _ in range(4):
        bench.begin(10.0)
    assert scheduler.next_due() == 11.0
    assert sorted(names_of(scheduler.due(11.0))) == ["b", "d"]
    assert scheduler.next_due() == 13.0
    assert sorted(names_of(scheduler.due(20.0))) == ["a", "c"]


@pytest.mark.parametrize("how", ["finish", "put back", "retry"])
def test_a_job_that_does_not_work_any_more_has_no_deadline(bench, scheduler, how):
    job = bench.add("a", timeout=5.0)
    other = bench.add("b", timeout=6.0)
    bench.begin(0.0), bench.begin(0.0)
    if how == "finish":
        bench.end(job)
    elif how == "put back":
        scheduler.put_back(job)
    else:
        scheduler.retry(job, 1.0)
        scheduler.due(1.0)
    assert scheduler.next_due() == 6.0
    assert scheduler.due(50.0) == [other]


@pytest.mark.parametrize("again", ["put back", "retry"])
def test_each_attempt_has_its_own_deadline(bench, scheduler, again):
    job = bench.add("a", timeout=5.0)
    bench.begin(0.0)
    if again == "retry":
        assert scheduler.due(5.0) == [job]
        scheduler.retry(job, 5.0)
        scheduler.due(5.0)
    else:
        scheduler.put_back(job)
    assert bench.begin(20.0) is job
    assert scheduler.next_due() == 25.0
    assert scheduler.due(24.0) == []
    assert scheduler.due(25.0) == [job]


def test_a_job_that_is_put_back_and_taken_at_once_is_told_once(bench, scheduler):
    job = bench.add("a", 1, timeout=5.0)
    others = bench.add_all("bcde", timeout=9.0)
    for _ in range(5):
        bench.begin(0.0)
    for _ in range(3):
        scheduler.put_back(job)
        assert bench.begin(0.0) is job
    assert scheduler.due(5.0) == [job]
    assert set(scheduler.due(9.0)) == set(others)
    assert scheduler.next_due() is None


# -- retries --------------------------------------------------------------------------------------


def test_a_retried_job_waits_for_its_backoff(bench, scheduler):
    job = bench.add("a", backoff=4.0)
    bench.add("b", 200)
    bench.begin(0.0)
    assert scheduler.retry(job, 10.0) == 4.0
    assert bench.counts == (2, 0, 0)
    assert scheduler.is_waiting(job)
    assert bench.first == "b"
    assert scheduler.next_due() == 14.0
    assert scheduler.due(13.9) == []
    assert bench.first == "b"
    assert scheduler.due(14.0) == []
    assert bench.first == "a"
    assert scheduler.next_due() is None
    assert bench.run_all() == ["a", "b"]


def test_a_chunk_goes_on_with_other_calls_without_its_backoff(bench, scheduler):
    job = bench.add("a", backoff=4.0)
    bench.begin(0.0)
    assert scheduler.retry(job, 10.0, backs_off=False) == 0.0
    assert scheduler.next_due() is None
    assert bench.run_all() == ["a"]


def test_a_retry_without_backoff_competes_once_what_is_due_was_done(bench, scheduler):
    job = bench.add("a")
    bench.begin(3.0)
    assert scheduler.retry(job, 7.0) == 0.0
    scheduler.due(7.0)
    assert scheduler.first() is job
    assert scheduler.next_due() is None


def test_each_backoff_is_twice_the_last(bench, scheduler):
    job = bench.add("a", backoff=0.25)
    seen, now = [], 0.0
    for _ in range(6):
        bench.begin(now)
        seen.append(scheduler.retry(job, now))
        now = scheduler.next_due()
        scheduler.due(now)
    assert seen == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0]
    assert now == sum(seen)


def test_being_put_back_is_no_attempt(bench, scheduler):
    job = bench.add("a", backoff=1.0)
    for _ in range(5):
        scheduler.put_back(scheduler.take(0.0))
    bench.begin(0.0)
    assert scheduler.retry(job, 0.0) == 1.0


@pytest.mark.parametrize(
    ("uniform", "factor"), [(0.0, 0.5), (0.25, 0.75), (0.5, 1.0), (0.75, 1.25), (1.0, 1.5)]
)
def test_the_jitter_is_from_a_half_to_one_and_a_half(uniform, factor):
    bench = Bench(uniform)
    job = bench.add("a", backoff=8.0)
    bench.begin(0.0)
    assert bench.scheduler.retry(job, 100.0) == 8.0 * factor
    assert bench.scheduler.next_due() == 100.0 + 8.0 * factor


def test_each_backoff_has_its_own_jitter():
    bench = Bench()
    first, second = bench.add_all("ab", backoff=8.0)
    bench.begin(), bench.begin()
    bench.uniform = 0.0
    assert bench.scheduler.retry(first, 0.0) == 4.0
    bench.uniform = 0.75
    assert bench.scheduler.retry(second, 0.0) == 10.0


def test_the_jitter_is_random_unless_it_is_given():
    scheduler, bench = Scheduler(), Bench()
    delays = set()
    for number in range(20):
        job = bench.make(number, backoff=1.0)
        scheduler.add(job)
        scheduler.take(0.0)
        job.attempts = 1
        delays.add(scheduler.retry(job, 0.0))
    assert all(0.5 <= delay <= 1.5 for delay in delays)
    assert len(delays) > 10


@pytest.mark.parametrize("uniform", [0.0, 0.5, 0.999])
@pytest.mark.parametrize(
    ("backoff", "attempts"), [(1.0, 20), (1.0, 1100), (1.0, 100_000), (1e300, 30), (7200.0, 1)]
)
def test_no_backoff_grows_beyond_the_largest(uniform, backoff, attempts):
    bench = Bench(uniform)
    job = bench.add("a", backoff=backoff)
    job.attempts = attempts - 1
    bench.begin(5.0)
    delay = bench.scheduler.retry(job, 5.0)
    assert BACKOFF_MAX_S / 2 <= delay <= BACKOFF_MAX_S
    assert bench.scheduler.next_due() == 5.0 + delay


def test_no_backoff_is_none_however_often(bench, scheduler):
    job = bench.add("a", backoff=0.0)
    job.attempts = 100_000
    bench.begin(0.0)
    assert scheduler.retry(job, 0.0) == 0.0


def test_a_job_that_backs_off_can_be_removed(bench, scheduler):
    a, b = bench.add_all("ab", backoff=4.0)
    bench.begin(), bench.begin()
    scheduler.retry(a, 0.0)
    scheduler.retry(b, 1.0)
    assert scheduler.remove(a) is True
    assert not scheduler.is_waiting(a)
    assert bench.counts == (1, 0, 0)
    assert scheduler.next_due() == 5.0  # nobody is woken for what is gone
    assert scheduler.remove(b) is True
    assert scheduler.next_due() is None
    scheduler.due(100.0)
    assert scheduler.first() is None


def test_backoffs_and_deadlines_are_due_together(bench, scheduler):
    runs, fails = bench.add("runs", timeout=3.0), bench.add("fails", backoff=2.0)
    bench.begin(0.0), bench.begin(0.0)
    scheduler.retry(fails, 0.0)
    assert scheduler.next_due() == 2.0
    assert scheduler.due(3.0) == [runs]
    assert bench.first == "fails"
    assert scheduler.next_due() is None


# -- lanes ----------------------------------------------------------------------------------------


def test_jobs_of_a_lane_run_one_after_another(bench, scheduler):
    bench.add_all("abc", lane="lane")
    assert bench.counts == (3, 0, 0)
    for name in "abc":
        assert bench.first == name
        job = bench.begin()
        assert scheduler.first() is None
        bench.end(job)
    assert bench.counts == (0, 0, 0)


def test_lanes_run_beside_each_other_and_beside_others(bench):
    bench.add_all("ab", lane=1)
    bench.add_all("cd", lane=2)
    bench.add_all("ef")
    jobs = [bench.begin() for _ in range(4)]
    assert names_of(jobs) == list("acef")
    assert bench.first is None
    bench.end(jobs[1])
    assert bench.first == "d"


@pytest.mark.parametrize("lane", [0, "", False, (), 0.0, "lane", ("a", 1), frozenset()], ids=repr)
def test_any_hashable_value_but_none_is_a_lane(bench, lane):
    bench.add_all("ab", lane=lane)
    job = bench.begin()
    assert bench.first is None
    bench.end(job)
    assert bench.first == "b"


def test_none_is_no_lane(bench):
    bench.add_all("ab", lane=None)
    bench.begin()
    assert bench.first == "b"


def test_the_head_competes_with_its_own_priority(bench):
    bench.add("head", 50, lane="lane")
    bench.add("behind", 90, lane="lane")
    bench.add("before", 40)
    bench.add("between", 60)
    bench.add("after", 95)
    assert bench.run_all() == ["before", "head", "between", "behind", "after"]


def test_within_a_lane_the_lower_priority_number_goes_first(bench):
    for name, priority in zip("abcde", [5, 3, 9, 3, 1], strict=True):
        bench.add(name, priority, lane="lane")
    assert bench.run_all() == list("ebdac")


def test_a_more_urgent_job_becomes_the_head(bench, scheduler):
    bench.add("a", 50, lane="lane")
    bench.add("other", 40)
    assert bench.first == "other"
    bench.add("b", 30, lane="lane")
    assert bench.first == "b"
    bench.add("c", 35, lane="lane")
    assert bench.counts == (4, 0, 0)
    assert bench.run_all() == ["b", "c", "other", "a"]


def test_a_job_that_joins_while_the_lane_works_waits(bench):
    bench.add("a", 50, lane="lane")
    job = bench.begin()
    bench.add("b", 60, lane="lane")
    bench.add("c", 1, lane="lane")
    assert bench.first is None
    bench.end(job)
    assert bench.run_all() == ["c", "b"]


def test_a_put_back_head_lets_a_more_urgent_one_go_first(bench, scheduler):
    bench.add("a", 50, lane="lane")
    job = scheduler.take(0.0)
    bench.add("b", 1, lane="lane")
    bench.add("c", 60, lane="lane")
    scheduler.put_back(job)
    assert bench.counts == (3, 0, 0)
    assert bench.run_all() == ["b", "a", "c"]


def test_a_lane_waits_during_its_heads_backoff(bench, scheduler):
    job = bench.add("a", lane="lane", backoff=4.0)
    bench.add("b", lane="lane")
    bench.add("other", 200)
    bench.begin(0.0)
    scheduler.retry(job, 10.0)
    assert bench.first == "other"
    bench.add("urgent", 1, lane="lane")
    assert bench.first == "other"
    assert bench.counts == (4, 0, 0)
    scheduler.due(14.0)
    assert bench.first == "urgent"
    assert bench.run_all() == ["urgent", "a", "b", "other"]


def test_a_retry_keeps_its_place_before_those_behind_it(bench, scheduler):
    job, *_ = bench.add_all("abc", lane="lane", stop_on_lane_error=True)
    bench.begin(0.0)
    scheduler.retry(job, 0.0)
    scheduler.due(0.0)
    assert bench.run_all() == list("abc")


@pytest.mark.parametrize("which", "abc")
def test_removal_from_a_lane(bench, scheduler, which):
    jobs = dict(zip("abc", bench.add_all("abc", lane="lane"), strict=True))
    assert scheduler.remove(jobs[which]) is True
    assert bench.counts == (2, 0, 0)
    assert not scheduler.is_waiting(jobs[which])
    assert scheduler.remove(jobs[which]) is False
    assert bench.run_all() == [name for name in "abc" if name != which]


@pytest.mark.parametrize("which", "bcd")
def test_removal_from_a_lane_that_works(bench, scheduler, which):
    jobs = dict(zip("abcd", bench.add_all("abcd", lane="lane"), strict=True))
    works = bench.begin()
    assert scheduler.remove(jobs[which]) is True
    assert bench.first is None
    bench.end(works)
    assert bench.run_all() == [name for name in "bcd" if name != which]


def test_removal_of_a_head_that_backs_off_lets_the_lane_go_on(bench, scheduler):
    a, _ = bench.add_all("ab", lane="lane", backoff=4.0, stop_on_lane_error=True)
    bench.begin(0.0)
    scheduler.retry(a, 0.0)
    assert scheduler.remove(a) is True
    assert scheduler.next_due() is None
    assert bench.first == "b"
    assert bench.run_all() == ["b"]


def test_removal_of_one_behind_a_head_that_backs_off(bench, scheduler):
    a, b, _ = bench.add_all("abc", lane="lane", backoff=4.0)
    bench.begin(0.0)
    scheduler.retry(a, 0.0)
    assert scheduler.remove(b) is True
    assert bench.first is None
    scheduler.due(4.0)
    assert bench.run_all() == ["a", "c"]


def test_a_lane_of_which_all_were_removed_goes_on(bench, scheduler):
    for job in bench.add_all("abc", lane="lane"):
        assert scheduler.remove(job)
    assert scheduler.first() is None
    bench.add("d", lane="lane")
    assert bench.run_all() == ["d"]


def test_other_priorities_inside_a_lane(bench, scheduler):
    a, b, c = bench.add_all("abc", 50, lane="lane")
    bench.add("other", 40)
    assert scheduler.reprioritise(c, 30) is True  # the last becomes the head
    assert bench.first == "c"
    assert scheduler.reprioritise(c, 60) is True  # and is not any more
    assert bench.first == "other"
    assert scheduler.reprioritise(a, 55) is True  # the head is the second now
    assert scheduler.reprioritise(b, 39) is True
    assert bench.counts == (4, 0, 0)
    assert bench.run_all() == ["b", "other", "a", "c"]


def test_another_priority_of_one_in_a_lane_that_works(bench, scheduler):
    _, b, c = bench.add_all("abc", 50, lane="lane")
    works = bench.begin()
    assert scheduler.reprioritise(c, 1) is True
    assert bench.first is None
    bench.end(works)
    assert bench.first == "c"
    assert scheduler.reprioritise(b, 0) is True
    assert bench.run_all() == ["b", "c"]


def test_another_priority_of_a_head_that_backs_off(bench, scheduler):
    a, _ = bench.add_all("ab", 50, lane="lane", backoff=4.0)
    bench.begin(0.0)
    scheduler.retry(a, 0.0)
    assert scheduler.reprioritise(a, 90) is True
    assert bench.first is None
    assert scheduler.next_due() == 4.0
    scheduler.due(4.0)
    assert bench.run_all() == ["b", "a"]


# -- errors in lanes ------------------------------------------------------------------------------


def add_lane(bench, plan, lane="lane"):
    """Add jobs named by letters; those in capitals stop on an error before them."""
    return [bench.add(name, lane=lane, stop_on_lane_error=name.isupper()) for name in plan]


@pytest.mark.parametrize(
    ("plan", "stopped"),
    [
        ("a", ""),
        ("ab", ""),
        ("aB", "B"),
        ("aBC", "BC"),
        ("aBCdE", "BC"),
        ("abC", ""),
        ("AB", "B"),
        ("aBcDeF", "B"),
    ],
)
def test_a_failure_stops_those_behind_it_up_to_the_first_that_does_not_ask(bench, plan, stopped):
    jobs = add_lane(bench, plan)
    assert bench.fail(bench.begin()) == list(stopped)
    left = plan[1 + len(stopped) :]
    assert bench.counts == (len(left), 0, 0)
    for job in jobs[1 : 1 + len(stopped)]:
        assert not bench.scheduler.is_waiting(job)
        assert not bench.scheduler.remove(job)
    assert bench.run_all() == list(left)


def test_a_success_stops_nobody(bench):
    add_lane(bench, "aBC")
    assert bench.end(bench.begin()) == []
    assert bench.run_all() == list("BC")


def test_the_error_of_a_lane_stops_none_of_another(bench):
    add_lane(bench, "aB", lane=1)
    add_lane(bench, "xY", lane=2)
    bench.add("z", stop_on_lane_error=True)
    a, x = bench.begin(), bench.begin()
    assert bench.fail(a) == ["B"]
    bench.end(x)
    assert bench.run_all() == ["Y", "z"]


def test_those_that_are_stopped_come_in_the_order_in_which_they_would_have_run(bench):
    bench.add("head", 1, lane="lane")
    for name, priority in zip("ABCD", [9, 3, 7, 3], strict=True):
        bench.add(name, priority, lane="lane", stop_on_lane_error=True)
    assert bench.fail(bench.begin()) == list("BDCA")


def test_what_stands_between_by_its_priority_ends_the_cascade(bench):
    bench.add("head", 1, lane="lane")
    bench.add("A", 5, lane="lane", stop_on_lane_error=True)
    bench.add("b", 4, lane="lane")
    assert bench.fail(bench.begin()) == []
    assert bench.run_all() == ["b", "A"]


def test_another_priority_changes_who_is_stopped(bench, scheduler):
    _, _, c = add_lane(bench, "aBc")
    works = bench.begin()
    assert scheduler.reprioritise(c, 1)
    assert bench.fail(works) == []


def test_one_behind_another_that_did_not_ask_is_stopped_by_that_ones_failure(bench):
    add_lane(bench, "abC")
    assert bench.fail(bench.begin()) == []
    assert bench.fail(bench.begin()) == ["C"]
    assert bench.counts == (0, 0, 0)


def test_a_lane_that_ran_empty_forgets_its_error(bench):
    add_lane(bench, "aB")
    assert bench.fail(bench.begin()) == ["B"]
    add_lane(bench, "CD")
    assert bench.run_all() == ["C", "D"]


def test_who_joins_after_the_failure_is_not_stopped_by_it(bench):
    add_lane(bench, "ab")
    bench.fail(bench.begin())
    bench.add("C", 200, lane="lane", stop_on_lane_error=True)
    assert bench.run_all() == ["b", "C"]


def test_a_retry_stops_nobody_and_the_last_failure_does(bench, scheduler):
    a, _ = add_lane(bench, "aB")
    bench.begin()
    scheduler.retry(a, 0.0)
    scheduler.due(0.0)
    assert bench.counts == (2, 0, 0)
    assert bench.fail(bench.begin()) == ["B"]


def test_removal_of_a_waiting_predecessor_stops_nobody(bench, scheduler):
    a, _ = add_lane(bench, "aB")
    assert scheduler.remove(a)
    assert bench.run_all() == ["B"]


def test_those_that_are_stopped_leave_the_lane_to_who_follows(bench):
    add_lane(bench, "aBCd")
    bench.add("other", 1000)
    assert bench.fail(bench.begin()) == ["B", "C"]
    assert bench.first == "d"
    assert bench.run_all() == ["d", "other"]


# -- a heap ---------------------------------------------------------------------------------------


def test_an_empty_heap():
    heap = JobHeap()
    assert heap.size == 0
    assert list(heap) == []
    assert heap.first() is None
    assert heap.first_key() is None


def test_a_heap_gives_jobs_by_key_then_by_number(bench):
    heap = JobHeap()
    jobs = [bench.make(name) for name in "abcdef"]
    for key, job in zip([3, 1, 3, 2, 1, 2], jobs, strict=True):
        heap.push(key, job)
    assert heap.size == 6
    assert heap.first().name == "b"
    assert heap.first_key() == 1
    assert heap.size == 6
    assert [heap.pop().name for _ in range(6)] == list("bedfac")
    assert heap.size == 0


def test_any_job_can_be_taken_out_of_a_heap(bench):
    for kept in itertools.product([False, True], repeat=5):
        heap = JobHeap()
        jobs = [bench.make(name) for name in "abcde"]
        for job in jobs:
            heap.push(0, job)
        for keep, job in zip(kept, jobs, strict=True):
            if not keep:
                heap.discard(job)
        left = [job for keep, job in zip(kept, jobs, strict=True) if keep]
        assert heap.size == len(left)
        assert [job in heap for job in jobs] == list(kept)
        assert set(heap) == set(left)
        assert heap.first() is (left[0] if left else None)
        assert [heap.pop() for _ in left] == left


def test_a_job_is_in_the_heap_into_which_it_was_put(bench):
    one, other = JobHeap(), JobHeap()
    job = bench.make("a")
    assert job not in one
    one.push(1, job)
    assert job in one
    assert job not in other
    one.discard(job)
    other.push(2, job)
    assert job not in one
    assert job in other
    assert (one.first(), one.first_key()) == (None, None)
    assert other.first_key() == 2


def test_a_job_that_comes_back_to_a_heap_counts_once(bench):
    heap = JobHeap()
    job, other = bench.make("a"), bench.make("b")
    heap.push(5, other)
    for key in [9, 1, 7, 1, 9]:
        heap.push(key, job)
        assert heap.size == 2
        assert heap.first() is (job if key < 5 else other)
        heap.discard(job)
    heap.push(1, job)
    assert [heap.pop(), heap.pop()] == [job, other]
    assert heap.first() is None


# -- against a naive model ------------------------------------------------------------------------


class Model:
    """The same by searching lists, one for each state."""

    def __init__(self):
        self.ready, self.backing_off, self.working, self.completed = [], [], [], []
        self.priorities = {}
        self.until = {}  # of those that back off
        self.deadlines = {}  # of those that work and were not told

    @property
    def waiting(self):
        return self.ready + self.backing_off

    def order(self, job):
        return self.priorities[job.id], job.id

    def may_run(self, job):
        if job.lane is None:
            return True
        busy = {other.lane for other in self.working + self.backing_off}
        return job.lane not in busy

    def first(self):
        return min(filter(self.may_run, self.ready), key=self.order, default=None)

    def take(self, now):
        job = self.first()
        self.ready.remove(job)
        self.working.append(job)
        if job.timeout is not None:
            self.deadlines[job] = now + job.timeout
        return job

    def stop_working(self, job):
        self.working.remove(job)
        self.deadlines.pop(job, None)

    def finish(self, job, failed):
        self.stop_working(job)
        stopped = []
        if failed and job.lane is not None:
            behind = sorted((j for j in self.ready if j.lane == job.lane), key=self.order)
            stopped = list(itertools.takewhile(lambda j: j._options.stop_on_lane_error, behind))
        for other in stopped:
            self.ready.remove(other)
        return stopped

    def back_off(self, job, until):
        self.stop_working(job)
        self.backing_off.append(job)
        self.until[job] = until

    def remove(self, job):
        self.until.pop(job, None)
        for jobs in (self.ready, self.backing_off):
            if job in jobs:
                jobs.remove(job)
                return True
        return False

    def next_due(self):
        return min([*self.deadlines.values(), *self.until.values()], default=None)

    def due(self, now):
        for job in [job for job, until in self.until.items() if until <= now]:
            del self.until[job]
            self.backing_off.remove(job)
            self.ready.append(job)
        up = {job for job, deadline in self.deadlines.items() if deadline <= now}
        for job in up:
            del self.deadlines[job]
        return up


PICK = st.integers(0, 10**6)
PRIORITIES = st.sampled_from([-1, 0, 0.5, 1, 1.0, 2, 3, 100])
OPTIONS = st.fixed_dictionaries(
    {
        "lane": st.sampled_from([None, None, "a", "a", "b", 0]),
        "timeout": st.sampled_from([None, 1.0, 3.0, 50.0]),
        "backoff": st.sampled_from([0.0, 1.0, 4.0]),
        "stop_on_lane_error": st.booleans(),
    }
)


class SchedulerMachine(RuleBasedStateMachine):
    """Does the same to a scheduler and to the model, and compares all that can be seen."""

    def __init__(self):
        super().__init__()
        self.bench = Bench()
        self.scheduler = self.bench.scheduler
        self.model = Model()
        self.everybody = []
        self.now = 0.0

    def pick(self, jobs, number):
        return sorted(jobs, key=lambda job: job.id)[number % len(jobs)]

    @rule(priority=PRIORITIES, options=OPTIONS)
    def add(self, priority, options):
        job = self.bench.make(None, priority, **options)
        self.model.priorities[job.id] = priority
        self.model.ready.append(job)
        self.everybody.append(job)
        self.scheduler.add(job)

    @rule(priority=PRIORITIES, options=OPTIONS, number=st.integers(2, 12))
    def add_many(self, priority, options, number):
        for _ in range(number):
            self.add(priority, options)

    @precondition(lambda self: self.model.first() is not None)
    @rule(begin=st.booleans())
    def take(self, begin):
        job = self.model.take(self.now)
        assert self.scheduler.take(self.now) is job
        job.attempts += begin

    @precondition(lambda self: self.model.working)
    @rule(number=PICK, failed=st.booleans(), keep=st.booleans())
    def finish(self, number, failed, keep):
        job = self.pick(self.model.working, number)
        stopped = self.model.finish(job, failed)
        assert self.scheduler.finish(job, failed=failed) == stopped
        if keep:
            for ended in [job, *stopped]:
                self.scheduler.complete(ended)
                self.model.completed.append(ended)

    @precondition(lambda self: self.model.working)
    @rule(number=PICK)
    def put_back(self, number):
        job = self.pick(self.model.working, number)
        self.model.stop_working(job)
        self.model.ready.append(job)
        self.scheduler.put_back(job)

    @precondition(lambda self: self.model.working)
    @rule(number=PICK, uniform=st.sampled_from([0.0, 0.25, 0.5, 0.75]))
    def retry(self, number, uniform):
        job = self.pick(self.model.working, number)
        job.attempts = max(job.attempts, 1)
        self.bench.uniform = uniform
        delay = job._options.backoff * 2 ** (job.attempts - 1) * (0.5 + uniform)
        delay = min(delay, BACKOFF_MAX_S)
        assert self.scheduler.retry(job, self.now) == delay
        self.model.back_off(job, self.now + delay)
        if delay == 0:  # whether it needs to be told that no time is over, nobody promises
            self.compare_due()

    @precondition(lambda self: self.everybody)
    @rule(number=PICK)
    def remove(self, number):
        job = self.pick(self.everybody, number)
        assert self.scheduler.remove(job) == self.model.remove(job)

    @precondition(lambda self: self.model.waiting)
    @rule(number=PICK)
    def cancel(self, number):
        job = self.pick(self.model.waiting, number)
        assert self.model.remove(job)
        assert self.scheduler.remove(job) is True

    @precondition(lambda self: len(self.model.waiting) > 8)
    @rule()
    def remove_all(self):
        removed = sorted(self.model.waiting, key=self.model.order)
        for job in removed:
            self.model.remove(job)
        assert self.scheduler.remove_all() == removed

    @precondition(lambda self: self.everybody)
    @rule(number=PICK, priority=PRIORITIES)
    def reprioritise(self, number, priority):
        job = self.pick(self.everybody, number)
        changes = job in self.model.waiting + self.model.completed
        assert self.scheduler.reprioritise(job, priority) is changes
        assert job.priority == priority or not changes
        self.model.priorities[job.id] = job.priority

    @rule(seconds=st.sampled_from([0.0, 0.125, 1.0, 3.0, 20.0]))
    def time_goes_on(self, seconds):
        self.now += seconds
        self.compare_due()

    @precondition(lambda self: self.model.next_due() is not None)
    @rule()
    def sleep_until_something_is_due(self):
        self.now = max(self.now, self.scheduler.next_due())
        self.compare_due()

    def compare_due(self):
        up = self.scheduler.due(self.now)
        assert len(up) == len(set(up))
        assert set(up) == self.model.due(self.now)

    @precondition(lambda self: self.model.completed)
    @rule()
    def pop_completed(self):
        job = min(self.model.completed, key=self.model.order)
        self.model.completed.remove(job)
        assert self.scheduler.pop_completed() is job

    @invariant()
    def they_agree(self):
        scheduler, model = self.scheduler, self.model
        assert scheduler.first() is model.first()
        assert scheduler.next_due() == model.next_due()
        assert scheduler.num_waiting == len(model.waiting)
        assert scheduler.num_working == len(model.working)
        assert scheduler.num_completed == len(model.completed)
        waiting = set(model.waiting)
        assert [j for j in self.everybody if scheduler.is_waiting(j) != (j in waiting)] == []

    def teardown(self):
        assert self.scheduler.remove_all() == sorted(self.model.waiting, key=self.model.order)
        assert pop_all_completed(self.scheduler) == sorted(
            self.model.completed, key=self.model.order
        )


SchedulerMachine.TestCase.settings = settings(
    deadline=None, max_examples=120, stateful_step_count=60
)
TestAgainstTheModel = SchedulerMachine.TestCase


# -- memory ---------------------------------------------------------------------------------------


CONTAINERS = (list, dict, set, tuple, deque)


def footprint(thing):
    """Count what the containers hold of which a scheduler or heap is made."""
    count, todo, seen = 0, [thing], set()
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, CONTAINERS):
            count += len(one)
        elif type(one).__module__ != scheduler_module.__name__:
            continue
        todo += gc.get_referents(one)
    return count


def test_of_many_cancelled_jobs_few_are_kept(bench, scheduler):
    keeps = bench.add_all(range(5))
    before = footprint(scheduler)
    dead = []
    for lane in (None, "lane"):
        jobs = [bench.add(number, 200, lane=lane) for number in range(3000)]
        for job in jobs:
            assert scheduler.remove(job)
            dead.append(weakref.ref(job))
        del jobs, job
    assert sum(ref() is not None for ref in dead) <= FEW
    assert footprint(scheduler) <= before + 8 * FEW
    assert names_of(keeps) == bench.run_all()


def test_of_jobs_that_were_cancelled_while_they_backed_off_few_are_kept(bench, scheduler):
    bench.add("stays", backoff=1.0)
    scheduler.retry(bench.begin(), 0.0)
    dead = []
    for number in range(3000):
        job = bench.add(number, backoff=1000.0)
        scheduler.retry(bench.begin(), 0.0)
        assert scheduler.remove(job)
        dead.append(weakref.ref(job))
    del job
    assert sum(ref() is not None for ref in dead) <= FEW
    assert scheduler.num_waiting == 1


def test_of_jobs_that_ran_none_is_kept(bench, scheduler):
    bench.add("works on", timeout=1e6)
    stays = bench.begin()
    before = footprint(scheduler)
    dead = []
    for number in range(3000):
        lane = (None, "lane", number)[number % 3]  # of the last kind each is alone in its lane
        job = bench.add(number, lane=lane, timeout=1e9, backoff=1e3)
        dead.append(weakref.ref(job))
        assert bench.begin(float(number)) is job
        if number % 2:
            scheduler.put_back(job)
            assert bench.begin(float(number)) is job
        bench.end(job)
        if number % 5 == 0:
            scheduler.complete(job)
            assert scheduler.pop_completed() is job
    del job
    assert sum(ref() is not None for ref in dead) == 0
    assert footprint(scheduler) <= before + 8 * FEW
    assert stays.name == "works on"


def test_other_priorities_do_not_pile_up(bench, scheduler):
    jobs = bench.add_all(range(10))
    completed = bench.make("completed")
    scheduler.complete(completed)
    before = footprint(scheduler)
    for number in range(5000):
        assert scheduler.reprioritise(jobs[number % 10], number)
        assert scheduler.reprioritise(completed, -number)
    assert footprint(scheduler) <= before + 16 * FEW
    assert bench.counts == (10, 0, 1)
    assert bench.run_all() == list(range(10))


def test_lanes_that_ran_empty_do_not_pile_up(bench, scheduler):
    before = footprint(scheduler)
    for number in range(2000):
        job, other = bench.add_all("ab", lane=number, stop_on_lane_error=True, backoff=1.0)
        bench.begin()
        if number % 4 == 0:
            assert scheduler.remove(other)
            bench.end(job)
        elif number % 4 == 1:
            assert bench.fail(job) == ["b"]
        elif number % 4 == 2:
            scheduler.retry(job, 0.0)
            assert scheduler.remove(job)
            assert scheduler.remove(other)
        else:
            scheduler.put_back(job)
            assert names_of(scheduler.remove_all()) == ["a", "b"]
    assert bench.counts == (0, 0, 0)
    assert footprint(scheduler) <= before + 8 * FEW


def test_deadlines_of_finished_jobs_are_not_due(bench, scheduler):
    for number in range(1000):
        bench.add(number, timeout=float(number + 1))
        bench.end(bench.begin(0.0))
    assert scheduler.next_due() is None
    assert scheduler.due(1e9) == []


def test_memory_is_given_back_when_most_jobs_are_gone(bench, scheduler):
    jobs = bench.add_all(range(2000), lane="lane", timeout=1e9)
    jobs += bench.add_all(range(2000), timeout=1e9)
    full = footprint(scheduler)
    for _ in range(1000):
        bench.begin(0.0)
    for job in jobs:
        if not scheduler.remove(job):
            bench.end(job)
    assert bench.counts == (0, 0, 0)
    assert footprint(scheduler) < full / 10


# -- what an operation costs ----------------------------------------------------------------------


@total_ordering
class Priority:
    """A number that counts how often it was compared."""

    compared = 0

    def __init__(self, number):
        self.number = number

    def __eq__(self, other):
        Priority.compared += 1
        return self.number == other.number

    def __lt__(self, other):
        Priority.compared += 1
        return self.number < other.number

    __hash__ = None


class ComparedJob(Job):
    """A job that counts how often it was compared, as by a search through a list."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other):
        ComparedJob.compared += 1
        return self is other

    __hash__ = Job.__hash__


def shuffled(count):
    numbers = list(range(count))
    random.Random(count).shuffle(numbers)
    return numbers


def add_compared(bench, count, lane_of):
    options = {"backoff": 1.0, "timeout": 9.0}
    jobs = [
        bench.make(number, Priority(number), kind=ComparedJob, lane=lane_of(number), **options)
        for number in shuffled(count)
    ]
    for job in jobs:
        bench.scheduler.add(job)
    return jobs


def work_of_cancelling(bench, count, lane_of):
    for job in add_compared(bench, count, lane_of):
        assert bench.scheduler.remove(job)


def work_of_reprioritising(bench, count, lane_of):
    jobs = add_compared(bench, count, lane_of)
    for job, number in zip(jobs, shuffled(count + 1), strict=False):
        assert bench.scheduler.reprioritise(job, Priority(number - count / 2))


def work_of_making_the_first_the_last(bench, count, lane_of):
    add_compared(bench, count, lane_of)
    for number in range(count):
        assert bench.scheduler.reprioritise(bench.scheduler.first(), Priority(count + number))


def work_of_running(bench, count, lane_of):
    add_compared(bench, count, lane_of)
    for _ in range(count):
        bench.end(bench.begin())


def work_of_running_all_at_once(bench, count, lane_of):
    add_compared(bench, count, lane_of)
    while bench.scheduler.first() is not None:
        jobs = []
        while bench.scheduler.first() is not None:
            jobs.append(bench.begin(float(len(jobs))))
        for place in shuffled(len(jobs)):
            bench.end(jobs[place])
    assert bench.counts == (0, 0, 0)


def work_of_running_out_of_time(bench, count, lane_of):
    add_compared(bench, count, lane_of)
    now = 0.0
    while bench.scheduler.first() is not None or bench.scheduler.next_due() is not None:
        while bench.scheduler.first() is not None:
            bench.begin(now)
        now += 9.0
        for job in bench.scheduler.due(now):
            bench.end(job)
    assert bench.counts == (0, 0, 0)


def work_of_retrying(bench, count, lane_of):
    add_compared(bench, count, lane_of)
    now = 0.0
    for _ in range(count):
        if bench.scheduler.first() is None:
            now = bench.scheduler.next_due()
            bench.scheduler.due(now)
        bench.scheduler.retry(bench.begin(now), now)


def work_of_putting_back(bench, count, lane_of):
    add_compared(bench, count, lane_of)
    for _ in range(count):
        bench.scheduler.put_back(bench.scheduler.take(0.0))


def work_of_completing(bench, count, lane_of):
    for job in shuffled(count):
        bench.scheduler.complete(bench.make(job, Priority(job), kind=ComparedJob))
    for number in range(count):
        job = bench.scheduler.pop_completed()
        assert job.name == number


def work_of_removing_all(bench, count, lane_of):
    add_compared(bench, count, lane_of)
    assert len(bench.scheduler.remove_all()) == count


WORK = [
    work_of_cancelling,
    work_of_reprioritising,
    work_of_making_the_first_the_last,
    work_of_running,
    work_of_running_all_at_once,
    work_of_running_out_of_time,
    work_of_retrying,
    work_of_putting_back,
    work_of_completing,
    work_of_removing_all,
]
LANES = {
    "no lane": lambda number: None,
    "one lane": lambda number: "lane",
    "many lanes": lambda number: number % 100,
}


def comparisons_in(work, count, lane_of):
    Priority.compared = ComparedJob.compared = 0
    work(Bench(), count, lane_of)
    return Priority.compared + ComparedJob.compared


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("work", WORK)
def test_an_operation_compares_as_often_as_a_logarithm(work, lanes):
    count = 5_000
    # Each operation sifts up or down a few times, with two comparisons (equal? less?) a step.
    assert comparisons_in(work, count, LANES[lanes]) < 12 * count * math.log2(count)


def lines_run_in(work, count, lane_of):
    """Count the lines of the scheduler's own code: of its loops, if not of those in C."""
    counted = 0

    def in_scheduler(frame, event, _):
        nonlocal counted
        counted += event == "line"
        return in_scheduler

    def on_call(frame, event, _):
        ours = frame.f_globals.get("__name__") == scheduler_module.__name__
        return in_scheduler if ours else None

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        work(Bench(), count, lane_of)
    finally:
        sys.settrace(before)
    return counted


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("work", WORK)
def test_an_operation_does_not_look_at_all_jobs(work, lanes):
    few, many = (lines_run_in(work, count, LANES[lanes]) for count in (300, 2400))
    # Eight times the jobs: 8 times the work, 12 with a logarithm, 64 if each looks at all.
    assert many < 20 * few
