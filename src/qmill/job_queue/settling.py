"""The ends of a queue's jobs: a report of the engine settles its job, or gives it another attempt.

report ──┬──> settled ──┬──────────────> completed
         │              └── reporter ──> completed
         └──> retried, or put back into the scheduler
"""

from __future__ import annotations

import contextlib
import logging
from time import monotonic
from typing import Any

from ..engines.api import DIED, LOGGED, NOT_STARTED, RETURNED, TIMED_OUT, Outcome, Report, lost
from ..errors import JobTimeout, LaneError
from ..jobs import job as jobs_job
from ..jobs.failures import HOW, Failure, explain_failure, failure_of
from ..jobs.job import CANCELLED, FINISHED, PENDING, Chunk, Job
from ..jobs.records import RecordLog
from ..jobs.scheduler import Scheduler
from ..jobs.totals import Totals
from ..system import native
from .reporter import Reporter, call_callback, handle_record, write_record

logger = logging.getLogger("qmill")

Ended = tuple[Job, str, Any, BaseException | None]
"""A job, its state, result and exception."""


class Settler:
    """Settles jobs as the engine reports; the base of `Dispatcher`.

    Args:
        qid: The name of the queue.
        log: The file for the records of the jobs.
        auto_remove: Whether completed jobs are discarded.
        reporter: Calls callbacks and handlers of log records, and writes the log.

    Attributes:
        changed: The condition of the lock that guards the scheduler and the state of every job.
        paused: Whether no more jobs begin.
    """

    def __init__(
        self, qid: str, log: RecordLog | None, auto_remove: bool, reporter: Reporter
    ) -> None:
        self.qid = qid
        self.paused = True
        self.changed = self._lock = native.Condition()
        self._log = log
        self._auto_remove = auto_remove
        self._reporter = reporter
        self._scheduler = Scheduler()
        self._totals = Totals()
        self._timed_out: set[int] = set()
        self._unwanted: set[int] = set()  # cancelled if the engine returns them as not begun
        self._num_unprocessed = 0  # finished jobs that are not completed

    def _take_other(self, report: Report) -> None:
        """Take in a report of anything but a job that has returned in time."""
        what, job = report.what, report.job
        if what == LOGGED:
            self._reporter.put(handle_record, report.value)
        elif what == NOT_STARTED:
            self._take_start_failure(report)
        elif job is None:
            raise AssertionError(report)
        elif what == RETURNED:
            self._take_returned(job)
        else:
            job._started = report.started_s or job._started
            job._ended = report.ended_s or monotonic()
            job.exitcode, job.worker = report.exitcode, report.worker
            if what == TIMED_OUT:
                self._timed_out.add(job.id)
            if isinstance(job, Chunk) and isinstance(report.value, tuple):
                self._take_chunk(job, report.value)
            else:
                failure = Failure.DIED if what == DIED else Failure.FAILED
                self._take_failure(job, report.value, failure, True)

    def _take_start_failure(self, report: Report) -> None:
        """Fail the job for which a worker could not be started."""
        job = None if self.paused else self._scheduler.first()
        if job is None:
            with contextlib.suppress(BaseException):  # a handler that raises
                logger.warning("a worker of %s could not start", self.qid, exc_info=report.value)
            return
        now = monotonic()
        self._scheduler.take(now)
        job.attempts += 1
        job._started = job._ended = now
        self._take_failure(job, report.value, failure_of(report.value), True)

    def _take_returned(self, job: Job) -> None:
        """Put back a job that a worker has returned without beginning it, or cancel it."""
        if job._state == CANCELLED or job.id in self._unwanted:
            self._drop(job)
            return
        self._timed_out.discard(job.id)
        job._state = PENDING
        job._started = None
        job.attempts -= 1
        self._scheduler.put_back(job)

    def _drop(self, job: Job) -> None:
        """Cancel a job that was dispatched; the next job of its lane may run."""
        self._scheduler.finish(job, failed=False)
        self._finish([(job, CANCELLED, None, None)])

    def _take_chunk(self, chunk: Chunk, outcome: Outcome) -> None:
        """Take in the results of a chunk's attempt; the next attempt makes the remaining calls."""
        if chunk._state == CANCELLED:
            self._drop(chunk)
            return
        num_again = chunk.add(outcome)
        if chunk._to_do and chunk.id in self._unwanted:
            self._drop(chunk)
            return
        if chunk._to_do:
            self._totals.add_retry(chunk, num_again)
            chunk._state = PENDING
            self._scheduler.retry(chunk, monotonic(), backs_off=num_again > 0)
            return
        results, errors = chunk.outcome()
        if errors:
            kinds = map(failure_of, errors.values())
            chunk._failure = Failure.FAILED if Failure.FAILED in kinds else Failure.DIED
        self._end(chunk, (results, errors), None, bool(errors))

    def _take_failure(
        self, job: Job, error: BaseException, failure: Failure, retryable: bool
    ) -> None:
        """Retry a job whose attempt has failed, or let it end."""
        if job._state == CANCELLED:
            self._drop(job)
            return
        options = job._options
        if isinstance(job, Chunk) and job._to_do is not None:
            # No call of this attempt was made. As for a single call, the first one counts as tried.
            self._take_chunk(job, lost(1, error))
            return
        if job.id in self._timed_out:
            self._timed_out.discard(job.id)
            failure = Failure.TIMED_OUT
            retryable = options.retry_timeouts
            error = JobTimeout(
                f"{job._title} ran longer than its timeout of {options.timeout:g} s and was killed"
            )
        if retryable and job.attempts <= options.retries:
            self._totals.add_retry(job)
            job._state = PENDING
            delay = self._scheduler.retry(job, monotonic())
            if logger.isEnabledFor(logging.DEBUG):
                self._reporter.put(
                    logger.debug, "Retrying job: '%s' in %.3f s: %r", job.name, delay, error
                )
            return
        job._failure = failure
        explain_failure(job, error)
        self._end(job, None, error, True)

    def _end(self, job: Job, result: Any, error: BaseException | None, failed: bool) -> None:
        """Settle a job that has failed, or a chunk, and the jobs that it stops in its lane."""
        stopped = self._scheduler.finish(job, failed=failed)
        finished: list[Ended] = [(job, FINISHED, result, error)]
        for follower in stopped:
            why = (
                f"{follower._title} was cancelled: {job._title}, before it in lane "
                f"{follower.lane!r}, {HOW[job._failure]}"
            )
            follower.exitcode = job.exitcode
            finished.append((follower, CANCELLED, None, LaneError(why)))
        self._finish(finished)

    def _finish(self, finished: list[Ended]) -> None:
        """Settle and complete jobs, through the reporter if callbacks or log files need it."""
        telling = self._log is not None or logger.isEnabledFor(logging.DEBUG)
        now = monotonic()
        self._totals.add(finished, now)
        for job, state, result, error in finished:
            if job._ended is None:
                job._ended = now
            if job._failure and job._kept and not job._options.suppress_errors:
                job._fail_loudly(error)
            job._settle(state, result, error)
            if job._sink is not None:
                job._sink.append(job)
            job._packet = job._environment = None
            if (
                job._kept and (telling or job._callback is not None)
            ) or job._watched & jobs_job.HAS_CALLBACKS:
                self._num_unprocessed += 1
                self._reporter.put(self._process, job)
            else:
                self._complete(job, now)
        self.changed.notify_all()

    def _complete(self, job: Job, now: float) -> None:
        job._processed = now
        if not job._kept:
            job._let_go()
        else:
            if job._remains is not None:
                job._let_go_of_much()
            if not self._auto_remove:
                self._scheduler.complete(job)

    def _process(self, job: Job) -> None:
        """Call a job's callbacks, write its record, and complete it; called by the reporter."""
        now = monotonic()
        try:
            job._call_back()
            if job._callback is not None:
                call_callback(job)
            job._processed = now = monotonic()
            if job._kept and self._log is not None:
                write_record(self._log, job)
            logger.debug("Completed job: '%s'", job.name)
        finally:
            with self._lock:
                self._num_unprocessed -= 1
                self._complete(job, now)
                self.changed.notify_all()


def is_late(job: Job, started: float | None, ended: float | None) -> bool:
    """Return whether a job that is being killed has ended after its deadline."""
    timeout = job._options.timeout
    begun = job._started  # the start that the dispatcher recorded; the deadline counts from it
    if timeout is None or begun is None or started is None or ended is None:
        return False
    return ended >= begun + timeout
