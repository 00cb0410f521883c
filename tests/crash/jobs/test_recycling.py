"""Workers are replaced after a number of jobs."""

from __future__ import annotations

import random
from collections import Counter

import pytest

import qmill
from qmill import JobTimeout, WorkerDied

from .. import functions, job_functions
from ..programs import LIMIT_S, Call
from .health import check_healthy, marks, outcome


@pytest.mark.parametrize("limit", [1, 3])
def test_recycling_under_load(quick_method, limit):
    """PAINS 9: recycling workers deadlocks."""

    def submit(jobs, first):
        some = [jobs.submit(job_functions.echo, first + number) for number in range(20)]
        pids = [jobs.submit(functions.pid) for _ in range(20)]
        dead = jobs.submit(functions.die, "SIGKILL")
        assert [job.result() for job in some] == list(range(first, first + 20))
        assert isinstance(dead.exception(), WorkerDied)
        return [job.result() for job in pids]

    with qmill.JobQueue(3, max_jobs_per_worker=limit) as jobs:
        calls = [Call(submit, jobs, 100 * number) for number in range(3)]
        pids = Counter(pid for call in calls for pid in call.result())
        assert max(pids.values()) <= limit
        check_healthy(jobs)


def test_recycling_while_maps_run(quick_method):
    with qmill.JobQueue(2, max_jobs_per_worker=2) as jobs:
        calls = [
            Call(lambda: list(jobs.map(functions.add, range(100), chunksize=10))) for _ in range(3)
        ]
        assert all(call.result() == list(range(100)) for call in calls)


def test_a_queue_that_stops_its_workers_each_time(quick_method):
    def use(first):
        for number in range(first, first + 15):
            assert jobs.submit(job_functions.echo, number).result(LIMIT_S) == number
            jobs.put(functions.nothing).cancel()

    with qmill.JobQueue(2, auto_stop=True) as jobs:
        for call in [Call(use, 100 * number) for number in range(2)]:
            call.result()
        for number in range(10):
            assert jobs.submit(job_functions.echo, number).result(LIMIT_S) == number
            assert jobs.wait() == 0


def test_pause_and_start_under_load(quick_method, tmp_path):
    file, rng = str(tmp_path / "marks"), random.Random(7)
    with qmill.JobQueue(2) as jobs:
        some = [jobs.put(job_functions.mark, (file, number)) for number in range(2000)]
        while jobs.wait(n=rng.randrange(1, 60)):
            jobs.pause()
            jobs.reprioritize(rng.choice(some), rng.randrange(200))
            jobs.start()
        assert [job.result() for job in some] == list(range(2000))
    assert marks(tmp_path / "marks") == dict.fromkeys(range(2000), 1)


def test_timeouts_under_load_cost_no_other(quick_method, tmp_path):
    file, gate = str(tmp_path / "marks"), qmill.Queue()
    with qmill.JobQueue(3) as jobs:
        some, stuck = [], []
        for number in range(2000):
            some.append(jobs.put(job_functions.mark, (file, number)))
            if number % 100 == 0:
                stuck.append(
                    jobs.put(functions.wait_for, [gate], timeout=0.03, suppress_errors=True)
                )
        assert {type(outcome(job)) for job in stuck} == {JobTimeout}
        assert [outcome(job) for job in some] == list(range(2000))
    assert marks(tmp_path / "marks") == dict.fromkeys(range(2000), 1)
