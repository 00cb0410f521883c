"""The Dask engine: the same job queue on a cluster of `dask.distributed`.

    dispatcher ── calls ──> Dask scheduler ──> Dask worker: task ──> runner ──> child process
               <─ answers ─               <──                   <──
               ── lessons, kills ───────────────────────────────> runner

Each job is a task of Dask's, bound to one Dask worker, whose *runner* (`_runner`) runs it in a
child process. The job queue decides which runs next; the cluster gets what may run now, as many
jobs as the workers have threads, and of jobs that are short by measure a few more, so that no
worker waits for the way to and fro.

Invariants:
- A task is for one runner: no other worker, and no later process of the same address, runs it. So
  Dask's own reruns after the death of a worker come to nothing, and what becomes of its jobs is for
  the job queue to decide.
- What a call needs (its function, definitions, shared values) has arrived before it is sent.
- A runner lives as long as its task's result, which Dask drops when this program is gone.

All of `_DaskEngine` but `prepare` and `wake` is for one thread. What Dask's threads have to say
goes into its inbox as something to call. This is the only module that knows distributed.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import itertools
import logging
import pickle
import socket
import sys
import threading
import uuid
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any

from .. import serialize, workers
from ..errors import WorkerDied
from ..sharing import Shares
from . import _calls
from ._functions import UNKNOWN_S, Definitions, Functions
from ._runner import Answer, Call, Lesson, Runner, Setup
from ._worker import rebuild_record
from .base import (
    ALL,
    CHUNK_S,
    DIED,
    DONE,
    FAILED,
    LOGGED,
    NOT_STARTED,
    RETURNED,
    Engine,
    EngineFactory,
    Report,
    Settings,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from ..jobs.job import Job

logger = logging.getLogger("qmill")

AHEAD_S = 2.5 * CHUNK_S
"""Jobs are sent ahead to a worker whose threads have no more to do than this each, by measure.

