"""Failed jobs wait for their backoff and run again."""

from __future__ import annotations

import pytest

from qmill.jobs.scheduler import BACKOFF_MAX_S, Scheduler

from .bench import Bench


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
