"""The workers of a queue grow in number, leave and return."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections import Counter

import pytest

import qmill
from qmill import WorkerDied

from .. import functions, job_functions
from ..programs import LIMIT_S, Watch, wait_until
from .health import check_healthy, fork_servers, marks, outcome


def test_the_number_of_workers_changes_live(quick_method, worker_pids):
    told, gate = qmill.Queue(), qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        some = [jobs.submit(functions.tell_and_wait, told, gate) for _ in range(12)]
        told.get()
        jobs.set_workers(4)
        for _ in range(3):
            told.get()
        assert jobs.size(working=True) == 4
        jobs.set_workers(1)
        gate.put_many([0] * 4)
        told.get()
        wait_until(lambda: jobs.size(waiting=True) == 7)
        assert jobs.size(working=True) == 1
        wait_until(lambda: len(worker_pids()) == 1)
        gate.put_many([0] * 8)
        assert {job.result() for job in some} == {0}


def test_the_number_of_workers_changes_under_load(quick_method, tmp_path):
    file, rng = str(tmp_path / "marks"), random.Random(5)
    with qmill.JobQueue(2) as jobs:
        some = [jobs.put(job_functions.mark, (file, number)) for number in range(1500)]
        while jobs.wait(n=rng.randrange(1, 100)):
            jobs.set_workers(rng.choice([1, 2, 5]))
        assert [job.result() for job in some] == list(range(1500))
        check_healthy(jobs)
    assert marks(tmp_path / "marks") == dict.fromkeys(range(1500), 1)


def test_a_fork_server_that_is_killed(monkeypatch):
    monkeypatch.setenv("QMILL_START_METHOD", "forkserver")
    told, gate = qmill.Queue(), qmill.Queue()
    with qmill.JobQueue(2) as jobs:
        running = jobs.submit(functions.tell_and_wait, told, gate)
        told.get()
        [server] = fork_servers()
        watch = Watch([server])
        os.kill(server, signal.SIGKILL)
        assert watch.wait() == []
        assert [jobs.submit(functions.add, number).result() for number in range(20)]
        dead = jobs.put(functions.die, "SIGKILL", suppress_errors=True)
        assert isinstance(outcome(dead), WorkerDied)
        gate.put("open")
        assert running.result() == "open"
        running = jobs.submit(functions.tell_and_wait, told, gate)
        [server] = fork_servers()
        os.kill(server, signal.SIGKILL)
        os.kill(told.get(), signal.SIGKILL)
        assert isinstance(outcome(running), WorkerDied)
        check_healthy(jobs)


def refuse_processes(monkeypatch):
    """Have the system refuse to start processes, as at a limit."""

    def refuse(*_, **__):
        raise BlockingIOError(11, "too many processes")

    for server in fork_servers():
        watch = Watch([server])
        os.kill(server, signal.SIGKILL)
        watch.wait()
    monkeypatch.setattr(os, "fork", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)


def test_no_process_can_be_started(method, monkeypatch):
    with qmill.JobQueue(2) as jobs, monkeypatch.context() as patch:
        refuse_processes(patch)
        some = [
            jobs.put(functions.add, number, suppress_errors=True, retries=1) for number in range(3)
        ]
        assert {type(outcome(job)) for job in some} == {BlockingIOError}
        assert {job.state for job in some} == {"failed"}
        patch.undo()
        check_healthy(jobs)


def test_no_more_processes_can_be_started(method, monkeypatch):
    """With one worker there, the others are only missed."""
    told, gate = qmill.Queue(), qmill.Queue()
    with qmill.JobQueue(3) as jobs, monkeypatch.context() as patch:
        running = jobs.submit(functions.tell_and_wait, told, gate)
        told.get()
        refuse_processes(patch)
        some = [jobs.put(functions.add, number) for number in range(20)]
        gate.put("open")
        assert running.result() == "open"
        assert [job.result(LIMIT_S) for job in some] == list(range(20))
        patch.undo()
        check_healthy(jobs)


def test_an_initializer_that_fails(method):
    with qmill.JobQueue(2, initializer=functions.fail, initargs=("to begin",)) as jobs:
        some = [jobs.put(functions.nothing, suppress_errors=True) for _ in range(5)]
        assert {type(outcome(job)) for job in some} == {ValueError}
        assert {job.state for job in some} == {"failed"}
    with qmill.JobQueue(2, initializer=functions.die, initargs=("SIGKILL",)) as jobs:
        some = [jobs.put(functions.nothing, suppress_errors=True) for _ in range(5)]
        assert {type(outcome(job)) for job in some} == {WorkerDied}
        assert {job.state for job in some} == {"died"}


@pytest.mark.parametrize("num_deaths", [2, 3])
def test_a_worker_that_is_killed_while_it_starts_is_replaced(num_deaths, method, tmp_path):
    """It costs no job; the third in a row costs one."""
    deaths = tmp_path / "deaths"
    begin = {"initializer": job_functions.die_first, "initargs": (str(deaths), num_deaths)}
    with qmill.JobQueue(1, **begin) as jobs:
        some = [jobs.put(functions.nothing, suppress_errors=True) for _ in range(5)]
        errors = [error for job in some if (error := outcome(job)) is not None]
        assert marks(deaths) == Counter([0] * num_deaths)
        assert len(errors) == (num_deaths == 3)
        for error in errors:
            assert (type(error), error.signal) == (WorkerDied, signal.SIGKILL)
            assert error.__notes__ == ["3 workers in a row died before they were ready"]
        check_healthy(jobs)


def test_descriptors_run_out(start_program, method):
    program = start_program(
        """
import gc, logging, resource
logging.disable()
LIMITS = resource.getrlimit(resource.RLIMIT_NOFILE)

def take_all_but(spare):
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, LIMITS[1]))
    held = []
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        pass
    for _ in range(spare):
        os.close(held.pop())
    return held

def give_back(held):
    resource.setrlimit(resource.RLIMIT_NOFILE, LIMITS)
    for descriptor in held:
        os.close(descriptor)

def put_some(jobs):
    some = [jobs.submit(functions.add, i) for i in range(5)]
    some += [jobs.submit(functions.many_bytes, 1 << 17) for _ in range(2)]
    return some + [jobs.submit(job_functions.size_of, bytes(1 << 17)) for _ in range(2)]

def try_with(spare, jobs):
    held = take_all_but(spare)
    try:
        jobs = jobs or qmill.JobQueue(2)
        ends = [job.exception(20) for job in put_some(jobs)]
        assert all(isinstance(end, (type(None), OSError, qmill.WorkerDied)) for end in ends), ends
    except OSError:
        if jobs is not None:  # else there were too few for a queue
            raise
        return
    finally:
        give_back(held)
    for job in put_some(jobs):
        job.result(20)
    jobs.shutdown()

for spare in (0, 2, 4, 5, 6, 7, 8, 10):
    try_with(spare, None)
for spare in (0, 2, 5):
    with qmill.JobQueue(2) as jobs:
        jobs.submit(functions.nothing).result()
        try_with(spare, jobs)
gc.collect()
try:
    tell(os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT))
except ChildProcessError:
    tell("no child")
"""
    )
    assert program.hear() == (["None"] if method == "forkserver" else ["no", "child"])
    _, errors = program.finish()
    assert errors == ""
