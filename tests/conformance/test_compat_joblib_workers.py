"""joblib on qmill: how workers begin and end, and what becomes of calls that fail."""

from __future__ import annotations

import marshal
import multiprocessing
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import warnings

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError
from joblib_support import NUM_BYTES, pair_of_workers, pids

import qmill
import qmill.compat.joblib


@pytest.fixture(autouse=True)
def backend():
    """The backend, for two workers, which end with the test."""
    qmill.compat.joblib.register()
    with parallel_config(backend="qmill", n_jobs=2, max_nbytes=NUM_BYTES):
        yield
    qmill.compat.joblib.shutdown()


# -- workers ---------------------------------------------------------------------------------------


def test_workers_of_another_kind_replace_those_that_are_kept(monkeypatch):
    first = pids()
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert not pids() & first
    assert Parallel()([delayed(os.getenv)("OMP_NUM_THREADS")]) == ["7"]


def test_a_worker_ends_after_its_jobs():
    with parallel_config(backend="qmill", n_jobs=2, max_jobs_per_worker=1):
        assert len(pids(4)) == 4


@pytest.mark.parametrize("start_method", multiprocessing.get_all_start_methods())
def test_every_start_method(start_method):
    with parallel_config(backend="qmill", n_jobs=2, start_method=start_method):
        assert Parallel()(delayed(abs)(-i) for i in range(10)) == list(range(10))
        array = np.arange(NUM_BYTES)
        assert Parallel()([delayed(np.sum)(array)] * 2) == [array.sum()] * 2


def test_an_initializer_is_called_in_each_worker():
    def set_up(name, value):
        os.environ[name] = value

    options = {"initializer": set_up, "initargs": ("QMILL_OF_A_TEST", "there")}
    wanted = ["there"] * 3
    with parallel_config(backend="qmill", n_jobs=2, **options):
        assert Parallel()([delayed(os.getenv)("QMILL_OF_A_TEST")] * 3) == wanted
    assert "QMILL_OF_A_TEST" not in os.environ


def test_libraries_in_workers_get_their_share_of_the_processors():
    task = delayed(os.getenv)("OPENBLAS_NUM_THREADS")
    share = max(joblib.cpu_count() // 2, 1)
    assert Parallel()([task] * 2) == [str(share)] * 2
    with parallel_config(backend="qmill", n_jobs=2, inner_max_num_threads=5):
        assert Parallel()([task] * 2) == ["5"] * 2


def test_libraries_read_their_share_before_an_initializer_loads_them():
    """An initializer that has to be imported is imported when the variables are there."""
    source = "import os\nSEEN = os.environ['OMP_NUM_THREADS']\ndef tell(): return SEEN\n"
    code = compile(source, "<module>", "exec")

    class Loader:  # what it is rebuilt by runs the module, as an import would
        def __reduce__(self):
            return run_module, (marshal.dumps(code),)

    with parallel_config(
        backend="qmill",
        n_jobs=2,
        inner_max_num_threads=3,
        initializer=lambda seen: os.environ.__setitem__("QMILL_SEEN", seen),
        initargs=(Loader(),),
    ):
        assert Parallel()([delayed(os.getenv)("QMILL_SEEN")] * 2) == ["3"] * 2


def run_module(code):
    names = {}
    exec(marshal.loads(code), names)
    return names["SEEN"]


def test_an_unknown_option_is_refused_by_name():
    with pytest.raises(TypeError, match="no option 'start_methud'; it has start_method, "):
        parallel_config(backend="qmill", start_methud="fork")
    with pytest.raises(TypeError, match="no option 'engine'"):
        parallel_config(backend="qmill", engine="thread")
    with parallel_config(backend="qmill", n_jobs=2, start_method="fock"):
        with pytest.raises(ValueError, match="start_method must be one of"):
            Parallel()([delayed(abs)(1)])


def test_shutdown_ends_the_workers_and_may_be_called_again():
    (pid, *_) = pids()
    qmill.compat.joblib.shutdown()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    qmill.compat.joblib.shutdown()
    assert pid not in pids()


def test_workers_without_tasks_end():
    with parallel_config(backend="qmill", n_jobs=2, idle_worker_timeout=0.05):
        (pid, *_) = pids()
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:  # it has ended already
        return
    try:
        assert select.select([descriptor], [], [], 60)[0]
    finally:
        os.close(descriptor)


def test_registering_loads_joblib_and_nothing_before_does():
    program = (
        "import sys, qmill, qmill.compat.joblib as on_qmill; print('joblib' in sys.modules);"
        "on_qmill.register(make_default=True); import joblib;"
        "print(type(joblib.parallel.get_active_backend()[0]).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (["False", "QmillBackend"], "")


def test_a_joblib_that_is_absent_or_old_is_named(monkeypatch):
    monkeypatch.setattr(joblib, "__version__", "1.3.2")
    with pytest.raises(ImportError, match="joblib 1.4 or newer, but this is 1.3.2"):
        qmill.compat.joblib.register()
    monkeypatch.setitem(sys.modules, "joblib", None)
    with pytest.raises(ImportError, match=r"pip install 'qmill\[joblib\]'"):
        qmill.compat.joblib.register()


# -- errors ----------------------------------------------------------------------------------------


def test_an_error_ends_the_call_and_kills_what_runs():
    started, never = qmill.Queue(), qmill.Queue()

    def task(index):
        if index == 0:
            started.put(os.getpid())
            never.get()
        if index == 1:
            other = started.get()
            raise LookupError(other)
        return index

    with pytest.raises(LookupError) as caught:
        Parallel(batch_size=1)(delayed(task)(index) for index in range(1000))
    (pid,) = caught.value.args
    with pytest.raises(ProcessLookupError):  # before the call has ended
        os.kill(pid, 0)
    assert "in task" in str(caught.value.__cause__)
    assert Parallel()(delayed(abs)(-i) for i in range(5)) == list(range(5))


def test_a_block_goes_on_after_an_error():
    started, never = qmill.Queue(), qmill.Queue()

    def hold():
        started.put(None)
        never.get()

    def fail():
        started.get()  # joblib would have what had not begun run in the next call
        raise ZeroDivisionError

    with Parallel() as parallel:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                parallel([delayed(hold)(), delayed(fail)()])
            assert parallel(delayed(abs)(-i) for i in range(5)) == list(range(5))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), SystemExit(0)], ids=repr)
