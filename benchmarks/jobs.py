"""Job queues, against the executors and pools of the standard library and others, in one run.

    python -m benchmarks.jobs                              all tables
    python -m benchmarks.jobs --only J1 J2 --repeat 5      some
    python -m benchmarks.jobs --peers qmill --scale 0.1    qmill and the baselines, a tenth of it

A peer is made in a fresh process, with two workers: `submit(fn, arg)` gives a job, `gather(jobs)`
the results of all. The module is loaded in that process, whose start is measured: so it imports
what it needs when it needs it.
"""

from __future__ import annotations

import os
import time

from benchmarks.tasks import no_op

WORKERS = 2
AHEAD = 10_000
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Executor:
    def __init__(self):
        from concurrent.futures import ProcessPoolExecutor

        self.submit = ProcessPoolExecutor(WORKERS).submit

    def gather(self, jobs):
        return [job.result() for job in jobs]


class Loky(Executor):
    def __init__(self):
        from loky import get_reusable_executor

        self.submit = get_reusable_executor(max_workers=WORKERS).submit


class Pebble(Executor):
    def __init__(self):
        from pebble import ProcessPool

        pool = ProcessPool(max_workers=WORKERS)
        self.submit = lambda fn, arg: pool.schedule(fn, args=(arg,))


class Pool:
    def __init__(self, start_method=None):
        from multiprocessing import get_context

        pool = get_context(start_method).Pool(WORKERS)
        self.submit = lambda fn, arg: pool.apply_async(fn, (arg,))

    def gather(self, jobs):
        return [job.get() for job in jobs]


class Mpire(Pool):
    def __init__(self):
        from mpire import WorkerPool

        pool = WorkerPool(n_jobs=WORKERS)
        self.submit = lambda fn, arg: pool.apply_async(fn, (arg,))


class Ezpq:
    def __init__(self):
        from ezpq import Queue

        self.queue = Queue(WORKERS)
        self.submit = lambda fn, arg: self.queue.put(fn, args=[arg])

    def gather(self, _):
        self.queue.wait()
        return [job["output"] for job in sorted(self.queue.collect(), key=lambda job: job["id"])]


class Put(Executor):
    def __init__(self, start_method=None):
        from qmill import JobQueue

        self.queue = JobQueue(WORKERS, start_method=start_method)
        self.submit = lambda fn, arg: self.queue.put(fn, [arg])


class Submit(Put):
    def __init__(self):
        super().__init__()
        self.submit = self.queue.submit

    def stream(self, count):
        """Give results in order, with a number of jobs under way."""
        from collections import deque

        jobs = deque()
        for number in range(count):
            jobs.append(self.submit(no_op, number))
            if len(jobs) == AHEAD:
                yield jobs.popleft().result()
        while jobs:
            yield jobs.popleft().result()


class Map(Put):
    def stream(self, count):
        return self.queue.map(no_op, range(count), buffersize=AHEAD)


PEERS = {
    "PPE.submit": Executor,
    "mp.Pool.apply_async": Pool,
    "mp.Pool, forkserver": lambda: Pool("forkserver"),
    "mp.Pool, fork": lambda: Pool("fork"),
    "qmill.JobQueue.put": Put,
    "qmill.JobQueue.submit": Submit,
    "qmill.JobQueue.map": Map,
    "qmill.JobQueue": Put,
    "qmill.JobQueue, fork": lambda: Put("fork"),
    "pebble.schedule": Pebble,
    "mpire.apply_async": Mpire,
    "loky.submit": Loky,
    "ezpq.put": Ezpq,
}
SUBMITTERS = [
    "PPE.submit",
    "mp.Pool.apply_async",
    "qmill.JobQueue.put",
    "qmill.JobQueue.submit",
    "pebble.schedule",
    "mpire.apply_async",
    "loky.submit",
    "ezpq.put",
]


def section():
    from benchmarks import harness
    from benchmarks.harness import Workload

    # ezpq starts a process for each job, and at most one for each tick of 0.1 s and worker.
    workloads = [
        Workload(
            "J1",
            "no-op jobs submitted one by one and gathered, jobs/s",
            "throughput",
            SUBMITTERS,
            20_000,
            slow={"ezpq.put": 0.01},
        ),
        Workload(
            "J2",
            "start of Python to the first result, s, lower is better",
            "first_result",
            ["mp.Pool, forkserver", "qmill.JobQueue"],
            1,
            harness.since_start,
        ),
        Workload(
            "J2 fork",
            "the same with workers that are forked, s, lower is better",
            "first_result",
            ["mp.Pool, fork", "qmill.JobQueue, fork"],
            1,
            harness.since_start,
        ),
        Workload(
            "J3",
            "memory of the parent for each job that waits, bytes, lower is better",
            "memory_of_waiting",
            SUBMITTERS,
            100_000,
        ),
        Workload(
            "idle",
            f"context switches in {harness.IDLE_S:g} s without jobs, lower is better",
            "become_idle",
            SUBMITTERS,
            100,
            harness.switches_while_idle,
            {"ezpq.put": 0.1},
            has_ratio=False,
        ),
        Workload(
            "million",
            "growth of the parent's memory from the 100,000th result to the last, MiB",
            "memory_of_results",
            ["qmill.JobQueue.map", "qmill.JobQueue.submit"],
            1_000_000,
            has_ratio=False,
        ),
    ]
    return harness.section("benchmarks.jobs", workloads)


# -- what runs in the fresh process ------------------------------------------------------------


def run(peer, count):
    """Submit so many jobs, and check their results."""
    results = peer.gather([peer.submit(no_op, number) for number in range(count)])
    if sorted(results) != list(range(count)):
        raise RuntimeError(f"{count} jobs gave other results, {len(results)} in number")


def throughput(peer, count):
    run(peer, 2 * WORKERS)
    started = time.perf_counter()
    run(peer, count)
    return {"value": count / (time.perf_counter() - started)}


def first_result(peer, _):
    peer.gather([peer.submit(no_op, 1)])
    return {"value": time.perf_counter()}


def memory_of_waiting(peer, count):
    run(peer, 2 * WORKERS)
    jobs = [peer.submit(time.sleep, 600) for _ in range(WORKERS)]
    time.sleep(0.5)  # until they run
    before, started = resident_bytes(), time.perf_counter()
    jobs += [peer.submit(no_op, number) for number in range(count)]
    taken = time.perf_counter() - started
    return {"value": (resident_bytes() - before) / count, "submitted/s": count / taken}


def become_idle(peer, count):
    run(peer, count)
    return {}


def memory_of_results(peer, count):
    mib = {}
    moments = {count // 10: "at 1/10", count // 2: "at 1/2", count: "at the end"}
    started = time.perf_counter()
    for number, _ in enumerate(peer.stream(count), 1):
        if number in moments:
            mib[moments[number]] = resident_bytes() / 2**20
    taken = time.perf_counter() - started
    return {"value": mib["at the end"] - mib["at 1/10"], **mib, "jobs/s": count / taken}


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE_BYTES


if __name__ == "__main__":
    from benchmarks import harness

    harness.main(__doc__, section())
