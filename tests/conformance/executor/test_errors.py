"""Errors of jobs, and where they are shown."""

from __future__ import annotations

import traceback

import pytest

import qmill

from .failing import SpecialError, raise_in_the_depth, raise_special


def raise_chained():
    try:
        raise_in_the_depth()
    except KeyError as error:
        raise ValueError("on top", [1]) from error


def test_a_jobs_exception_is_raised_as_itself(jobs):
    job = jobs.submit(raise_special)
    with pytest.raises(SpecialError, match="special") as raised:
        job.result()
    assert type(raised.value) is SpecialError
    assert (raised.value.args, raised.value.code) == (("special", 7), 7)
    assert raised.value.__notes__ == ["a note"]
    assert job.exception() is raised.value
    assert job.done()
    assert not job.cancelled()


def test_an_exception_group_comes_back_whole(jobs):
    def fail_twice():
        raise ExceptionGroup("two", [KeyError(1), ValueError(2)])

    error = jobs.submit(fail_twice).exception()
    assert type(error) is ExceptionGroup
    assert [repr(one) for one in error.exceptions] == ["KeyError(1)", "ValueError(2)"]


def test_a_traceback_shows_where_a_worker_failed():
    with qmill.JobQueue(1) as jobs:
        error = jobs.submit(raise_chained).exception()
    remote = str(error.__cause__)
    assert "Traceback (most recent call last)" in remote
    assert "in raise_chained" in remote
    assert "in raise_in_the_depth" in remote
    assert "direct cause" in remote
    assert 'raise KeyError("a key")' in remote
    shown = "".join(traceback.format_exception(error))
    assert "in raise_in_the_depth" in shown
    assert shown.index("in raise_in_the_depth") < shown.rindex("ValueError: ('on top', [1])")


def test_a_traceback_of_a_thread_is_its_own():
    with qmill.JobQueue(1, engine="thread") as jobs:
        error = jobs.submit(raise_chained).exception()
    assert type(error.__cause__) is KeyError
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert names[-1] == "raise_chained"


@pytest.mark.parametrize("how", ["put", "submit", "map"])
def test_a_failure_costs_only_its_job(jobs, how):
    def fail_at_three(number):
        if number == 3:
            raise KeyError(number)
        return number

    if how == "map":
        results = jobs.map(fail_at_three, range(6), chunksize=1)
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(KeyError):
            next(results)
    else:
        some = [getattr(jobs, how)(fail_at_three, number) for number in range(6)]
        errors = [type(job.exception()) for job in some]
        assert errors == [KeyError if number == 3 else type(None) for number in range(6)]
    assert jobs.submit(int).result() == 0
