"""Deadlines of attempts and of waiting jobs."""

from __future__ import annotations

import pytest

from .bench import names_of


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
