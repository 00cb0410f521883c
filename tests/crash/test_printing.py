"""What is printed: each text comes out once, in order, and not later than the job's result."""

from __future__ import annotations

from collections import Counter

import pytest

from qmill.processes import launch

from .programs import ROOT, Program

# Ways to start one worker or more that print, and wait until they have ended.
STARTS = {
    "run": "qmill.run(functions.say, 'one; ').join()",
    "JobQueue": """
with qmill.JobQueue(2, max_jobs_per_worker=1) as jobs:
    for _ in range(3):
        jobs.put(functions.say, 'one; ')
""",
    "map": "list(qmill.map(functions.say, ['one; '] * 3, max_workers=2))",
    "a worker's worker": "qmill.run(functions.run_and_join, functions.say, 'one; ').join()",
    "ezq": """
from qmill.compat import ezq
q = ezq.Q()
workers = [ezq.run(functions.say_each, q) for _ in range(2)]
q.put('one; ')
q.stop(workers)
""",
    "ezpq": """
from qmill.compat import ezpq
with ezpq.Queue(2) as jobs:
    for _ in range(3):
        jobs.put(functions.say, ['one; '])
    jobs.wait()
""",
}

# Ways to leave a text that is not written when a worker is forked.
UNWRITTEN = {
    "text": "print('before; ', end='')",
    "bytes": "sys.stdout.buffer.write(b'before; ')",
    "text and bytes": "print('before', end=''); sys.stdout.flush(); sys.stdout.buffer.write(b'; ')",
    "an error": "sys.stderr = sys.stdout; print('before; ', end='', file=sys.stderr)",
    "another stream": "other = open(1, 'w', closefd=False); print('before; ', end='', file=other)\n"
    "sys.stdout = other",
    "the original stream": "print('before; ', end=''); sys.stdout = open(1, 'w', closefd=False)",
}

# The same, but the parent's flush does not write it: it comes too early, as for what another thread
# prints, or it fails. All texts differ.
PRELUDE = """
import itertools
numbers = itertools.count()
def text():
    return f"late {os.getpid()} {next(numbers)}; "
"""
LATE = {
    "text": "os.register_at_fork(before=lambda: print(text(), end=''))",
    "bytes": "os.register_at_fork(before=lambda: sys.stdout.buffer.write(text().encode()))",
    "an error": "os.register_at_fork(before=lambda: print(text(), end='', file=sys.stderr))",
    "the original stream": """
os.register_at_fork(before=lambda: print(text(), end='', file=sys.__stdout__))
sys.stdout = open(1, 'w', closefd=False)
""",
    "a flush that fails": """
class Out(type(sys.stdout)):
    fails = True
    def flush(self):
        if self.fails:
            raise OSError("not now")
        super().flush()
sys.stdout = Out(open(1, "wb", closefd=False))
print(text(), end="")
def mend():
    Out.fails = False
os.register_at_fork(after_in_child=mend, after_in_parent=mend)
""",
}


@pytest.fixture
def program(request):
    """Runs a program to its end, by a method; returns what it has written."""
    started = []

    def run(source, method, **environ):
        started.append(Program(source, method, **environ))
        return started[-1].finish()

    yield run
    for one in started:
        one.clean_up()


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    ("how", "method"),
    [(how, "fork") for how in UNWRITTEN] + [("text", "forkserver"), ("text", "spawn")],
)
def test_what_the_parent_has_printed_comes_once_and_before(program, how, start, method):
    source = f"{UNWRITTEN[how]}\n{STARTS[start]}\nprint('after')"
    output, errors = program(source, method)
    num_workers = 3 if "3" in STARTS[start] else 1
    assert (output, errors) == ("before; " + "one; " * num_workers + "after\n", "")


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("how", LATE)
def test_a_child_never_writes_what_its_parent_has_not_written(program, how, start):
    source = f"{PRELUDE}{LATE[how]}\n{STARTS[start]}\n"
    source += "for out in (sys.stdout, sys.__stdout__):\n    out.flush()"
    output, errors = program(source, "fork")
    texts = Counter((output + errors).split("; "))
    assert texts.pop("one") == (3 if "3" in STARTS[start] else 1)
    assert texts.pop("") >= 1
    assert texts
    assert set(texts.values()) == {1}, "a text came twice"


def test_nor_into_a_file_that_is_read_as_well(program, tmp_path):
    path = str(tmp_path / "out")
    source = f"""
sys.stdout = open({path!r}, "w+")
os.register_at_fork(before=lambda: print("before; ", end=""))
for _ in range(2):
    qmill.run(functions.say, "one; ").join()
sys.stdout.flush()
"""
    assert program(source, "fork") == ("", "")
    with open(path) as file:
        assert Counter(file.read().split("; ")) == Counter(before=2, one=2) + Counter([""])


SLOW = """
import io
begun, go_on = threading.Event(), threading.Event()
class Slow(io.RawIOBase):
    def writable(self):
        return True
    def write(self, data):
        begun.set()
        go_on.wait()
        return os.write(1, data)
"""
"""A file whose `write` says that it has begun, and waits until it may go on."""


