"""Which jobs are sent ahead and which are taken back, by a clock that the test moves."""

from __future__ import annotations

import pytest

from qmill.engines.ahead import AHEAD_JOBS, AHEAD_S, NEVER, TINY_S, Load, Takers, cost_of
from qmill.engines.api import DONE, Report
from qmill.engines.functions import UNKNOWN_S, Subject


class Knowledge:
    def __init__(self):
        self.suffices = True

    def suffices_for(self, job):
        return self.suffices


class FakeJob:
    _num_to_do = 1

    def __init__(self, subject):
        self._subject = subject


@pytest.fixture
def quick():
    """A function whose calls take a tenth of what may wait in a worker, by many measurements."""
    subject = Subject(1, b"")
    subject.pace.measure(100 * AHEAD_S / 10, 100)
    return subject


def load_of(job, number, num_slots=1, since_s=0.0):
    load = Load(Knowledge(), num_slots)
    load.since_s = since_s
    for key in range(number):
        load.give(key, job, cost_of(job))
    return load


def test_a_job_of_an_unknown_function_waits_behind_no_other():
    job = FakeJob(Subject(1, b""))
    assert cost_of(job) == cost_of(FakeJob(None)) == UNKNOWN_S
    assert not load_of(job, 1).has_room_for(job, cost_of(job), AHEAD_S)


def test_jobs_wait_up_to_the_limit_for_each_slot(quick):
    job = FakeJob(quick)
    for num_slots in (1, 3):
        load, number = load_of(job, 0, num_slots), 0
        while load.has_room_for(job, cost_of(job), AHEAD_S):
            load.give(number, job, cost_of(job))
            number += 1
        assert number in (10 * num_slots - 1, 10 * num_slots)
        assert load.num_ahead == number - num_slots


def test_no_more_jobs_wait_than_the_most():
    job = FakeJob(Subject(1, b""))
    job._subject.pace.measure(0.0, 10_000)
    assert load_of(job, AHEAD_JOBS - 1).has_room_for(job, 0.0, AHEAD_S)
    assert not load_of(job, AHEAD_JOBS).has_room_for(job, 0.0, AHEAD_S)


def test_a_job_that_needs_a_lesson_waits_for_an_idle_worker(quick):
    load = load_of(FakeJob(quick), 1)
    load.knowledge.suffices = False
    assert not load.has_room_for(FakeJob(quick), 0.0, AHEAD_S)


def test_an_answer_makes_room_and_is_measured(quick):
    job, load = FakeJob(quick), load_of(FakeJob(quick), 5)
    before, mean = load.cost_s, quick.pace.mean_s
    del load.jobs[0]
    load.answered(job, Report(DONE, job, None, 7.0, 7.0 + AHEAD_S))
    assert load.cost_s < before
    assert load.since_s == 7.0 + AHEAD_S
    assert mean < quick.pace.mean_s < AHEAD_S


def test_waiting_jobs_are_overdue_when_one_answer_takes_too_long(quick):
    load = load_of(FakeJob(quick), 3, since_s=5.0)
    assert load.overdue_from(AHEAD_S) == 5.0 + AHEAD_S
    load.since_s = 6.0
    assert load.overdue_from(AHEAD_S) == 6.0 + AHEAD_S
    assert load_of(FakeJob(quick), 1).overdue_from(AHEAD_S) == NEVER
    assert load_of(FakeJob(quick), 3, num_slots=3).overdue_from(AHEAD_S) == NEVER


def test_after_jobs_were_taken_back_none_is_sent_ahead(quick):
    load = load_of(FakeJob(quick), 1)
    load.doubt()
    assert not load.has_room_for(FakeJob(quick), 0.0, AHEAD_S)


def test_an_idle_worker_gets_jobs_that_wait_but_not_tiny_ones(quick):
    assert not load_of(FakeJob(quick), 1).may_share(100.0)
    assert load_of(FakeJob(quick), 2).may_share(0.0)
    tiny = Subject(2, b"")
    tiny.pace.measure(0.0, 10_000)
    load = load_of(FakeJob(tiny), 10, since_s=5.0)
    assert not load.may_share(5.0 + 9 * TINY_S)
    assert load.may_share(5.0 + 11 * TINY_S)  # it takes longer than was measured


def test_workers_take_jobs_in_turn_as_long_as_they_have_room(quick):
    job, takers = FakeJob(quick), Takers(None)
    loads = [load_of(job, 1) for _ in range(2)]
    for load in [*loads, *loads]:
        takers.add(load)
    found = []
    while (load := takers.find(job, cost_of(job), AHEAD_S)) is not None:
        load.give(len(load.jobs), job, cost_of(job))
        found.append(loads.index(load))
    assert found[:4] == [0, 1, 0, 1]
    del loads[1].jobs[0]
    loads[1].cost_s = 0.0
    takers.add(loads[1])
    assert takers.find(job, cost_of(job), AHEAD_S) is loads[1]


def test_a_worker_that_leaves_or_has_had_all_takes_none(quick):
    job, takers = FakeJob(quick), Takers(2)
    leaving, last, other = (load_of(job, 1) for _ in range(3))
    for load in (leaving, last, other):
        takers.add(load)
    leaving.leaving = True
    last.num_given = 2
    assert takers.find(job, 0.0, AHEAD_S) is other
    takers.remove(other)
    assert takers.find(job, 0.0, AHEAD_S) is None
