"""`JobQueue.summary`: what became of all jobs, as an object, a dict and a text."""

from __future__ import annotations

import io
import json
import os

import pytest
import rich.console

import qmill

from ..limits import _no_test_hangs  # noqa: F401 (a fixture)
from .support import hide


def fail(number):
    raise ValueError(f"bad {number}")


def block():
    reader, _writer = os.pipe()
    os.read(reader, 1)


def tell_and_wait(told, gate):
    told.put("begun")
    gate.get()


@pytest.fixture(scope="module")
def done_queue():
    """A queue with jobs of every end."""
    with qmill.JobQueue(2, name="mill") as jobs:
        for number in range(5):
            jobs.put(abs, number)
        failed = jobs.put(fail, 7, retries=1, name="seven")
        died = jobs.put(os._exit, 3)
        late = jobs.put(block, timeout=0.5)
        assert failed.exception()
        assert died.exception()
        assert late.exception()
        assert list(jobs.map(abs, range(10))) == list(range(10))
        jobs.pause()
        jobs.put(abs, 1).cancel()
    return jobs


def test_a_summary_counts_all_jobs(done_queue):
    summary = done_queue.summary()
    assert summary.qid == "mill"
    assert list(summary.states) == [
        *("waiting", "working", "done", "failed", "died", "timed out", "cancelled")
    ]
    assert list(summary.states.values()) == [0, 0, 15, 1, 1, 1, 1]
    assert summary.retries == 1
    assert {kind: errors.count for kind, errors in summary.errors.items()} == {
        "ValueError": 1,
        "WorkerDied": 1,
        "JobTimeout": 1,
    }
    assert summary.errors["ValueError"].first == "bad 7"


def test_its_times_agree(done_queue):
    summary = done_queue.summary()
    assert summary.busy_s >= 0.5
    assert summary.wall_s >= summary.slowest[0].running_s >= 0.5
    assert summary.slowest[0].state == "timed out"
    assert summary.speedup == pytest.approx(summary.busy_s / summary.wall_s)
    assert summary.utilisation == pytest.approx(summary.speedup / 2)
    assert sum(summary.workers.values()) == pytest.approx(summary.speedup)
    for times in (summary.running_s, summary.waiting_s):
        assert 0 <= times.p50 <= times.p95 <= times.p99 <= times.max
        assert 0 < times.mean <= times.max
    assert summary.running_s.max == summary.slowest[0].running_s


def test_it_is_also_a_dict_of_plain_values(done_queue):
    summary = done_queue.summary()
    told = json.loads(json.dumps(summary.to_dict()))
    assert told["states"]["done"] == 15
    assert told["running_s"]["p99"] == summary.running_s.p99
    assert told["slowest"][0]["function"] == "block"
    assert told["errors"]["ValueError"] == {"count": 1, "first": "bad 7"}


def test_it_prints_on_lines_that_fit(done_queue):
    text = str(done_queue.summary())
    assert max(len(line) for line in text.splitlines()) <= 80
    assert all(line == line.rstrip() for line in text.splitlines())
    for piece in ("Jobs of mill: 19", "speed-up", "p95", "mill-1", "block, timed out", "bad 7"):
        assert piece in text


def test_rich_prints_the_same_words_in_colours(done_queue, monkeypatch):
    summary = done_queue.summary()
    out = io.StringIO()
    rich.console.Console(file=out, width=120).print(summary)
    assert out.getvalue().split() == str(summary).split()
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal does
    monkeypatch.setenv("COLUMNS", "120")
    coloured = io.StringIO()
    summary.print(coloured)
    assert "\x1b[" in coloured.getvalue()


@pytest.mark.parametrize("has_rich", [True, False])
def test_to_a_file_it_prints_plainly(done_queue, monkeypatch, has_rich):
    if not has_rich:
        hide(monkeypatch, "rich")
    out = io.StringIO()
    summary = done_queue.summary()
    summary.print(out)
    assert out.getvalue() == f"{summary}\n"


def test_a_new_queue_has_little_to_tell():
    with qmill.JobQueue(1, name="new") as jobs:
        summary = jobs.summary()
    assert set(summary.states.values()) == {0}
    assert (summary.wall_s, summary.speedup, summary.utilisation) == (0.0, None, None)
    assert summary.running_s.mean is None
    assert str(summary) == "Jobs of new: 0\n  none"


def test_it_can_be_asked_for_at_any_time():
    told, gate = qmill.Queue(), qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        first = jobs.put(abs, 1)
        first.result()
        jobs.put(tell_and_wait, (told, gate))
        jobs.put(abs, 2)
        told.get()
        states = jobs.summary().states
        gate.put(None)
    assert states["done"] == 1
    assert (states["working"], states["waiting"]) == (1, 1)
    assert jobs.summary().states["done"] == 3


def test_threads_have_a_summary_too():
    with qmill.JobQueue(2, engine="thread") as jobs:
        assert list(jobs.map(abs, range(50))) == list(range(50))
        assert jobs.submit(fail, 1).exception()
    summary = jobs.summary()
    assert (summary.states["done"], summary.states["failed"]) == (50, 1)
    assert summary.workers
    assert "bad 1" in str(summary)
