"""Priorities: jobs run by them, and change them."""

from __future__ import annotations

import random
import select

import pytest

import qmill

from .common_jobs import run_all


def test_jobs_run_in_the_order_of_their_priorities(paused):
    ran = qmill.Queue()
    priorities = list(range(200))
    random.Random(7).shuffle(priorities)
    for priority in priorities:
        paused.put(ran.put, priority, priority=priority)
    run_all(paused)
    assert ran.get_many(200) == list(range(200))


def test_jobs_of_equal_priority_run_in_the_order_of_put(paused):
    ran = qmill.Queue()
    for number in range(100):
        paused.put(ran.put, [(number % 3, number)], priority=number % 3)
    run_all(paused)
    order = ran.get_many(100)
    assert order == sorted(order)


def test_put_submit_and_map_share_the_priorities(paused):
    ran = qmill.Queue()
    paused.put(ran.put, "put", priority=2)
    paused.submit(ran.put, "submit")
    results = paused.options(priority=1).map(ran.put, ["map"])
    paused.options(priority=-5).submit(ran.put, "options")
    paused.put(ran.put, "late", priority=101)
    run_all(paused)
    assert len(list(results)) == 1
    assert ran.get_many(5) == ["options", "map", "put", "submit", "late"]


@pytest.mark.parametrize("priorities", [(-1.5, 0, 0.5, 10**9), (float("-inf"), 3, float("inf"))])
def test_priorities_are_any_numbers(paused, priorities):
    ran = qmill.Queue()
    for priority in reversed(priorities):
        paused.put(ran.put, priority, priority=priority)
    run_all(paused)
    assert ran.get_many(len(priorities)) == list(priorities)


def test_an_urgent_job_overtakes_those_that_wait(make, gate):
    jobs, ran = make(1), qmill.Queue()
    held = jobs.put(gate.hold)
    gate.wait_for_start()
    for number in range(5):
        jobs.put(ran.put, number)
    jobs.put(ran.put, "urgent", priority=1)
    gate.permit()
    jobs.wait()
    assert held.done()
    assert ran.get_many(6) == ["urgent", 0, 1, 2, 3, 4]


def test_an_urgent_job_overtakes_what_was_sent_ahead_behind_a_long_one(make):
    """Short jobs are sent ahead of time, but what waits behind a long one is taken back."""
    jobs, ran = make(1), qmill.Queue()
    for number in range(300):  # each is short, so that the next ones will be sent ahead
        jobs.submit(ran.put, number)
    jobs.wait()
    assert ran.get_many(300) == list(range(300))
    for _ in range(3):
        jobs.submit(select.select, [], [], [], 0.1)
    for number in range(5):
        jobs.submit(ran.put, number)
    jobs.options(priority=1).submit(ran.put, "urgent")
    jobs.wait()
    assert ran.get_many(6) == ["urgent", 0, 1, 2, 3, 4]


def test_reprioritize(paused):
    ran = qmill.Queue()
    some = [paused.put(ran.put, number, priority=number) for number in range(5)]
    assert paused.reprioritize(some[3], -1) is True
    assert paused.reprioritize(some[0], 10) is True
    assert (some[3].priority, some[0].priority) == (-1, 10)
    run_all(paused)
    assert ran.get_many(5) == [3, 1, 2, 4, 0]
    assert [job.id for job in paused.collect()] == [4, 2, 3, 5, 1]


def test_reprioritize_what_has_begun(make, gate):
    jobs = make(1)
    job = jobs.put(gate.hold)
    gate.wait_for_start()
    assert jobs.reprioritize(job, 1) is False
    gate.permit()
    assert jobs.get() is job
    assert jobs.reprioritize(job, 1) is False


def test_reprioritize_many(paused):
    ran = qmill.Queue()
    some = [paused.submit(ran.put, number) for number in range(300)]
    wanted = list(range(300))
    random.Random(7).shuffle(wanted)
    for priority, number in enumerate(wanted):
        assert paused.reprioritize(some[number], priority)
    run_all(paused)
    assert ran.get_many(300) == wanted
