"""What it is worth to send a large buffer beside its pickle: numpy arrays through a queue.

python -m benchmarks.buffers
"""

from __future__ import annotations

import os
import statistics
import time

import numpy

import qmill
from qmill.packing import serialize

SIZES = [4, 16, 64, 256, 1024, 16384]  # KiB
TURNS = 7


def time_us(queue, array, count):
    """Return how long a put and a get take, on the average of so many."""
    started = time.perf_counter()
    for _ in range(count):
        queue.put(array)
        queue.get()
    return (time.perf_counter() - started) / count * 1e6


def main():
    os.environ["QMILL_TRANSPORT"] = "shared"
    queue = qmill.Queue()
    print("| KiB | in the pickle, us | beside it, us | ratio |")
    print("| ---: | ---: | ---: | ---: |")
    for kib in SIZES:
        array = numpy.zeros(kib << 7)
        times = {1 << 60: [], 1: []}
        for _ in range(TURNS):
            for serialize.OUT_OF_BAND_BYTES in times:
                times[serialize.OUT_OF_BAND_BYTES].append(time_us(queue, array, 2 + 4000 // kib))
        inside, beside = (statistics.median(found) for found in times.values())
        print(f"| {kib:,} | {inside:,.1f} | {beside:,.1f} | {inside / beside:.1f}x |")


if __name__ == "__main__":
    main()
