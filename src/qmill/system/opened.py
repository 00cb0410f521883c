"""Opens files so that an object owns the descriptor from the moment it is open.

CPython runs signal handlers between bytecode instructions, never inside a C function. If a handler
raises right after `os.open` has returned, its descriptor is never closed. So in this module one
instruction both opens the file and makes its owner, which closes the file when it is freed.
"""

from __future__ import annotations

import os
import socket
from array import array
from functools import partial
from io import FileIO
from itertools import chain, filterfalse, starmap
from operator import itemgetter

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from typing import Any


class Descriptor(FileIO):
    """A file that may be closed by being freed, without a ResourceWarning.

    Its `__del__` is a C function: an exception of a signal handler is not raised, and dropped, in
    that.
    """

    __del__ = FileIO.close


def owned(opens: Any, *arguments: Any) -> FileIO:
    """Call a C function that opens a descriptor, and return the descriptor's owner."""
    [file] = map(Descriptor, starmap(opens, [arguments]), ("r+b",))
    return file


def opened(path: str, flags: int, mode: int = 0o600) -> FileIO:
    """Open a file, as `os.open`, with the close-on-exec flag."""
    return owned(os.open, path, flags | getattr(os, "O_CLOEXEC", 0), mode)


def duplicate(descriptor: int) -> FileIO:
    """Duplicate a descriptor, as `os.dup`."""
    return owned(os.dup, descriptor)


def pipe() -> tuple[FileIO, FileIO]:
    """Make a pipe, and return its read end and its write end."""
    read, write = map(Descriptor, chain.from_iterable(starmap(os.pipe, [()])), ("rb", "wb"))
    return read, write


def take(channel: socket.socket, files: list[FileIO]) -> bool:
    """Receive a byte and a descriptor, and append the file, to read, to a list.

    Returns:
        False if the descriptor was lost, as this process has none left for it.

    Raises:
        BlockingIOError: Nothing is there.
        EOFError: The other end is closed.
    """
    seen: list[Any] = []  # `append` returns None, so nothing is filtered
    messages = filterfalse(
        seen.append, starmap(channel.recvmsg, [(1, socket.CMSG_SPACE(array("i").itemsize))])
    )
    come = map(itemgetter(1), messages)
    numbers = map(partial(array, "i"), map(itemgetter(2), chain.from_iterable(come)))
    files.extend(map(FileIO, chain.from_iterable(numbers)))
    [(data, _, flags, _)] = seen
    if not data:
        raise EOFError
    return not flags & socket.MSG_CTRUNC
