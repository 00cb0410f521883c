"""Programs with workers that fork by themselves."""

from __future__ import annotations

import pytest

FORK = """
q, out = qmill.Q(), qmill.Q()
crew = [qmill.run(functions.read_to, q, out) for _ in range(2)]
q.put(1)
assert out.get().data == 1
"""


@pytest.mark.parametrize("end", ["sys.exit(5)", "os._exit(5)", "os.kill(os.getpid(), 9)"])
def test_a_forked_child_that_ends_does_not_disturb_the_workers(start_program, end):
    program = start_program(
        FORK
        + f"""
if (child := os.fork()) == 0:
    {end}
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
q.put(2)
assert out.get().data == 2
assert all(worker.is_alive() for worker in crew)
crew.append(qmill.run(functions.read_to, q, out))
q.stop(crew)
tell(code)
"""
    )
    assert program.hear() == ["-9" if "kill" in end else "5"]
    assert program.finish() == ("", "")
    assert program.exitcode == 0


def test_a_forked_child_has_workers_of_its_own(start_program):
    program = start_program(
        FORK
        + """
if (child := os.fork()) == 0:
    tell("child", qmill.run(functions.add, 1, 2).result())
    q.put(3)
    sys.exit(0)
os.waitpid(child, 0)
tell("parent", out.get().data, qmill.run(functions.add, 2, 2).result())
q.stop(crew)
"""
    )
    assert program.hear() == ["child", "3"]
    assert program.hear() == ["parent", "3", "4"]
    assert program.finish() == ("", "")


def test_a_forked_child_can_look_at_its_parents_workers(start_program):
    program = start_program(
        FORK
        + """
if (child := os.fork()) == 0:
    for worker in crew:
        repr(worker), worker.name, worker.pid, worker.exitcode
    crew[0].kill()
    os._exit(4)
tell(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), *[w.is_alive() for w in crew])
q.stop(crew)
"""
    )
    assert program.hear() == ["4", "True", "True"]
    assert program.finish() == ("", "")


def test_a_fork_while_other_threads_look_at_the_workers(start_program):
    """The child has the locks of the moment: one that another thread held is held for ever."""
    program = start_program(
        FORK
        + """
import select
stop = threading.Event()
def look():
    while not stop.is_set():
        for worker in crew:
            worker.exitcode, worker.is_alive()
threads = [threading.Thread(target=look) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(150):
    if (child := os.fork()) == 0:
        os._exit(0)
    ended = select.select([pidfd := os.pidfd_open(child)], [], [], 10)[0]
    os.close(pidfd)
    if not ended:
        tell("a child hangs")
        os.kill(child, signal.SIGKILL)
        break
    os.waitpid(child, 0)
stop.set()
for thread in threads:
    thread.join()
q.stop(crew)
tell("done")
"""
    )
    assert program.hear() == ["done"]
    program.finish()
    assert program.exitcode == 0


@pytest.mark.parametrize("error", ["KeyError", "KeyboardInterrupt", "SystemExit"])
def test_a_worker_whose_handlers_raise_while_it_ends_never_goes_on_as_its_parent(
    start_program, error
):
    """A forked worker has the parent's frames: its `finally` clauses and exit functions are there.

    An alarm rings all the time, so that handlers raise at as many places of the end as there are.
    """
    program = start_program(
        f"""
import signal, multiprocessing.connection
def ring(*_):
    raise {error}
def work():
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
parent = os.getpid()
try:
    for _ in range(20):
        worker = qmill.Worker(work, start_method="fork")
        multiprocessing.connection.wait([worker.sentinel])
finally:
    tell("parent" if os.getpid() == parent else "child")
"""
    )
    assert program.hear() == ["parent"]
    program.finish()
    assert program.exitcode == 0
