"""What the exceptions say of themselves."""

from __future__ import annotations

import pickle

import pytest

import qmill
from qmill import Poisoned, WorkerDied

DEATHS = {
    "worker process 7 was killed by SIGKILL": WorkerDied(7, -9, 9),
    "worker process 7 running job 3 ended with exit code 1 before it had a result": WorkerDied(
        7, 1, None, 3
    ),
    "worker process 7 running item 2 ('x') was killed by SIGSEGV": WorkerDied(
        7, -11, 11, "item 2 ('x')"
    ),
    "the cluster's worker tcp://a:1 running report has left the cluster, or died": WorkerDied(
        None, None, None, "report", None, "tcp://a:1"
    ),
}


@pytest.mark.parametrize("text", DEATHS)
def test_a_death_says_the_same_as_text_and_as_repr(text: str) -> None:
    error = DEATHS[text]
    assert str(error) == text
    assert repr(error) == f"WorkerDied({text!r})"


def test_a_death_keeps_its_item_when_it_is_pickled() -> None:
    error = WorkerDied(7, -9, 9, "item 2 (5)")
    assert error.index is None
    error.index = 2
    error.add_note("item 2 of map: 5")
    found = pickle.loads(pickle.dumps(error))
    assert (found.index, found.job, found.args) == (2, "item 2 (5)", error.args)
    assert (repr(found), found.__notes__) == (repr(error), error.__notes__)


def test_a_subclass_is_shown_by_its_own_name() -> None:
    assert repr(type("Gone", (WorkerDied,), {})(7, -9, 9)).startswith("Gone('worker process 7")


def test_poisoned_messages_are_shown_in_brief() -> None:
    error = Poisoned([qmill.Msg("x" * 10_000)] * 50)
    assert repr(error) == f"Poisoned({str(error)!r})"
    assert "50 message(s)" in repr(error)
    assert len(repr(error)) < 600


def test_the_repr_of_what_a_job_ended_as_says_why() -> None:
    with qmill.JobQueue(1) as jobs:
        job = jobs.put(qmill.Queue().get, timeout=0.2, name="waits", suppress_errors=True)
        assert repr(job.exception()) == (
            "JobTimeout('job waits ran longer than its timeout of 0.2 s and was killed')"
        )
