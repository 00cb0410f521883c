"""Queues that several of the tests use."""

from __future__ import annotations

import pytest

import qmill


@pytest.fixture
def paused(make):
    """A queue with one worker that has not been started."""
    return make(1, auto_start=False)


@pytest.fixture(scope="module")
def some_queue():
    """One for calls that add nothing to it."""
    with qmill.JobQueue(1, auto_start=False) as jobs:
        yield jobs
        jobs.clear_waiting()
