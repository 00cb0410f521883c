"""Jobs of one lane run one after another, and fail together."""

from __future__ import annotations

import pytest

from .bench import names_of

# -- lanes ----------------------------------------------------------------------------------------


def test_jobs_of_a_lane_run_one_after_another(bench, scheduler):
    bench.add_all("abc", lane="lane")
    assert bench.counts == (3, 0, 0)
    for name in "abc":
        assert bench.first == name
        job = bench.begin()
        assert scheduler.first() is None
        bench.end(job)
    assert bench.counts == (0, 0, 0)


def test_lanes_run_beside_each_other_and_beside_others(bench):
    bench.add_all("ab", lane=1)
    bench.add_all("cd", lane=2)
    bench.add_all("ef")
    jobs = [bench.begin() for _ in range(4)]
    assert names_of(jobs) == list("acef")
    assert bench.first is None
    bench.end(jobs[1])
    assert bench.first == "d"


@pytest.mark.parametrize("lane", [0, "", False, (), 0.0, "lane", ("a", 1), frozenset()], ids=repr)
def test_any_hashable_value_but_none_is_a_lane(bench, lane):
    bench.add_all("ab", lane=lane)
    job = bench.begin()
    assert bench.first is None
    bench.end(job)
    assert bench.first == "b"


def test_none_is_no_lane(bench):
    bench.add_all("ab", lane=None)
    bench.begin()
    assert bench.first == "b"


def test_the_head_competes_with_its_own_priority(bench):
    bench.add("head", 50, lane="lane")
    bench.add("behind", 90, lane="lane")
    bench.add("before", 40)
    bench.add("between", 60)
    bench.add("after", 95)
    assert bench.run_all() == ["before", "head", "between", "behind", "after"]


def test_within_a_lane_the_lower_priority_number_goes_first(bench):
    for name, priority in zip("abcde", [5, 3, 9, 3, 1], strict=True):
        bench.add(name, priority, lane="lane")
    assert bench.run_all() == list("ebdac")


def test_a_more_urgent_job_becomes_the_head(bench, scheduler):
    bench.add("a", 50, lane="lane")
    bench.add("other", 40)
    assert bench.first == "other"
    bench.add("b", 30, lane="lane")
    assert bench.first == "b"
    bench.add("c", 35, lane="lane")
    assert bench.counts == (4, 0, 0)
    assert bench.run_all() == ["b", "c", "other", "a"]


def test_a_job_that_joins_while_the_lane_works_waits(bench):
    bench.add("a", 50, lane="lane")
    job = bench.begin()
    bench.add("b", 60, lane="lane")
    bench.add("c", 1, lane="lane")
    assert bench.first is None
    bench.end(job)
    assert bench.run_all() == ["c", "b"]


def test_a_put_back_head_lets_a_more_urgent_one_go_first(bench, scheduler):
    bench.add("a", 50, lane="lane")
    job = scheduler.take(0.0)
    bench.add("b", 1, lane="lane")
    bench.add("c", 60, lane="lane")
    scheduler.put_back(job)
    assert bench.counts == (3, 0, 0)
    assert bench.run_all() == ["b", "a", "c"]


def test_a_lane_waits_during_its_heads_backoff(bench, scheduler):
    job = bench.add("a", lane="lane", backoff=4.0)
    bench.add("b", lane="lane")
    bench.add("other", 200)
    bench.begin(0.0)
    scheduler.retry(job, 10.0)
    assert bench.first == "other"
    bench.add("urgent", 1, lane="lane")
    assert bench.first == "other"
    assert bench.counts == (4, 0, 0)
    scheduler.due(14.0)
    assert bench.first == "urgent"
    assert bench.run_all() == ["urgent", "a", "b", "other"]


def test_a_retry_keeps_its_place_before_those_behind_it(bench, scheduler):
    job, *_ = bench.add_all("abc", lane="lane", stop_on_lane_error=True)
    bench.begin(0.0)
    scheduler.retry(job, 0.0)
    scheduler.due(0.0)
    assert bench.run_all() == list("abc")