To a cluster and back it takes some 10 ms, so that is several times as long.
"""

LEAST_S = 0.005
"""What a job is taken to cost at least: Dask needs some milliseconds for each."""

LONG_S = 0.25
"""What was sent ahead is taken back from a worker that has answered nothing for so long."""

INLINE_BYTES = 1 << 20
"""Larger jobs go to the worker directly: Dask would keep them in its scheduler."""


# -- what users name ---------------------------------------------------------------------------


class Dask(EngineFactory):
    """A Dask cluster as the engine of job queues: `JobQueue(engine=qmill.engines.Dask(...))`.

    Args:
        client_or_address: The scheduler's address, such as "tcp://10.0.0.1:8786"; or a
            `distributed.Client` that is connected to it; or None, which starts a cluster in this
            process, with as many threads as the first queue has workers.

    The connection is made for the first queue and closed with the last; a `with` block keeps it
    open between queues. Workers need the same versions of Python and qmill.

    Raises:
        TypeError: It is none of these.
        ImportError: distributed is not installed: `pip install 'qmill[dask]'`.

    From the queue that it is given to:
        OSError: The scheduler cannot be reached.
        NotSupported: The queue is given a start method.
        SerializationError: The initializer or its arguments cannot be sent.
    """

    def __init__(self, client_or_address: Any = None) -> None:
        distributed = _import_distributed()
        if isinstance(client_or_address, distributed.Client):
            self._where = client_or_address.scheduler.address
            self._security = client_or_address.security
        elif client_or_address is None or isinstance(client_or_address, str):
            self._where = client_or_address
            self._security = None
        else:
            raise TypeError(
                "Dask takes a scheduler's address, a distributed.Client or None; got "
                f"{type(client_or_address).__name__} {client_or_address!r}"
            )
        self._lock = threading.RLock()
        self._connection: _Connection | None = None
        self._num_users = 0

    def __repr__(self) -> str:
        return f"qmill.engines.Dask({'' if self._where is None else repr(self._where)})"

    def make(self, settings: Settings) -> Engine:
        """Make the engine of one queue; see `EngineFactory`."""
        connection = self._acquire(settings.max_workers)
        try:
            return _DaskEngine(settings, connection, self._release)
        except BaseException:
            self._release()
            raise

    def __enter__(self) -> Dask:
        self._acquire(ALL)
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def _acquire(self, max_workers: int) -> _Connection:
        with self._lock:
            if self._connection is None:
                num_threads = workers.NUM_CPUS if max_workers == ALL else max_workers
                self._connection = _Connection(self._where, self._security, num_threads)
            self._num_users += 1
            return self._connection

    def _release(self) -> None:
        with self._lock:
            self._num_users -= 1
            if self._num_users == 0 and self._connection is not None:
                self._connection.close()
                self._connection = None


def _import_distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise ImportError(
            "engines.Dask needs distributed, which is not installed: pip install 'qmill[dask]'"
        ) from error
    return distributed


# -- the connection ----------------------------------------------------------------------------


class _Connection:
    """A client of a scheduler, for all queues of one `Dask`, and what it tells of workers.

    Attributes:
        client: The `distributed.Client`.
        lost: Why the scheduler cannot be reached any more, or None.
    """

    def __init__(self, where: str | None, security: Any, num_threads: int) -> None:
        distributed = _import_distributed()
        self._cluster: Any = None
        if where is None:
            # In this process, as all work is done in children: so no `__main__` is imported.
            self._cluster = distributed.LocalCluster(
                n_workers=1,
                threads_per_worker=num_threads,
                processes=False,
                memory_limit=0,
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address="127.0.0.1:0",
            )
        else:
            _check_answers(where, security)
        target = where if where is not None else self._cluster
        self.client = distributed.Client(target, security=security, set_as_default=False)
        self.lost: ConnectionError | None = None
        self._where = self.client.scheduler.address
        self._lock = threading.RLock()
        self._engines: list[_DaskEngine] = []
        self._threads: dict[str, int] = {}
        self.client.subscribe_topic("all", self._take_event)
        for address, threads in self.client.nthreads().items():
            self._join(address, threads)
        self._alive = distributed.Event(f"qmill-{uuid.uuid4().hex}", client=self.client)
        self.call(self._watch())

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the client's event loop; returns a concurrent future."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.client.loop.asyncio_loop)

    def add(self, engine: _DaskEngine) -> None:
        """Tell an engine of the workers that there are, and of changes from now on."""
        with self._lock:
            self._engines.append(engine)
            for address, threads in self._threads.items():
                engine.tell(partial(engine.join, address, threads))

    def remove(self, engine: _DaskEngine) -> None:
        """Tell an engine no more."""
        with self._lock:
            self._engines.remove(engine)

    def _take_event(self, event: tuple[float, Any]) -> None:
        message = event[1]
        action = message.get("action") if isinstance(message, dict) else None
        if action == "remove-worker":
            self._leave(message["worker"])
        elif action == "add-worker":
            self.call(self._look_at(message["worker"]))

    async def _look_at(self, address: str) -> None:
        found = await self.client.nthreads(workers=[address], asynchronous=True)
        if found.get(address):
            self._join(address, found[address])

    def _join(self, address: str, threads: int) -> None:
        with self._lock:
            self._threads[address] = threads
            for engine in self._engines:
                engine.tell(partial(engine.join, address, threads))

    def _leave(self, address: str) -> None:
        with self._lock:
            self._threads.pop(address, None)
            for engine in self._engines:
                engine.tell(partial(engine.leave, address))

    async def _watch(self) -> None:
        """Wait for what does not come before `close`: if the scheduler goes, it is an error."""
        try:
            await self._alive.wait()
        except OSError:  # CommClosedError is one
            self.lost = ConnectionError(f"the Dask scheduler at {self._where} is gone")
            for address in list(self._threads):
                self._leave(address)

    def close(self) -> None:
        """Close the client, and the cluster if it is ours."""
        if self.lost is None:
            self.client.unsubscribe_topic("all")
            self._alive.set()
        self.client.close()
        if self._cluster is not None:
            self._cluster.close()


def _check_answers(where: str, security: Any) -> None:
    """Raise OSError if there is nobody: a client would leave a thread behind that nobody ends."""
    distributed = _import_distributed()
    security = security if security is not None else distributed.Security()

    async def connect() -> None:
        comm = await distributed.comm.connect(where, **security.get_connection_args("client"))
        await comm.close()

    try:
        distributed.utils.LoopRunner().run_sync(connect)
    except OSError as error:
        raise OSError(f"no Dask scheduler answers at {where}: {error}") from error


# -- the engine --------------------------------------------------------------------------------

_CLOSED, _OPENING, _OPEN, _CLOSING, _BAD = range(5)


class _Sent:
    """A job that a node was given; `future` is Dask's, None before it is sent."""

    __slots__ = ("cost_s", "future", "is_taken_back", "job", "token")

    def __init__(self, job: Job, token: int, cost_s: float) -> None:
        self.job = job
        self.token = token
        self.cost_s = cost_s
        self.future: Any = None
        self.is_taken_back = False


