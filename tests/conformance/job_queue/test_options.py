"""`options` and `starmap`."""

from __future__ import annotations

import qmill


def test_options_submit(paused):
    chosen = paused.options(name="urgent", priority=1, lane="a", retries=2)
    job = chosen.submit(dict, a=1, name=2)
    assert (job.name, job.priority, job.lane) == ("urgent", 1, "a")
    paused.start()
    assert job.result() == {"a": 1, "name": 2}
    assert paused.collect() == []


def test_options_timeout(gate):
    with qmill.JobQueue(1) as jobs:
        job = jobs.options(timeout=0.05).submit(gate.hold)
        assert type(job.exception()) is qmill.JobTimeout


def test_options_map(jobs):
    assert list(jobs.options(priority=1).map(pow, [2, 3], [4, 5])) == [16, 243]
    assert list(jobs.options(retries=1).map(abs, range(10), chunksize=3)) == list(range(10))
    assert list(jobs.options(lane="a").map(abs, range(10), buffersize=2)) == list(range(10))


def test_options_can_be_used_again_and_change_nothing_else(paused):
    urgent = paused.options(priority=1)
    assert [urgent.submit(int).priority for _ in range(3)] == [1, 1, 1]
    assert paused.submit(int).priority == 100


def test_starmap(jobs):
    some = jobs.starmap(pow, [(2, 3), [3, 2], iter((5, 2, 7))], priority=7)
    assert [job.result() for job in some] == [8, 9, 4]
    assert [job.priority for job in some] == [7] * 3
    assert [job.args for job in some] == [(2, 3), (3, 2), (5, 2, 7)]
    jobs.wait()
    assert jobs.collect() == some


def test_starmapkw(jobs):
    some = jobs.starmapkw(dict, ({"a": number} for number in range(3)), lane="a")
    assert [job.result() for job in some] == [{"a": 0}, {"a": 1}, {"a": 2}]
    assert [job.lane for job in some] == ["a"] * 3
    jobs.wait()
    assert jobs.collect() == some


def test_starmap_of_nothing(jobs):
    assert jobs.starmap(pow, []) == []
    assert jobs.starmapkw(dict, []) == []
    assert jobs.wait() == 0
