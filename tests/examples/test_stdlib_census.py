"""The census of the standard library as a command: what it prints and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "stdlib_census.py"


def run_census(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_the_report_fits_in_80_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_census("--limit", "40", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    assert (tmp_path / "out" / "jobs.csv").is_file()
    assert (tmp_path / "out" / "gantt.png").read_bytes()[1:4] == b"PNG"
    assert "Jobs of census: 40" in done.stdout


def test_a_number_below_one_is_refused() -> None:
    done = run_census("--workers", "0")
    assert done.returncode == 2
    assert "0 is not 1 or more" in done.stderr
