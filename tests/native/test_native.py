"""The native core by itself, in C: what it does, killed at each point, and with damaged files."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from qmill import core_info

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not core_info().core, reason="the native core is not built here")
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
