"""Storms on queues in shared memory, and the same storm on the queue of the standard library.

A short part runs with all tests; `make chaos` has two hundred kills for each of ten seeds. The
first seed is QMILL_CHAOS_SEED, or a random one; each storm prints its own.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import random
import secrets
import signal
from functools import partial

import pytest

import qmill
from qmill import testing

from .storm_crews import Crew
from .storm_loads import EVERY, Reopened, large, mixed, small

pytestmark = pytest.mark.skipif(not qmill.core_info().core, reason="needs queues in shared memory")

TRIMMED_BYTES = 1 << 20
SHAPES = [(2, 2), (4, 4)]
BOUNDS = [0, 50]
BASE_SEED = int(os.environ.get("QMILL_CHAOS_SEED") or secrets.randbelow(1 << 31))
SEEDS = range(10)  # a seed is the base and this: a test's name must be the same in each process


@pytest.fixture(autouse=True)
def _in_shared_memory(monkeypatch):
    monkeypatch.setenv("QMILL_TRANSPORT", "shared")


def rage(kills, shape, maxsize, payload, seed, reads, audit, endings=("kill",)):
    """Have a storm, and check its account, the queue's own counts, and its memory."""
    queue = qmill.Queue(maxsize) if reads is testing.get_each else qmill.Q(maxsize=maxsize)
    report = testing.storm(
        queue,
        kills=kills,
        producers=shape[0],
        consumers=shape[1],
        seed=seed,
        read=reads,
        payload=payload,
        every=EVERY[payload],
        patience_s=30,  # the machine may be busy
        endings=endings,
    )
    print(report)
    queue.join()  # the dead have left nothing unfinished
    getattr(queue, "_queue", queue)._settle()
    counts = queue.statistics()
    if reads is testing.get_each:
        report.assert_at_most_once()
        assert counts.lost <= report.killed_consumers
        if endings == ("kill",):  # else a get may be interrupted, and its message comes back
            assert report.overtaken == 0
            assert report.lost <= counts.lost
    else:
        num_poisoned = len(queue.poisoned())  # not the list: arrays in it keep their blocks
        report.assert_at_least_once(set_aside=num_poisoned)
        assert counts.lost == 0
        assert report.duplicated <= counts.redelivered <= report.killed_consumers
        queue = queue._queue
    assert (counts.size, counts.leased, counts.unfinished) == (0, 0, 0)
    # Of a killed producer's last message nobody knows; and there is the one that ends a storm.
    assert 1 <= counts.put - report.put <= report.killed_producers + 1
    assert counts.taken - counts.redelivered == counts.put
    queue.put("works on", timeout=1)
    assert queue.get(timeout=1) == "works on"
    queue.task_done()
    with pytest.raises(qmill.Empty):
        queue.get_nowait()
    audit(queue)
    queue.trim()
    audit(queue)
    blocks = os.fstat(queue._ring.fileno()).st_blocks
    assert blocks * 512 < TRIMMED_BYTES  # but for what waits, all has gone back