def test_what_would_end_a_worker_is_raised_in_the_program(error):
    def leave():
        raise error

    before = pids()
    with pytest.raises(type(error)) as caught:
        Parallel()([delayed(leave)()])
    assert caught.value.args == error.args
    assert pids() & before  # the worker has stayed


def test_a_worker_that_dies_costs_its_call_alone():
    pair_of_workers()
    started, permits = qmill.Queue(), qmill.Queue()

    def hold():
        started.put(os.getpid())
        return permits.get()

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    results = Parallel(return_as="generator")([delayed(hold)()])  # a call that is under way
    holder = started.get()
    with pytest.raises(TerminatedWorkerError) as caught:
        Parallel()([delayed(die)()])
    error = caught.value
    assert isinstance(error, qmill.WorkerDied)
    assert error.signal == signal.SIGKILL
    assert error.pid != holder
    assert f"worker process {error.pid} " in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    permits.put("alive")
    assert list(results) == ["alive"]


def test_what_cannot_be_sent_fails_its_call():
    with pytest.raises(pickle.PicklingError, match="lock"):
        Parallel()(delayed(id)(each) for each in (1, threading.Lock()))
    with pytest.raises(pickle.PicklingError, match="lock"):
        Parallel()([delayed(threading.Lock)()] * 2)


def test_an_error_of_the_input_is_raised():
    def tasks():
        yield delayed(abs)(-1)
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        Parallel()(tasks())
    assert pids()


def test_a_task_that_takes_too_long_is_killed():
    started, never = qmill.Queue(), qmill.Queue()

    def hold():
        started.put(os.getpid())
        never.get()

    pair_of_workers()
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(timeout=0.2)([delayed(hold)()] * 2)
    while not started.empty():  # the machine may be too busy for them to begin in time
        with pytest.raises(ProcessLookupError):
            os.kill(started.get(), 0)
    assert pids()


def test_a_generator_that_is_dropped_kills_what_runs():
    started, never = qmill.Queue(), qmill.Queue()

    def task(index):
        if index == 1:
            started.put(os.getpid())
            never.get()
        return index

    results = Parallel(return_as="generator", batch_size=1)(
        delayed(task)(index) for index in range(100)
    )
    assert next(results) == 0
    pid = started.get()
    with pytest.warns(UserWarning, match="cancelled"):
        results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert pids()


def test_calls_of_one_backend_may_have_other_numbers_of_jobs():
    started, permits = qmill.Queue(), qmill.Queue()

    def hold():
        started.put(os.getpid())
        return permits.get()

    results = Parallel(return_as="generator")([delayed(hold)()])
    pid = started.get()
    assert Parallel(n_jobs=3)(delayed(abs)(-i) for i in range(9)) == list(range(9))
    with pytest.warns(UserWarning, match="cancelled"):
        results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_call_that_fails_leaves_those_beside_it_alone():
    """Also those that were made with the same backend, as in one `parallel_config`."""
    started, permits = qmill.Queue(), qmill.Queue()

    def hold():
        started.put(None)
        return permits.get()

    def fail():
        raise LookupError

    results = Parallel(return_as="generator")([delayed(hold)()])
    started.get()
    for _ in range(3):
        with pytest.raises(LookupError):
            Parallel()([delayed(fail)()] * 2)
    permits.put("there")
    assert list(results) == ["there"]


# -- inside of others ------------------------------------------------------------------------------


def test_three_levels_of_workers():
    def call(level):
        if level == 0:
            return [os.getpid()]
        [pids] = Parallel(n_jobs=2, backend="qmill")([delayed(call)(level - 1)])
        return [os.getpid(), *pids]

    assert len(set(call(3))) == 4


def test_a_job_of_qmill_may_use_joblib():
    def call():
        import qmill.compat.joblib

        qmill.compat.joblib.register()
        return Parallel(n_jobs=2, backend="qmill")(delayed(abs)(-i) for i in range(5))

    with qmill.JobQueue(1) as jobs:
        assert jobs.submit(call).result() == list(range(5))


def test_a_forked_child_starts_its_own_workers():
    before = pids()

    def call(connection):
        with parallel_config(backend="qmill", n_jobs=2):
            connection.send(pids())
        qmill.compat.joblib.shutdown()

    mine, theirs = multiprocessing.Pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = multiprocessing.get_context("fork").Process(target=call, args=(theirs,))
        child.start()
    theirs.close()
    found = mine.recv()
    child.join()
    assert child.exitcode == 0
    assert found
    assert not found & before
    assert pids() & before
