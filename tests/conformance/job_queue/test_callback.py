"""The queue's callback: called once for each job, one at a time."""

from __future__ import annotations

import os
import threading

from conformance_support import LIMIT_S, Call, wait_for_end_of

import qmill

from .common_jobs import fail, outputs_of, run_all, sizes_of


def test_the_callback_gets_each_job_as_it_ends(make, gate):
    called = []
    jobs = make(2, callback=called.append)
    slow = jobs.put(gate.hold)
    gate.wait_for_start()
    quick = [jobs.put(abs, number) for number in range(3)]
    quick[-1].result()
    gate.permit()
    assert jobs.wait() == 0
    assert called[-1] is slow
    assert sorted(job.id for job in called) == [1, 2, 3, 4]


def test_callbacks_are_called_in_the_order_in_which_jobs_end(make, gate):
    called = []
    jobs = make(3, callback=called.append)
    gates = [qmill.Queue() for _ in range(3)]
    some = [jobs.put(queue.get) for queue in gates]
    for number in (1, 2, 0):
        gates[number].put(number)
        some[number].result()
    assert jobs.wait() == 0
    assert outputs_of(called) == [1, 2, 0]


def test_callbacks_are_called_for_every_end(make):
    called = []
    jobs = make(1, auto_start=False, callback=called.append)
    some = [jobs.put(abs, 1), jobs.put(fail), jobs.put(int), *jobs.starmap(abs, [(2,)])]
    some[2].cancel()
    lane = {"lane": "a", "stop_on_lane_error": True}
    some += [jobs.put(fail, **lane), jobs.put(int, **lane)]
    run_all(jobs)
    assert set(called) == set(some)
    assert len(called) == len(some)


def test_the_callback_is_not_for_submit_and_map(make):
    called = []
    jobs = make(1, callback=called.append)
    jobs.submit(int).result()
    assert list(jobs.map(abs, [1])) == [1]
    jobs.wait()
    assert called == []


def test_what_a_callback_returned_is_in_the_job(make):
    jobs = make(1, callback=lambda job: f"saw {job.output}")
    job = jobs.put(abs, -3)
    assert jobs.get() is job
    assert job.callback == "saw 3"
    assert job.processed >= job.ended


def test_what_a_callback_raised_is_in_the_job(make):
    jobs = make(1, callback=fail)
    some = [jobs.put(abs, number) for number in range(3)]
    assert set(jobs.as_completed()) == set(some)
    assert [type(job.callback) for job in some] == [KeyError] * 3
    assert outputs_of(some) == [0, 1, 2]
    assert [job.state for job in some] == ["done"] * 3


def test_a_job_is_completed_when_its_callback_has_returned(make):
    seen = []
    jobs = make(1, callback=lambda job: seen.append((job.processed, *sizes_of(jobs))))
    job = jobs.put(int)
    jobs.wait()
    assert seen == [(None, 0, 1, 0)]
    assert job.processed is not None
    assert sizes_of(jobs) == (0, 0, 1)


def test_callbacks_have_a_thread_of_their_own(make):
    threads = set()
    jobs = make(2, callback=lambda job: threads.add(threading.current_thread()))
    workers = (
        {jobs.put(threading.current_thread).result() for _ in range(3)}
        if (jobs.submit(os.getpid).result() == os.getpid())
        else set()
    )
    jobs.put(int)
    jobs.wait()
    assert len(threads) == 1
    assert not threads & {threading.main_thread(), *workers}


def test_a_callback_may_use_the_queue(make):
    seen = []

    def call_back(job):
        if job.output:
            jobs.put(abs, job.output - 1)
        jobs.reprioritize(job, 1)
        jobs.pause()
        seen.append((job.output, jobs.get(block=False), jobs.collect(), jobs.wait(timeout=0) > 0))
        jobs.start()
        jobs.set_workers(2)

    jobs = make(1, callback=call_back)
    jobs.put(abs, 3)
    assert jobs.wait() == 0
    assert [entry[0] for entry in seen] == [3, 2, 1, 0]
    fetched = [job for _, got, collected, _ in seen for job in [got, *collected] if job]
    assert outputs_of([*fetched, *jobs.collect()]) == [3, 2, 1, 0]


def test_callbacks_are_called_outside_all_locks(make):
    """Another thread can use the queue while a callback runs."""
    seen = []

    def call_back(job):
        if job.name == "first":
            calls = [
                Call(jobs.put, abs, -3),
                Call(jobs.size),
                Call(jobs.get, block=False),
                Call(jobs.reprioritize, job, 5),
                Call(jobs.submit, abs, -4),
            ]
            seen.extend(call.result() for call in calls)
            seen.append(seen[-1].result(LIMIT_S))

    jobs = make(1, callback=call_back)
    jobs.put(int, name="first")
    assert jobs.wait() == 0
    assert seen[0].output == 3
    assert seen[-1] == 4


def test_a_callback_that_blocks_delays_completions_but_not_dispatch(make, gate):
    unblock = threading.Event()
    jobs = make(1, callback=lambda job: unblock.wait(LIMIT_S))
    first = jobs.put(abs, -3)
    second = jobs.put(gate.hold)
    gate.wait_for_start()
    submitted = jobs.submit(abs, -4)
    gate.permit("went on")
    assert submitted.result(LIMIT_S) == 4
    assert sizes_of(jobs) == (0, 2, 0)
    assert jobs.get(timeout=0.01) is None
    unblock.set()
    assert list(jobs.as_completed()) == [first, second]
    assert second.output == "went on"


def test_a_callback_that_blocks_does_not_delay_kills(gate):
    unblock = threading.Event()
    with qmill.JobQueue(1, callback=lambda job: unblock.wait(LIMIT_S)) as jobs:
        pid = jobs.put(os.getpid).result(LIMIT_S)
        held = jobs.put(gate.hold, timeout=0.1)
        assert wait_for_end_of(pid)
        assert not unblock.is_set()
        assert jobs.submit(int).result(LIMIT_S) == 0
        unblock.set()
        assert type(held.exception(LIMIT_S)) is qmill.JobTimeout


def test_a_with_block_waits_for_callbacks(engine):
    called = []
    with qmill.JobQueue(2, engine=engine, callback=called.append) as jobs:
        some = [jobs.put(abs, number) for number in range(20)]
    assert sorted(called, key=lambda job: job.id) == some
