"""Items of a map that break their worker."""

from __future__ import annotations

import functools
import os
import random
import signal

import pytest

import qmill
from qmill import WorkerDied

from .. import job_functions
from ..job_functions import Troubled
from ..programs import LIMIT_S
from .health import a_worker, check_healthy, marks, send_signal


def take_until_death(results):
    """Return what comes before the death that has to come."""
    taken = []
    with pytest.raises(WorkerDied) as info:
        for result in results:
            taken.append(result)
    return taken, info.value


def check_named(error, number):
    """See that a death tells for which item it was."""
    assert (error.index, error.job) == (number, f"item {number} ({number})")
    assert f"running item {number} ({number})" in str(error)
    assert repr(error) == f"WorkerDied({str(error)!r})"
    assert error.__notes__ == [f"item {number} of map: {number}"]


@pytest.mark.parametrize("chunksize", [None, 1, 7, 100])
@pytest.mark.parametrize("how", ["SIGKILL", "os._exit(3)", "segfault"])
@pytest.mark.parametrize("where", [0, 41, 99])
def test_a_death_costs_the_item_whose_call_it_was(quick_method, chunksize, how, where, tmp_path):
    file = tmp_path / "marks"
    function = functools.partial(job_functions.mark_or_die, path=str(file), deaths={where: how})
    with qmill.JobQueue(2) as jobs:
        taken, error = take_until_death(jobs.map(function, range(100), chunksize=chunksize))
        assert taken == list(range(where))
        check_named(error, where)
        check_healthy(jobs)
    assert max(marks(file).values()) == 1


def test_a_death_in_qmill_map_comes_after_all_results_before_it(method, tmp_path):
    file = tmp_path / "marks"
    function = functools.partial(
        job_functions.mark_or_die, path=str(file), deaths={5000: "SIGKILL"}
    )
    taken, error = take_until_death(qmill.map(function, range(6000), max_workers=2))
    assert taken == list(range(5000))
    check_named(error, 5000)
    assert max(marks(file).values()) == 1


@pytest.mark.parametrize(
    "make", [str, job_functions.Plain, job_functions.decimal, job_functions.large]
)
def test_results_of_every_kind_outlive_their_worker(quick_method, make, tmp_path):
    """Those that the codec writes, those that it does not, and large ones."""
    file = tmp_path / "marks"
    deaths = {33: "SIGKILL"}
    function = functools.partial(
        job_functions.mark_or_die, path=str(file), deaths=deaths, make=make
    )
    with qmill.JobQueue(1) as jobs:
        taken, error = take_until_death(jobs.map(function, range(50), chunksize=50))
        assert taken == [make(number) for number in range(33)]
        check_named(error, 33)
    assert marks(file) == dict.fromkeys(range(34), 1)


@pytest.mark.parametrize("chunksize", [None, 1, 30, 200])
def test_a_map_goes_on_after_deaths_and_calls_each_item_once(quick_method, chunksize, tmp_path):
    file = tmp_path / "marks"
    deaths = {0: "SIGKILL", 50: "os._exit(0)", 51: "SIGKILL", 120: "segfault", 199: "SIGKILL"}
    function = functools.partial(job_functions.mark_or_die, path=str(file), deaths=deaths)
    with qmill.JobQueue(2) as jobs:
        options = {"chunksize": chunksize, "return_exceptions": True}
        for number, result in enumerate(jobs.map(function, range(200), **options)):
            if number in deaths:
                check_named(result, number)
            else:
                assert result == number
        states = jobs.summary().states
        assert (states["done"], states["died"]) == (195, 5)
        check_healthy(jobs)
    assert marks(file) == dict.fromkeys(range(200), 1)


@pytest.mark.parametrize("chunksize", [None, 1, 30, 200])
def test_only_the_item_of_a_death_is_tried_again(quick_method, chunksize, tmp_path):
    file = tmp_path / "marks"
    where = [0, 50, 51, 120, 199]
    function = functools.partial(job_functions.die_at_first, path=str(file), where=where)
    with qmill.JobQueue(2) as jobs:
        results = jobs.map(function, range(200), chunksize=chunksize, retries=1)
        assert list(results) == list(range(200))
        assert jobs.summary().retries == 5
    assert marks(file) == {number: 2 if number in where else 1 for number in range(200)}


def test_an_item_that_dies_too_often_ends_the_map(quick_method, tmp_path):
    file = tmp_path / "marks"
    function = functools.partial(job_functions.mark_or_die, path=str(file), deaths={5: "SIGKILL"})
    with qmill.JobQueue(1) as jobs:
        taken, error = take_until_death(jobs.map(function, range(9), chunksize=9, retries=2))
        assert taken == [0, 1, 2, 3, 4]
        check_named(error, 5)
    assert marks(file)[5] == 3


