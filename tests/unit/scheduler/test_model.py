"""The scheduler beside a naive model, by Hypothesis."""

from __future__ import annotations

import itertools

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from qmill.jobs.scheduler import BACKOFF_MAX_S

from .bench import Bench, pop_all_completed


class Model:
    """The same by searching lists, one for each state."""

    def __init__(self):
        self.ready, self.backing_off, self.working, self.completed = [], [], [], []
        self.priorities = {}
        self.until = {}  # of those that back off
        self.deadlines = {}  # of those that work and were not told

    @property
    def waiting(self):
        return self.ready + self.backing_off

    def order(self, job):
        return self.priorities[job.id], job.id

    def may_run(self, job):
        if job.lane is None:
            return True
        busy = {other.lane for other in self.working + self.backing_off}
        return job.lane not in busy

    def first(self):
        return min(filter(self.may_run, self.ready), key=self.order, default=None)

    def take(self, now):
        job = self.first()
        self.ready.remove(job)
        self.working.append(job)
        if job.timeout is not None:
            self.deadlines[job] = now + job.timeout
        return job

    def stop_working(self, job):
        self.working.remove(job)
        self.deadlines.pop(job, None)

    def finish(self, job, failed):
        self.stop_working(job)
        stopped = []
        if failed and job.lane is not None:
            behind = sorted((j for j in self.ready if j.lane == job.lane), key=self.order)
            stopped = list(itertools.takewhile(lambda j: j._options.stop_on_lane_error, behind))
        for other in stopped:
            self.ready.remove(other)
        return stopped

    def back_off(self, job, until):
        self.stop_working(job)
        self.backing_off.append(job)
        self.until[job] = until

    def remove(self, job):
        self.until.pop(job, None)
        for jobs in (self.ready, self.backing_off):
            if job in jobs:
                jobs.remove(job)
                return True
        return False

    def next_due(self):
        return min([*self.deadlines.values(), *self.until.values()], default=None)

    def due(self, now):
        for job in [job for job, until in self.until.items() if until <= now]:
            del self.until[job]
            self.backing_off.remove(job)
            self.ready.append(job)
        up = {job for job, deadline in self.deadlines.items() if deadline <= now}
        for job in up:
            del self.deadlines[job]
        return up


PICK = st.integers(0, 10**6)
PRIORITIES = st.sampled_from([-1, 0, 0.5, 1, 1.0, 2, 3, 100])
OPTIONS = st.fixed_dictionaries(
    {
        "lane": st.sampled_from([None, None, "a", "a", "b", 0]),
        "timeout": st.sampled_from([None, 1.0, 3.0, 50.0]),
        "backoff": st.sampled_from([0.0, 1.0, 4.0]),
        "stop_on_lane_error": st.booleans(),
    }
)


