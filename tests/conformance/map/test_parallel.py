"""`qmill.parallel`."""

from __future__ import annotations

import pytest
from conformance_support import Call

import qmill

from .sources import fail_at_three


@qmill.parallel
def double(number, plus=0):
    """Double a number."""
    return 2 * number + plus


@qmill.parallel(max_workers=2, engine="thread")
def triple(number, *more, plus=0):
    return 3 * number + sum(more) + plus


@qmill.parallel(max_workers=2)
def fail_in_parallel(number):
    return fail_at_three(number)


def outputs_of(jobs):
    return [job.output for job in jobs]


def test_parallel_without_arguments():
    jobs = double(range(5))
    assert isinstance(jobs, list)
    assert all(isinstance(job, qmill.Job) and job.done() for job in jobs)
    assert outputs_of(jobs) == [0, 2, 4, 6, 8]


def test_parallel_with_arguments():
    assert outputs_of(triple(range(5))) == [0, 3, 6, 9, 12]


def test_parallel_passes_further_arguments():
    assert outputs_of(triple([1, 2], 10, 20, plus=100)) == [133, 136]
    assert outputs_of(double([1, 2], 5)) == [7, 9]
    assert outputs_of(double([1, 2], plus=5)) == [7, 9]


@pytest.mark.parametrize("name", ["items", "iterable"])
def test_parallel_takes_the_items_by_name(name):
    assert outputs_of(triple(**{name: [1, 2]})) == [3, 6]
    assert outputs_of(double(**{name: (number for number in range(3))}, plus=1)) == [1, 3, 5]


def test_parallel_can_be_called_as_often_as_you_like():
    assert [outputs_of(double([number])) for number in range(3)] == [[0], [2], [4]]
    calls = [Call(double, [number, number]) for number in range(3)]
    assert [outputs_of(call.result()) for call in calls] == [[0, 0], [2, 2], [4, 4]]


def test_parallel_gives_jobs_in_the_order_of_the_items(gates):
    @qmill.parallel(max_workers=4, engine="thread")
    def wait_for_permit(permits):
        return permits.get()

    call = Call(wait_for_permit, gates[:4])
    for number in (2, 3, 1, 0):
        gates[number].put(number)
    assert outputs_of(call.result()) == [0, 1, 2, 3]


def test_parallel_with_errors():
    jobs = fail_in_parallel(range(5))
    assert outputs_of(jobs) == [0, 1, 2, None, 4]
    assert [job.state for job in jobs] == ["done", "done", "done", "failed", "done"]
    with pytest.raises(ZeroDivisionError, match="item 3"):
        jobs[3].result()
    assert "in fail_at_three" in jobs[3].to_dict()["exception"]


def test_parallel_without_items():
    assert double([]) == []
    for call in (double, lambda: double(plus=1), lambda: double(3)):
        with pytest.raises(TypeError):
            call()


def test_parallel_keeps_the_functions_name_and_docstring():
    assert (double.__name__, double.__doc__) == ("double", "Double a number.")
    assert double.__wrapped__(4) == 8


def test_parallel_as_a_function_of_any_callable(engine):
    assert outputs_of(qmill.parallel(abs, engine=engine)([-1, -2])) == [1, 2]
    assert outputs_of(qmill.parallel(lambda n: -n, max_workers=1, engine=engine)([1, 2])) == [
        -1,
        -2,
    ]
    factor = 3

    @qmill.parallel(engine=engine, max_workers=2)
    def scale(number):
        return factor * number

    assert outputs_of(scale(range(4))) == [0, 3, 6, 9]


def test_parallel_passes_options_to_the_queue():
    called = []

    @qmill.parallel(max_workers=1, name="press", callback=called.append)
    def halve(number):
        return number / 2

    jobs = halve([4, 6])
    assert outputs_of(jobs) == [2, 3]
    assert called == jobs
    assert {job.to_dict()["qid"] for job in jobs} == {"press"}


def test_parallel_with_wrong_arguments():
    with pytest.raises(TypeError):
        qmill.parallel(3)
    with pytest.raises((TypeError, ValueError), match="max_workers"):
        qmill.parallel(max_workers=0)(abs)([1])
    with pytest.raises(TypeError, match="colour"):
        qmill.parallel(colour=1)(abs)([1])


def triple_all(numbers):
    return outputs_of(triple(numbers))


def test_parallel_functions_can_be_called_in_jobs():
    with qmill.JobQueue(1) as jobs:
        assert jobs.submit(double.__wrapped__, 4).result() == 8
        assert jobs.submit(triple_all, [1, 2]).result() == [3, 6]