@pytest.mark.parametrize("payload", [small, large])
@pytest.mark.parametrize("maxsize", BOUNDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reads", [testing.iterate, testing.get_each])
def test_a_short_storm(audit, reads, shape, maxsize, payload):
    with testing.nothing_left_behind():
        rage(15, shape, maxsize, payload, BASE_SEED, reads, audit)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("payload", [small, large])
@pytest.mark.parametrize("maxsize", BOUNDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reads", [testing.iterate, testing.get_each])
def test_a_storm(audit, reads, shape, maxsize, payload, seed):
    with testing.nothing_left_behind():
        rage(200, shape, maxsize, payload, BASE_SEED + seed, reads, audit)


ENDINGS = ("kill", "interrupt", "terminate", "exec")


@pytest.mark.parametrize("reads", [testing.iterate, testing.get_each])
def test_a_short_storm_of_all_endings(audit, reads):
    with testing.nothing_left_behind():
        rage(20, (2, 2), 0, mixed, BASE_SEED, reads, audit, ENDINGS)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("payload", EVERY)
@pytest.mark.parametrize("maxsize", BOUNDS)
@pytest.mark.parametrize("reads", [testing.iterate, testing.get_each])
def test_a_storm_of_all_endings(audit, reads, maxsize, payload, seed):
    with testing.nothing_left_behind():
        rage(200, (4, 4), maxsize, payload, BASE_SEED + seed, reads, audit, ENDINGS)


# -- names that are opened, closed and given up ---------------------------------------------------


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("QMILL_DIR", str(tmp_path))
    return tmp_path


def rage_through_handles(kills, seed):
    name = f"storm-{os.getpid()}-{seed}"
    kept = qmill.Queue(name=name)
    report = testing.storm(
        # An exception of a handler is lost where a collection of garbage closes a handle.
        Reopened(name),
        kills=kills,
        seed=seed,
        every=20,
        patience_s=30,
        endings=("kill", "exec"),
    )
    print(report)
    report.assert_at_most_once()
    assert kept.statistics().size == 0
    kept.close()


def test_a_short_storm_on_a_name_that_is_opened_for_each_operation(folder):
    rage_through_handles(10, BASE_SEED)
    assert not [file for file in folder.rglob("*storm*") if file.is_file()]


@pytest.mark.chaos
@pytest.mark.parametrize("seed", SEEDS)
def test_a_storm_on_a_name_that_is_opened_for_each_operation(folder, seed):
    rage_through_handles(200, BASE_SEED + seed)
    assert not [file for file in folder.rglob("*storm*") if file.is_file()]


def churn(name, step, seed):
    """Use a name, and give it up now and then."""
    chosen = random.Random(seed)
    while True:
        queue = qmill.Queue(name=name)
        queue.put(name)
        with contextlib.suppress(qmill.Empty):
            assert queue.get_nowait() == name
        if chosen.random() < 0.2:
            queue.unlink()
        queue.close()
        step()


def rage_through_names(kills, seed):
    names = [f"storm-{os.getpid()}-{seed}-{number}" for number in range(2)]
    with Crew([partial(churn, name) for name in names * 2], seed) as crew:
        crew.rage(kills)
        crew.wait_for_steps(50)
    for name in names:
        queue = qmill.Queue(name=name)
        queue.put("works on")
        while queue.get(timeout=30) != "works on":
            pass
        queue.unlink()
        queue.close()


def test_a_short_storm_on_names_that_are_given_up(folder):
    with testing.nothing_left_behind():
        rage_through_names(10, BASE_SEED)
    assert not [file for file in folder.rglob("*storm*") if file.is_file()]


@pytest.mark.chaos
@pytest.mark.parametrize("seed", SEEDS)
def test_a_storm_on_names_that_are_given_up(folder, seed):
    with testing.nothing_left_behind():
        rage_through_names(200, BASE_SEED + seed)
    assert not [file for file in folder.rglob("*storm*") if file.is_file()]


# -- each message brings its own queue ------------------------------------------------------------


def serve(questions, step, _):
    for question in questions:
        number, answers = question.data
        with contextlib.suppress(qmill.QueueGone):  # the client has died meanwhile
            answers.put(number + 1)
        step()


def ask(questions, step, _):
    for number in itertools.count():
        answers = qmill.Queue()
        questions.put((number, answers))
        assert answers.get(timeout=30) == number + 1
        step()


def rage_with_answers(kills, seed):
    questions = qmill.Q()
    with testing.nothing_left_behind():
        with Crew([partial(serve, questions)] * 2 + [partial(ask, questions)] * 2, seed) as crew:
            crew.rage(kills, (signal.SIGKILL, signal.SIGTERM))
            for _ in zip(range(20), iter(partial(ask_once, questions), None), strict=False):
                pass
            crew.wait_for_steps(50)


def ask_once(questions):
    answers = qmill.Queue()
    questions.put((1, answers))
    return answers.get(timeout=30)


def test_a_short_storm_of_clients_and_servers():
    rage_with_answers(10, BASE_SEED)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", SEEDS)
def test_a_storm_of_clients_and_servers(seed):
    rage_with_answers(200, BASE_SEED + seed)


# -- other ways to start, other queues ------------------------------------------------------------


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_a_storm_of_processes_that_were_not_forked(start_method):
    q = qmill.Q()
    report = testing.storm(
        q, kills=4, seed=BASE_SEED, read=testing.iterate, start_method=start_method
    )
    report.assert_at_least_once(set_aside=len(q.poisoned()))


CONTROLS = {
    "Queue": multiprocessing.Queue,
    "bounded Queue": lambda: multiprocessing.Queue(50),
    "JoinableQueue": multiprocessing.JoinableQueue,
    "SimpleQueue": multiprocessing.SimpleQueue,
}


@pytest.mark.chaos
@pytest.mark.parametrize("seed", SEEDS[:3])
@pytest.mark.parametrize("make", CONTROLS.values(), ids=CONTROLS)
def test_the_queues_of_the_standard_library_do_not_survive_it(make, seed):
    report = testing.storm(make(), kills=200, seed=BASE_SEED + seed, patience_s=3)
    print(report)
    with pytest.raises(AssertionError):
        report.assert_at_most_once()