class _Node:
    """What the engine knows of one Dask worker.

    Attributes:
        state: _CLOSED (it has no runner), _OPENING, _OPEN, _CLOSING, or _BAD (it cannot have one).
        runner: Its runner's name; each has another one.
        presence: The future that keeps the runner.
        sent: What it was given and has not answered, by token.
        parked: Those of these that wait for a lesson to arrive.
        num_lessons: How many lessons are under way.
        cost_s: How long `sent` will take, by measure.
        since_s: When it was given its first job or gave its last answer.
        functions, shares: What its runner knows; so many definitions, too.
        error: Why it is _BAD.
    """

    def __init__(self, address: str, threads: int) -> None:
        self.address = address
        self.threads = threads
        self.answers = _Answers()
        self.forget()

    def forget(self) -> None:
        """Begin anew: there is no runner."""
        self.state = _CLOSED
        self.runner = ""
        self.presence: Any = None
        self.sent: dict[int, _Sent] = {}
        self.parked: list[_Sent] = []
        self.num_lessons = 0
        self.cost_s = 0.0
        self.since_s = 0.0
        self.functions: set[int] = set()
        self.shares: set[int] = set()
        self.num_definitions = 0
        self.num_shares = 0
        self.error: BaseException | None = None
        self.answers = _Answers()


