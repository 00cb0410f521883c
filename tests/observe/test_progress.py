"""Progress bars: what they count, where they are silent, and that they are closed in any case."""

from __future__ import annotations

import fcntl
import functools
import io
import itertools
import os
import pty
import struct
import sys
import termios
import threading

import pytest
import tqdm as tqdm_package

import qmill

from ..limits import _no_test_hangs  # noqa: F401 (a fixture)
from .support import hide


class Bar:
    """What a bar of tqdm is told, written down."""

    made: list[Bar] = []

    def __init__(self, total=None, initial=0):
        self.total, self.n, self.initial = total, initial, initial
        self.postfix = ""
        self.num_closed = 0
        self.seen = []
        Bar.made.append(self)

    def set_postfix_str(self, text, refresh=True):
        assert not refresh
        self.postfix = text

    def update(self, n):
        assert not self.num_closed
        self.n += n
        self.seen.append((self.n, self.total, self.postfix))

    def close(self):
        self.num_closed += 1


@pytest.fixture(autouse=True)
def _no_bars():
    Bar.made = []
    yield
    assert all(bar.num_closed == 1 for bar in Bar.made)


@pytest.fixture(params=["process", "thread"])
def engine(request):
    return request.param


def only_bar():
    (bar,) = Bar.made
    return bar


def fail(number):
    raise ValueError(number)


def even(number):
    if number % 2:
        raise ValueError(number)
    return number


# --- wait


def test_wait_counts_jobs_and_failures(engine):
    with qmill.JobQueue(2, engine=engine, auto_start=False) as jobs:
        for number in range(10):
            jobs.put(even, number, suppress_errors=True)
        jobs.start()
        assert jobs.wait(progress=Bar) == 0
    bar = only_bar()
    assert (bar.n, bar.total, bar.postfix) == (10, 10, "5 failed")


def test_a_bar_tells_how_many_run():
    gate = threading.Event()
    with qmill.JobQueue(2, engine="thread") as jobs:
        jobs.put(gate.wait)
        jobs.wait(timeout=0, progress=Bar)
        gate.set()
    assert only_bar().postfix in ("1 running", "")
    assert (only_bar().n, only_bar().total) == (0, 1)


def test_wait_for_a_time_shows_how_far_all_are():
    gate = threading.Event()
    with qmill.JobQueue(1, engine="thread") as jobs:
        done = [jobs.put(abs, number) for number in range(3)]
        jobs.put(gate.wait)
        assert [job.result() for job in done] == [0, 1, 2]
        assert jobs.wait(timeout=0.01, progress=Bar) == 1
        gate.set()
        assert jobs.wait(progress=Bar) == 0
    assert [(bar.initial, bar.n, bar.total) for bar in Bar.made] == [(3, 3, 4), (3, 4, 4)]


def test_wait_for_some_ends_when_they_are_done():
    gates = threading.Semaphore(0)

    class Releasing(Bar):
        def update(self, n):
            super().update(n)
            if not n:
                gates.release(2)

    with qmill.JobQueue(1, engine="thread") as jobs:
        for _ in range(3):
            jobs.put(gates.acquire)
        assert jobs.wait(n=2, progress=Releasing) == 1
        gates.release()
    assert (only_bar().n, only_bar().total) == (2, 3)


def test_the_next_wait_begins_anew_when_all_was_done():
    with qmill.JobQueue(2, engine="thread") as jobs:
        for count in (3, 5):
            for number in range(count):
                jobs.put(even, 2 * number + 1, suppress_errors=True)
            jobs.wait(progress=Bar)
        jobs.wait(progress=Bar)  # nothing to show
    assert [(bar.n, bar.total, bar.postfix) for bar in Bar.made] == [
        (3, 3, "3 failed"),
        (5, 5, "5 failed"),
    ]


def test_a_bar_that_cannot_be_drawn_does_not_harm_the_jobs():
    class Broken(Bar):
        def update(self, n):
            raise BrokenPipeError("nobody reads it")

        num_closed = property(lambda self: 1, lambda self, value: None)

    with qmill.JobQueue(2, progress=Broken) as jobs:
        done = [jobs.put(abs, -number) for number in range(10)]
    assert [job.output for job in done] == list(range(10))
    assert jobs.size(completed=True) == 10


def test_an_interrupted_wait_closes_its_bar():
    class Interrupting(Bar):
        def update(self, n):
            raise KeyboardInterrupt

    with qmill.JobQueue(1) as jobs:
        job = jobs.put(abs, -1)
        with pytest.raises(KeyboardInterrupt):
            jobs.wait(progress=Interrupting)
        assert job.result() == 1
    assert len(Bar.made) == 1


# --- JobQueue and parallel


def test_the_end_of_a_block_shows_all_its_jobs(engine):
    with qmill.JobQueue(2, engine=engine, progress=Bar) as jobs:
        for number in range(20):
            jobs.put(even, number, suppress_errors=True)
    bar = only_bar()
    assert (bar.n, bar.total, bar.postfix) == (20, 20, "10 failed")


def test_a_paused_queue_goes_on_at_the_end_of_its_block():
    with qmill.JobQueue(1, engine="thread", auto_start=False, progress=Bar) as jobs:
        jobs.put(abs, 1)
    assert only_bar().seen[-1] == (1, 1, "")


def test_a_block_that_is_left_by_an_exception_shows_no_bar():
    with pytest.raises(ZeroDivisionError), qmill.JobQueue(1, progress=Bar) as jobs:
        jobs.put(abs, 1)
        1 / 0  # noqa: B018
    assert Bar.made == []


