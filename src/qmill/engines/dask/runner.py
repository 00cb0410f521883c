"""A runner: a queue's pool of child processes on one worker of a cluster.

    cluster's task ── run(call) ──> inbox ──> [ thread: ProcessEngine ] ──> child, child ...
                  <── Report ─────────────────────────┘

The children are those of the process engine, so a kill affects one job and no other. The cluster's
worker unpickles no part of a job: calls go to the children, and answers come back, as bytes.

A call can be revoked until it has arrived: its task then ends without running it. A call that has
arrived is killed instead. The thread of the worker's event loop decides this, so each call is
either revoked or killed.

This module knows nothing of the cluster.
"""

from __future__ import annotations

import contextlib
import itertools
import pickle
import threading
from collections import deque
from concurrent.futures import Future
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from ...errors import WorkerDied
from ...jobs.job import Job, Options
from ...packing import definitions, remote_errors, serialize, shared_values
from ..api import (
    DIED,
    DONE,
    FAILED,
    LOGGED,
    NOT_STARTED,
    RETURNED,
    SOME,
    TIMED_OUT,
    Event,
    Report,
    Settings,
)
from ..codec import Codec
from ..driver import END_S, Driver, Jobs
from ..functions import Subject
from ..process import kept_results
from ..process.engine import ProcessEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..api import Engine
    from ..knowledge import Lesson


class Setup(NamedTuple):
    """The settings of a new runner."""

    initializer: bytes | bytearray | None  # the packed function and its arguments
    max_jobs_per_worker: int | None
    max_memory_per_worker: int | None
    has_codec: bool  # whether the program has the native codec


class Call(NamedTuple):
    """A job to run.

    Attributes:
        token: The number of this attempt; each attempt has a new one.
        job: Its id.
        name: Its name in messages; None for its id.
        function: The number of its function; 0 if the function comes with the arguments.
        environment: The numbers of the values of its globals, and last that of the environment
            itself; empty if it needs none.
        packet: The data for the child; None if a lesson has brought it.
        is_chunk: Whether it is a chunk of a map.
        to_do, version: As of a `Chunk`.
        timeout: Seconds that it may run; None is no limit.
        oldest: The lowest token whose answer the caller has not got.
    """

    token: int
    job: int
    name: Any
    function: int
    environment: list[int]
    packet: Any
    is_chunk: bool
    to_do: list[int] | None
    version: int
    timeout: float | None
    oldest: int


class Packed(NamedTuple):
    """The value of a call's report, as the child has packed it.

    Attributes:
        what: DONE or FAILED; or SOME: the data is the parts of a chunk's results and the death of
            the child or None, pickled together.
        data: The packed value.
        definitions: The definitions that the child has made for it.
    """

    what: Event
    data: bytes
    definitions: tuple[bytes, ...] = ()


class _RemoteJob(Job):
    """A call, in the form of a job of the process engine."""

    __slots__ = ("answer", "deadline", "_is_chunk", "_to_do", "_version", "is_late", "is_unwanted")

    def __init__(self, call: Call, packet: Any, things: dict[int, Subject], owner: Any) -> None:
        options = Options(name=call.name, timeout=call.timeout)
        super().__init__(call.job, _RemoteJob, (), None, 0, options, owner, 0.0)
        self._is_chunk = call.is_chunk  # `_num_calls` stays 1, as the caller measures the calls
        self._to_do, self._version = call.to_do, call.version
        self.answer: Future[Report] = Future()
        self.deadline: float | None = None
        self.is_late = False  # whether its timeout has expired
        self.is_unwanted = False
        self._packet = packet
        self._subject = things.get(call.function)
        if call.environment:
            *values, environment = (things[number] for number in call.environment)
            environment.needs = tuple(values)
            self._environment = environment


