"""Hooks of this package for PyInstaller, which finds them by the entry point `pyinstaller40`.

`hook-qmill.py` names the modules that qmill imports on first use. `rthooks` has code that runs at
the very start of a frozen program that contains qmill. It does the same as
`qmill.freeze_support()` for the workers of qmill, so such a program need not call that.
"""

from __future__ import annotations

import os


def hook_folders() -> list[str]:
    """Return the folders in which PyInstaller finds hooks."""
    return [os.path.dirname(__file__)]
