"""Queues with a name in shared memory: a file that each process with the queue open maps and holds.

    open_named ──lock──> is there a file that a process holds, or that is to be kept?
                              │yes                          │no
                              └──> map it, hold it          └──> write a new one, rename it

A process holds the file by a shared `flock`, which the kernel releases when the process ends,
however it ends. A forked child shares the hold. So a process that gets an exclusive `flock` knows
that no process has the queue open. In this way the last process to close a queue removes its file,
and the next process to open any queue removes the files that killed processes have left.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any
from weakref import finalize

from ...errors import QueueGone
from ...system import lifecycle
from ...system.alive import Alive
from ...system.opened import opened
from ..names import folders, name_files
from ..names.name_files import ABANDONED, DAMAGED, OPEN, SAVED, Found
from . import rings

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from io import FileIO

_NAME = b"qmill:name"


class Hold:
    """This process's hold on a queue: an open file of its own with a shared lock.

    The ring refers to the hold. So the hold lasts until all handles have been closed, or as long as
    an object here uses the ring, such as a loop over a queue to which nothing else refers.

    Args:
        folder: The folder of the file.
        file: The open file, which this object owns from now on.
    """

    def __init__(self, folder: str, file: FileIO) -> None:
        fcntl.flock(file, fcntl.LOCK_SH)
        self.folder = folder
        self._file = file
        self._state = os.fstat(file.fileno())
        self._handles: list[None] = []  # one None for each open handle
        # A finalizer must not wait for the lock, which its own thread may have.
        self._end = finalize(self, _let_go, folder, file, self._state)
        self._end.atexit = False  # `leave` does it, when nothing needs the queues any more
        _holds.add(self)

    @property
    def is_over(self) -> bool:
        """Whether all handles were closed."""
        return not self._end.alive

    def add_handle(self) -> Hold:
        """Count a handle; called with the folder locked."""
        self._handles.append(None)
        return self

    def take_back_handle(self) -> None:
        """Undo `add_handle`, with the folder still locked; the hold ends when its ring is freed."""
        self._handles.pop()

    def close_handle(self) -> None:
        """Count a handle as closed; after the last, release the file."""
        self._handles.pop()
        if not self._handles:
            self.let_go(unless_used=True)

    def let_go(self, unless_used: bool = False) -> None:
        """End the hold, and remove the file if it was the last."""
        is_locked = True
        try:
            lock: AbstractContextManager[Any] = name_files.lock(self.folder)
        except OSError:  # the folder is gone
            lock, is_locked = nullcontext(), False
        with lock:
            if not (unless_used and self._handles) and self._end.detach() is not None:
                _close_and_remove(self.folder, self._file, self._state, is_locked)

    def unlink(self) -> None:
        """Give up the name of the queue."""
        with name_files.locked(self.folder):
            for path in _paths(self.folder, self._state, (".ring", ".kept")):
                os.unlink(path)


_holds = Alive()

_untidy: set[str] = set()
"""Folders in which this process may have left a file that no process holds."""


def _let_go(folder: str, file: FileIO, state: os.stat_result) -> None:
    """End a hold in a garbage collection, which must not wait.

    If the folder is locked, the next process that opens a queue removes the file, or this process
    does when it ends.
    """
    try:
        lock = name_files.lock(folder, wait=False)
    except OSError:  # another process or thread has it, or the folder is gone
        _close(file, state)
        _untidy.add(folder)
        return
    with lock:
        _close_and_remove(folder, file, state, True)


def _close_and_remove(folder: str, file: FileIO, state: os.stat_result, is_locked: bool) -> None:
    _close(file, state)
    if is_locked:
        for path in _paths(folder, state, (".ring",)):
            _remove_if_free(path)
        name_files.tidy(folder)


_foreign: list[FileIO] = []
"""Files whose descriptors the program has closed. They stay here, so that Python never closes them:
their descriptors' numbers may be those of other files now.
"""


def _close(file: FileIO, state: os.stat_result) -> None:
    """Close a file, unless its descriptor is another file's now: the program has closed it."""
    with suppress(OSError):
        if os.path.samestat(os.fstat(file.fileno()), state):
            file.close()
            return
    _foreign.append(file)


def leave() -> None:
    """End this process's holds on named queues, and remove the files of queues that it left."""
    for hold in list(_holds):
        hold.let_go()
    while _untidy:
        folder = _untidy.pop()
        with suppress(OSError), name_files.locked(folder):
            _remove_leftovers(folder)
            name_files.tidy(folder)


def open_named(name: str, maxsize: int | None, persistent: bool) -> tuple[Any, str, Hold]:
    """Open the queue of this name, or create it.

    Raises:
        ValueError: The queue exists with another maxsize, or on the portable transport.
        PermissionError: There is no folder for named queues.
        MemoryError: There is no room for its file.
        QueueGone: The file of this name is no queue that this version can read.
    """
    folder = folders.names_folder()
    with name_files.locked(folder):
        name_files.check_not_odd(folder, name)
        _remove_leftovers(folder)
        name_files.bring(folder, name)
        _check_portable(folder, name)
        path = _find(folder, name) or _create(folder, name, maxsize or 0)
        ring, hold = _attach(folder, path)
        if maxsize not in (None, ring.maxsize):
            hold.take_back_handle()
            raise ValueError(
                f"the queue {name!r} is in use: maxsize must be {ring.maxsize}, its limit, "
                f"not {maxsize}"
            )
        if persistent and path.endswith(".ring"):
            os.rename(path, name_files.file_of(folder, name, ".kept"))
    return ring, name, hold


