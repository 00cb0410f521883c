"""The Dask engine: the same job queue on a cluster of `dask.distributed`.

    dispatcher ── calls ──> Dask scheduler ──> Dask worker: task ──> runner ──> child process
               <─ answers ─               <──                   <──
               ── lessons, kills ───────────────────────────────> runner

Each job is a task of Dask's, bound to one Dask worker, whose *runner* (`runner`) runs it in a
child process. The job queue decides which job runs next. The cluster only gets jobs that may run
now: as many as the workers have threads, and a few more if they are short by measurement, so that
no worker waits for a round trip.

Invariants:
- A task is for one runner: no other worker, and no later process of the same address, runs it. So
  Dask's own reruns after the death of a worker have no effect, and the job queue decides whether a
  job is retried.
- The function, definitions and shared values of a call arrive before the call is sent.
- A runner lives as long as its task's result, which Dask releases when this program is gone.

Only one thread may use a `DaskEngine`, except `prepare` and `wake`. Dask's threads put functions
into its inbox, which that thread calls. `client` is the only module that imports distributed.
"""

from __future__ import annotations

import itertools
import logging
import pickle
import uuid
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any

from ...errors import WorkerDied
from ...packing import definitions, serialize
from ..ahead import NEVER, cost_of
from ..api import (
    CHUNK_S,
    DIED,
    DONE,
    FAILED,
    LOGGED,
    NOT_STARTED,
    RETURNED,
    SOME,
    Report,
    Settings,
    lost,
)
from ..codec import Codec, PackingEngine
from . import on_worker as there
from .nodes import Node, Sent, State, long_from
from .runner import Call, Packed, Setup
from .tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...jobs.job import Job
    from .client import Connection

logger = logging.getLogger("qmill")

AHEAD_S = 2.5 * CHUNK_S
"""Seconds of work for each thread, by measurement, up to which jobs are sent ahead to a worker.

A round trip to a cluster takes about 10 ms, so this is several times as long.
"""

LEAST_S = 0.005
"""The least assumed cost of a job: Dask needs some milliseconds for each."""

INLINE_BYTES = 1 << 20
"""Larger jobs are sent to the worker directly: Dask would keep them in its scheduler."""


