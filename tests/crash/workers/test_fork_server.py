"""The fork server: shared, replaced after its death, and ended with the program."""

from __future__ import annotations

import os
import signal

import pytest

import qmill
from qmill.processes import fork_server as servers, handles

from .. import functions
from ..programs import Call, Watch
from .leftovers import STARTS_OTHERS, pids_left_by


@pytest.fixture
def fork_server(monkeypatch, run):
    """The process number of this process's fork server."""
    monkeypatch.setenv("QMILL_START_METHOD", "forkserver")
    return run(functions.parent_pid).result()


def test_a_fork_server_that_was_killed(fork_server, run):
    ready, gate = qmill.Queue(), qmill.Queue()
    crew = [run(functions.tell_and_wait, ready, gate) for _ in range(2)]
    for _ in crew:
        ready.get()
    watch = Watch([fork_server])
    os.kill(fork_server, signal.SIGKILL)
    assert watch.wait() == []
    assert all(worker.is_alive() for worker in crew)
    next_worker = run(functions.parent_pid)
    assert next_worker.result() not in (fork_server, os.getpid())
    gate.put("one")
    gate.put("two")
    assert sorted(worker.result() for worker in crew) == ["one", "two"]


def test_a_worker_that_dies_after_its_fork_server(fork_server, run):
    ready, gate = qmill.Queue(), qmill.Queue()
    worker = run(functions.tell_and_wait, ready, gate)
    ready.get()
    watch = Watch([fork_server])
    os.kill(fork_server, signal.SIGKILL)
    assert watch.wait() == []
    worker.kill()
    with pytest.raises(qmill.WorkerDied) as info:
        worker.result()
    assert info.value.pid == worker.pid


def test_a_fork_server_that_is_stopped_is_replaced(fork_server, run):
    os.kill(fork_server, signal.SIGSTOP)
    assert run(functions.parent_pid).result() not in (fork_server, os.getpid())
    watch = Watch([fork_server])
    servers.stop()
    assert watch.wait() == []


def test_a_worker_of_a_stopped_fork_server_ends(fork_server, run):
    ready, gate = qmill.Queue(), qmill.Queue()
    worker = run(functions.tell_and_wait, ready, gate)
    ready.get()
    os.kill(fork_server, signal.SIGSTOP)
    gate.put("open")
    assert worker.result() == "open"
    worker.join()
    assert worker.exitcode == handles.UNKNOWN_EXIT
    servers.stop()


def test_fork_servers_that_all_end_are_told(fork_server, run, monkeypatch):
    servers.stop()
    monkeypatch.setattr(servers, "PRELOADED", ["no_such_module_of_a_test"])
    with pytest.raises(ChildProcessError, match="has ended 3 times in a row .*spawn"):
        run(functions.parent_pid)


STOPS_ITS_SERVER = """
server = qmill.run(functions.parent_pid).result()
if server != os.getpid():
    os.kill(server, signal.SIGSTOP)
print("the end", flush=True)
"""


def test_a_program_ends_although_its_fork_server_is_stopped(start_program):
    assert start_program(STOPS_ITS_SERVER).finish() == ("the end\n", "")


@pytest.mark.parametrize(
    "start",
    [
        "jobs = qmill.JobQueue(2); [jobs.submit(start_another, n) for n in range(2)]",
        "list(qmill.map(start_another, range(2), max_workers=2))",
    ],
)
def test_what_jobs_have_started_does_not_outlive_the_parent(start_program, start):
    assert pids_left_by(start_program(f"{STARTS_OTHERS}{start}\nsignal.pause()")) == []


@pytest.mark.parametrize(
    "start",
    [
        "workers = [qmill.run(start_another, n) for n in range(2)]",
        "import qmill.workers.standard as lib\n"
        "workers = [lib.Process(target=start_another, args=(n,)) for n in range(2)]\n"
        "[worker.start() for worker in workers]",
        "import qmill.workers.standard as lib\n"
        "workers = [lib.PlainProcess(target=start_another, args=(n,)) for n in range(2)]\n"
        "[worker.start() for worker in workers]",
    ],
)
def test_what_workers_have_started_does_not_outlive_the_parent(start_program, start):
    assert pids_left_by(start_program(f"{STARTS_OTHERS}{start}\nsignal.pause()")) == []


@pytest.mark.parametrize("submit", ["qmill.JobQueue(2).submit", "qmill.run"])
def test_what_has_a_session_of_its_own_outlives_the_parent(start_program, submit):
    start = f"submit = {submit}\nfor alone in (True, False):\n"
    start += "    kept = submit(start_another, 0, start_new_session=alone)"
    program = start_program(f"{STARTS_OTHERS}{start}\nsignal.pause()")
    pids = [pid for _ in range(2) for pid in program.hear_pids()]
    [alone] = [pid for pid in pids if os.getsid(pid) == pid]
    watch, others = Watch([alone]), Watch([pid for pid in pids if pid != alone])
    program.kill()
    assert others.wait() == []
    os.kill(alone, signal.SIGKILL)  # which raises if it has gone
    assert watch.wait() == []


def test_several_threads_start_workers_at_once(method):
    calls = [Call(lambda: qmill.run(functions.pid).result()) for _ in range(6)]
    pids = [call.result() for call in calls]
    assert len(set(pids)) == 6