def test_a_thread_that_writes_at_the_fork_does_not_hold_up_the_child(program):
    """It has the buffer's lock, and is not there in the child to give it back."""
    source = """
sys.stdout = io.TextIOWrapper(io.BufferedWriter(Slow()))
sys.stdout.write("before; ")
writer = threading.Thread(target=sys.stdout.flush)
writer.start()
begun.wait()
os.register_at_fork(after_in_child=go_on.set)
from qmill.system import streams
streams.flush = lambda: None  # the parent's would wait for that thread
worker = qmill.run(functions.say_and_flush, "one; ")
worker.join()
go_on.set()
writer.join()
tell(worker.exitcode)
"""
    assert program(SLOW + source, "fork") == ("one; before; 0\n", "")


@pytest.mark.parametrize("method", launch.METHODS)
def test_a_fork_while_a_thread_of_qmill_flushes_leaves_no_lock_in_the_child(program, method):
    """A queue flushes before it starts a worker; a program may fork at that moment."""
    source = """
sys.stdout = sys.__stdout__ = io.TextIOWrapper(io.BufferedWriter(Slow()))
sys.stdout.write("before; ")
jobs = qmill.JobQueue(1)
job = jobs.submit(functions.add, 1, 2)
begun.wait()
if (child := os.fork()) == 0:
    signal.alarm(30)
    go_on.set()
    with qmill.JobQueue(1) as own:
        print(own.submit(functions.add, 2, 3).result(), end="; ", flush=True)
    os._exit(0)
_, status = os.waitpid(child, 0)
go_on.set()
tell(job.result(), status)
jobs.shutdown()
"""
    assert program(SLOW + source, method) == ("5; before; 3 0\n", "")


# -- with the result ------------------------------------------------------------------------------

# Ways to learn how a job went, after which nothing it has printed is missing.
RESULTS = {
    "run": "qmill.run(functions.say_both, 'one; ').result()",
    "run, failed": "qmill.run(functions.say_and_fail, 'one; ').exception()",
    "submit": "jobs.submit(functions.say_both, 'one; ').result()",
    "submit, failed": "jobs.submit(functions.say_and_fail, 'one; ').exception()",
    "put": "jobs.put(functions.say_both, 'one; '); jobs.get()",
    "map": "list(jobs.map(functions.say_both, ['one; ']))",
    "run, other streams": "qmill.run(functions.say_and_turn_away, 'one; ').result()",
    "submit, other streams": "jobs.submit(functions.say_and_turn_away, 'one; ').result()",
}


@pytest.mark.parametrize("method", launch.METHODS)
@pytest.mark.parametrize("way", RESULTS)
def test_what_a_job_has_printed_is_there_with_its_result(program, way, method):
    source = f"""
with qmill.JobQueue(1) as jobs:
    {RESULTS[way]}
    tell("result")
    os.write(2, b"result")
"""
    assert program(source, method) == ("one; result\n", "one; result")


@pytest.mark.parametrize("method", launch.METHODS)
def test_what_an_initializer_that_fails_has_printed_is_there_with_the_failure(program, method):
    source = """
with qmill.JobQueue(1, initializer=functions.say_and_fail, initargs=("one; ",)) as jobs:
    jobs.submit(functions.pid).exception()
    tell("failed")
"""
    assert program(source, method) == ("one; failed\n", "one; ")


# -- streams of all kinds -------------------------------------------------------------------------

STREAMS = {
    "None": "sys.stdout = None",
    "none at all": "sys.stdout = sys.__stdout__ = sys.stderr = sys.__stderr__ = None",
    "closed": "sys.stdout.close()",
    "detached": "sys.stdout.detach()",
    "a list's": "sys.stdout = type('Out', (), {'write': [].append})()",
    "one that refuses": """
class Out:
    def write(self, text):
        pass
    def flush(self):
        raise ZeroDivisionError
sys.stdout = Out()
""",
    "text in memory": "import io; sys.stdout = io.StringIO()",
    "a full disk": "sys.stdout = open('/dev/full', 'w'); sys.stdout.write('before; ')",
    "nobody reads": """
reading, writing = os.pipe()
os.close(reading)
sys.stdout = open(writing, 'w')
sys.stdout.write('before; ')
""",
}


@pytest.mark.parametrize("method", launch.METHODS)
@pytest.mark.parametrize("stream", STREAMS)
def test_workers_run_whatever_standard_output_is(program, stream, method):
    source = f"""
{STREAMS[stream]}
worker = qmill.run(functions.pid)
outcome = worker.result() == worker.pid
worker.join()
with qmill.JobQueue(1) as jobs:
    tell(outcome, worker.exitcode, jobs.submit(functions.add, 1, 2).result())
os._exit(0)
"""
    assert program(source, method) == ("True 0 3\n", "")


@pytest.mark.parametrize(
    ("transport", "unbuffered"), [("", ""), ("portable", ""), ("portable", "1")]
)
@pytest.mark.parametrize("method", launch.METHODS)
def test_what_a_site_prints_at_the_start_comes_once_for_each_interpreter(
    program, method, transport, unbuffered, tmp_path
):
    """Not again for those that the fork server forks, and a broker starts in spite of it."""
    (tmp_path / "sitecustomize.py").write_text("print('hello')\n")
    source = f"""
sys.path.remove({str(tmp_path)!r})
queue = qmill.Queue(name="orders")
for text in "abc":
    qmill.run(functions.say, text + "\\n").join()
"""
    environ = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PYTHONUNBUFFERED": unbuffered}
    output, errors = program(source, method, QMILL_TRANSPORT=transport, **environ)
    interpreters = {"fork": 1, "forkserver": 2, "spawn": 4}[method]
    assert (Counter(output.split()), errors) == (Counter(["hello"] * interpreters + [*"abc"]), "")
