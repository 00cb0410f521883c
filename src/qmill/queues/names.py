"""The folder of the queues with a name: its lock, and the files in it.

Whoever opens, lists or removes a queue holds the lock, a file that is removed when nothing else is
in the folder. The rest of a file's name says what it is:

    .live              a broker has a queue of this name, and this is its process's
    .queue             what was unread in a persistent queue when its broker ended
    .ring              a queue in shared memory, which is gone when nobody has it open
    .kept              a persistent one
    .new               none yet: whoever was writing it was killed, if nobody holds the lock
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakSet

from .. import _frozen
from .._opened import opened
from ..errors import NotSupported

if TYPE_CHECKING:
    from io import FileIO

try:
    import fcntl
except ImportError as _error:  # Windows
    raise NotSupported("named queues need file locks; this platform has none") from _error

OPEN, SAVED, ABANDONED, SILENT = "open", "saved", "abandoned", "silent"

_LOCK = "lock"


class Found(NamedTuple):
    """A named queue of this user, or what is left of one.

    Attributes:
        name: Its name.
        state: "open": processes have it open; "saved": nobody has, and what is unread is in a
            file; "abandoned": nobody has, or whoever kept it was killed; "silent": its broker does
            not answer, perhaps it is stopped.
        size: How many messages wait in it; None if that is not known.
        maxsize: Its limit; None if that is not known.
        is_persistent: Whether it is kept when nobody has it open.
        holders: The processes that have it open.
        files: All that there is of it in the folder: names.
    """

    name: str
    state: str
    size: int | None = None
    maxsize: int | None = None
    is_persistent: bool = False
    holders: tuple[int, ...] = ()
    files: tuple[str, ...] = ()


def file_of(folder: str, name: str, ending: str) -> str:
    """Return the path of one of a queue's files."""
    return os.path.join(folder, _file_name(name) + ending)


def _file_name(name: str) -> str:
    """Make a name that any file system takes, and that a person recognises."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{plain[:60]}-{digest[:12]}"


def remove(path: str) -> None:
    """Remove a file, if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def open_file(path: str) -> FileIO:
    """Open a queue's file."""
    return opened(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NOCTTY)


_locks: WeakSet[FileIO] = WeakSet()
"""Those that this process holds. A forked child closes its copies, which would hold them, too."""


def lock(folder: str, wait: bool = True) -> FileIO:
    """Lock the folder, until the file that this returns is closed: `with` does so at its end.

    Whoever removes the file holds the lock, so one that was waited for may be another by now.

    Raises:
        BlockingIOError: Somebody holds it, and `wait` is false.
        RuntimeError: This process was to be a broker, and whoever started it holds the lock.
    """
    _frozen.check_has_begun()
    path = os.path.join(folder, _LOCK)
    while True:
        file = opened(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        _locks.add(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), os.lstat(path)):
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()


locked = lock


def _after_fork_in_child() -> None:
    for file in list(_locks):
        file.close()


os.register_at_fork(after_in_child=_after_fork_in_child)


def is_free(file: FileIO) -> bool:
    """Whether nobody else holds a lock on a file; if so, nobody does then."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(file, fcntl.LOCK_UN)
    return True


def is_file_free(path: str) -> bool:
    """Whether nobody holds a lock on the file of a path."""
    with open_file(path) as file:
        return is_free(file)


def tidy(folder: str) -> None:
    """Leave no lock in an empty folder, which the caller has locked."""
    if os.listdir(folder) == [_LOCK]:
        os.unlink(os.path.join(folder, _LOCK))
