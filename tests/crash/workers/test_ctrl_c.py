"""Ctrl-C ends a program and its workers."""

from __future__ import annotations

import os
import signal

import pytest

from ..programs import Watch, wait_until_asleep

WAITS = {
    "get": "gate.get()",
    "join": "crew[0].join()",
    "result": "crew[0].result()",
    "stop": "other.stop(crew)",
    "iteration": "for _ in other: pass",
    "computing": "while True: pass",
}


@pytest.mark.parametrize("where", WAITS)
def test_ctrl_c_ends_everything_with_one_traceback(start_program, where):
    """PAINS 17: Ctrl-C hangs, and prints a page for each worker."""
    program = start_program(
        f"""
q, other, out, ready, gate = qmill.Q(), qmill.Q(), qmill.Q(), qmill.Queue(), qmill.Queue()
crew = [qmill.run(functions.ready_read_to, q, out, ready) for _ in range(4)]
tell(*[ready.get() for _ in crew])
{WAITS[where]}
"""
    )
    pids = program.hear_pids()
    for pid in pids:
        wait_until_asleep(pid)
    if where != "computing":
        wait_until_asleep(program.pid)
    watch = Watch(pids)
    program.interrupt_group()
    _, errors = program.finish()
    assert watch.wait() == []
    assert errors.count("Traceback") == 1, errors
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert errors.count("KeyboardInterrupt") == 1
    assert program.exitcode == -signal.SIGINT


def test_ctrl_c_that_the_program_handles(start_program):
    """PAINS 17: Ctrl-C hangs, and prints a page for each worker."""
    program = start_program(
        """
q, out, ready = qmill.Q(), qmill.Q(), qmill.Queue()
crew = [qmill.run(functions.ready_read_to, q, out, ready) for _ in range(2)]
tell(*[ready.get() for _ in crew])
try:
    crew[0].join()
except KeyboardInterrupt:
    try:
        q.stop(crew)
    except ExceptionGroup as group:
        tell(*[f"{type(error).__name__}:{error.signal}" for error in group.exceptions])
"""
    )
    for pid in program.hear_pids():
        wait_until_asleep(pid)
    wait_until_asleep(program.pid)
    program.interrupt_group()
    assert program.hear() == ["WorkerDied:2", "WorkerDied:2"]
    _, errors = program.finish()
    assert (program.exitcode, errors) == (0, "")


def test_ctrl_c_while_workers_start(start_program, method):
    """PAINS 17: Ctrl-C hangs, and prints a page for each worker."""
    program = start_program(
        """
gate = qmill.Queue()
tell("starting")
crew = []
while True:
    crew.append(qmill.run(functions.wait_for, gate))
    if len(crew) == 3:
        tell("go")
    if len(crew) > 30:
        gate.get()
"""
    )
    assert program.hear() == ["starting"]
    assert program.hear() == ["go"]
    os.kill(program.pid, signal.SIGINT)
    _, errors = program.finish()
    assert errors.count("KeyboardInterrupt\n") == 1, errors
    assert program.exitcode == -signal.SIGINT
