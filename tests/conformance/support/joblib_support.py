"""What the tests of joblib on qmill use."""

from __future__ import annotations

import gc
import os

from joblib import Parallel, delayed

import qmill

NUM_BYTES = 10_000  # arrays of more are mapped


def num_descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def pids(number=8, **options):
    """Return the processes that tasks have run in."""
    return set(Parallel(batch_size=1, **options)(delayed(os.getpid)() for _ in range(number)))


def pair_of_workers():
    """Return the processes of two workers, which both have begun."""
    here, there = qmill.Queue(), qmill.Queue()

    def meet(index):
        mine, other = (here, there) if index % 2 else (there, here)
        mine.put(os.getpid())
        return other.get()

    return set(Parallel(batch_size=1)(delayed(meet)(index) for index in range(2)))
