"""Start methods that are quick, and ways to find workers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qmill.processes import launch

from .health import fork_servers

QUICK = [method for method in launch.METHODS if method != "spawn"]
"""The start methods that are quick enough for many workers."""


@pytest.fixture(params=QUICK)
def quick_method(request, monkeypatch):
    """Each quick start method, in force for this test."""
    monkeypatch.setenv("QMILL_START_METHOD", request.param)
    return request.param


@pytest.fixture
def worker_pids():
    """Tell which processes run jobs: new children of this process, or of its fork server."""
    others = set(workers_and_others())
    return lambda: [pid for pid in workers_and_others() if pid not in others]


def workers_and_others():
    """Return this process's children, and its fork servers', but not these servers."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] not in "ZX":
                parents[int(name)] = int(fields[1])
    servers = {pid for pid in fork_servers() if pid in parents}
    owners = {os.getpid(), *servers}
    return [pid for pid, parent in parents.items() if parent in owners and pid not in servers]
