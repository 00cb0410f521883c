"""Starting processes: fork, fork server and spawn behind one handle (see handles.py).

    start(work, job, method) ─┬─ fork ───────── os.fork ──────────────────> child
                              ├─ forkserver ─── fork_server.py ── fork ───> child
                              └─ spawn ──────── python -c ... ────────────> child

Where no interpreter is known that could be started (see interpreter.py), only the fork remains.

The child's side is in child_main.py. A child gets two things: a *channel*, a socket to its
starter, on which its setup comes first, and the *lifeline*, a pipe whose other end only this
process holds. When this process ends, however it ends, the kernel kills every child through the
lifeline. The descendants of the children are then killed, too: by the fork server for the children
that it has forked (see fork_server.py), by a guard for this process's own children (see guard.py).

A child imports the program's script only if that guards its start (see main_module.py).
`forkserver` is safe with any threads here, since the server has only one; `fork` copies this
process's memory and is only as safe as `os.fork`.

Source: fcntl(2) F_SETSIG and O_ASYNC.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from io import FileIO
from itertools import starmap
from typing import TYPE_CHECKING, Any

from ..errors import NotSupported
from ..packing import definitions, main_module
from ..system import frames, frozen, interpreter, lifecycle, module_path, native, streams, threads
from ..system.alive import Alive
from ..system.opened import duplicate, pipe
from . import child_main, fork_server, guard, inherited, likeness
from .handles import Helper, Process, connected, open_sentinel

if TYPE_CHECKING:
    from collections.abc import Callable

METHODS = ("forkserver", "spawn", "fork") if hasattr(os, "fork") else ("spawn",)
"""The start methods of this platform; the first is the default."""

_chosen_method: str | None = None


def set_start_method(method: str | None) -> None:
    """Choose the start method of process workers that are started without a `start_method`.

    Args:
        method: "forkserver" (safe with threads; the default on POSIX), "spawn" (a new interpreter;
            the default elsewhere), "fork" (copy-on-write memory of this process; unsafe while
            other threads run), or None for the default.

    Raises:
        ValueError: The method is unknown, or this platform does not have it.
    """
    global _chosen_method
    _chosen_method = None if method is None else _check_method(method)


def get_start_method(method: str | None = None) -> str:
    """Return `method`, checked, or for None the start method in force.

    The method in force is the choice of `set_start_method`, else the environment variable
    `QMILL_START_METHOD`, else the default of the platform. The default is "fork" where no
    interpreter is known that could be started, as in some frozen programs.
    """
    if method is not None:
        return _check_method(method)
    if _chosen_method is not None:
        return _chosen_method
    if from_environment := os.environ.get("QMILL_START_METHOD"):
        return _check_method(from_environment, "QMILL_START_METHOD")
    return METHODS[0] if "fork" not in METHODS or interpreter.is_known() else "fork"


def usable_start_method(method: str | None = None) -> str:
    """Return the start method, as `get_start_method`, if this process can start others by it.

    Raises:
        NotSupported: The method needs an interpreter, and none is known.
        RuntimeError: This process is a copy of a program that was to be its worker.
    """
    frozen.check_has_begun()
    method = get_start_method(method)
    if method != "fork":
        interpreter.check_known()
    return method


def is_method_chosen() -> bool:
    """Whether the program or its environment has said how processes start."""
    return _chosen_method is not None or bool(os.environ.get("QMILL_START_METHOD"))


def _check_method(method: object, argument: str = "start_method") -> str:
    if method not in METHODS:
        raise ValueError(f"{argument} must be one of {', '.join(METHODS)}; got {method!r}")
    return str(method)


def check_system(instead: str) -> None:
    """Raise NotSupported where the system cannot start workers.

    Args:
        instead: The argument that works there.
    """
    if not hasattr(socket, "send_fds"):
        raise NotSupported(f"process workers need a POSIX system; use {instead} on this one")


def start(
    work: str,
    job: Any,
    method: str,
    pack: Callable[[Any], tuple[bytes | bytearray, Any]],
    *,
    leads_group: bool = True,
) -> Process:
    """Start a process.

    Args:
        work: The function that runs in the process, as "module:function"; it is called with the
            channel and a function that returns the job.
        job: The argument of `work`. Under "fork" it is inherited, else packed.
        method: One of `METHODS`.
        pack: Packs the job and the globals that it uses, as `environment.dumps_for_process`. It
            runs before anything is started, and may raise.
        leads_group: Whether the process is going to lead a process group. The group then shows
            which processes it has started; else a guard finds them.

    Raises:
        OSError: The system refuses another process.
        NotSupported: This is no POSIX system, or no interpreter is known that could be started.
        RuntimeError: This process is a worker that is importing the script, or a copy of a frozen
            program that was to be a worker.
    """
    main_module.check_may_start()
    frozen.check_has_begun()
    check_system("kind='thread'")
    if method == "fork":
        inherited.run_tracker()
        line = lifeline() if leads_group else threads.shielded(_guardian.lifeline, id)
        return _fork(work, job, line, leads_group=leads_group)
    estate = inherited.Estate()
    process = None
    try:
        packed = estate.pack(pack, job)
        # The output of this process comes before the child's. A notebook's streams make a socket
        # for each thread that flushes them, so no short-lived thread does.
        streams.flush()
        by_server = method == "forkserver"
        process = threads.shielded(
            lambda: fork_server.fork(lifeline()) if by_server else _spawn(leads_group),
            Process.abandon,
        )
        if method == "spawn" and not leads_group:
            _guardian.watch(process)
        _send_setup(process.channel, work, packed, estate)
        process.keep(estate.kept)
        estate.close()
        return process
    except BaseException:
        if process is not None:
            process.abandon()
        estate.close()
        raise


def _send_setup(
    channel: socket.socket,
    work: str,
    job: tuple[bytes | bytearray, Any],
    estate: inherited.Estate,
) -> None:
    """Send a child its setup: this process's environment and import path, and the job."""
    packed, names = job
    environment, things = (None, {}) if names is None else names
    multiprocessing = inherited.settings_for(estate)  # may add a descriptor
    setup = {
        "environ": dict(os.environ),
        "cwd": interpreter.folder(),
        "path": module_path.folders(),
        "modules": module_path.by_file(),
        "argv": sys.argv,
        "work": work,
        "script": main_module.importable(),
        "environment": environment,
        "things": list(things),
        "start_method": _chosen_method,
        "likeness": likeness.of_this_process(),
        "multiprocessing": multiprocessing,
        "num_descriptors": len(estate),
    }
    try:
        frames.send_all(channel, frames.encode((setup,), [packed, *things.values()]))
        estate.send(channel)
    except ConnectionError:
        pass  # the child has died already, which its sentinel shows


