"""The thread engine: jobs run in threads of this process, with no copies of their arguments.

    dispatcher ── jobs ──> inbox ──> threads ── reports ──> outbox ──> dispatcher

A thread cannot be killed, so this engine has no timeouts and no kills.
"""

from __future__ import annotations

import threading
import traceback
from enum import Enum
from queue import Empty
from time import monotonic
from typing import TYPE_CHECKING

from ..system import native
from .api import DONE, FAILED, Engine, Report, Settings, call

if TYPE_CHECKING:
    from collections.abc import Iterable
    from queue import SimpleQueue

    from ..jobs.job import Job


class _Note(Enum):
    """Messages in the outbox that are no reports."""

    ENDED = 0  # a thread has ended
    WAKE = 1  # the wait of the dispatcher is to end


_ENDED, _WAKE = _Note.ENDED, _Note.WAKE


class ThreadEngine(Engine):
    """Runs jobs in threads.

    Args:
        settings: As for all engines; limits of a worker's jobs and memory are ignored.

    Attributes:
        daemon: Whether the program exits without waiting for the threads. Threads that a job
            starts inherit this, unless they set their own.
        threads: The threads that have started and not ended.
    """

    daemon = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.max_workers = settings.max_workers
        self._inbox: SimpleQueue[Job | None] = native.simple_queue()
        self._outbox: SimpleQueue[Report | _Note] = native.simple_queue()
        self._accepted: list[Job] = []
        self._num_busy = 0  # jobs accepted and not reported
        self._num_threads = 0
        self._num_leaving = 0
        self._num_started = 0
        self.threads: set[threading.Thread] = set()

    def prepare(self, job: Job, moment: object = None) -> None:
        """Do nothing: a thread needs no pickling."""

    def offer(self, job: Job) -> bool:
        """Accept a job if a thread is free; see `Engine`."""
        if self._num_busy >= self.max_workers:
            return False
        self._num_busy += 1
        self._accepted.append(job)
        return True

    def flush(self) -> None:
        """Pass the accepted jobs to threads; see `Engine`."""
        jobs, self._accepted = self._accepted, []
        for job in jobs:
            self._inbox.put(job)
        self._start(self._num_busy)

    def _start(self, num_wanted: int) -> None:
        """Start threads until there are `num_wanted`, up to the limit."""
        missing = min(num_wanted, self.max_workers) - self._num_threads + self._num_leaving
        for _ in range(missing):
            self._num_threads += 1
            self._num_started += 1
            name = f"{self._settings.name}-{self._num_started}"
            try:
                threading.Thread(
                    target=self._run, args=(name,), name=name, daemon=self.daemon
                ).start()
            except RuntimeError:  # no more threads: the interpreter is exiting, or memory is short
                if self._num_threads == 1:  # there is no other: the calling thread runs the jobs
                    self._inbox.put(None)
                    self._run(name)
                else:
                    self._num_threads -= 1
                break

    def _run(self, name: str) -> None:
        """Run jobs until the inbox says to stop; the function of each thread."""
        self.threads.add(threading.current_thread())
        error: BaseException | None = None
        try:
            if self._settings.initializer is not None:
                self._settings.initializer(*self._settings.initargs)
        except BaseException as why:
            error = why
        while (job := self._inbox.get()) is not None:
            if error is not None:
                self._outbox.put(Report(FAILED, job, error, exitcode=1, worker=name))
                break
            report = _do(job, name)
            _let_go(report)
            self._outbox.put(report)
            del job, report
        self.threads.discard(threading.current_thread())
        self._outbox.put(_ENDED)

    def grow(self, num_waiting: int) -> None:
        """Start threads for waiting jobs, up to the limit; see `Engine`."""
        self._start(self._num_busy + num_waiting)

    @property
    def num_startable(self) -> int:
        """The number of jobs for which there is room."""
        return self.max_workers - self._num_busy

    @property
    def num_workers(self) -> int:
        """The number of threads."""
        return self._num_threads

    def resize(self, max_workers: int) -> None:
        """Change the number of threads; see `Engine`."""
        self.max_workers = max_workers
        self._end_threads(self._num_threads - self._num_leaving - max_workers)

    def stop_workers(self) -> None:
        """End all threads when they are idle; see `Engine`."""
        self._end_threads(self._num_threads - self._num_leaving)

    def _end_threads(self, number: int) -> None:
        for _ in range(number):
            self._num_leaving += 1
            self._inbox.put(None)

    def wait(self, timeout: float | None) -> list[Report]:
        """Wait for reports of threads; see `Engine`."""
        reports: list[Report] = []
        try:
            self._take(self._outbox.get(timeout=timeout), reports)
            while True:
                self._take(self._outbox.get_nowait(), reports)
        except Empty:
            return reports

    def _take(self, report: Report | _Note, reports: list[Report]) -> None:
        if isinstance(report, Report):
            self._num_busy -= 1
            reports.append(report)
        elif report is _ENDED:
            self._num_threads -= 1
            self._num_leaving = max(0, self._num_leaving - 1)

    def wake(self) -> None:
        """End the wait of the dispatcher; see `Engine`."""
        self._outbox.put(_WAKE)

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


_OURS = (__name__, call.__module__)


def _do(job: Job, name: str) -> Report:
    """Run a job and return its report."""
    started = monotonic()
    try:
        value = call(job)
        return Report(DONE, job, value, started, monotonic(), 0, name)
    except SystemExit as error:
        if not error.code:
            return Report(DONE, job, None, started, monotonic(), 0, name)
        return Report(FAILED, job, error, started, monotonic(), 1, name)
    except BaseException as error:
        return Report(FAILED, job, error, started, monotonic(), 1, name)


def _let_go(report: Report) -> None:
    """Release the objects in the frames of an exception, which would live as long as the job.

    Frames of qmill hold the job, which holds the exception; a user's may hold an iterator and its
    lease.
    """
    assert report.job is not None
    errors: Iterable[BaseException] = ()
    if report.what is FAILED:
        errors = (report.value,)
    elif report.job._is_chunk and report.value is not None:
        errors = report.value[1].values()
    for error in errors:
        trace = error.__traceback__
        traceback.clear_frames(trace)
        while trace is not None and trace.tb_frame.f_globals.get("__name__") in _OURS:
            trace = trace.tb_next
        # Tracebacks begin at the user's code. An exception class may refuse the assignment.
        BaseException.with_traceback(error, trace)
