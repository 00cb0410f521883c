"""A program ends with jobs that wait or run."""

from __future__ import annotations

import pytest

from ...examples import programs

# One write a line: what threads print gets mixed up.
PENDING = """
import os, sys, qmill
jobs = qmill.JobQueue(1, engine={engine!r}, auto_start={auto_start})
for number in range(5):
    jobs.submit(os.write, 1, f"submit {{number}}\\n".encode())
for number in range(5):
    jobs.put(os.write, [1, f"put {{number}}\\n".encode()])
os.write(1, b"the end of the program\\n")
{end}
"""

ALL_PENDING = [f"{how} {number}" for how in ("submit", "put") for number in range(5)]


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "del jobs"])
def test_at_a_programs_end_pending_jobs_run(engine, end):
    source = PENDING.format(engine=engine, end=end, auto_start=True)
    lines = programs.run("-c", source).splitlines()
    lines.remove("the end of the program")
    assert lines == ALL_PENDING


def test_at_a_programs_end_a_paused_queue_runs_its_jobs(engine):
    source = PENDING.format(engine=engine, end="", auto_start=False)
    assert programs.run("-c", source).splitlines() == ["the end of the program", *ALL_PENDING]


CALLING_BACK = """
import qmill

def tell(job):
    print(job.output, flush=True)

jobs = qmill.JobQueue(2, engine={engine!r}, callback=tell)
for number in range(3):
    jobs.put(abs, number)
jobs.submit(abs, 3).add_done_callback(lambda job: print(job.result(), flush=True))
"""


def test_at_a_programs_end_callbacks_are_called(engine):
    lines = programs.run("-c", CALLING_BACK.format(engine=engine)).splitlines()
    assert sorted(lines) == ["0", "1", "2", "3"]


def test_an_idle_queue_does_not_keep_a_program(engine):
    source = f"import qmill; jobs = qmill.JobQueue(2, engine={engine!r}); jobs.submit(int).result()"
    assert programs.run("-c", source) == ""
    source = f"import qmill; jobs = qmill.JobQueue(2, engine={engine!r})"
    assert programs.run("-c", source) == ""


def test_a_failure_of_the_program_leaves_its_exit_status(engine):
    source = PENDING.format(engine=engine, end="sys.exit(7)", auto_start=True)
    program = programs.start("-c", source)
    output, errors = program.communicate(timeout=programs.TIMEOUT_S)
    assert (program.returncode, errors) == (7, "")
    assert len(output.splitlines()) == 11


def test_jobs_added_by_callbacks_at_a_programs_end_run_or_are_refused(engine):
    source = f"""
import qmill

def add(job):
    try:
        jobs.submit(print, "added", flush=True)
    except RuntimeError:
        print("refused", flush=True)

jobs = qmill.JobQueue(1, engine={engine!r})
jobs.submit(int).add_done_callback(add)
"""
    assert programs.run("-c", source) in ("added\n", "refused\n")
