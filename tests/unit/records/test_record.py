"""The record of a job."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from qmill.errors import LaneError
from qmill.jobs.fields import FIELDS, SCHEMA, to_dict
from qmill.jobs.job import CANCELLED

from .files import DAY, KEYS, ended_job, make_job, raised


def test_the_keys_and_their_order():
    assert list(FIELDS) == KEYS
    assert list(to_dict(make_job())) == KEYS


def test_the_documentation_has_the_fields_of_the_schema():
    page = (Path(__file__).parents[3] / "docs" / "jobs.md").read_text(encoding="utf-8")
    rows = [f"| `{field.name}` | {field.type.value} | {field.meaning} |" for field in SCHEMA]
    assert "\n".join(["| field | type | meaning |", "| --- | --- | --- |", *rows]) + "\n\n" in page


def test_a_job_gives_its_record():
    job = ended_job(result=3, name="sum")
    assert job.to_dict() == to_dict(job)


def test_the_record_of_a_waiting_job():
    job = make_job(args=(1, [2]), kwargs={"right": 3}, lane=("a", 1), timeout=2.5)
    record = to_dict(job)
    assert list(record.pop("args")) == [1, [2]]
    nothing = dict.fromkeys(key for key in KEYS if key != "args")
    assert record == nothing | {
        "qid": "the queue",
        "id": 7,
        "name": 7,
        "priority": 100,
        "lane": ("a", 1),
        "timeout": 2.5,
        "function": "add",
        "kwargs": {"right": 3},
        "submitted": DAY + timedelta(seconds=10),
        "cancelled": False,
        "state": "waiting",
        "attempts": 0,
    }


def test_the_record_of_a_job_that_is_done():
    result = object()
    job = ended_job(result=result, name="sum")
    job._processed = 14.0
    record = to_dict(job)
    assert record["name"] == "sum"
    assert record["output"] is result
    assert record["exception"] is None
    assert [record[key] for key in ("started", "ended", "processed")] == [
        DAY + timedelta(seconds=seconds) for seconds in (11, 13.5, 14)
    ]
    assert record["runtime"] == 2.5
    assert (record["state"], record["cancelled"], record["exitcode"]) == ("done", False, 0)
    assert (record["worker"], record["attempts"]) == ("worker-3", 2)


@pytest.mark.parametrize("failure", ["failed", "died", "timed out"])
def test_the_record_of_a_job_that_failed(failure):
    record = to_dict(ended_job(error=raised(ValueError("no good")), failure=failure))
    assert record["state"] == failure
    assert record["output"] is None
    assert record["exitcode"] == 1
    assert record["cancelled"] is False
    assert "no good" in record["exception"]
    assert "in raised" in record["exception"]


@pytest.mark.parametrize("error", [None, LaneError("the one before failed")])
def test_the_record_of_a_cancelled_job(error):
    record = to_dict(ended_job(error=error, state=CANCELLED))
    assert record["cancelled"] is True
    assert record["state"] == "cancelled"
    assert record["output"] is None
    assert error is None or "the one before failed" in record["exception"]


def test_the_record_of_a_job_that_let_go_of_its_function():
    job = ended_job(result=3)
    job._let_go()
    record = to_dict(job)
    assert (record["function"], record["args"], record["kwargs"]) == (None, None, None)
    assert record["output"] == 3


def test_the_record_has_what_the_callback_returned():
    job = ended_job(result=3)
    job._callback, job._processed = "called back", job._ended
    assert to_dict(job)["callback"] == "called back"


def test_times_are_naive():
    record = to_dict(ended_job())
    assert record["submitted"].tzinfo is None
    assert record["ended"].tzinfo is None


def test_reading_the_record_waits_for_nobody_and_raises_nothing():
    job = ended_job(error=SystemExit(3), failure="failed")
    assert "SystemExit" in to_dict(job)["exception"]
