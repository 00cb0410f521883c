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
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from .. import _frozen
from ..errors import NotSupported

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def open_file(path: str) -> int:
    """Open a queue's file, and return the descriptor."""
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY)


@contextmanager
def locked(folder: str) -> Iterator[None]:
    """Hold the folder's lock."""
    descriptor = lock(folder)
    try:
        yield
    finally:
        unlock(descriptor)


def lock(folder: str, wait: bool = True) -> int:
    """Lock the folder and return the lock's descriptor.

    Whoever removes the file holds the lock, so one that was waited for may be another by now.

    Raises:
        BlockingIOError: Somebody holds it, and `wait` is false.
        RuntimeError: This process was to be a broker, and whoever started it holds the lock.
    """
    _frozen.check_has_begun()
    path = os.path.join(folder, _LOCK)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def unlock(descriptor: int) -> None:
    """Unlock and close; the closing alone would not do if a forked child has a copy."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def is_free(descriptor: int) -> bool:
    """Whether nobody else holds a lock on a file; if so, nobody does then."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


def is_file_free(path: str) -> bool:
    """Whether nobody holds a lock on the file of a path."""
    descriptor = open_file(path)
    try:
        return is_free(descriptor)
    finally:
        os.close(descriptor)


def tidy(folder: str) -> None:
    """Leave no lock in an empty folder, which the caller has locked."""
    if os.listdir(folder) == [_LOCK]:
        os.unlink(os.path.join(folder, _LOCK))