def test_a_queue_says_what_its_calls_do_unless_they_are_told():
    with qmill.JobQueue(1, engine="thread", progress=Bar) as jobs:
        jobs.put(abs, 1)
        jobs.wait(progress=False)
        assert Bar.made == []
        assert list(jobs.map(abs, [1, 2], progress=False)) == [1, 2]
        assert Bar.made == []
        assert list(jobs.map(abs, [1, 2])) == [1, 2]
        assert list(jobs.options(priority=1).map(abs, [1, 2, 3])) == [1, 2, 3]
    assert [bar.total for bar in Bar.made[:2]] == [2, 3]


def test_parallel_shows_its_jobs():
    @qmill.parallel(max_workers=2, progress=Bar)
    def double(number):
        return 2 * number

    assert [job.output for job in double(range(7))] == [0, 2, 4, 6, 8, 10, 12]
    assert (only_bar().n, only_bar().total) == (7, 7)


# --- map


def maps(engine):
    with qmill.JobQueue(2, engine=engine) as jobs:
        yield functools.partial(jobs.map, progress=Bar)
    yield functools.partial(qmill.map, max_workers=2, engine=engine, progress=Bar)


def test_map_counts_results(engine):
    for map_ in maps(engine):
        Bar.made = []
        assert list(map_(abs, range(1000))) == list(range(1000))
        assert (only_bar().n, only_bar().total, only_bar().postfix) == (1000, 1000, "")


def test_map_of_an_input_without_a_length_has_no_total(engine):
    for map_ in maps(engine):
        Bar.made = []
        assert list(map_(abs, (n for n in range(10)))) == list(range(10))
        assert (only_bar().n, only_bar().total) == (10, None)


def test_a_call_that_fails_ends_the_bar_of_its_map(engine):
    for map_ in maps(engine):
        Bar.made = []
        with pytest.raises(ValueError, match="1"):
            list(map_(even, [0, 1, 2]))
        assert (only_bar().n, only_bar().total, only_bar().num_closed) == (1, 3, 1)
        assert "1 failed" in only_bar().postfix


def test_a_map_that_is_closed_or_dropped_closes_its_bar():
    for end in (lambda results: results.close(), lambda results: None):
        Bar.made = []
        results = qmill.map(abs, itertools.count(), max_workers=2, engine="thread", progress=Bar)
        assert Bar.made == []
        assert next(results) == 0
        end(results)
        del results
        assert only_bar().num_closed == 1


# --- where it is shown


def test_true_is_silent_where_nobody_sees_it(monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    with qmill.JobQueue(1, progress=True) as jobs:
        jobs.put(abs, 1)
        jobs.wait(progress=True)
        assert list(jobs.map(abs, [1])) == [1]
    assert list(qmill.map(abs, [1], progress=True)) == [1]
    assert stderr.getvalue() == ""


@pytest.mark.parametrize("stderr", [None, io.StringIO()])
def test_true_is_silent_without_a_standard_error(monkeypatch, stderr):
    if stderr is not None:
        stderr.close()
    monkeypatch.setattr(sys, "stderr", stderr)
    with qmill.JobQueue(1, engine="thread", progress=True) as jobs:
        jobs.put(abs, 1)


def test_a_class_is_used_anywhere():
    out = io.StringIO()
    make = functools.partial(tqdm_package.tqdm, file=out, desc="files", ncols=60)
    make.func.monitor_interval = 0  # a thread that would stay
    with qmill.JobQueue(1, progress=make) as jobs:
        jobs.put(abs, 1)
        jobs.put(fail, 1, suppress_errors=True)
    assert "files: 100%" in out.getvalue()
    assert "2/2" in out.getvalue()
    assert "1 failed" in out.getvalue()


PROGRAM = """
import qmill
with qmill.JobQueue(2, progress=True) as jobs:
    for number in range(6):
        jobs.put(abs, number)
print(sum(qmill.map(abs, range(50), progress=True)))
"""


def test_true_is_shown_on_a_terminal():
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", PROGRAM])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    text = b""
    with open(terminal, "rb", buffering=0) as output:
        try:
            while part := output.read(4096):
                text += part
        except OSError:  # it has ended
            pass
    assert os.waitpid(pid, 0)[1] == 0
    assert b"6/6" in text
    assert b"50/50" in text
    assert b"job/s" in text
    assert b"1225" in text


# --- what is refused


@pytest.mark.parametrize(
    "use",
    [
        lambda: qmill.JobQueue(1, progress=True),
        lambda: qmill.map(abs, [1], progress=True),
        lambda: qmill.parallel(abs, progress=True)([1]),
    ],
)
def test_without_tqdm_the_error_has_the_command(monkeypatch, use):
    hide(monkeypatch, "tqdm")
    with pytest.raises(
        ImportError, match=r"progress=True needs tqdm.*: pip install 'qmill\[progress\]'"
    ):
        use()


def test_without_tqdm_a_wait_says_so_and_the_jobs_go_on(monkeypatch):
    with qmill.JobQueue(1) as jobs:
        job = jobs.put(abs, -1)
        hide(monkeypatch, "tqdm")
        with pytest.raises(ImportError, match="pip install"):
            jobs.wait(progress=True)
        with pytest.raises(ImportError, match="pip install"):
            jobs.map(abs, [1], progress=True)
        assert job.result() == 1


@pytest.mark.parametrize("progress", ["always", 1, []])
def test_what_makes_no_bar_is_refused(progress):
    with pytest.raises(TypeError, match=r"progress must be True, False or a class like tqdm.tqdm"):
        qmill.JobQueue(1, progress=progress)
