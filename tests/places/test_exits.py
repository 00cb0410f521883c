"""Exit codes and deaths are told right, or it is told that nobody knows; nothing hangs."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from qmill import processes
from qmill.engines.base import DIED, DONE
from qmill.engines.program import ProgramEngine
from qmill.jobs.job import Job

from . import places

PLACES = ["ignore", "handle", "reap_in_a_thread", "adopt_orphans"]


@pytest.mark.parametrize("place", PLACES)
def test_workers(method, place):
    assert places.run("-W", "ignore::DeprecationWarning", "exits.py", method, place) == "done\n"


@pytest.mark.skipif(not places.may_unshare(), reason="may have no own namespace")
def test_workers_of_the_first_process_of_a_container(method):
    script = "exec unshare --pid --fork --mount-proc"
    assert places.run("exits.py", method, "own_namespace", script=script) == "done\n"
