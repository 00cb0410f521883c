"""Jobs that spoil descriptors, streams and memory of their worker."""

from __future__ import annotations

import gc
import resource
from collections import Counter
from pathlib import Path

import pytest

import qmill
from qmill import SerializationError, WorkerDied

from .. import functions, job_functions
from ..programs import descriptors
from .health import check_healthy, outcome


def test_a_job_that_fills_stdout(start_program):
    program = start_program(
        """
with qmill.JobQueue(1) as jobs:
    jobs.submit(functions.say, "x" * (1 << 20) + "\\n").result()
    os.write(1, b"done")
"""
    )
    output, errors = program.finish()
    assert errors == ""
    assert len(output) == (1 << 20) + len("\ndone")
    assert output.endswith("x\ndone")  # what a job has printed is there when its result is


GARBAGE = {
    "a byte": (b"x", 1),
    "zeros": (bytes(29), 1),
    "many zeros": (bytes(290), 50),
    "noise": (bytes(range(256)), 4),
    "much noise": (bytes(range(256)), 4096),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_a_job_that_writes_into_all_descriptors(start_program, what):
    garbage, times = GARBAGE[what]
    program = start_program(
        f"""
with qmill.JobQueue(1) as jobs:
    wrong = jobs.put(job_functions.write_everywhere, ({garbage}, {times}), suppress_errors=True)
    wrong.exception()
    tell(wrong.state)
    tell(*[jobs.submit(functions.add, i, 1).result() for i in range(20)])
    tell(jobs.wait(), jobs.size(waiting=True), jobs.size(working=True))
"""
    )
    assert program.hear()[0] in ("done", "failed", "died")
    assert program.hear() == [str(number) for number in range(1, 21)]
    assert program.hear() == ["0", "0", "0"]
    program.finish()
    assert program.exitcode == 0


def test_a_worker_that_runs_out_of_memory(quick_method):
    with qmill.JobQueue(
        1, initializer=job_functions.limit_memory, initargs=(100 << 20,), name="poor"
    ) as jobs:
        pid = jobs.submit(functions.pid).result()
        job = jobs.put(functions.many_bytes, 1 << 30, suppress_errors=True)
        assert type(outcome(job)) is MemoryError
        assert (job.state, job.exitcode) == ("failed", 1)
        assert jobs.submit(functions.pid).result() == pid
        # There is room for this, but not for what has to be sent.
        job = jobs.put(functions.many_bytes, 70 << 20, suppress_errors=True)
        assert isinstance(outcome(job), (bytes, MemoryError, SerializationError, WorkerDied))
        check_healthy(jobs)
        job = jobs.put(job_functions.size_of, functions.many_bytes(150 << 20), suppress_errors=True)
        assert isinstance(outcome(job), (MemoryError, SerializationError, OSError, WorkerDied))
        check_healthy(jobs)


def test_a_worker_that_grew_too_large_is_replaced(quick_method):
    """A forked worker begins with what its parent has."""
    resident, mapped = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    now = (resident - mapped) * resource.getpagesize()  # files are mapped anew when they are used
    limit = (now if quick_method == "fork" else 30 << 20) + (90 << 20)
    with qmill.JobQueue(1, max_memory_per_worker=limit) as jobs:
        small = {jobs.submit(job_functions.hoard, 1).result() for _ in range(10)}
        assert len(small) == 1
        assert small == {jobs.submit(job_functions.hoard, 120 << 20).result()}
        many = [jobs.submit(job_functions.hoard, 50 << 20) for _ in range(12)]
        pids = Counter(job.result() for job in many)
        assert not small & set(pids)
        assert max(pids.values()) <= 5
        check_healthy(jobs)


def test_no_descriptor_is_left_open(quick_method):
    def use(num_jobs, num_deaths):
        with qmill.JobQueue(2) as jobs:
            some = [jobs.submit(functions.add, number) for number in range(num_jobs)]
            large = [jobs.submit(functions.many_bytes, 1 << 17) for _ in range(20)]
            deaths = [jobs.submit(functions.die, "SIGKILL") for _ in range(num_deaths)]
            assert [job.result() for job in some] == list(range(num_jobs))
            assert {len(job.result()) for job in large} == {1 << 17}
            assert {type(job.exception()) for job in deaths} == {WorkerDied}
            gc.collect()
            return len(descriptors())

    num_open = use(10, 1)
    gc.collect()
    before = descriptors()
    assert use(1000, 100) <= num_open + 8  # a worker's
    gc.collect()
    assert descriptors() == before
