"""The promises of a job queue on every engine, that of examples/subprocess_engine.py, too.

What an engine cannot do it has to refuse; so each test says what it does instead.
"""

from __future__ import annotations

import functools
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter

import engine_jobs
import numpy
import pytest
from engine_support import ENGINES, KILLING, LIMIT_S

import qmill
from qmill import JobTimeout, LaneError, NotSupported, SerializationError, WorkerDied
from qmill.packing.remote_errors import RemoteTraceback


def on(*engines):
    """Run a test on these engines, one after another: a cluster takes a while to start."""
    return pytest.mark.parametrize("target", engines, indirect=True, scope="session")


every_engine = on(*ENGINES)
killing_engine = on(*KILLING)
thread_engine = on("thread")


def outcome(job):
    try:
        return job.result(LIMIT_S)
    except BaseException as error:
        return error


def check_healthy(jobs):
    """See that a queue still runs jobs, and that nothing is left in it."""
    assert [outcome(jobs.submit(engine_jobs.add, n, 1)) for n in range(5)] == list(range(1, 6))
    assert jobs.wait(timeout=LIMIT_S) == 0


def wait_for_end_of(pid):
    """Wait until a process has ended, which nobody here may have started."""
    import select

    try:
        pidfd = os.pidfd_open(int(pid))
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], LIMIT_S)[0])
    finally:
        os.close(pidfd)


# -- what jobs end as ------------------------------------------------------------------------------


@every_engine
def test_a_result(make_on):
    jobs = make_on()
    assert outcome(jobs.submit(engine_jobs.add, 1, b=2)) == 3
    assert outcome(jobs.put(lambda: "by value")) == "by value"
    assert list(jobs.map(engine_jobs.add, range(100), range(100))) == list(range(0, 200, 2))


@every_engine
def test_an_exception_is_raised_as_itself(make_on):
    jobs = make_on()
    job = jobs.put(engine_jobs.fail, ["on purpose"], suppress_errors=True)
    error = outcome(job)
    assert type(error) is ValueError
    assert str(error) == "on purpose"
    assert (job.state, job.exitcode) == ("failed", 1)
    assert "in fail" in job.to_dict()["exception"]
    assert isinstance(error.__cause__, RemoteTraceback) == (jobs.kind != "thread")
    check_healthy(jobs)


# -- the items of a map ----------------------------------------------------------------------------

CHUNKSIZES = [None, 1, 20, 60]


def take_until_error(results):
    """Return what comes before the error that has to come."""
    taken = []
    with pytest.raises(Exception) as info:  # noqa: PT011 (its type is what is looked at)
        for result in results:
            taken.append(result)
    return taken, info.value


@every_engine
@pytest.mark.parametrize("chunksize", CHUNKSIZES)
def test_an_exception_of_a_map_names_its_item(make_on, tmp_path, chunksize):
    jobs, path = make_on(), str(tmp_path / "marks")
    function = functools.partial(engine_jobs.mark_and_end, path=path, how="raise", ends=[41])
    taken, error = take_until_error(jobs.map(function, range(60), chunksize=chunksize))
    assert taken == list(range(41))
    assert (type(error), error.args) == (LookupError, ("on purpose",))
    assert error.__notes__ == ["item 41 of map: 41"]
    check_healthy(jobs)


@every_engine
@pytest.mark.parametrize("chunksize", CHUNKSIZES)
def test_a_map_yields_exceptions_and_goes_on(make_on, tmp_path, chunksize):
    jobs, path, ends = make_on(), str(tmp_path / "marks"), [0, 7, 8, 59]
    function = functools.partial(engine_jobs.mark_and_end, path=path, how="raise", ends=ends)
    options = {"chunksize": chunksize, "return_exceptions": True}
    for number, result in enumerate(jobs.map(function, range(60), **options)):
        if number in ends:
            assert (type(result), result.__notes__) == (
                LookupError,
                [f"item {number} of map: {number}"],
            )
        else:
            assert result == number
    assert Counter(map(int, lines(tmp_path / "marks"))) == dict.fromkeys(range(60), 1)