class DaskEngine(PackingEngine):
    """Runs the jobs of one queue on a Dask cluster.

    Args:
        settings: As for all engines.
        connection: The connection to the scheduler.
        release: Called when the connection is not needed any more.
    """

    can_kill = True
    keeps_time = True

    def __init__(
        self, settings: Settings, connection: Connection, release: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._client = connection.client
        self._release = release
        self._limit = settings.max_workers
        self._session = uuid.uuid4().hex
        self._tasks = Tasks(connection, self._session, self.tell)
        self.codec = Codec(definitions.Names.NEVER, is_remote=True)
        self._setup = self._make_setup(settings)
        self._nodes: dict[str, Node] = {}
        self._hosts: dict[str, str] = {}
        self._where: dict[int, tuple[Node, Sent]] = {}  # accepted jobs, by id
        self._accepted: list[tuple[Node, Sent]] = []
        self._tokens = itertools.count(1)
        self._reports: list[Report] = []
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._has_warned = False
        self._is_patient = True  # whether runners may wait for threads of jobs
        self._client.subscribe_topic(self._log_topic, self._take_log)
        connection.add(self)
        self.wait(0)  # so that the nodes of the current workers are there

    def _make_setup(self, settings: Settings) -> Setup:
        packed = None
        if settings.initializer is not None:
            call = settings.initializer, settings.initargs
            serialize.destination.is_remote = True
            try:
                packed = serialize.dumps(call, serialize.InlineExports(definitions.Names.NEVER))
            finally:
                serialize.destination.is_remote = False
        return Setup(
            packed,
            settings.max_jobs_per_worker,
            settings.max_memory_per_worker,
            self.codec.has_codec,
        )

    @property
    def _log_topic(self) -> str:
        return f"qmill-{self._session}"

    # -- offering ------------------------------------------------------------------------------

    def offer(self, job: Job) -> bool:
        """Give a job to the node with the most room, or behind short jobs; see `Engine`."""
        cost = cost_of(job, LEAST_S)
        node = self._find_free()
        if node is None:
            if not job._may_wait or cost > AHEAD_S:
                return False
            node = self._find_taker(cost, job)
            if node is None:
                return False
        if not node.jobs:
            node.since_s = monotonic()
        sent = Sent(job, next(self._tokens), cost)
        node.give(sent.token, sent, cost)
        self._where[job.id] = node, sent
        self._accepted.append((node, sent))
        return True

    def _find_free(self) -> Node | None:
        """Return the node with the smallest share of busy threads; None if a job may not run."""
        best, least, num_busy = None, 1.0, 0
        for node in self._nodes.values():
            number = len(node.jobs)
            num_busy += min(number, node.num_slots)
            if node.state is State.OPEN and number < least * node.num_slots:
                best, least = node, number / node.num_slots
        return best if num_busy < self._limit else None

    def _find_taker(self, cost: float, job: Job) -> Node | None:
        """Return a node on which a job may wait behind short jobs, or None."""
        for node in self._nodes.values():
            if (
                node.state is State.OPEN
                and len(node.jobs) >= node.num_slots
                and not node.num_lessons
                and node.has_room_for(job, cost, AHEAD_S)
            ):
                return node
        return None

    def flush(self) -> None:
        """Send the accepted jobs, each after the definitions that it needs; see `Engine`."""
        accepted, self._accepted = self._accepted, []
        for node, sent in accepted:
            if sent.token not in node.jobs:  # the node has left the cluster
                continue
            self._teach(node, sent)
            if node.num_lessons:
                node.parked.append(sent)
            else:
                self._send(node, sent)

    def _teach(self, node: Node, sent: Sent) -> None:
        """Send a node the lesson for a job, and the job's packet if that is large."""
        lesson = node.knowledge.lesson_for(sent.job)
        assert lesson is not None  # nothing is inherited here
        large = {sent.token: packet} if _size(packet := sent.job._packet) > INLINE_BYTES else {}
        if large or any(lesson):
            shares = lesson.shares.items()
            packed = {key: pickle.PickleBuffer(s.packed(is_remote=True)) for key, s in shares}
            node.num_lessons += 1
            lesson = lesson._replace(shares=packed)
            self._run_on(node, self._has_learnt, there.learn, lesson, large)

    def _has_learnt(self, node: Node, _: Any, error: BaseException | None) -> None:
        node.num_lessons -= 1
        if node.num_lessons and error is None:
            return
        parked, node.parked = node.parked, []
        for sent in parked:
            if error is None:
                self._send(node, sent)
            else:
                self._drop(node, sent)
                self._reports.append(Report(FAILED, sent.job, error, exitcode=1))

    def _send(self, node: Node, sent: Sent) -> None:
        job = sent.job
        options, subject, environment = job._options, job._subject, job._environment
        packet = job._packet if _size(job._packet) <= INLINE_BYTES else None
        call = Call(
            sent.token,
            job.id,
            options.name,
            0 if subject is None else subject.number,
            [] if environment is None else [e.number for e in (*environment.needs, environment)],
            packet,
            job._is_chunk,
            job._to_do,
            job._version,
            options.timeout,
            next(iter(node.jobs)),
        )
        try:
            sent.future = self._tasks.submit(
                node.address, there.run, sent.token, node.runner, pickle.dumps(call, 5)
            )
        except Exception as error:  # the client is closed
            self._drop(node, sent)
            self._reports.append(Report(FAILED, job, error, exitcode=1))
            return
        self._tasks.follow(node.answers, sent.future, partial(self._take_answer, node, sent))

    def _run_on(
        self,
        node: Node,
        take: Callable[[Node, Any, BaseException | None], None],
        function: Callable[..., Any],
        *args: Any,
    ) -> None:
        """Call a function on a node, outside its tasks.

        Args:
            node: The node.
            take: Called by the dispatcher with the node and either the reply or the exception,
                unless the runner is gone by then.
            function: The function to call on the Dask worker.
            *args: Its further arguments.
        """
        runner = node.runner

        def tell(reply: Any, error: BaseException | None) -> None:
            if node.runner == runner:
                take(node, reply, error)

        self._tasks.run(node.address, tell, function, runner, *args)

    # -- nodes ---------------------------------------------------------------------------------

    def join(self, address: str, threads: int) -> None:
        """Add a Dask worker that has come."""
        node = self._nodes.get(address)
        if node is None:
            self._nodes[address] = Node(address, threads, self.codec)

    def leave(self, address: str) -> None:
        """Remove a Dask worker that has gone, and report its jobs as died."""
        node = self._nodes.pop(address, None)
        if node is None:
            return
        logger.debug("the cluster's worker %s has left, with %d jobs", address, len(node.jobs))
        now = monotonic()
        for sent in list(node.jobs.values()):
            self._drop(node, sent)
            if sent.future is None:
                self._reports.append(Report(RETURNED, sent.job))
                continue
            sent.future.release()  # otherwise Dask might keep waiting for its result
            started = sent.job._started or now
            value = _lost(sent.job, address)
            self._reports.append(Report(DIED, sent.job, value, started, now, None, address))
        node.forget()

    def grow(self, num_waiting: int) -> None:
        """Open a runner on each node that has none; see `Engine`."""
        states = {node.state for node in self._nodes.values()}
        if self._connection.lost is not None:
            self._reports.append(Report(NOT_STARTED, None, self._connection.lost))
        elif states == {State.BAD}:
            error = next(iter(self._nodes.values())).error
            self._reports.append(Report(NOT_STARTED, None, error))
        elif not states and not self._has_warned:
            self._has_warned = True
            logger.warning("jobs wait for a worker: the Dask cluster has none yet")
        for node in self._nodes.values():
            if node.state is State.CLOSED:
                self._open(node)

    def _open(self, node: Node) -> None:
        node.state = State.OPENING
        node.runner = uuid.uuid4().hex
        setup = pickle.dumps((there.versions(), self._setup), 5)
        try:
            key = f"runner-{node.runner}"
            node.presence = self._tasks.submit(
                node.address, there.open_runner, key, node.runner, node.num_slots, setup
            )
        except Exception as error:
            node.state, node.error = State.BAD, error
            return
        self._tasks.follow(
            node.answers, node.presence, partial(self._has_opened, node, node.runner)
        )

    def _has_opened(self, node: Node, runner: str, value: Any) -> None:
        if node.runner != runner or node.state is not State.OPENING:
            return
        if isinstance(value, str):
            node.state = State.OPEN
            self._hosts[node.address] = value
            return
        node.state = State.BAD
        node.error = error = RuntimeError(
            f"the Dask worker {node.address} cannot run jobs: {value}"
        )
        error.__cause__ = value if isinstance(value, BaseException) else None
        logger.warning("%s", error)

    @property
    def max_workers(self) -> int:  # type: ignore[override]
        """The number of jobs that run at a time: the threads of the cluster, up to the limit."""
        return min(self._limit, sum(node.num_slots for node in list(self._nodes.values())))

    @property
    def num_workers(self) -> int:
        """The number of nodes with a runner, or with one that is starting or ending."""
        return sum(
            node.state in (State.OPENING, State.OPEN, State.CLOSING)
            for node in list(self._nodes.values())
        )

    @property
    def num_startable(self) -> int:
        """The number of nodes that have no runner yet."""
        return sum(node.state is State.CLOSED for node in self._nodes.values())

    @property
    def num_ahead(self) -> int:
        """The number of jobs that wait in nodes behind other jobs."""
        return sum(node.num_ahead for node in list(self._nodes.values()))

    def resize(self, max_workers: int) -> None:
        """Change how many jobs run at a time; see `Engine`."""
        self._limit = max_workers

    def stop_workers(self) -> None:
        """End the runners that have no jobs; see `Engine`."""
        for node in self._nodes.values():
            if node.state is State.OPENING:
                node.forget()  # releasing its future keeps the runner from starting, or ends it
            elif node.state is State.OPEN and not node.jobs:
                node.state = State.CLOSING
                self._run_on(node, self._has_closed, there.close, self._is_patient)

    def hurry(self) -> None:
        """Stop waiting for threads of jobs; see `Engine`."""
        self._is_patient = False
        for node in self._nodes.values():
            if node.state is State.CLOSING:
                self._run_on(node, self._has_closed, there.close, False)

    def _has_closed(self, node: Node, _: Any, error: BaseException | None) -> None:
        if error is None:
            node.forget()
        else:  # the node is gone or cannot be reached
            self._nodes.pop(node.address, None)

    def host_of(self, worker: str | None) -> str | None:
        """Return the name of the machine that a worker runs on; see `Engine`."""
        if worker is None:
            return None
        return self._hosts.get(worker) or self._hosts.get(worker.rpartition("-")[0])

    # -- waiting -------------------------------------------------------------------------------

    def tell(self, what: Callable[[], None]) -> None:
        """Have the dispatcher call a function; any thread may call this."""
        self._inbox.put(what)

    def wait(self, timeout: float | None) -> list[Report]:
        """Wait for events from Dask; see `Engine`."""
        if not self._reports:
            due = min(map(long_from, self._nodes.values()), default=None)
            if due is not None and due < NEVER:
                left = max(0.0, due - monotonic())
                timeout = left if timeout is None else min(timeout, left)
            try:
                self._inbox.get(timeout=timeout)()
                while True:
                    self._inbox.get_nowait()()
            except Empty:
                pass
            now = monotonic()
            for node in self._nodes.values():
                if long_from(node) <= now:
                    self._take_back(node)
        reports, self._reports = self._reports, []
        return reports

    def wake(self) -> None:
        """End the wait of the dispatcher; see `Engine`."""
        self._inbox.put(_do_nothing)

    def _take_log(self, event: tuple[float, Any]) -> None:
        self.tell(partial(self._take_record, event[1]))

    def _take_record(self, packed: bytes) -> None:
        self._reports.append(Report(LOGGED, None, self.codec.log_record(packed)))

    def _take_answer(self, node: Node, sent: Sent, value: Any) -> None:
        if node.jobs.get(sent.token) is not sent:
            return
        self._drop(node, sent)
        node.since_s = now = monotonic()
        job = sent.job
        if not isinstance(value, Report):
            self._take_no_answer(node, job, value)
            return
        if value.what is RETURNED:
            self._reports.append(Report(RETURNED, job))
            return
        started_s, ended_s = now + (value.started_s or 0.0), now + (value.ended_s or 0.0)
        report = value._replace(job=job, started_s=started_s, ended_s=ended_s)
        if isinstance(value.value, Packed):
            report = self._rebuild(node, report, job, value.value)
        elif value.what is DIED and job._is_chunk and value.value.pid is None:  # without a runner
            report = report._replace(value=_lost(job, node.address))
        self._reports.append(report)
        if job._subject is not None and value.what in (DONE, FAILED):
            job._subject.pace.measure(ended_s - started_s, job._num_to_do)

    def _rebuild(self, node: Node, report: Report, job: Job, packed: Packed) -> Report:
        """Return a report with its value, which a runner has passed on."""
        for definition in packed.definitions:
            self.codec.define(node.address, definition)
        if packed.what is SOME:
            parts, death = pickle.loads(packed.data)
            return self.codec.chunk(report._replace(value=death), parts)
        moments = report.started_s or 0.0, report.ended_s or 0.0
        answer = self.codec.answer(packed.what, job, packed.data, *moments, report.worker)
        if report.what in (DONE, FAILED):
            return answer
        return report._replace(value=answer.value, exitcode=1)

    def _take_no_answer(self, node: Node, job: Job, value: Any) -> None:
        """Report a job whose task Dask has not run, or whose answer it has lost."""
        now = monotonic()
        started = job._started or now
        if isinstance(value, BaseException) and type(value).__name__ != "KilledWorker":
            error = lost(job._num_to_do, value) if job._is_chunk else value
            self._reports.append(Report(FAILED, job, error, started, now, 1, node.address))
        else:
            death = _lost(job, node.address)
            self._reports.append(Report(DIED, job, death, started, now, None, node.address))

    def _drop(self, node: Node, sent: Sent) -> None:
        """Take a job off a node."""
        del node.jobs[sent.token]
        self._where.pop(sent.job.id, None)
        node.cost_s = max(0.0, node.cost_s - sent.cost_s) if node.jobs else 0.0

    # -- taking back and killing ---------------------------------------------------------------

    def _take_back(self, node: Node) -> None:
        """Take back jobs that a node's children have not begun; they are reported as RETURNED."""
        tokens = []
        for sent in list(node.jobs.values()):
            if sent in node.parked:
                self._return_parked(node, sent)
            elif sent.future is not None and not sent.is_taken_back:
                sent.is_taken_back = True
                tokens.append(sent.token)
        node.doubt()
        if tokens:
            self._run_on(node, self._has_revoked, there.revoke, tokens)

    def _has_revoked(self, node: Node, tokens: Any, _: BaseException | None) -> None:
        for token in tokens or ():
            if (sent := node.jobs.get(token)) is not None:
                self._drop(node, sent)
                self._reports.append(Report(RETURNED, sent.job))

    def _return_parked(self, node: Node, sent: Sent) -> None:
        node.parked.remove(sent)
        self._drop(node, sent)
        self._reports.append(Report(RETURNED, sent.job))

    def recall(self) -> None:
        """Take back the jobs that no child has begun; see `Engine`."""
        for node in self._nodes.values():
            for sent in node.jobs.values():
                sent.is_taken_back = False
            self._take_back(node)

    def kill(self, job: Job) -> None:
        """Begin to kill a job, unless it has ended; see `Engine`."""
        if job.id not in self._where:
            return
        node, sent = self._where[job.id]
        if sent in node.parked:
            self._return_parked(node, sent)
        else:
            self._run_on(node, self._has_revoked, there.kill, sent.token)

    # -- the end -------------------------------------------------------------------------------

    def close(self) -> None:
        """Disconnect from the cluster; see `Engine`."""
        self._connection.remove(self)
        for node in self._nodes.values():
            node.forget()
        if self._connection.lost is None:
            self._client.unsubscribe_topic(self._log_topic)
        self._release()


def _do_nothing() -> None:
    pass


def _lost(job: Job, address: str) -> Any:
    """Return the error, or for a chunk the outcome, of a job whose Dask worker is gone."""
    death = WorkerDied(None, None, None, job.name, None, address)
    return lost(job._num_to_do, death) if job._is_chunk else death


def _size(packet: Any) -> int:
    return len(packet[1]) if type(packet) is tuple else len(packet)
