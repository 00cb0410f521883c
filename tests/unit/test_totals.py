"""Running totals: exact counts and sums, quantiles within their resolution, bounded memory."""

from __future__ import annotations

import random

import pytest

from qmill import WorkerDied
from qmill.jobs import totals
from qmill.jobs.failures import Failure
from qmill.jobs.job import CANCELLED, FINISHED, PENDING, RUNNING, Chunk, Job, Options
from qmill.jobs.totals import Histogram, Totals


class Owner:
    qid = "q"


def make_job(number=1, *, times=(0.0, 1.0, 3.0), worker="w-1", state=RUNNING, name=None):
    job = Job(number, abs, (1,), None, 100, Options(name=name), Owner(), times[0])
    _, job._started, job._ended = times
    job._state, job.worker = state, worker
    return job


def make_chunk(num_calls, times=(0.0, 1.0, 3.0)):
    chunk = Chunk(1, abs, (list(range(num_calls)), False), None, 100, Options(), Owner(), times[0])
    _, chunk._started, chunk._ended = times
    chunk._state, chunk.worker = RUNNING, "w-1"
    return chunk


def added(*outcomes, now=9.0):
    result = Totals()
    result.add(outcomes, now)
    return result.copy()


def counted(result):
    return {state: count for state, count in result.states.items() if count}


# --- histograms


@pytest.mark.parametrize("num_values", [1, 7, 500, 30_000])
@pytest.mark.parametrize("scale", [1e-7, 1e-3, 1.0, 1e5])
def test_quantiles_are_right_to_a_few_percent(num_values, scale):
    rng = random.Random(num_values)
    values = [rng.expovariate(1 / scale) for _ in range(num_values)]
    histogram = Histogram()
    for i in range(0, num_values, 512):
        histogram.add(values[i : i + 512])
    found = histogram.quantiles(0.5, 0.95, 0.99)
    values.sort()
    for share, quantile in zip((0.5, 0.95, 0.99), found, strict=True):
        # A few ranks to either side, as of many values only some are counted; and the resolution.
        slack = 0.01 if num_values > 10_000 else 0.0
        low = values[max(0, int((share - slack) * num_values) - 1)]
        high = values[min(num_values - 1, int((share + slack) * num_values))]
        assert 0.93 * low <= quantile <= 1.07 * high
    assert histogram.count == num_values
    assert histogram.total == pytest.approx(sum(values))
    assert histogram.max == values[-1]


def test_a_histogram_of_nothing_has_no_quantiles():
    assert Histogram().quantiles(0.5, 0.9) == [None, None]


@pytest.mark.parametrize("value", [0.0, -1e-9, 5e-324])
def test_what_is_not_above_0_counts_as_0(value):
    histogram = Histogram()
    histogram.add([value] * 3)
    assert histogram.quantiles(0.5) == [0.0]


def test_one_value_many_times_is_as_many_values():
    histogram = Histogram()
    histogram.add_equal(2.0, 90)
    histogram.add([8.0] * 10)
    assert histogram.quantiles(0.5, 0.99) == pytest.approx([2.0, 8.0], rel=0.04)
    assert (histogram.count, histogram.total) == (100, 260.0)


def test_a_histogram_does_not_grow_with_its_values():
    histogram = Histogram()
    rng = random.Random(0)
    for _ in range(200):
        histogram.add([10 ** rng.uniform(-9, 9) for _ in range(512)])
    assert len(histogram._first) + len(histogram._later) < 2 * 16 * 64


# --- jobs


def test_a_job_that_returned_is_counted_with_its_times():
    result = added((make_job(), FINISHED, "value", None))
    assert counted(result) == {"done": 1}
    assert (result.waiting.total, result.running.total) == (1.0, 2.0)
    assert result.busy == {"w-1": 2.0}
    assert (result.first_submitted_s, result.last_ended_s) == (0.0, 9.0)


@pytest.mark.parametrize("failure", ["failed", "died", "timed out"])
def test_a_failure_is_counted_by_its_state_and_its_type(failure):
    job = make_job()
    job._failure = Failure(failure)
    result = added((job, FINISHED, None, ValueError("bad")), (make_job(), FINISHED, 1, None))
    assert counted(result) == {failure: 1, "done": 1}
    assert result.errors == {"ValueError": (1, "bad")}
    assert result.num_failed == 1
    assert result.running.count == 2


@pytest.mark.parametrize(
    ("state_before", "has_run"), [(PENDING, False), (RUNNING, True), (CANCELLED, True)]
)
def test_a_cancelled_job_ran_if_it_was_begun(state_before, has_run):
    result = added((make_job(state=state_before), CANCELLED, None, None))
    assert counted(result) == {"cancelled": 1}
    assert result.running.count == has_run
    assert result.errors == {}


