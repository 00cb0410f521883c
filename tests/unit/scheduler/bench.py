"""A scheduler, and jobs with a name each, on a clock of numbers."""

from __future__ import annotations

import itertools

from qmill.jobs.job import Job, Options
from qmill.jobs.scheduler import Scheduler


class NoOwner:
    """The least that a job wants to know of its queue."""

    qid = "none"

    def log_later(self, what, error):
        raise AssertionError("no failure is told here")

    def cancel(self, job):
        return False

    def host_of(self, worker):
        return None if worker is None else "here"

    def wall_time(self, moment_s):
        return moment_s


class Bench:
    """A scheduler, and jobs with a name each; `uniform` gives the middle of a backoff."""

    def __init__(self, uniform=0.5):
        self.scheduler = Scheduler(lambda: self.uniform)
        self.uniform = uniform
        self._owner = NoOwner()
        self._numbers = itertools.count(1)

    def make(self, name=None, priority=100, *, kind=Job, **options):
        number = next(self._numbers)
        options = Options(name=name, **options)
        return kind(number, print, (), None, priority, options, self._owner, 0.0)

    def add(self, name=None, priority=100, **options):
        job = self.make(name, priority, **options)
        self.scheduler.add(job)
        return job

    def add_all(self, names, priority=100, **options):
        return [self.add(name, priority, **options) for name in names]

    def begin(self, now=0.0):
        """Take a job, and count the attempt, as who runs it does."""
        job = self.scheduler.take(now)
        job.attempts += 1
        return job

    def fail(self, job):
        return names_of(self.scheduler.finish(job, failed=True))

    def end(self, job):
        return names_of(self.scheduler.finish(job, failed=False))

    def run_all(self):
        """Run what can run, one after another: their names in order."""
        ran = []
        while self.scheduler.first() is not None:
            job = self.begin()
            ran.append(job.name)
            assert self.end(job) == []
        return ran

    @property
    def counts(self):
        scheduler = self.scheduler
        return scheduler.num_waiting, len(scheduler.working), scheduler.num_completed

    @property
    def first(self):
        job = self.scheduler.first()
        return None if job is None else job.name


def names_of(jobs):
    return [job.name for job in jobs]


def pop_all_completed(scheduler):
    popped = []
    while (job := scheduler.pop_completed()) is not None:
        popped.append(job)
    return popped
