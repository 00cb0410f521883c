"""The base of engines that wait for processes: a selector, process trees that end, a wake-up."""

from __future__ import annotations

import itertools
import selectors
from abc import abstractmethod
from time import monotonic
from typing import Any

from ..processes.trees import EndingTrees
from ..system import native
from .api import NOT_STARTED, Engine, Report, Settings
from .wake import WakePipe


class SelectorEngine(Engine):
    """An engine that waits in a selector; the data of its files are functions to call."""

    def __init__(self) -> None:
        self._reports: list[Report] = []
        with native.fork_lock:
            self._selector = native.default_selector()
            self._trees = EndingTrees(self._selector)
            self._wake_pipe = WakePipe()
        self._selector.register(self._wake_pipe, selectors.EVENT_READ, self._wake_pipe.clear)

    def wait(self, timeout: float | None) -> list[Report]:
        """Wait for messages and ends of workers; see `Engine`."""
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
        """Return the moment at which `_do_what_is_due` has something to do, or None."""
        return self._trees.next_due()

    def _do_what_is_due(self, now: float) -> None:
        self._trees.kill_due(now)

    def wake(self) -> None:
        """End the wait of the dispatcher; see `Engine`."""
        self._wake_pipe.wake()

    def close(self) -> None:
        """Kill the trees that are being ended, and close all files; see `Engine`."""
        self._trees.close()
        self._selector.close()
        self._wake_pipe.close()

    def forget_in_child(self) -> None:
        """Close the parent's files; see `Engine`."""
        self._trees.forget_in_child()
        self._selector.close()
        self._wake_pipe.forget_in_child()


class WorkerEngine(SelectorEngine):
    """An engine with workers that are processes; a worker is `ready` once it has started.

    A subclass adds workers to `_workers` when they start, and to `_idle` when they wait for a job.

    Args:
        settings: As for all engines.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings
        self.max_workers = settings.max_workers
        self._names = (f"{settings.name}-{number}" for number in itertools.count(1))
        self._workers: list[Any] = []
        self._idle: list[Any] = []

    @abstractmethod
    def _start_worker(self) -> None:
        """Start a worker."""

    def grow(self, num_waiting: int) -> None:
        """Start a worker for each waiting job, up to the limit; see `Engine`."""
        starting = sum(not worker.ready for worker in self._workers)
        wanted = min(num_waiting - starting - len(self._idle), self.num_startable)
        for _ in range(wanted):
            try:
                self._start_worker()
            except Exception as error:  # no processes or descriptors left, or a bad initializer
                if not self._workers:
                    self._reports.append(Report(NOT_STARTED, None, error))
                return

    @property
    def num_workers(self) -> int:
        """The number of workers, and of dead ones whose process trees have not ended yet."""
        return len(self._workers) + len(self._trees)
