"""Jobs are removed, and completed ones collected."""

from __future__ import annotations

import pytest

from .bench import names_of, pop_all_completed

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


# -- completed jobs -------------------------------------------------------------------------------


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
