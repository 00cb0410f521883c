"""Leftovers of a test: processes, threads, descriptors, shared memory, named queues."""

from __future__ import annotations

import contextlib
import gc
import os
import secrets
import select
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import processes, workers
from ..queues import broker, exits, folders

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHARED_MEMORY = Path("/dev/shm")
_OF_MULTIPROCESSING = ("sem.", "psm_", "pym-")  # its semaphores, `SharedMemory` and heap there

_KEPT_CHILDREN = (
    "qmill._forkserver",
    "qmill._guard",
    "multiprocessing.forkserver",
    "multiprocessing.resource_tracker",
)
"""Of each of these a direct child may stay, found by a piece of its command line."""

_BROKER_THREAD = "qmill-broker"

_MARK = "QMILL_TESTING"
"""Inherited by whatever a test starts, so that a process is found even when its parent is gone and
it is nobody's descendant any more."""


@contextlib.contextmanager
def nothing_left_behind(*, descriptors: bool = True, grace_s: float = 10.0) -> Iterator[None]:
    """Compare what there is before and after a block.

    Looked at are processes (our descendants, and orphans that were started by this program),
    threads, descriptors, files in /dev/shm, and files of named queues. What qmill and the standard
    library keep for the life of a program is no leftover: a fork server, a guard, a resource
    tracker, the broker's thread, and the memory of a queue that was sent somewhere. On other
    systems than Linux processes and descriptors are not looked at.

    Args:
        descriptors: Look at them. Without it they may be opened for later by other libraries.
        grace_s: Seconds for what is about to end.

    Raises:
        AssertionError: Something is left; it is named. Processes that are left are killed, for the
            sake of the next test.
    """
    if not os.environ.get(_MARK, "").startswith(f"{os.getpid()}-"):
        os.environ[_MARK] = f"{os.getpid()}-{secrets.token_hex(4)}"
    processes, threads, files = _running_processes(), set(threading.enumerate()), _watched_files()
    opened = _open_descriptors() if descriptors else {}
    yield
    deadline = time.monotonic() + grace_s
    left = _left_threads(threads, deadline) + _left_processes(processes, deadline)
    left += sorted(f"file {path}" for path in _watched_files() - files)
    if descriptors:
        left += _left_descriptors(opened)
    if left:
        raise AssertionError("left behind: " + "\n  ".join(left))


# -- processes ------------------------------------------------------------------------------------


def _left_processes(before: set[int], deadline: float) -> list[str]:
    """Name the processes that are still there at the deadline, and kill them for the next test."""
    left = _extra_processes(before)
    if left:
        gc.collect()  # what is only held by a cycle, say by an exception's frames, may end them
    while left and time.monotonic() < deadline:
        _wait_for_one_end(left, deadline)
        left = _extra_processes(before)
    told = [f"process {pid}: {_command_line(pid)}" for pid in sorted(left)]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return told


def _extra_processes(before: set[int]) -> set[int]:
    """Return the new ones, less one of each kind that may stay, counting those that were there."""
    now = _running_processes()
    extra = now - before
    me = os.getpid()
    for piece in _KEPT_CHILDREN:
        alike = [p for p in now if _parent_of(p) == me and piece in _command_line(p)]
        if len(alike) == 1:
            extra.discard(alike[0])
    return extra


def _running_processes() -> set[int]:
    """Return our descendants and whatever else carries our mark.

    Zombies are not counted: like the standard library, a program may reap at its next start.
    """
    if sys.platform != "linux":
        return set()
    parents = {int(name): _parent_of(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    ours = {os.getpid()}
    grew = True
    while grew:
        new = {pid for pid, parent in parents.items() if parent in ours} - ours
        ours |= new
        grew = bool(new)
    marked = {pid for pid in parents if pid not in ours and _has_mark(pid)}
    return {pid for pid in ours | marked if pid != os.getpid() and _is_running(pid)}


def _proc_bytes(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended, or belongs to somebody else
        return b""


def _stat_fields(pid: int) -> list[bytes]:
    # The name, in parentheses, may contain anything; what follows the last one is regular.
    return _proc_bytes(pid, "stat").rpartition(b")")[2].split()


def _parent_of(pid: int) -> int | None:
    fields = _stat_fields(pid)
    return int(fields[1]) if fields else None


def _is_running(pid: int) -> bool:
    fields = _stat_fields(pid)
    return bool(fields) and fields[0] not in (b"Z", b"X")


def _has_mark(pid: int) -> bool:
    return f"{_MARK}={os.environ[_MARK]}".encode() in _proc_bytes(pid, "environ").split(b"\0")


def _command_line(pid: int) -> str:
    return _proc_bytes(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()


def _wait_for_one_end(pids: set[int], deadline: float) -> None:
    with contextlib.ExitStack() as stack:
        poll = select.poll()
        for pid in pids:
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                return
            stack.callback(os.close, pidfd)
            poll.register(pidfd, select.POLLIN)
        poll.poll(max(0.0, deadline - time.monotonic()) * 1000)


# -- threads --------------------------------------------------------------------------------------


def _left_threads(before: set[threading.Thread], deadline: float) -> list[str]:
    brokers = [t for t in threading.enumerate() if t.name == _BROKER_THREAD and t.daemon]
    extra = set(threading.enumerate()) - before
    if len(brokers) == 1:
        extra.discard(brokers[0])
    for thread in extra:
        thread.join(max(0.0, deadline - time.monotonic()))
    return sorted(f"thread {thread!r}" for thread in extra if thread.is_alive())


# -- files ----------------------------------------------------------------------------------------


def _watched_files() -> set[Path]:
    """Return what there is in shared memory and qmill's own files.

    All programs of a machine share the first, and what multiprocessing makes there comes and goes.
    """
    shared = set(_SHARED_MEMORY.iterdir()) if _SHARED_MEMORY.is_dir() else set()
    shared = {path for path in shared if not path.name.startswith(_OF_MULTIPROCESSING)}
    folder = Path(folders.names_folder())
    ours = {*folder.glob("*"), *Path(tempfile.gettempdir()).glob("qmill*")}
    return shared | ours


# -- descriptors ----------------------------------------------------------------------------------


def _open_descriptors() -> dict[int, str]:
    """Return what each descriptor is, but for the one that listing them takes."""
    found = {}
    for name in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        with contextlib.suppress(FileNotFoundError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def _left_descriptors(before: dict[int, str]) -> list[str]:
    workers.forget_ended()
    gc.collect()  # a queue that is held by a cycle still has its file
    kept = _kept_descriptors()
    return [
        f"descriptor {number}: {what}"
        for number, what in _open_descriptors().items()
        if before.get(number) != what and number not in kept
    ]


def _kept_descriptors() -> set[int]:
    """Return those that stay open for the life of the program, as far as they are known."""
    of_broker, of_server = broker._broker, processes._fork_server
    kept: list[Any] = [
        *(processes._lifeline or ()),
        of_server._control,
        *processes._guardian.descriptors(),
        *(getattr(of_broker, name, None) for name in ("_listener", "_selector")),
        *(getattr(of_broker, name, None) for name in ("_wake_in", "_wake_out")),
    ]
    if (rings := exits.loaded("qmill.queues.rings")) is not None:
        kept += rings.kept()
    if (stdlib := exits.loaded("multiprocessing.forkserver")) is not None:
        kept.append(stdlib._forkserver._forkserver_alive_fd)
    if (stdlib := exits.loaded("multiprocessing.resource_tracker")) is not None:
        kept.append(stdlib._resource_tracker._fd)
    return {one if isinstance(one, int) else one.fileno() for one in kept if one is not None}
