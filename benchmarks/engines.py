"""Jobs on a Dask cluster, against what Dask does by itself, in one run.

    python -m benchmarks.engines                     all tables
    python -m benchmarks.engines --only E1 --repeat 5

A peer is made in a fresh process with a cluster on this machine: worker processes of one thread,
under nannies. `run(fn, count)` calls a function for so many numbers and gathers the results.
"""

from __future__ import annotations

import time

from benchmarks.tasks import nap, no_op

NAP_S = 0.010


class Bare:
    """A cluster, and a client that submits to it."""

    def __init__(self, num_workers=2):
        from distributed import Client, LocalCluster

        self.num_workers = num_workers
        self.cluster = LocalCluster(
            n_workers=num_workers, threads_per_worker=1, dashboard_address=None
        )
        self.client = Client(self.cluster)
        self.client.wait_for_workers(num_workers)

    def run(self, fn, count):
        futures = [self.client.submit(fn, number, pure=False) for number in range(count)]
        return self.client.gather(futures)


class BareMap(Bare):
    def run(self, fn, count):
        return self.client.gather(self.client.map(fn, range(count), pure=False))


class Submit(Bare):
    """A job queue on such a cluster."""

    def __init__(self, num_workers=2):
        super().__init__(num_workers)
        from qmill import JobQueue
        from qmill.engines import Dask

        self.jobs = JobQueue(engine=Dask(self.client))

    def run(self, fn, count):
        jobs = [self.jobs.submit(fn, number) for number in range(count)]
        return [job.result() for job in jobs]


class Map(Submit):
    def run(self, fn, count):
        return list(self.jobs.map(fn, range(count)))


PEERS = {
    "dask client.submit": Bare,
    "dask client.map": BareMap,
    "qmill.JobQueue.submit": Submit,
    "qmill.JobQueue.map": Map,
    "qmill, 1 worker": lambda: Submit(1),
    "qmill, 2 workers": lambda: Submit(2),
    "qmill, 4 workers": lambda: Submit(4),
}


def section():
    from benchmarks import harness
    from benchmarks.harness import Workload

    workloads = [
        Workload(
            "E1",
            f"jobs of {NAP_S * 1000:g} ms on a Dask cluster of 2 workers, jobs/s",
            "naps",
            ["dask client.submit", "qmill.JobQueue.submit"],
            1_000,
        ),
        Workload(
            "E2",
            "no-op jobs on a Dask cluster of 2 workers, jobs/s",
            "no_ops",
            list(PEERS)[:4],
            2_000,
        ),
        Workload(
            "E3",
            f"jobs of {NAP_S * 1000:g} ms by the number of workers, jobs/s",
            "naps",
            list(PEERS)[4:],
            1_000,
        ),
        Workload(
            "E4",
            "no-op jobs by their number, on 2 workers, jobs/s of the most",
            "growing",
            ["qmill.JobQueue.submit"],
            8_000,
            has_ratio=False,
        ),
    ]
    return harness.section("benchmarks.engines", workloads)


# -- what runs in the fresh process ------------------------------------------------------------


def time_of(peer, fn, count):
    """Measure how long so many jobs take, and check their results."""
    started = time.perf_counter()
    results = peer.run(fn, count)
    taken = time.perf_counter() - started
    if sorted(results) != list(range(count)):
        raise RuntimeError(f"{count} jobs gave other results, {len(results)} in number")
    return taken


def warm(peer, fn):
    """Have all workers started, and the function known to them."""
    time_of(peer, fn, 20 * peer.num_workers)


def naps(peer, count):
    warm(peer, nap)
    taken = time_of(peer, nap, count)
    overhead = taken * peer.num_workers / count - NAP_S
    return {"value": count / taken, "overhead of a worker a job, ms": 1000 * overhead}


def no_ops(peer, count):
    warm(peer, no_op)
    return {"value": count / time_of(peer, no_op, count)}


def growing(peer, count):
    warm(peer, no_op)
    rates = {f"{n:,}": n / time_of(peer, no_op, n) for n in (count // 16, count // 4)}
    return {"value": count / time_of(peer, no_op, count), **rates}


if __name__ == "__main__":
    from benchmarks import harness

    harness.main(__doc__, section())
