"""The reporter of a job queue: the thread that calls functions of the user, one after another.

    dispatcher, callers ── put(function, *args) ──> inbox ──> reporter

A callback, or a handler of log records, may take long or raise anything; jobs are dispatched and
killed in time meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from ..system import native, threads

if TYPE_CHECKING:
    from collections.abc import Callable
    from queue import SimpleQueue

    from ..jobs.job import Job
    from ..jobs.records import RecordLog
    from .settling import Settler

logger = logging.getLogger("qmill")


class Reporter:
    """A thread that makes calls in their order; it starts with the first one.

    Args:
        dispatcher: The queue's dispatcher. It lives as long as the thread, since the program's end
            waits for the threads of those dispatchers that are alive.
        log: The file of records, which is closed after the last call; None for no file.
        start: Starts a thread; returns False if the interpreter is exiting and starts none.

    Attributes:
        is_over: Whether the reporter ends after the calls that it has.
        thread: The thread; None before the first call.
    """

    def __init__(
        self, dispatcher: Settler, log: RecordLog | None, start: Callable[[threading.Thread], bool]
    ) -> None:
        self._dispatcher = dispatcher
        self._log = log
        self._start = start
        self._inbox: SimpleQueue[Callable[[], object] | None] = native.simple_queue()
        self._start_lock = native.RLock()
        self.is_over = False
        self.thread: threading.Thread | None = None

    def put(self, function: Callable[..., object], *args: Any) -> None:
        """Have a function called; calls are made in the order of `put`."""
        self._inbox.put(partial(function, *args))
        with self._start_lock:
            if self.thread is None:
                thread = threads.Thread(self._run, f"qmill-reporter-{self._dispatcher.qid}")
                try:
                    self.thread = thread
                    if self._start(thread):
                        return
                except BaseException:  # as in `Dispatcher._start_thread`
                    self.thread = None
                    raise
                self.thread = threads.current_thread()
                self._inbox.put(None)
                self._run()
                self.thread = None

    def end(self) -> None:
        """End the thread after the calls that it has."""
        with self._start_lock:
            if self.is_over:
                return
            self.is_over = True
            if self.thread is not None:
                self._inbox.put(None)
            else:
                self._close_log()

    def join(self) -> None:
        """Wait until the thread has ended, after `end`."""
        if self.thread is not None:
            self.thread.join()

    def _run(self) -> None:
        with self._start_lock:
            if self.thread is not threads.current_thread():
                return
        # Threads that a callback starts inherit `daemon`; they are not to be daemons.
        self.thread._daemonic = False  # type: ignore[attr-defined]
        while (call := self._inbox.get()) is not None:
            # If a handler or a callback raises anything, even SystemExit, the next call is made.
            with contextlib.suppress(BaseException):
                call()
            del call
        self._close_log()

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()


def call_callback(job: Job) -> None:
    """Call the queue's callback with a job that has ended, and keep its result."""
    try:
        job._callback = job._callback(job)
    except BaseException as error:
        job._callback = error
        logger.exception("the callback of %s failed for job %s", job._owner.qid, job.name)


def write_record(log: RecordLog, job: Job) -> None:
    """Write a job's record into the file of records."""
    try:
        log.write([log.record_of(job)])
    except Exception:  # the disk is full; or `str` of a lane or a name raises
        logger.exception("the record of job %s could not be written", job.name)


def handle_record(record: logging.LogRecord) -> None:
    """Give a worker's log record to this process's handlers."""
    receiver = logging.getLogger(record.name)
    try:
        if receiver.isEnabledFor(record.levelno):
            receiver.handle(record)
    except BaseException:
        logger.exception("a handler failed for a record of %s", record.processName)
