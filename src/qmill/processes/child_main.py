"""Code that runs in a started process before and after its work.

1. Arm the lifeline, so that the kernel kills this process when the parent dies.
2. Become like the parent: environment, working directory, module path, arguments.
3. Work: call a function of this package with the channel and a function that returns its job.
4. End as an interpreter does: threads joined, exit functions run, streams flushed.

The frames of a forked process lie on those of its parent, which must never go on in the child. So
this module is compiled: no signal handler runs within C, hence none raises after the work, between
two steps of the end.
"""

from __future__ import annotations

import atexit
import logging
import os
import select
import signal
import socket
import struct
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from ..packing import main_module
from ..packing.bindings import loads_in_process
from ..system import frames, lifecycle, module_path, native, streams
from . import inherited, likeness

STATUS = struct.Struct("!iq")
"""A report on a child's end: its exit code, and its peak resident memory in bytes."""

EXIT_GRACE_S = 10.0
"""Seconds after which a worker that waits for its threads logs a warning."""

_RUNS_JOBS = "qmill-dispatcher-"

worker_name = ""
"""The name of this worker in messages."""

parent_sentinel = -1
"""A descriptor that is readable once the parent has ended."""

try:
    import fcntl
except ImportError:  # not POSIX
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import resource
    from collections.abc import Callable


is_forked = False
"""Whether this process is a worker that has its parent's memory."""


def max_rss_bytes(usage: resource.struct_rusage) -> int:
    """Return the peak resident memory of an ended process."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


_status: int | None = None
"""The pipe to which this process writes its exit status; None if the fork server reports it."""


def main(channel: int, lifeline: int, status: int) -> NoReturn:
    """Run a spawned process, given its file descriptors."""
    global _status
    for descriptor in (lifeline, status):
        os.set_inheritable(descriptor, False)
    _status = status
    _run(lambda: _run_setup(socket.socket(fileno=channel), lifeline))


def run_from_server(channel: socket.socket, lifeline: int) -> NoReturn:
    """Run a process just forked from the fork server."""
    streams.empty()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _run(lambda: _run_setup(channel, lifeline))


def run_forked(
    work: str,
    job: Any,
    ours: socket.socket,
    theirs: socket.socket,
    lifeline: int,
    status: int,
    blocked: set[signal.Signals | int],
) -> NoReturn:
    """Run a process just forked from the parent, whose memory it shares.

    Args:
        work: See `launch.start`.
        job: See `launch.start`.
        ours: The parent's end of the channel.
        theirs: The child's end of the channel.
        lifeline: The children's end of the lifeline.
        status: The pipe to which this process writes its exit status.
        blocked: The signals that stay blocked when the fork is over.
    """

    def body() -> int:
        global is_forked, _status
        is_forked = True
        if _status is not None:  # the parent is a worker, too
            os.close(_status)
        _status = status
        streams.empty()
        ours.close()
        lifecycle.begin_in_child()
        _follow(lifeline)
        # New threads inherit this flag, and the thread that forked may be a daemon, such as a
        # dispatcher.
        threading.current_thread()._daemonic = False  # type: ignore[attr-defined]
        _read_nothing()
        theirs.recv(1)  # sent when the parent has this process's pidfd
        # A handler may raise from here on: the child has nothing more of the parent's to undo.
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return _work(work, theirs, lambda: job)

    _run(body)


def _run(body: Callable[[], int]) -> NoReturn:
    """Run `body` and end the process after any outcome: a forked frame must never return."""
    code = 1
    try:
        code = body()
    except KeyboardInterrupt:
        code = INTERRUPTED  # the parent has the Ctrl-C, too, and reports it once for all
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        _leave(code)


INTERRUPTED = -signal.SIGINT
"""The return value of `work` that ends the process by SIGINT, as Ctrl-C ends a program."""


def _run_setup(channel: socket.socket, lifeline: int) -> int:
    _follow(lifeline)
    reader = frames.FrameReader()
    try:
        while (frame := reader.receive(channel)) is None:
            pass
        (setup,), (packed, *things) = frame
        inherited.receive(channel, setup["num_descriptors"])
    except (EOFError, OSError):
        return 1  # the parent gave up
    _become(setup)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    sent = dict(zip(setup["things"], things, strict=True))
    names = None if setup["environment"] is None else (setup["environment"], sent)
    rebuild = partial(inherited.unpack, lambda: loads_in_process(packed, names))
    return _work(setup["work"], channel, rebuild)


def _become(setup: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(setup["environ"])
    if setup["cwd"] is not None:
        try:
            os.chdir(setup["cwd"])
        except OSError:
            pass  # removed meanwhile; the parent could not enter it now, either
    sys.path[:] = setup["path"]
    module_path.learn(setup["modules"])
    sys.argv[:] = setup["argv"]
    from .launch import set_start_method  # which imports this module

    set_start_method(setup["start_method"])
    inherited.adopt(setup["multiprocessing"])
    likeness.take_on(setup["likeness"])
    # The __main__ of this process is this package's start code, not the user's program.
    main_module.adopt(setup["script"])


def _read_nothing() -> None:
    """Give the child an empty standard input: the terminal's belongs to the parent."""
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115


def _work(work: str, channel: socket.socket, get_job: Callable[[], Any]) -> int:
    from importlib import import_module

    module, _, function = work.partition(":")
    _held.append(channel)

    def run() -> int:
        return int(getattr(import_module(module), function)(channel, get_job))

    return inherited.call_followed(run, finish)


