"""Workers end with their parent, however it ends."""

from __future__ import annotations

import os
import signal

import pytest

from .. import functions
from ..programs import Watch, wait_until_asleep

# -- the parent's death ---------------------------------------------------------------------------


def test_no_worker_outlives_a_killed_parent(start_program):
    """PAINS 16: orphans live on after the parent is killed."""
    program = start_program(
        """
ready, gate = qmill.Queue(), qmill.Queue()
crew = [qmill.run(functions.tell_and_wait, ready, gate) for _ in range(3)]
tell(*[ready.get() for _ in crew])
gate.get()
"""
    )
    watch = Watch(program.hear_pids())
    program.kill()
    assert watch.wait() == []


@pytest.mark.parametrize("how", functions.STUCK)
def test_a_worker_that_is_stuck_in_c_dies_with_its_parent(start_program, how):
    """PAINS 16: orphans live on after the parent is killed."""
    program = start_program(
        f"""
pids = qmill.Queue()
worker = qmill.run(functions.stick, {how!r}, pids)
tell(pids.get())
worker.join()
"""
    )
    [pid] = program.hear_pids()
    if how == "sleep":
        wait_until_asleep(pid)
    watch = Watch([pid])
    program.kill()
    assert watch.wait() == []


def test_workers_of_workers_die_with_a_killed_parent(start_program):
    """PAINS 16: orphans live on after the parent is killed."""
    program = start_program(
        """
pids, gate = qmill.Queue(), qmill.Queue()
worker = qmill.run(functions.descend_and_wait, 2, pids, gate)
tell(*[pids.get() for _ in range(3)])
worker.join()
"""
    )
    watch = Watch(program.hear_pids())
    program.kill()
    assert watch.wait() == []


def test_a_worker_that_ignores_signals_dies_with_its_parent(start_program):
    """PAINS 16: orphans live on after the parent is killed."""
    program = start_program(
        """
ready, gate = qmill.Queue(), qmill.Queue()
ignored = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGIO, signal.SIGPIPE]
worker = qmill.run(functions.ignore_and_tell, ignored, ready, gate)
tell(ready.get())
worker.join()
"""
    )
    watch = Watch(program.hear_pids())
    program.kill()
    assert watch.wait() == []


def test_a_worker_that_is_starting_dies_with_its_parent(start_program):
    """PAINS 16: orphans live on after the parent is killed."""
    program = start_program(
        """
crew = [qmill.run(functions.stick, "sleep", qmill.Queue()) for _ in range(5)]
tell(*[worker.pid for worker in crew])
crew[0].join()
"""
    )
    watch = Watch(program.hear_pids())
    program.kill()
    assert watch.wait() == []


@pytest.mark.parametrize("fork", ["os.fork()", "multiprocessing", "subprocess"])
def test_workers_die_although_a_child_of_their_parent_lives(start_program, fork):
    """PAINS 16: orphans live on after the parent is killed."""
    program = start_program(
        f"""
import multiprocessing, subprocess
ready, gate = qmill.Queue(), qmill.Queue()
workers = [qmill.run(functions.tell_and_wait, ready, gate)]
pids = [ready.get()]
if {fork!r} == "os.fork()":
    child = os.fork()
    if child == 0:
        os.read(0, 1)
        os._exit(0)
elif {fork!r} == "multiprocessing":
    process = multiprocessing.get_context("fork").Process(target=os.read, args=(0, 1))
    process._config["daemon"] = False
    process.start()
    child = process.pid
else:
    child = subprocess.Popen(["sleep", "1000"], close_fds=False).pid
workers.append(qmill.run(functions.tell_and_wait, ready, gate))
pids.append(ready.get())
tell(child, *pids)
gate.get()
"""
    )
    child, *pids = program.hear_pids()
    alive, watch = Watch([child]), Watch(pids)
    program.kill()
    left = watch.wait()
    still_there = os.path.exists(f"/proc/{child}/stat")
    os.kill(child, signal.SIGKILL)
    assert alive.wait() == []
    assert left == []
    assert still_there


# -- the parent's normal end ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "exitcode"), [("", 0), ("sys.exit(7)", 7), ("raise ValueError", 1)]
)
def test_workers_that_still_run_are_terminated_with_a_warning(start_program, end, exitcode):
    program = start_program(
        f"""
ready, gate = qmill.Queue(), qmill.Queue()
worker = qmill.run(functions.tell_and_wait, ready, gate)
tell(ready.get())
input()
{end}
"""
    )
    watch = Watch(program.hear_pids())
    program.tell()
    _, errors = program.finish()
    assert watch.wait() == []
    assert program.exitcode == exitcode
    assert errors.count("RuntimeWarning") == 1
    assert "tell_and_wait-1" in errors
    assert "WorkerDied" not in errors


def test_a_worker_that_ignores_sigterm_does_not_keep_the_program(start_program):
    program = start_program(
        """
ready, gate = qmill.Queue(), qmill.Queue()
worker = qmill.run(functions.ignore_and_tell, [signal.SIGTERM], ready, gate)
tell(ready.get())
input()
"""
    )
    watch = Watch(program.hear_pids())
    program.tell()
    program.finish()
    assert watch.wait() == []
    assert program.exitcode == 0


def test_workers_that_are_about_to_end_are_not_warned_of(start_program):
    program = start_program(
        """
q, out, ready = qmill.Q(), qmill.Q(), qmill.Queue()
crew = [qmill.run(functions.ready_read_to, q, out, ready) for _ in range(2)]
for _ in crew:
    ready.get()  # on a busy machine it takes longer to begin than they have to end
q.end().end()
"""
    )
    output, errors = program.finish()
    assert (program.exitcode, output, errors) == (0, "", "")


def test_thread_workers_are_joined_when_the_program_ends(start_program):
    program = start_program(
        """
q = qmill.Q("thread")
def work():
    for message in q:
        pass
    tell("done")
worker = qmill.run_thread(work)
threading.Timer(0.05, q.end).start()
sys.exit(3)
"""
    )
    assert program.hear() == ["done"]
    _, errors = program.finish()
    assert (program.exitcode, errors) == (3, "")
