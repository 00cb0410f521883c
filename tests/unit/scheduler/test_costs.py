"""Memory and operations that jobs cost the scheduler."""

from __future__ import annotations

import gc
import math
import random
import sys
import weakref
from collections import deque
from functools import total_ordering

import pytest

from qmill.jobs import scheduler as scheduler_module
from qmill.jobs.job import Job

from .bench import Bench, names_of

# What most jobs of a heap may leave behind of others: some entries that are given up, not one for
# each job that ever was.
FEW = 128

# -- memory ---------------------------------------------------------------------------------------


CONTAINERS = (list, dict, set, tuple, deque)


def footprint(thing):
    """Count what the containers hold of which a scheduler or heap is made."""
    count, todo, seen = 0, [thing], set()
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, CONTAINERS):
            count += len(one)
        elif type(one).__module__ != scheduler_module.__name__:
            continue
        todo += gc.get_referents(one)
    return count


def test_of_many_cancelled_jobs_few_are_kept(bench, scheduler):
    keeps = bench.add_all(range(5))
    before = footprint(scheduler)
    dead = []
    for lane in (None, "lane"):
        jobs = [bench.add(number, 200, lane=lane) for number in range(3000)]
        for job in jobs:
            assert scheduler.remove(job)
            dead.append(weakref.ref(job))
        del jobs, job
    assert sum(ref() is not None for ref in dead) <= FEW
    assert footprint(scheduler) <= before + 8 * FEW
    assert names_of(keeps) == bench.run_all()


def test_of_jobs_that_were_cancelled_while_they_backed_off_few_are_kept(bench, scheduler):
    bench.add("stays", backoff=1.0)
    scheduler.retry(bench.begin(), 0.0)
    dead = []
    for number in range(3000):
        job = bench.add(number, backoff=1000.0)
        scheduler.retry(bench.begin(), 0.0)
        assert scheduler.remove(job)
        dead.append(weakref.ref(job))
    del job
    assert sum(ref() is not None for ref in dead) <= FEW
    assert scheduler.num_waiting == 1


def test_of_jobs_that_ran_none_is_kept(bench, scheduler):
    bench.add("works on", timeout=1e6)
    stays = bench.begin()
    before = footprint(scheduler)
    dead = []
    for number in range(3000):
        lane = (None, "lane", number)[number % 3]  # of the last kind each is alone in its lane
        job = bench.add(number, lane=lane, timeout=1e9, backoff=1e3)
        dead.append(weakref.ref(job))
        assert bench.begin(float(number)) is job
        if number % 2:
            scheduler.put_back(job)
            assert bench.begin(float(number)) is job
        bench.end(job)
        if number % 5 == 0:
            scheduler.complete(job)
            assert scheduler.pop_completed() is job
    del job
    assert sum(ref() is not None for ref in dead) == 0
    assert footprint(scheduler) <= before + 8 * FEW
    assert stays.name == "works on"


def test_other_priorities_do_not_pile_up(bench, scheduler):
    jobs = bench.add_all(range(10))
    completed = bench.make("completed")
    scheduler.complete(completed)
    before = footprint(scheduler)
    for number in range(5000):
        assert scheduler.reprioritise(jobs[number % 10], number)
        assert scheduler.reprioritise(completed, -number)
    assert footprint(scheduler) <= before + 16 * FEW
    assert bench.counts == (10, 0, 1)
    assert bench.run_all() == list(range(10))


def test_lanes_that_ran_empty_do_not_pile_up(bench, scheduler):
    before = footprint(scheduler)
    for number in range(2000):
        job, other = bench.add_all("ab", lane=number, stop_on_lane_error=True, backoff=1.0)
        bench.begin()
        if number % 4 == 0:
            assert scheduler.remove(other)
            bench.end(job)
        elif number % 4 == 1:
            assert bench.fail(job) == ["b"]
        elif number % 4 == 2:
            scheduler.retry(job, 0.0)
            assert scheduler.remove(job)
            assert scheduler.remove(other)
        else:
            scheduler.put_back(job)
            assert names_of(scheduler.remove_all()) == ["a", "b"]
    assert bench.counts == (0, 0, 0)
    assert footprint(scheduler) <= before + 8 * FEW


def test_deadlines_of_finished_jobs_are_not_due(bench, scheduler):
    for number in range(1000):
        bench.add(number, timeout=float(number + 1))
        bench.end(bench.begin(0.0))
    assert scheduler.next_due() is None
    assert scheduler.due(1e9) == []


def test_memory_is_given_back_when_most_jobs_are_gone(bench, scheduler):
    jobs = bench.add_all(range(2000), lane="lane", timeout=1e9)
    jobs += bench.add_all(range(2000), timeout=1e9)
    full = footprint(scheduler)
    for _ in range(1000):
        bench.begin(0.0)
    for job in jobs:
        if not scheduler.remove(job):
            bench.end(job)
    assert bench.counts == (0, 0, 0)
    assert footprint(scheduler) < full / 10


# -- what an operation costs ----------------------------------------------------------------------