@pytest.mark.parametrize("which", "abc")
def test_removal_from_a_lane(bench, scheduler, which):
    jobs = dict(zip("abc", bench.add_all("abc", lane="lane"), strict=True))
    assert scheduler.remove(jobs[which]) is True
    assert bench.counts == (2, 0, 0)
    assert not scheduler.is_waiting(jobs[which])
    assert scheduler.remove(jobs[which]) is False
    assert bench.run_all() == [name for name in "abc" if name != which]


@pytest.mark.parametrize("which", "bcd")
def test_removal_from_a_lane_that_works(bench, scheduler, which):
    jobs = dict(zip("abcd", bench.add_all("abcd", lane="lane"), strict=True))
    works = bench.begin()
    assert scheduler.remove(jobs[which]) is True
    assert bench.first is None
    bench.end(works)
    assert bench.run_all() == [name for name in "bcd" if name != which]


def test_removal_of_a_head_that_backs_off_lets_the_lane_go_on(bench, scheduler):
    a, _ = bench.add_all("ab", lane="lane", backoff=4.0, stop_on_lane_error=True)
    bench.begin(0.0)
    scheduler.retry(a, 0.0)
    assert scheduler.remove(a) is True
    assert scheduler.next_due() is None
    assert bench.first == "b"
    assert bench.run_all() == ["b"]


def test_removal_of_one_behind_a_head_that_backs_off(bench, scheduler):
    a, b, _ = bench.add_all("abc", lane="lane", backoff=4.0)
    bench.begin(0.0)
    scheduler.retry(a, 0.0)
    assert scheduler.remove(b) is True
    assert bench.first is None
    scheduler.due(4.0)
    assert bench.run_all() == ["a", "c"]


def test_a_lane_of_which_all_were_removed_goes_on(bench, scheduler):
    for job in bench.add_all("abc", lane="lane"):
        assert scheduler.remove(job)
    assert scheduler.first() is None
    bench.add("d", lane="lane")
    assert bench.run_all() == ["d"]


def test_other_priorities_inside_a_lane(bench, scheduler):
    a, b, c = bench.add_all("abc", 50, lane="lane")
    bench.add("other", 40)
    assert scheduler.reprioritise(c, 30) is True  # the last becomes the head
    assert bench.first == "c"
    assert scheduler.reprioritise(c, 60) is True  # and is not any more
    assert bench.first == "other"
    assert scheduler.reprioritise(a, 55) is True  # the head is the second now
    assert scheduler.reprioritise(b, 39) is True
    assert bench.counts == (4, 0, 0)
    assert bench.run_all() == ["b", "other", "a", "c"]


def test_another_priority_of_one_in_a_lane_that_works(bench, scheduler):
    _, b, c = bench.add_all("abc", 50, lane="lane")
    works = bench.begin()
    assert scheduler.reprioritise(c, 1) is True
    assert bench.first is None
    bench.end(works)
    assert bench.first == "c"
    assert scheduler.reprioritise(b, 0) is True
    assert bench.run_all() == ["b", "c"]


def test_another_priority_of_a_head_that_backs_off(bench, scheduler):
    a, _ = bench.add_all("ab", 50, lane="lane", backoff=4.0)
    bench.begin(0.0)
    scheduler.retry(a, 0.0)
    assert scheduler.reprioritise(a, 90) is True
    assert bench.first is None
    assert scheduler.next_due() == 4.0
    scheduler.due(4.0)
    assert bench.run_all() == ["b", "a"]


# -- errors in lanes ------------------------------------------------------------------------------


def add_lane(bench, plan, lane="lane"):
    """Add jobs named by letters; those in capitals stop on an error before them."""
    return [bench.add(name, lane=lane, stop_on_lane_error=name.isupper()) for name in plan]


