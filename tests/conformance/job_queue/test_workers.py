"""The workers of a queue: their number, their names, their end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from conformance_support import LIMIT_S, wait_for_end_of

import qmill

from .common_jobs import outputs_of, sizes_of


def test_so_many_jobs_run_at_a_time(make, gate):
    jobs = make(3)
    for _ in range(5):
        jobs.put(gate.hold)
    for _ in range(3):
        gate.wait_for_start()
    assert sizes_of(jobs) == (2, 3, 0)
    assert gate.started.empty()
    gate.permit(*range(5))
    assert jobs.wait() == 0


def test_more_workers(make, gate):
    jobs = make(1)
    for _ in range(4):
        jobs.put(gate.hold)
    gate.wait_for_start()
    assert sizes_of(jobs) == (3, 1, 0)
    jobs.set_workers(3)
    gate.wait_for_start()
    gate.wait_for_start()
    assert sizes_of(jobs) == (1, 3, 0)
    gate.permit(*range(4))
    assert jobs.wait() == 0


def test_fewer_workers(make, gate):
    jobs = make(3)
    some = [jobs.put(gate.hold) for _ in range(4)]
    for _ in range(3):
        gate.wait_for_start()
    jobs.set_workers(1)
    gate.permit(1, 2)
    assert {jobs.get().output, jobs.get().output} == {1, 2}
    assert sizes_of(jobs) == (1, 1, 0)
    assert gate.started.empty()
    gate.permit(3)
    gate.wait_for_start()
    assert jobs.get().output == 3
    assert sizes_of(jobs) == (0, 1, 0)
    gate.permit(4)
    assert jobs.wait() == 0
    assert sorted(job.output for job in some) == [1, 2, 3, 4]


def test_workers_are_kept_from_job_to_job(engine):
    with qmill.JobQueue(2, engine=engine) as jobs:
        some = [
            jobs.put(os.getpid if engine == "process" else threading.get_ident, name=number)
            for number in range(20)
        ]
        assert len({job.result() for job in some}) <= 2
        assert len({job.worker for job in some}) <= 2


def test_auto_stop_ends_processes_when_all_is_done():
    with qmill.JobQueue(2, auto_stop=True) as jobs:
        pids = {jobs.put(os.getpid).result()}
        assert all(wait_for_end_of(pid) for pid in pids)
        again = {job.result() for job in [jobs.put(os.getpid) for _ in range(4)]}
        assert not again & pids
        assert all(wait_for_end_of(pid) for pid in again)
        assert jobs.wait() == 0
        assert len(jobs.collect()) == 5


def test_auto_stop_ends_threads_when_all_is_done():
    with qmill.JobQueue(2, engine="thread", auto_stop=True) as jobs:
        for _ in range(2):
            thread = jobs.put(threading.current_thread).result()
            thread.join(LIMIT_S)
            assert not thread.is_alive()


def test_auto_stop_waits_until_all_is_done(make, gate):
    jobs = make(1, auto_stop=True)
    jobs.put(gate.hold)
    last = jobs.put(int)
    gate.permit("went on")
    assert last.result() == 0
    assert outputs_of(jobs.as_completed()) == ["went on", 0]


def test_auto_stop_in_seconds_ends_processes_that_have_waited_so_long():
    with qmill.JobQueue(1, auto_stop=0.05) as jobs:
        for _ in range(3):
            assert wait_for_end_of(jobs.put(os.getpid).result())


def test_auto_stop_in_seconds_ends_threads_that_have_waited_so_long():
    with qmill.JobQueue(1, engine="thread", auto_stop=0.05) as jobs:
        for _ in range(3):
            thread = jobs.put(threading.current_thread).result()
            thread.join(LIMIT_S)
            assert not thread.is_alive()


def test_auto_stop_in_seconds_keeps_workers_until_then():
    with qmill.JobQueue(1, auto_stop=3600) as jobs:
        found = set()
        for _ in range(3):
            found.add(jobs.put(os.getpid).result())
            assert jobs.wait() == 0
        assert len(found) == 1


@pytest.mark.parametrize("wrong", [-1, float("nan")])
def test_auto_stop_is_a_time_or_a_bool(make, wrong):
    with pytest.raises(ValueError, match="auto_stop must be"):
        make(1, auto_stop=wrong)
    with pytest.raises(TypeError, match="auto_stop must be a number of seconds or a bool"):
        make(1, auto_stop=None)


def test_auto_remove_keeps_nothing(make):
    jobs = make(2, auto_remove=True)
    some = [jobs.put(abs, number) for number in range(10)]
    assert jobs.wait() == 0
    assert outputs_of(some) == list(range(10))
    assert sizes_of(jobs) == (0, 0, 0)
    assert jobs.collect() == []
    assert jobs.get() is None


PARTS = """
import cloudpickle
def body():
    return 1
class Code:
    def __reduce__(self):
        return getattr, (body, "__code__")
class Function:
    def __reduce__(self):
        names = {"__name__": "somewhere"}
        return cloudpickle.cloudpickle._make_function, (Code(), names, None, None, None)
def share_globals(queue):
    one, two = queue.get(), queue.get()
    return one.__globals__ is two.__globals__
"""

SHARING = """
import parts, qmill
if __name__ == "__main__":
    queue = qmill.Queue()
    queue.put_many([parts.Function(), parts.Function()])
    with qmill.JobQueue(1) as jobs:
        print(jobs.submit(parts.share_globals, queue).result())
"""


def test_functions_that_a_job_takes_from_a_queue_share_their_globals(tmp_path):
    """Also if they are the first that the worker takes, before it has loaded what packs them."""
    (tmp_path / "parts.py").write_text(PARTS)
    (tmp_path / "script.py").write_text(SHARING)
    told = subprocess.check_output([sys.executable, tmp_path / "script.py"], text=True)
    assert told == "True\n"