def test_workers_that_cannot_start_cost_a_chunk_that_goes_on_one_item(quick_method, tmp_path):
    """The third in a row costs the next job, and of a chunk the next call."""
    begin = {"initializer": job_functions.die_at_starts}
    begin["initargs"] = (str(tmp_path / "starts"), [2, 3, 4])
    file = tmp_path / "marks"
    function = functools.partial(job_functions.mark_or_die, path=str(file), deaths={3: "SIGKILL"})
    with qmill.JobQueue(1, **begin) as jobs:
        results = list(jobs.map(function, range(9), chunksize=9, return_exceptions=True))
        death, not_started = results[3:5]
        check_named(death, 3)
        assert (not_started.index, not_started.job) == (4, "item 4 (4)")
        assert not_started.__notes__ == [
            "3 workers in a row died before they were ready",
            "item 4 of map: 4",
        ]
        assert results[:3] + results[5:] == [0, 1, 2, 5, 6, 7, 8]
    assert marks(file) == {n: 1 for n in range(9) if n != 4}


@pytest.mark.parametrize("chunksize", [1, 2, 9])
def test_an_item_that_ends_its_worker_when_it_is_rebuilt(quick_method, chunksize):
    items = [0, 1, Troubled("rebuilt", "is killed"), 3, 4]
    with qmill.JobQueue(1) as jobs:
        taken, error = take_until_death(jobs.map(job_functions.echo, items, chunksize=chunksize))
        assert (taken, error.index) == ([0, 1], 2)
        options = {"chunksize": chunksize, "return_exceptions": True}
        results = list(jobs.map(job_functions.echo, items, **options))
        assert results.pop(2).index == 2
        assert results == [0, 1, 3, 4]
        check_healthy(jobs)


def test_a_result_that_ends_its_worker_when_it_is_packed(quick_method):
    with qmill.JobQueue(1) as jobs:
        whens, whats = ["rebuilt", "packed", "rebuilt"], ["is another", "dies", "is another"]
        taken, error = take_until_death(jobs.map(job_functions.give, whens, whats, chunksize=3))
        assert (len(taken), error.index, error.exitcode) == (1, 1, 3)


def test_a_worker_that_is_killed_from_outside_costs_the_item_that_it_runs(quick_method):
    told, gate = qmill.Queue(), qmill.Queue()
    function = functools.partial(job_functions.tell_pid_and_wait, told=told, gate=gate, where=7)
    with qmill.JobQueue(1) as jobs:
        results = jobs.map(function, range(20), chunksize=20)
        os.kill(told.get(), signal.SIGKILL)
        taken, error = take_until_death(results)
        assert taken == list(range(7))
        check_named(error, 7)


def test_cancelling_a_chunk_that_runs_again(quick_method, tmp_path):
    """It is the queue's again between its attempts, and is let go with the others."""
    told, gate = qmill.Queue(), qmill.Queue()
    function = functools.partial(job_functions.tell_pid_and_wait, told=told, gate=gate, where=7)
    with qmill.JobQueue(1) as jobs:
        results = jobs.map(function, range(20), chunksize=10, retries=5)
        for _ in range(2):
            os.kill(told.get(), signal.SIGKILL)
        told.get()
        results.close()
        gate.put("go on")
        assert jobs.wait(timeout=LIMIT_S) == 0
        check_healthy(jobs)


@pytest.mark.parametrize("retries", [0, 3])
def test_calls_of_maps_whose_workers_are_killed_at_random(
    quick_method, retries, worker_pids, tmp_path
):
    """No item is called more often than it is to be tried, and no result is lost."""
    seed = int(os.environ.get("QMILL_TEST_SEED") or random.randrange(1 << 32))
    print(f"QMILL_TEST_SEED={seed}")
    rng = random.Random(seed)
    file, num_kills = tmp_path / "marks", 0
    numbers = range(30_000)
    with qmill.JobQueue(3) as jobs:
        options = {"return_exceptions": True, "retries": retries, "buffersize": 3000}
        results = []
        for result in jobs.map(
            functools.partial(job_functions.mark, str(file)), numbers, **options
        ):
            results.append(result)
            if rng.random() < 0.002:
                with a_worker(rng, worker_pids) as worker:
                    num_kills += send_signal(worker, signal.SIGKILL)
        check_healthy(jobs)
    counts = marks(file)
    assert len(results) == len(numbers)
    for number, result in enumerate(results):
        if result == number:
            assert 1 <= counts[number] <= 1 + retries
        else:
            assert (type(result), result.index) == (WorkerDied, number)
            assert counts[number] <= 1 + retries
    assert sum(result == number for number, result in enumerate(results)) >= 30_000 - num_kills
