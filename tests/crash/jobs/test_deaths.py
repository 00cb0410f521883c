"""Workers die again and again, and each death is told with all that is known."""

from __future__ import annotations

import os
import random
import select
import signal

import pytest

import qmill
from qmill import WorkerDied

from .. import functions, job_functions
from ..programs import Call
from .health import a_worker, check_healthy, marks, outcome, send_signal

# -- deaths without end ---------------------------------------------------------------------------


def test_what_has_lost_its_worker_is_told(quick_method):
    """PAINS 2: the pool hangs after a worker is killed."""
    with qmill.JobQueue(2) as jobs:
        some = [
            jobs.put(functions.die, "os._exit(3)", suppress_errors=True)
            if number == 2
            else jobs.put(functions.add, number)
            for number in range(6)
        ]
        ends = [outcome(job) for job in some]
        assert isinstance(ends.pop(2), WorkerDied)
        assert ends == [0, 1, 3, 4, 5]
    results = qmill.map(functions.die, ["os._exit(3)"] * 6, max_workers=2)
    with pytest.raises(WorkerDied, match="exit code 3"):
        list(results)


@pytest.mark.parametrize("num_deaths", [200])
def test_the_queue_outlives_all_its_workers(quick_method, num_deaths, tmp_path):
    """PAINS 3: one crash breaks the pool for ever."""
    file = tmp_path / "marks"
    with qmill.JobQueue(2) as jobs:
        deaths, others = [], []
        for number in range(num_deaths):
            deaths.append(
                jobs.put(
                    job_functions.mark_and_die,
                    (str(file), number, ["SIGKILL", "os._exit(3)"][number % 2]),
                    suppress_errors=True,
                )
            )
            others.append(jobs.put(job_functions.mark, (str(file), num_deaths + number)))
        assert jobs.wait() == 0
        assert {job.state for job in deaths} == {"died"}
        assert {job.state for job in others} == {"done"}
        check_healthy(jobs)
    assert marks(file) == dict.fromkeys(range(2 * num_deaths), 1)


CHUNKED = 30  # calls of one map, in chunks of 10


def map_marks(jobs, file, first, count):
    """Map over numbers again and again; return what came of each map."""
    ends = []
    for start in range(first, first + count * CHUNKED, CHUNKED):
        numbers = range(start, start + CHUNKED)
        try:
            ends.append(list(jobs.map(job_functions.mark, [file] * CHUNKED, numbers, chunksize=10)))
        except WorkerDied as error:
            ends.append(error)
    return ends


@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_killed_at_random(method, num_workers, worker_pids, tmp_path):
    seed = int(os.environ.get("QMILL_TEST_SEED") or random.randrange(1 << 32))
    print(f"QMILL_TEST_SEED={seed}")
    rng = random.Random(seed)
    num_jobs, num_maps = (600, 10) if method == "spawn" else (2500, 40)
    largest_step = num_jobs // (5 if method == "spawn" else 40)
    file = str(tmp_path / "marks")
    num_kills = 0
    with qmill.JobQueue(num_workers) as jobs:
        some = [
            jobs.put(
                job_functions.mark,
                (file, number),
                retries=3 if rng.random() < 0.1 else 0,
                priority=rng.randrange(3),
                lane=rng.randrange(5) if rng.random() < 0.05 else None,
                suppress_errors=True,
            )
            for number in range(num_jobs)
        ]
        maps = Call(map_marks, jobs, file, num_jobs, num_maps)
        while jobs.wait(n=rng.randrange(1, largest_step)):
            with a_worker(rng, worker_pids) as worker:  # whatever it is about
                if send_signal(worker, signal.SIGKILL):
                    num_kills += 1
                    select.select([worker], [], [])  # until it is dead it may take another job
        mapped = maps.result()
        assert jobs.wait() == 0
        assert len(jobs.collect()) == num_jobs
        check_healthy(jobs)
    counts = marks(tmp_path / "marks")
    num_deaths = sum(isinstance(end, WorkerDied) for end in mapped)
    for job, number in zip(some, range(num_jobs), strict=True):
        error = job.exception()
        assert job.state == ("done" if error is None else "died"), error
        assert error is None or isinstance(error, WorkerDied)
        assert (error is None) <= counts[number] <= job.attempts
        num_deaths += job.attempts - (error is None)
    for index, end in enumerate(mapped):
        numbers = range(num_jobs + index * CHUNKED, num_jobs + (index + 1) * CHUNKED)
        if isinstance(end, list):
            assert end == list(numbers)
        assert all(isinstance(end, list) <= counts[number] <= 1 for number in numbers)
    assert num_deaths <= num_kills, "a death costs one job, the one that was running"


# -- what a death tells ---------------------------------------------------------------------------


def test_a_death_names_pid_signal_exit_code_job_and_memory(method):
    """PAINS 22: "timeout or memory leak": a vague death."""
    told = qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        job = jobs.put(functions.tell_and_wait, [told, qmill.Queue()], name="a long one")
        pid = told.get()
        os.kill(pid, signal.SIGKILL)
        error = outcome(job)
        assert type(error) is WorkerDied
        assert (error.pid, error.signal, error.exitcode) == (pid, signal.SIGKILL, -signal.SIGKILL)
        assert error.job == "a long one"
        assert 1 << 20 < error.rss_bytes < 1 << 34
        for word in (str(pid), "SIGKILL", "a long one", "MiB"):
            assert word in str(error)
        record = job.to_dict()
        assert (record["exitcode"], record["state"]) == (-signal.SIGKILL, "died")
        assert "SIGKILL" in record["exception"]
        job = jobs.put(functions.die, "os._exit(3)", suppress_errors=True)
        error = outcome(job)
        assert (error.signal, error.exitcode, error.job) == (None, 3, job.id)
        assert "3" in str(error)
