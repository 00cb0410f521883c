"""A Dask cluster of several processes: what jobs end as when its workers come, go and die."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import dask
import engine_jobs
import pytest
from clusters import SUPPORT, Cluster
from engine_support import Gate

import qmill
from qmill import JobTimeout, NotSupported, WorkerDied
from qmill.engines import Dask
from qmill.engines.dask import on_worker

from ..limits import _no_test_hangs  # noqa: F401 (a fixture)

LIMIT_S = 40.0


@pytest.fixture(scope="module", autouse=True)
def _threads_of_dask():
    """Dask keeps some threads for the life of a program: have them before the first test."""
    with qmill.JobQueue(1, engine=Dask()) as jobs:
        assert jobs.submit(int).result(LIMIT_S) == 0


@pytest.fixture
def start_cluster(tmp_path):
    """Starts a cluster of this test alone."""
    with contextlib.ExitStack() as stack:

        def start(num_workers):
            cluster = Cluster(tmp_path, num_workers)
            stack.callback(cluster.close)
            return cluster

        yield start


@pytest.fixture
def gate(tmp_path):
    gate = Gate(tmp_path)
    yield gate
    gate.close()


@contextlib.contextmanager
def queue_on(cluster, **options):
    """A queue that ends with its block, however that ends."""
    jobs = qmill.JobQueue(engine=Dask(cluster.address), **options)
    try:
        yield jobs
    finally:
        jobs.stop_all()
        jobs.shutdown()


def hear(gate, number):
    """Wait until so many jobs run; returns their processes."""
    return [int(gate.hear()[0]) for _ in range(number)]


def ends(jobs):
    """Wait for jobs; returns their results and exceptions."""
    return [job.exception(LIMIT_S) or job.result() for job in jobs]


def address_of(job):
    """Return the address of the Dask worker that ran a job; its children are numbered."""
    return job.worker.partition("-")[0]


def wait_for_end_of(pid):
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], LIMIT_S)[0])
    finally:
        os.close(pidfd)


def wait_for_end_of_one(pids):
    """Wait until one of several processes has ended."""
    pidfds = [os.pidfd_open(pid) for pid in pids if os.path.exists(f"/proc/{pid}")]
    try:
        assert len(pidfds) < len(pids) or select.select(pidfds, [], [], LIMIT_S)[0]
    finally:
        for pidfd in pidfds:
            os.close(pidfd)


# -- workers that die, go and come -----------------------------------------------------------------


def test_a_worker_that_is_killed_costs_the_items_of_a_map_that_it_had(start_cluster, gate):
    """Nobody is left who could tell how far it had come: each of these may have been called."""
    cluster = start_cluster(1)
    with queue_on(cluster) as jobs:
        function = partial(
            engine_jobs.tell_or_hold, started=gate.args[0], permits=gate.args[1], where=13
        )
        results = jobs.map(function, range(20), chunksize=10, return_exceptions=True)
        assert [next(results) for _ in range(10)] == list(range(10))
        hear(gate, 1)
        address = cluster.kill_worker("worker0")
        for index, error in enumerate(results, 10):
            assert (type(error), error.index, error.address) == (WorkerDied, index, address)
            assert error.__notes__ == [f"item {index} of map: {index}"]


@pytest.mark.parametrize("retries", [0, 1])
def test_a_worker_that_is_killed_costs_its_jobs_and_no_more(start_cluster, gate, tmp_path, retries):
    cluster = start_cluster(2)
    path = tmp_path / "marks"
    with queue_on(cluster, callback=lambda job: job.state) as jobs:
        assert jobs.max_workers == 2
        both = [gate.put(jobs, engine_jobs.hold_stubbornly) for _ in range(2)]
        hear(gate, 2)
        gate.permits.permit(2)
        before = [jobs.put(engine_jobs.mark, [str(path), n]) for n in range(30)]
        assert jobs.wait(timeout=LIMIT_S) == 0
        held = [gate.put(jobs, retries=retries, suppress_errors=True) for _ in range(2)]
        after = [jobs.put(engine_jobs.mark, [str(path), n]) for n in range(30, 60)]
        pids = hear(gate, 2)
        killed = cluster.kill_worker("worker0")
        wait_for_end_of_one(pids)  # it could take a permit else
        if retries:
            gate.permits.permit()  # the other one
            hear(gate, 1)  # it runs again, over there
            gate.permits.permit()
        else:
            gate.permits.permit()
        assert jobs.wait(timeout=LIMIT_S) == 0
        assert [job.state for job in [*before, *after]] == ["done"] * 60
        assert Counter(map(int, path.read_text().split())) == dict.fromkeys(range(60), 1)
        if retries:
            assert ends(held) == [None, None]
            assert sorted(job.attempts for job in held) == [1, 2]
            assert {address_of(job) for job in held} == {address_of(job) for job in after}
        else:
            (error,) = filter(None, ends(held))
            assert type(error) is WorkerDied
            assert error.address == killed
            assert killed in str(error)
        addresses = {address_of(job) for job in both}
        assert killed in addresses
        assert len(addresses) == 2
        assert killed not in {address_of(job) for job in after}
        completed = jobs.collect()
        assert len(completed) == 64
        assert addresses <= {address_of(job) for job in completed}
        draw(completed, tmp_path / "chart.png")


def draw(jobs, path):
    """Draw a chart of jobs on both workers."""
    table = qmill.frame(jobs)
    assert table.host.nunique() == 1
    table["worker"] = table.worker.str.partition("-")[0]
    chart = qmill.Plot(table).build(color_by="worker", title="A worker is killed")
    chart.save(path, width=8, height=5, dpi=100)
    if "QMILL_KEEP_CHART" in os.environ:
        Path(os.environ["QMILL_KEEP_CHART"]).write_bytes(path.read_bytes())
    assert path.stat().st_size > 10_000


def test_a_worker_that_retires_while_its_job_runs(start_cluster, gate):
    """In Dask a worker leaves whatever it runs; so its job is lost, or runs elsewhere."""
    cluster = start_cluster(2)
    with queue_on(cluster) as jobs:
        held = [gate.put(jobs, retries=1) for _ in range(2)]
        pids = hear(gate, 2)
        retired = cluster.retire_worker("worker1")
        wait_for_end_of_one(pids)
        gate.permits.permit()
        hear(gate, 1)
        assert jobs.max_workers == 1
        gate.permits.permit()
        assert ends(held) == [None, None]
        assert sorted(job.attempts for job in held) == [1, 2]
        assert retired not in {address_of(job) for job in held}


def test_a_worker_that_joins_late_gets_jobs(start_cluster, gate):
    cluster = start_cluster(1)
    with queue_on(cluster) as jobs:
        held = [gate.put(jobs) for _ in range(2)]
        hear(gate, 1)
        assert [job.state for job in held] == ["working", "waiting"]
        cluster.start_worker("late")
        hear(gate, 1)
        assert jobs.max_workers == 2
        gate.permits.permit(2)
        assert ends(held) == [None, None]
        assert len({address_of(job) for job in held}) == 2


def test_jobs_wait_for_the_first_worker(start_cluster, caplog):
    cluster = start_cluster(0)
    with queue_on(cluster) as jobs:
        assert jobs.max_workers == 0
        some = [jobs.put(engine_jobs.add, [n], timeout=LIMIT_S) for n in range(3)]
        mapped = jobs.map(engine_jobs.add, range(100))
        cluster.start_worker("first")
        assert ends(some) == [0, 1, 2]
        assert list(mapped) == list(range(100))
    assert "has none yet" in caplog.text


def test_the_scheduler_is_killed(start_cluster, gate):
    """Nobody waits for ever: what runs has died, and what waits fails."""
    cluster = start_cluster(2)
    with queue_on(cluster) as jobs:
        held = [gate.put(jobs, suppress_errors=True) for _ in range(2)]
        waiting = [jobs.put(engine_jobs.add, [n], suppress_errors=True) for n in range(3)]
        pids = hear(gate, 2)
        cluster.kill_scheduler()
        assert {type(error) for error in ends(held)} == {WorkerDied}
        assert {type(error) for error in ends(waiting)} == {ConnectionError}
        late = jobs.put(engine_jobs.add, [1], suppress_errors=True)
        assert cluster.address in str(late.exception(LIMIT_S))
        assert [wait_for_end_of(pid) for pid in pids] == [True, True] or gate.permits.permit(2)


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import engine_jobs, qmill
jobs = qmill.JobQueue(engine=qmill.engines.Dask(sys.argv[2]))
held = [jobs.put(engine_jobs.hold, sys.argv[3:]) for _ in range(2)]
held[0].result()
"""


