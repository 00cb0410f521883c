"""The process engine: persistent worker processes, each with one private channel.

    dispatcher ── jobs ────> channel ──> worker 1, its own process group
               <─ results ─
               ── permits ─> permits ──>
               <──────────── sentinel: its end
               the same three for worker 2 ...

A worker gets one job, or several if they are short by measure. It takes a permit for each before it
begins it. The engine keeps a handle of the permits' reading end, so it can take them back: when a
short job turns out to be long, when one is cancelled, when the worker dies. The kernel gives each
permit to one of both. So a job that was sent ahead runs once or not at all, and a death costs the
one job that has no answer and whose permit is taken.

Invariants:
- an answer can come for every job in `worker.jobs`, and for no other;
- a worker is in `_idle` if it is ready, has no jobs, and is to get some;
- nothing here waits for a worker: what its channel does not take is sent when it does.

All of it but `prepare` and `wake` is for one thread.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import pickle
import selectors
import signal
from collections import deque
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from .. import _core, _module_path, _native, _script, processes, serialize, workers
from ..errors import SerializationError, WorkerDied
from ..queues import wire
from ..sharing import Shares
from . import _calls, _kept, _packets as packets, _worker
from ._beside import Copies
from ._functions import UNKNOWN_S, Definitions, Functions
from ._link import GarbledError, Link
from ._trees import GRACE_S, SIGKILL, EndingTrees
from ._wake import WakePipe
from .base import (
    CHUNK_S,
    DIED,
    DONE,
    FAILED,
    LOGGED,
    NOT_STARTED,
    RETURNED,
    Engine,
    Report,
    Settings,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..jobs.job import Job
    from ._functions import Moment

logger = logging.getLogger("qmill")

AHEAD_S = 0.010
"""Jobs are sent ahead to a worker as long as what it has takes no longer than this, by measure.

What has waited there for longer is taken back.
"""

CHUNKS_AHEAD_S = 2.5 * CHUNK_S
"""The same for the chunks of a map: one that runs, one that waits, and the error of the measure."""

TINY_S = 0.0001
"""A job that takes less time than this is quicker to run than to give to another worker."""

AHEAD_JOBS = 64
"""The most jobs that one worker has at a time."""

START_DEATHS = 3
"""So many workers in a row have to die before they are ready for one job to fail."""

EXIT_GRACE_S = 10.0
"""Seconds that a worker has to leave by itself when it is told to, if it waits for no threads."""

MAX_LINGERING = 16
"""So many workers may wait for the threads of their jobs, or as many as work if that is more; of
the others each takes the place of one that works."""

processes.PRELOADED.append("qmill.engines._worker")

_NEVER = float("inf")
_new_tuple: Any = tuple.__new__  # a fifth of the time of calling a NamedTuple


class _Worker:
    """The engine's view of one worker.

    Attributes:
        link: The process, and what goes to it and comes from it.
        jobs: What it was given and has not answered, by id, in the order in which it was sent.
        parts: What has come of the results of a chunk of these.
        unsent: The last of these, which `flush` is to send.
        num_given: How many jobs it had in its life.
        cost_s: How long its jobs will take, by measure.
        since_s: When it was given its first job or gave its last answer.
        takes_more: Whether it is in the engine's `_takers`.
        leaving: It gets no more jobs.
        told_to_leave: It has none, and knows that it is to end.
        lingers: It has no more to do, and waits for threads that its jobs have left.
        kill_at_s: When it is to be killed; None if it is not.
        error: Why it cannot go on, or could not begin.
        is_writing: Whether the engine waits for its channel to take more.
        is_mute: Its channel is not watched any more.
        is_cut: And not read, as a part of what it has sent is lost.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.name = link.name
        self.jobs: dict[int, Job] = {}
        self.parts: dict[int, list[_kept.Part]] = {}
        self.unsent: list[Job] = []
        self.num_given = 0
        self.cost_s = 0.0
        self.since_s = 0.0
        self.ready = False
        self.takes_more = False
        self.leaving = False
        self.told_to_leave = False
        self.lingers = False
        self.has_ended = False
        self.is_writing = False
        self.is_mute = False
        self.is_cut = False
        self.kill_at_s: float | None = None
        self.error: BaseException | None = None


class _Inherited(bytes):
    """The message of a job that a fork hands on; the call lives as long as it."""

    call: partial[Any]


