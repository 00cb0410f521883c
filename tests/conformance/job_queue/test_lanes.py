"""Jobs of one lane run one after another."""

from __future__ import annotations

from concurrent.futures import CancelledError

import pytest

import qmill

from .common_jobs import fail, run_all, sizes_of, take_ticket


def test_jobs_of_a_lane_run_one_after_another(make, gate):
    jobs = make(3)
    for number in range(3):
        jobs.put(gate.hold, number, lane="a")
    assert gate.wait_for_start() == 0
    assert sizes_of(jobs) == (2, 1, 0)
    jobs.put(int).result()
    assert gate.started.empty()
    gate.permit()
    assert gate.wait_for_start() == 1
    assert gate.started.empty()
    gate.permit()
    assert gate.wait_for_start() == 2
    gate.permit()
    assert jobs.wait() == 0


@pytest.mark.parametrize("lanes", [("a", "b"), (1, (1, 2)), (0, ""), (False, "0")], ids=str)
def test_lanes_do_not_wait_for_each_other(make, gate, lanes):
    jobs = make(2)
    for lane in lanes:
        jobs.put(gate.hold, [lane], lane=lane)
        jobs.put(gate.hold, [lane], lane=lane)
    assert {gate.wait_for_start(), gate.wait_for_start()} == set(lanes)
    assert sizes_of(jobs) == (2, 2, 0)
    gate.permit(*range(4))
    assert jobs.wait() == 0


def test_only_the_head_of_a_lane_competes(paused):
    """A lane, too, is in the order of priorities, and those behind its head wait for their turn."""
    ran = qmill.Queue()
    paused.put(ran.put, "slow", lane="a", priority=50)
    paused.put(ran.put, "also slow", lane="a", priority=50)
    paused.put(ran.put, "head", lane="a", priority=20)
    paused.put(ran.put, "first", priority=10)
    paused.put(ran.put, "between", priority=30)
    paused.put(ran.put, "last", priority=60)
    run_all(paused)
    assert ran.get_many(6) == ["first", "head", "between", "slow", "also slow", "last"]


def test_a_lane_goes_on_after_a_failure(jobs):
    bad, good = jobs.put(fail, lane="a"), jobs.put(int, lane="a")
    assert good.result() == 0
    assert bad.state == "failed"


def test_a_lane_stops_after_a_failure_up_to_the_first_that_does_not_mind(paused):
    ran = qmill.Queue()
    flag = {"lane": "a", "stop_on_lane_error": True}
    bad = paused.put(fail, lane="a")
    dropped = [paused.put(ran.put, number, **flag) for number in range(2)]
    brave = paused.put(ran.put, "brave", lane="a")
    after = paused.put(ran.put, "after", **flag)
    other = paused.put(ran.put, "other", lane="b", stop_on_lane_error=True)
    run_all(paused)
    assert bad.state == "failed"
    for job in dropped:
        assert (job.state, job.cancelled(), job.done()) == ("cancelled", True, True)
        with pytest.raises(qmill.LaneError):
            job.result()
        with pytest.raises(CancelledError):
            job.exception()
    assert (brave.state, after.state, other.state) == ("done", "done", "done")
    assert set(ran.get_many(3)) == {"brave", "after", "other"}
    assert len(paused.collect()) == 6


def test_a_lane_that_runs_empty_forgets_its_error(jobs):
    jobs.put(fail, lane="a")
    jobs.wait()
    assert jobs.put(int, lane="a", stop_on_lane_error=True).result() == 0


def test_a_job_that_succeeds_at_last_does_not_stop_its_lane(paused):
    tickets = qmill.Queue()
    tickets.put_many([False, True])
    first = paused.put(take_ticket(tickets), lane="a", retries=1)
    second = paused.put(int, lane="a", stop_on_lane_error=True)
    run_all(paused)
    assert (first.output, second.output) == ("at last", 0)


def test_a_lane_waits_for_the_retries_of_its_head(make):
    jobs, ran, tickets = make(2, auto_start=False), qmill.Queue(), qmill.Queue()
    tickets.put_many([False, False, True])

    def attempt():
        ran.put("attempt")
        if not tickets.get():
            raise KeyError
        return "at last"

    jobs.put(attempt, lane="a", retries=2, backoff=0.02)
    jobs.put(ran.put, "second", lane="a")
    run_all(jobs)
    assert ran.get_many(4) == ["attempt", "attempt", "attempt", "second"]


def test_a_user_who_cancels_a_job_does_not_stop_its_lane(paused):
    head = paused.put(int, lane="a")
    second = paused.put(int, lane="a", stop_on_lane_error=True)
    head.cancel()
    run_all(paused)
    assert second.result() == 0


def test_lanes_of_submit_and_map(make, gate):
    jobs = make(2)
    first = jobs.options(lane="a").submit(gate.hold, "first")
    results = jobs.options(lane="a").map(gate.hold, ["second"], chunksize=1)
    assert gate.wait_for_start() == "first"
    jobs.put(int).result()
    assert gate.started.empty()
    gate.permit(1)
    assert first.result() == 1
    assert gate.wait_for_start() == "second"
    gate.permit(2)
    assert list(results) == [2]


def test_many_lanes(jobs):
    ran = [qmill.Queue() for _ in range(5)]
    for number in range(100):
        jobs.put(ran[number % 5].put, number, lane=number % 5)
    jobs.wait()
    for lane, order in enumerate(ran):
        assert order.get_many(20) == list(range(lane, 100, 5))