def hold_again(name: str, folder: str, number: bytes, pid: int, file: Any) -> tuple[Any, str, Hold]:
    """Open the queue of another process's handle, which may have lost its name.

    Raises:
        QueueGone: No process has it open any more.
    """
    with suppress(OSError), name_files.locked(folder):
        path = _find(folder, name)
        if path is not None:
            ring, hold = _attach(folder, path)
            if ring.uuid == number:
                return ring, name, hold
            hold.take_back_handle()
    ring = rings.find(number, pid, file)
    own = opened(f"/proc/self/fd/{ring.fileno()}", os.O_RDWR | os.O_NOCTTY)
    return ring, name, _held(ring, Hold(folder, own))


def found_in(folder: str) -> list[Found]:
    """List the queues in a folder, which the caller has locked."""
    return [_inspect(folder, entry) for entry in name_files.entries(folder, ".ring", ".kept")]


# -- with the folder locked ------------------------------------------------------------------------


def _find(folder: str, name: str) -> str | None:
    """Return the path of a queue's file, if there is one."""
    for ending in (".ring", ".kept"):
        path = name_files.file_of(folder, name, ending)
        if os.path.lexists(path):
            return path
    return None


def _paths(folder: str, state: os.stat_result, endings: tuple[str, ...]) -> list[str]:
    """Return the paths of one file, none or one."""
    paths = [os.path.join(folder, entry) for entry in name_files.entries(folder, *endings)]
    return [path for path in paths if os.path.samestat(os.lstat(path), state)]


def _create(folder: str, name: str, maxsize: int) -> str:
    """Make a queue's file; it gets its name only when it is complete."""
    path = name_files.file_of(folder, name, ".ring")
    try:
        rings.create(maxsize, f"{path}.new").define(_NAME, name.encode("utf-8", "surrogatepass"))
    except MemoryError:
        name_files.remove(f"{path}.new")
        raise
    os.rename(f"{path}.new", path)
    return path


def _attach(folder: str, path: str) -> tuple[Any, Hold]:
    """Map a queue and hold it."""
    file = name_files.open_file(path)
    alone = name_files.is_free(file)
    hold = Hold(folder, file)
    try:
        ring = rings.open_path(path, flags=os.O_NOFOLLOW, alone=alone)
    except QueueGone as error:
        raise QueueGone(
            f"{path} is no queue that this version of qmill can read ({error}); "
            "`qmill queues` lists such files, and --remove removes them"
        ) from None
    return ring, _held(ring, hold)


def _held(ring: Any, hold: Hold) -> Hold:
    """Return the hold of a ring, the given one unless it has one, with one handle more."""
    if ring.hold is None or ring.hold.is_over:
        ring.hold = hold
    held: Hold = ring.hold
    return held.add_handle()


def _remove_leftovers(folder: str) -> None:
    for entry in name_files.entries(folder, ".ring"):
        _remove_if_free(os.path.join(folder, entry))
    for entry in name_files.entries(folder, ".ring.new", ".kept.new"):
        name_files.remove(os.path.join(folder, entry))


def _remove_if_free(path: str) -> None:
    if name_files.is_file_free(path):
        os.unlink(path)


def _check_portable(folder: str, name: str) -> None:
    """Refuse the name of a broker's queue: there would be two queues of one name."""
    if any(os.path.lexists(name_files.file_of(folder, name, end)) for end in (".live", ".queue")):
        from ..portable import named_broker

        for found in named_broker.found_in(folder):
            if found.name == name and found.state != ABANDONED:
                raise ValueError(
                    f"the queue {name!r} was made on the portable transport; "
                    "set QMILL_TRANSPORT=portable in this program, too, or use another name"
                )


def _inspect(folder: str, entry: str) -> Found:
    path = os.path.join(folder, entry)
    is_kept = entry.endswith(".kept")
    free = name_files.is_file_free(path)
    state = OPEN if not free else SAVED if is_kept else ABANDONED
    holders = () if free else _holders(path)
    found = Found(entry.rpartition("-")[0], state, None, None, is_kept, holders, (path,))
    try:
        ring = rings.open_path(path, flags=os.O_NOFOLLOW)
        name = ring.fetch(_NAME).decode("utf-8", "surrogatepass")
    except (QueueGone, OSError, KeyError, ValueError):
        return found._replace(state=DAMAGED) if state == SAVED else found
    return found._replace(name=name, size=ring.size_hint(), maxsize=ring.maxsize)


def _holders(path: str) -> tuple[int, ...]:
    """Return the ids of the processes that have a file open, without this one."""
    path = os.path.realpath(path)
    pids = []
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or int(pid) == os.getpid():
            continue
        with suppress(OSError):  # the process has ended, or belongs to another user
            files = f"/proc/{pid}/fd"
            if any(_target(f"{files}/{file}") == path for file in os.listdir(files)):
                pids.append(int(pid))
    return tuple(sorted(pids))


def _target(link: str) -> str | None:
    try:
        return os.readlink(link)
    except OSError:
        return None


lifecycle.at_exit(lifecycle.NAMES, leave)