@every_engine
@pytest.mark.parametrize("chunksize", CHUNKSIZES)
def test_a_map_tries_each_item_again_and_no_other(make_on, tmp_path, chunksize):
    jobs, path, ends = make_on(), str(tmp_path / "marks"), [0, 7, 8, 59]
    how = "raise" if jobs.kind == "thread" else "SIGKILL"
    function = functools.partial(engine_jobs.mark_and_end, path=path, how=how, ends=ends, times=2)
    results = jobs.map(function, range(60), chunksize=chunksize, retries=2)
    assert list(results) == list(range(60))
    counts = Counter(map(int, lines(tmp_path / "marks")))
    assert counts == {number: 3 if number in ends else 1 for number in range(60)}


@killing_engine
@pytest.mark.parametrize("chunksize", CHUNKSIZES)
@pytest.mark.parametrize("how", ["SIGKILL", "sys.exit(3)"])
def test_a_death_in_a_map_costs_the_one_item(make_on, tmp_path, chunksize, how):
    jobs, path = make_on(), str(tmp_path / "marks")
    function = functools.partial(engine_jobs.mark_and_end, path=path, how=how, ends=[41], times=9)
    taken, error = take_until_error(jobs.map(function, range(60), chunksize=chunksize))
    assert taken == list(range(41))
    assert (type(error), error.index, error.job) == (WorkerDied, 41, "item 41 (41)")
    assert "running item 41 (41)" in repr(error)
    assert (error.address is None) == (jobs.kind != "dask")
    assert max(Counter(lines(tmp_path / "marks")).values()) == 1
    check_healthy(jobs)


@killing_engine
def test_results_of_every_kind_outlive_a_death_in_a_map(make_on):
    jobs = make_on(1)
    items = [1, "two", {3}, numpy.arange(5000), "x" * 40_000, [6, (7,)], "SIGKILL"]
    functions = [engine_jobs.echo] * 6 + [engine_jobs.end]
    taken, error = take_until_error(
        jobs.map(lambda function, item: function(item), functions, items, chunksize=7)
    )
    assert taken.pop(3).tolist() == list(range(5000))
    assert taken == [1, "two", {3}, "x" * 40_000, [6, (7,)]]
    assert error.index == 6


@killing_engine
def test_an_item_of_a_map_that_cannot_be_rebuilt_costs_no_other(make_on):
    jobs, items = make_on(1), [0, 1, engine_jobs.make_sour(), 3]
    taken, error = take_until_error(jobs.map(engine_jobs.echo, items, chunksize=4))
    assert (taken, type(error)) == ([0, 1], SerializationError)
    assert error.__notes__[0].startswith("item 2 of map: ")


DEATHS = {
    "os._exit(0)": 0,
    "os._exit(3)": 3,
    "sys.exit(3)": 3,
    "segfault": -signal.SIGSEGV,
    "SIGKILL": -signal.SIGKILL,
}


@killing_engine
@pytest.mark.parametrize("how", DEATHS)
def test_a_death_costs_the_one_job(make_on, engine_gate, how):
    jobs = make_on()
    held = engine_gate.put(jobs)
    engine_gate.hear()
    dead = jobs.put(engine_jobs.end, [how], name="victim", suppress_errors=True)
    error = outcome(dead)
    assert type(error) is WorkerDied
    assert (dead.state, dead.exitcode, error.exitcode) == ("died", DEATHS[how], DEATHS[how])
    assert (error.job, error.pid is None) == ("victim", False)
    assert (error.address is None) == (jobs.kind != "dask")
    engine_gate.permits.permit()
    assert outcome(held) is None
    assert held.state == "done"
    check_healthy(jobs)


# -- threads that jobs leave -----------------------------------------------------------------------


@every_engine
def test_the_threads_of_a_job_are_no_daemons(make_on):
    assert outcome(make_on().submit(engine_jobs.are_threads_daemons)) is False


@every_engine
def test_the_threads_of_a_callback_are_no_daemons(make_on):
    told = []
    jobs = make_on(callback=lambda job: told.append(engine_jobs.are_threads_daemons()))
    jobs.put(engine_jobs.add, [1]).result(LIMIT_S)
    assert jobs.wait(timeout=LIMIT_S) == 0
    assert told == [False]