class _Answers:
    """The futures of one node that are done and whose values are being fetched, in their order."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.done: list[tuple[Any, Callable[[Any], None]]] = []
        self.is_fetching = False


class _DaskEngine(Engine):
    """Runs the jobs of one queue on a Dask cluster.

    Args:
        settings: As for all engines.
        connection: To the scheduler.
        release: Called when the connection is not needed any more.
    """

    can_kill = True
    keeps_time = True

    def __init__(
        self, settings: Settings, connection: _Connection, release: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._client = connection.client
        self._release = release
        self._limit = settings.max_workers
        self._session = uuid.uuid4().hex
        self._functions = Functions(inherit=False)
        self._exports = serialize.Exports()
        self._imports = Definitions()
        self._shares = Shares(is_remote=True)
        self._setup = self._make_setup(settings)
        self._nodes: dict[str, _Node] = {}
        self._hosts: dict[str, str] = {}
        self._where: dict[int, tuple[_Node, _Sent]] = {}  # jobs, by id
        self._accepted: list[tuple[_Node, _Sent]] = []
        self._tokens = itertools.count(1)
        self._reports: list[Report] = []
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._has_warned = False
        self._client.subscribe_topic(self._log_topic, self._take_log)
        connection.add(self)
        self.wait(0)  # so that it knows of the workers there are

    def _make_setup(self, settings: Settings) -> Setup:
        packed = None
        if settings.initializer is not None:
            call = settings.initializer, settings.initargs
            serialize.destination.is_remote = True
            try:
                packed = serialize.dumps(call, serialize.InlineExports())
            finally:
                serialize.destination.is_remote = False
        return Setup(packed, settings.max_jobs_per_worker, settings.max_memory_per_worker)

    @property
    def _log_topic(self) -> str:
        return f"qmill-{self._session}"

    # -- preparing and offering ----------------------------------------------------------------

    def prepare(self, job: Job) -> None:
        """Pack the arguments, and the function if it is new; see `Engine`."""
        with self._shares.collecting():
            _calls.pack(job, self._functions, self._exports)

    def mean_of(self, function: Callable[..., Any]) -> float | None:
        """Return how long calls of a function take here; see `Engine`."""
        subject = self._functions.known(function)
        return None if subject is None else subject.mean_s

    def offer(self, job: Job) -> bool:
        """Give a job to the node with the most room, or behind short ones; see `Engine`."""
        subject = job._subject
        cost = UNKNOWN_S if subject is None else max(LEAST_S, subject.cost_s * job.num_calls)
        node = self._find_free()
        if node is None:
            if not job._may_wait or cost > AHEAD_S:
                return False
            node = self._find_taker(cost, subject.number)
            if node is None:
                return False
        if not node.sent:
            node.since_s = monotonic()
        sent = _Sent(job, next(self._tokens), cost)
        node.sent[sent.token] = sent
        node.cost_s += cost
        self._where[job.id] = node, sent
        self._accepted.append((node, sent))
        return True

    def _find_free(self) -> _Node | None:
        """Find the node with the smallest share of busy threads, if a job may run on one."""
        best, least, num_busy = None, 1.0, 0
        for node in self._nodes.values():
            number = len(node.sent)
            num_busy += min(number, node.threads)
            if node.state == _OPEN and number < least * node.threads:
                best, least = node, number / node.threads
        return best if num_busy < self._limit else None

    def _find_taker(self, cost: float, function: int) -> _Node | None:
        """Find a node on which another job may wait behind short ones."""
        for node in self._nodes.values():
            if (
                node.state == _OPEN
                and len(node.sent) >= node.threads
                and node.cost_s + cost <= AHEAD_S * node.threads
                and not node.num_lessons
                and function in node.functions
                and self._knows_rest(node)
            ):
                return node
        return None

    def _knows_rest(self, node: _Node) -> bool:
        return (
            node.num_definitions == len(self._exports.pending)
            and node.num_shares == self._shares.num_added
        )

    def flush(self) -> None:
        """Send the jobs that were accepted, or what they need first; see `Engine`."""
        accepted, self._accepted = self._accepted, []
        for node, sent in accepted:
            if sent.token not in node.sent:  # the node has left
                continue
            lesson = self._lesson_for(node, sent)
            if lesson is not None:
                node.num_lessons += 1
                self._run_on(node, self._has_learnt, _learn, lesson)
            if node.num_lessons:
                node.parked.append(sent)
            else:
                self._send(node, sent)

    def _lesson_for(self, node: _Node, sent: _Sent) -> Lesson | None:
        """Return what a node has to know before a job, and may forget; None if there is nothing."""
        subject, packet = sent.job._subject, sent.job._packet
        functions: dict[int, Any] = {}
        if subject is not None and subject.number not in node.functions:
            functions[subject.number] = subject.packed
        definitions: dict[bytes, Any] = {}
        shares: dict[int, Any] = {}
        if not self._knows_rest(node):
            pending = list(self._exports.pending.items())
            definitions.update(pending[node.num_definitions :])
            node.num_definitions = len(pending)
            node.num_shares = self._shares.num_added
            shares = {
                s.key: pickle.PickleBuffer(s.packed()) for s in self._shares.new_for(node.shares)
            }
        large = {sent.token: packet} if _size(packet) > INLINE_BYTES else {}
        gone_functions = self._functions.gone_of(node.functions)
        gone_shares = self._shares.gone_of(node.shares)
        node.functions.update(functions)
        node.functions.difference_update(gone_functions)
        node.shares.update(shares)
        node.shares.difference_update(gone_shares)
        lesson = Lesson(functions, definitions, shares, large, gone_functions, gone_shares)
        return lesson if any(lesson) else None

    def _has_learnt(self, node: _Node, _: Any, error: BaseException | None) -> None:
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

    def _send(self, node: _Node, sent: _Sent) -> None:
        job = sent.job
        options, subject = job._options, job._subject
        packet = job._packet if _size(job._packet) <= INLINE_BYTES else None
        call = Call(
            sent.token,
            job.id,
            options.name,
            0 if subject is None else subject.number,
            packet,
            job.is_chunk,
            options.timeout,
            next(iter(node.sent)),
        )
        try:
            sent.future = self._submit(node, _run, sent.token, node.runner, pickle.dumps(call, 5))
        except Exception as error:  # the client has been closed
            self._drop(node, sent)
            self._reports.append(Report(FAILED, job, error, exitcode=1))
            return
        self._follow(node, sent.future, partial(self._take_answer, node, sent))

    # -- Dask ----------------------------------------------------------------------------------

    def _submit(self, node: _Node, function: Callable[..., Any], key: Any, *args: Any) -> Any:
        """Have a node run a task, and no other."""
        return self._client.submit(
            function,
            self._session,
            node.address,
            *args,
            key=f"qmill-{self._session}-{key}",
            workers=[node.address],
            allow_other_workers=False,
            retries=0,
            pure=False,
            fifo_timeout=0,  # first come, first served, also among those of one moment
        )

    def _run_on(
        self,
        node: _Node,
        take: Callable[[_Node, Any, BaseException | None], None],
        function: Callable[..., Any],
        *args: Any,
    ) -> None:
        """Have a node's runner do something beside its tasks.

        Args:
            node: The node.
            take: Called by the dispatcher with the node, the reply and the exception instead of
                it, unless the runner is gone by then.
            function: What is called there.
            *args: Its further arguments.
        """
        address, runner = node.address, node.runner

        async def run() -> None:
            reply, error = None, None
            try:
                replies = await self._client.run(
                    function,
                    self._session,
                    address,
                    runner,
                    *args,
                    workers=[address],
                    asynchronous=True,
                )
                reply = replies[address]
            except Exception as why:
                error = why
            self.tell(partial(tell, reply, error))

        def tell(reply: Any, error: BaseException | None) -> None:
            if node.runner == runner:
                take(node, reply, error)

        self._connection.call(run())

    def _follow(self, node: _Node, future: Any, take: Callable[[Any], None]) -> None:
        """Have the dispatcher take a future's value: an object, or an exception that stands for it.

        Values of one node are taken in the order in which their tasks have ended: one may need what
        an earlier one defines.
        """
        answers = node.answers
        # Not of the engine: the client would keep it alive.
        future.add_done_callback(partial(self._fetch, answers, take))

    def _fetch(self, answers: _Answers, take: Callable[[Any], None], future: Any) -> None:
        """A future is done: fetch its value, and those of others that are done meanwhile."""
        with answers.lock:
            answers.done.append((future, take))
            if not answers.is_fetching:
                answers.is_fetching = True
                self._connection.call(self._fetch_all(answers))

    async def _fetch_all(self, answers: _Answers) -> None:
        while True:
            with answers.lock:
                batch, answers.done = answers.done, []
                if not batch:
                    answers.is_fetching = False
                    return
            values = await self._values_of([future for future, _ in batch])
            for (_, take), value in zip(batch, values, strict=True):
                self.tell(partial(take, value))
            del batch, values, take, value

    async def _values_of(self, futures: list[Any]) -> list[Any]:
        """Return the values of futures that are done; None for one that has been lost."""
        good = {i: future for i, future in enumerate(futures) if future.status == "finished"}
        try:
            values = await self._client.gather(good, errors="skip", asynchronous=True)
            for index, future in enumerate(futures):
                if future.status == "error":
                    values[index] = await future.exception(asynchronous=True)
        except OSError:  # the scheduler is gone
            values = {}
        return [values.get(index) for index in range(len(futures))]

    # -- nodes ---------------------------------------------------------------------------------

    def join(self, address: str, threads: int) -> None:
        """A Dask worker is there."""
        node = self._nodes.get(address)
        if node is None:
            self._nodes[address] = _Node(address, threads)

    def leave(self, address: str) -> None:
        """A Dask worker is not there any more: what it had has died."""
        node = self._nodes.pop(address, None)
        if node is None:
            return
        logger.debug("the cluster's worker %s has left, with %d jobs", address, len(node.sent))
        now = monotonic()
        for sent in list(node.sent.values()):
            self._drop(node, sent)
            if sent.future is None:
                self._reports.append(Report(RETURNED, sent.job))
                continue
            sent.future.release()  # else Dask might wait for its result for ever
            death = WorkerDied(None, None, None, sent.job.name, None, address)
            started = sent.job._started or now
            self._reports.append(Report(DIED, sent.job, death, started, now, None, address))
        node.forget()

    def grow(self, num_waiting: int) -> None:
        """Have runners on all nodes; see `Engine`."""
        states = {node.state for node in self._nodes.values()}
        if self._connection.lost is not None:
            self._reports.append(Report(NOT_STARTED, None, self._connection.lost))
        elif states == {_BAD}:
            error = next(iter(self._nodes.values())).error
            self._reports.append(Report(NOT_STARTED, None, error))
        elif not states and not self._has_warned:
            self._has_warned = True
            logger.warning("jobs wait for a worker: the Dask cluster has none yet")
        for node in self._nodes.values():
            if node.state == _CLOSED:
                self._open(node)

    def _open(self, node: _Node) -> None:
        node.state = _OPENING
        node.runner = uuid.uuid4().hex
        setup = pickle.dumps((_versions(), self._setup), 5)
        try:
            key = f"runner-{node.runner}"
            node.presence = self._submit(node, _open, key, node.runner, node.threads, setup)
        except Exception as error:
            node.state, node.error = _BAD, error
            return
        self._follow(node, node.presence, partial(self._has_opened, node, node.runner))

    def _has_opened(self, node: _Node, runner: str, value: Any) -> None:
        if node.runner != runner or node.state != _OPENING:
            return
        if isinstance(value, str):
            node.state = _OPEN
            self._hosts[node.address] = value
            return
        node.state = _BAD
        node.error = error = RuntimeError(
            f"the Dask worker {node.address} cannot run jobs: {value}"
        )
        error.__cause__ = value if isinstance(value, BaseException) else None
        logger.warning("%s", error)

    @property
    def max_workers(self) -> int:  # type: ignore[override]
        """How many jobs run at a time: as many as the cluster has threads, up to the limit."""
        return min(self._limit, sum(node.threads for node in list(self._nodes.values())))

    @property
    def num_workers(self) -> int:
        """How many nodes have a runner, or are about to."""
        return sum(node.state in (_OPENING, _OPEN, _CLOSING) for node in list(self._nodes.values()))

    @property
    def num_startable(self) -> int:
        """How many nodes have no runner yet."""
        return sum(node.state == _CLOSED for node in self._nodes.values())

    @property
    def num_ahead(self) -> int:
        """How many jobs wait in nodes behind others."""
        return sum(max(0, len(n.sent) - n.threads) for n in list(self._nodes.values()))

    def resize(self, max_workers: int) -> None:
        """Change how many jobs run at a time; see `Engine`."""
        self._limit = max_workers

    def stop_workers(self) -> None:
        """End the runners that have no jobs; see `Engine`."""
        for node in self._nodes.values():
            if node.state == _OPENING:
                node.forget()  # without its future it does not start, or ends
            elif node.state == _OPEN and not node.sent:
                node.state = _CLOSING
                self._run_on(node, self._has_closed, _close)

    def _has_closed(self, node: _Node, _: Any, error: BaseException | None) -> None:
        if error is None:
            node.forget()
        else:  # it is gone, or there is no way to it
            self._nodes.pop(node.address, None)

    def host_of(self, worker: str | None) -> str | None:
        """Return the name of the machine that a worker runs on; see `Engine`."""
        if worker is None:
            return None
        return self._hosts.get(worker) or self._hosts.get(worker.rpartition("-")[0])

    # -- waiting -------------------------------------------------------------------------------

    def tell(self, what: Callable[[], None]) -> None:
        """Have the dispatcher call something; any thread may call this."""
        self._inbox.put(what)

    def wait(self, timeout: float | None) -> list[Report]:
        """Wait for what Dask tells; see `Engine`."""
        if not self._reports:
            due = min(map(_long_from, self._nodes.values()), default=None)
            if due is not None and due < _NEVER:
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
                if _long_from(node) <= now:
                    self._take_back(node)
        reports, self._reports = self._reports, []
        return reports

    def wake(self) -> None:
        """End the wait of the dispatcher; see `Engine`."""
        self._inbox.put(_do_nothing)

    def _take_log(self, event: tuple[float, Any]) -> None:
        self.tell(partial(self._take_record, event[1]))

    def _take_record(self, packed: bytes) -> None:
        self._reports.append(Report(LOGGED, None, rebuild_record(packed)))

    def _take_answer(self, node: _Node, sent: _Sent, value: Any) -> None:
        if node.sent.get(sent.token) is not sent:
            return
        self._drop(node, sent)
        node.since_s = now = monotonic()
        job = sent.job
        if not isinstance(value, Answer):
            self._take_no_answer(node, job, value)
            return
        for definition in value.definitions:
            self._imports.add(definition)
        if value.what == RETURNED:
            self._reports.append(Report(RETURNED, job))
            return
        ended = now - value.age_s
        moments = ended - value.taken_s, ended
        what, code, result = value.what, value.exitcode, value.value
        if value.kind:
            what, _, result = _calls.rebuild(value.kind, result, job.is_chunk, self._imports)
            what = value.what if value.what not in (DONE, FAILED) else what
            code = int(what != DONE)
        self._reports.append(Report(what, job, result, *moments, code, value.worker))
        if job._subject is not None and value.what in (DONE, FAILED):
            job._subject.measure(value.taken_s / job.num_calls)

    def _take_no_answer(self, node: _Node, job: Job, value: Any) -> None:
        """Dask has not run a task, or could not say what became of it."""
        now = monotonic()
        started = job._started or now
        if isinstance(value, BaseException) and type(value).__name__ != "KilledWorker":
            self._reports.append(Report(FAILED, job, value, started, now, 1, node.address))
        else:
            death = WorkerDied(None, None, None, job.name, None, node.address)
            self._reports.append(Report(DIED, job, death, started, now, None, node.address))

    def _drop(self, node: _Node, sent: _Sent) -> None:
        """A node does not have a job any more."""
        del node.sent[sent.token]
        self._where.pop(sent.job.id, None)
        node.cost_s = max(0.0, node.cost_s - sent.cost_s) if node.sent else 0.0

    # -- taking back and killing ---------------------------------------------------------------

    def _take_back(self, node: _Node) -> None:
        """Take back the jobs that a node's children have not begun; they come back as RETURNED."""
        tokens = []
        for sent in list(node.sent.values()):
            if sent in node.parked:
                self._return_parked(node, sent)
            elif sent.future is not None and not sent.is_taken_back:
                sent.is_taken_back = True
                tokens.append(sent.token)
        node.cost_s = UNKNOWN_S  # until it is known to be quick again
        if tokens:
            self._run_on(node, self._has_revoked, _revoke, tokens)

    def _has_revoked(self, node: _Node, tokens: Any, _: BaseException | None) -> None:
        for token in tokens or ():
            if (sent := node.sent.get(token)) is not None:
                self._drop(node, sent)
                self._reports.append(Report(RETURNED, sent.job))

    def _return_parked(self, node: _Node, sent: _Sent) -> None:
        node.parked.remove(sent)
        self._drop(node, sent)
        self._reports.append(Report(RETURNED, sent.job))

    def recall(self) -> None:
        """Take back what no child has begun; see `Engine`."""
        for node in self._nodes.values():
            for sent in node.sent.values():
                sent.is_taken_back = False
            self._take_back(node)

    def kill(self, job: Job) -> None:
        """Begin to kill a job, if it is still here; see `Engine`."""
        if job.id not in self._where:
            return
        node, sent = self._where[job.id]
        if sent in node.parked:
            self._return_parked(node, sent)
        else:
            self._run_on(node, self._has_revoked, _kill, sent.token)

    # -- the end -------------------------------------------------------------------------------

    def close(self) -> None:
        """Leave the cluster; see `Engine`."""
        self._connection.remove(self)
        for node in self._nodes.values():
            node.forget()
        if self._connection.lost is None:
            self._client.unsubscribe_topic(self._log_topic)
        self._release()


