"""Initializers of workers, and those that fail."""

from __future__ import annotations

import operator
import sys

import pytest

import qmill

from .failing import raise_in_the_depth


def test_an_initializer_runs_once_in_each_worker(make, gate):
    initialised = qmill.Queue()
    jobs = make(2, initializer=initialised.put, initargs=("one",))
    held = [jobs.submit(gate.hold), jobs.submit(gate.hold)]
    gate.wait_for_start()
    gate.wait_for_start()
    gate.permits.put_many([1, 2])
    assert sorted(job.result() for job in held) == [1, 2]
    assert [jobs.submit(operator.neg, n).result() for n in range(10)] == [-n for n in range(10)]
    assert initialised.qsize() == 2


def test_what_an_initializer_did_lasts():
    def initialise(value):
        sys.initialised = value

    with qmill.JobQueue(2, initializer=initialise, initargs=iter([7])) as jobs:
        some = [jobs.submit(lambda: sys.initialised) for _ in range(10)]
        assert [job.result() for job in some] == [7] * 10
    assert not hasattr(sys, "initialised")


def test_an_initializer_that_raises_costs_one_job(make):
    permits = qmill.Queue()
    permits.put_many([False, True])

    def initialise():
        if not permits.get():
            raise KeyError("not initialised")

    jobs = make(1, initializer=initialise)
    some = [jobs.submit(operator.neg, number) for number in range(5)]
    with pytest.raises(KeyError, match="not initialised"):
        some[0].result()
    assert [job.result() for job in some[1:]] == [-1, -2, -3, -4]


def test_an_initializer_that_always_raises_fails_every_job_and_hangs_none(make):
    def initialise():
        raise KeyError("never initialised")

    jobs = make(2, initializer=initialise)
    some = [jobs.submit(operator.neg, number) for number in range(5)]
    assert [type(job.exception()) for job in some] == [KeyError] * 5


def test_the_traceback_of_an_initializer_is_shown():
    with qmill.JobQueue(1, initializer=raise_in_the_depth) as jobs:
        error = jobs.submit(int).exception()
    assert "in raise_in_the_depth" in str(error.__cause__)
