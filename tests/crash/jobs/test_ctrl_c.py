"""Ctrl-C ends a program with jobs, with one traceback."""

from __future__ import annotations

import signal

import pytest

from ..programs import Watch, wait_until_asleep

READY = """
import itertools
told, gate = qmill.Queue(), qmill.Queue()
def ready(num):
    tell(*[told.get() for _ in range(num)])
"""

INTERRUPTED = {
    "with": """
with qmill.JobQueue(2) as jobs:
    some = [jobs.put(functions.tell_and_wait, [told, gate]) for _ in range(20)]
    ready(2)
    some[5].result()
""",
    "at the end of with": """
with qmill.JobQueue(2) as jobs:
    some = [jobs.put(functions.tell_and_wait, [told, gate]) for _ in range(20)]
    ready(2)
""",
    "without with": """
jobs = qmill.JobQueue(2)
some = [jobs.put(functions.tell_and_wait, [told, gate]) for _ in range(20)]
ready(2)
jobs.wait()
""",
    "at exit": """
jobs = qmill.JobQueue(2)
some = [jobs.put(functions.tell_and_wait, [told, gate]) for _ in range(20)]
ready(2)
""",
    "in get": """
with qmill.JobQueue(2) as jobs:
    some = [jobs.put(functions.tell_and_wait, [told, gate]) for _ in range(20)]
    ready(2)
    jobs.get()
""",
    "in map": """
def items():
    for number in itertools.count():
        yield told
for _ in qmill.map(functools.partial(functions.tell_and_wait, gate=gate), items(), max_workers=2):
    pass
""",
}


@pytest.mark.parametrize("where", INTERRUPTED)
def test_ctrl_c_ends_everything_with_one_traceback(start_program, where):
    """PAINS 17: Ctrl-C hangs, and prints a page for each worker."""
    source = READY + INTERRUPTED[where]
    if where == "in map":
        source = source.replace("for _ in qmill", "Call(ready, 2)\nfor _ in qmill")
        source = "import functools\nfrom tests.crash.programs import Call\n" + source
    program = start_program(source)
    pids = program.hear_pids()
    for pid in [*pids, program.pid]:
        wait_until_asleep(pid)
    watch = Watch(pids)
    program.interrupt_group()
    _, errors = program.finish()
    assert watch.wait() == []
    if where == "at exit":  # the program itself is over
        assert errors.count("Traceback") <= 1, errors
        return
    assert errors.count("Traceback") == 1, errors
    assert errors.rstrip().endswith("KeyboardInterrupt"), errors
    assert errors.count("KeyboardInterrupt") == 1, errors
    assert program.exitcode == -signal.SIGINT


LOADS = {
    "jobs": """
with qmill.JobQueue(2) as jobs:
    some = [jobs.put(functions.add, (i, 1)) for i in range(100)]
    tell("go")
    while True:
        some += [jobs.put(functions.add, (i, 1)) for i in range(100)]
""",
    "map": """
told_already = False
for _ in qmill.map(functions.add, itertools.count(), max_workers=2):
    if not told_already:
        tell("go")
        told_already = True
""",
    "starting": """
qmill.JobQueue  # is loaded before: an import that is interrupted may print more than one traceback
tell("go")
while True:
    with qmill.JobQueue(3) as jobs:
        for _ in range(3):
            jobs.submit(functions.nothing)
""",
    "dying": """
with qmill.JobQueue(2) as jobs:
    tell("go")
    while True:
        jobs.put(functions.die, "SIGKILL", suppress_errors=True)
""",
}


@pytest.mark.parametrize("load", LOADS)
def test_ctrl_c_under_load(start_program, load):
    """PAINS 17: Ctrl-C hangs, and prints a page for each worker."""
    program = start_program("import itertools\n" + LOADS[load])
    assert program.hear() == ["go"]
    program.interrupt_group()
    _, errors = program.finish()
    assert errors.count("Traceback") == 1, errors
    assert errors.count("KeyboardInterrupt\n") == 1, errors
    assert program.exitcode == -signal.SIGINT
