"""The worker of the process engine: it takes one permit at a time and answers each job.

Each answer is sent before the next permit is taken. So when a worker dies, the one job that has no
answer and whose permit is taken is the one that it was running.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from ...packing import main_module, remote_errors, shared_values
from ...processes import child_main
from ...system import lifecycle, nameless_files, streams
from ...workers.runners import exit_code
from ..api import (
    FAILED,
    LINGERS,
    NOT_STARTED,
    READY,
    SENT_KEPT,
    SENT_MEMORY,
    SPENT,
    Event,
    call_chunk,
)
from ..learnt import Learnt
from . import kept_results, protocol as packets
from .large_payloads import Inbox, Outbox

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS_OF_LIBRARIES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
"""Variables that limit the threads of libraries; each worker gets its share of the processors."""

_Job = tuple[int, int, int, int, "memoryview | OSError"]
"""JOB or CHUNK, its id, the numbers of its function and environment, its packed arguments or the
error of a shortage that kept them from being read here."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class WorkerSettings(NamedTuple):
    """The settings of a new worker."""

    name: str
    initializer: Callable[..., Any] | None
    initargs: tuple[Any, ...]
    max_memory: int | None  # bytes of resident memory
    num_threads: int  # the number of threads for a numerical library
    log_levels: dict[str, int]  # of the parent's loggers; "" is the root
    inherited: dict[int, Any]  # functions and values that only a fork can pass on
    is_remote: bool  # whether the jobs come from another machine, so that the script is not here
    has_codec: bool  # whether the reader of its results has the native codec


def work(channel: socket.socket, get_job: Callable[[], WorkerSettings]) -> int:
    """Run a worker, and return its exit code."""
    worker = _Worker(channel)
    try:
        settings = get_job()
        if settings.is_remote:
            main_module.adopt(None)
        worker.set_up(settings)
    except BaseException as error:
        streams.flush()
        worker.send(NOT_STARTED, 0, [remote_errors.dump_error(error)])
        return 1
    code = worker.run()
    if code == 0 and child_main.left_running():
        with contextlib.suppress(ConnectionError):  # the engine has given it up
            worker.send(LINGERS, 0, [])  # so that the engine waits for its threads
    return code


