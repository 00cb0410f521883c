"""The dispatcher of a job queue: the thread that passes jobs from the scheduler to the engine.

    callers ── put, cancel, ... ──> [ lock: scheduler ] <── dispatcher ──> engine
                                                               │
                                          finished jobs ───────┴──> reporter ──> completed queue

The dispatcher is the only thread that uses the engine. It never calls functions of the user:
callbacks, and handlers of log records from workers, run on the reporter, a thread that starts when
they are first needed. However long they take, jobs are dispatched and killed in time. `Dispatcher`
has the calls of other threads and the loop; its base `Settler` decides what reports lead to.

One lock guards the scheduler and the state of every job. `changed`, the condition of that lock, is
notified when jobs have ended, and when the queue shuts down.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 (its exit hook then runs after `_end_all`)
import logging
import math
import sys
import threading
from datetime import datetime, timedelta
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, cast

from ..engines.api import DONE
from ..engines.driver import END_S, Driver, Jobs
from ..errors import Full, SerializationError
from ..jobs import failures, job as jobs_job, records
from ..jobs.failures import Failure
from ..jobs.job import CANCELLED, FINISHED, RUNNING, Job
from ..jobs.records import RecordLog
from ..jobs.scheduler import Scheduler
from ..system import lifecycle, native, threads
from ..system.alive import Alive
from .reporter import Reporter
from .settling import Ended, Settler, is_late

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from ..engines.api import Engine, Report
    from ..jobs.job import Chunk
    from ..jobs.totals import Totals

logger = logging.getLogger("qmill")


class Progress(NamedTuple):
    """Counts of jobs: completed, failed (some not completed yet), not completed, working."""

    completed: int
    failed: int
    left: int
    working: int


class Dispatcher(Settler, Jobs):
    """Runs the jobs of one queue.

    Attributes:
        waits_at_exit: Whether the program ends only when all jobs are done. Otherwise the jobs
            that remain when the interpreter exits are cancelled or killed.
        is_of_parent: Whether this is a forked child, and the queue belongs to its parent.
        closed: Whether the queue was shut down and has ended.

    Args:
        engine: The engine that runs the jobs; no other object may use it from now on.
        qid: The name of the queue.
        maxsize: The most jobs that may wait or work; 0 is no limit.
        log: The file for the records of the jobs.
        auto_stop_s: Seconds from the end of the last job until the workers end; inf: they stay.
        auto_remove: Whether completed jobs are discarded.
    """

    def __init__(
        self,
        engine: Engine,
        qid: str,
        maxsize: int,
        log: RecordLog | None,
        auto_stop_s: float,
        auto_remove: bool,
    ) -> None:
        super().__init__(qid, log, auto_remove, Reporter(self, log, _started))
        self.engine = engine
        self.maxsize = maxsize
        self.shut = False  # whether no more jobs are accepted
        self.waits_at_exit = True
        self._auto_stop_s = auto_stop_s
        self._anchor = datetime.now(), monotonic()
        self.is_of_parent = False
        self.closed = False
        self._driver = Driver(engine, self)
        self._wake_on_put = False
        self._thread: threading.Thread | None = None
        _all.add(self)

    def wall_time(self, moment_s: float) -> datetime:
        """Return the date and time of a moment of the monotonic clock."""
        at, anchor_s = self._anchor
        return at + timedelta(seconds=moment_s - anchor_s)

    def host_of(self, worker: str | None) -> str | None:
        """Return the name of the machine that a worker runs on."""
        return self.engine.host_of(worker)

    def log_later(self, what: str, error: BaseException) -> None:
        """Have the reporter log a failure that no caller has looked at."""
        if self._reporter.is_over:
            failures.log_unseen(what, error)
        else:
            self._reporter.put(failures.log_unseen, what, error)

    # -- for callers ---------------------------------------------------------------------------

    def put(self, job: Job, block: bool) -> None:
        """Add a job.

        Raises:
            RuntimeError: The queue was shut down.
            Full: The queue is full, and `block` is false.
        """
        with self._lock:
            self._check_open()
            if self.maxsize > 0:
                self._wait_for_room(block)
            self._scheduler.add(job)
            if self._thread is None and not self.paused:
                self._start_thread()
            if self._wake_on_put:
                self.engine.wake()
                self._wake_on_put = False
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("Queued job: '%s'", job.name)

    def _check_open(self) -> None:
        self.check_is_ours()
        if self.shut:
            raise RuntimeError(
                "cannot schedule new futures after shutdown: this queue has ended, by shutdown() "
                "or with its `with` block; put jobs before that, or make another queue"
            )
        if _exiting and self.waits_at_exit:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    def check_is_ours(self) -> None:
        """Raise RuntimeError in a forked child, which cannot use its parent's queue."""
        if self.is_of_parent:
            raise RuntimeError("this JobQueue belongs to the parent process; make one of your own")

    def _wait_for_room(self, block: bool) -> None:
        while self._num_pending() - self._num_unprocessed >= self.maxsize:
            if not block:
                raise Full(f"{self.maxsize} jobs wait or work, as many as maxsize allows")
            self.changed.wait()
            self._check_open()

    def _num_pending(self) -> int:
        scheduler = self._scheduler
        return scheduler.num_waiting + len(scheduler.working) + self._num_unprocessed

    def num_left(self) -> int:
        """Count the jobs that are not completed."""
        with self._lock:
            return self._num_pending()

    def sizes(self) -> tuple[int, int, int]:
        """Count the jobs that wait, that work, and that are completed."""
        with self._lock:
            # The engine goes on meanwhile, so its count may be slightly out of date.
            engine, begun = self.engine, len(self._scheduler.working)
            limit = max(engine.max_workers, engine.num_workers)
            ahead = min(begun, max(engine.num_ahead, begun - limit))
            working = begun - ahead + self._num_unprocessed
            return self._scheduler.num_waiting + ahead, working, self._scheduler.num_completed

    def progress(self) -> Progress:
        """Count the jobs as a progress bar shows them."""
        with self._lock:
            totals, (_, working, _) = self._totals, self.sizes()
            completed = totals.num_ended - self._num_unprocessed
            return Progress(completed, totals.num_failed, self._num_pending(), working)

    def snapshot(self) -> tuple[Totals, dict[str, int], float]:
        """Return a copy of the totals, how many jobs wait and work, and the elapsed seconds."""
        with self._lock:
            totals = self._totals.copy()
            waiting, working, _ = self.sizes()
            last_s = monotonic() if self._num_pending() else totals.last_ended_s
            firsts = [job._submitted for job in self._scheduler.working.values()]
            first_s = min([totals.first_submitted_s, *firsts])
            return totals, {"waiting": waiting, "working": working}, max(0.0, last_s - first_s)

    def held(self) -> list[Job]:
        """List the jobs that were not fetched: waiting, working and completed."""
        with self._lock:
            return self._scheduler.held()

    def has_completed_or_is_done(self) -> bool:
        """Return whether a job is completed, or none is left that could be."""
        with self._lock:
            return self._scheduler.num_completed > 0 or not self._num_pending()

    def pop_completed(self) -> Job | None:
        """Return a completed job, or None; the caller holds the lock of `changed`."""
        return self._scheduler.pop_completed()

    def give_back(self, jobs: Iterable[Job]) -> None:
        """Make completed jobs available to `pop_completed` again."""
        with self._lock:
            for job in jobs:
                self._scheduler.complete(job)

    def cancel(self, job: Job) -> bool:
        """Cancel a job; see `Job.cancel`."""
        with self._lock:
            if job._state in (FINISHED, CANCELLED):
                return job._state == CANCELLED
            if self._scheduler.is_waiting(job):
                self._cancel([job])
                return True
            if not self.engine.can_kill:
                return False
            job._settle(CANCELLED, None, None)
            self._driver.orders.append(partial(self.engine.kill, job))
        self.engine.wake()
        if job._watched:
            self._reporter.put(job._call_back)
        return True

    def _leave_none_waiting(self, jobs: Iterable[Job]) -> None:
        """Settle the jobs that are lost because a signal handler raised during `_cancel`."""
        for job in jobs:
            if job.id not in self._scheduler.working and not self._scheduler.is_waiting(job):
                job._settle(CANCELLED, None, None)
        self.changed.notify_all()

    def cancel_waiting(self) -> None:
        """Cancel the jobs that have not begun."""
        with self._lock:
            self._cancel(self._scheduler.waiting())
            self._unwanted.update(self._scheduler.working)
        self._order(self.engine.recall)

    def cancel_waiting_of(self, jobs: Iterable[Job]) -> None:
        """Cancel those of these jobs that have not begun."""
        with self._lock:
            self._cancel(jobs)
            sent = [job.id for job in jobs if job.id in self._scheduler.working]
            self._unwanted.update(sent)
        if sent:
            self._order(self.engine.recall)

    def _cancel(self, jobs: Iterable[Job]) -> None:
        """Cancel those of these jobs that wait in the scheduler."""
        jobs = list(jobs)
        try:
            waiting = [job for job in jobs if self._scheduler.remove(job)]
            self._finish([(job, CANCELLED, None, None) for job in waiting])
        except BaseException:
            self._leave_none_waiting(jobs)
            raise

    def cancel_and_wait(self, jobs: Collection[Job]) -> None:
        """Cancel jobs, first those that have not begun, and wait until no process runs them."""
        self.cancel_waiting_of(jobs)
        for job in jobs:
            self.cancel(job)
        with self.changed:
            while self._thread not in (None, threads.current_thread()) and any(
                job.id in self._scheduler.working for job in jobs
            ):
                self.changed.wait()

    def cancel_all(self) -> None:
        """Cancel the waiting jobs, and kill the running ones if the engine can."""
        self.cancel_waiting()
        self.cancel_working()

    def abort(self) -> None:
        """Cancel the waiting jobs, kill the running ones, and wait for no leftovers of jobs."""
        self.cancel_all()
        self._order(self.engine.hurry)

    def cancel_working(self) -> None:
        """Kill the running jobs if the engine can."""
        with self._lock:
            working = list(self._scheduler.working.values())
        for job in working:
            self.cancel(job)

    def reprioritise(self, job: Job, priority: float) -> bool:
        """Change the priority of a job; False if it has begun."""
        with self._lock:
            return self._scheduler.reprioritise(job, priority)

    def resize(self, max_workers: int) -> None:
        """Change the number of workers."""
        self._order(lambda: self.engine.resize(max_workers))

    def resume(self) -> None:
        """Run jobs: from the first call on, or again after `pause`."""
        with self._lock:
            self.paused = False
            if self._thread is None and self._scheduler.num_waiting:
                self._start_thread()
        self._order(None)

    def pause(self) -> None:
        """Start no more jobs."""
        with self._lock:
            self.paused = True
        self._order(self.engine.recall)

    def _order(self, order: Callable[[], None] | None) -> None:
        """Have the dispatcher's thread call a function of the engine."""
        with self._lock:
            if self._thread is None:
                if order is not None:
                    order()
                return
            if order is not None:
                self._driver.orders.append(order)
        self.engine.wake()

    def start_workers(self) -> None:
        """Start all workers in this thread, before there are jobs for them."""
        with self._lock:
            self._check_open()
            if self._thread is None:
                self.engine.grow(self.engine.max_workers)
                self._start_thread()

    def wait_for_few(self, num_waiting: int) -> None:
        """Wait until fewer than `num_waiting` jobs wait, or the queue is shut down."""
        with self._lock:
            self.changed.wait_for(lambda: self._scheduler.num_waiting < num_waiting or self.shut)

    def shut_down(self, *, wait: bool, cancel_waiting: bool) -> None:
        """Accept no more jobs; those in the queue still run. See `JobQueue.shutdown`."""
        with self._lock:
            self.shut = True
            self.changed.notify_all()
        if cancel_waiting:
            self.cancel_waiting()
        self.resume()
        with self._lock:
            if self._thread is None:
                self._close()
        if wait:
            self.join()

    def join(self) -> None:
        """Wait until the threads of a queue that was shut down have ended."""
        if threads.current_thread() not in (self._thread, self._reporter.thread):
            with self._lock:
                self.changed.wait_for(lambda: self._thread is None)
            self._reporter.join()

    # -- the thread ----------------------------------------------------------------------------

    def _start_thread(self) -> None:
        thread = threads.Thread(self.run, f"qmill-dispatcher-{self.qid}")
        try:
            self._thread = thread
            if not _started(thread):
                self._thread = threads.current_thread()
        except BaseException:  # Ctrl-C; if the thread has started after all, `run` notices and ends
            self._thread = None
            raise

    def is_run_by(self, thread: threading.Thread) -> bool:
        """Return whether this thread runs the queue, as no thread could be started for it."""
        return self._thread is thread

    def run(self) -> None:
        """Dispatch jobs until the thread is not needed any more."""
        with self._lock:
            if not self.is_run_by(threads.current_thread()):
                return
        try:
            self._driver.drive()
        except BaseException as error:  # a fault in qmill: log it, and let no caller wait for ever
            self._give_up(error)
            logger.critical("the dispatcher of %s has failed", self.qid, exc_info=error)

    def offer_to(self, engine: Engine) -> tuple[list[Job], int]:
        """Offer jobs to the engine until it has no room for more; see `Jobs`."""
        with self._lock:
            now = monotonic()
            expired = self._scheduler.due(now)
            if expired:
                self._timed_out.update(job.id for job in expired)
            return expired, 0 if self.paused else self._offer_jobs(now)

    def rest(self, num_refused: int) -> float | None:
        """Return the seconds until the next deadline or retry; see `Jobs`."""
        engine, scheduler = self.engine, self._scheduler
        with self._lock:
            is_idle = not (scheduler.working or scheduler.num_waiting)
            stay_s = self._stay_s() if is_idle else math.inf
            if stay_s <= 0 and not self._driver.orders and self._ends():
                return END_S
            # Until the next round, a put has to wake this thread only if the engine has room.
            has_room = not num_refused or engine.num_startable > 0
            self._wake_on_put = has_room and not self.paused
            news = not self.paused and not num_refused and scheduler.first() is not None
            if news or self._driver.orders:
                return 0.0
            due = scheduler.next_due()
            left_s = stay_s if due is None else max(0.0, due - monotonic())
            # Without jobs and without time left, the ends of workers are waited for.
            return None if left_s == math.inf or stay_s <= 0 else min(left_s, native.LONGEST_WAIT_S)

    def _offer_jobs(self, now: float) -> int:
        """Offer jobs to the engine until it refuses one; return how many then wait."""
        engine, scheduler = self.engine, self._scheduler
        debug = logger.isEnabledFor(logging.DEBUG)
        while (job := scheduler.first()) is not None:
            sendable = not isinstance(job._packet, SerializationError)
            if sendable and not engine.offer(job):
                return scheduler.num_waiting
            scheduler.take(now, keep_time=not engine.keeps_time)
            job._state = RUNNING
            job._started = now
            job.attempts += 1
            if not sendable:
                job._ended, job.exitcode = now, 1
                self._take_failure(job, job._packet, Failure.FAILED, False)
            elif debug:
                self._reporter.put(logger.debug, "Started job: '%s'", job.name)
        return 0

    def take(self, reports: list[Report]) -> None:
        """Take in reports of the engine; see `Jobs`."""
        finished: list[Ended] = []
        with self._lock:
            for report in reports:
                what, job, value, started, ended, _, _ = report
                if (
                    what == DONE
                    and job is not None
                    and (job.id not in self._timed_out or not is_late(job, started, ended))
                    and (not job._is_chunk or cast("Chunk", job).is_whole(value))
                ):
                    job._started, job._ended = started, ended
                    job.exitcode, job.worker = report.exitcode, report.worker
                    self._scheduler.finish(job, failed=False)
                    self._timed_out.discard(job.id)
                    finished.append((job, FINISHED, value, None))
                else:
                    self._take_other(report)
            if finished:
                self._finish(finished)
            if not self._scheduler.working:
                self._unwanted.clear()

    def _ends(self) -> bool:
        """Return whether this thread, which has no jobs, ends: its workers end before that."""
        if self.engine.num_workers:
            self.engine.stop_workers()
            return False
        self._thread = None
        self._unwanted.clear()
        if self.shut:
            self._close()
        self.changed.notify_all()
        return True

    def _stay_s(self) -> float:
        """Return for how many more seconds idle workers have to stay."""
        if self.shut or self._auto_stop_s == math.inf:
            return 0.0 if self.shut else math.inf
        return self._totals.last_ended_s + self._auto_stop_s - monotonic()

    def _close(self) -> None:
        """Close the engine and the log; there are no jobs and no workers."""
        if self.closed:
            return
        self.closed = True
        self.engine.close()
        if logger.isEnabledFor(logging.DEBUG):
            self._reporter.put(logger.debug, "Stopped queue: '%s'", self.qid)
        self._reporter.end()

    def _give_up(self, error: BaseException) -> None:
        with self._lock:
            self.shut = True
            jobs = [*self._scheduler.remove_all(), *self._scheduler.working.values()]
            failure = RuntimeError(f"the queue {self.qid} has failed")
            failure.__cause__ = error
            for job in jobs:
                job._failure = Failure.FAILED
            self._finish([(job, FINISHED, None, failure) for job in jobs])
            for job in list(self._scheduler.working.values()):
                self._scheduler.finish(job, failed=False)
            self._thread = None
            self._reporter.end()
            self.changed.notify_all()

    def forget_in_child(self) -> None:
        """Release, in a forked child, all that belongs to the parent; its jobs never end here."""
        self.changed = self._lock = native.Condition()
        self.engine.forget_in_child()
        self.shut = self.is_of_parent = True
        self._thread = None
        self._reporter = Reporter(self, self._log, _started)
        scheduler = self._scheduler
        for job in [*scheduler.remove_all(), *scheduler.working.values()]:
            if job._watched:
                job._condition = native.Condition()
                job._done_callbacks = []
            job._settle(FINISHED, None, RuntimeError("this job belongs to the parent process"))
            if job._sink is not None:
                job._sink.append(job)
        self._scheduler = Scheduler()
        self._num_unprocessed = 0


