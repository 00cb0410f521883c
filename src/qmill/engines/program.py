"""The program engine: runs a program for each job, with the arguments that its function returns.

    dispatcher ── posix_spawn ──> process group 1:  /bin/sh ...   stdout, stderr ──> files
               <──── pidfd ─────
               the same for 2 ...

A job's function is called in the dispatcher's thread and returns the program with its arguments.
The output of the program is collected in nameless files; `take_output` returns it.

Crash: when this process ends, however it ends, the kernel kills the process groups of the running
jobs, as long as they hold the lifeline that they inherit.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import selectors
import signal
import subprocess
import tempfile
from functools import partial
from time import monotonic
from typing import IO, TYPE_CHECKING, NamedTuple

from ..errors import NotSupported
from ..processes import child_main, handles, launch
from .api import DIED, DONE, FAILED, RETURNED, Report
from .selecting import SelectorEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..jobs.job import Job

SMALL_BYTES = 1 << 14
"""Output up to this size is kept in memory once its job has ended; larger output stays a file."""

_COPY_BYTES = 1 << 16
_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM}
_RESET = [signal.SIGPIPE, signal.SIGXFSZ] if hasattr(signal, "SIGXFSZ") else []  # Python ignores


class Output(NamedTuple):
    """The output of a program: bytes, or an open file if it is large."""

    stdout: bytes | IO[bytes] = b""
    stderr: bytes | IO[bytes] = b""


def pieces(written: bytes | IO[bytes]) -> Iterator[bytes]:
    """Yield a program's output piece by piece."""
    if isinstance(written, bytes):
        if written:
            yield written
        return
    with written:
        written.seek(0)
        while piece := written.read(_COPY_BYTES):
            yield piece


class _Running:
    """A running job.

    Attributes:
        line: A lifeline that kills its process group, armed until the job has ended; or None.
    """

    __slots__ = ("err", "job", "line", "out", "pid", "sentinel", "slot", "started_s")
    out: IO[bytes]
    err: IO[bytes]
    sentinel: IO[bytes]

    def __init__(self, job: Job, slot: int) -> None:
        self.job = job
        self.slot = slot
        self.started_s = monotonic()
        self.line: int | None = None
        self.pid = -1