_held: list[socket.socket] = []
"""The channel; it stays open to the end, as log records may be sent over it until then."""


_SIGNAL_IN_C = native.original("_signal", "signal"), native.original("_signal", "SIG_DFL")
"""`signal.signal` and `SIG_DFL` in C: those of the module `signal` are Python."""


def _leave(code: int) -> NoReturn:
    """End as an interpreter does; after a fork this may be deep in the parent's call stack."""
    try:
        finish()
        lifecycle.end_children_and_queues()
        streams.flush()
    finally:
        try:
            _spare_group()
            _tell_status(code)
            if code < 0:
                set_handler, default = _SIGNAL_IN_C
                set_handler(-code, default)
                os.kill(os.getpid(), -code)
        finally:
            os._exit(code)


def finish() -> None:
    """Wait for threads, and call exit functions; called twice, for those added meanwhile."""
    if left_running():
        _start_watch()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()


def _tell_status(code: int) -> None:
    """Write the exit status for the parent: where SIGCHLD is ignored the kernel reports none."""
    if _status is not None:
        try:
            os.write(_status, STATUS.pack(code, 0))
        except OSError:  # a job has closed it, or the parent is gone
            pass


def left_running() -> list[str]:
    """Name the threads and processes for which this process waits before it ends.

    These are, as for `ProcessPoolExecutor`, the threads and the processes of `multiprocessing` that
    its work has started and that are no daemons. The dispatchers of job queues, which are daemon
    threads, count as well: they end with their jobs.
    """
    main = threading.main_thread()
    threads = [thread for thread in threading.enumerate() if thread is not main]
    names = [f"thread {t.name}" for t in threads if not t.daemon or t.name.startswith(_RUNS_JOBS)]
    children = getattr(sys.modules.get("multiprocessing.process"), "_children", ())
    return names + [f"process {child.name}" for child in list(children) if not child.daemon]


def _start_watch() -> None:
    """Log a warning once if the threads and processes that are waited for do not end soon."""
    watch = threading.Timer(EXIT_GRACE_S, _tell_wait)
    watch.daemon = True
    try:
        watch.start()
    except RuntimeError:  # no more threads
        pass


def _tell_wait() -> None:
    left = ", ".join(left_running()) or "its exit functions"
    logging.getLogger("qmill").warning(
        "worker %s (pid %d) has done its work, and waits for what that has left: %s. A thread or "
        "process with daemon=True is not waited for",
        worker_name,
        os.getpid(),
        left,
    )


# -- the lifeline ------------------------------------------------------------------------------


def _follow(lifeline: int) -> None:
    """Die with the parent, even while stuck in C code that holds the interpreter."""
    global parent_sentinel, _armed, _leads_group
    parent_sentinel = lifeline
    _armed, _leads_group = -1, False
    try:
        parent_sentinel = _armed = own = armed(lifeline, os.getpid())
        os.close(lifeline)
    except (ImportError, AttributeError, OSError):  # not Linux, or /proc is not there
        threading.Thread(
            target=_watch, args=(lifeline,), name="qmill-lifeline", daemon=True
        ).start()
        return
    poll = select.poll()
    poll.register(own, select.POLLIN)
    if poll.poll(0):  # it had closed before the signal was set up
        os._exit(1)


_armed = -1
"""This process's armed lifeline, if it has one."""

_leads_group = False


def lead_group() -> None:
    """Put this process into a group of its own, all of which dies with the parent."""
    global _leads_group
    if not hasattr(os, "setpgid"):
        return
    os.setpgid(0, 0)
    _leads_group = True
    if _armed >= 0:
        set_owner(_armed, -os.getpid())


def _spare_group() -> None:
    """Disarm the lifeline, so that processes of this group that go on are not killed by it."""
    if _leads_group and _armed >= 0:
        try:
            disarm(_armed)
        except OSError:  # a job has closed it
            pass


def armed(lifeline: int, owner: int) -> int:
    """Open a lifeline anew, so that its end kills a process, or a process group.

    The kernel sends SIGKILL when the pipe's writing end closes. The receiver of that signal is a
    property of the open file, which all children share, so each child opens one of its own.

    Args:
        lifeline: The children's end.
        owner: The id of the process, or minus that of the group.

    Returns:
        A descriptor. A process that outlives the parent has to hold it.

    Raises:
        ImportError: The platform has no such signals.
        AttributeError: The same.
        OSError: There is no /proc, or no process of that number.
    """
    if fcntl is None:
        raise ImportError("no fcntl")
    own = os.open(f"/proc/self/fd/{lifeline}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.fcntl(own, fcntl.F_SETOWN, owner)
        fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(own, fcntl.F_GETFL)
        fcntl.fcntl(own, fcntl.F_SETFL, flags | os.O_ASYNC)
    except BaseException:
        os.close(own)
        raise
    return own


def set_owner(armed: int, owner: int) -> None:
    """Set the process that the end of an armed lifeline kills, or the group, by minus its id."""
    fcntl.fcntl(armed, fcntl.F_SETOWN, owner)


def disarm(armed: int) -> None:
    """Have the end of a lifeline kill no process, even if a forked process holds it, too."""
    fcntl.fcntl(armed, fcntl.F_SETFL, fcntl.fcntl(armed, fcntl.F_GETFL) & ~os.O_ASYNC)


def _watch(lifeline: int) -> None:
    os.read(lifeline, 1)
    if _leads_group:
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
