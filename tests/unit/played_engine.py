"""An engine whose workers are played by the test, on a clock that the test moves.

    dispatcher's thread ── offer, flush, kill ──> engine.running, engine.killed
                        <── reports ── engine.finish, fail, die, ... <── the test

The dispatcher's thread rests in `wait` until a report, `wake` or `advance` ends its rest, so the
test sees the engine only between two rounds: after `settle`.
"""

from __future__ import annotations

import threading

from qmill import WorkerDied
from qmill.engines.api import (
    DIED,
    DONE,
    FAILED,
    NOT_STARTED,
    RETURNED,
    Engine,
    Report,
)

LIMIT_S = 30.0


class PlayedEngine(Engine):
    """Starts a worker for each job that finds none, and runs nothing.

    Attributes:
        now: The moment, in seconds: the dispatcher's clock.
        running: The jobs that workers have begun, in the order of their beginnings.
        ahead: The jobs that were sent to a busy worker, of which each takes `max_ahead`.
        begun: All jobs that were ever begun.
        killed: All jobs that the dispatcher had killed.
        asked: The numbers of workers that the dispatcher asked for.
        kills: Whether a killed job's worker dies at once; otherwise the test has to `die`.
        closed: Whether `close` was called.
        fault: Raised by the next `wait`.
    """

    can_kill = True

    def __init__(self, max_workers=1, max_ahead=0):
        self.max_workers = max_workers
        self.max_ahead = max_ahead
        self.now = 1000.0
        self.running, self.ahead, self.begun, self.killed, self.asked = [], [], [], [], []
        self.kills, self.closed, self.fault = True, False, None
        self._num_workers = 0
        self._accepted = []
        self._reports = []
        self._woken = self._rests = False
        self._timeout = None
        self._changed = threading.Condition()

    def clock(self):
        return self.now

    # -- for the dispatcher ------------------------------------------------------------------------

    def prepare(self, job, moment=None):
        pass

    def offer(self, job):
        taken = len(self.running) + len(self.ahead) + len(self._accepted)
        if taken >= self._num_workers * (1 + self.max_ahead):
            return False
        self._accepted.append(job)
        return True

    def flush(self):
        for job in self._accepted:
            if len(self.running) < self._num_workers:
                self._begin(job)
            else:
                self.ahead.append(job)
        self._accepted.clear()

    def grow(self, num_waiting):
        self.asked.append(num_waiting)
        more = min(num_waiting, self.num_startable)
        if more > 0:
            self._num_workers += more
            self.wake()

    @property
    def num_startable(self):
        return self.max_workers - self._num_workers

    @property
    def num_workers(self):
        return self._num_workers

    @property
    def num_ahead(self):
        return len(self.ahead)

    def resize(self, max_workers):
        self.max_workers = max_workers

    def kill(self, job):
        self.killed.append(job)
        if job in self.ahead:
            self.give_back(job)
        elif self.kills and job in self.running:
            self.die(job)

    def recall(self):
        for job in list(self.ahead):
            self.give_back(job)

    def wait(self, timeout):
        with self._changed:
            if self.fault is not None:
                raise self.fault
            self._timeout = timeout
            if timeout != 0:
                end = None if timeout is None else self.now + timeout
                self._rests = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._is_awake(end))
                self._rests = self._woken = False
            reports, self._reports = self._reports, []
            return reports

    def _is_awake(self, end):
        return self._woken or self._reports or self.fault or (end is not None and self.now >= end)

    def wake(self):
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def stop_workers(self):
        assert not self.running
        self._num_workers = 0
        self.wake()

    def close(self):
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    # -- for the test ------------------------------------------------------------------------------

    def settle(self):
        """Wait until the dispatcher rests; return its timeout."""
        with self._changed:
            rests = self._changed.wait_for(self._has_settled, LIMIT_S)
            assert rests, "the dispatcher does not come to rest"
            return self._timeout

    def _has_settled(self):
        end = None if self._timeout is None else self.now + self._timeout
        return self._rests and not self._is_awake(end)

    def advance(self, seconds):
        """Let time pass."""
        self.settle()
        with self._changed:
            self.now += seconds
            self._timeout = None if self._timeout is None else max(0.0, self._timeout - seconds)
            self._changed.notify_all()

    def finish(self, job, result=None):
        """End a job with a result."""
        self._end(Report(DONE, job, result, job._started, self.now, 0, "played"))

    def fail(self, job, error):
        """End a job with an exception."""
        self._end(Report(FAILED, job, error, job._started, self.now, 1, "played"))

    def die(self, job):
        """End a job's worker by SIGKILL."""
        self._num_workers -= 1
        error = WorkerDied(4711, -9, 9, job.name)
        self._end(Report(DIED, job, error, job._started, self.now, -9, "played"))

    def give_back(self, job):
        """Return a job that was sent ahead."""
        self.ahead.remove(job)
        self._report(Report(RETURNED, job))

    def fail_to_start(self, error):
        """Lose a worker before it has begun a job."""
        self._num_workers -= 1
        self._report(Report(NOT_STARTED, None, error))

    def break_down(self, error):
        with self._changed:
            self.fault = error
            self._changed.notify_all()

    def _begin(self, job):
        self.running.append(job)
        self.begun.append(job)

    def _end(self, report):
        self.running.remove(report.job)
        if report.what == DIED:
            self.recall()
        elif self.ahead:
            self._begin(self.ahead.pop(0))
        self._report(report)

    def _report(self, report):
        with self._changed:
            self._reports.append(report)
            self._changed.notify_all()
