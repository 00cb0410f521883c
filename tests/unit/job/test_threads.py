"""Many threads use one job."""

from __future__ import annotations

import concurrent.futures
import threading
from concurrent.futures import as_completed, wait

import pytest

from qmill.jobs.job import (
    FINISHED,
)

from .alone import LIMIT_S, in_step, make, succeed


def by_as_completed(jobs):
    ended = list(as_completed(jobs, timeout=LIMIT_S))
    assert len(ended) == len(jobs)
    assert set(ended) == set(jobs)


def by_as_completed_backwards(jobs):
    by_as_completed(jobs[::-1])


def by_wait(jobs):
    assert wait(jobs, timeout=LIMIT_S) == (set(jobs), set())


def by_waiting_for_the_first(jobs):
    left = set(jobs)
    while left:
        found = wait(left, timeout=LIMIT_S, return_when=concurrent.futures.FIRST_COMPLETED)
        assert found.done
        left = found.not_done


def by_result(jobs):
    for job in jobs:
        assert job.result(LIMIT_S) == job.id


def by_exception(jobs):
    for job in reversed(jobs):
        assert job.exception(LIMIT_S) is None


def by_callbacks(jobs):
    called, all_called = [], threading.Event()

    def callback(job):
        called.append(job)
        if len(called) == len(jobs):
            all_called.set()

    for job in jobs:
        job.add_done_callback(callback)
    assert all_called.wait(LIMIT_S)
    assert len(called) == len(jobs)
    assert set(called) == set(jobs)


WATCHES = [
    by_as_completed,
    by_as_completed_backwards,
    by_wait,
    by_waiting_for_the_first,
    by_result,
    by_exception,
    by_callbacks,
]


def settle_first_half(jobs):
    for job in jobs[: len(jobs) // 2]:
        succeed(job, job.id)


def settle_second_half(jobs):
    for job in jobs[: len(jobs) // 2 - 1 : -1]:
        succeed(job, job.id)


@pytest.mark.parametrize("watch", WATCHES)
def test_no_end_is_missed_and_none_comes_twice(fast_switching, watch):
    rounds = 1500
    jobs_of = [[make() for _ in range(3)] for _ in range(rounds)]
    for jobs in jobs_of[::3]:
        succeed(jobs[1], jobs[1].id)  # of some rounds, one has ended before

    def settle(jobs):
        for job in jobs:
            if not job.done():
                succeed(job, job.id)

    in_step(rounds, jobs_of, [watch, settle])


def test_watches_of_all_kinds_over_the_same_jobs(fast_switching):
    rounds = 300
    jobs_of = [[make() for _ in range(6)] for _ in range(rounds)]
    in_step(rounds, jobs_of, [*WATCHES, settle_first_half, settle_second_half])


def test_watches_of_all_kinds_over_one_job(fast_switching):
    rounds = 300
    jobs_of = [[make()] for _ in range(rounds)]
    in_step(rounds, jobs_of, [*WATCHES, *WATCHES, lambda jobs: succeed(jobs[0], jobs[0].id)])


def test_of_those_that_settle_a_job_at_once_one_does(fast_switching):
    rounds = 1000
    jobs_of = [[make()] for _ in range(rounds)]
    settled = []

    def settle_with(name):
        def settle(jobs):
            if jobs[0]._settle(FINISHED, name, None):
                settled.append((jobs[0], name))

        return settle

    in_step(rounds, jobs_of, [settle_with(name) for name in "abc"])
    assert len(settled) == rounds
    assert [job.result(0) for job, _ in settled] == [name for _, name in settled]


def test_what_is_made_on_first_use_is_made_once(fast_switching):
    rounds = 1000
    jobs_of = [[make()] for _ in range(rounds)]
    found = [[] for _ in range(rounds)]

    def look(jobs):
        [job] = jobs
        row = found[job.id - jobs_of[0][0].id]
        row.append((id(job._condition), id(job._waiters), id(job._done_callbacks)))

    in_step(rounds, jobs_of, [look] * 3)
    assert {(len(row), len(set(row))) for row in found} == {(3, 1)}