@total_ordering
class Priority:
    """A number that counts how often it was compared."""

    compared = 0

    def __init__(self, number):
        self.number = number

    def __eq__(self, other):
        Priority.compared += 1
        return self.number == other.number

    def __lt__(self, other):
        Priority.compared += 1
        return self.number < other.number

    __hash__ = None


class ComparedJob(Job):
    """A job that counts how often it was compared, as by a search through a list."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other):
        ComparedJob.compared += 1
        return self is other

    __hash__ = Job.__hash__


def shuffled(count):
    numbers = list(range(count))
    random.Random(count).shuffle(numbers)
    return numbers


def add_compared(bench, count, lane_of):
    options = {"backoff": 1.0, "timeout": 9.0}
    jobs = [
        bench.make(number, Priority(number), kind=ComparedJob, lane=lane_of(number), **options)
        for number in shuffled(count)
    ]
    for job in jobs:
        bench.scheduler.add(job)
    return jobs


def work_of_cancelling(bench, count, lane_of):
    for job in add_compared(bench, count, lane_of):
        assert bench.scheduler.remove(job)


def work_of_reprioritising(bench, count, lane_of):
    jobs = add_compared(bench, count, lane_of)
    for job, number in zip(jobs, shuffled(count + 1), strict=False):
        assert bench.scheduler.reprioritise(job, Priority(number - count / 2))


def work_of_making_the_first_the_last(bench, count, lane_of):
    add_compared(bench, count, lane_of)
    for number in range(count):
        assert bench.scheduler.reprioritise(bench.scheduler.first(), Priority(count + number))


def work_of_running(bench, count, lane_of):
    add_compared(bench, count, lane_of)
    for _ in range(count):
        bench.end(bench.begin())


def work_of_running_all_at_once(bench, count, lane_of):
    add_compared(bench, count, lane_of)
    while bench.scheduler.first() is not None:
        jobs = []
        while bench.scheduler.first() is not None:
            jobs.append(bench.begin(float(len(jobs))))
        for place in shuffled(len(jobs)):
            bench.end(jobs[place])
    assert bench.counts == (0, 0, 0)


def work_of_running_out_of_time(bench, count, lane_of):
    add_compared(bench, count, lane_of)
    now = 0.0
    while bench.scheduler.first() is not None or bench.scheduler.next_due() is not None:
        while bench.scheduler.first() is not None:
            bench.begin(now)
        now += 9.0
        for job in bench.scheduler.due(now):
            bench.end(job)
    assert bench.counts == (0, 0, 0)


def work_of_retrying(bench, count, lane_of):
    add_compared(bench, count, lane_of)
    now = 0.0
    for _ in range(count):
        if bench.scheduler.first() is None:
            now = bench.scheduler.next_due()
            bench.scheduler.due(now)
        bench.scheduler.retry(bench.begin(now), now)


def work_of_putting_back(bench, count, lane_of):
    add_compared(bench, count, lane_of)
    for _ in range(count):
        bench.scheduler.put_back(bench.scheduler.take(0.0))


def work_of_completing(bench, count, lane_of):
    for job in shuffled(count):
        bench.scheduler.complete(bench.make(job, Priority(job), kind=ComparedJob))
    for number in range(count):
        job = bench.scheduler.pop_completed()
        assert job.name == number


def work_of_removing_all(bench, count, lane_of):
    add_compared(bench, count, lane_of)
    assert len(bench.scheduler.remove_all()) == count


WORK = [
    work_of_cancelling,
    work_of_reprioritising,
    work_of_making_the_first_the_last,
    work_of_running,
    work_of_running_all_at_once,
    work_of_running_out_of_time,
    work_of_retrying,
    work_of_putting_back,
    work_of_completing,
    work_of_removing_all,
]
LANES = {
    "no lane": lambda number: None,
    "one lane": lambda number: "lane",
    "many lanes": lambda number: number % 100,
}


def comparisons_in(work, count, lane_of):
    Priority.compared = ComparedJob.compared = 0
    work(Bench(), count, lane_of)
    return Priority.compared + ComparedJob.compared


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("work", WORK)
def test_an_operation_compares_as_often_as_a_logarithm(work, lanes):
    count = 5_000
    # Each operation sifts up or down a few times, with two comparisons (equal? less?) a step.
    assert comparisons_in(work, count, LANES[lanes]) < 12 * count * math.log2(count)


def lines_run_in(work, count, lane_of):
    """Count the lines of the scheduler's own code: of its loops, if not of those in C."""
    counted = 0

    def in_scheduler(frame, event, _):
        nonlocal counted
        counted += event == "line"
        return in_scheduler

    def on_call(frame, event, _):
        ours = frame.f_globals.get("__name__") == scheduler_module.__name__
        return in_scheduler if ours else None

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        work(Bench(), count, lane_of)
    finally:
        sys.settrace(before)
    return counted


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("work", WORK)
def test_an_operation_does_not_look_at_all_jobs(work, lanes):
    few, many = (lines_run_in(work, count, LANES[lanes]) for count in (300, 2400))
    # Eight times the jobs: 8 times the work, 12 with a logarithm, 64 if each looks at all.
    assert many < 20 * few
