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

from ..processes import fork_server, launch
from ..queues.names import folders
from ..queues.portable import broker
from ..system import lifecycle
from ..workers import api

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHARED_MEMORY = Path("/dev/shm")
_OF_MULTIPROCESSING = ("sem.", "psm_", "pym-")  # its semaphores, `SharedMemory` and heap there

_KEPT_CHILDREN = (
    "qmill.processes.fork_server",
    "qmill.processes.guard",
    "multiprocessing.forkserver",
    "multiprocessing.resource_tracker",
)
"""One direct child of each of these kinds may stay; each is a piece of a command line."""

_BROKER_THREAD = "qmill-broker"

_MARK = "QMILL_TESTING"
"""The environment variable that marks the processes of a test. They inherit it, so that a process
is found even when its parent has ended and it is not this process's descendant any more."""


@contextlib.contextmanager
def nothing_left_behind(*, descriptors: bool = True, grace_s: float = 10.0) -> Iterator[None]:
    """Check that a block leaves no process, thread, descriptor or file behind.

    The check compares, before and after the block, processes (this process's descendants, and
    orphans that this program has started), threads, descriptors, files in /dev/shm, and files of
    named queues. Objects that qmill and the standard library keep for the life of a program are no
    leftovers: a fork server, a guard, a resource tracker, the broker's thread, and the memory of a
    queue that was sent to another process. Processes and descriptors are checked on Linux only.

    Args:
        descriptors: Whether to check descriptors. False lets other libraries keep files open.
        grace_s: Seconds for processes and threads that are about to end.

    Raises:
        AssertionError: There are leftovers; the text names them. Remaining processes are killed,
            for the sake of the next test.
    """
    if not os.environ.get(_MARK, "").startswith(f"{os.getpid()}-"):
        os.environ[_MARK] = f"{os.getpid()}-{secrets.token_hex(4)}"
    launch, threads, files = _running_processes(), set(threading.enumerate()), _watched_files()
    opened = _open_descriptors() if descriptors else {}
    yield
    deadline = time.monotonic() + grace_s
    left = _left_threads(threads, deadline) + _left_processes(launch, deadline)
    left += sorted(f"file {path}" for path in _watched_files() - files)
    if descriptors:
        left += _left_descriptors(opened)
    if left:
        raise AssertionError("left behind: " + "\n  ".join(left))


# -- processes ------------------------------------------------------------------------------------


def _left_processes(before: set[int], deadline: float) -> list[str]:
    """Name the processes that still run at the deadline, and kill them for the next test."""
    left = _extra_processes(before)
    if left:
        gc.collect()  # frees objects in cycles, such as an exception's frames, that keep processes
    while left and time.monotonic() < deadline:
        _wait_for_one_end(left, deadline)
        left = _extra_processes(before)
    told = [f"process {pid}: {_command_line(pid)}" for pid in sorted(left)]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return told


def _extra_processes(before: set[int]) -> set[int]:
    """Return the new processes, except for each kind that may stay its only one."""
    now = _running_processes()
    extra = now - before
    me = os.getpid()
    for piece in _KEPT_CHILDREN:
        alike = [p for p in now if _parent_of(p) == me and piece in _command_line(p)]
        if len(alike) == 1:
            extra.discard(alike[0])
    return extra


def _running_processes() -> set[int]:
    """Return this process's descendants and all processes that carry its mark.

    Zombies are not counted: like the standard library, a program may reap them at its next start of
    a process.
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
    except OSError:  # it has ended, or belongs to another user
        return b""


def _stat_fields(pid: int) -> list[bytes]:
    # The name, in parentheses, may contain anything; the fields after the last ")" are regular.
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
    """Return the files in shared memory and qmill's own files.

    All programs of a machine share the folder of shared memory. Files that multiprocessing makes
    there are left out, as they come and go.
    """
    shared = set(_SHARED_MEMORY.iterdir()) if _SHARED_MEMORY.is_dir() else set()
    shared = {path for path in shared if not path.name.startswith(_OF_MULTIPROCESSING)}
    folder = Path(folders.names_folder())
    ours = {*folder.glob("*"), *Path(tempfile.gettempdir()).glob("qmill*")}
    return shared | ours


# -- descriptors ----------------------------------------------------------------------------------


def _open_descriptors() -> dict[int, str]:
    """Return the target of each open descriptor, without the one that listing them takes."""
    found = {}
    for name in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        with contextlib.suppress(FileNotFoundError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def _left_descriptors(before: dict[int, str]) -> list[str]:
    api.forget_ended()
    gc.collect()  # a queue that is held by a cycle still has its file
    kept = _kept_descriptors()
    return [
        f"descriptor {number}: {what}"
        for number, what in _open_descriptors().items()
        if before.get(number) != what and number not in kept
    ]


def _kept_descriptors() -> set[int]:
    """Return the known descriptors that stay open for the life of the program."""
    of_broker, of_server = broker._broker, fork_server.own_server
    kept: list[Any] = [
        *(launch._lifeline or ()),
        of_server._control,
        *launch._guardian.descriptors(),
        *(getattr(of_broker, name, None) for name in ("_listener", "_selector")),
        *(getattr(of_broker, name, None) for name in ("_wake_in", "_wake_out")),
    ]
    if (rings := lifecycle.loaded("qmill.queues.shared.rings")) is not None:
        kept += rings.kept()
    if (stdlib := lifecycle.loaded("multiprocessing.forkserver")) is not None:
        kept.append(stdlib._forkserver._forkserver_alive_fd)
    if (stdlib := lifecycle.loaded("multiprocessing.resource_tracker")) is not None:
        kept.append(stdlib._resource_tracker._fd)
    return {one if isinstance(one, int) else one.fileno() for one in kept if one is not None}