def test_the_jobs_of_a_program_that_is_killed_are_killed(start_cluster, gate):
    cluster = start_cluster(2)
    arguments = [str(SUPPORT), cluster.address, *gate.args]
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments])
    pids = hear(gate, 2)
    program.kill()
    program.wait()
    assert [wait_for_end_of(pid) for pid in pids] == [True, True]
    with queue_on(cluster) as jobs:  # and the cluster is free for others
        assert ends([jobs.put(engine_jobs.add, [n]) for n in range(4)]) == [0, 1, 2, 3]


# -- one cluster for the rest ----------------------------------------------------------------------


def test_what_is_large_both_ways(start_cluster):
    cluster = start_cluster(1)
    size = 3 << 20
    with queue_on(cluster) as jobs:
        some = [jobs.put(engine_jobs.echo, [bytes([n]) * size]) for n in range(3)]
        assert ends(some) == [bytes([n]) * size for n in range(3)]
        text = "x" * size
        assert jobs.submit(lambda: len(text)).result(LIMIT_S) == size  # a large function
        mapped = jobs.map(len, [bytes(size), bytes(2 * size)], chunksize=2)
        assert list(mapped) == [size, 2 * size]


def test_a_client_is_as_good_as_its_address_and_stays_open(start_cluster):
    cluster = start_cluster(1)
    with qmill.JobQueue(engine=Dask(cluster.client)) as jobs:
        assert jobs.submit(engine_jobs.add, 1).result(LIMIT_S) == 1
    assert cluster.client.submit(engine_jobs.add, 2).result(LIMIT_S) == 2


