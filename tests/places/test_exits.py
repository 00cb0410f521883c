"""Exit codes and deaths are told right, or it is told that nobody knows; nothing hangs."""

from __future__ import annotations

import signal

import pytest

import qmill
from qmill.engines.program import ProgramEngine

from . import places

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
def test_programs_of_which_nobody_knows_how_they_ended():
    """Of the command `qmill run`, for one, were SIGCHLD ignored."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with qmill.JobQueue(engine=ProgramEngine("odd", 1)) as jobs:
            for command in ("exit 0", "exit 3", "kill -9 $$"):
                death = jobs.submit(lambda command=command: ["/bin/sh", "-c", command]).exception(
                    20
                )
                assert isinstance(death, qmill.WorkerDied)
                assert death.exitcode is death.signal is None
                assert "took its exit status" in str(death)
    finally:
        signal.signal(signal.SIGCHLD, before)