class SchedulerMachine(RuleBasedStateMachine):
    """Does the same to a scheduler and to the model, and compares all that can be seen."""

    def __init__(self):
        super().__init__()
        self.bench = Bench()
        self.scheduler = self.bench.scheduler
        self.model = Model()
        self.everybody = []
        self.now = 0.0

    def pick(self, jobs, number):
        return sorted(jobs, key=lambda job: job.id)[number % len(jobs)]

    @rule(priority=PRIORITIES, options=OPTIONS)
    def add(self, priority, options):
        job = self.bench.make(None, priority, **options)
        self.model.priorities[job.id] = priority
        self.model.ready.append(job)
        self.everybody.append(job)
        self.scheduler.add(job)

    @rule(priority=PRIORITIES, options=OPTIONS, number=st.integers(2, 12))
    def add_many(self, priority, options, number):
        for _ in range(number):
            self.add(priority, options)

    @precondition(lambda self: self.model.first() is not None)
    @rule(begin=st.booleans())
    def take(self, begin):
        job = self.model.take(self.now)
        assert self.scheduler.take(self.now) is job
        job.attempts += begin

    @precondition(lambda self: self.model.working)
    @rule(number=PICK, failed=st.booleans(), keep=st.booleans())
    def finish(self, number, failed, keep):
        job = self.pick(self.model.working, number)
        stopped = self.model.finish(job, failed)
        assert self.scheduler.finish(job, failed=failed) == stopped
        if keep:
            for ended in [job, *stopped]:
                self.scheduler.complete(ended)
                self.model.completed.append(ended)

    @precondition(lambda self: self.model.working)
    @rule(number=PICK)
    def put_back(self, number):
        job = self.pick(self.model.working, number)
        self.model.stop_working(job)
        self.model.ready.append(job)
        self.scheduler.put_back(job)

    @precondition(lambda self: self.model.working)
    @rule(number=PICK, uniform=st.sampled_from([0.0, 0.25, 0.5, 0.75]))
    def retry(self, number, uniform):
        job = self.pick(self.model.working, number)
        job.attempts = max(job.attempts, 1)
        self.bench.uniform = uniform
        delay = job._options.backoff * 2 ** (job.attempts - 1) * (0.5 + uniform)
        delay = min(delay, BACKOFF_MAX_S)
        assert self.scheduler.retry(job, self.now) == delay
        self.model.back_off(job, self.now + delay)
        if delay == 0:  # whether it needs to be told that no time is over, nobody promises
            self.compare_due()

    @precondition(lambda self: self.everybody)
    @rule(number=PICK)
    def remove(self, number):
        job = self.pick(self.everybody, number)
        assert self.scheduler.remove(job) == self.model.remove(job)

    @precondition(lambda self: self.model.waiting)
    @rule(number=PICK)
    def cancel(self, number):
        job = self.pick(self.model.waiting, number)
        assert self.model.remove(job)
        assert self.scheduler.remove(job) is True

    @precondition(lambda self: len(self.model.waiting) > 8)
    @rule()
    def remove_all(self):
        removed = sorted(self.model.waiting, key=self.model.order)
        for job in removed:
            self.model.remove(job)
        assert self.scheduler.remove_all() == removed

    @precondition(lambda self: self.everybody)
    @rule(number=PICK, priority=PRIORITIES)
    def reprioritise(self, number, priority):
        job = self.pick(self.everybody, number)
        changes = job in self.model.waiting + self.model.completed
        assert self.scheduler.reprioritise(job, priority) is changes
        assert job.priority == priority or not changes
        self.model.priorities[job.id] = job.priority

    @rule(seconds=st.sampled_from([0.0, 0.125, 1.0, 3.0, 20.0]))
    def time_goes_on(self, seconds):
        self.now += seconds
        self.compare_due()

    @precondition(lambda self: self.model.next_due() is not None)
    @rule()
    def sleep_until_something_is_due(self):
        self.now = max(self.now, self.scheduler.next_due())
        self.compare_due()

    def compare_due(self):
        up = self.scheduler.due(self.now)
        assert len(up) == len(set(up))
        assert set(up) == self.model.due(self.now)

    @precondition(lambda self: self.model.completed)
    @rule()
    def pop_completed(self):
        job = min(self.model.completed, key=self.model.order)
        self.model.completed.remove(job)
        assert self.scheduler.pop_completed() is job

    @invariant()
    def they_agree(self):
        scheduler, model = self.scheduler, self.model
        assert scheduler.first() is model.first()
        assert scheduler.next_due() == model.next_due()
        assert scheduler.num_waiting == len(model.waiting)
        assert len(scheduler.working) == len(model.working)
        assert scheduler.num_completed == len(model.completed)
        waiting = set(model.waiting)
        assert [j for j in self.everybody if scheduler.is_waiting(j) != (j in waiting)] == []

    def teardown(self):
        assert self.scheduler.remove_all() == sorted(self.model.waiting, key=self.model.order)
        assert pop_all_completed(self.scheduler) == sorted(
            self.model.completed, key=self.model.order
        )


SchedulerMachine.TestCase.settings = settings(
    deadline=None, max_examples=120, stateful_step_count=60
)
TestAgainstTheModel = SchedulerMachine.TestCase
