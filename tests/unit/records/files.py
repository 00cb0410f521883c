"""Jobs that have ended, and the file of their records."""

from __future__ import annotations

import csv
import io
import os
from datetime import datetime, timedelta

from qmill.jobs.failures import Failure
from qmill.jobs.fields import FIELDS
from qmill.jobs.job import FINISHED, Job, Options
from qmill.jobs.records import RecordLog

DAY = datetime(2030, 1, 1)

# What `Job.to_dict` promises: the keys of ezpq, then those of qmill.
KEYS = [
    *("qid", "id", "name", "priority", "lane", "timeout", "function", "args", "kwargs"),
    *("submitted", "started", "ended", "processed", "exitcode", "cancelled", "runtime"),
    *("output", "exception", "callback", "state", "worker", "attempts", "host"),
]


class Owner:
    qid = "the queue"

    def log_later(self, what, error):
        raise AssertionError("no failure is told here")

    def cancel(self, job):
        return False

    def host_of(self, worker):
        return None if worker is None else "here"

    def wall_time(self, moment_s):
        return DAY + timedelta(seconds=moment_s)


def add(left, right=0):
    return left + right


def make_job(number=7, function=add, args=(1, 2), kwargs=None, **options):
    return Job(number, function, args, kwargs, 100, Options(**options), Owner(), 10.0)


def ended_job(result=None, error=None, state=FINISHED, failure=None, **options):
    job = make_job(**options)
    job.attempts, job.worker, job.exitcode = 2, "worker-3", int(error is not None)
    job._started, job._ended = 11.0, 13.5
    job._failure = failure and Failure(failure)
    job._settle(state, result, error)
    return job


def raised(error, cause=None):
    """Return an exception that was raised here."""
    try:
        raise error from cause
    except BaseException as caught:
        return caught


class Unspeakable(Exception):
    def __str__(self):
        raise KeyError("unspeakable")

    __repr__ = __str__


def record(**values):
    return {**dict.fromkeys(FIELDS), **values}


def write(path, *records):
    log = RecordLog(path)
    try:
        log.write(list(records))
    finally:
        log.close()


def rows_of(data):
    """Parse what must be a header and whole rows."""
    text = data.decode()
    assert text.endswith("\r\n")
    header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    assert header == list(FIELDS)
    wrong = [row for row in rows if len(row) != len(FIELDS)]
    assert wrong == []
    return [dict(zip(FIELDS, row, strict=True)) for row in rows]


def read(path):
    return rows_of(path.read_bytes())


def names_in(path):
    return [row["name"] for row in read(path)]


def without_cr(text):
    return text.replace("\r\n", "\n").replace("\r", "\n")


def open_files():
    return len(os.listdir("/proc/self/fd"))


FIRST = record(name="first", output='a\nb,"c"')
LAST = record(name="last", args=("x", 'y"'), exception='line\r\nline "two",\n', output="ä😀")
