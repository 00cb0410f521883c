"""Traces, checked against what the trace event format's document says of each kind of event."""

from __future__ import annotations

import itertools
import json
import time
import tracemalloc
from datetime import datetime, timedelta

import pytest

import qmill
from qmill.observe.trace import TraceWriter

START = datetime(2026, 3, 29, 1, 59, 59, 900_000)  # local clocks may be put forward then

# The fields that the document asks for in each phase, beside name, ph, pid and tid.
REQUIRED = {
    "X": {"ts": int, "dur": int, "cat": str},
    "M": {"args": dict},
    "s": {"ts": int, "id": int, "cat": str},
    "f": {"ts": int, "id": int, "cat": str, "bp": str},
    "i": {"ts": int, "s": str},
}
METADATA = {"process_name", "thread_name"}


def at(milliseconds):
    return START + timedelta(milliseconds=milliseconds)


def record(number, submitted, started=None, ended=None, **fields):
    return {
        "qid": "q",
        "id": number,
        "name": f"job {number}",
        "priority": 100,
        "lane": None,
        "submitted": at(submitted),
        "started": None if started is None else at(started),
        "ended": None if ended is None else at(ended),
        "state": "done",
        "worker": None if started is None else "q-1",
        "attempts": 1,
    } | fields


def traced(jobs, path):
    qmill.trace(jobs, path)
    with open(path, encoding="utf-8") as file:
        events = json.load(file)
    check_format(events)
    return events


def check_format(events):
    for event in events:
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        for field, kind in REQUIRED[event["ph"]].items():
            assert type(event[field]) is kind, (field, event)
        if event["ph"] == "X":
            assert event["dur"] >= 0
        elif event["ph"] == "M":
            assert event["name"] in METADATA
            assert isinstance(event["args"]["name"], str)
        elif event["ph"] == "i":
            assert event["s"] in "gpt"
        elif event["ph"] == "f":
            assert event["bp"] == "e"  # bound to the slice that it points at
    check_flows(events)
    check_nesting(events)


def check_flows(events):
    """A flow's ends have one id, name and category, and each is inside a slice of its track.

    The slice stands before it: readers that sort events by their time leave equal ones as they are.
    """
    begins = {e["id"]: e for e in events if e["ph"] == "s"}
    ends = {e["id"]: e for e in events if e["ph"] == "f"}
    assert begins.keys() == ends.keys()
    for number, begin in begins.items():
        end = ends[number]
        assert (begin["name"], begin["cat"]) == (end["name"], end["cat"])
        assert begin["ts"] <= end["ts"]
        for event in (begin, end):
            assert any(
                e["ph"] == "X"
                and (e["pid"], e["tid"]) == (event["pid"], event["tid"])
                and e["ts"] <= event["ts"] <= e["ts"] + e["dur"]
                for e in events[: events.index(event)]
            )


def check_nesting(events):
    """Slices of one track do not cross."""
    tracks = {}
    for event in events:
        if event["ph"] == "X":
            tracks.setdefault((event["pid"], event["tid"]), []).append(event)
    for slices in tracks.values():
        slices.sort(key=lambda e: (e["ts"], -e["dur"]))
        for one, other in itertools.pairwise(slices):
            end = one["ts"] + one["dur"]
            assert other["ts"] >= end or other["ts"] + other["dur"] <= end


def test_a_job_is_a_slice_on_its_workers_track(tmp_path):
    jobs = [
        record(1, 0, 10, 30, lane="disk", priority=5, exitcode=0),
        record(2, 0, 12, 40, worker="q-2", state="failed", exitcode=3, attempts=1),
    ]
    events = traced(jobs, tmp_path / "trace.json")
    names = {(e["tid"], e["args"]["name"]) for e in events if e["name"] == "thread_name"}
    assert names == {(0, "put"), (1, "q-1"), (2, "q-2")}
    first, second = (e for e in events if "state" in e.get("args", {}))
    assert (first["name"], first["tid"], first["dur"]) == ("job 1", 1, 20_000)
    assert first["args"] == {
        "id": 1,
        "lane": "disk",
        "priority": 5,
        "state": "done",
        "attempts": 1,
        "exitcode": 0,
    }
    assert second["ts"] - first["ts"] == 2_000
    assert (second["tid"], second["args"]["state"]) == (2, "failed")
    assert {e["ts"] for e in events if e["ph"] == "s"} == {first["ts"] - 10_000}


