"""The process engine: persistent worker processes, each with one private channel.

    dispatcher ── jobs ────> channel ──> worker 1, its own process group
               <─ results ─
               ── permits ─> permits ──>
               <──────────── sentinel: readable when the worker has ended
               the same three for worker 2 ...

A worker gets one job, or several if they are short by measurement. Before it begins a job, it takes
a permit for it. The engine holds the reading end of the permits, too, and can take a permit back:
when a short job turns out to be long, when a job is cancelled, when the worker dies. The kernel
gives each permit to either the worker or the engine. So a job that was sent ahead runs once or not
at all, and a death affects only the job whose permit was taken and that has no answer.

Invariants:
- an answer can come for every job in `worker.jobs`, and for no other;
- a worker is in `_idle` if it is ready, has no jobs, and may get more;
- no code here waits for a worker: bytes that its channel does not accept are sent later.

Only one thread may use an engine, except `prepare` and `wake`.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import signal
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from ...errors import WorkerDied
from ...packing import definitions, main_module
from ...processes import fork_server, handles, launch
from ...processes.handles import SIGKILL
from ...processes.trees import GRACE_S
from ...workers import api
from .. import log_records
from ..ahead import NEVER, Load, Takers, cost_of, limit_of
from ..api import (
    DIED,
    FAILED,
    LINGERS,
    LOGGED,
    NOT_STARTED,
    READY,
    RETURNED,
    SPENT,
    Report,
    Settings,
)
from ..codec import Codec, PackingEngine
from ..knowledge import Knowledge
from ..selecting import WorkerEngine
from . import protocol as packets, worker_main
from .large_payloads import Copies
from .link import GarbledError, Link

if TYPE_CHECKING:
    from ...jobs.job import Job

logger = logging.getLogger("qmill")

START_DEATHS = 3
"""After so many workers in a row that died before they were ready, a job fails."""

EXIT_GRACE_S = 10.0
"""Seconds in which a worker has to exit when it is asked to, unless it waits for threads."""

MAX_LINGERING = 16
"""The most workers that wait for threads of their jobs without counting towards `max_workers`. The
limit is `max_workers` if that is larger."""

fork_server.PRELOADED.append("qmill.engines.process.worker_main")


class _Worker(Load):
    """The engine's view of one worker; its `jobs` are by id.

    Attributes:
        link: The worker's process and its channel.
        unsent: The last of `jobs`, which `flush` is going to send.
        told_to_leave: Whether it has no jobs and was asked to exit.
        lingers: Whether it waits for threads of its jobs, and would otherwise exit.
        kill_at_s: When it will be killed; None if it will not.
        error: Why it could not start, or cannot continue.
        is_writing: Whether the engine waits until its channel accepts more bytes.
        is_mute: Whether its channel is not watched any more.
        is_cut: Whether its channel is not read any more, as a part of its messages is lost.
    """

    def __init__(self, link: Link, knowledge: Knowledge) -> None:
        super().__init__(knowledge)
        self.link = link
        self.name = link.name
        self.unsent: list[Job] = []
        self.ready = False
        self.told_to_leave = False
        self.lingers = False
        self.has_ended = False
        self.is_writing = False
        self.is_mute = False
        self.is_cut = False
        self.kill_at_s: float | None = None
        self.error: BaseException | None = None


class ProcessEngine(PackingEngine, WorkerEngine):
    """Runs jobs in persistent worker processes.

    Args:
        settings: As for all engines.
        start_method: How workers start; None for the default one.
        codec: Packs jobs and rebuilds answers, if the jobs come from another machine; None is one
            for the jobs of this program.
    """

    can_kill = True
    _workers: list[_Worker]
    _idle: list[_Worker]

    def __init__(
        self,
        settings: Settings,
        start_method: str | None = None,
        codec: Codec | None = None,
    ) -> None:
        self._method = launch.usable_start_method(start_method)
        is_fork = self._method == "fork"
        # This imports modules. The dispatcher must not do so: if another thread forks meanwhile,
        # the modules' locks stay held in the child for ever.
        if not is_fork:
            main_module.importable()
        super().__init__(settings)
        self._is_remote = codec is not None
        self.codec = codec or Codec(
            definitions.Names.FORKED if is_fork else definitions.Names.INSTEAD,
            always_inherit=settings.max_jobs_per_worker == 1,
            join=Copies().join,
        )
        self._takers: Takers[_Worker] = Takers(settings.max_jobs_per_worker)
        self._to_flush: list[_Worker] = []
        self._num_start_deaths = 0  # since a worker was last ready
        self._is_patient = True  # whether lingering workers may take their time

    # -- offering ------------------------------------------------------------------------------

    def offer(self, job: Job) -> bool:
        """Give a job to an idle worker, or send it ahead to a busy one; see `Engine`."""
        cost = cost_of(job)
        if self._idle:
            worker = self._idle.pop()
            worker.since_s = monotonic()
            self._takers.add(worker)
        elif not job._may_wait or cost > (limit := limit_of(job)):
            return False
        else:
            found = self._takers.find(job, cost, limit)
            if found is None:
                return False
            worker = found
        if not worker.unsent:
            self._to_flush.append(worker)
        worker.unsent.append(job)
        worker.give(job.id, job, cost)
        return True

    def flush(self) -> None:
        """Send the packets of the jobs that were accepted; see `Engine`."""
        for worker in self._to_flush:
            jobs, worker.unsent = worker.unsent, []
            try:
                # Jobs behind the first one need no definitions: `Takers` has checked that.
                is_first = len(jobs) == len(worker.jobs)
                if is_first and not self._prepare_for(worker, jobs[0]):
                    self._give_back(worker, jobs, None)
                    continue
                worker.link.send(jobs)
            except OSError as error:  # no memory or descriptors left for a large job
                worker.link.drop({job.id for job in jobs})
                self._give_back(worker, jobs, error)
            self._watch_channel(worker)
        self._to_flush.clear()

    def _watch_channel(self, worker: _Worker) -> None:
        """Watch a channel for room exactly while there are bytes to send."""
        link = worker.link
        if bool(link.num_outgoing) != worker.is_writing and not worker.is_mute:
            worker.is_writing = not worker.is_writing
            events = selectors.EVENT_READ | (worker.is_writing and selectors.EVENT_WRITE)
            self._selector.modify(link.channel, events, partial(self._serve, worker))

    def _serve(self, worker: _Worker) -> None:
        """Write to a worker's channel if bytes wait for it, and read from it."""
        if worker.is_writing and not worker.has_ended:
            try:
                worker.link.push()
            except OSError:  # no descriptors left for a large message, which the worker needs
                self._kill_now(worker)
            self._watch_channel(worker)
        self._read(worker)

    def _prepare_for(self, worker: _Worker, job: Job) -> bool:
        """Send a worker the lesson that a job needs; False if it cannot get it."""
        lesson = worker.knowledge.lesson_for(job)
        if lesson is None:
            worker.leaving = True
            return False
        worker.link.teach(lesson)
        return True

    def _give_back(self, worker: _Worker, jobs: list[Job], why: OSError | None) -> None:
        """Take unsent jobs off a worker; they are reported as RETURNED.

        Args:
            worker: The worker that has them.
            jobs: The jobs.
            why: The reason why the first one cannot be sent at all; it is reported as FAILED.
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

    def links(self) -> list[Link]:
        """List the links of the worker processes; any thread may call this."""
        return [worker.link for worker in list(self._workers)]

    @property
    def num_startable(self) -> int:
        """The number of workers that may still be started."""
        num_leaving = len(self._workers) - self._num_staying
        num_lingering_too_many = num_leaving - max(MAX_LINGERING, self.max_workers)
        return self.max_workers - self._num_staying - max(0, num_lingering_too_many)

    @property
    def _num_staying(self) -> int:
        return len([worker for worker in self._workers if not worker.told_to_leave])

    @property
    def num_ahead(self) -> int:
        """The number of jobs that wait in workers behind another job."""
        return sum(worker.num_ahead for worker in list(self._workers))

    def _start_worker(self) -> None:
        settings = self._settings
        for_worker = worker_main.WorkerSettings(
            next(self._names),
            settings.initializer,
            settings.initargs,
            settings.max_memory_per_worker,
            max(1, api.NUM_CPUS // self.max_workers),
            log_records.log_levels(),
            self.codec.functions.inheritance() if self._method == "fork" else {},
            self._is_remote,
            self.codec.has_codec,
        )
        knowledge = Knowledge(self.codec, for_worker.inherited, len(self.codec.files()))
        worker = _Worker(Link(for_worker, self._method, self.codec), knowledge)
        self._workers.append(worker)
        link = worker.link
        self._selector.register(link.channel, selectors.EVENT_READ, partial(self._serve, worker))
        self._selector.register(link.sentinel, selectors.EVENT_READ, partial(self._ended, worker))

    def resize(self, max_workers: int) -> None:
        """Change the number of workers; see `Engine`."""
        self.max_workers = max_workers
        while self._idle and self._num_staying > max_workers:
            self._leave(self._idle[-1])

    def stop_workers(self) -> None:
        """Ask all idle workers to exit; see `Engine`."""
        for worker in self._workers:
            if not worker.jobs:
                self._leave(worker)

    def hurry(self) -> None:
        """Stop waiting for threads of jobs; see `Engine`."""
        self._is_patient = False
        for worker in self._workers:
            if worker.lingers:
                self._cut_off(worker)
            elif worker.told_to_leave and worker.kill_at_s is not None:
                worker.kill_at_s = min(worker.kill_at_s, monotonic() + GRACE_S)

    def _leave(self, worker: _Worker) -> None:
        """Ask a worker without jobs to exit."""
        self._get_no_more(worker)
        if not worker.told_to_leave:
            worker.told_to_leave = True
            if worker.kill_at_s is None:
                grace_s = EXIT_GRACE_S if self._is_patient else GRACE_S
                worker.kill_at_s = monotonic() + grace_s
            worker.link.permit([0])

    def _let_linger(self, worker: _Worker) -> None:
        """Let a worker live that was asked to exit and waits for threads of its jobs."""
        worker.lingers = True
        if self._is_patient:
            worker.kill_at_s = None
        else:
            self._cut_off(worker)

    def _cut_off(self, worker: _Worker) -> None:
        """End a worker that waits for threads of its jobs."""
        worker.lingers = False
        worker.kill_at_s = monotonic() + GRACE_S
        self._signal(worker, signal.SIGTERM)

    def _get_no_more(self, worker: _Worker) -> None:
        worker.leaving = True
        if worker in self._idle:
            self._idle.remove(worker)

    def _has_no_jobs(self, worker: _Worker) -> None:
        """Decide the future of a worker that has answered all its jobs: to exit, or to get more."""
        if not worker.ready or worker.kill_at_s is not None:
            return
        worker.cost_s = 0.0
        is_too_many = self._num_staying > self.max_workers
        if worker.leaving or is_too_many or self._takers.has_had_all(worker):
            self._leave(worker)
        else:
            self._idle.append(worker)
            self._steal_for(worker)

    def _steal_for(self, idle: _Worker) -> None:
        """Take back jobs that wait behind other workers' jobs, so that an idle worker gets them."""
        for worker in self._workers:
            if not worker.unsent and worker.may_share(idle.since_s):
                self._take_back(worker)

    # -- waiting -------------------------------------------------------------------------------

    def _next_due(self) -> float | None:
        moments = [] if (first := super()._next_due()) is None else [first]
        for worker in self._workers:
            if worker.kill_at_s is not None:
                moments.append(worker.kill_at_s)
            elif len(worker.jobs) > 1:
                moments.append(_overdue_from(worker))
        due = min(moments, default=NEVER)
        return None if due == NEVER else due

    def _do_what_is_due(self, now: float) -> None:
        for worker in self._workers:
            if worker.kill_at_s is not None:
                if worker.kill_at_s <= now:
                    self._tell_of_kill(worker)
                    self._kill_now(worker)
            elif len(worker.jobs) > 1 and _overdue_from(worker) <= now:
                self._take_back(worker)
        super()._do_what_is_due(now)

    def _tell_of_kill(self, worker: _Worker) -> None:
        """Log that a worker is killed because it did not exit when it was asked to."""
        if worker.told_to_leave and self._is_patient:
            with contextlib.suppress(BaseException):  # a handler that raises
                logger.warning(
                    "worker %s did not end within %g s of being told to, and is killed",
                    worker.name,
                    EXIT_GRACE_S,
                )

    # -- messages of workers -------------------------------------------------------------------

    def _read(self, worker: _Worker) -> bool:
        """Take in the messages of a worker; False if there are none, or the channel is closed."""
        if worker.has_ended or worker.is_cut:  # both its files were ready, or a message was lost
            return False
        reports: list[Report] = []
        try:
            try:
                is_open = worker.link.read(worker.jobs, reports)
            finally:  # also the reports that came before an error
                for report in reports:
                    if (job := report.job) is None:
                        self._take_state(worker, report)
                    else:
                        self._take_answer(worker, job, report)
            if not is_open:
                self._cannot_answer(worker)
            return is_open
        except BlockingIOError:
            return False
        except OSError as error:  # no descriptors or memory left for a large message
            self._kill_now(worker)
            worker.is_mute = worker.is_cut = True
            worker.error = error
            self._unwatch(worker.link.channel)
            return False
        except Exception:  # a job has written to the channel
            self._kill_now(worker)
            worker.is_mute = True
            self._unwatch(worker.link.channel)
            with contextlib.suppress(BaseException):  # a handler that raises
                logger.exception("worker %s sent an invalid message, and is killed", worker.name)
            return False

    def _cannot_answer(self, worker: _Worker) -> None:
        """Give up a worker with a closed channel: it is exiting, or a job has closed the file."""
        worker.is_mute = True
        self._unwatch(worker.link.channel)
        self._get_no_more(worker)
        worker.kill_at_s = worker.kill_at_s or monotonic() + GRACE_S

    def _take_state(self, worker: _Worker, report: Report) -> None:
        """Take in a report that is of no job."""
        if report.what is READY:
            if worker.ready:
                raise GarbledError("it is ready for the second time")
            worker.ready = True
            self._num_start_deaths = 0
            worker.since_s = monotonic()
            self._has_no_jobs(worker)
        elif report.what is LINGERS:
            if worker.told_to_leave:
                self._let_linger(worker)
        elif report.what is SPENT:
            worker.leaving = True
        elif report.what is NOT_STARTED:
            worker.error = report.value
        elif report.what is LOGGED:
            self._reports.append(report)

    def _take_answer(self, worker: _Worker, job: Job, report: Report) -> None:
        if worker.jobs.pop(job.id, None) is None:
            raise GarbledError(f"a second answer for job {job.id}")
        self._reports.append(report)
        worker.answered(job, report)
        if not worker.jobs:
            self._has_no_jobs(worker)
        elif worker.leaving:
            self._take_back(worker)
        else:
            self._takers.add(worker)

    # -- taking back, killing, dying -----------------------------------------------------------

    def _take_back(self, worker: _Worker, *, every: bool = False) -> None:
        """Take back jobs that a worker has not begun; they are reported as RETURNED.

        Args:
            worker: The worker.
            every: Whether to take back all; otherwise a worker that has begun none keeps one.
        """
        taken = [number for number in worker.link.take_back() if number in worker.jobs]
        if not every and len(taken) == len(worker.jobs):  # it has begun none: leave it the first
            worker.link.permit([packets.permit(worker.jobs[taken[0]])])
            del taken[0]
        for number in taken:
            self._reports.append(Report(RETURNED, worker.jobs.pop(number)))
        worker.num_given -= len(taken)
        worker.doubt()
        if not worker.jobs:
            self._has_no_jobs(worker)

    def recall(self) -> None:
        """Take back the jobs that no worker has begun; see `Engine`."""
        for worker in self._workers:
            if worker.jobs:
                self._take_back(worker, every=True)

    def kill(self, job: Job) -> None:
        """Begin to kill a job, unless it has ended; see `Engine`."""
        for worker in self._workers:
            if job.id in worker.jobs:
                while self._read(worker):  # the job may have just ended
                    pass
                self._take_back(worker, every=True)
                # It runs the last of the jobs that it has begun; answers of the others are coming.
                if worker.jobs and next(reversed(worker.jobs)) == job.id:
                    self._terminate(worker)
                return

    def _terminate(self, worker: _Worker) -> None:
        """End a busy worker and all processes of its job: SIGTERM now, SIGKILL later."""
        self._get_no_more(worker)
        if worker.kill_at_s is None:
            worker.kill_at_s = monotonic() + GRACE_S
            self._signal(worker, signal.SIGTERM)

    def _kill_now(self, worker: _Worker) -> None:
        self._get_no_more(worker)
        worker.kill_at_s = NEVER  # nothing more is to be done at a later time
        self._signal(worker, SIGKILL)

    def _signal(self, worker: _Worker, number: int) -> None:
        """Signal a worker and the processes of its jobs; the latter get SIGKILL later anyway."""
        process = worker.link.process
        if worker.ready:  # it leads a process group of its own
            self._trees.end(process.pid, number)
        process.send_signal(number)

    def _ended(self, worker: _Worker) -> None:
        """Report the jobs of a worker that has ended, and close its link."""
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
        """Report the job, or the chunk with its results, that a worker ran when it died."""
        death = _death(worker, job.name) if worker.error is None else worker.error
        report = Report(DIED, job, death, worker.since_s, monotonic(), code, worker.name)
        self._reports.append(worker.link.died(report))

    def _take_start_failure(self, worker: _Worker) -> None:
        """Report why a worker never became ready; if it was killed, only after some in a row.

        The cause of the death need not be the waiting jobs' fault, but it may occur again.
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
        self._takers.remove(worker)
        self._unwatch(worker.link.channel)
        self._unwatch(worker.link.sentinel)

    def _unwatch(self, file: Any) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(file)

    # -- the end -------------------------------------------------------------------------------

    def forget_in_child(self) -> None:
        """Close the parent's files; see `Engine`."""
        for worker in self._workers:
            worker.link.forget_in_child()
        super().forget_in_child()


def _overdue_from(worker: _Worker) -> float:
    return worker.overdue_from(limit_of(next(iter(worker.jobs.values()))))


def _death(worker: _Worker, job: Any) -> WorkerDied:
    process = worker.link.process
    return handles.death(process.pid, process.told_exitcode, job, process.max_rss_bytes)
