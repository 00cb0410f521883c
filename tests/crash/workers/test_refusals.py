"""Functions and arguments that a worker refuses."""

from __future__ import annotations

import threading

import pytest

import qmill

from .. import functions


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda: qmill.run(3), TypeError, ["fn", "callable", "3"]),
        (lambda: qmill.run_thread("f"), TypeError, ["fn", "callable", "'f'"]),
        (lambda: qmill.Worker(None), TypeError, ["fn", "None"]),
        (lambda: qmill.Worker(len, kind="fork"), ValueError, ["kind", "'fork'", "'process'"]),
        (lambda: qmill.Worker(len, kind=None), ValueError, ["kind", "None"]),
        (
            lambda: qmill.Worker(len, start_method="threads"),
            ValueError,
            ["start_method", "'threads'", "spawn"],
        ),
        (
            lambda: qmill.Worker(len, kind="thread", start_method="spawn"),
            ValueError,
            ["start_method", "thread"],
        ),
        (lambda: qmill.Worker(len, name=3), TypeError, ["name", "3"]),
        (lambda: qmill.Worker(len, 3), TypeError, []),
        (lambda: qmill.Worker(len, (), 3), TypeError, []),
        (lambda: qmill.set_start_method("x"), ValueError, ["'x'", "spawn"]),
    ],
)
def test_bad_arguments(make, error, told):
    with pytest.raises(error) as info:
        make()
    for piece in told:
        assert piece in str(info.value)


@pytest.mark.parametrize("timeout", [-1, -0.5, float("nan")])
def test_bad_timeouts(timeout):
    worker = qmill.run_thread(functions.nothing)
    for call in (worker.join, worker.result, worker.exception):
        with pytest.raises(ValueError, match="timeout"):
            call(timeout)
    worker.join()


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_arguments_that_cannot_be_pickled_raise_from_run(start_method, monkeypatch):
    """PAINS 18: forkserver and spawn cannot pickle; functions of notebooks hang."""
    monkeypatch.setenv("QMILL_START_METHOD", start_method)
    with pytest.raises(qmill.SerializationError, match=r"lock.*start_method='fork'"):
        qmill.run(functions.add, {"lock": threading.Lock()})


def test_what_cannot_be_pickled_is_shared_under_fork(workers):
    """PAINS 18: forkserver and spawn cannot pickle; functions of notebooks hang."""
    lock = threading.Lock()
    workers.append(qmill.Worker(lambda: lock.acquire(False), start_method="fork"))
    assert workers[0].result() is True


def test_lambdas_and_closures_run_in_workers(method, run):
    """PAINS 18: forkserver and spawn cannot pickle; functions of notebooks hang."""
    factor = 3
    assert run(lambda number: factor * number, 4).result() == 12


@pytest.mark.parametrize("wrap", [lambda q: q, lambda q: [q]], ids=["itself", "in a list"])
@pytest.mark.parametrize("make", [lambda: qmill.Q("thread"), lambda: qmill.Queue(kind="thread")])
def test_a_queue_for_threads_is_refused_by_run(method, workers, make, wrap):
    with pytest.raises(TypeError, match="kind='thread'"):
        workers.append(qmill.run(functions.take_everything, wrap(make())))


def test_a_worker_cannot_be_sent(method, run):
    worker = run(functions.nothing)
    with pytest.raises(qmill.SerializationError, match="cannot be sent") as info:
        qmill.Queue().put([worker])
    assert "obj[0], a qmill.workers.api.Worker" in str(info.value)  # not a part of it