def test_timestamps_are_microseconds_since_1970_of_the_local_clock(tmp_path):
    (put, *_) = (e for e in traced([record(1, 0)], tmp_path / "t.json") if e["ph"] == "X")
    assert datetime(1970, 1, 1) + timedelta(microseconds=put["ts"]) == START


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"state": "timed out"}, ["timed out: job 1"]),
        ({"state": "died"}, ["crashed: job 1"]),
        ({"state": "cancelled"}, ["cancelled: job 1"]),
        ({"attempts": 3}, ["attempt 3 of job 1"]),
        ({"attempts": 2, "state": "died"}, ["attempt 2 of job 1", "crashed: job 1"]),
        ({}, []),
    ],
)
def test_what_one_looks_for_is_an_instant_event(tmp_path, fields, expected):
    events = traced([record(1, 0, 10, 30, **fields)], tmp_path / "trace.json")
    assert [e["name"] for e in events if e["ph"] == "i"] == expected


def test_a_job_that_never_began_is_shown_where_it_was_put(tmp_path):
    events = traced([record(1, 0, state="cancelled", ended=5)], tmp_path / "trace.json")
    assert [(e["ph"], e["tid"]) for e in events if e["ph"] != "M"] == [("X", 0), ("i", 0)]


def test_each_queue_is_a_process(tmp_path):
    jobs = [record(1, 0, 1, 2), record(1, 0, 1, 2, qid="r", worker="r-1")]
    events = traced(jobs, tmp_path / "trace.json")
    names = [e["args"]["name"] for e in events if e["name"] == "process_name"]
    assert names == ["qmill q", "qmill r"]
    assert {e["pid"] for e in events} == {1, 2}


def test_no_jobs_are_a_trace_as_well(tmp_path):
    assert traced([], tmp_path / "trace.json") == []


def test_texts_of_any_kind_are_json(tmp_path):
    strange = 'a "quote", \\, \n, \udcff, ' + "é" * 5000
    job = record(1, 0, 1, 2, name=strange, lane=("a", 1), worker=strange, function=strange)
    events = traced([job], tmp_path / "trace.json")
    assert all(len(e["name"]) < 1_200 for e in events)
    assert [e["args"]["lane"] for e in events if "lane" in e.get("args", {})] == ["('a', 1)"]


def test_jobs_records_and_a_log_give_the_same(tmp_path):
    log = tmp_path / "log.csv"
    with qmill.JobQueue(2, log_file=log) as queue:
        jobs = [queue.put(divmod, (7, n), name=f"by {n}", suppress_errors=True) for n in range(3)]
        jobs.append(queue.put(time.sleep, 60, timeout=0.05, lane=1, suppress_errors=True))
        for job in jobs:  # each row before the next job's
            job.exception()
    # In the log jobs stand in the order in which they ended.
    jobs.sort(key=lambda job: job.processed)
    expected = traced(jobs, tmp_path / "jobs.json")
    assert traced([job.to_dict() for job in jobs], tmp_path / "records.json") == expected
    assert traced(log, tmp_path / "log.json") == expected
    assert traced(str(log), tmp_path / "log.json") == expected
    assert [e["name"].partition(":")[0] for e in expected if e["ph"] == "i"] == ["timed out"]


def test_what_is_neither_a_job_nor_a_record_is_refused(tmp_path):
    with pytest.raises(TypeError, match="not of int 3"):
        qmill.trace([3], tmp_path / "trace.json")
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="not a log of jobs"):
        qmill.trace(tmp_path / "notes.csv", tmp_path / "trace.json")


def test_many_jobs_need_no_more_memory_than_few(tmp_path):
    with TraceWriter(tmp_path / "trace.json") as writer:
        writer.add(record(0, 0, 1, 2))
        tracemalloc.start()
        for number in range(1, 5_000):
            writer.add(record(number, number, number + 1, number + 2))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 100_000
    with open(tmp_path / "trace.json", encoding="utf-8") as file:
        assert sum(e["ph"] == "s" for e in json.load(file)) == 5_000
