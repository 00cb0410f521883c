"""The memory of queues: what they have, what they keep, and what is told when there is none."""

from __future__ import annotations

import itertools
import os
import random
import re

import numpy
import pytest

import qmill

from .programs import LIMIT_S, Program

pytestmark = pytest.mark.skipif(not qmill.core_info().core, reason="needs queues in shared memory")

MIB = 1 << 20
IDLE_MOST = 300_000  # bytes of a queue that keeps nothing: its header, a chunk, heads of blocks
NUM_SIZES = 3_000


@pytest.fixture(autouse=True)
def _in_shared_memory(monkeypatch):
    monkeypatch.setenv("QMILL_TRANSPORT", "shared")


@pytest.fixture
def program():
    """Starts one program."""
    programs = []

    def start(source):
        programs.append(Program(source, "forkserver"))
        return programs[-1]

    yield start
    for started in programs:
        started.clean_up()


def memory_of(queue):
    """Return how many bytes of a queue's file really have memory."""
    return os.fstat(queue._ring.fileno()).st_blocks * 512


def test_an_empty_queue_is_small_and_one_with_a_message_nearly_so():
    queue = qmill.Queue()
    assert memory_of(queue) <= 16 << 10
    queue.put("small")
    assert memory_of(queue) < 100_000


def bursts_of(sizes, number=12):
    """Put and take some messages of each size."""
    queue = qmill.Queue()
    for size in sizes:
        for _ in range(number):
            queue.put(b"x" * size)
        while queue.qsize():
            assert len(queue.get()) == size
    return queue


@pytest.mark.parametrize("megabytes", [(0.1, 1, 2, 4, 8, 12, 16, 24, 32), (32, 24, 8, 1, 0.1)])
def test_an_idle_queue_keeps_64_mib_and_trim_gives_them_back(megabytes):
    queue = bursts_of(int(size * 1e6) for size in megabytes)
    most = max(64 * MIB, 3 * int(megabytes[-1] * 1e6) + 3 * 4096)
    kept = memory_of(queue)
    assert kept < most + IDLE_MOST
    assert queue.trim() > kept - IDLE_MOST
    assert memory_of(queue) < IDLE_MOST
    assert queue.trim() == 0
    queue.put(b"y" * 1_000_000)
    assert queue.get() == b"y" * 1_000_000


@pytest.mark.parametrize("size", [10_000, 100_000, 30_000_000])
def test_a_queue_keeps_as_little_as_it_is_told(size):
    queue = qmill.Queue()
    queue.max_idle_memory = 1_000_000
    for _ in range(10):
        queue.put(b"x" * size)
    while queue.qsize():
        queue.get()
    assert memory_of(queue) < 1_000_000 + IDLE_MOST
    queue.max_idle_memory = 0
    assert memory_of(queue) < IDLE_MOST


def test_messages_of_any_size_have_the_memory_of_others():
    """The numbers of a table, and file offsets, are not used up by sizes that come and go."""
    queue = qmill.Queue()
    chosen = random.Random(1)
    steps = range(NUM_SIZES)
    held = []
    for step in itertools.chain(steps, reversed(steps)):
        queue.put(numpy.full(20_000 + step * 1_000, step % 251, dtype=numpy.uint8))
        array = queue.get()
        if chosen.random() < 0.05:
            held.append((step % 251, array))
        if len(held) > 10:
            content, array = held.pop(chosen.randrange(10))
            assert (array == content).all()
        del array
    size = os.fstat(queue._ring.fileno()).st_size
    assert size < 512 * MIB
    held.clear()
    queue.trim()
    assert memory_of(queue) < IDLE_MOST


def put_sizes(queue, sizes):
    for size in sizes:
        queue.put(numpy.full(size, size % 251, dtype=numpy.uint8))


def test_two_producers_with_sizes_that_rise_and_fall_and_a_reader_that_keeps_some(run):
    queue = qmill.Queue(maxsize=20)
    sizes = [20_000 + step * 4_000 for step in range(400)]
    run(put_sizes, queue, sizes)
    run(put_sizes, queue, sizes[::-1])
    held = []
    for number in range(2 * len(sizes)):
        array = queue.get(timeout=LIMIT_S)
        if number % 10 == 0:
            held.append(array)
        if len(held) > 15:
            kept = held.pop(number % 15)
            assert (kept == kept.size % 251).all()
    for array in held:
        assert (array == array.size % 251).all()
    del array, kept
    held.clear()
    queue.trim()
    assert memory_of(queue) < IDLE_MOST


def test_what_is_read_stays_when_the_rest_is_given_back():
    queue = qmill.Queue()
    for number in range(20):
        queue.put(numpy.full(200_000, number))
    held = [queue.get() for _ in range(10)]
    queue.trim()
    for number, array in enumerate(held + [queue.get() for _ in range(10)]):
        assert (array == number).all()


# -- when there is none ---------------------------------------------------------------------------

GROUP = """
folder = {folder!r}
def say(name, text):
    with open(os.path.join(folder, name), "w") as file:
        file.write(text)
say("memory.max", "{most}")
say("memory.current", "{used}")
say("memory.stat", "anon 1\\ninactive_file {cache}\\nactive_file 0\\n")
from qmill.queues.shared.core._ring import watch_groups
queue = qmill.Queue()
names = "memory.max", "memory.current", "memory.stat"
watch_groups([tuple(os.path.join(folder, name).encode() for name in names)])
number = 0
try:
    while number < {number}:
        queue.put({item})
        number += 1
    tell("all went in")
except MemoryError as error:
    tell(str(error).partition(": ")[0])
    assert queue.qsize() == number
    say("memory.current", "0")
    queue.put("there is room again")
    assert queue.qsize() == number + 1
tell("ends")
"""
ITEMS = ["bytes(1_000_000)", "bytes(10_000)"]


@pytest.mark.parametrize("item", ITEMS)
def test_a_put_in_a_full_control_group_is_an_error(program, tmp_path, item):
    source = GROUP.format(
        folder=str(tmp_path), most=500 * MIB, used=490 * MIB, cache=0, item=item, number=1000
    )
    full = program(source)
    told = " ".join(full.hear())
    assert re.fullmatch(
        r"[\d,]+ bytes more for this queue would leave too little of this process's memory control "
        r"group, which uses 490 of 500 MiB",
        told,
    )
    assert full.hear() == ["ends"]
    full.finish()


@pytest.mark.parametrize(("most", "cache"), [("max", 0), (500 * MIB, 300 * MIB)])
def test_files_that_the_kernel_can_drop_leave_room(program, tmp_path, most, cache):
    source = GROUP.format(
        folder=str(tmp_path), most=most, used=490 * MIB, cache=cache, item=ITEMS[0], number=50
    )
    roomy = program(source)
    assert roomy.hear() == ["all", "went", "in"]
    assert roomy.hear() == ["ends"]
    roomy.finish()
