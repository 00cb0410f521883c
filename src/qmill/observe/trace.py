"""A trace of jobs in the trace event format, which Perfetto and chrome://tracing show.

A queue is a "process" and each of its workers a "thread", so that each has a track. Thread 0 has
the moments at which jobs were put. An arrow leads from each of them to the start of the job.

    put        | | |
    worker 1   `-|-|--> [job 1][ job 3    ]
    worker 2     `-|--> [job 2      ]! timed out

The trace is in the array form of the format: its closing bracket may be missing, so the file of a
program that was killed can still be read.

Source: Trace Event Format, Google, 2016,
https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ..jobs.fields import SCHEMA, Type
from ..jobs.job import Job
from ..jobs.records import read_log
from . import jobs_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from ..job_queue.queue import JobQueue

_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_SHOWN_CHARACTERS = 1000  # of a value, for people to read
_TOLD = ("id", "lane", "priority", "state", "attempts", "exitcode", "timeout", "function", "args")
_NUMBERS = {field.name for field in SCHEMA if field.type in (Type.ID, Type.INTEGER, Type.NUMBER)}
_INSTANTS = {"timed out": "timed out", "died": "crashed", "cancelled": "cancelled"}


def trace(
    jobs: JobQueue | Iterable[Job | Mapping[str, Any]] | str | os.PathLike[str],
    path: str | os.PathLike[str],
) -> None:
    """Write a trace of jobs, to be opened in https://ui.perfetto.dev or chrome://tracing.

    Args:
        jobs: Jobs or their records (`Job.to_dict()`), in any order; or a `JobQueue`, for the jobs
            that it holds; or the path of a log (`JobQueue(log_file=...)`).
        path: The JSON file to write.

    Raises:
        TypeError: `jobs` is none of these, or one of its items is neither a job nor a record.
        ValueError: The log is not a log of jobs, or `path` would overwrite it.
        OSError: A file cannot be read or written.

    Each worker is a track, with a slice for the last attempt of each job that has ended; an arrow
    leads to it from the moment of `put`. Timeouts, crashes, retries and cancellations are marked.
    Times are local times in microseconds since 1970. Jobs are written one at a time, so a million
    of them need no more memory than one.
    """
    if isinstance(jobs, (str, os.PathLike)):
        if os.path.exists(path) and os.path.samefile(jobs, path):
            raise ValueError(
                f"the trace would overwrite the log {os.fspath(path)!r}; name another file"
            )
        jobs = _begun(read_log(jobs))
    records = jobs_of(jobs)
    if isinstance(records, (Job, Mapping)) or not isinstance(records, Iterable):
        raise TypeError(
            "jobs must be an iterable of Jobs or of their dicts, a JobQueue, or the path of a log "
            f"file; got {type(jobs).__name__} {jobs!r}"
        )
    with TraceWriter(path) as writer:
        for job in records:
            writer.add(job)


def _begun(rows: Iterator[dict[str, str]]) -> Iterator[dict[str, str]]:
    """Read the first row now, so that a file that is not a log is an error before `path` exists."""
    return itertools.chain([row] if (row := next(rows, None)) else [], rows)


class TraceWriter:
    """Writes a trace, job by job.

    Args:
        path: The JSON file to write.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = open(path, "w", encoding="ascii")  # noqa: SIM115
        self._separator = "[\n"
        self._flows = itertools.count(1)
        self._queues: dict[Any, int] = {}
        self._workers: dict[tuple[int, Any], int] = {}

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def add(self, job: Job | Mapping[str, Any]) -> None:
        """Write the events of a job.

        Args:
            job: A job, or its record, which may be a row of a log.

        Raises:
            TypeError: `job` is neither.
            OSError: The file cannot be written.
        """
        record = job.to_dict() if isinstance(job, Job) else job
        if not isinstance(record, Mapping):
            raise TypeError(
                f"a trace is made of jobs and their records, not of {type(job).__name__} {job!r}"
            )
        submitted, started, ended = (
            _microseconds(record.get(key)) for key in ("submitted", "started", "ended")
        )
        if submitted is None:
            return
        name = _text(_given(record.get("name")) or record.get("id"))
        queue = self._queue(record.get("qid"))
        args = _told(record)
        lane = _given(record.get("lane"))
        common = {"pid": queue, "cat": "job" if lane is None else f"job,lane {_text(lane)}"}
        put = common | {"tid": 0, "ts": submitted}
        self._write(
            put | {"name": f"put {name}", "ph": "X", "dur": 1, "args": {"id": args.get("id")}}
        )
        at = put
        worker = _given(record.get("worker"))
        if started is not None and worker is not None:  # else the job could not be sent or begun
            at = common | {"tid": self._worker(queue, worker), "ts": started}
            if ended is not None:
                dur = max(0, ended - started)
                self._write(at | {"name": name, "ph": "X", "dur": dur, "args": args})
                # After the slices that the arrow connects: programs look for these first.
                flow = {"id": next(self._flows), "name": "put to start", "cat": "flow"}
                self._write(put | flow | {"ph": "s"})
                self._write(at | flow | {"ph": "f", "bp": "e"})
        self._mark(record, name, at, ended)

    def _mark(
        self, record: Mapping[str, Any], name: str, at: Mapping[str, Any], ended: int | None
    ) -> None:
        """Write an instant event for a retry, a timeout, a crash or a cancellation."""
        attempts = int(_given(record.get("attempts")) or 0)
        if attempts > 1:
            self._instant(at, f"attempt {attempts} of {name}", at["ts"])
        what = _INSTANTS.get(str(record.get("state")))
        if what is not None:
            self._instant(at, f"{what}: {name}", at["ts"] if ended is None else ended)

    def _instant(self, at: Mapping[str, Any], name: str, moment: int) -> None:
        self._write({**at, "name": name, "ph": "i", "ts": moment, "s": "t"})

    def _queue(self, qid: Any) -> int:
        queue = self._queues.get(qid)
        if queue is None:
            queue = self._queues[qid] = len(self._queues) + 1
            self._name("process_name", queue, 0, f"qmill {_text(qid)}")
            self._name("thread_name", queue, 0, "put")
        return queue

    def _worker(self, queue: int, worker: Any) -> int:
        track = self._workers.get((queue, worker))
        if track is None:
            track = sum(its_queue == queue for its_queue, _ in self._workers) + 1
            self._workers[queue, worker] = track
            self._name("thread_name", queue, track, _text(worker))
        return track

    def _name(self, what: str, queue: int, track: int, name: str) -> None:
        self._write({"name": what, "ph": "M", "pid": queue, "tid": track, "args": {"name": name}})

    def _write(self, event: Mapping[str, Any]) -> None:
        self._file.write(self._separator + json.dumps(event))
        self._separator = ",\n"

    def close(self) -> None:
        """Write the closing bracket and close the file."""
        with self._file:
            if not self._file.closed:
                self._file.write("[]\n" if self._separator == "[\n" else "\n]\n")


def _given(value: Any) -> Any:
    """Return a value, or None for an empty cell of a log."""
    return None if value == "" else value


def _microseconds(moment: Any) -> int | None:
    """Return a local time as microseconds since 1970."""
    if isinstance(moment, str) and moment:
        moment = datetime.fromisoformat(moment)
    return (moment - _EPOCH) // _MICROSECOND if isinstance(moment, datetime) else None


def _told(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the details that are shown when a slice is selected."""
    return {
        key: _number(record[key]) if key in _NUMBERS else _text(record[key])
        for key in _TOLD
        if _given(record.get(key)) is not None
    }


def _number(value: Any) -> float | str:
    """Return a number, also from the text of a log."""
    if isinstance(value, (int, float)):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError):
        return _text(value)
    return int(number) if number.is_integer() else number


def _text(value: Any) -> str:
    """Return a text that any JSON parser accepts."""
    text = str(value)
    if len(text) > _SHOWN_CHARACTERS:
        text = f"{text[:_SHOWN_CHARACTERS]}... ({len(text):,} characters)"
    return text.encode("utf-8", "backslashreplace").decode()