class _RawCodec(Codec):
    """A codec that passes answers on without unpickling them."""

    def __init__(self, address: str, has_codec: bool) -> None:
        super().__init__(definitions.Names.INSTEAD)
        self.has_codec = has_codec and self.has_codec
        self._address = address
        self._defined: dict[str, list[bytes]] = {}

    def define(self, worker: str, data: bytes | memoryview) -> None:
        """Keep a definition for the next answer of the same child."""
        self._defined.setdefault(worker, []).append(bytes(data))

    def log_record(self, data: bytes | memoryview) -> bytes:
        """Return the record as it is."""
        return bytes(data)

    def answer(
        self,
        what: Event,
        job: Job,
        data: Any,
        started_s: float,
        ended_s: float,
        worker: str | None,
        parts: Iterable[kept_results.Part] = (),
    ) -> Report:
        """Pass on an answer; the parts of a chunk's results go together; see `Codec`."""
        end = Report(what, job, None, started_s, ended_s, int(what is FAILED), worker)
        if what is DONE and job._is_chunk:
            return self.chunk(end, [*parts, (SOME, data)])
        return end._replace(value=self._packed(worker, what, bytes(data)))

    def chunk(self, end: Report, parts: list[kept_results.Part]) -> Report:
        """Pass on the parts of a chunk's results, and the death of its child; see `Codec`."""
        death = end.value
        if isinstance(death, WorkerDied):
            pid, exitcode, signal, name, rss_bytes, _ = death.args
            death = WorkerDied(pid, exitcode, signal, name, rss_bytes, self._address)
        outcome = [(what, bytes(data)) for what, data in parts], death
        return end._replace(value=self._packed(end.worker, SOME, pickle.dumps(outcome, 5)))

    def _packed(self, worker: str | None, what: Event, data: bytes) -> Packed:
        return Packed(what, data, tuple(self._defined.pop(worker or "", ())))

    def adopt(self, functions: dict[int, Subject], lesson: Lesson) -> None:
        """Make the definitions of a lesson available to the children."""
        self.functions.adopt(functions, lesson.gone_functions)
        self.exports.pending.update(lesson.definitions)


class Runner:
    """Runs the calls of one queue on one worker of a cluster.

    Args:
        address: The worker's address; it is part of the children's names.
        num_slots: How many calls run at a time.
        setup: The settings of the children.
        log: Called with each pickled log record of a child, in a thread of the runner.

    All methods are for the thread of the worker's event loop; `_Calls` has a thread of its own.
    """

    def __init__(
        self, address: str, num_slots: int, setup: Setup, log: Callable[[bytes], None]
    ) -> None:
        self._address = address
        self._calls = _Calls(address, num_slots, setup, log)
        self._packets: dict[int, Any] = {}
        self._functions: dict[int, Subject] = {}
        self._shares: dict[int, shared_values.Shared] = {}
        self._came: dict[int, None] = {}  # tokens of calls that have arrived, running or answered
        self._here: dict[int, _RemoteJob] = {}
        self._revoked: set[int] = set()

    def learn(self, lesson: Lesson, large: dict[int, Any]) -> None:
        """Take in a lesson, and the packets of large calls by their tokens."""
        codec = self._calls.engine.codec
        self._packets.update(large)
        for key, packed in lesson.shares.items():
            self._shares[key] = handle = shared_values.from_packed(key, packed)
            codec.shares.add(handle)
        for key in lesson.gone_shares:
            self._shares.pop(key, None)
        functions = {key: Subject(key, packed) for key, packed in lesson.functions.items()}
        self._functions.update(functions)
        for number in lesson.gone_functions:
            self._functions.pop(number, None)
        assert isinstance(codec, _RawCodec)
        told = lesson._replace(shares={}, functions={})
        self._calls.order(partial(codec.adopt, functions, told))

    def run(self, call: Call) -> Future[Report]:
        """Run a call; the future never has an exception."""
        packet = self._packets.pop(call.token, None) if call.packet is None else call.packet
        job = _RemoteJob(call, packet, self._functions, self)
        if call.token in self._revoked or self._calls.is_closing:
            self._revoked.discard(call.token)
            job.answer.set_result(Report(RETURNED, None))
            return job.answer
        if self._calls.ended.done():  # the engine's thread has failed
            job.answer.set_result(self._calls.death(job))
            return job.answer
        for token in list(itertools.takewhile(call.oldest.__gt__, self._came)):
            del self._came[token]
        self._came[call.token] = None
        self._here[call.token] = job
        job.answer.add_done_callback(lambda _: self._here.pop(call.token, None))
        self._calls.order(partial(self._calls.run_job, job))
        return job.answer

    def revoke(self, tokens: list[int]) -> list[int]:
        """Revoke the calls that have not arrived; return their tokens."""
        missing = [token for token in tokens if token not in self._came]
        self._revoked.update(missing)
        for token in missing:
            self._packets.pop(token, None)
        return missing

    def kill(self, token: int) -> bool:
        """Kill a call, or revoke it; return whether it was revoked."""
        if self.revoke([token]):
            return True
        if (job := self._here.get(token)) is not None:
            self._calls.order(partial(self._calls.kill_job, job))
        return False

    def close(self, *, patient: bool = False) -> Future[None]:
        """Kill the running calls and end the children; the future is done when they have ended.

        Args:
            patient: Whether to wait for threads of calls, until `close` is called without it.
        """
        self._calls.close(patient)
        return self._calls.ended