class _Worker:
    """The state of a worker process."""

    def __init__(self, channel: socket.socket) -> None:
        # In a group of its own, the processes that jobs start can be killed with it, and Ctrl-C
        # reaches the parent only.
        child_main.lead_group()
        self._channel = channel
        self._sending = threading.RLock()  # a job's threads may log
        self._records: list[tuple[Event, int, list[Any], float, float]] = []  # frames to be sent
        lifecycle.at_fork(lifecycle.ANSWERS, in_child=self._after_fork_in_child)
        _, (permits, *_), _, _ = socket.recv_fds(channel, 1, 1)
        os.set_inheritable(permits, False)
        self._permits = socket.socket(fileno=permits)
        self._jobs: deque[_Job] = deque()  # those that have come and were not run
        self._stream = bytearray()  # the beginning of a message, from the channel
        self._files: deque[int] = deque()
        self._outbox, self._inbox = Outbox(), Inbox(copies=False)
        self._learnt = Learnt(self.send, is_forked=child_main.is_forked)
        self._max_memory: int | None = None
        self._to_do: dict[int, list[int]] = {}  # calls to make of a chunk run before, by permit
        self._permit = 0  # the last one
        self._to_do_now: list[int] | None = None  # the calls to make of the present chunk
        self._has_codec = False
        self._keeper: kept_results.Keeper | None = None  # made for the first chunk

    def set_up(self, settings: WorkerSettings) -> None:
        """Apply the settings, and report that the worker is ready for jobs."""
        self._max_memory = settings.max_memory
        self._has_codec = settings.has_codec
        self._learnt.inherit(settings.inherited)
        for variable in THREADS_OF_LIBRARIES:
            os.environ.setdefault(variable, str(settings.num_threads))
        call = settings.initializer, settings.initargs
        self._learnt.begin(settings.name, settings.log_levels, *call)
        self.send(READY, 0, [])

    def _after_fork_in_child(self) -> None:
        """Make a new lock in a process that a job forks, which may log; the old may be held."""
        self._sending = threading.RLock()
        self._records = []
        self._outbox.forget_in_child()

    # -- permits -------------------------------------------------------------------------------

    def run(self) -> int:
        """Run the jobs of permits until the permit to end; return the exit code."""
        try:
            return self._run()
        except KeyboardInterrupt:
            return child_main.INTERRUPTED
        except (OSError, MemoryError) as error:
            if nameless_files.is_shortage(error):
                self._tell_end(error)
            # Else a job has closed our descriptors, or the parent is gone.
            return int(_end_now(1))

    def _tell_end(self, error: BaseException) -> None:
        """Send the error for which this worker cannot go on."""
        with contextlib.suppress(OSError, MemoryError):
            self.send(NOT_STARTED, 0, [remote_errors.dump_error(error)])

    def _run(self) -> int:
        permit_bytes, unpack = packets.PERMIT.size, packets.PERMIT.unpack
        jobs, receive = self._jobs, self._permits.recv
        while permit := receive(permit_bytes):
            (number,) = unpack(permit)
            if number == 0:
                break
            self._permit, self._to_do_now = number, None
            if number > packets.ID:
                number = self._take_to_do(number)
            while True:
                while not jobs:
                    self._receive()
                job = jobs.popleft()
                if job[1] == number:
                    break  # those before it were taken back
            self._do(*job)
            del job
        return 0

    def _take_to_do(self, number: int) -> int:
        """Note the calls of a chunk that a permit is for, and return the chunk's id."""
        while number not in self._to_do:
            self._receive()
        to_do, job = self._to_do[number], number & packets.ID
        for other in [n for n in self._to_do if n & packets.ID == job]:
            del self._to_do[other]  # the permits were taken back
        self._to_do_now = to_do
        return job

    # -- messages ------------------------------------------------------------------------------

    def _receive(self) -> None:
        """Read once from the channel, and handle the messages that are complete."""
        data, ancillary, _, _ = self._channel.recvmsg(
            packets.BESIDE_BYTES, packets.FDS_SPACE, packets.CLOSE_ON_EXEC
        )
        if not data:
            raise ConnectionResetError("the parent is gone")
        if ancillary:
            self._files.extend(packets.descriptors(ancillary))
        self._stream += data
        del self._stream[: self._take_messages(memoryview(bytes(self._stream)))]

    def _take_messages(self, data: memoryview) -> int:
        """Handle the messages that are complete, and return their number of bytes."""
        start, head_bytes = 0, packets.MESSAGE.size
        while start + head_bytes <= len(data):
            kind, function, environment, job, size = packets.MESSAGE.unpack_from(data, start)
            end = start + head_bytes + size
            if end > len(data):
                break
            payload: memoryview | OSError = data[start + head_bytes : end]
            start = end
            if kind & packets.BESIDE:
                kind &= packets.KIND_BITS
                if kind == packets.SHARE:
                    shared_values.receive(job, self._next_file())
                    continue
                payload = self._take_file(kind)
            elif kind & packets.SHARED:
                payload = self._inbox.take(bytes(data[start - size : start]))
                kind &= packets.KIND_BITS
            if kind in (packets.JOB, packets.CHUNK):
                self._jobs.append((kind, job, function, environment, payload))
            elif kind == packets.MEMORY:
                self._inbox.open(self._next_file())
            else:
                assert isinstance(payload, memoryview)
                told = pickle.loads(payload)
                if kind == packets.TO_DO:
                    self._to_do[job] = told
                else:
                    self._learnt.learn(told)
        return start

    def _take_file(self, kind: int) -> memoryview | OSError:
        """Return the payload of a file; for a job without room for it, the error that fails it.

        Raises:
            OSError: There is no room for the payload of another message: the worker cannot go on.
        """
        try:
            return packets.take_file(self._files)
        except OSError as error:
            if kind in (packets.JOB, packets.CHUNK):
                return error
            raise

    def _next_file(self) -> int:
        if not self._files:
            raise nameless_files.file_lost()
        return self._files.popleft()

    # -- jobs ----------------------------------------------------------------------------------

    def _do(
        self, kind: int, job: int, number: int, environment: int, data: memoryview | OSError
    ) -> None:
        """Run a job, and send its answer."""
        call_chunk = self._call_chunk if kind == packets.CHUNK else None
        try:
            answer = self._learnt.call(job, number, environment, data, call_chunk)
        except SystemExit as error:
            _end_now(exit_code(error))
        self._answer(job, *answer)

    def _call_chunk(
        self, function: Callable[..., Any], items: list[Any], unpack: bool, go_on: bool
    ) -> list[Any]:
        """Make the calls of a chunk, and keep their results and errors; return the last part."""
        exports = self._learnt.exports
        if self._keeper is None:
            self._keeper = kept_results.Keeper(
                exports, self._learnt.send_definitions, self.send, self._tell_kept, self._has_codec
            )
        keeper, to_do = self._keeper, self._to_do_now
        keeper.begin(self._permit)
        try:
            call_chunk(function, items, unpack, go_on, to_do, keeper.keep, keeper.fail)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # no memory for more results; the parent finds those already kept
            _end_now(1)
        return [keeper.rest()]

    def _tell_kept(self, descriptor: int) -> None:
        with self._sending:
            self._tell_descriptor(SENT_KEPT, descriptor)

    def _answer(
        self, job: int, what: Event, parts: list[Any], started: float, ended: float
    ) -> None:
        if self._learnt.exports.pending:
            self._learnt.send_definitions()
        streams.flush()
        if self._max_memory is not None and _resident_bytes() > self._max_memory:
            self.send(SPENT, 0, [])
        try:
            self.send(what, job, parts, started, ended)
        except (OSError, MemoryError) as error:  # before anything was sent
            if not nameless_files.is_shortage(error):
                raise
            self.send(FAILED, job, [remote_errors.dump_error(error)], started, ended)
        self._learnt.job_name = None

    def send(
        self, what: Event, job: int, parts: list[Any], started: float = 0.0, ended: float = 0.0
    ) -> None:
        """Send an answer or another report; a large payload goes beside the channel."""
        with self._sending:
            self._records.append((what, job, parts, started, ended))
            if len(self._records) > 1:
                return  # a signal handler or a `__del__`, in the middle of sending another one
            while self._records:
                try:
                    self._write(*self._records[0])
                finally:
                    del self._records[0]

    def _write(self, what: Event, job: int, parts: list[Any], started: float, ended: float) -> None:
        size = sum(map(len, parts))
        if size <= packets.RECORD_BYTES:
            record = packets.RECORD.pack(what, job, started, ended, size) + b"".join(parts)
            self._channel.sendall(record)
            return
        ticket = self._outbox.put(parts, self._tell_memory)
        if ticket is not None:
            head = packets.RECORD.pack(what | packets.SHARED, job, started, ended, len(ticket))
            self._channel.sendall(head + ticket)
            return
        descriptor = nameless_files.write_file(parts)
        try:
            head = packets.RECORD.pack(what | packets.BESIDE, job, started, ended, 0)
            socket.send_fds(self._channel, [head], [descriptor])
        finally:
            os.close(descriptor)

    def _tell_memory(self, descriptor: int) -> None:
        self._tell_descriptor(SENT_MEMORY, descriptor)

    def _tell_descriptor(self, what: Event, descriptor: int) -> None:
        head = packets.RECORD.pack(what, 0, 0.0, 0.0, 0)
        socket.send_fds(self._channel, [head], [descriptor])


def _end_now(code: int) -> Any:
    """End the process without waiting for threads of its jobs."""
    streams.flush()
    os._exit(code)


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
