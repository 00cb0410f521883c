"""Jobs that were sent ahead to a worker that then dies or is busy."""

from __future__ import annotations

import os
import random
import signal
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

import qmill
from qmill import WorkerDied

from .. import functions, job_functions
from ..programs import LIMIT_S, wait_until
from .health import a_worker, check_healthy, learn, marks, outcome, send_signal


def test_short_jobs_do_not_wait_behind_a_long_one(quick_method, tmp_path):
    file, told, gate = str(tmp_path / "marks"), qmill.Queue(), qmill.Queue()
    with qmill.JobQueue(2) as jobs:
        learn(jobs, file)
        for turn in range(5):
            jobs.pause()
            long = jobs.submit(job_functions.mark_and_wait, file, 1000 + turn, told, gate)
            numbers = range(turn * 100, turn * 100 + 60)
            short = [jobs.submit(job_functions.mark_and_wait, file, number) for number in numbers]
            jobs.start()
            assert [job.result(LIMIT_S) for job in short] == list(numbers)
            assert not long.done()
            gate.put(None)
            assert long.result(LIMIT_S) == 1000 + turn
            told.get()
    counts = marks(tmp_path / "marks")
    assert all(count == 1 for number, count in counts.items() if number != -1)


def test_what_was_sent_ahead_to_a_worker_that_dies_runs_elsewhere(quick_method, tmp_path):
    file, told, gate = str(tmp_path / "marks"), qmill.Queue(), qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        for turn in range(5):
            learn(jobs, file)
            jobs.pause()
            first = jobs.submit(job_functions.mark_and_wait, file, 1000 + turn, told, gate)
            numbers = range(turn * 100, turn * 100 + 60)
            short = [jobs.submit(job_functions.mark_and_wait, file, number) for number in numbers]
            jobs.start()
            os.kill(told.get(), signal.SIGKILL)
            assert isinstance(outcome(first), WorkerDied)
            assert [job.result(LIMIT_S) for job in short] == list(numbers)
    counts = marks(tmp_path / "marks")
    assert all(count == 1 for number, count in counts.items() if number != -1)


def test_cancelling_what_was_sent_ahead(quick_method, tmp_path):
    file, told, gate = str(tmp_path / "marks"), qmill.Queue(), qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        learn(jobs, file)
        for turn in range(10):
            jobs.pause()
            first = jobs.submit(job_functions.mark_and_wait, file, 1000 + turn, told, gate)
            numbers = range(turn * 100, turn * 100 + 30)
            short = [jobs.submit(job_functions.mark_and_wait, file, number) for number in numbers]
            jobs.start()
            told.get()
            assert all(job.cancel() for job in short[::2])
            gate.put(None)
            assert first.result(LIMIT_S) == 1000 + turn
            assert [job.result(LIMIT_S) for job in short[1::2]] == list(numbers[1::2])
            assert all(isinstance(outcome(job), CancelledError) for job in short[::2])
    counts = marks(tmp_path / "marks")
    for number in (100 * turn + each for turn in range(10) for each in range(30)):
        # One that is cancelled may begin before its worker hears of it.
        assert 1 - (number + 1) % 2 <= counts[number] <= 1


@pytest.mark.parametrize("how", ["pause", "cancel"])
def test_a_slow_worker_from_which_jobs_are_taken_back_again_and_again(quick_method, how):
    """It has not read what it was sent meanwhile, and that may not fill its channel."""
    with qmill.JobQueue(1) as jobs:
        quick = [jobs.submit(job_functions.size_of, bytes(900)) for _ in range(300)]
        assert {job.result() for job in quick} == {900}
        pid = jobs.submit(functions.pid).result()
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: ") T " in Path(f"/proc/{pid}/stat").read_text())
        try:
            some = [jobs.submit(job_functions.size_of, bytes(900)) for _ in range(640)]
            for _ in range(30):
                wait_until(lambda: any(job.running() for job in some))
                given = next(job for job in some if job.running())
                if how == "cancel":
                    assert given.cancel()
                else:
                    jobs.pause()
                    wait_until(lambda: not any(job.running() for job in some))
                    jobs.start()
            os.kill(pid, signal.SIGCONT)
            assert {job.result(LIMIT_S) for job in some if not job.cancelled()} == {900}
        except BaseException:
            os.kill(pid, signal.SIGKILL)  # so that the queue can end
            raise
        check_healthy(jobs)


def test_workers_stopped_at_random(quick_method, worker_pids, tmp_path):
    """As by an overloaded machine: each stands still for a while, at any place."""
    seed = int(os.environ.get("QMILL_TEST_SEED") or random.randrange(1 << 32))
    print(f"QMILL_TEST_SEED={seed}")
    rng, file = random.Random(seed), str(tmp_path / "marks")
    with qmill.JobQueue(2) as jobs:
        some = [jobs.put(job_functions.mark, (file, number)) for number in range(2500)]
        left = len(some)
        while left:
            for _ in range(rng.randrange(3)):
                rng.choice(some).cancel()
            if rng.random() < 0.2:
                jobs.pause()
                jobs.start()
            with a_worker(rng, worker_pids) as worker:
                send_signal(worker, signal.SIGSTOP)
                left = jobs.wait(n=rng.randrange(1, 20), timeout=0.1)  # it may have the last
                send_signal(worker, signal.SIGCONT)
        for number, job in enumerate(some):
            assert job.cancelled() or outcome(job) == number
        check_healthy(jobs)
    counts = marks(tmp_path / "marks")
    assert all((not job.cancelled()) <= counts[n] <= 1 for n, job in enumerate(some))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_cancel_races_with_the_end(quick_method, num_workers, tmp_path):
    file = str(tmp_path / "marks")
    cancelled = []
    with qmill.JobQueue(num_workers) as jobs:
        learn(jobs, file)
        some = []
        for number in range(2000):
            some.append(jobs.put(job_functions.mark_and_wait, (file, number)))
            if number % 5 == 4:
                job = some[-random.randrange(1, 30) if number > 30 else -1]
                if job.cancel():
                    cancelled.append(job)
        assert jobs.wait() == 0
        check_healthy(jobs)
    counts = marks(tmp_path / "marks")
    for number, job in enumerate(some):
        assert job.cancelled() == (job in cancelled)
        if job.cancelled():
            assert counts[number] <= 1
        else:  # nobody but who was cancelled pays for it
            assert (job.state, outcome(job), counts[number]) == ("done", number, 1)