class ProcessEngine(Engine):
    """Runs jobs in persistent worker processes.

    Args:
        settings: As for all engines.
        start_method: How workers start; None for the one in force.

    Attributes:
        hands_on: Whether a job that cannot be packed is inherited by a worker that is forked for
            it, under start_method="fork"; else it fails.
    """

    can_kill = True
    hands_on = True
    _is_remote = False  # whether the jobs are those of a program elsewhere
    has_codec = _kept.HAS_CODEC

    def __init__(self, settings: Settings, start_method: str | None = None) -> None:
        self._settings = settings
        self._method = processes.usable_start_method(start_method)
        is_fork = self._method == "fork"
        # These import modules, here and not in the dispatcher: a fork by another thread meanwhile
        # would leave them locked in the child for ever.
        _core.why_not()
        if not is_fork:
            _script.importable()
        names = serialize.Names.FORKED if is_fork else serialize.Names.INSTEAD
        self._exports = serialize.Exports(names, apart=True)
        self._functions = Functions(
            self._exports,
            by_name=not is_fork,
            inherit=is_fork,
            always=settings.max_jobs_per_worker == 1,
        )
        self._copies = Copies()
        self._imports = Definitions()
        self._rebuilder = _kept.Rebuilder(self._imports)
        self._shares = Shares()
        self.max_workers = settings.max_workers
        self._workers: list[_Worker] = []
        self._idle: list[_Worker] = []
        self._takers: deque[_Worker] = deque()  # those that may be sent more ahead
        self._to_flush: list[_Worker] = []
        self._reports: list[Report] = []
        self._num_start_deaths = 0  # since a worker was ready
        self._is_patient = True  # with workers that linger
        self._numbers = itertools.count(1)
        with wire.fork_lock:
            self._selector = _native.default_selector()
            self._trees = EndingTrees(self._selector)
            self._wake_pipe = WakePipe()
        self._selector.register(self._wake_pipe, selectors.EVENT_READ, self._wake_pipe.clear)

    # -- preparing -----------------------------------------------------------------------------

    def moment_of(self, function: Callable[..., Any]) -> Moment:
        """Return what jobs of a function need that are as if put now; see `Engine`."""
        with self._shares.collecting():
            return self._functions.of(function)

    def prepare(self, job: Job, moment: Moment | None = None) -> None:
        """Pack the arguments, and what is new of the function; see `Engine`."""
        with self._shares.collecting():
            try:
                _calls.pack(job, self._functions, self._exports, self._copies.join, moment)
            except SerializationError:
                if not self._hand_on(job):
                    raise

    def _hand_on(self, job: Job) -> bool:
        """Have a worker inherit a job that cannot be packed; False if there is no fork."""
        if job._is_chunk or not self.hands_on:
            return False
        assert job.function is not None
        call = partial(job.function, *(job.args or ()), **(job.kwargs or {}))
        subject = self._functions.inherited(call)
        if subject is None:
            return False
        job._subject = subject
        named = () if job._options.name is None else (str(job._options.name),)
        packed = pickle.dumps(((), None, *named), 5)
        packet = _Inherited(_calls.lay_out(packets.JOB, subject.number, job, packed))
        packet.call = call
        job._packet = packet
        return True

    def has_large_arguments(self, job: Job) -> bool:
        """Tell it from their packed form, if they are all that was packed; see `Engine`."""
        packed_alone = _calls.are_large(job)
        return super().has_large_arguments(job) if packed_alone is None else packed_alone

    def mean_of(self, function: Callable[..., Any]) -> float | None:
        """Return how long calls of a function take here; see `Engine`."""
        pace = self._functions.pace_of(function)
        return None if pace is None else pace.mean_s

    # -- offering ------------------------------------------------------------------------------

    def offer(self, job: Job) -> bool:
        """Give a job to an idle worker, or behind a short one; see `Engine`."""
        subject = job._subject
        cost = UNKNOWN_S if subject is None else subject.pace.cost_s * job._num_to_do
        if self._idle:
            worker = self._idle.pop()
            worker.since_s = monotonic()
            self._let_take_more(worker)
        elif not job._may_wait or cost > (limit := _ahead_s(job)):
            return False
        else:
            found = self._find_taker(cost, limit, job)
            if found is None:
                return False
            worker = found
        if not worker.unsent:
            self._to_flush.append(worker)
        worker.unsent.append(job)
        worker.jobs[job.id] = job
        worker.num_given += 1
        worker.cost_s += cost
        return True

    def _find_taker(self, cost: float, limit: float, job: Job) -> _Worker | None:
        """Find a worker behind whose short jobs another one may wait."""
        takers = self._takers
        function = job._subject.number
        environment = None if job._environment is None else job._environment.number
        while takers:
            worker = takers[0]
            if (
                worker.cost_s + cost <= limit
                and len(worker.jobs) < AHEAD_JOBS
                and not worker.leaving
                and not self._has_had_all(worker)
                and function in worker.link.known
                and (environment is None or environment in worker.link.known)
                and worker.link.num_definitions == len(self._exports.pending)
                and worker.link.num_shares == self._shares.num_added
            ):
                takers.rotate(-1)
                return worker
            takers.popleft().takes_more = False
        return None

    def _let_take_more(self, worker: _Worker) -> None:
        if not worker.takes_more and not worker.leaving and not self._has_had_all(worker):
            worker.takes_more = True
            self._takers.append(worker)

    def _has_had_all(self, worker: _Worker) -> bool:
        """Whether a worker has had as many jobs as one may have."""
        limit = self._settings.max_jobs_per_worker
        return limit is not None and worker.num_given >= limit

    def flush(self) -> None:
        """Send the packets of the jobs that were accepted; see `Engine`."""
        for worker in self._to_flush:
            jobs, worker.unsent = worker.unsent, []
            try:
                # Those behind the first need nothing but their messages.
                is_first = len(jobs) == len(worker.jobs)
                if is_first and not self._prepare_for(worker, jobs[0]):
                    self._give_back(worker, jobs, None)
                    continue
                worker.link.send(jobs)
            except OSError as error:  # no memory or no descriptors left for a large one
                worker.link.drop({job.id for job in jobs})
                self._give_back(worker, jobs, error)
            self._watch_channel(worker)
        self._to_flush.clear()

    def _watch_channel(self, worker: _Worker) -> None:
        """Wait until a channel takes more, if there is more for it."""
        link = worker.link
        if bool(link.num_outgoing) != worker.is_writing and not worker.is_mute:
            worker.is_writing = not worker.is_writing
            events = selectors.EVENT_READ | (worker.is_writing and selectors.EVENT_WRITE)
            self._selector.modify(link.channel, events, partial(self._serve, worker))

    def _serve(self, worker: _Worker) -> None:
        """Do what a worker's channel is ready for."""
        if worker.is_writing and not worker.has_ended:
            try:
                worker.link.push()
            except OSError:  # no descriptors left for a large one: it cannot do without
                self._kill_now(worker)
            self._watch_channel(worker)
        self._read(worker)

    def _prepare_for(self, worker: _Worker, job: Job) -> bool:
        """Tell a worker what it needs for a job; False if it cannot learn that."""
        link, known = worker.link, worker.link.known
        messages = []
        for thing in _calls.needs(job):
            if thing.number not in known:
                if thing.packed is None:  # it was forked before this was known
                    worker.leaving = True
                    return False
                messages.append(packets.message(packets.FUNCTION, thing.number, 0, thing.packed))
                known.add(thing.number)
        if link.num_definitions < len(self._exports.pending):
            definitions = list(self._exports.pending.items())
            for key, packed in definitions[link.num_definitions :]:
                messages.append(packets.message(packets.DEFINITION, 0, 0, key, packed))
            link.num_definitions = len(definitions)
        files = _module_path.by_file()
        if link.num_files < len(files):
            link.num_files = len(files)
            messages.insert(0, packets.message(packets.FILES, 0, 0, pickle.dumps(files, 5)))
        for number in self._functions.gone_of(link.known):
            messages.append(packets.message(packets.FORGET, number, 0))
            link.known.discard(number)
        for share in self._shares.gone_of(link.known_shares):
            messages.append(packets.message(packets.UNSHARE, 0, share))
            link.known_shares.discard(share)
        link.tell(messages)
        if link.num_shares < self._shares.num_added:
            link.num_shares = self._shares.num_added
            for handle in self._shares.new_for(link.known_shares):
                link.share(handle)
        return True

    def _give_back(self, worker: _Worker, jobs: list[Job], why: OSError | None) -> None:
        """Report accepted jobs as returned that were not sent.

        Args:
            worker: The worker that has them.
            jobs: The jobs.
            why: The first one cannot be sent at all, for this reason.
        """
        for job in jobs:
            del worker.jobs[job.id]
        worker.num_given -= len(jobs)
        if why is not None:
            self._reports.append(Report(FAILED, jobs.pop(0), why, exitcode=1))
        self._reports.extend(Report(RETURNED, job) for job in jobs)
        if not worker.jobs:
            self._has_no_jobs(worker)

    # -- workers -------------------------------------------------------------------------------

    @property
    def num_workers(self) -> int:
        """The number of worker processes, and of dead ones that have left others behind."""
        return len(self._workers) + len(self._trees)

    def links(self) -> list[Link]:
        """List the worker processes; any thread."""
        return [worker.link for worker in list(self._workers)]

    @property
    def num_startable(self) -> int:
        """The number of workers that may still be started."""
        num_leaving = len(self._workers) - self._num_staying
        num_lingering_too_many = num_leaving - max(MAX_LINGERING, self.max_workers)
        return self.max_workers - self._num_staying - max(0, num_lingering_too_many)

    @property
    def _num_staying(self) -> int:
        return sum(not worker.told_to_leave for worker in self._workers)

    @property
    def num_ahead(self) -> int:
        """The number of jobs that wait in workers behind another one."""
        return sum(len(worker.jobs) - 1 for worker in self._workers if worker.jobs)

    def grow(self, num_waiting: int) -> None:
        """Start a worker for each job that waits, up to the limit; see `Engine`."""
        starting = sum(not worker.ready for worker in self._workers)
        wanted = min(num_waiting - starting - len(self._idle), self.num_startable)
        for _ in range(wanted):
            try:
                self._start_worker()
            except Exception as error:  # no processes or descriptors left, or a bad initializer
                if not self._workers:
                    self._reports.append(Report(NOT_STARTED, None, error))
                return

    def _start_worker(self) -> None:
        settings = self._settings
        for_worker = _worker.WorkerSettings(
            f"{settings.name}-{next(self._numbers)}",
            settings.initializer,
            settings.initargs,
            settings.max_memory_per_worker,
            max(1, workers.NUM_CPUS // self.max_workers),
            _worker.log_levels(),
            self._functions.inheritance() if self._method == "fork" else {},
            self._is_remote,
            self.has_codec,
        )
        worker = _Worker(Link(for_worker, self._method))
        self._workers.append(worker)
        link = worker.link
        self._selector.register(link.channel, selectors.EVENT_READ, partial(self._serve, worker))
        self._selector.register(link.sentinel, selectors.EVENT_READ, partial(self._ended, worker))

    def resize(self, max_workers: int) -> None:
        """Change how many workers there may be; see `Engine`."""
        self.max_workers = max_workers
        while self._idle and self._num_staying > max_workers:
            self._leave(self._idle[-1])

    def stop_workers(self) -> None:
        """Tell all workers to end that have nothing to do; see `Engine`."""
        for worker in self._workers:
            if not worker.jobs:
                self._leave(worker)

    def hurry(self) -> None:
        """Wait for no thread that a job has left; see `Engine`."""
        self._is_patient = False
        for worker in self._workers:
            if worker.lingers:
                self._cut_off(worker)
            elif worker.told_to_leave and worker.kill_at_s is not None:
                worker.kill_at_s = min(worker.kill_at_s, monotonic() + GRACE_S)

    def _leave(self, worker: _Worker) -> None:
        """Tell a worker to end that has no jobs."""
        self._get_no_more(worker)
        if not worker.told_to_leave:
            worker.told_to_leave = True
            if worker.kill_at_s is None:
                grace_s = EXIT_GRACE_S if self._is_patient else GRACE_S
                worker.kill_at_s = monotonic() + grace_s
            worker.link.permit([0])

    def _let_linger(self, worker: _Worker) -> None:
        """A worker that was told to leave waits for threads of its jobs: let it."""
        worker.lingers = True
        if self._is_patient:
            worker.kill_at_s = None
        else:
            self._cut_off(worker)

    def _cut_off(self, worker: _Worker) -> None:
        """End a worker that lingers."""
        worker.lingers = False
        worker.kill_at_s = monotonic() + GRACE_S
        self._signal(worker, signal.SIGTERM)

    def _get_no_more(self, worker: _Worker) -> None:
        worker.leaving = True
        if worker in self._idle:
            self._idle.remove(worker)

    def _has_no_jobs(self, worker: _Worker) -> None:
        """See what a worker is to do that has answered all."""
        if not worker.ready or worker.kill_at_s is not None:
            return
        worker.cost_s = 0.0
        is_too_many = self._num_staying > self.max_workers
        if worker.leaving or is_too_many or self._has_had_all(worker):
            self._leave(worker)
        else:
            self._idle.append(worker)
            self._steal_for(worker)

    def _steal_for(self, idle: _Worker) -> None:
        """Take back what waits behind other workers' jobs: an idle worker is to have the first.

        Else a job that comes later would go before them. Where jobs are so short that the others
        will be through with them sooner, they stay.
        """
        for worker in self._workers:
            number = len(worker.jobs)
            if number > 1 and not worker.unsent:
                is_short = worker.cost_s < number * TINY_S
                if not is_short or idle.since_s - worker.since_s > number * TINY_S:
                    self._take_back(worker)

    # -- waiting -------------------------------------------------------------------------------

    def wait(self, timeout: float | None) -> list[Report]:
        """Wait for what workers tell; see `Engine`."""
        if not self._reports:
            due = self._next_due()
            if due is not None:
                left = max(0.0, due - monotonic())
                timeout = left if timeout is None else min(timeout, left)
            for key, _ in self._selector.select(timeout):
                key.data()
            if due is not None:
                self._do_what_is_due(monotonic())
        reports, self._reports = self._reports, []
        return reports

    def _next_due(self) -> float | None:
        moments = [] if (first := self._trees.next_due()) is None else [first]
        for worker in self._workers:
            if worker.kill_at_s is not None:
                moments.append(worker.kill_at_s)
            elif len(worker.jobs) > 1:
                moments.append(_long_from(worker))
        due = min(moments, default=_NEVER)
        return None if due == _NEVER else due

    def _do_what_is_due(self, now: float) -> None:
        for worker in self._workers:
            if worker.kill_at_s is not None:
                if worker.kill_at_s <= now:
                    self._tell_of_kill(worker)
                    self._kill_now(worker)
            elif len(worker.jobs) > 1 and _long_from(worker) <= now:
                self._take_back(worker)
        self._trees.kill_due(now)

    def _tell_of_kill(self, worker: _Worker) -> None:
        """Log that a worker is killed which nobody has wanted to be killed."""
        if worker.told_to_leave and self._is_patient:
            with contextlib.suppress(BaseException):  # a handler that raises
                logger.warning(
                    "worker %s did not end within %g s of being told to, and is killed",
                    worker.name,
                    EXIT_GRACE_S,
                )

    def wake(self) -> None:
        """End the wait of the dispatcher; see `Engine`."""
        self._wake_pipe.wake()

    # -- what workers tell ---------------------------------------------------------------------

    def _read(self, worker: _Worker) -> bool:
        """Take in what a worker has sent; False if there was nothing or it was the end."""
        if worker.has_ended or worker.is_cut:  # both its files were ready, or a record was lost
            return False
        try:
            records = worker.link.read()
            if records is None:
                self._cannot_answer(worker)
                return False
            for kind, number, started, ended, data in records:
                if kind & packets.SPENT:
                    worker.leaving = True
                    kind &= ~packets.SPENT
                if packets.VALUE <= kind <= packets.UNSENT:
                    self._take_answer(worker, kind, number, started, ended, data)
                elif kind >= packets.SOME:
                    self._take_part(worker, kind, number, data)
                else:
                    self._take_record(worker, kind, data)
        except BlockingIOError:
            return False
        except OSError as error:  # no descriptors and no memory left for what it has sent
            self._kill_now(worker)
            worker.is_mute = worker.is_cut = True
            worker.error = error
            self._unwatch(worker.link.channel)
            return False
        except Exception:  # a job has written there
            self._kill_now(worker)
            worker.is_mute = True
            self._unwatch(worker.link.channel)
            with contextlib.suppress(BaseException):  # a handler that raises
                logger.exception("worker %s sent what it should not, and is killed", worker.name)
            return False
        return True

    def _cannot_answer(self, worker: _Worker) -> None:
        """A worker has closed its channel: it ends, or a job has closed what is not its own."""
        worker.is_mute = True
        self._unwatch(worker.link.channel)
        self._get_no_more(worker)
        worker.kill_at_s = worker.kill_at_s or monotonic() + GRACE_S

    def _take_record(self, worker: _Worker, kind: int, data: Any) -> None:
        """Take in what is no answer."""
        if kind == packets.READY:
            if worker.ready:
                raise GarbledError("it is ready for the second time")
            worker.ready = True
            self._num_start_deaths = 0
            worker.since_s = monotonic()
            self._has_no_jobs(worker)
        elif kind == packets.LOG:
            self._reports.append(Report(LOGGED, None, _worker.rebuild_record(data)))
        elif kind == packets.DEFINED:
            self._imports.add(data)
        elif kind == packets.LINGERS:
            if worker.told_to_leave:
                self._let_linger(worker)
        else:
            worker.error = serialize.load_error(data)

    def _take_part(self, worker: _Worker, kind: int, number: int, data: Any) -> None:
        if number not in worker.jobs:
            raise GarbledError(f"results for job {number}, which it does not have")
        worker.parts.setdefault(number, []).append((kind, data))

    def _take_answer(
        self, worker: _Worker, kind: int, number: int, started: float, ended: float, data: Any
    ) -> None:
        job = worker.jobs.pop(number, None)
        if job is None:
            raise GarbledError(f"an answer for job {number}, which it does not have")
        what, code, value = self._rebuild(worker, job, kind, data)
        report = what, job, value, started, ended, code, worker.name
        self._reports.append(_new_tuple(Report, report))
        subject = job._subject
        if subject is not None:
            worker.cost_s -= subject.pace.cost_s * job._num_to_do
            subject.pace.measure(ended - started, job._num_to_do)
        worker.since_s = ended
        if not worker.jobs:
            self._has_no_jobs(worker)
        elif worker.leaving:
            self._take_back(worker)
        elif not worker.takes_more:
            self._let_take_more(worker)

    def _rebuild(self, worker: _Worker, job: Job, kind: int, data: Any) -> tuple[int, int, Any]:
        """Rebuild an answer: what it is, the exit code, and the result or the exception."""
        if job._is_chunk:
            parts = worker.parts.pop(job.id, [])
            if kind == packets.VALUE:
                parts.append((packets.SOME, data))
                return self._rebuild_chunk(worker, job, parts, None)
        return _calls.rebuild(self._imports, kind, data)

    def _rebuild_chunk(
        self, worker: _Worker, job: Job, parts: list[_kept.Part], death: BaseException | None
    ) -> tuple[int, int, Any]:
        """Rebuild what calls of a chunk have come to; `death` may be what ended them."""
        outcome = self._rebuilder.outcome(parts, job._num_to_do, death)
        died = death is not None and any(error is death for error in outcome[1].values())
        return DIED if died else DONE, 0, outcome

    # -- taking back, killing, dying -----------------------------------------------------------

    def _take_back(self, worker: _Worker, *, every: bool = False) -> None:
        """Take back jobs that a worker has not begun; they are reported as RETURNED.

        Args:
            worker: The worker.
            every: Also the only one that it would have left, if it has begun none.
        """
        taken = [number for number in worker.link.take_back() if number in worker.jobs]
        if not every and len(taken) == len(worker.jobs):  # it is slow to begin: leave it the first
            worker.link.permit([packets.permit(worker.jobs[taken[0]])])
            del taken[0]
        for number in taken:
            self._reports.append(Report(RETURNED, worker.jobs.pop(number)))
        worker.num_given -= len(taken)
        worker.cost_s = UNKNOWN_S
        if not worker.jobs:
            self._has_no_jobs(worker)

    def recall(self) -> None:
        """Take back what no worker has begun; see `Engine`."""
        for worker in self._workers:
            if worker.jobs:
                self._take_back(worker, every=True)

    def kill(self, job: Job) -> None:
        """Begin to kill a job, if it is still here; see `Engine`."""
        for worker in self._workers:
            if job.id in worker.jobs:
                while self._read(worker):  # it may have just ended
                    pass
                self._take_back(worker, every=True)
                # Of those that it has begun it runs the last; answers for the others are coming.
                if worker.jobs and next(reversed(worker.jobs)) == job.id:
                    self._terminate(worker)
                return

    def _terminate(self, worker: _Worker) -> None:
        """Have a busy worker end, and what its job has started: SIGTERM now, later SIGKILL."""
        self._get_no_more(worker)
        if worker.kill_at_s is None:
            worker.kill_at_s = monotonic() + GRACE_S
            self._signal(worker, signal.SIGTERM)

    def _kill_now(self, worker: _Worker) -> None:
        self._get_no_more(worker)
        worker.kill_at_s = _NEVER  # there is nothing more to do
        self._signal(worker, SIGKILL)

    def _signal(self, worker: _Worker, number: int) -> None:
        """Signal a worker and what its jobs have started; these get SIGKILL later in any case."""
        process = worker.link.process
        if worker.ready:  # it has a group of its own
            self._trees.end(process.pid, number)
        process.send_signal(number)

    def _ended(self, worker: _Worker) -> None:
        """Settle what a worker leaves behind that has ended."""
        while self._read(worker):
            pass
        link, code = worker.link, worker.link.process.exitcode
        self._forget(worker)
        not_begun = set(link.take_back())
        for number, job in worker.jobs.items():
            if number in not_begun:
                self._reports.append(Report(RETURNED, job))
            else:
                self._report_death(worker, job, code)
        if not worker.ready and not worker.told_to_leave:
            self._take_start_failure(worker)
        if worker.ready and (code != 0 or worker.jobs):
            self._trees.end(link.process.pid, signal.SIGTERM)
        worker.jobs.clear()
        link.close()

    def _report_death(self, worker: _Worker, job: Job, code: int | None) -> None:
        """Report the job that a worker was running when it died, or a chunk as far as it came."""
        death = _death(worker, job.name) if worker.error is None else worker.error
        moments = worker.since_s, monotonic()
        what, value = DIED, death
        if job._is_chunk and (kept := worker.link.kept_of(job)) is not None:
            parts = [*worker.parts.pop(job.id, ()), *kept]
            what, _, value = self._rebuild_chunk(worker, job, parts, death)
        code = code if what == DIED else 0
        self._reports.append(Report(what, job, value, *moments, code, worker.name))

    def _take_start_failure(self, worker: _Worker) -> None:
        """A worker was never ready: report why, or see whether the next one is, if this was killed.

        Whatever killed it need not be the fault of the jobs that wait, but it may come again.
        """
        error = worker.error
        if error is None:
            self._num_start_deaths += 1
            if self._num_start_deaths < START_DEATHS:
                return
            error = _death(worker, None)
            error.add_note(f"{self._num_start_deaths} workers in a row died before they were ready")
        self._reports.append(Report(NOT_STARTED, None, error))

    def _forget(self, worker: _Worker) -> None:
        worker.has_ended = True
        self._workers.remove(worker)
        self._get_no_more(worker)
        if worker.takes_more:
            self._takers.remove(worker)
        self._unwatch(worker.link.channel)
        self._unwatch(worker.link.sentinel)

    def _unwatch(self, file: Any) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(file)

    # -- the end -------------------------------------------------------------------------------

    def close(self) -> None:
        """Free what is left; see `Engine`."""
        self._trees.close()
        self._selector.close()
        self._wake_pipe.close()

    def forget_in_child(self) -> None:
        """Close the parent's ends; see `Engine`."""
        for worker in self._workers:
            worker.link.forget_in_child()
        self._trees.forget_in_child()
        self._selector.close()
        self._wake_pipe.forget_in_child()


def _ahead_s(job: Job) -> float:
    """Return how much work, in seconds, may wait in a worker if this job is part of it."""
    return CHUNKS_AHEAD_S if job._is_of_map else AHEAD_S


def _long_from(worker: _Worker) -> float:
    """Return the moment from which what waits behind a worker's running job waits too long."""
    return worker.since_s + _ahead_s(next(iter(worker.jobs.values())))


def _death(worker: _Worker, job: Any) -> WorkerDied:
    process = worker.link.process
    code = process.told_exitcode
    killer = -code if code is not None and code < 0 else None
    return WorkerDied(process.pid, code, killer, job, process.max_rss_bytes)
