"""Jobs and queues keep no arguments, results or errors alive."""

from __future__ import annotations

import gc
import operator
import os
import threading
import weakref

import pytest
from conformance_support import LIMIT_S, wait_for_end_of

import qmill

from .failing import FREED_AFTER_S, SpecialError, fail, multiplier, raise_special_with


@pytest.fixture
def _no_collector():
    """Only what nobody refers to goes away: no cycle, which would wait for the collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def freed(thing):
    """Return an event that is set when the object goes away."""
    event = threading.Event()
    weakref.finalize(thing, event.set)
    return event


no_collector = pytest.mark.usefixtures("_no_collector")


@no_collector
@pytest.mark.parametrize("how", ["submit", "put", "map"])
def test_a_result_that_nobody_holds_goes_away(jobs, how):
    if how == "map":
        gone = freed(next(jobs.map(set, [[1]])))
    elif how == "submit":
        gone = freed(jobs.submit(set, [1]).result())
    else:
        gone = freed(jobs.put(set, [[1]]).result())
        assert jobs.get().output == {1}
    assert gone.wait(FREED_AFTER_S)


@no_collector
def test_an_argument_that_nobody_holds_goes_away_while_the_job_is_held(jobs):
    argument = {1}
    gone = freed(argument)
    job = jobs.submit(len, argument)
    del argument
    assert job.result() == 1
    assert gone.wait(FREED_AFTER_S)
    assert (job.function, job.args, job.kwargs) == (None, None, None)


@no_collector
def test_a_result_of_a_class_that_travels_by_value_goes_away(jobs):
    class Local:
        pass

    gone = freed(jobs.submit(Local).result())
    assert gone.wait(FREED_AFTER_S)


def test_a_function_goes_away_with_the_queue_at_the_latest(engine):
    with qmill.JobQueue(1, engine=engine) as jobs:
        multiply = multiplier(3)
        gone = freed(multiply)
        assert jobs.submit(multiply, 2).result() == 6
        del multiply
    del jobs
    gc.collect()
    assert gone.wait(FREED_AFTER_S)


@no_collector
@pytest.mark.parametrize("how", ["submit", "put"])
def test_what_a_cancelled_job_was_given_goes_away(make, how):
    jobs = make(1, auto_start=False)
    argument = {1}
    gone = freed(argument)
    job = getattr(jobs, how)(len, [argument])
    del argument
    assert job.cancel()
    jobs.start()
    jobs.wait()
    jobs.collect()
    del job
    assert gone.wait(FREED_AFTER_S)


@no_collector
def test_a_fetched_job_that_nobody_holds_goes_away(make):
    jobs = make(1, callback=lambda job: None)
    argument = {1}
    gone = [freed(argument), freed(jobs.put(len, [argument]))]
    del argument
    assert jobs.get().output == 1
    assert all(event.wait(FREED_AFTER_S) for event in gone)


@no_collector
def test_a_removed_job_that_nobody_holds_goes_away(make):
    jobs = make(1, auto_remove=True)
    argument = {1}
    gone = freed(argument)
    jobs.put(len, [argument])
    del argument
    jobs.wait()
    assert gone.wait(FREED_AFTER_S)


@no_collector
def test_a_failed_job_that_nobody_holds_goes_away(jobs):
    argument = {1}
    gone = [freed(argument)]
    job = jobs.submit(raise_special_with, argument)
    del argument
    gone.append(freed(job))
    with pytest.raises(SpecialError):
        job.result()
    gone.append(freed(job.exception()))
    del job
    assert all(event.wait(FREED_AFTER_S) for event in gone)


@no_collector
def test_an_item_of_a_map_goes_away_with_its_result(jobs):
    argument = {1}
    gone = freed(argument)
    results = jobs.map(len, iter([argument, {2}]), chunksize=1)
    del argument
    assert next(results) == 1
    assert gone.wait(FREED_AFTER_S)
    assert next(results) == 1


@no_collector
@pytest.mark.parametrize("ends", ["returns", "raises"])
def test_a_worker_that_waits_holds_nothing(make, ends):
    """Neither the last argument, nor the last result, nor the frames of the last failure."""
    gone = qmill.Queue()

    def watch(argument):
        result = set(argument)
        weakref.finalize(argument, gone.put, "argument")
        weakref.finalize(result, gone.put, "result")
        if ends == "raises":
            raise KeyError("whose frame holds both")
        return result

    jobs = make(1)
    jobs.submit(watch, {1}).exception()
    assert {gone.get(timeout=FREED_AFTER_S) for _ in range(2)} == {"argument", "result"}


def test_a_dropped_queue_leaves_no_process():
    jobs = qmill.JobQueue(2)
    pids = {jobs.submit(os.getpid).result() for _ in range(4)}
    del jobs
    gc.collect()
    assert all(wait_for_end_of(pid) for pid in pids)


def test_a_dropped_queue_leaves_no_thread():
    jobs = qmill.JobQueue(2, engine="thread")
    threads = {jobs.submit(threading.current_thread).result() for _ in range(4)}
    del jobs
    gc.collect()
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()


class Owner:
    """Has a queue, which calls it back."""

    def __init__(self, engine):
        self.jobs = qmill.JobQueue(1, engine=engine, callback=self.call_back)

    def call_back(self, job):
        pass


def test_a_queue_dropped_with_the_object_that_it_calls_back_leaves_no_process():
    owner = Owner("process")
    pid = owner.jobs.put(os.getpid).result()
    owner.jobs.wait()
    gone = freed(owner)
    del owner
    gc.collect()
    assert gone.wait(FREED_AFTER_S)
    assert wait_for_end_of(pid)


def test_a_queue_dropped_with_the_object_that_it_calls_back_leaves_no_thread():
    owner = Owner("thread")
    thread = owner.jobs.put(threading.current_thread).result()
    owner.jobs.wait()
    del owner
    gc.collect()
    thread.join(FREED_AFTER_S)
    assert not thread.is_alive()


@pytest.mark.parametrize("how", ["put", "submit"])
def test_a_queue_goes_away_after_shutdown_with_a_failure_that_was_raised(engine, how):
    """The traceback leads to a frame, the frame to the queue, and that to the failed job."""

    def use_a_queue():
        with qmill.JobQueue(1, engine=engine) as jobs:
            with pytest.raises(KeyError):
                getattr(jobs, how)(fail).result()
        return freed(jobs)

    gone = use_a_queue()
    gc.collect()
    assert gone.wait(FREED_AFTER_S)


def test_an_unused_queue_can_be_dropped(engine):
    gone = freed(qmill.JobQueue(2, engine=engine))
    gc.collect()
    assert gone.wait(FREED_AFTER_S)


def test_jobs_of_a_dropped_queue_still_run(engine, gate):
    jobs = qmill.JobQueue(1, engine=engine)
    held, waiting = jobs.submit(gate.hold), jobs.submit(operator.neg, 5)
    gate.wait_for_start()
    del jobs
    gc.collect()
    gate.permits.put("held")
    assert (held.result(LIMIT_S), waiting.result(LIMIT_S)) == ("held", -5)
