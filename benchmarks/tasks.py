"""What workers run. It imports next to nothing, for a worker's start is measured, too."""

from __future__ import annotations

import time

BURN_S = 0.001


def no_op(item):
    return item


def nap(item):
    time.sleep(0.010)
    return item


def burn(_):
    """Use a millisecond of processor time, and return what it was exactly."""
    started = time.thread_time()
    while (used := time.thread_time() - started) < BURN_S:
        pass
    return used


def add_one(array):
    return array + 1