def test_other_versions_are_refused(start_cluster, monkeypatch):
    cluster = start_cluster(1)
    monkeypatch.setattr(on_worker, "versions", lambda: ("0.0.1", (3, 9)))
    with queue_on(cluster) as jobs:
        some = [jobs.put(engine_jobs.add, [n], suppress_errors=True) for n in range(2)]
        for error in ends(some):
            assert "qmill 0.0.1 and Python 3.9" in str(error)


@pytest.mark.parametrize("option", [{"start_method": "fork"}, {"mp_context": object()}])
def test_a_start_method_is_refused(option):
    with pytest.raises(NotSupported, match="engine='process'"):
        qmill.JobQueue(engine=Dask(), **option)


def test_an_initializer_that_cannot_be_sent_is_refused_and_the_cluster_closed():
    with pytest.raises(NotSupported, match="a queue of qmill lives on one machine"):
        qmill.JobQueue(1, engine=Dask(), initializer=print, initargs=[qmill.Queue()])


def test_no_scheduler_answers():
    with dask.config.set({"distributed.comm.timeouts.connect": "0.5s"}):
        with pytest.raises(OSError, match="no Dask scheduler answers at tcp://127.0.0.1:9"):
            qmill.JobQueue(engine=Dask("tcp://127.0.0.1:9"))


@pytest.mark.parametrize("wrong", [3, object(), b"tcp://127.0.0.1:8786"])
def test_what_is_no_cluster(wrong):
    with pytest.raises(TypeError, match="a scheduler's address, a distributed.Client or None"):
        Dask(wrong)


# -- a cluster in this process ---------------------------------------------------------------------


def test_map_and_parallel():
    with Dask() as cluster:
        assert list(qmill.map(abs, range(-50, 0), engine=cluster)) == list(range(50, 0, -1))

        @qmill.parallel(engine=cluster)
        def double(number, by=2):
            return by * number

        for by in (2, 3):
            assert [job.output for job in double(range(10), by=by)] == [by * n for n in range(10)]


def test_it_has_as_many_threads_as_the_first_queue_has_workers(gate):
    with qmill.JobQueue(3, engine=Dask()) as jobs:
        held = [gate.put(jobs) for _ in range(3)]
        assert len(set(hear(gate, 3))) == 3
        gate.permits.permit(3)
        assert ends(held) == [None] * 3


UNGUARDED = """
import qmill
class Local:
    def __init__(self, number):
        self.number = number
def make(number):
    return Local(number)
with qmill.JobQueue(2, engine=qmill.engines.Dask()) as jobs:
    results = list(jobs.map(make, range(5)))
    print([type(result) is Local and result.number for result in results])
    print(type(jobs.submit(lambda: Local(1)).result()) is Local)
"""


@pytest.mark.parametrize("how", ["file", "-c", "-"])
def test_a_program_needs_no_guard(tmp_path, how):
    file = tmp_path / "program.py"
    file.write_text(UNGUARDED)
    arguments = {"file": [str(file)], "-c": ["-c", UNGUARDED], "-": ["-"]}[how]
    done = subprocess.run(
        [sys.executable, *arguments],
        input=UNGUARDED if how == "-" else "",
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert (done.stdout, done.stderr) == ("[0, 1, 2, 3, 4]\nTrue\n", "")


def test_a_program_that_ends_while_jobs_are_pending_runs_them(tmp_path):
    path = tmp_path / "marks"
    source = f"""
import sys
sys.path.insert(0, {str(SUPPORT)!r})
import engine_jobs, qmill
jobs = qmill.JobQueue(2, engine=qmill.engines.Dask())
for number in range(5):
    jobs.put(engine_jobs.mark, [{str(path)!r}, number])
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, timeout=LIMIT_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert sorted(path.read_text().split()) == list("01234")


def test_a_timeout_counts_from_the_start_over_there(gate):
    """Not from when the job was sent: whatever its worker has to learn first takes nothing off."""
    with qmill.JobQueue(1, engine=Dask()) as jobs:
        job = gate.put(jobs, timeout=0.4, suppress_errors=True)
        hear(gate, 1)
        assert type(job.exception(LIMIT_S)) is JobTimeout
        assert job.runtime >= 0.4
        assert job.exitcode == -signal.SIGTERM