_NEVER = float("inf")


def _do_nothing() -> None:
    pass


def _size(packet: Any) -> int:
    return len(packet[1]) if type(packet) is tuple else len(packet)


def _long_from(node: _Node) -> float:
    """Return the moment from which what waits behind a node's running jobs waits too long."""
    if len(node.sent) <= node.threads or all(s.is_taken_back for s in node.sent.values()):
        return _NEVER
    return node.since_s + LONG_S


def _versions() -> tuple[str, tuple[int, int]]:
    return importlib.metadata.version("qmill"), sys.version_info[:2]


# -- what runs on a Dask worker ----------------------------------------------------------------

_runners: dict[tuple[str, str], tuple[str, Runner]] = {}  # by session and worker's address
_ending: set[Any] = set()


def _find(session: str, address: str, name: str) -> Runner | None:
    found, runner = _runners.get((session, address), (None, None))
    return runner if found == name else None


async def _open(session: str, address: str, name: str, threads: int, packed: bytes) -> str:
    """Have a runner on this worker, a task; returns the name of the machine."""
    theirs, setup = pickle.loads(packed)
    if theirs != _versions():
        ours = _versions()
        raise RuntimeError(
            f"it has qmill {ours[0]} and Python {'.'.join(map(str, ours[1]))}, and the program "
            f"that puts the jobs qmill {theirs[0]} and Python {'.'.join(map(str, theirs[1]))}"
        )
    worker = _import_distributed().get_worker()
    log = partial(worker.log_event, f"qmill-{session}")
    runner = Runner(address, threads, setup, log)
    _runners[session, address] = name, runner
    await worker.plugin_add(_plugin_class()(session, address, name), name=f"qmill-{name}")
    return socket.gethostname()


