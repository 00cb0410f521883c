"""Which short jobs wait in a worker behind a running one, and which of them are taken back.

A job is sent ahead if its worker has little work by measurement. It is taken back when the work
before it takes longer than that, or when another worker is idle.

This module has no clock, threads or files: callers pass moments, in seconds.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .api import CHUNK_S
from .functions import UNKNOWN_S

if TYPE_CHECKING:
    from ..jobs.job import Job
    from .api import Report
    from .knowledge import Knowledge

AHEAD_S = 0.010
"""Seconds of work, by measurement, up to which jobs are sent ahead to a busy worker.

Jobs that have waited in a worker for longer than this are taken back.
"""

CHUNKS_AHEAD_S = 2.5 * CHUNK_S
"""The same for chunks of a map: one that runs, one that waits, and the error of measurement."""

TINY_S = 0.0001
"""Seconds. It takes longer to move a job to another worker than to run it, if it is this short."""

AHEAD_JOBS = 64
"""The most jobs that one worker has at a time, for each that it runs at a time."""

NEVER = float("inf")
"""A moment that does not come; and no limit."""


class Load:
    """The jobs that a worker has.

    Attributes:
        knowledge: The definitions that it has.
        num_slots: How many of its jobs run at a time.
        jobs: The jobs that it has and has not answered, in the order of sending.
        num_given: How many jobs it was given since its start.
        cost_s: The expected duration of its jobs, by measurement.
        since_s: When it was given its first job, or gave its last answer.
        leaving: Whether it gets no more jobs.
    """

    def __init__(self, knowledge: Knowledge, num_slots: int = 1) -> None:
        self.knowledge = knowledge
        self.num_slots = num_slots
        self.jobs: dict[int, Any] = {}
        self.num_given = 0
        self.cost_s = 0.0
        self.since_s = 0.0
        self.leaving = False

    @property
    def num_ahead(self) -> int:
        """The number of its jobs that wait behind others."""
        return max(0, len(self.jobs) - self.num_slots)

    def give(self, key: int, job: Any, cost_s: float) -> None:
        """Add a job of this expected duration."""
        self.jobs[key] = job
        self.num_given += 1
        self.cost_s += cost_s

    def has_room_for(self, job: Job, cost_s: float, limit_s: float) -> bool:
        """Return whether a job may wait here, behind at most `limit_s` of work for each slot."""
        return (
            self.cost_s + cost_s <= limit_s * self.num_slots
            and len(self.jobs) < AHEAD_JOBS * self.num_slots
            and self.knowledge.suffices_for(job)
        )

    def answered(self, job: Job, answer: Report) -> None:
        """Note the answer of a job that was removed from `jobs`, and measure its function."""
        started_s, ended_s = answer.started_s, answer.ended_s
        assert started_s is not None
        assert ended_s is not None
        subject, self.since_s = job._subject, ended_s
        if subject is not None:
            self.cost_s -= subject.pace.cost_s * job._num_to_do
            subject.pace.measure(ended_s - started_s, job._num_to_do)

    def doubt(self) -> None:
        """Let no more jobs wait here until it has proved to be quick."""
        self.cost_s = UNKNOWN_S

    def overdue_from(self, limit_s: float) -> float:
        """Return the moment from which its waiting jobs are to be taken back; inf: there are none.

        Args:
            limit_s: How long they may have waited for one answer.
        """
        return self.since_s + limit_s if len(self.jobs) > self.num_slots else NEVER

    def may_share(self, idle_since_s: float) -> bool:
        """Return whether its waiting jobs are better moved to a worker that is idle.

        Otherwise a job put later would run before them. Jobs stay if they are so short that their
        worker will have finished them sooner.
        """
        number = len(self.jobs)
        least_s = number * TINY_S
        return number > 1 and (self.cost_s >= least_s or idle_since_s - self.since_s > least_s)


AnyLoad = TypeVar("AnyLoad", bound=Load)


class Takers(Generic[AnyLoad]):
    """The busy workers of an engine to which jobs may be sent ahead, in turn.

    Args:
        max_jobs: How many jobs a worker is given; None is no limit.
    """

    def __init__(self, max_jobs: int | None) -> None:
        self._max_jobs = NEVER if max_jobs is None else max_jobs
        self._loads: deque[AnyLoad] = deque()
        self._present: set[AnyLoad] = set()

    def has_had_all(self, load: AnyLoad) -> bool:
        """Return whether a worker has had as many jobs as it is given."""
        return load.num_given >= self._max_jobs

    def add(self, load: AnyLoad) -> None:
        """Let a worker take more jobs, if it gets any."""
        if load not in self._present and not load.leaving and load.num_given < self._max_jobs:
            self._present.add(load)
            self._loads.append(load)

    def remove(self, load: AnyLoad) -> None:
        """Remove a worker that has ended."""
        if load in self._present:
            self._present.remove(load)
            self._loads.remove(load)

    def find(self, job: Job, cost_s: float, limit_s: float) -> AnyLoad | None:
        """Return a worker in which a job may wait, or None; it gets the job."""
        loads = self._loads
        while loads:
            load = loads[0]
            may_get_more = not load.leaving and load.num_given < self._max_jobs
            if may_get_more and load.has_room_for(job, cost_s, limit_s):
                loads.rotate(-1)
                return load
            self._present.remove(loads.popleft())
        return None


def cost_of(job: Job, least_s: float = 0.0) -> float:
    """Return the expected duration of a job in seconds; of an unknown one, a long time."""
    subject = job._subject
    return UNKNOWN_S if subject is None else max(least_s, subject.pace.cost_s * job._num_to_do)


def limit_of(job: Job) -> float:
    """Return how many seconds of work a worker may have if this job is part of it."""
    return CHUNKS_AHEAD_S if job._is_of_map else AHEAD_S
