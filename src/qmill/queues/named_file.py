"""Queues with a name in shared memory: a file that whoever has the queue open maps, and holds.

    open_named ──lock──> is there a file that somebody holds, or that is to be kept?
                              │yes                          │no
                              └──> map it, hold it          └──> write a new one, rename it

To hold it is a shared `flock`, which the kernel ends with the process, however that ends. A forked
child has its part in it. So whoever could get an exclusive one knows that nobody has the queue
open: the last to close removes the file in this way, and what killed processes left is removed by
whoever opens a queue next.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any
from weakref import finalize

from .._alive import Alive
from .._opened import opened
from ..errors import QueueGone
from . import exits, folders, names, rings
from .names import ABANDONED, DAMAGED, OPEN, SAVED, Found

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from io import FileIO

_NAME = b"qmill:name"


class Hold:
    """This process's part in keeping a queue: an open file of its own with a shared lock.

    Its ring has it, so it lasts as long as anything here that works on the queue, such as a loop
    whose queue has no other name; or until all handles have been closed.

    Args:
        folder: Where the file is, or was.
        file: The open file, which is this object's from now on.
    """

    def __init__(self, folder: str, file: FileIO) -> None:
        fcntl.flock(file, fcntl.LOCK_SH)
        self.folder = folder
        self._file = file
        self._state = os.fstat(file.fileno())
        self._handles: list[None] = []  # one for each that is open
        # A finalizer must not wait for the lock, which its own thread may have.
        self._end = finalize(self, _let_go, folder, file, self._state)
        self._end.atexit = False  # `leave` does it, after whoever may still need it
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
        """Undo `add_handle`, with the folder still locked; a ring that nobody has lets go."""
        self._handles.pop()

    def close_handle(self) -> None:
        """Count a handle out; after the last, let go."""
        self._handles.pop()
        if not self._handles:
            self.let_go(unless_used=True)

    def let_go(self, unless_used: bool = False) -> None:
        """End it, and remove the file if it was the last."""
        is_locked = True
        try:
            lock: AbstractContextManager[Any] = names.lock(self.folder)
        except OSError:  # the folder is gone
            lock, is_locked = nullcontext(), False
        with lock:
            if not (unless_used and self._handles) and self._end.detach() is not None:
                _close_and_remove(self.folder, self._file, self._state, is_locked)

    def unlink(self) -> None:
        """Give up the name of the queue."""
        with names.locked(self.folder):
            for path in _paths(self.folder, self._state, (".ring", ".kept")):
                os.unlink(path)


_holds = Alive()

_untidy: set[str] = set()
"""Folders in which this process may have left a file that nobody holds."""


def _let_go(folder: str, file: FileIO, state: os.stat_result) -> None:
    """Let go in a garbage collection.

    If the folder is locked, what is left there is removed by whoever opens a queue next, or by us
    when we end.
    """
    try:
        lock = names.lock(folder, wait=False)
    except OSError:  # somebody has it, or the folder is gone
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
        names.tidy(folder)


_foreign: list[FileIO] = []
"""Closed by the program: their numbers may be those of other files now, so nobody closes them."""


def _close(file: FileIO, state: os.stat_result) -> None:
    """Close a file, unless the program has closed it already, with others that it did not know."""
    with suppress(OSError):
        if os.path.samestat(os.fstat(file.fileno()), state):
            file.close()
            return
    _foreign.append(file)


def leave() -> None:
    """End this process's part in every named queue."""
    for hold in list(_holds):
        hold.let_go()
    while _untidy:
        folder = _untidy.pop()
        with suppress(OSError), names.locked(folder):
            _remove_leftovers(folder)
            names.tidy(folder)


exits.leavers.append(leave)


def open_named(name: str, maxsize: int | None, persistent: bool) -> tuple[Any, str, Hold]:
    """Open the queue of this name, or create it.

    Raises:
        ValueError: It exists with another maxsize, or on the portable transport.
        PermissionError: There is no folder for it.
        MemoryError: There is no room for its file.
        QueueGone: There is a file of this name that is no queue of this version.
    """
    folder = folders.names_folder()
    with names.locked(folder):
        names.check_not_odd(folder, name)
        _remove_leftovers(folder)
        names.bring(folder, name)
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
            os.rename(path, names.file_of(folder, name, ".kept"))
    return ring, name, hold


def hold_again(name: str, folder: str, number: bytes, pid: int, file: Any) -> tuple[Any, str, Hold]:
    """Open the queue of another process's handle, which may have lost its name.

    Raises:
        QueueGone: Nobody has it open any more.
    """
    with suppress(OSError), names.locked(folder):
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
    return [_inspect(folder, entry) for entry in names.entries(folder, ".ring", ".kept")]


# -- with the folder locked ------------------------------------------------------------------------


def _find(folder: str, name: str) -> str | None:
    """Return the path of a queue's file, if there is one."""
    for ending in (".ring", ".kept"):
        path = names.file_of(folder, name, ending)
        if os.path.lexists(path):
            return path
    return None


def _paths(folder: str, state: os.stat_result, endings: tuple[str, ...]) -> list[str]:
    """Return the paths of one file, none or one."""
    paths = [os.path.join(folder, entry) for entry in names.entries(folder, *endings)]
    return [path for path in paths if os.path.samestat(os.lstat(path), state)]


def _create(folder: str, name: str, maxsize: int) -> str:
    """Make a queue's file, which has its name only when it is whole."""
    path = names.file_of(folder, name, ".ring")
    try:
        rings.create(maxsize, f"{path}.new").define(_NAME, name.encode("utf-8", "surrogatepass"))
    except MemoryError:
        names.remove(f"{path}.new")
        raise
    os.rename(f"{path}.new", path)
    return path


def _attach(folder: str, path: str) -> tuple[Any, Hold]:
    """Map a queue and hold it."""
    file = names.open_file(path)
    alone = names.is_free(file)
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
    """Return what holds a ring: this, or what did before, with a handle more."""
    if ring.hold is None or ring.hold.is_over:
        ring.hold = hold
    held: Hold = ring.hold
    return held.add_handle()


def _remove_leftovers(folder: str) -> None:
    for entry in names.entries(folder, ".ring"):
        _remove_if_free(os.path.join(folder, entry))
    for entry in names.entries(folder, ".ring.new", ".kept.new"):
        names.remove(os.path.join(folder, entry))


def _remove_if_free(path: str) -> None:
    if names.is_file_free(path):
        os.unlink(path)


def _check_portable(folder: str, name: str) -> None:
    """Refuse a name that a broker has: there would be two queues, and nobody knew."""
    if any(os.path.lexists(names.file_of(folder, name, end)) for end in (".live", ".queue")):
        from . import named_broker

        for found in named_broker.found_in(folder):
            if found.name == name and found.state != ABANDONED:
                raise ValueError(
                    f"the queue {name!r} was made on the portable transport; "
                    "set QMILL_TRANSPORT=portable in this program, too, or use another name"
                )


def _inspect(folder: str, entry: str) -> Found:
    path = os.path.join(folder, entry)
    is_kept = entry.endswith(".kept")
    free = names.is_file_free(path)
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
    """Return the processes that have a file open, but this one."""
    path = os.path.realpath(path)
    pids = []
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or int(pid) == os.getpid():
            continue
        with suppress(OSError):  # it has ended, or is somebody else's
            files = f"/proc/{pid}/fd"
            if any(_target(f"{files}/{file}") == path for file in os.listdir(files)):
                pids.append(int(pid))
    return tuple(sorted(pids))


def _target(link: str) -> str | None:
    try:
        return os.readlink(link)
    except OSError:
        return None
