"""Benchmarks run: at a size that takes no time, and whose figures mean nothing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile

import pytest

from benchmarks import harness
from tests.examples.programs import ROOT

# The tables of each section, all of which have a row of qmill's where there is a native core.
TABLES = {
    "queues": [
        *("Q1", "Q1 pinned", "Q2", "Q3", "Q4", "Q4b", "Q4c", "Q5", "Q6", "Q7", "Q7 main", "Q8"),
        *("Q8 dicts", "threads", "queue start", "queue idle"),
    ],
    "jobs": ["J1", "J2", "J2 fork", "J3", "idle", "million"],
    "maps": ["M1", "M2", "M3"],
    "command": ["C1", "C2"],
}
HAS_CORE = importlib.util.find_spec("qmill.queues.shared.core._ring") is not None
HAS_DASK = importlib.util.find_spec("distributed") is not None
CLUSTER_TABLES = ["E1", "E2", "E3", "E4"] if HAS_DASK else []  # of `engines`, one at a time


def measure(*arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments, "--repeat", "1", "--scale", "0.002"],
        cwd=ROOT,
        # loky's arrays are not to be taken for what a test beside this one leaves behind.
        env=os.environ | {"PYTHONPATH": path, "JOBLIB_TEMP_FOLDER": tempfile.gettempdir()},
        capture_output=True,
        text=True,
        timeout=120,
    )


def measured(*arguments: str, path: str = "") -> str:
    done = measure(*arguments, path=path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def peers_of(told: str) -> list[str]:
    rows = [line.split("|")[1].strip() for line in told.splitlines() if line.startswith("| ")]
    return [row for row in rows if row not in ("peer", "---")]


def has_row_of_ours(table):
    return "\n| qmill" in table


def lacks_core(table):
    """Whether queues in shared memory were left out as this installation has none."""
    return not HAS_CORE and "qmill.queues.shared.core._ring" in table.partition("Left out")[2]


@pytest.mark.parametrize(
    ("section", "wanted"),
    [*TABLES.items(), *(("engines", [table]) for table in CLUSTER_TABLES)],
    ids=[*TABLES, *CLUSTER_TABLES],
)
def test_every_workload_of_a_section_runs(section, wanted):
    only = () if section in TABLES else ("--only", *wanted)
    tables = measured(f"benchmarks.{section}", *only).split("### ")[1:]
    assert [table.partition(" (")[0] for table in tables] == wanted
    assert [table for table in tables if not (has_row_of_ours(table) or lacks_core(table))] == []


def test_options_hold_for_all_sections():
    told = measured("benchmarks", "--only", "Q1", "J1", "--peers", "qmill.JobQueue.put")
    assert [line for line in told.splitlines() if line.startswith("###")] == [
        "### J1 (no-op jobs submitted one by one and gathered, jobs/s)"
    ]
    assert peers_of(told) == ["PPE.submit", "qmill.JobQueue.put"]


PEBBLE = ["benchmarks.maps", "--only", "M1", "--peers", "pebble"]


def test_a_peer_that_is_not_installed_is_left_out_and_named(tmp_path):
    absent = "raise ModuleNotFoundError('none here', name='pebble')"
    (tmp_path / "pebble.py").write_text(absent)
    told = measured(*PEBBLE, path=str(tmp_path))
    assert peers_of(told) == ["mp.Pool.map"]
    assert "Left out, for it is not installed: pebble." in told


def test_a_peer_that_fails_is_told_and_the_others_are_measured(tmp_path):
    (tmp_path / "pebble.py").write_text("raise RuntimeError('out of order')")
    done = measure(*PEBBLE, path=str(tmp_path))
    assert done.returncode == 1
    assert peers_of(done.stdout) == ["mp.Pool.map"]
    assert "FAILED, pebble.map(64): RuntimeError: out of order" in done.stdout


def test_a_measurement_leaves_no_process_even_if_it_never_ends(tmp_path, monkeypatch):
    # What hangs here has a child of its own, in another process group.
    hangs = (
        "import subprocess, sys, time; "
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
        " start_new_session=True); "
        "time.sleep(600)"
    )
    monkeypatch.setattr(harness, "CHILD", hangs)
    monkeypatch.setattr(harness, "LIMIT_S", 1.0)
    workload = harness.Workload("hang", "", "", ["x"], 1)
    with pytest.raises(harness.Failed, match="no figures after 1 s"):
        harness.measure("benchmarks.jobs", workload, "x", 1.0)
    # conftest.py finds what is left
