"""`qmill.frame`: the same columns and dtypes, whatever the records are and come from."""

from __future__ import annotations

import functools
from datetime import datetime

import pandas
import pytest

import qmill
from qmill.jobs.fields import FIELDS, SCHEMA, Type

from ..limits import _no_test_hangs  # noqa: F401 (a fixture)
from .support import hide, record

OF_TYPE = {
    Type.TEXT: "string",
    Type.ID: "int64",
    Type.INTEGER: "Int64",
    Type.NUMBER: "float64",
    Type.FLAG: "bool",
    Type.MOMENT: "datetime64[us]",
    Type.CATEGORY: "category",
    Type.STATE: "category",
    Type.OBJECT: "object",
}
DTYPES = {field.name: OF_TYPE[field.type] for field in SCHEMA}


def work(number, scale=1):
    if number < 0:
        raise ValueError('a comma, a "quote" and\na line\'s end')
    return number * scale


@pytest.fixture(scope="module")
def log_and_jobs(tmp_path_factory):
    """A log file, and its jobs in the order of its rows."""
    path = tmp_path_factory.mktemp("log") / "jobs.csv"
    with qmill.JobQueue(1, name="mill", log_file=path) as jobs:
        jobs.put(work, 3, name="three", lane="red", timeout=60)
        jobs.put(work, (4,), {"scale": 2.5}, priority=7.5, lane="blue")
        jobs.put(work, -1, suppress_errors=True)
        jobs.put(str, "text\r\n")
        jobs.pause()
        jobs.put(work, 1).cancel()
    return path, sorted(jobs.collect(), key=lambda job: job._processed)


def dtypes_of(table):
    return {name: str(dtype) for name, dtype in table.dtypes.items()}


def test_jobs_make_rows_of_real_types(log_and_jobs):
    _, jobs = log_and_jobs
    table = qmill.frame(jobs)
    assert list(table.columns) == list(FIELDS)
    assert dtypes_of(table) == DTYPES
    assert sorted(table.id) == [1, 2, 3, 4, 5]
    by_id = table.set_index("id")
    assert list(by_id.output[[1, 2, 4]]) == [3, 10.0, "text\r\n"]
    assert by_id.args[1] == [3]
    assert by_id.kwargs[2] == {"scale": 2.5}
    assert (by_id.lane[1], by_id.priority[2], by_id.timeout[1]) == ("red", 7.5, 60.0)
    assert (by_id.state[3], by_id.exitcode[3], by_id.state[5]) == ("failed", 1, "cancelled")
    assert "ValueError" in by_id.exception[3]
    assert pandas.isna(by_id.started[5])
    ran = by_id.ended - by_id.started
    assert ran.dt.total_seconds()[[1, 2]].tolist() == pytest.approx(
        by_id.runtime[[1, 2]].tolist(), abs=2e-6
    )


def test_dicts_make_the_same_frame_as_jobs(log_and_jobs):
    _, jobs = log_and_jobs
    expected = qmill.frame(jobs)
    pandas.testing.assert_frame_equal(qmill.frame(job.to_dict() for job in jobs), expected)
    pandas.testing.assert_frame_equal(qmill.frame(expected), expected)


@pytest.mark.parametrize("as_path", [str, lambda path: path])
def test_a_log_file_makes_the_same_frame_but_for_text(log_and_jobs, as_path):
    path, jobs = log_and_jobs
    table, expected = qmill.frame(as_path(path)), qmill.frame(jobs)
    assert dtypes_of(table) == DTYPES
    for name in FIELDS:
        if DTYPES[name] == "object":
            texts = [None if value is None else str(value) for value in expected[name]]
            if name == "output":
                texts = [text and text.replace("\r\n", "\n") for text in texts]
            elif name == "args":
                assert "[3]" in set(table.args)
                continue
            assert list(table[name]) == texts
        elif name == "lane":
            assert list(table.lane.astype(object)[:2]) == list(expected.lane.astype(object)[:2])
        else:
            pandas.testing.assert_series_equal(table[name], expected[name], check_exact=False)


@pytest.mark.parametrize("cut", [1, 2, 3, 20, 60])
def test_a_last_line_that_was_cut_off_is_left_out(log_and_jobs, tmp_path, cut):
    path, _ = log_and_jobs
    torn = tmp_path / "torn.csv"
    torn.write_bytes(path.read_bytes()[:-cut])
    pandas.testing.assert_frame_equal(qmill.frame(torn), qmill.frame(path).iloc[:-1])


@pytest.mark.parametrize("content", [b"", b"qid,id,na"])
def test_a_log_without_a_whole_line_is_empty(tmp_path, content):
    path = tmp_path / "jobs.csv"
    path.write_bytes(content)
    assert dtypes_of(qmill.frame(path)) == DTYPES


def test_no_jobs_make_an_empty_frame_with_all_columns():
    table = qmill.frame([])
    assert len(table) == 0
    assert dtypes_of(table) == DTYPES
    with qmill.JobQueue(1) as jobs:
        assert dtypes_of(jobs.frame()) == DTYPES


def test_a_large_output_in_a_log_is_read(tmp_path):
    path = tmp_path / "jobs.csv"
    with qmill.JobQueue(1, engine="thread", log_file=path) as jobs:
        jobs.put(lambda: "x" * 300_000)
    assert qmill.frame(path).output[0] == "x" * 100_000 + "... (200000 characters left out)"


def test_records_of_several_queues_and_other_keys_go_together():
    table = qmill.frame([record(1, qid="a", mine=[1]), record(1, qid="b"), {"id": 3}])
    assert list(table.columns) == [*FIELDS, "mine"]
    assert list(table.qid[:2]) == ["a", "b"]
    assert table.mine[0] == [1]
    assert pandas.isna(table.submitted[2])
    assert table.submitted[0] == datetime(2030, 1, 1, 12)


def test_a_queue_tells_of_the_jobs_that_it_still_has():
    told, gate = qmill.Queue(), qmill.Queue()
    with qmill.JobQueue(1) as jobs:
        jobs.put(abs, -1)
        jobs.put(abs, -2, lane="left")
        jobs.wait()
        jobs.get()
        jobs.put(lambda: (told.put(None), gate.get()))
        jobs.put(abs, -4, lane="left")
        jobs.submit(abs, -5)
        told.get()
        table = jobs.frame()
        gate.put(None)
    assert list(table.id) == [2, 3, 4, 5]
    assert list(table.state) == ["done", "working", "waiting", "waiting"]
    assert list(table.output) == [2, None, None, None]
    assert dtypes_of(table) == DTYPES
    assert list(jobs.frame().id) == [2, 3, 4]


@pytest.mark.parametrize(
    "jobs", [5, None, {"id": 1}, [5], [{"id": 1}, "jobs.csv"], functools.partial(int)]
)
def test_what_is_no_job_is_refused(jobs):
    with pytest.raises(
        TypeError, match=r"jobs must be an iterable of Jobs or of their dicts, a JobQueue"
    ):
        qmill.frame(jobs)


def test_a_file_that_is_no_log_is_refused(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="other.csv is not a log file of jobs: it has no column"):
        qmill.frame(path)
    with pytest.raises(FileNotFoundError):
        qmill.frame(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="the column 'started' has values that records"):
        qmill.frame([record(1) | {"started": "yesterday"}])


def test_without_pandas_the_error_has_the_command(monkeypatch):
    hide(monkeypatch, "pandas")
    with pytest.raises(ImportError, match=r"needs pandas.*: pip install 'qmill\[plot\]'"):
        qmill.frame([])
