"""Programs in which gevent or eventlet has replaced threads, locks and sockets."""

from __future__ import annotations

import importlib.util
import textwrap

import pytest

from . import programs

GEVENT = """
from gevent import monkey

{first}
import gevent, os, signal, time
import qmill
import qmill.compat.multiprocessing as multiprocessing
from concurrent.futures import as_completed

{second}

def double(x):
    return 2 * x

def wait_for(event):
    event.get()
    return "waited"

def put(q, n):
    for number in range(n):
        q.put(number)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def fail():
    raise LookupError("no such thing")
"""

EARLY = GEVENT.format(first="monkey.patch_all()", second="")
LATE = GEVENT.format(first="", second="qmill.Queue(); monkey.patch_all()")


# Not imported: eventlet warns of every fork in a process that has it.
needs_gevent = pytest.mark.skipif(not importlib.util.find_spec("gevent"), reason="no gevent")
needs_eventlet = pytest.mark.skipif(not importlib.util.find_spec("eventlet"), reason="no eventlet")


def run(tmp_path, text, **options):
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(text))
    return programs.run(str(path), **options)


PROGRAM = """
if __name__ == "__main__":
    qmill.set_start_method({method!r})
    told = []
    with qmill.JobQueue(2, callback=told.append) as jobs:
        print(jobs.submit(double, 2).result(timeout=60))

        # A greenlet that waits for a result lets the others run.
        go = qmill.Queue()
        job = jobs.submit(wait_for, go)
        other = gevent.spawn(go.put, "go")
        print(job.result(timeout=60), other.ready())
        greenlets = [gevent.spawn(lambda n=n: jobs.submit(double, n).result()) for n in range(20)]
        gevent.joinall(greenlets)
        print(sum(each.value for each in greenlets))

        print(sum(jobs.map(double, range(500))))
        print(sum(each.result() for each in as_completed([jobs.submit(double, n) for n in (0, 2)])))
        print(repr(jobs.submit(fail).exception()))
        print(jobs.submit(die).exception().signal)
        print(type(jobs.put(wait_for, (qmill.Queue(),), timeout=0.1).exception()).__name__)
        jobs.put(double, 3)

        # Whoever waits for a message stops all greenlets; the workers go on.
        q = qmill.Queue()
        jobs.submit(put, q, 3)
        print([q.get() for _ in range(3)])

        # What gevent interrupts goes on, and the queue too.
        job = jobs.submit(wait_for, go)
        with gevent.Timeout(0.05, False):
            job.result()
        go.put("go")
        print(job.result())
    print(len(told))

    worker = qmill.run(wait_for, go)
    other = gevent.spawn(go.put, "go")
    worker.join()
    print(worker.result(), other.ready(), worker.exitcode)
    q = qmill.Q()
    worker = qmill.run(put, q, 3)
    print([message.data for _, message in zip(range(3), q)])
    print(list(qmill.map(double, range(4), max_workers=2)))
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        print(pool.map(double, range(3)), sorted(pool.imap_unordered(double, range(3))))
"""

PRINTED = """\
4
waited True
380
249500
4
LookupError('no such thing')
9
JobTimeout
[0, 1, 2]
waited
2
waited True 0
[0, 1, 2]
[0, 2, 4, 6]
[0, 2, 4] [0, 2, 4]
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
@pytest.mark.parametrize("start", [EARLY, LATE], ids=["patched first", "patched late"])
@needs_gevent
def test_with_gevent_jobs_and_workers_do_what_they_do_without(tmp_path, start, method):
    assert run(tmp_path, start + PROGRAM.format(method=method)) == PRINTED


@needs_gevent
def test_with_gevent_a_queue_that_is_not_in_shared_memory_works(tmp_path):
    program = """
if __name__ == "__main__":
    q = qmill.Queue()
    worker = qmill.run(put, q, 3)
    print([q.get(timeout=60) for _ in range(3)], worker.result())
    q.put("left")
    print(q.qsize(), q.get())
"""
    printed = run(tmp_path, EARLY + program, env={"QMILL_TRANSPORT": "portable"})
    assert printed == "[0, 1, 2] None\n1 left\n"


@needs_gevent
def test_with_gevent_a_queue_of_threads_is_refused(tmp_path):
    program = """
try:
    qmill.JobQueue(1, engine="thread")
except qmill.NotSupported as error:
    print(error)
print(qmill.run_thread(double, 2).result())  # a greenlet
"""
    refusal, result = run(tmp_path, EARLY + program).splitlines()
    assert "gevent.monkey" in refusal
    assert "engine='process'" in refusal
    assert result == "4"


@needs_gevent
def test_with_gevent_that_leaves_threads_alone_they_run_jobs(tmp_path):
    program = """
with qmill.JobQueue(1, engine="thread") as jobs:
    print(jobs.submit(double, 2).result(timeout=60))
"""
    start = GEVENT.format(first="monkey.patch_all(thread=False)", second="")
    assert run(tmp_path, start + program) == "4\n"


EVENTLET = """
import warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that it should not be used any more
    import eventlet
    eventlet.monkey_patch({options})
import qmill

def double(x):
    return 2 * x
"""


@needs_eventlet
def test_with_eventlet_what_needs_threads_is_refused_at_once(tmp_path):
    program = """
if __name__ == "__main__":
    for make in (lambda: qmill.JobQueue(1), lambda: qmill.map(double, [1])):
        try:
            make()
        except qmill.NotSupported as error:
            print(error)
    print(qmill.run(double, 2).result(timeout=60))
"""
    *refusals, result = run(tmp_path, EVENTLET.format(options="") + program).splitlines()
    assert len(refusals) == 2
    assert all("eventlet.monkey_patch(thread=False)" in refusal for refusal in refusals)
    assert result == "4"


@needs_eventlet
def test_with_eventlet_that_leaves_threads_alone_jobs_run(tmp_path):
    program = """
if __name__ == "__main__":
    with qmill.JobQueue(1) as jobs:
        print(jobs.submit(double, 2).result(timeout=60))
"""
    assert run(tmp_path, EVENTLET.format(options="thread=False") + program) == "4\n"
