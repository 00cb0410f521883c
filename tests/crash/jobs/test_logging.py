"""Log records of workers reach the parent's handlers."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

import qmill

from .. import functions, job_functions
from .health import check_healthy, outcome


def test_what_workers_log_reaches_the_parents_handlers(method, caplog):
    """PAINS 21: logs of workers are lost."""
    name = f"test.{method}"
    logging.getLogger(name).setLevel(logging.INFO)  # the root's is WARNING
    with qmill.JobQueue(1, name="logs") as jobs:
        pid = jobs.put(job_functions.log_everything, (name, "hello"), name="the job").result()
        jobs.submit(job_functions.log_everything, f"other.{method}", "hello").result()
    others = [record.levelname for record in caplog.records if record.name != name]
    assert others == ["WARNING", *["ERROR"] * 3]
    records = [record for record in caplog.records if record.name == name]
    assert [record.levelname for record in records] == ["INFO", "WARNING", *["ERROR"] * 3]
    assert records[0].getMessage() == "hello at 20"
    assert {record.process for record in records} == {pid}
    assert {record.processName for record in records} == {"logs-1"}
    assert {record.jobName for record in records} == {"the job"}
    assert records[-1].threadName == "logs"
    assert "ValueError: hello" in caplog.handler.format(records[-2])
    assert "in fail" in caplog.handler.format(records[-2])


def test_a_logger_with_a_handler_of_its_own(method):
    """PAINS 21: logs of workers are lost."""

    class Keeps(logging.Handler):
        def emit(self, record):
            kept.append(record.getMessage())

    kept, logger = [], logging.getLogger(f"private.{method}")
    logger.addHandler(Keeps())
    logger.propagate = False
    with qmill.JobQueue(1) as jobs:
        jobs.submit(job_functions.log_everything, logger.name, "hello").result()
    assert [text.split(" ", 1)[1] for text in kept] == [
        "at 30",
        "at 40",
        "with an exception",
        "in a thread",
    ]


EXTRAS = {
    "cannot be packed": job_functions.an_extra_lock,
    "cannot be rebuilt": job_functions.an_extra_that_cannot_be_rebuilt,
    "exits when it is rebuilt": job_functions.an_extra_that_exits,
}


@pytest.mark.parametrize("what", EXTRAS)
def test_a_log_record_with_an_extra_that(quick_method, what, caplog):
    """PAINS 21: logs of workers are lost."""
    with qmill.JobQueue(1) as jobs:
        pid = jobs.submit(functions.pid).result()
        job = jobs.submit(job_functions.log_with, EXTRAS[what])
        assert outcome(job) == "done"
        assert jobs.submit(functions.pid).result() == pid
        check_healthy(jobs)
    assert "said" in [record.getMessage() for record in caplog.records]


def test_a_long_record(method, caplog):
    with qmill.JobQueue(1) as jobs:
        jobs.submit(job_functions.log_with, dict, "x" * 300_000).result()
    assert [len(record.getMessage()) for record in caplog.records] == [300_000]


@pytest.mark.parametrize("size", [100, 40_000])
def test_processes_of_a_job_may_log(quick_method, size, caplog):
    """PAINS 21: logs of workers are lost."""
    with qmill.JobQueue(1) as jobs:
        job = jobs.submit(job_functions.log_in_processes, 4, 15, size)
        assert outcome(job) == [0] * 4
        check_healthy(jobs)
    logged = Counter(record.name for record in caplog.records)
    assert logged["here"] == 15
    assert logged["in a process"] in (0, 60)  # which of both is not promised


def test_a_process_of_a_job_may_log_while_a_thread_does(quick_method, caplog):
    """The locks of the moment have come along, which that thread may have held."""
    with qmill.JobQueue(1) as jobs:
        assert jobs.submit(job_functions.log_in_threads_and_processes, 25).result() == 0
        check_healthy(jobs)
