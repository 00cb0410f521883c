"""The log file of a queue, and the records of its jobs."""

from __future__ import annotations

import csv
import datetime
import re

import pytest
from conformance_support import LIMIT_S

import qmill
from qmill import testing

from ...unit.records.files import KEYS
from .common_jobs import fail

# -- the log file ---------------------------------------------------------------------------------


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_log_file_has_a_row_for_each_job(make, tmp_path):
    path = tmp_path / "jobs.csv"
    with make(2, log_file=path, name="press") as jobs:
        some = [jobs.put(abs, -number, name=f"job {number}") for number in range(100)]
        jobs.submit(int)
        assert list(jobs.map(abs, [1])) == [1]
        some += jobs.starmap(divmod, [(7, 2)], priority=3)
    rows = rows_of(path)
    assert sorted(int(row["id"]) for row in rows) == [job.id for job in some]
    by_id = {int(row["id"]): row for row in rows}
    for job in some:
        row = by_id[job.id]
        assert list(row) == list(job.to_dict())
        assert (row["qid"], row["name"], row["state"]) == ("press", str(job.name), "done")
        assert (row["priority"], row["attempts"]) == (str(job.priority), "1")
        assert row["output"] == str(job.output)
    lines = path.read_text().splitlines()
    assert lines[0].startswith("qid,id,name,")
    assert len(lines) == 102


def test_the_log_file_has_failed_and_cancelled_jobs(make, tmp_path):
    path = tmp_path / "jobs.csv"
    with make(1, log_file=str(path), auto_start=False) as jobs:
        jobs.put(fail)
        jobs.put(int).cancel()
    failed, cancelled = sorted(rows_of(path), key=lambda row: int(row["id"]))
    assert (failed["state"], cancelled["state"]) == ("failed", "cancelled")
    assert "KeyError" in failed["exception"]
    assert (failed["cancelled"], cancelled["cancelled"]) == ("False", "True")


@pytest.mark.parametrize("text", ['a "quoted", one', "two\nlines", "grüße €", "=1+1", ",", "'"])
def test_the_log_file_keeps_any_text(make, tmp_path, text):
    path = tmp_path / "jobs.csv"
    with make(1, log_file=path) as jobs:
        jobs.put(str, text, name=text)
        jobs.put(int)
    first, second = rows_of(path)
    assert (first["name"], first["output"]) == (text, text)
    assert second["id"] == "2"


def test_the_rows_of_the_log_file_stay_whole_with_any_newline(make, tmp_path):
    path = tmp_path / "jobs.csv"
    with make(1, log_file=path) as jobs:
        for text in ("\r\n", "a\rb", "\n\n", '"\r"\n', "\0\v\f", "\u2028"):
            jobs.put(str, text, name=text)
    assert [int(row["id"]) for row in rows_of(path)] == [1, 2, 3, 4, 5, 6]
    assert {row["state"] for row in rows_of(path)} == {"done"}


def test_the_log_file_is_appended_to(make, tmp_path):
    path = tmp_path / "jobs.csv"
    for name in ("one", "other"):
        with make(1, log_file=path, name=name) as jobs:
            jobs.put(int)
    assert [row["qid"] for row in rows_of(path)] == ["one", "other"]
    assert path.read_text().count("qid") == 1


def test_a_log_file_that_two_queues_share(make, tmp_path):
    path = tmp_path / "jobs.csv"
    with make(1, log_file=path, name="one") as one, make(1, log_file=path, name="other") as other:
        for number in range(50):
            one.put(abs, number)
            other.put(abs, number)
    found = sorted((row["qid"], int(row["id"])) for row in rows_of(path))
    assert found == [(name, number) for name in ("one", "other") for number in range(1, 51)]
    assert path.read_text().count("qid") == 1


def test_a_log_file_tells_what_the_callback_did(make, tmp_path):
    path = tmp_path / "jobs.csv"
    with make(1, log_file=path, callback=lambda job: "called back") as jobs:
        jobs.put(int)
    [row] = rows_of(path)
    assert row["callback"] == "called back"
    assert row["processed"] >= row["ended"] >= row["started"] >= row["submitted"] > ""


def test_a_log_file_that_cannot_be_written(engine, tmp_path):
    with pytest.raises(OSError):
        qmill.JobQueue(1, engine=engine, log_file=tmp_path / "no such" / "jobs.csv")
    with pytest.raises(OSError):
        qmill.JobQueue(1, engine=engine, log_file=tmp_path)


def test_a_log_file_of_somebody_else_is_refused(engine, tmp_path):
    path = tmp_path / "accounts.csv"
    path.write_text("id,amount\n1,5\n")
    with testing.nothing_left_behind(), pytest.raises(ValueError, match="'id,amount'"):
        qmill.JobQueue(1, engine=engine, log_file=path)
    assert path.read_text() == "id,amount\n1,5\n"


# -- records --------------------------------------------------------------------------------------


def test_the_record_of_a_job_that_is_done(make):
    jobs = make(1, name="press", callback=lambda job: "seen")
    job = jobs.put(divmod, [7, 2], name="division", priority=3, lane=("a", 1))
    jobs.wait()
    record = job.to_dict()
    assert list(record) == KEYS
    assert record["qid"] == "press"
    assert (record["id"], record["name"], record["priority"]) == (1, "division", 3)
    assert (record["lane"], record["timeout"]) == (("a", 1), None)
    assert "divmod" in record["function"]
    assert list(record["args"]) == [7, 2]
    assert not record["kwargs"]
    assert (record["exitcode"], record["cancelled"], record["attempts"]) == (0, False, 1)
    assert (record["output"], record["exception"]) == ((3, 1), None)
    assert (record["callback"], record["state"]) == ("seen", "done")
    assert record["worker"] == job.worker
    times = [record[key] for key in ("submitted", "started", "ended", "processed")]
    assert times == sorted(times)
    assert all(type(time) is datetime.datetime and time.tzinfo is None for time in times)
    assert abs(datetime.datetime.now() - times[0]) < datetime.timedelta(seconds=LIMIT_S)
    assert 0 <= record["runtime"] <= LIMIT_S


def test_the_record_of_a_job_that_failed(jobs):
    job = jobs.put(fail, kwargs=None)
    jobs.wait()
    record = job.to_dict()
    assert (record["state"], record["exitcode"], record["output"]) == ("failed", 1, None)
    assert "KeyError: 'a key'" in record["exception"]
    assert "in fail" in record["exception"]


def test_the_record_of_a_job_that_waits(paused):
    record = paused.put(int, kwargs={"base": 2}).to_dict()
    assert list(record) == KEYS
    assert (record["state"], record["started"], record["ended"]) == ("waiting", None, None)
    assert (record["cancelled"], record["kwargs"]) == (False, {"base": 2})


def test_the_record_of_a_job_that_was_cancelled(paused):
    job = paused.put(int)
    job.cancel()
    paused.wait()
    record = job.to_dict()
    assert (record["state"], record["cancelled"], record["started"]) == ("cancelled", True, None)


def test_the_states_of_a_job(make, gate):
    jobs = make(1)
    running, waiting = jobs.put(gate.hold), jobs.put(int)
    gate.wait_for_start()
    assert (running.state, waiting.state) == ("working", "waiting")
    assert running.started is not None
    gate.permit()
    jobs.wait()
    assert (running.state, waiting.state) == ("done", "done")


def test_a_queue_without_a_name_has_eight_digits(make):
    qids = {make(1).put(int).to_dict()["qid"] for _ in range(3)}
    assert len(qids) == 3
    assert all(re.fullmatch(r"[0-9a-f]{8}", qid) for qid in qids)