class _Calls(Jobs):
    """The calls of a runner, and the thread that drives its engine."""

    def __init__(
        self, address: str, num_slots: int, setup: Setup, log: Callable[[bytes], None]
    ) -> None:
        packed = setup.initializer
        settings = Settings(
            address,
            num_slots,
            None if packed is None else _initialize,
            (packed,),
            setup.max_jobs_per_worker,
            setup.max_memory_per_worker,
        )
        codec = _RawCodec(address, setup.has_codec)
        self.engine = ProcessEngine(settings, "forkserver", codec)
        self.is_closing = False
        self._is_patient = True
        self.ended: Future[None] = Future()
        self._address = address
        self._log = log
        self._driver = Driver(self.engine, self)
        self._waiting: deque[_RemoteJob] = deque()
        self._running: dict[int, _RemoteJob] = {}
        threading.Thread(target=self._run, name=f"qmill-runner-{address}", daemon=True).start()

    def order(self, what: Callable[[], None]) -> None:
        """Have the engine's thread call a function; any thread may call this."""
        self._driver.orders.append(what)
        self.engine.wake()

    def close(self, patient: bool) -> None:
        """Kill the running calls and end; any thread may call this."""
        self._is_patient = self._is_patient and patient
        self.is_closing = True
        self.engine.wake()

    def _run(self) -> None:
        try:
            self._driver.drive()
            self.engine.close()
        finally:  # if jobs remain, there is a fault in qmill
            self.ended.set_result(None)
            for job in [*self._waiting, *self._running.values()]:
                job.answer.set_result(self.death(job))

    def death(self, job: _RemoteJob) -> Report:
        """Return the answer for a job that cannot run here any more."""
        return Report(DIED, None, WorkerDied(None, None, None, job.name, None, self._address))

    def offer_to(self, engine: Engine) -> tuple[list[Job], int]:
        """Find late jobs and offer waiting ones; see `Jobs`."""
        late: list[Job] = []
        now = monotonic()
        for job in self._running.values():
            if job.deadline is not None and job.deadline <= now:
                job.deadline, job.is_late = None, True
                late.append(job)
        while self._waiting and not self.is_closing and engine.offer(self._waiting[0]):
            job = self._waiting.popleft()
            self._running[job.id] = job
            if job.timeout is not None:
                job.deadline = now + job.timeout
        return late, 0 if self.is_closing else len(self._waiting)

    def rest(self, num_refused: int) -> float | None:
        """Return the seconds until the next deadline, or end all; see `Jobs`."""
        if self.is_closing:
            for job in [*self._waiting, *self._running.values()]:
                if not job.is_unwanted:
                    self.kill_job(job)
            if not self._is_patient:
                self.engine.hurry()
            if not self.engine.num_workers:
                return END_S
            self.engine.stop_workers()
        deadlines = [job.deadline for job in self._running.values() if job.deadline is not None]
        return max(0.0, min(deadlines) - monotonic()) if deadlines else None

    def run_job(self, job: _RemoteJob) -> None:
        """Queue a job, which runs when a child is free."""
        self._waiting.append(job)

    def kill_job(self, job: _RemoteJob) -> None:
        """Kill a job, unless it has ended."""
        job.is_unwanted = True
        if job in self._waiting:
            self._waiting.remove(job)
            job.answer.set_result(Report(RETURNED, None))
        elif job.id in self._running:
            self.engine.kill(job)

    def take(self, reports: list[Report]) -> None:
        """Take in reports of the engine; see `Jobs`."""
        for report in reports:
            self._take(report)

    def _take(self, report: Report) -> None:
        """Answer the job of a report; pass other reports on."""
        if report.what is LOGGED:
            with contextlib.suppress(Exception):  # the Dask worker may be ending
                self._log(report.value)
        elif report.what is NOT_STARTED:
            if self._waiting:
                self._answer(self._waiting.popleft(), report)
        else:
            assert isinstance(report.job, _RemoteJob)
            job = report.job
            del self._running[job.id]
            if report.what is RETURNED and not job.is_unwanted:  # the child died before it began
                job.is_late = False
                self._waiting.appendleft(job)
            else:
                self._answer(job, report)

    def _answer(self, job: _RemoteJob, report: Report) -> None:
        """Send a report to the program, with its moments as seconds from now."""
        now = monotonic()
        started, ended = report.started_s or now, report.ended_s or now
        what, value = report.what, report.value
        if isinstance(value, WorkerDied):
            facts = value.pid, value.exitcode, value.signal, job.name, value.rss_bytes
            what, value = DIED, WorkerDied(*facts, self._address)
        elif isinstance(value, BaseException):
            what, value = FAILED, Packed(FAILED, remote_errors.dump_error(value))
        if job.is_late and (what is not DONE or ended - started >= (job.timeout or 0)):
            what = TIMED_OUT
        code, worker = report.exitcode, report.worker
        answer = Report(what, None, value, started - now, ended - now, code, worker)
        job.answer.set_result(answer)


def _initialize(packed: bytes) -> None:
    """Call, in a child, an initializer that another process has pickled."""
    function, args = serialize.loads(packed)
    function(*args)
