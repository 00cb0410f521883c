"""What takes long: millions of messages, one that is larger than 2 GiB, forks under load."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy
import pytest

import qmill
from qmill import testing

from .programs import LIMIT_S, Program
from .storm_loads import small

pytest.importorskip("qmill.queues.shared.queue", reason="needs queues in shared memory")
pytestmark = pytest.mark.chaos

MILLION = 1_000_000
NUM_MILLIONS = int(os.environ.get("QMILL_CHAOS_MILLIONS") or 10)
GROWTH_BYTES = 4 << 20  # of ten million messages: less than half a byte for each
HUGE_BYTES = 5 << 29  # 2.5 GiB


@pytest.fixture(autouse=True)
def _in_shared_memory(monkeypatch):
    monkeypatch.setenv("QMILL_TRANSPORT", "shared")


def items():
    """Ints and records, and a block now and then."""
    return [bytes(100_000) if number % 5000 == 0 else small(number) for number in range(10_000)]


def put_millions(queue):
    batch = items()
    for _ in range(NUM_MILLIONS * MILLION // len(batch)):
        for item in batch:
            queue.put(item)


def memory_of(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024


def file_bytes(queue):
    return os.fstat(queue._ring.fileno()).st_blocks * 512


@pytest.mark.parametrize("reads", [testing.get_each, testing.iterate])
def test_memory_does_not_grow_over_millions_of_messages(reads):
    q = qmill.Queue(maxsize=1000) if reads is testing.get_each else qmill.Q(maxsize=1000)
    queue = getattr(q, "_queue", q)
    worker = qmill.Worker(put_millions, (q,), start_method="fork")
    seen = []
    for number, _ in enumerate(reads(q), 1):
        if number % MILLION == 0:
            seen.append((memory_of(os.getpid()), memory_of(worker.pid), file_bytes(queue)))
            print(number, seen[-1], flush=True)
            if number == (NUM_MILLIONS - 1) * MILLION:
                break
    for _ in zip(range(MILLION), reads(q), strict=False):
        pass
    worker.result(LIMIT_S)
    for before, after in zip(seen[0], seen[-1], strict=True):
        assert after - before < GROWTH_BYTES
    q.join()
    assert queue.statistics().put == NUM_MILLIONS * MILLION
    assert queue.qsize() == 0


def add_up(queue, reply):
    array = queue.get()
    reply.put((array.shape[0], int(array[::4096].sum())))
    del array


def test_a_message_of_more_than_two_gibibytes():
    available = int(re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())[1])
    if available * 1024 < 3 * HUGE_BYTES:
        pytest.skip(f"needs {3 * HUGE_BYTES >> 30} GiB of free memory")
    queue, reply = qmill.Queue(), qmill.Queue()
    worker = qmill.run(add_up, queue, reply)
    queue.put(numpy.ones(HUGE_BYTES, dtype=numpy.uint8))
    assert reply.get(timeout=600) == (HUGE_BYTES, HUGE_BYTES // 4096)
    worker.result(LIMIT_S)
    queue._settle()
    assert file_bytes(queue) < 16 << 20  # it has gone back to the system


FORKS = """
import multiprocessing, numpy
queue, results, arrays = qmill.Queue(), qmill.Queue(), qmill.Queue()
over = threading.Event()
held = []
def churn(queue, item):
    while not over.is_set():
        queue.put(item)
        queue.peek()
        got = queue.get()
for number in range(3):
    arrays.put(numpy.full(50_000, number))
    held.append(arrays.get())
def check(number):
    assert [set(array.tolist()) for array in held] == [{0}, {1}, {2}]
    results.put(number)
threads = [threading.Thread(target=churn, args=(queue, "small")) for _ in range(2)]
threads += [threading.Thread(target=churn, args=(arrays, numpy.ones(50_000))) for _ in range(2)]
for thread in threads:
    thread.start()
context = multiprocessing.get_context("fork")
for number in range(100):
    process = context.Process(target=check, args=(number,))
    process.start()
    process.join(20)
    if process.exitcode != 0:
        tell(f"process {number}: exit code {process.exitcode}")
        process.kill()
        process.join()
over.set()
for thread in threads:
    thread.join()
check(100)
tell(*results.get_many(200))
"""


def test_a_hundred_forks_while_threads_use_queues_and_arrays_are_held():
    program = Program(FORKS, "fork")
    try:
        assert program.hear_pids() == list(range(101))
        program.finish()
        assert program.exitcode == 0
    finally:
        program.clean_up()
