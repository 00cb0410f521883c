"""Storms on queues in shared memory, and the same storm on the queue of the standard library.

A short part runs with all tests; `make chaos` has two hundred kills for each of ten seeds. The
first seed is QMILL_CHAOS_SEED, or a random one; each storm prints its own.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets

import pytest

import qmill
from qmill import testing

from .storm_loads import EVERY

pytestmark = pytest.mark.skipif(
    not qmill.core_info()["core"], reason="needs queues in shared memory"
)

SHAPES = [(2, 2), (4, 4)]
BOUNDS = [0, 50]
BASE_SEED = int(os.environ.get("QMILL_CHAOS_SEED") or secrets.randbelow(1 << 31))
SEEDS = range(10)  # a seed is the base and this: a test's name must be the same in each process


@pytest.fixture(autouse=True)
def _in_shared_memory(monkeypatch):
    monkeypatch.setenv("QMILL_TRANSPORT", "shared")


def rage(kills, shape, maxsize, payload, seed, reads, audit):
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
    )
    print(report)
    queue.join()  # the dead have left nothing unfinished
    getattr(queue, "_queue", queue)._settle()
    counts = queue.statistics()
    if reads is testing.get_each:
        report.assert_at_most_once()
        assert report.overtaken == 0
        assert report.lost <= counts.lost <= report.killed_consumers
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


@pytest.mark.parametrize("payload", EVERY)
@pytest.mark.parametrize("maxsize", BOUNDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reads", [testing.iterate, testing.get_each])
def test_a_short_storm(audit, reads, shape, maxsize, payload):
    with testing.nothing_left_behind():
        rage(15, shape, maxsize, payload, BASE_SEED, reads, audit)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("payload", EVERY)
@pytest.mark.parametrize("maxsize", BOUNDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reads", [testing.iterate, testing.get_each])
def test_a_storm(audit, reads, shape, maxsize, payload, seed):
    with testing.nothing_left_behind():
        rage(200, shape, maxsize, payload, BASE_SEED + seed, reads, audit)


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