def _started(thread: threading.Thread) -> bool:
    """Start a thread; False if the interpreter is exiting and starts none (Python 3.12)."""
    try:
        thread.start()
    except RuntimeError:
        if not _exiting:
            raise
        return False
    return True


# -- exit and fork of this process --------------------------------------------------------------

_all = Alive()
_exiting = False


def _end_all() -> None:
    """Run the pending jobs and end; after Ctrl-C, cancel and kill them instead."""
    global _exiting
    _exiting = True
    dispatchers = [dispatcher for dispatcher in _all if dispatcher.waits_at_exit]
    interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt
    for dispatcher in dispatchers:
        if interrupted:
            dispatcher.abort()
        dispatcher.shut_down(wait=False, cancel_waiting=False)
    for dispatcher in dispatchers:
        try:
            if dispatcher.is_run_by(threads.current_thread()):
                dispatcher.run()
            dispatcher.join()
        except KeyboardInterrupt:
            for each in dispatchers:
                each.abort()
            dispatcher.join()
    if not interrupted:
        failures.tell_unseen()


def end_others() -> None:
    """End the queues with `waits_at_exit` false, after all threads of the program have ended."""
    dispatchers = list(_all)
    for dispatcher in dispatchers:
        dispatcher.abort()
        dispatcher.shut_down(wait=False, cancel_waiting=True)
    for dispatcher in dispatchers:
        if dispatcher.engine.can_kill:  # otherwise a job may run for ever
            dispatcher.join()


def _after_fork_in_child() -> None:
    global _all, _exiting
    jobs_job.after_fork_in_child()
    records.after_fork_in_child()
    for dispatcher in list(_all):
        dispatcher.forget_in_child()
    _all = Alive()
    _exiting = False


lifecycle.at_exit(lifecycle.PENDING_JOBS, _end_all)
lifecycle.at_exit(lifecycle.JOB_QUEUES, end_others)
lifecycle.at_fork(lifecycle.JOB_QUEUES, in_child=_after_fork_in_child)