def test_a_job_that_was_cancelled_while_it_returned_is_cancelled():
    result = added((make_job(state=CANCELLED), FINISHED, "value", None))
    assert counted(result) == {"cancelled": 1}


def test_a_job_that_never_began_has_no_times():
    job = make_job(times=(0.0, None, None), worker=None, state=PENDING)
    result = added((job, CANCELLED, None, None))
    assert (result.waiting.count, result.running.count, result.busy) == (0, 0, {})
    assert (result.first_submitted_s, result.last_ended_s) == (0.0, 9.0)


def test_each_call_of_a_map_counts():
    result = added((make_chunk(4), FINISHED, ([1, 2, 3, 4], {}), None))
    assert counted(result) == {"done": 4}
    assert (result.running.count, result.running.total) == (4, 2.0)
    assert result.running.quantiles(0.5) == pytest.approx([0.5], rel=0.04)
    assert result.busy == {"w-1": 2.0}


def test_a_call_of_a_map_that_raises_fails_and_cancels_those_behind_it():
    result = added((make_chunk(5), FINISHED, ([1, 2, None], {2: KeyError("k")}), None))
    assert counted(result) == {"done": 2, "failed": 1, "cancelled": 2}
    assert result.errors == {"KeyError": (1, "'k'")}


def test_each_call_of_a_map_that_goes_on_counts_as_what_became_of_it():
    errors = {1: KeyError("k"), 3: WorkerDied(7, -9, 9), 4: KeyError("k")}
    result = added((make_chunk(5), FINISHED, ([1, None, 3, None, None], errors), None))
    assert counted(result) == {"done": 2, "failed": 2, "died": 1}
    assert result.errors["KeyError"] == (2, "'k'")
    assert result.running.count == 5


def test_a_chunk_none_of_whose_calls_was_made_is_counted_item_by_item_later():
    result = added((make_chunk(5), FINISHED, None, WorkerDied(7, -9, 9)))
    assert (counted(result), result.errors) == ({}, {})


def test_attempts_of_a_chunk_count_the_calls_that_are_made_again():
    result = Totals()
    result.add_retry(make_chunk(5), 2)
    result.add_retry(make_chunk(5), 0)
    assert result.num_retries == 2


def test_an_attempt_that_is_repeated_keeps_its_worker_busy():
    result = Totals()
    result.add_retry(make_job())
    result.add([(make_job(times=(0.0, 4.0, 5.0)), FINISHED, 1, None)], 9.0)
    assert result.copy().busy == {"w-1": 3.0}
    assert result.num_retries == 1


def test_the_slowest_are_kept_and_no_more():
    jobs = [make_job(n, times=(0.0, 0.0, float(n)), name=f"job {n}") for n in range(1, 51)]
    random.Random(1).shuffle(jobs)
    result = added(*((job, FINISHED, None, None) for job in jobs))
    assert [slow.running_s for slow in sorted(result.slowest, reverse=True)] == list(
        range(50, 40, -1)
    )
    assert max(result.slowest)[1:] == (-50, "job 50", "abs", "done")


def test_workers_and_errors_beyond_a_number_share_a_line():
    result = Totals()
    for n in range(totals.MAX_WORKERS + 50):
        result.add([(make_job(worker=f"w-{n}"), FINISHED, None, None)], 9.0)
        error = type(f"Error{n}", (Exception,), {})("text")
        job = make_job(worker="w-0")
        job._failure = Failure.FAILED
        result.add([(job, FINISHED, None, error)], 9.0)
    assert len(result.busy) == totals.MAX_WORKERS + 1
    assert result.busy[totals.OTHERS] == 2.0 * 50
    assert len(result.errors) == totals.MAX_ERRORS + 1
    assert sum(count for count, _ in result.errors.values()) == totals.MAX_WORKERS + 50


def test_no_str_of_a_user_is_called():
    class Proud:
        def __str__(self):
            raise AssertionError("it was called")

    class ProudError(Proud, Exception):
        pass

    failed = make_job(name=Proud())
    failed._failure = Failure.FAILED
    result = added(
        (failed, FINISHED, None, ProudError()),
        (make_job(), FINISHED, None, ValueError(Proud())),
    )
    assert result.errors == {"ProudError": (1, None), "ValueError": (1, None)}
    assert {slow.name for slow in result.slowest} == {"a Proud", "1"}


def test_a_copy_stays_as_it_is():
    result = Totals()
    result.add([(make_job(), FINISHED, None, None)], 9.0)
    copy = result.copy()
    result.add([(make_job(), FINISHED, None, None)], 9.0)
    assert (copy.num_ended, result.num_ended) == (1, 2)
    assert (copy.running.count, copy.busy) == (1, {"w-1": 2.0})
