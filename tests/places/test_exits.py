"""Exit codes and deaths are told right, or it is told that nobody knows; nothing hangs."""

from __future__ import annotations

import signal

import pytest

import qmill
from qmill.engines.program import ProgramEngine
from qmill.processes import handles

from . import places
from .programs.exits import KERNEL_KEEPS_CODES

PLACES = {
    "ignore": ("fork", "forkserver", "spawn"),
    "handle": ("fork", "forkserver", "spawn"),
    "reap_in_a_thread": ("fork", "spawn"),
    "adopt_orphans": ("fork", "forkserver"),
}


@pytest.mark.parametrize(
    ("place", "method"), [(place, method) for place in PLACES for method in PLACES[place]]
)
def test_workers(place, method):
    assert places.run("-W", "ignore::DeprecationWarning", "exits.py", method, place) == "done\n"


@pytest.mark.skipif(not places.may_unshare(), reason="may have no own namespace")
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_workers_of_the_first_process_of_a_container(method):
    script = "exec unshare --pid --fork --mount-proc"
    assert places.run("exits.py", method, "own_namespace", script=script) == "done\n"


@pytest.mark.skipif(not places.may_unshare(), reason="needs Linux")
@pytest.mark.parametrize("kernel_tells", [True, False])
def test_programs_of_a_program_that_ignores_their_ends(monkeypatch, kernel_tells):
    """Of the command `qmill run`, for one, were SIGCHLD ignored."""
    if not kernel_tells:
        monkeypatch.setattr(handles, "kept_exit_code", lambda pidfd: None)
    elif not KERNEL_KEEPS_CODES:
        pytest.skip("needs Linux 6.15")
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with qmill.JobQueue(engine=ProgramEngine("odd", 1)) as jobs:
            outcomes = []
            for end in ("exit 0", "exit 3", "kill -9 $$"):
                # It waits for its line: by then it is known to this process.
                job = jobs.submit(lambda end=end: ["/bin/sh", "-c", f"read line; {end}"])
                outcomes.append(job.exception(20))
    finally:
        signal.signal(signal.SIGCHLD, before)
    done, failed, killed = outcomes
    if kernel_tells:
        assert done is None
        assert (failed.returncode, killed.signal) == (3, 9)
        return
    for death in outcomes:
        assert isinstance(death, qmill.WorkerDied)
        assert death.exitcode is death.signal is None
        assert "with an unknown exit code: another part" in str(death)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_of_which_nobody_knows_how_it_ended(monkeypatch, method):
    """An older kernel forgets it, and both that and the code that stands for it are told."""
    monkeypatch.setattr(handles, "kept_exit_code", lambda pidfd: None)
    monkeypatch.setenv("QMILL_START_METHOD", method)
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        worker = qmill.run(signal.raise_signal, signal.SIGKILL)
        death = worker.exception(20)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert worker.exitcode == handles.UNKNOWN_EXIT
    assert death.exitcode is death.signal is None
    assert "with an unknown exit code: another part" in str(death)
