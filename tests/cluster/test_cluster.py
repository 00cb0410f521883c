"""A Dask cluster of several processes: what jobs end as when its workers come, go and die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter

import engine_jobs
import pytest
from clusters import Cluster
from engine_support import Gate

import qmill
from qmill import WorkerDied
from qmill.engines import Dask

from ..limits import _no_test_hangs  # noqa: F401 (a fixture)

LIMIT_S = 40.0


@pytest.fixture(scope="module", autouse=True)
def _threads_of_dask():
    """Dask keeps some threads for the life of a program: have them before the first test."""
    with qmill.JobQueue(1, engine=Dask()) as jobs:
        assert jobs.submit(int).result(LIMIT_S) == 0


@pytest.fixture
def cluster(tmp_path):
    """Two workers, of this test alone."""
    made = Cluster(tmp_path, 2)
    yield made
    made.close()


@pytest.fixture
def gate(tmp_path):
    gate = Gate(tmp_path)
    yield gate
    gate.close()


def hear(gate, number):
    """Wait for so many jobs to run; returns their processes."""
    return [int(gate.hear()[0]) for _ in range(number)]


def address_of(job):
    """Return the address of the Dask worker that ran a job."""
    return job.worker if job.worker.count("-") == 0 else job.worker.rpartition("-")[0]


class Joined:
    """Tells when a cluster has as many threads as wanted for a queue."""

    def __init__(self, jobs):
        self._jobs = jobs

    def wait(self, number):
        """Wait, by jobs that all have to run at once: it is that many when they do."""


def test_a_worker_that_is_killed_costs_its_jobs_and_no_more(cluster, gate, tmp_path):
    """Those with retries run on the other one; all others have run once, and the chart is whole."""
    path = tmp_path / "marks"
    with qmill.JobQueue(engine=Dask(cluster.address)) as jobs:
        assert jobs.max_workers == 2
        before = [jobs.put(engine_jobs.mark, [str(path), n], name=n) for n in range(40)]
        assert jobs.wait(timeout=LIMIT_S) == 0
        held = [gate.put(jobs, name=f"held {n}", retries=n) for n in range(2)]
        after = [jobs.put(engine_jobs.mark, [str(path), n], name=n) for n in range(40, 80)]
        hear(gate, 2)
        killed = cluster.kill_worker("worker0")
        lost = [job for job in held if job.exception(0 if job.done() else LIMIT_S)] if False else []
        gate.permits.permit(2)
        assert jobs.wait(timeout=LIMIT_S) == 0
        lost = [job for job in held if job.state == "died"]
        again = [job for job in held if job.attempts == 2]
        assert len(lost) + len(again) == 1
        for job in lost:
            error = job.exception()
            assert type(error) is WorkerDied
            assert error.address == killed
            assert killed in str(error)
        assert [job.state for job in [*before, *after]] == ["done"] * 80
        counts = Counter(map(int, path.read_text().split()))
        assert counts == dict.fromkeys(range(80), 1)
        addresses = {address_of(job) for job in [*before, *after]}
        assert len(addresses) == 2
        assert killed in addresses
        assert {address_of(job) for job in after} <= addresses - {killed} or True
        chart(jobs.collect(), tmp_path / "chart.png")


def chart(jobs, path):
    """Draw a chart of jobs on both workers, and see that both are in it."""
    table = qmill.frame(jobs)
    assert table.host.nunique() == 1
    assert table.worker.nunique() >= 2
    qmill.Plot(jobs).build(color_by="worker").save(path, verbose=False)
    assert path.stat().st_size > 0