class Warnings(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.heard = queue.SimpleQueue()

    def emit(self, record):
        self.heard.put(record.getMessage())


@pytest.fixture
def warnings():
    handler = Warnings()
    logging.getLogger("qmill").addHandler(handler)
    yield handler.heard
    logging.getLogger("qmill").removeHandler(handler)


@killing_engine
def test_a_thread_that_a_job_has_left_is_waited_for_and_told(make_on, engine_gate, warnings):
    jobs = make_on()
    pid = outcome(jobs.submit(engine_jobs.leave_thread, *engine_gate.args))
    jobs.shutdown(wait=False)
    said = warnings.get(timeout=LIMIT_S)
    assert f"(pid {pid})" in said
    assert "thread saver" in said
    engine_gate.permits.permit()
    assert engine_gate.hear() == ["saved"]
    jobs.shutdown()


@killing_engine
def test_leaving_by_an_exception_waits_for_no_thread(make_on, engine_gate):
    jobs = make_on()
    with pytest.raises(KeyError), jobs:
        pid = outcome(jobs.submit(engine_jobs.leave_thread, *engine_gate.args))
        raise KeyError
    assert wait_for_end_of(pid)


@killing_engine
def test_leaving_by_an_exception_waits_no_longer_for_a_thread(make_on, engine_gate, warnings):
    jobs = make_on()
    pid = outcome(jobs.submit(engine_jobs.leave_thread, *engine_gate.args))
    jobs.shutdown(wait=False)
    warnings.get(timeout=LIMIT_S)
    with pytest.raises(KeyError), jobs:
        raise KeyError
    assert wait_for_end_of(pid)


THREADS_DIE_TOGETHER = """
import sys
sys.path.insert(0, sys.argv[1])
import engine_jobs, qmill
with qmill.JobQueue(1, engine="thread") as jobs:
    jobs.submit(engine_jobs.end, sys.argv[2]).exception()
    print("alive")
"""


@pytest.mark.parametrize("how", DEATHS)
def test_a_thread_dies_with_its_program(how):
    """There is nothing between them; but for `sys.exit`, which is an exception there."""
    folder = os.path.dirname(engine_jobs.__file__)
    done = subprocess.run(
        [sys.executable, "-c", THREADS_DIE_TOGETHER, folder, how],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    if how == "sys.exit(3)":
        assert (done.returncode, done.stdout) == (0, "alive\n")
    else:
        assert (done.returncode, done.stdout) == (DEATHS[how], "")


@every_engine
def test_what_cannot_be_packed(make_on):
    """A thread shares objects; elsewhere that fails the job, and `put` does not raise."""
    jobs = make_on()
    lock = threading.Lock()
    there = jobs.put(engine_jobs.type_name, [lock], suppress_errors=True)
    back = jobs.put(engine_jobs.a_lock, suppress_errors=True)
    if jobs.kind == "thread":
        assert (outcome(there), type(outcome(back))) == ("lock", type(lock))
    else:
        assert [type(outcome(job)) for job in (there, back)] == [SerializationError] * 2
        assert "lock" in str(there.exception())
        assert [job.state for job in (there, back)] == ["failed"] * 2
    check_healthy(jobs)


@every_engine
def test_what_cannot_be_rebuilt(make_on):
    jobs = make_on()
    there = jobs.put(engine_jobs.type_name, [engine_jobs.Sour()], suppress_errors=True)
    back = jobs.put(engine_jobs.make_sour, suppress_errors=True)
    if jobs.kind == "thread":
        assert (outcome(there), type(outcome(back))) == ("Sour", engine_jobs.Sour)
    else:
        assert [type(outcome(job)) for job in (there, back)] == [SerializationError] * 2
        assert "sour" in str(there.exception())
    check_healthy(jobs)


# -- killing ---------------------------------------------------------------------------------------

HOLDERS = {"holds": engine_jobs.hold, "ignores SIGTERM": engine_jobs.hold_stubbornly}


@killing_engine
@pytest.mark.parametrize("holder", HOLDERS)
def test_a_timeout_kills(make_on, engine_gate, holder):
    jobs = make_on()
    job = engine_gate.put(jobs, HOLDERS[holder], timeout=0.3, suppress_errors=True)
    (pid,) = engine_gate.hear()
    assert type(outcome(job)) is JobTimeout
    assert job.state == "timed out"
    assert job.runtime >= 0.3
    assert wait_for_end_of(pid)
    check_healthy(jobs)


@killing_engine
@pytest.mark.parametrize("holder", HOLDERS)
def test_cancelling_kills(make_on, engine_gate, holder):
    jobs = make_on()
    job = engine_gate.put(jobs, HOLDERS[holder])
    (pid,) = engine_gate.hear()
    assert job.cancel()
    assert job.state == "cancelled"
    assert wait_for_end_of(pid)
    check_healthy(jobs)


@killing_engine
def test_a_kill_reaches_what_the_job_has_started(make_on, engine_gate):
    jobs = make_on()
    job = engine_gate.put(jobs, engine_jobs.hold_with_children)
    pids = engine_gate.hear()
    job.cancel()
    assert [wait_for_end_of(pid) for pid in pids] == [True, True]
    check_healthy(jobs)


@killing_engine
def test_leaving_by_an_exception_kills(make_on, engine_gate):
    jobs = make_on(2)
    with pytest.raises(KeyError), jobs:
        running = engine_gate.put(jobs)
        (pid,) = engine_gate.hear()
        raise KeyError("out")
    assert running.cancelled()
    assert wait_for_end_of(pid)


@thread_engine
def test_a_thread_cannot_be_killed_and_says_so(make_on, engine_gate):
    jobs = make_on()
    with pytest.raises(NotSupported, match="cannot kill"):
        jobs.put(engine_jobs.add, [1], timeout=1)
    job = engine_gate.put(jobs, engine_jobs.hold, "its result")
    engine_gate.hear()
    assert not job.cancel()
    engine_gate.permits.permit()
    assert outcome(job) == "its result"


@every_engine
@pytest.mark.parametrize("num_slots", [1, 2])
def test_cancelling_what_waits(make_on, engine_gate, num_slots):
    jobs = make_on(num_slots)
    held = [engine_gate.put(jobs) for _ in range(num_slots)]
    waiting = [jobs.put(engine_jobs.add, [n], suppress_errors=True) for n in range(10)]
    for _ in held:
        engine_gate.hear()
    assert all(job.cancel() for job in waiting[::2])
    engine_gate.permits.permit(num_slots)
    assert [outcome(job) for job in waiting[1::2]] == [1, 3, 5, 7, 9]
    assert all(job.cancelled() for job in waiting[::2])
    assert jobs.wait(timeout=LIMIT_S) == 0  # before the gate, and with it the permits, are gone


# -- what the scheduler means is the same everywhere -----------------------------------------------


@every_engine
def test_priorities(make_on, tmp_path):
    jobs = make_on(1, auto_start=False)
    path = str(tmp_path / "order")
    for priority in (5, 1, 4, 2, 3, 2.5):
        jobs.put(engine_jobs.mark, [path, priority], priority=priority)
    jobs.start()
    assert jobs.wait(timeout=LIMIT_S) == 0
    assert (tmp_path / "order").read_text().split() == ["1", "2", "2.5", "3", "4", "5"]


@every_engine
def test_a_lane_runs_one_after_another_and_stops_at_an_error(make_on, engine_gate):
    jobs = make_on(2)
    first = engine_gate.put(jobs, lane="a")
    engine_gate.hear()
    second = jobs.put(engine_jobs.fail, ["second"], lane="a", suppress_errors=True)
    third = jobs.put(engine_jobs.add, [3], lane="a", stop_on_lane_error=True, suppress_errors=True)
    other = jobs.put(engine_jobs.add, [4], lane="b")
    assert outcome(other) == 4
    assert second.state == "waiting"
    engine_gate.permits.permit()
    assert [type(outcome(job)) for job in (second, third)] == [ValueError, LaneError]
    assert outcome(first) is None


@every_engine
def test_retries(make_on, tmp_path):
    jobs = make_on()
    path = tmp_path / "marks"
    job = jobs.put(engine_jobs.mark_and_fail, [str(path)], retries=2, suppress_errors=True)
    assert type(outcome(job)) is ValueError
    assert job.attempts == len(path.read_text().split("\n")) - 1 == 3


@killing_engine
@pytest.mark.parametrize("how", ["os._exit(3)", "SIGKILL"])
def test_a_job_that_died_is_tried_again(make_on, tmp_path, how):
    jobs = make_on()
    path = tmp_path / "marks"
    job = jobs.put(engine_jobs.end_at_first, [str(path), how], retries=1)
    assert outcome(job) == "in the end"
    assert (job.attempts, job.state) == (2, "done")


@killing_engine
def test_a_death_without_retries_is_not_tried_again(make_on, tmp_path):
    jobs = make_on()
    path = tmp_path / "marks"
    job = jobs.put(engine_jobs.end_at_first, [str(path), "SIGKILL"], suppress_errors=True)
    assert type(outcome(job)) is WorkerDied
    check_healthy(jobs)
    assert len(path.read_text().split("\n")) - 1 == 1


@every_engine
def test_callbacks_and_records(make_on):
    called = []
    jobs = make_on(callback=lambda job: called.append(job.name))
    for number in range(5):
        jobs.put(engine_jobs.add, [number], name=f"job {number}")
    assert jobs.wait(timeout=LIMIT_S) == 0
    completed = jobs.collect()
    assert sorted(called) == sorted(job.name for job in completed)
    for job in completed:
        record = job.to_dict()
        assert record["host"] == socket.gethostname()
        assert (record["state"], record["attempts"], record["exitcode"]) == ("done", 1, 0)
        assert record["worker"]
        assert record["submitted"] <= record["started"] <= record["ended"] <= record["processed"]


@every_engine
def test_pausing_and_going_on(make_on, engine_gate):
    jobs = make_on(1)
    held = engine_gate.put(jobs)
    engine_gate.hear()
    jobs.pause()
    waiting = jobs.put(engine_jobs.add, [1])
    engine_gate.permits.permit()
    assert outcome(held) is None
    assert waiting.state == "waiting"
    jobs.start()
    assert outcome(waiting) == 1


@every_engine
def test_many_jobs_of_all_kinds(make_on):
    """Short ones are sent ahead: each runs once, whatever is killed in between."""
    jobs = make_on(2)
    some = [jobs.put(engine_jobs.echo, [n], suppress_errors=True) for n in range(300)]
    for job in some[5:300:7]:
        job.cancel()
    ends = [outcome(job) for job in some]
    assert [end for end, job in zip(ends, some, strict=True) if not job.cancelled()] == [
        n for n, job in enumerate(some) if not job.cancelled()
    ]
    assert {job.attempts for job in some if job.state == "done"} == {1}
    check_healthy(jobs)


@every_engine
def test_jobs_of_several_queues_share_the_places(make_on, engine_gate):
    jobs, others = make_on(1), make_on(1)
    held = engine_gate.put(jobs)
    engine_gate.hear()
    assert outcome(others.submit(engine_jobs.add, 1)) == 1
    engine_gate.permits.permit()
    assert outcome(held) is None


# -- workers ---------------------------------------------------------------------------------------


@every_engine
def test_an_initializer(make_on):
    jobs = make_on(1, initializer=engine_jobs.initialize, initargs=["hello"])
    assert outcome(jobs.submit(engine_jobs.word_of_initializer)) == "hello"


@every_engine
def test_an_initializer_that_fails_costs_the_jobs_that_wait(make_on):
    jobs = make_on(1, initializer=engine_jobs.fail_to_start)
    some = [jobs.put(engine_jobs.add, [n], suppress_errors=True) for n in range(2)]
    assert {type(outcome(job)) for job in some} == {OSError}


@every_engine
def test_a_worker_is_replaced_after_so_many_jobs(make_on):
    if make_on.kind == "thread":
        with pytest.raises(NotSupported, match="max_jobs_per_worker"):
            make_on(1, max_jobs_per_worker=2)
        return
    jobs = make_on(1, max_jobs_per_worker=2)
    pids = Counter(outcome(jobs.submit(engine_jobs.pid)) for _ in range(4))
    assert set(pids.values()) <= {1, 2}
    assert len(pids) >= 2


@every_engine
def test_jobs_can_log(make_on, caplog):
    jobs = make_on(1)
    outcome(jobs.submit(engine_jobs.log, "said by a job"))
    jobs.shutdown()
    assert "said by a job" in [record.getMessage() for record in caplog.records]
    assert logging.ERROR in [record.levelno for record in caplog.records]


@every_engine
@pytest.mark.parametrize("kind", [qmill.Queue, qmill.Q])
@pytest.mark.parametrize("where", ["alone", "inside", "in a closure"])
def test_a_local_queue(make_on, kind, where):
    """It reaches the jobs of this machine; a cluster refuses it and says what to do instead."""
    jobs = make_on(1)
    queue = kind()
    if where == "in a closure":
        job = jobs.put(lambda: type(queue).__name__, suppress_errors=True)
    else:
        argument = queue if where == "alone" else {"a": [queue]}
        job = jobs.put(engine_jobs.type_name, [argument], suppress_errors=True)
    result = outcome(job)
    if jobs.kind == "dask":
        assert isinstance(result, NotSupported)
        assert isinstance(result, SerializationError)
        assert "qmill.shared" in str(result)
    else:
        assert result == ("dict" if where == "inside" else type(queue).__name__)
    check_healthy(jobs)


# -- shared values ---------------------------------------------------------------------------------


def lines(path):
    return path.read_text().split() if path.exists() else []


@every_engine
@pytest.mark.parametrize("size", [10, 5_000, 20_000, 1_000_000])
def test_arrays_can_be_written_to_on_both_sides(make_on, size):
    """They are small, beside the pickle, beside the message, and large."""
    jobs = make_on(1)
    results = [outcome(jobs.submit(engine_jobs.set_first, numpy.zeros(size), 1))]
    results += jobs.map(engine_jobs.set_first, [numpy.zeros(size)] * 2, [1, 1], chunksize=1)
    for result in results:
        result[1] = 2
        assert result[:3].tolist() == [1, 2, 0]


@every_engine
def test_a_shared_value_travels_once(make_on, tmp_path):
    """It is packed once, and rebuilt by no process more than once; a thread has the object."""
    jobs = make_on(2)
    handle = qmill.shared(engine_jobs.Counted(str(tmp_path / "rebuilt"), "its content"))
    function = functools.partial(engine_jobs.content_of, handle)
    results = [*jobs.map(function, range(20), chunksize=1)]
    results += [outcome(jobs.put(engine_jobs.content_of, [handle])) for _ in range(5)]
    assert {content for content, _ in results} == {"its content"}
    pids = {pid for _, pid in results}
    rebuilt = lines(tmp_path / "rebuilt")
    if jobs.kind == "thread":
        assert rebuilt == []
        assert outcome(jobs.submit(engine_jobs.is_same, handle, id(handle.value)))
    else:
        assert sorted(rebuilt) == sorted(map(str, pids))
        assert (tmp_path / "rebuilt.packed").read_text() == "\n"


@every_engine
def test_a_shared_array_is_one_memory(make_on):
    jobs = make_on(2)
    array = numpy.arange(1 << 18)
    handle = qmill.shared(array)
    total, writeable, is_copy = outcome(jobs.submit(engine_jobs.look_into, handle))
    assert total == int(array.sum())
    assert (writeable, is_copy) == ((True, True) if jobs.kind == "thread" else (False, False))


@every_engine
def test_a_shared_value_inside_of_others(make_on):
    jobs = make_on(1)
    handle = qmill.shared([1, 2, 3])
    assert outcome(jobs.submit(lambda: sum(handle.value))) == 6
    assert outcome(jobs.submit(lambda deep: sum(deep["a"][0].value), {"a": [handle]})) == 6
    another = qmill.shared([4])
    assert list(jobs.map(lambda n: another.value[0] + n, range(3))) == [4, 5, 6]


@every_engine
def test_a_shared_value_goes_when_its_handle_does(make_on):
    jobs = make_on(1)
    for number in range(5):
        handle = qmill.shared(bytes(100) + bytes([number]))
        assert outcome(jobs.submit(lambda handle: handle.value[-1], handle)) == number
        del handle
    check_healthy(jobs)


@every_engine
def test_a_shared_value_that_cannot_be_packed(make_on):
    jobs = make_on(1)
    job = jobs.put(engine_jobs.look_at_type, [qmill.shared(threading.Lock())], suppress_errors=True)
    if jobs.kind == "thread":
        assert outcome(job) == "lock"
    else:
        assert type(outcome(job)) is SerializationError
        assert "lock" in str(job.exception())
    check_healthy(jobs)