@functools.cache
def _plugin_class() -> Any:
    """Make the class on first use: distributed takes a while to import."""

    class RunnerPlugin(_import_distributed().WorkerPlugin):  # type: ignore[misc]
        """Ends a runner with its worker, and with the program that has opened it."""

        def __init__(self, session: str, address: str, name: str) -> None:
            self._prefix = f"qmill-{session}-"
            self._key = f"{self._prefix}runner-{name}"
            self._ids = session, address, name

        async def teardown(self, worker: Any) -> None:
            await _end(*self._ids)

        def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
            """See that nobody wants a task any more: the program has ended without a word."""
            if finish not in ("released", "forgotten") or not isinstance(key, str):
                return
            if key == self._key:
                task = asyncio.get_running_loop().create_task(_end(*self._ids))
                _ending.add(task)  # a loop does not hold its tasks
                task.add_done_callback(_ending.discard)
            elif start == "executing" and key.startswith(self._prefix):
                runner = _find(*self._ids)
                if runner is not None:
                    runner.kill(int(key.removeprefix(self._prefix)))

    return RunnerPlugin


async def _run(session: str, address: str, name: str, packed: bytes) -> Answer:
    """Run a call, a task."""
    runner = _find(session, address, name)
    if runner is None:  # an earlier process of this address had it
        return Answer(DIED, value=WorkerDied(None, None, address=address))
    return await asyncio.wrap_future(runner.run(pickle.loads(packed)))


async def _learn(session: str, address: str, name: str, lesson: Lesson) -> None:
    """Tell a runner what it is to know."""
    if (runner := _find(session, address, name)) is not None:
        runner.learn(lesson)


async def _revoke(session: str, address: str, name: str, tokens: list[int]) -> list[int]:
    """Revoke calls that have not come; returns which."""
    runner = _find(session, address, name)
    return [] if runner is None else runner.revoke(tokens)


async def _kill(session: str, address: str, name: str, token: int) -> list[int]:
    """Kill a call; returns it if it had not come."""
    runner = _find(session, address, name)
    return [token] if runner is not None and runner.kill(token) else []


async def _close(session: str, address: str, name: str, dask_worker: Any) -> None:
    """End a runner, by removing what would end it later."""
    if f"qmill-{name}" in dask_worker.plugins:
        await dask_worker.plugin_remove(f"qmill-{name}")


async def _end(session: str, address: str, name: str) -> None:
    runner = _find(session, address, name)
    if runner is not None:
        await asyncio.wrap_future(runner.close())
        _runners.pop((session, address), None)
