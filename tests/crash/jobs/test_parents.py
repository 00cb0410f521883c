"""No worker outlives its parent."""

from __future__ import annotations

import pytest

from ..programs import Watch

RUNNING = {
    "idle": "jobs.map(functions.add, range(3)); gate.get()",
    "waiting": "[jobs.submit(functions.tell_and_wait, told, gate) for _ in range(3)]",
    "stuck": "[jobs.submit(functions.stick, 'pow', told) for _ in range(3)]",
    "ignoring": "[jobs.submit(functions.ignore_and_tell, [1, 2, 13, 15], told, gate)"
    " for _ in range(3)]",
}


@pytest.mark.parametrize("what", RUNNING)
def test_no_worker_outlives_a_killed_parent(start_program, what):
    """PAINS 16: orphans live on after the parent is killed."""
    start = RUNNING[what]
    if what == "idle":
        start = "some = [jobs.submit(functions.tell_and_wait, told, gate) for _ in range(3)]"
    program = start_program(
        f"""
told, gate = qmill.Queue(), qmill.Queue()
jobs = qmill.JobQueue(3)
{start}
pids = [told.get() for _ in range(3)]
if {what == "idle"}:
    gate.put_many([0] * 3)
    jobs.wait()
tell(*pids)
threading.Event().wait()
"""
    )
    watch = Watch(program.hear_pids())
    program.kill()
    assert watch.wait() == []


def test_no_worker_of_nested_queues_or_of_recycling_outlives_a_killed_parent(start_program):
    """PAINS 16: orphans live on after the parent is killed."""
    program = start_program(
        """
jobs = qmill.JobQueue(3, max_jobs_per_worker=1)
some = [jobs.submit(functions.add, i) for i in range(10_000)]
told = qmill.Queue()
start = job_functions.start_nested_workers
nested = [jobs.options(priority=1).submit(start, told) for _ in range(2)]
tell(*told.get(), *told.get())
threading.Event().wait()
"""
    )
    watch = Watch(program.hear_pids())
    program.kill()
    assert watch.wait() == []
