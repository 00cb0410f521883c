"""Jobs, arguments and results that cannot be sent, or are large."""

from __future__ import annotations

import os
import threading

import pytest

import qmill

from .common_jobs import outputs_of


class Refuses:
    """Cannot be pickled."""

    def __reduce__(self):
        raise TypeError("refuses to be pickled")


def test_what_cannot_be_sent_fails_the_job_and_does_not_raise():
    lock = threading.Lock()
    calls = {
        "argument": (len, [[lock]]),
        "keyword argument": (dict, None, {"lock": lock}),
        "closure": (lambda: lock, None),
        "bound method": (lock.acquire, None),
    }
    with qmill.JobQueue(1) as jobs:
        for name, call in calls.items():
            job = jobs.put(*call, name=name)
            with pytest.raises(qmill.SerializationError):
                job.result()
            assert job.state == "failed"
        submitted = jobs.submit(len, Refuses())
        assert type(submitted.exception()) is qmill.SerializationError
        assert jobs.put(abs, -3).result() == 3
        assert len(list(jobs.as_completed())) == 5


def test_threads_need_no_pickle():
    lock = threading.Lock()
    with qmill.JobQueue(1, engine="thread") as jobs:
        assert jobs.put(lambda one: one, [lock]).result() is lock


@pytest.mark.parametrize("how", ["put", "submit"])
def test_what_cannot_be_pickled_fails_only_its_job(how):
    """PAINS 6: an item that cannot be pickled vanishes or hangs."""
    with qmill.JobQueue(1) as jobs:
        add = getattr(jobs, how)
        before, after = jobs.put(os.getpid), None
        bad_item = add(len, [threading.Lock()])
        bad_result = add(threading.Lock)
        after = jobs.put(os.getpid)
        for bad in (bad_item, bad_result):
            with pytest.raises(qmill.SerializationError, match="lock"):
                bad.result()
        assert before.result() == after.result()


def test_large_results_that_nobody_reads_keep_no_one(engine):
    """PAINS 4: join before drain deadlocks."""
    with qmill.JobQueue(2, engine=engine) as jobs:
        for _ in range(8):
            jobs.put(bytes, 200_000)
    assert [len(job.output) for job in jobs.collect()] == [200_000] * 8


def test_large_arguments_and_results_cross(make):
    """PAINS 4: join before drain deadlocks."""
    jobs = make(2)
    some = [jobs.put(bytes.upper, [b"x" * 3_000_000]) for _ in range(8)]
    assert all(job.result() == b"X" * 3_000_000 for job in some)


def test_an_error_is_raised_and_kept_with_its_traceback(jobs):
    """PAINS 24: a task that raises makes `map` return 3 of 8 results, silently."""

    def fail_at_three(number):
        if number == 3:
            raise ZeroDivisionError(number)
        return number

    some = [jobs.put(fail_at_three, number) for number in range(8)]
    jobs.wait()
    assert outputs_of(jobs.collect()) == [0, 1, 2, None, 4, 5, 6, 7]
    with pytest.raises(ZeroDivisionError):
        some[3].result()
    assert "in fail_at_three" in some[3].to_dict()["exception"]
