"""Very many jobs."""

from __future__ import annotations

import qmill

from .. import functions
from .health import check_healthy


def test_a_hundred_thousand_jobs():
    """PAINS 10: submitting very many jobs deadlocks."""
    with qmill.JobQueue(2) as jobs:
        for job in [jobs.submit(functions.nothing) for _ in range(100_000)]:
            assert job.result() is None
        check_healthy(jobs)