class ProgramEngine(SelectorEngine):
    """Runs programs, each in a process group of its own.

    A program's standard input has one line and then its end. The line comes when the program is
    sure to die with this process: a program that waits for it before it begins leaves nothing
    behind. The environment of programs is that of this process when the engine is made.

    Args:
        name: The name of the queue; its workers have this name and a number.
        max_workers: How many programs may run at a time.

    A job is done if its program ends with status 0. With another one it has failed
    (`subprocess.CalledProcessError`), and it has died (`WorkerDied`) if a signal ended it.

    Raises:
        NotSupported: The platform has no file descriptors of processes.
    """

    can_kill = True

    def __init__(self, name: str, max_workers: int) -> None:
        if not hasattr(os, "pidfd_open"):
            raise NotSupported("running programs as jobs needs pidfd_open, which Linux has")
        super().__init__()
        self._name = name
        self.max_workers = max_workers
        self._environ = dict(os.environb)  # to pass on os.environ takes as long as a fork
        self._accepted: list[Job] = []
        self._running: dict[int, _Running] = {}
        self._free_slots: list[int] = []  # a heap
        self._num_slots = 0
        self._is_short = False  # of descriptors or processes, until a job ends
        self._outputs: dict[int, Output] = {}

    def take_output(self, job: Job) -> Output:
        """Return the output of a job's last attempt, and forget it; called by any thread."""
        return self._outputs.pop(job.id, Output())

    # -- offering ------------------------------------------------------------------------------

    def prepare(self, job: Job, moment: object = None) -> None:
        """Do nothing: the program's arguments are made when it is started."""

    def offer(self, job: Job) -> bool:
        """Accept a job if fewer programs run than may; see `Engine`."""
        if self._is_short or self.num_startable <= 0:
            return False
        self._accepted.append(job)
        return True

    def flush(self) -> None:
        """Start the programs of the jobs that were accepted; see `Engine`."""
        jobs, self._accepted = self._accepted, []
        for job in jobs:
            if self._is_short:
                self._reports.append(Report(RETURNED, job))
                continue
            running = _Running(job, self._take_slot())
            try:
                self._start(running)
            except Exception as error:  # of the function, too, which a user has written
                heapq.heappush(self._free_slots, running.slot)
                if self._running and isinstance(error, OSError) and error.errno in _SHORTAGES:
                    self._is_short = True
                    self._reports.append(Report(RETURNED, job))
                else:
                    moments = running.started_s, monotonic()
                    worker = self._worker(running)
                    self._reports.append(Report(FAILED, job, error, *moments, 1, worker))
            else:
                self._running[job.id] = running

    def _take_slot(self) -> int:
        if self._free_slots:
            return heapq.heappop(self._free_slots)
        self._num_slots += 1
        return self._num_slots

    def _worker(self, running: _Running) -> str:
        return f"{self._name}-{running.slot}"

    def _start(self, running: _Running) -> None:
        job = running.job
        assert job.function is not None
        program, *arguments = job.function(*job.args or (), **job.kwargs or {})
        with contextlib.ExitStack() as undo:
            running.out = undo.enter_context(tempfile.TemporaryFile(buffering=0))
            running.err = undo.enter_context(tempfile.TemporaryFile(buffering=0))
            with contextlib.suppress(ImportError, AttributeError, OSError):
                running.line = child_main.armed(launch.lifeline(), 0)
                undo.callback(os.close, running.line)
                os.set_inheritable(running.line, True)
            gate, opener = os.pipe()
            undo.callback(os.close, gate)
            undo.callback(os.close, opener)
            running.started_s = monotonic()
            running.pid = os.posix_spawn(
                program,
                [program, *arguments],
                self._environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, gate, 0),
                    (os.POSIX_SPAWN_DUP2, running.out.fileno(), 1),
                    (os.POSIX_SPAWN_DUP2, running.err.fileno(), 2),
                ],
                setpgroup=0,
                setsigdef=_RESET,
            )
            try:
                sentinel = handles.open_sentinel(running.pid)
                assert sentinel is not None
                running.sentinel = sentinel
            except OSError:  # no descriptors left: end the program that has just begun
                with contextlib.suppress(ProcessLookupError, ChildProcessError):
                    os.killpg(running.pid, signal.SIGKILL)
                    os.waitpid(running.pid, 0)
                raise
            undo.pop_all()
        if running.line is not None:
            with contextlib.suppress(OSError):  # the program has ended
                child_main.set_owner(running.line, -running.pid)
        with contextlib.suppress(BrokenPipeError):  # likewise
            os.write(opener, b"\n")
        os.close(gate)
        os.close(opener)
        ended = partial(self._ended, running)
        self._selector.register(running.sentinel, selectors.EVENT_READ, ended)

    @property
    def num_startable(self) -> int:
        """The number of programs that may still be started."""
        if self._is_short:
            return 0
        return self.max_workers - len(self._running) - len(self._accepted)

    @property
    def num_workers(self) -> int:
        """The number of running programs, and of process trees that are being ended."""
        return len(self._running) + len(self._trees)

    def stop_workers(self) -> None:
        """Do nothing: a program ends by itself."""

    def _ended(self, running: _Running) -> None:
        """Report a job whose program has ended."""
        ended = monotonic()
        code, _ = handles.reap(running.pid, running.sentinel.fileno())
        self._selector.unregister(running.sentinel)
        running.sentinel.close()
        if running.line is not None:
            child_main.disarm(running.line)  # processes that the program has left running may go on
            os.close(running.line)
        del self._running[running.job.id]
        heapq.heappush(self._free_slots, running.slot)
        self._is_short = False
        self._outputs[running.job.id] = Output(_collected(running.out), _collected(running.err))
        what = DONE
        value: Exception | None = None
        if code is None or code < 0:
            what, value = DIED, handles.death(running.pid, code, running.job.name)
        elif code > 0:
            what, value = FAILED, subprocess.CalledProcessError(code, running.job.name)
        moments = running.started_s, ended
        worker = self._worker(running)
        told = handles.UNKNOWN_EXIT if code is None else code
        self._reports.append(Report(what, running.job, value, *moments, told, worker))

    # -- the end -------------------------------------------------------------------------------

    def kill(self, job: Job) -> None:
        """End a job's program and all processes that it has started; see `Engine`."""
        running = self._running.get(job.id)
        if running is not None:
            self._trees.end(running.pid, signal.SIGTERM)

    def forget_in_child(self) -> None:
        """Close the parent's files; see `Engine`."""
        for running in self._running.values():
            running.sentinel.close()
            if running.line is not None:
                os.close(running.line)
        self._running.clear()
        super().forget_in_child()


def _collected(file: IO[bytes]) -> bytes | IO[bytes]:
    """Return the bytes of an output file, which is then closed; a large file is returned itself."""
    size = os.fstat(file.fileno()).st_size
    if size > SMALL_BYTES:
        return file
    with file:
        return os.pread(file.fileno(), size, 0)
