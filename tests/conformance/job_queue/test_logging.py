"""Log messages of a queue."""

from __future__ import annotations

import gc
import logging
import re

import qmill

from .common_jobs import fail


def test_debug_lines(engine, caplog):
    with caplog.at_level(logging.DEBUG, logger="qmill"):
        with qmill.JobQueue(3, engine=engine) as jobs:
            jobs.put(int, name="the job")
    told = [record for record in caplog.records if record.name.split(".")[0] == "qmill"]
    assert {record.levelno for record in told} == {logging.DEBUG}
    lines = [record.getMessage().lower() for record in told]
    initialised, queued, started, completed, stopped = (
        [bool(re.search(pattern, line)) for line in lines].index(True)
        for pattern in (
            "initiali[sz]ed .*3 workers",
            "queued job.*the job",
            "started job.*the job",
            "completed job.*the job",
            "stopped",
        )
    )
    assert initialised < started < completed < stopped
    assert initialised < queued < stopped  # told by another thread than the rest


def test_a_failure_that_nobody_asks_for_is_logged(make, caplog):
    with caplog.at_level(logging.INFO, logger="qmill"):
        jobs = make(1)
        jobs.put(fail, name="bad job", suppress_errors=False)
        jobs.wait()
        jobs.collect()
        gc.collect()
        jobs.shutdown()  # waits until everything is told
    told = [record for record in caplog.records if "bad job" in record.getMessage()]
    assert len(told) == 1
    assert told[0].levelno >= logging.WARNING


def test_a_failure_can_be_kept_out_of_the_log(make, caplog):
    with caplog.at_level(logging.INFO, logger="qmill"):
        jobs = make(1)
        jobs.put(fail, name="bad job", suppress_errors=True)
        jobs.wait()
        jobs.collect()
        gc.collect()
    assert caplog.records == []
