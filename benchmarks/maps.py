"""Maps, against those of the standard library and others, in one run.

    python -m benchmarks.maps                              all tables
    python -m benchmarks.maps --only M1 --repeat 5         one
    python -m benchmarks.maps --peers qmill --scale 0.1    qmill and the baseline, a tenth of it

A peer is made in a fresh process, with two workers, and is a function (fn, items) that gives the
results in order. A number in a peer's name is its chunk size; the others choose their own.
"""

from __future__ import annotations

import time

from benchmarks import harness
from benchmarks.harness import Workload
from benchmarks.tasks import add_one, burn, no_op

WORKERS = 2
MIB_OF_FLOATS = 1 << 17


def pool():
    from multiprocessing import Pool

    return Pool(WORKERS).map


def imap(chunksize):
    from multiprocessing import Pool

    pool = Pool(WORKERS)
    return lambda fn, items: pool.imap(fn, items, chunksize)


def executor(chunksize):
    from concurrent.futures import ProcessPoolExecutor

    executor = ProcessPoolExecutor(WORKERS)
    return lambda fn, items: executor.map(fn, items, chunksize=chunksize)


def pebble(chunksize):
    from pebble import ProcessPool

    pool = ProcessPool(max_workers=WORKERS)
    return lambda fn, items: pool.map(fn, items, chunksize=chunksize).result()


def mpire():
    from mpire import WorkerPool

    pool = WorkerPool(n_jobs=WORKERS, keep_alive=True)
    # An item that is a bare array would be spread over the function's parameters.
    return lambda fn, items: pool.map(
        fn, [(item,) for item in items], concatenate_numpy_output=False
    )


def joblib():
    from joblib import Parallel, delayed

    parallel = Parallel(n_jobs=WORKERS)
    return lambda fn, items: parallel(delayed(fn)(item) for item in items)


def joblib_on_qmill():
    from joblib import Parallel, delayed

    import qmill.compat.joblib

    qmill.compat.joblib.register()
    parallel = Parallel(n_jobs=WORKERS, backend="qmill")
    return lambda fn, items: parallel(delayed(fn)(item) for item in items)


def job_queue():
    from qmill import JobQueue

    jobs = JobQueue(WORKERS)
    return lambda fn, items: jobs.map(fn, items, buffersize=100_000)


class StartIncluded:
    """qmill.map, which starts its workers in each call: it cannot be warm."""

    def __init__(self):
        import qmill

        self.map = qmill.map

    def __call__(self, fn, items):
        return self.map(fn, items, max_workers=WORKERS)


PEERS = {
    "mp.Pool.map": pool,
    "mp.Pool.imap(1)": lambda: imap(1),
    "mp.Pool.imap(64)": lambda: imap(64),
    "PPE.map(1)": lambda: executor(1),
    "PPE.map(64)": lambda: executor(64),
    "qmill.JobQueue.map": job_queue,
    "qmill.map, with its start": StartIncluded,
    "pebble.map(1)": lambda: pebble(1),
    "pebble.map(64)": lambda: pebble(64),
    "mpire.map": mpire,
    "joblib.Parallel": joblib,
    "joblib.Parallel on qmill": joblib_on_qmill,
}


def section():
    in_chunks = [name for name in PEERS if not name.endswith("(1)")]
    one_by_one = [name for name in PEERS if not name.endswith("(64)")]  # better for large items
    workloads = [
        Workload("M1", "no-op over ints, items/s", "throughput", in_chunks, 100_000),
        Workload(
            "M2",
            "1 ms of processor time a call, share of the two workers' time that is used",
            "efficiency",
            in_chunks,
            2_000,
        ),
        Workload(
            "M3",
            "numpy arrays of 1 MiB in and out, items/s",
            "throughput_of_arrays",
            one_by_one,
            400,
        ),
    ]
    return harness.section("benchmarks.maps", workloads)


# -- what runs in the fresh process ------------------------------------------------------------


def run(peer, fn, items):
    """Return the results and the seconds that they took."""
    if not isinstance(peer, StartIncluded):
        list(peer(fn, items[:1] * 2 * WORKERS))
    started = time.perf_counter()
    results = list(peer(fn, items))
    return results, time.perf_counter() - started


def throughput(peer, count):
    items = list(range(count))
    results, taken = run(peer, no_op, items)
    if results != items:
        raise RuntimeError("the results are not those of the items")
    return {"value": count / taken}


def efficiency(peer, count):
    used, taken = run(peer, burn, list(range(count)))
    return {"value": sum(used) / (WORKERS * taken)}


def throughput_of_arrays(peer, count):
    import numpy

    items = [numpy.full(MIB_OF_FLOATS, number, dtype=float) for number in range(count)]
    results, taken = run(peer, add_one, items)
    if [int(array[-1]) for array in results] != list(range(1, count + 1)):
        raise RuntimeError("the results are not those of the items")
    return {"value": count / taken}


if __name__ == "__main__":
    harness.main(__doc__, section())
