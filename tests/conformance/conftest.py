"""Fixtures of the conformance suite: queues on each transport, and others who use them."""

from __future__ import annotations

import importlib.util
import multiprocessing
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

import qmill

# Children that multiprocessing spawns get the path of this process, and so these modules.
sys.path.insert(0, str(Path(__file__).parent / "support"))

from conformance_support import (  # noqa: E402
    ENGINES,
    MAKER,
    PLACES,
    PROCESS_HERE,
    PROCESS_PLACES,
    TRANSPORTS,
    Child,
    Gate,
    Maker,
    Program,
)
from engine_support import Gate as EngineGate  # noqa: E402

HUNG_AFTER_S = 90


@pytest.fixture(autouse=True)
def _no_call_hangs():
    """Interrupt a test that hangs, as Ctrl-C would, and let the others run."""

    def interrupt(*_):
        raise TimeoutError(f"the test hung for {HUNG_AFTER_S} s")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(HUNG_AFTER_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def maker_program():
    """The program that makes the queues "elsewhere": one, as starting it for each test is slow."""
    program = Program(MAKER)
    yield program
    try:
        program.tell("end")
        program.finish()
    finally:
        program.clean_up()


@pytest.fixture
def maker_at(maker_program, monkeypatch):
    """Makes queues at a place, and closes them."""

    @contextmanager
    def maker_at(place):
        if place.kind == "process":
            monkeypatch.setenv("QMILL_TRANSPORT", place.transport)
        maker = Maker(place, maker_program if place.made == "elsewhere" else None)
        yield maker
        maker.clean_up()

    return maker_at


@pytest.fixture(params=PLACES, ids=str)
def place(request):
    return request.param


@pytest.fixture
def make_queue(place, maker_at):
    """Makes queues of every kind, here or elsewhere."""
    with maker_at(place) as maker:
        yield maker


@pytest.fixture
def queue(make_queue):
    return make_queue()


@pytest.fixture(params=PROCESS_PLACES, ids=str)
def make_process_queue(request, maker_at):
    """Makes queues for processes, here or elsewhere."""
    with maker_at(request.param) as maker:
        yield maker


@pytest.fixture
def process_queue(make_process_queue):
    return make_process_queue()


@pytest.fixture(params=PROCESS_HERE, ids=str)
def make_own_queue(request, maker_at):
    """Makes queues for processes, in this one."""
    with maker_at(request.param) as maker:
        yield maker


@pytest.fixture
def own_queue(make_own_queue):
    return make_own_queue()


@pytest.fixture
def thread_queue(maker_at):
    (place,) = (place for place in PLACES if place.kind == "thread")
    with maker_at(place) as maker:
        yield maker()


@pytest.fixture(params=PROCESS_HERE, ids=str)
def process_transport(request, monkeypatch):
    """Every transport between processes, for a test that makes its own queues."""
    monkeypatch.setenv("QMILL_TRANSPORT", request.param.transport)
    return request.param.transport


@pytest.fixture(params=["portable"])
def makers_transport(request, monkeypatch):
    """A transport whose queues are kept by the process that made them, and end with it."""
    monkeypatch.setenv("QMILL_TRANSPORT", request.param)
    return request.param


@pytest.fixture(params=[name for name in TRANSPORTS if name == "shared"])
def common_transport(request, monkeypatch):
    """A transport whose queues live as long as any process has them."""
    monkeypatch.setenv("QMILL_TRANSPORT", request.param)
    return request.param


@pytest.fixture(params=multiprocessing.get_all_start_methods())
def context(request, monkeypatch):
    """Each start method's `multiprocessing` context; children do not import pytest's main."""
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    return multiprocessing.get_context(request.param)


@pytest.fixture
def start(context):
    """Starts a function of `conformance_children` in a process of the context."""
    yield from _starter(lambda *args: Child(context, *args))


@pytest.fixture
def start_program():
    """Starts a program of its own."""
    yield from _starter(Program)


def _starter(make_peer):
    peers = []

    def start(*args):
        peers.append(make_peer(*args))
        return peers[-1]

    yield start
    for peer in peers:
        peer.clean_up()


# -- job queues ------------------------------------------------------------------------------------


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


@pytest.fixture
def gate():
    started, permits = qmill.Queue(), qmill.Queue()

    def hold(item=None):  # not a function of this module: a worker would import pytest for it
        started.put(item)
        return permits.get()

    yield Gate(hold, started, permits)
    permits.shutdown(immediate=True)  # whoever still waits, after a failure, ends


@pytest.fixture
def make(engine):
    """Makes job queues that end with the test, however it ends."""
    made = []

    def make(*args, **kwargs):
        made.append(qmill.JobQueue(*args, **{"engine": engine} | kwargs))
        return made[-1]

    yield make
    for jobs in made:
        jobs.stop_all()
        jobs.shutdown()


@pytest.fixture
def jobs(make):
    return make(2)


# -- engines ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A Dask cluster of two workers that every test leaves as it was."""
    from clusters import Cluster

    made = Cluster(tmp_path_factory.mktemp("cluster"), 2)
    try:
        # What stays for long: the workers' fork servers, and Dask's threads here.
        with qmill.JobQueue(engine=qmill.engines.Dask(made.address)) as jobs:
            assert [job.result(60) for job in [jobs.submit(int) for _ in range(20)]] == [0] * 20
        yield made
    finally:
        made.close()


class MakerOn:
    """Makes job queues on one engine."""

    def __init__(self, kind, engine):
        self.kind = kind
        self._engine = engine
        self.made = []

    def __call__(self, max_workers=2, **options):
        jobs = qmill.JobQueue(max_workers, engine=self._engine, **options)
        jobs.kind = self.kind
        self.made.append(jobs)
        return jobs

    def close(self):
        for jobs in self.made:
            jobs.stop_all()
            jobs.shutdown()


def example(name):
    """Import a program of examples/."""
    file = Path(__file__).parents[2] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"example_{name}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def target(request):
    """An engine's name, and what a job queue is given for it."""
    if request.param == "dask":
        return "dask", qmill.engines.Dask(request.getfixturevalue("cluster").address)
    if request.param == "subprocess":
        return "subprocess", example("subprocess_engine").Subprocesses()
    return request.param, request.param


@pytest.fixture
def make_on(target):
    """Makes job queues on the engine of the test, which end with it, however it ends."""
    maker = MakerOn(*target)
    yield maker
    maker.close()


@pytest.fixture
def engine_gate(tmp_path):
    """Holds jobs, wherever on this machine they run."""
    gate = EngineGate(tmp_path)
    yield gate
    gate.close()
