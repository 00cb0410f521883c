"""Benchmarks run: at a size that takes no time, and whose figures mean nothing."""

from __future__ import annotations

import subprocess
import sys

from tests.examples.programs import ROOT


def test_every_queue_workload_runs():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.queues", "--repeat", "1", "--scale", "0.002"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    tables = done.stdout.split("###")[1:]
    assert len(tables) == 5
    assert all("qmill.Queue" in table for table in tables)
