"""Workers and programs that begin as root and give up its privileges."""

from __future__ import annotations

import os
import sys

import pytest

import qmill
from qmill.processes import launch

from . import places

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root"),
    pytest.mark.skipif(not places.may_unshare(), reason="may have no own mounts"),
]
WAYS = [("portable", "forkserver")]
if qmill.core_info().core:
    WAYS += [("shared", method) for method in launch.METHODS]


@pytest.fixture(params=WAYS, ids=" ".join)
def run(request, tmp_path):
    """Runs parts of the program with files that every user may read."""
    at = tmp_path / "at"
    at.mkdir()
    transport, method = request.param
    mounts = places.opened_to_all(sys.executable, at)

    def run(*parts):
        environ = {
            "QMILL_TRANSPORT": "portable" if transport == "portable" else "",
            "PYTHONWARNINGS": "ignore:This process:DeprecationWarning",
        }
        script = places.in_own_mounts(*mounts)
        return places.run("privileges.py", method, *parts, script=script, **environ)

    return run


def test_workers(run):
    assert run("workers_drop", "readers_drop", "job_workers_drop", "late_queue") == "done\n"


def test_programs(run):
    assert run("program_drops") == "done\n"


def test_programs_that_are_not_dumpable(run):
    assert run("not_dumpable") == "done\n"
