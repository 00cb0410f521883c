"""The native core by itself, in C: what it does, killed at each point, and with damaged files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="the native core is for Linux")
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_native_core() -> None:
    script = subprocess.run(
        ["sh", "tools/test_native.sh", "quick"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert script.returncode == 0, script.stdout
    assert "test_kill-plain:" in script.stdout