@pytest.mark.parametrize(
    ("plan", "stopped"),
    [
        ("a", ""),
        ("ab", ""),
        ("aB", "B"),
        ("aBC", "BC"),
        ("aBCdE", "BC"),
        ("abC", ""),
        ("AB", "B"),
        ("aBcDeF", "B"),
    ],
)
def test_a_failure_stops_those_behind_it_up_to_the_first_that_does_not_ask(bench, plan, stopped):
    jobs = add_lane(bench, plan)
    assert bench.fail(bench.begin()) == list(stopped)
    left = plan[1 + len(stopped) :]
    assert bench.counts == (len(left), 0, 0)
    for job in jobs[1 : 1 + len(stopped)]:
        assert not bench.scheduler.is_waiting(job)
        assert not bench.scheduler.remove(job)
    assert bench.run_all() == list(left)


def test_a_success_stops_nobody(bench):
    add_lane(bench, "aBC")
    assert bench.end(bench.begin()) == []
    assert bench.run_all() == list("BC")


def test_the_error_of_a_lane_stops_none_of_another(bench):
    add_lane(bench, "aB", lane=1)
    add_lane(bench, "xY", lane=2)
    bench.add("z", stop_on_lane_error=True)
    a, x = bench.begin(), bench.begin()
    assert bench.fail(a) == ["B"]
    bench.end(x)
    assert bench.run_all() == ["Y", "z"]


def test_those_that_are_stopped_come_in_the_order_in_which_they_would_have_run(bench):
    bench.add("head", 1, lane="lane")
    for name, priority in zip("ABCD", [9, 3, 7, 3], strict=True):
        bench.add(name, priority, lane="lane", stop_on_lane_error=True)
    assert bench.fail(bench.begin()) == list("BDCA")


def test_what_stands_between_by_its_priority_ends_the_cascade(bench):
    bench.add("head", 1, lane="lane")
    bench.add("A", 5, lane="lane", stop_on_lane_error=True)
    bench.add("b", 4, lane="lane")
    assert bench.fail(bench.begin()) == []
    assert bench.run_all() == ["b", "A"]


def test_another_priority_changes_who_is_stopped(bench, scheduler):
    _, _, c = add_lane(bench, "aBc")
    works = bench.begin()
    assert scheduler.reprioritise(c, 1)
    assert bench.fail(works) == []


def test_one_behind_another_that_did_not_ask_is_stopped_by_that_ones_failure(bench):
    add_lane(bench, "abC")
    assert bench.fail(bench.begin()) == []
    assert bench.fail(bench.begin()) == ["C"]
    assert bench.counts == (0, 0, 0)


def test_a_lane_that_ran_empty_forgets_its_error(bench):
    add_lane(bench, "aB")
    assert bench.fail(bench.begin()) == ["B"]
    add_lane(bench, "CD")
    assert bench.run_all() == ["C", "D"]


def test_who_joins_after_the_failure_is_not_stopped_by_it(bench):
    add_lane(bench, "ab")
    bench.fail(bench.begin())
    bench.add("C", 200, lane="lane", stop_on_lane_error=True)
    assert bench.run_all() == ["b", "C"]


def test_a_retry_stops_nobody_and_the_last_failure_does(bench, scheduler):
    a, _ = add_lane(bench, "aB")
    bench.begin()
    scheduler.retry(a, 0.0)
    scheduler.due(0.0)
    assert bench.counts == (2, 0, 0)
    assert bench.fail(bench.begin()) == ["B"]


def test_removal_of_a_waiting_predecessor_stops_nobody(bench, scheduler):
    a, _ = add_lane(bench, "aB")
    assert scheduler.remove(a)
    assert bench.run_all() == ["B"]


def test_those_that_are_stopped_leave_the_lane_to_who_follows(bench):
    add_lane(bench, "aBCd")
    bench.add("other", 1000)
    assert bench.fail(bench.begin()) == ["B", "C"]
    assert bench.first == "d"
    assert bench.run_all() == ["d", "other"]
