"""The folder of the queues with a name: its lock, and the files in it.

A process that opens, lists or removes a queue holds the lock, a file that is removed when nothing
else is in the folder. The ending of a file's name shows its kind:

    .live              a running broker has a queue of this name
    .queue             the unread messages of a persistent queue whose broker has ended
    .ring              a queue in shared memory; it is removed when no process has it open
    .kept              a persistent queue in shared memory
    .new               a file being written; a leftover of a killed process if the lock is free

Any other entry, and any that is no plain file of this user, is odd: it stays as it is, and is
reported.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from ...errors import NotSupported
from ...system import frozen, lifecycle
from ...system.alive import Alive
from ...system.opened import opened
from . import folders

if TYPE_CHECKING:
    from io import FileIO

try:
    import fcntl
except ImportError as _error:  # Windows
    raise NotSupported("named queues need file locks; this platform has none") from _error

OPEN, SAVED, ABANDONED, SILENT, DAMAGED = "open", "saved", "abandoned", "silent", "damaged"

_LOCK = "lock"


class Found(NamedTuple):
    """A named queue of this user, or its remaining files.

    Attributes:
        name: Its name.
        state: "open": processes have it open; "saved": no process has, and its unread messages are
            in a file; "abandoned": no process has, or its broker was killed; "silent": its broker
            does not answer, perhaps it is stopped; "damaged": its file cannot be read.
        size: How many messages wait in it; None if that is not known.
        maxsize: Its limit; None if that is not known.
        is_persistent: Whether it is kept when no process has it open.
        holders: The ids of the processes that have it open.
        files: The paths of its files.
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
    """Return a file name that any file system accepts, and that a person recognises."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{plain[:60]}-{digest[:12]}"


_ENDINGS = (".live", ".queue", ".ring", ".kept", ".new", ".sock")

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a pipe",
    stat.S_IFREG: "a file of another user",
}


def entries(folder: str, *endings: str) -> list[str]:
    """Return the names of the queues' files in a folder, in order, that have one of the endings."""
    found = (entry for entry in os.listdir(folder) if entry.endswith(endings))
    return sorted(entry for entry in found if not _oddness(os.path.join(folder, entry)))


def odd_entries(folder: str) -> list[str]:
    """Describe the entries of a folder that are no files of a queue, each with the reason."""
    told = []
    for entry in sorted(os.listdir(folder)):
        path = os.path.join(folder, entry)
        if entry.endswith(".sock") or entry == _LOCK:
            continue
        if why := _oddness(path) or ("" if entry.endswith(_ENDINGS) else "no file of a queue"):
            told.append(f"{path} is {why}")
    return told


def _oddness(path: str) -> str:
    """Return the kind of a path that is no plain file of this user; "" if it is one or missing."""
    try:
        state = os.lstat(path)
    except FileNotFoundError:
        return ""
    kind = stat.S_IFMT(state.st_mode)
    if kind == stat.S_IFREG and state.st_uid == os.geteuid():
        return ""
    return _KINDS.get(kind, "a device")


def check_not_odd(folder: str, name: str) -> None:
    """Refuse a name if an odd entry has the path of one of its files.

    Raises:
        ValueError: There is such an entry.
    """
    for ending in (".live", ".queue", ".queue.new", ".ring", ".ring.new", ".kept"):
        path = file_of(folder, name, ending)
        if why := _oddness(path):
            raise ValueError(
                f"the queue {name!r} cannot be opened: {path} is {why}, and no file of a queue; "
                "remove it, or use another name"
            )


def bring(folder: str, name: str) -> None:
    """Move a queue from the folder of an earlier version into this folder, which is locked.

    Raises:
        ValueError: A program has it open there.
    """
    for old in folders.old_folders():
        if not any(os.path.lexists(file_of(old, name, ending)) for ending in _ENDINGS):
            continue
        with lock(old):
            check_not_odd(old, name)
            for ending in (".live", ".ring", ".kept", ".queue"):
                path = file_of(old, name, ending)
                if not os.path.lexists(path):
                    continue
                if ending == ".live" or not is_file_free(path):
                    raise ValueError(
                        f"the queue {name!r} is open in the folder of an earlier version, {old}: "
                        "end the programs that have it open, which `qmill queues` lists, or set "
                        f"QMILL_DIR={old} for this one"
                    )
                if ending in (".kept", ".queue"):
                    _move(path, file_of(folder, name, ending))
            tidy(old)


def _move(path: str, to: str) -> None:
    """Move a file, perhaps to another file system; at either path it is always complete."""
    if os.path.lexists(to):
        return
    try:
        os.rename(path, to)
    except OSError:
        shutil.copyfile(path, f"{to}.new", follow_symlinks=False)
        os.chmod(f"{to}.new", 0o600)
        os.rename(f"{to}.new", to)
        os.unlink(path)


def remove(path: str) -> None:
    """Remove a file, if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def open_file(path: str) -> FileIO:
    """Open a queue's file."""
    return opened(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NOCTTY)


_locks = Alive()
"""The locks that this process holds. A forked child closes its copies, which would hold them."""


def lock(folder: str, wait: bool = True) -> FileIO:
    """Lock the folder, until the file that this returns is closed: `with` does so at its end.

    A process removes the file only while it holds the lock. So after a wait, this checks that the
    locked file is still the one in the folder, and else tries again.

    Raises:
        BlockingIOError: Another process holds it, and `wait` is false.
        PermissionError: The lock's path is no plain file of this user.
        RuntimeError: This process was started to be a broker, and its starter holds the lock.
    """
    frozen.check_has_begun()
    path = os.path.join(folder, _LOCK)
    while True:
        if why := _oddness(path):
            raise PermissionError(
                f"no named queue can be opened: {path} is {why}, and no lock; remove it"
            )
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


def is_free(file: FileIO) -> bool:
    """Whether no other open file holds a lock on a file; then this one holds none, either."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(file, fcntl.LOCK_UN)
    return True


def is_file_free(path: str) -> bool:
    """Whether no process holds a lock on the file of a path."""
    with open_file(path) as file:
        return is_free(file)


def tidy(folder: str) -> None:
    """Remove the lock's file if the folder, which the caller has locked, is empty otherwise."""
    if os.listdir(folder) == [_LOCK]:
        os.unlink(os.path.join(folder, _LOCK))


lifecycle.at_fork(lifecycle.NAMES, in_child=_after_fork_in_child)
