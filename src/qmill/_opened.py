"""Files that an object owns from the moment they are open.

CPython runs signal handlers between its instructions, and never within a function in C. A handler
that raises right after `os.open` has returned leaves a descriptor that nobody closes. So here one
instruction opens a file and makes the object that owns it, and closes it when it is let go.
"""

from __future__ import annotations

import os
from io import FileIO
from itertools import chain, starmap

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from typing import Any


def opened(path: str, flags: int, mode: int = 0o600) -> FileIO:
    """Open a file, as `os.open`; no program that is started inherits it."""
    return _owned(os.open, path, flags | getattr(os, "O_CLOEXEC", 0), mode)


def duplicate(descriptor: int) -> FileIO:
    """Duplicate a descriptor, as `os.dup`."""
    return _owned(os.dup, descriptor)


def pipe() -> tuple[FileIO, FileIO]:
    """Make a pipe: the end to read from, and the one to write to."""
    read, write = map(FileIO, chain.from_iterable(starmap(os.pipe, [()])), ("rb", "wb"))
    return read, write


def _owned(opens: Any, *arguments: Any) -> FileIO:
    [file] = map(FileIO, starmap(opens, [arguments]), ("r+b",))
    return file
