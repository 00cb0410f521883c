"""Descriptors and memory that a queue costs."""

from __future__ import annotations

import os
import pickle

import pytest
from conformance_support import Call

import qmill

from .creators import created_elsewhere, ends_well


def open_files():
    return len(os.listdir("/proc/self/fd"))


linux_only = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux's /proc")


@linux_only
def test_closed_queues_give_back_their_descriptors(process_transport):
    def use():
        queue = qmill.Queue()
        queue.put(1)
        queue.get()
        queue.close()

    use()
    before = open_files()
    for _ in range(20):
        use()
    assert open_files() <= before


@linux_only
def test_closed_handles_give_back_their_descriptors(process_transport, start_program):
    creator, queue = created_elsewhere(start_program)
    pickled = pickle.dumps(queue)
    before = open_files()
    for _ in range(20):
        handle = pickle.loads(pickled)
        handle.put(1)
        handle.get()
    del handle
    assert open_files() <= before + 2
    queue.close()
    ends_well(creator)


@linux_only
def test_threads_that_end_give_back_their_descriptors(process_queue):
    def use():
        process_queue.put(1)
        process_queue.get()

    Call(use).result()
    before = open_files()
    for _ in range(20):
        Call(use).result()
    assert open_files() <= before + 2
