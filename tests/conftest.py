"""What holds for every test: it leaves no process, no thread and no shared memory behind.

The one exception is what qmill keeps for the life of a program: one fork server and the broker's
one thread. The standard library keeps its own fork server and resource tracker in the same way.
"""

from __future__ import annotations

import contextlib
import gc
import os
import secrets
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.util import Finalize
from pathlib import Path

import pytest

GRACE_S = 10.0
BROKER_THREAD = "qmill-broker"
SHARED_MEMORY = Path("/dev/shm")

# Of each of these a direct child may stay, found by a piece of its command line.
KEPT_CHILDREN = (
    "qmill._forkserver",
    "multiprocessing.forkserver",
    "multiprocessing.resource_tracker",
)

# Inherited by whatever a test starts, so that a process is found even when its parent is gone and
# it is nobody's descendant any more.
MARK = "QMILL_TEST_RUN"


# --- a run of the tests has its own directory for temporary files: another run beside it, or the
# --- user's own programs, would else be taken for what a test left behind


def pytest_configure() -> None:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # keeps tmp_path in place
    # A short name: the path of a Unix socket may have about 100 bytes.
    private = tempfile.mkdtemp(prefix="qt-")
    # After multiprocessing's own directory, which has -100, and not in a forked child's exit.
    Finalize(None, shutil.rmtree, (private, True), exitpriority=-200)
    os.environ["TMPDIR"] = private
    tempfile.tempdir = None  # so that it is looked up again
    os.environ["QMILL_DIR"] = os.path.join(private, "names")
    os.environ[MARK] = f"{os.getpid()}-{secrets.token_hex(4)}"


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Compare what there is before and after the test, including its other fixtures' teardown."""
    processes = running_processes()
    threads = set(threading.enumerate())
    files = watched_files()
    yield
    deadline = time.monotonic() + GRACE_S
    left = [
        *left_threads(threads, deadline),
        *left_processes(processes, deadline),
        *left_files(files),
    ]
    if left:
        pytest.fail("left behind: " + "\n  ".join(left), pytrace=False)


# --- processes


def left_processes(before: set[int], deadline: float) -> list[str]:
    """Name the processes that are still there at the deadline, and kill them for the next test."""
    left = extra_processes(before)
    if left:
        gc.collect()  # what is only held by a cycle, say by an exception's frames, may end them
    while left and time.monotonic() < deadline:
        wait_for_one_end(left, deadline)
        left = extra_processes(before)
    told = [f"process {pid}: {command_line(pid)}" for pid in sorted(left)]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return told


def extra_processes(before: set[int]) -> set[int]:
    """Return the new ones, less one of each kind that may stay, counting those that were there."""
    now = running_processes()
    extra = now - before
    me = os.getpid()
    for piece in KEPT_CHILDREN:
        alike = [p for p in now if parent_of(p) == me and piece in command_line(p)]
        if len(alike) == 1:
            extra.discard(alike[0])
    return extra


def running_processes() -> set[int]:
    """Return our descendants and whatever else carries our mark.

    Zombies are not counted: like the standard library, a program may reap at its next start.
    """
    if sys.platform != "linux":
        return set()
    parents = {pid: parent_of(pid) for pid in all_pids()}
    ours = {os.getpid()}
    grew = True
    while grew:
        new = {pid for pid, parent in parents.items() if parent in ours} - ours
        ours |= new
        grew = bool(new)
    marked = {pid for pid in parents if pid not in ours and has_mark(pid)}
    return {pid for pid in ours | marked if pid != os.getpid() and is_running(pid)}


def all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def proc_bytes(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended, or belongs to somebody else
        return b""


def stat_fields(pid: int) -> list[bytes]:
    # The name, in parentheses, may contain anything; what follows the last one is regular.
    return proc_bytes(pid, "stat").rpartition(b")")[2].split()


def parent_of(pid: int) -> int | None:
    fields = stat_fields(pid)
    return int(fields[1]) if fields else None


def is_running(pid: int) -> bool:
    fields = stat_fields(pid)
    return bool(fields) and fields[0] not in (b"Z", b"X")


def has_mark(pid: int) -> bool:
    return f"{MARK}={os.environ[MARK]}".encode() in proc_bytes(pid, "environ").split(b"\0")


def command_line(pid: int) -> str:
    return proc_bytes(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()


def wait_for_one_end(pids: set[int], deadline: float) -> None:
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


# --- threads


def left_threads(before: set[threading.Thread], deadline: float) -> list[str]:
    brokers = [t for t in threading.enumerate() if t.name == BROKER_THREAD and t.daemon]
    extra = set(threading.enumerate()) - before
    if len(brokers) == 1:
        extra.discard(brokers[0])
    for thread in extra:
        thread.join(max(0.0, deadline - time.monotonic()))
    return sorted(f"thread {thread!r}" for thread in extra if thread.is_alive())


# --- files


def watched_files() -> set[Path]:
    """Return what there is in shared memory and qmill's own files.

    All runs on a machine share the first, and multiprocessing's semaphores come and go there.
    """
    shared = set(SHARED_MEMORY.iterdir()) if SHARED_MEMORY.is_dir() else set()
    shared = {path for path in shared if not path.name.startswith("sem.")}
    names = set(Path(os.environ["QMILL_DIR"]).glob("*"))
    return shared | names | set(Path(tempfile.gettempdir()).glob("qmill*"))


def left_files(before: set[Path]) -> list[str]:
    return sorted(f"file {path}" for path in watched_files() - before)