# -- the lifeline ------------------------------------------------------------------------------

_lifeline: tuple[int, int] | None = None


def lifeline() -> int:
    """Return the children's end of this process's lifeline."""
    if _lifeline is None:
        threads.shielded(_make_lifeline, id)
    assert _lifeline is not None
    return _lifeline[0]


def _make_lifeline() -> None:
    global _lifeline
    with native.fork_lock:
        if _lifeline is None:
            _lifeline = os.pipe()


# -- three ways to start -----------------------------------------------------------------------


def _fork(work: str, job: Any, line: int, *, leads_group: bool) -> Process:
    """Fork a child; in this thread, whose memory and thread-local values it is to have.

    One instruction forks and notes the child's id, and each descriptor has an owner from the first:
    a handler may raise between any two.
    """
    streams.flush()  # the output of this process comes before the child's
    definitions.know_mains()
    ours, theirs = native.socketpair()
    line_there = duplicate(line)  # the at-fork handler closes the original
    status, status_there = pipe()
    pids: list[int] = []
    process = None
    mask = native.original("_signal", "pthread_sigmask")  # that of `signal` is Python
    # Signals are blocked: an exception that a handler raises in the middle of a fork is lost in an
    # at-fork handler, or makes the child go on with the parent's code.
    blocked = mask(signal.SIG_BLOCK, ())
    try:
        mask(signal.SIG_BLOCK, signal.valid_signals())
        pids.extend(starmap(native.original("os", "fork"), [()]))
        if pids == [0]:
            native.after_fork_in_child()
            status.close()
            there = line_there.fileno(), status_there.fileno()
            child_main.run_forked(work, job, ours, theirs, *there, blocked)
        process = Process(pids[0], ours, open_sentinel(pids[0]) or status, status)
        for end in (theirs, line_there, status_there):
            end.close()
        with contextlib.suppress(ConnectionError):  # it was killed
            ours.send(b"g")  # it waits, so that it cannot end before its pidfd is open
        if not leads_group:
            _guardian.watch(process)
        mask(signal.SIG_SETMASK, blocked)
        return process
    except BaseException:
        if pids == [0]:  # where `child_main` is not compiled, a handler may have raised at its end
            os._exit(1)
        mask(signal.SIG_SETMASK, blocked)
        if process is not None:
            process.abandon()
        elif pids:
            child = native.Started(pids[0])
            child.kill()
            child.wait()
        for each in (ours, theirs, line_there, status, status_there):
            each.close()
        raise


