"""Jobs run by priority, and of equal ones in the order of their puts."""

from __future__ import annotations

import math
import random

import pytest

from .bench import names_of, pop_all_completed

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
