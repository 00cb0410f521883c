"""The loop that drives any engine, on an engine that only notes its calls."""

from __future__ import annotations

from qmill.engines.api import DONE, RETURNED, Report
from qmill.engines.driver import END_S, Driver, Jobs


class FakeEngine:
    """Has room for so many jobs; each wait ends them."""

    def __init__(self, room):
        self.room = room
        self.calls = []
        self.running = []

    def offer(self, job):
        if len(self.running) >= self.room:
            return False
        self.running.append(job)
        return True

    def flush(self):
        self.calls.append("flush")

    def grow(self, num_waiting):
        self.calls.append(("grow", num_waiting))

    def kill(self, job):
        self.calls.append(("kill", job))

    def wait(self, timeout):
        self.calls.append(("wait", timeout))
        if timeout == 0:
            return []
        ended, self.running = self.running, []
        return [Report(DONE, job) for job in ended]


class FakeJobs(Jobs):
    def __init__(self, waiting, late=()):
        self.waiting = list(waiting)
        self.late = list(late)
        self.taken = []

    def offer_to(self, engine):
        while self.waiting and engine.offer(self.waiting[0]):
            self.waiting.pop(0)
        late, self.late = self.late, []
        return late, len(self.waiting)

    def rest(self, num_refused):
        return None if self.waiting or self.engine.running else END_S

    def take(self, reports):
        self.taken += reports


def drive(engine, jobs, *orders):
    jobs.engine = engine
    driver = Driver(engine, jobs)
    driver.orders.extend(orders)
    driver.drive()


def test_workers_are_started_for_what_was_refused_after_the_jobs_are_sent():
    engine, jobs = FakeEngine(2), FakeJobs("abc")
    drive(engine, jobs)
    assert [report.job for report in jobs.taken] == ["a", "b", "c"]
    assert engine.calls[:3] == ["flush", ("grow", 1), ("wait", None)]
    assert engine.calls[3:] == ["flush", ("wait", None), "flush"]


def test_late_jobs_are_killed_before_others_are_sent():
    engine = FakeEngine(1)
    drive(engine, FakeJobs("a", late="x"))
    assert engine.calls[:2] == [("kill", "x"), "flush"]


def test_what_an_order_takes_back_is_there_before_jobs_are_offered():
    engine, jobs = FakeEngine(1), FakeJobs([])
    returned = [Report(RETURNED, "back")]

    def take(reports):
        jobs.taken += reports
        jobs.waiting += [report.job for report in returned]
        returned.clear()

    jobs.take = take
    drive(engine, jobs, lambda: engine.calls.append("order"))
    assert engine.calls[:3] == ["order", ("wait", 0), "flush"]
    assert [report.job for report in jobs.taken] == ["back"]
