"""Hooks of this package for PyInstaller, which finds them by the entry point `pyinstaller40`.

`hook-qmill.py` names the modules that are imported when they are first used. `rthooks` has what a
program with qmill in it runs before all else: what `qmill.freeze_support()` does for the workers of
qmill, so it need not call that.
"""

from __future__ import annotations

import os


def hook_folders() -> list[str]:
    """Return the folders in which PyInstaller finds hooks."""
    return [os.path.dirname(__file__)]