def _spawn(leads_group: bool) -> Process:
    """Start an interpreter as a child."""
    line = lifeline() if leads_group else _guardian.lifeline()

    def start_child(ours: socket.socket, status: FileIO, there: tuple[int, int]) -> Process:
        fds = [there[0], line, there[1]]
        pid = interpreter.start(child_main.main, tuple(fds), fds).pid
        return Process(pid, ours, open_sentinel(pid) or status, status)

    return connected(start_child)


# -- the guard ---------------------------------------------------------------------------------


class _Guardian(Helper):
    """This process's guard, the children it has to watch, and the lifeline that it holds, too."""

    def __init__(self) -> None:
        super().__init__()
        self._line: tuple[int, int] | None = None
        self._watched = Alive()

    def lifeline(self) -> int:
        """Return the children's end of the lifeline that the guard holds, too.

        Where there can be no guard, for want of /proc or of an interpreter, return the children's
        end of this process's own lifeline.

        Raises:
            OSError: The system refuses another process.
        """
        if not _can_guard():
            return lifeline()
        with self._lock:
            if self._line is None:
                with native.fork_lock:  # a child must find it, and close it
                    self._line = os.pipe()
            if self._has_ended():
                self._close_control()
                self._begin(guard.main, self._line[1], without_site=True)
                for process in list(self._watched):
                    if not process.wait(0):
                        self._tell(process)
            return self._line[0]

    def watch(self, process: Process) -> None:
        """Have the descendants of a child of this process end when this process ends."""
        with self._lock:
            self._watched.add(process)
            self._tell(process)

    def _tell(self, process: Process) -> None:
        if self._control is not None:
            with contextlib.suppress(OSError):  # it was killed; the next start makes another one
                number = guard.PID.pack(process.pid)
                socket.send_fds(self._control, [number], [process.sentinel])

    def descriptors(self) -> list[int]:
        """List the descriptors that stay open for the life of this process."""
        control = [] if self._control is None else [self._control.fileno()]
        return [*control, *(self._line or ())]

    def forget_in_child(self) -> None:
        """Close the descriptors of the parent's guard in a forked child."""
        super().forget_in_child()
        for descriptor in self._line or ():
            os.close(descriptor)
        self._line = None
        self._watched = Alive()


def _can_guard() -> bool:
    return (
        hasattr(os, "pidfd_open")
        and os.path.exists(f"/proc/self/task/{os.getpid()}/children")
        and interpreter.is_known()
    )


_guardian = _Guardian()


def _close_lifeline() -> None:
    """Close a forked child's copy, which would keep the parent's children alive after its death."""
    global _lifeline
    for descriptor in _lifeline or ():
        os.close(descriptor)
    _lifeline = None


lifecycle.at_exit(lifecycle.GUARD, _guardian.stop)
lifecycle.at_fork(lifecycle.GUARD, in_child=_guardian.forget_in_child)
lifecycle.at_fork(lifecycle.LIFELINE, in_child=_close_lifeline)
