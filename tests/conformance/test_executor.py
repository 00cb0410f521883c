"""What `qmill.JobQueue` owes to whoever expects a `concurrent.futures.Executor`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import logging
import math
import multiprocessing
import operator
import os
import sys
import threading
import traceback
import weakref
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    Executor,
    Future,
)

import pytest
from conformance_support import ENGINES, LIMIT_S, Call, blocked, wait_for_end_of

import qmill
from qmill.processes import launch

from ..examples import programs

FREED_AFTER_S = 10.0


def make_fail():
    """Return a function that travels by value: for one of this module a worker imports pytest."""

    def fail():
        raise KeyError("a key")

    return fail


fail = make_fail()


# -- what can be called ---------------------------------------------------------------------------


class Scale:
    """Its instances, its methods and itself are called."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, number):
        return self.factor * number

    def times(self, number):
        return self.factor * number

    @classmethod
    def doubled(cls, number):
        return cls(2)(number)

    @staticmethod
    def tripled(number):
        return 3 * number

    def __eq__(self, other):
        return type(other) is Scale and other.factor == self.factor

    __hash__ = None


def quadrupled(number):
    return 4 * number


@functools.lru_cache
def remembered(number):
    return 5 * number


def multiplier(factor):
    def multiply(number):
        return factor * number

    return multiply


FUNCTIONS = {
    "lambda": (lambda number: 2 * number, (4,), 8),
    "closure": (multiplier(3), (4,), 12),
    "function of a module": (quadrupled, (4,), 16),
    "decorated function": (remembered, (4,), 20),
    "bound method": (Scale(6).times, (4,), 24),
    "class method": (Scale.doubled, (4,), 8),
    "static method": (Scale.tripled, (4,), 12),
    "callable instance": (Scale(7), (4,), 28),
    "class": (Scale, (4,), Scale(4)),
    "builtin": (math.factorial, (4,), 24),
    "builtin class": (complex, (1, 2), 1 + 2j),
    "method of a builtin": ("a-b".split, ("-",), ["a", "b"]),
    "unbound method of a builtin": (str.upper, ("a",), "A"),
    "partial of a builtin": (functools.partial(pow, 2), (4,), 16),
    "partial of a lambda": (functools.partial(lambda a, b: a - b, b=1), (4,), 3),
    "partial of a bound method": (functools.partial(Scale(8).times, number=4), (), 32),
    "operator": (operator.itemgetter(1), ("ab",), "b"),
}


@pytest.mark.parametrize(("function", "args", "wanted"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_whatever_can_be_called(jobs, function, args, wanted):
    assert jobs.submit(function, *args).result() == wanted
    assert jobs.put(function, args).result() == wanted
    if args:
        assert list(jobs.map(function, *([arg] for arg in args))) == [wanted]


def test_every_argument_goes_to_the_function(jobs):
    names = ["fn", "function", "self", "args", "kwargs", "timeout", "priority", "lane", "name"]
    kwargs = dict.fromkeys(names, 1)
    job = jobs.submit(lambda *args, **kwargs: (args, kwargs), 1, 2, **kwargs)
    assert job.result() == ((1, 2), kwargs)


# -- futures --------------------------------------------------------------------------------------


def test_it_is_an_executor_of_futures(jobs):
    assert isinstance(jobs, Executor)
    assert isinstance(jobs.submit(int), Future)
    assert isinstance(jobs.put(int), Future)


def test_entering_it_gives_itself(make):
    jobs = make(1)
    with jobs as entered:
        assert entered is jobs


def test_the_life_of_a_job(make, gate):
    jobs = make(1)
    running, waiting = jobs.submit(gate.hold), jobs.submit(gate.hold)
    gate.wait_for_start()
    assert (running.running(), running.done(), running.cancelled()) == (True, False, False)
    assert (waiting.running(), waiting.done(), waiting.cancelled()) == (False, False, False)
    gate.permits.put("first")
    assert running.result() == "first"
    assert running.exception() is None
    assert (running.running(), running.done(), running.cancelled()) == (False, True, False)
    gate.permits.put("second")
    assert waiting.result() == "second"


@pytest.mark.parametrize("ask", [Future.result, Future.exception], ids=["result", "exception"])
@pytest.mark.parametrize("timeout_s", [0, 0.01])
def test_asking_with_a_timeout_only_waits(jobs, gate, ask, timeout_s):
    job = jobs.submit(gate.hold)
    with pytest.raises(TimeoutError):
        getattr(job, ask.__name__)(timeout=timeout_s)
    assert not job.done()
    gate.permits.put("late")
    assert job.result(timeout=LIMIT_S) == "late"


def test_a_result_can_be_asked_for_by_several_threads(jobs, gate):
    job = jobs.submit(gate.hold)
    calls = [blocked(job.result) for _ in range(3)]
    gate.permits.put("one for all")
    assert [call.result() for call in calls] == ["one for all"] * 3


def test_submit_from_several_threads(make):
    jobs = make(2)

    def submit_some(base):
        return [(base + n, jobs.submit(operator.neg, base + n)) for n in range(100)]

    calls = [Call(submit_some, base) for base in range(0, 8000, 1000)]
    pairs = [pair for call in calls for pair in call.result()]
    assert [job.result() for _, job in pairs] == [-number for number, _ in pairs]
    assert len({job.id for _, job in pairs}) == 800


def test_put_and_get_from_several_threads(make):
    jobs = make(2)

    def put_some(base):
        for number in range(50):
            jobs.put(operator.neg, base + number)

    def get_some():
        return [jobs.get().output for _ in range(100)]

    putters = [Call(put_some, base) for base in range(0, 8000, 1000)]
    for call in putters:
        call.result()
    getters = [Call(get_some) for _ in range(4)]
    got = sorted(output for call in getters for output in call.result())
    assert got == sorted(-base - n for base in range(0, 8000, 1000) for n in range(50))


# -- as_completed and wait ------------------------------------------------------------------------


def test_as_completed_gives_what_is_done_first(jobs, gate):
    slow = jobs.submit(gate.hold)
    gate.wait_for_start()
    quick = jobs.submit(int)
    completed = concurrent.futures.as_completed([slow, quick], timeout=LIMIT_S)
    assert next(completed) is quick
    gate.permits.put(1)
    assert list(completed) == [slow]


def test_as_completed_gives_each_once_however_it_ended(make):
    jobs = make(1, auto_start=False)
    good, bad, dropped = jobs.submit(int), jobs.submit(fail), jobs.submit(int)
    dropped.cancel()
    jobs.start()
    completed = list(concurrent.futures.as_completed([good, bad, dropped, good], timeout=LIMIT_S))
    assert len(completed) == 3
    assert set(completed) == {good, bad, dropped}
    assert set(concurrent.futures.as_completed([good, bad, dropped], timeout=0)) == set(completed)


def test_as_completed_when_time_is_up(jobs, gate):
    slow, quick = jobs.submit(gate.hold), jobs.submit(int)
    quick.result()
    completed = concurrent.futures.as_completed([slow, quick], timeout=0)
    assert next(completed) is quick
    with pytest.raises(TimeoutError):
        next(completed)


def test_as_completed_mixes_queues_and_other_futures(jobs, make):
    plain = Future()
    plain.set_result("plain")
    mixed = [jobs.submit(int), make(1).submit(int), plain]
    assert set(concurrent.futures.as_completed(mixed, timeout=LIMIT_S)) == set(mixed)


def test_wait_for_the_first(jobs, gate):
    slow, quick = jobs.submit(gate.hold), jobs.submit(int)
    done, not_done = concurrent.futures.wait([slow, quick], LIMIT_S, FIRST_COMPLETED)
    assert (done, not_done) == ({quick}, {slow})


def test_wait_for_the_first_that_is_not_done_yet(jobs, gate):
    held = [jobs.submit(gate.hold), jobs.submit(gate.hold)]
    call = blocked(concurrent.futures.wait, held, None, FIRST_COMPLETED)
    gate.permits.put(1)
    assert {len(jobs) for jobs in call.result()} == {1}


def test_wait_for_the_first_exception(make, gate):
    jobs = make(3)
    slow, quick = jobs.submit(gate.hold), jobs.submit(int)
    bad = jobs.submit(fail)
    done, not_done = concurrent.futures.wait([slow, quick, bad], LIMIT_S, FIRST_EXCEPTION)
    assert bad in done
    assert slow in not_done


def test_wait_for_an_exception_that_never_comes(jobs):
    good = {jobs.submit(int) for _ in range(4)}
    done, not_done = concurrent.futures.wait(good, LIMIT_S, FIRST_EXCEPTION)
    assert (done, not_done) == (good, set())


def test_wait_for_all(make):
    jobs = make(2, auto_start=False)
    some = [jobs.submit(int), jobs.submit(fail), jobs.submit(int)]
    call = blocked(concurrent.futures.wait, some, return_when=ALL_COMPLETED)
    some[2].cancel()
    jobs.start()
    done, not_done = call.result()
    assert (done, not_done) == (set(some), set())


def test_wait_when_time_is_up(jobs, gate):
    slow, quick = jobs.submit(gate.hold), jobs.submit(int)
    quick.result()
    done, not_done = concurrent.futures.wait([slow, quick], 0.01)
    assert (done, not_done) == ({quick}, {slow})


# -- asyncio --------------------------------------------------------------------------------------


def test_a_job_can_be_awaited(jobs):
    async def main():
        with pytest.raises(KeyError, match="a key"):
            await asyncio.wrap_future(jobs.submit(fail))
        return await asyncio.wrap_future(jobs.submit(pow, 2, 5))

    assert asyncio.run(main()) == 32


def test_an_event_loop_runs_on_while_jobs_do(jobs, gate):
    async def main():
        held = asyncio.get_running_loop().run_in_executor(jobs, gate.hold)
        quick = await asyncio.get_running_loop().run_in_executor(jobs, pow, 2, 5)
        gate.permits.put("held")
        return quick, await held

    assert asyncio.run(main()) == (32, "held")


def test_many_jobs_of_an_event_loop(jobs):
    async def main():
        loop = asyncio.get_running_loop()
        return await asyncio.gather(
            *(loop.run_in_executor(jobs, operator.neg, number) for number in range(50))
        )

    assert asyncio.run(main()) == [-number for number in range(50)]


def test_cancelling_in_asyncio_cancels_the_job(make):
    jobs = make(1, auto_start=False)
    job = jobs.submit(int)

    async def main():
        future = asyncio.wrap_future(job)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future

    asyncio.run(main())
    assert job.cancelled()


def test_cancelling_a_job_cancels_it_in_asyncio(make):
    jobs = make(1, auto_start=False)
    job = jobs.submit(int)

    async def main():
        future = asyncio.wrap_future(job)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future

    asyncio.run(main())


# -- shutdown -------------------------------------------------------------------------------------


def test_shutdown_waits_for_all(make):
    jobs = make(2)
    some = [jobs.submit(operator.neg, number) for number in range(20)]
    jobs.shutdown()
    assert all(job.done() for job in some)
    assert [job.result(0) for job in some] == [-number for number in range(20)]


def test_shutdown_that_waits_blocks(jobs, gate):
    job = jobs.submit(gate.hold)
    call = blocked(jobs.shutdown)
    gate.permits.put(1)
    call.result()
    assert job.done()


def test_shutdown_without_waiting_lets_the_jobs_run(make, gate):
    jobs = make(1)
    held, waiting = jobs.submit(gate.hold), jobs.submit(int)
    jobs.shutdown(wait=False)
    assert not held.done()
    gate.permits.put("held")
    assert (held.result(), waiting.result()) == ("held", 0)
    jobs.shutdown()


@pytest.mark.parametrize("wait", [True, False])
def test_shutdown_that_cancels_spares_what_runs(make, gate, wait):
    jobs = make(1)
    held = jobs.submit(gate.hold)
    waiting = [jobs.submit(int), jobs.put(int)]
    gate.wait_for_start()
    waiting[0].add_done_callback(lambda _: gate.permits.put("held"))
    jobs.shutdown(wait=wait, cancel_futures=True)
    assert [job.cancelled() for job in waiting] == [True, True]
    assert held.result() == "held"
    jobs.shutdown()


def test_shutdown_again_and_of_an_unused_queue(make):
    jobs = make(2)
    jobs.shutdown()
    jobs.shutdown(wait=False)
    jobs.shutdown(cancel_futures=True)
    with make(2):
        pass


def test_shutdown_of_a_paused_queue_runs_its_jobs(make):
    jobs = make(1, auto_start=False)
    job = jobs.submit(int)
    jobs.shutdown()
    assert job.result(0) == 0


CALLS_THAT_ADD = {
    "submit": lambda jobs: jobs.submit(int),
    "put": lambda jobs: jobs.put(int),
    "put without block": lambda jobs: jobs.put(int, block=False),
    "map": lambda jobs: jobs.map(abs, [1]),
    "starmap": lambda jobs: jobs.starmap(abs, [(1,)]),
    "starmapkw": lambda jobs: jobs.starmapkw(dict, [{"a": 1}]),
    "options submit": lambda jobs: jobs.options(priority=1).submit(int),
    "options map": lambda jobs: jobs.options(priority=1).map(abs, [1]),
}


@pytest.mark.parametrize("call", CALLS_THAT_ADD.values(), ids=CALLS_THAT_ADD)
def test_no_more_jobs_after_shutdown(jobs, call):
    jobs.submit(int)
    jobs.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        call(jobs)


def test_no_more_jobs_while_a_shutdown_waits(jobs, gate):
    held = jobs.submit(gate.hold)
    call = blocked(jobs.shutdown)
    with pytest.raises(RuntimeError, match="shut"):
        jobs.submit(int)
    gate.permits.put(1)
    call.result()
    assert held.result() == 1


def test_what_is_completed_can_be_fetched_after_shutdown(jobs):
    put = [jobs.put(operator.neg, number) for number in range(5)]
    jobs.shutdown()
    assert jobs.size(completed=True) == 5
    assert jobs.get() is put[0]
    assert jobs.collect() == put[1:]
    assert jobs.get() is None
    assert jobs.wait() == 0


def test_jobs_that_end_after_shutdown_can_be_fetched(jobs, gate):
    job = jobs.put(gate.hold)
    jobs.shutdown(wait=False)
    call = blocked(jobs.get)
    gate.permits.put("fetched")
    assert call.result() is job
    assert list(jobs.as_completed()) == []


# -- leaving a with block -------------------------------------------------------------------------


def test_leaving_a_with_block_waits(make):
    with make(2) as jobs:
        some = [jobs.submit(operator.neg, number) for number in range(20)]
    assert [job.result(0) for job in some] == [-number for number in range(20)]
    with pytest.raises(RuntimeError):
        jobs.submit(int)


def test_leaving_a_with_block_of_a_paused_queue_runs_its_jobs(make):
    with make(2, auto_start=False) as jobs:
        job = jobs.put(int)
    assert job.result(0) == 0


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_leaving_a_with_block_by_an_exception_cancels_what_waits(make, gate, error):
    with pytest.raises(error):
        with make(1) as jobs:
            running, waiting = jobs.submit(gate.hold), jobs.submit(int)
            gate.wait_for_start()
            waiting.add_done_callback(lambda _: gate.permits.put(1))  # a thread is not killed
            raise error
    assert waiting.cancelled()
    assert running.done()
    with pytest.raises(RuntimeError):
        jobs.submit(int)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_leaving_a_with_block_by_an_exception_kills_what_runs(gate, error):
    with pytest.raises(error):
        with qmill.JobQueue(2) as jobs:
            running = [jobs.submit(gate.hold), jobs.put(gate.hold, retries=3)]
            for _ in running:
                gate.wait_for_start()
            raise error
    for job in running:
        assert job.done()
        with pytest.raises((CancelledError, qmill.WorkerDied)):
            job.result()


# -- a program's end ------------------------------------------------------------------------------


# One write a line: what threads print gets mixed up.
PENDING = """
import os, sys, qmill
jobs = qmill.JobQueue(1, engine={engine!r}, auto_start={auto_start})
for number in range(5):
    jobs.submit(os.write, 1, f"submit {{number}}\\n".encode())
for number in range(5):
    jobs.put(os.write, [1, f"put {{number}}\\n".encode()])
os.write(1, b"the end of the program\\n")
{end}
"""

ALL_PENDING = [f"{how} {number}" for how in ("submit", "put") for number in range(5)]


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "del jobs"])
def test_at_a_programs_end_pending_jobs_run(engine, end):
    source = PENDING.format(engine=engine, end=end, auto_start=True)
    lines = programs.run("-c", source).splitlines()
    lines.remove("the end of the program")
    assert lines == ALL_PENDING


def test_at_a_programs_end_a_paused_queue_runs_its_jobs(engine):
    source = PENDING.format(engine=engine, end="", auto_start=False)
    assert programs.run("-c", source).splitlines() == ["the end of the program", *ALL_PENDING]


CALLING_BACK = """
import qmill

def tell(job):
    print(job.output, flush=True)

jobs = qmill.JobQueue(2, engine={engine!r}, callback=tell)
for number in range(3):
    jobs.put(abs, number)
jobs.submit(abs, 3).add_done_callback(lambda job: print(job.result(), flush=True))
"""


def test_at_a_programs_end_callbacks_are_called(engine):
    lines = programs.run("-c", CALLING_BACK.format(engine=engine)).splitlines()
    assert sorted(lines) == ["0", "1", "2", "3"]


def test_an_idle_queue_does_not_keep_a_program(engine):
    source = f"import qmill; jobs = qmill.JobQueue(2, engine={engine!r}); jobs.submit(int).result()"
    assert programs.run("-c", source) == ""
    source = f"import qmill; jobs = qmill.JobQueue(2, engine={engine!r})"
    assert programs.run("-c", source) == ""


def test_a_failure_of_the_program_leaves_its_exit_status(engine):
    source = PENDING.format(engine=engine, end="sys.exit(7)", auto_start=True)
    program = programs.start("-c", source)
    output, errors = program.communicate(timeout=programs.TIMEOUT_S)
    assert (program.returncode, errors) == (7, "")
    assert len(output.splitlines()) == 11


def test_jobs_added_by_callbacks_at_a_programs_end_run_or_are_refused(engine):
    source = f"""
import qmill

def add(job):
    try:
        jobs.submit(print, "added", flush=True)
    except RuntimeError:
        print("refused", flush=True)

jobs = qmill.JobQueue(1, engine={engine!r})
jobs.submit(int).add_done_callback(add)
"""
    assert programs.run("-c", source) in ("added\n", "refused\n")


# -- errors ---------------------------------------------------------------------------------------


def raise_in_the_depth():
    raise KeyError("a key")


def raise_chained():
    try:
        raise_in_the_depth()
    except KeyError as error:
        raise ValueError("on top", [1]) from error


class SpecialError(Exception):
    def __init__(self, message, code):
        super().__init__(message, code)
        self.code = code


def raise_special():
    error = SpecialError("special", 7)
    error.add_note("a note")
    raise error


def raise_special_with(argument):
    raise SpecialError("special", len(argument))


def test_a_jobs_exception_is_raised_as_itself(jobs):
    job = jobs.submit(raise_special)
    with pytest.raises(SpecialError, match="special") as raised:
        job.result()
    assert type(raised.value) is SpecialError
    assert (raised.value.args, raised.value.code) == (("special", 7), 7)
    assert raised.value.__notes__ == ["a note"]
    assert job.exception() is raised.value
    assert job.done()
    assert not job.cancelled()


def test_an_exception_group_comes_back_whole(jobs):
    def fail_twice():
        raise ExceptionGroup("two", [KeyError(1), ValueError(2)])

    error = jobs.submit(fail_twice).exception()
    assert type(error) is ExceptionGroup
    assert [repr(one) for one in error.exceptions] == ["KeyError(1)", "ValueError(2)"]


def test_a_traceback_shows_where_a_worker_failed():
    with qmill.JobQueue(1) as jobs:
        error = jobs.submit(raise_chained).exception()
    remote = str(error.__cause__)
    assert "Traceback (most recent call last)" in remote
    assert "in raise_chained" in remote
    assert "in raise_in_the_depth" in remote
    assert "direct cause" in remote
    assert 'raise KeyError("a key")' in remote
    shown = "".join(traceback.format_exception(error))
    assert "in raise_in_the_depth" in shown
    assert shown.index("in raise_in_the_depth") < shown.rindex("ValueError: ('on top', [1])")


def test_a_traceback_of_a_thread_is_its_own():
    with qmill.JobQueue(1, engine="thread") as jobs:
        error = jobs.submit(raise_chained).exception()
    assert type(error.__cause__) is KeyError
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert names[-1] == "raise_chained"


@pytest.mark.parametrize("how", ["put", "submit", "map"])
def test_a_failure_costs_only_its_job(jobs, how):
    def fail_at_three(number):
        if number == 3:
            raise KeyError(number)
        return number

    if how == "map":
        results = jobs.map(fail_at_three, range(6), chunksize=1)
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(KeyError):
            next(results)
    else:
        some = [getattr(jobs, how)(fail_at_three, number) for number in range(6)]
        errors = [type(job.exception()) for job in some]
        assert errors == [KeyError if number == 3 else type(None) for number in range(6)]
    assert jobs.submit(int).result() == 0


# -- initializers ---------------------------------------------------------------------------------


def test_an_initializer_runs_once_in_each_worker(make, gate):
    initialised = qmill.Queue()
    jobs = make(2, initializer=initialised.put, initargs=("one",))
    held = [jobs.submit(gate.hold), jobs.submit(gate.hold)]
    gate.wait_for_start()
    gate.wait_for_start()
    gate.permits.put_many([1, 2])
    assert sorted(job.result() for job in held) == [1, 2]
    assert [jobs.submit(operator.neg, n).result() for n in range(10)] == [-n for n in range(10)]
    assert initialised.qsize() == 2


def test_what_an_initializer_did_lasts():
    def initialise(value):
        sys.initialised = value

    with qmill.JobQueue(2, initializer=initialise, initargs=iter([7])) as jobs:
        some = [jobs.submit(lambda: sys.initialised) for _ in range(10)]
        assert [job.result() for job in some] == [7] * 10
    assert not hasattr(sys, "initialised")


def test_an_initializer_that_raises_costs_one_job(make):
    permits = qmill.Queue()
    permits.put_many([False, True])

    def initialise():
        if not permits.get():
            raise KeyError("not initialised")

    jobs = make(1, initializer=initialise)
    some = [jobs.submit(operator.neg, number) for number in range(5)]
    with pytest.raises(KeyError, match="not initialised"):
        some[0].result()
    assert [job.result() for job in some[1:]] == [-1, -2, -3, -4]


def test_an_initializer_that_always_raises_fails_every_job_and_hangs_none(make):
    def initialise():
        raise KeyError("never initialised")

    jobs = make(2, initializer=initialise)
    some = [jobs.submit(operator.neg, number) for number in range(5)]
    assert [type(job.exception()) for job in some] == [KeyError] * 5


def test_the_traceback_of_an_initializer_is_shown():
    with qmill.JobQueue(1, initializer=raise_in_the_depth) as jobs:
        error = jobs.submit(int).exception()
    assert "in raise_in_the_depth" in str(error.__cause__)


# -- callbacks of futures -------------------------------------------------------------------------


def test_done_callbacks_are_called_in_their_order(jobs, gate):
    job, called, over = jobs.submit(gate.hold), [], threading.Event()
    for number in range(3):
        job.add_done_callback(lambda job, number=number: called.append((number, job)))
    job.add_done_callback(lambda _: over.set())
    gate.permits.put(1)
    assert over.wait(LIMIT_S)
    assert called == [(0, job), (1, job), (2, job)]


def test_a_done_callback_that_comes_late_is_called_at_once(jobs):
    job, called = jobs.submit(fail), []
    job.exception()
    job.add_done_callback(called.append)
    assert called == [job]


def test_a_done_callback_that_raises_is_logged_and_hurts_nobody(jobs, gate, caplog):
    job, over = jobs.submit(gate.hold), threading.Event()

    def raise_something(_):
        raise ZeroDivisionError("in a callback")

    job.add_done_callback(raise_something)
    job.add_done_callback(lambda _: over.set())
    with caplog.at_level(logging.ERROR):
        gate.permits.put(1)
        assert over.wait(LIMIT_S)
        assert job.result() == 1
    told = [record for record in caplog.records if record.exc_info]
    assert [record.exc_info[0] for record in told] == [ZeroDivisionError]
    assert jobs.submit(int).result() == 0


def test_a_done_callback_that_exits_hurts_nobody(make, gate):
    jobs = make(1)
    job, over = jobs.submit(gate.hold), threading.Event()
    job.add_done_callback(lambda _: sys.exit("in a callback"))
    job.add_done_callback(lambda _: over.set())
    gate.permits.put(1)
    assert over.wait(FREED_AFTER_S)
    jobs.put(int)
    assert jobs.wait(timeout=FREED_AFTER_S) == 0


def test_done_callbacks_of_cancelled_jobs_are_called(make):
    jobs, called = make(1, auto_start=False), []
    job = jobs.submit(int)
    job.add_done_callback(called.append)
    job.cancel()
    jobs.shutdown()  # waits until everything is told
    assert called == [job]
    job.cancel()
    assert called == [job]


def test_a_done_callback_may_use_the_queue(jobs, gate):
    job, added, over = jobs.submit(gate.hold), [], threading.Event()

    def add(_):
        added.append(jobs.submit(operator.neg, 5))
        added.append(jobs.size())
        over.set()

    job.add_done_callback(add)
    gate.permits.put(1)
    assert over.wait(LIMIT_S)
    assert added[0].result() == -5


def test_done_callbacks_are_called_once_for_all_attempts(make):
    jobs, called, tickets = make(1, auto_start=False), [], qmill.Queue()
    tickets.put_many([False, False, True])

    def fail_twice():
        if not tickets.get():
            raise KeyError
        return "at last"

    job = jobs.put(fail_twice, retries=2)
    over = threading.Event()
    job.add_done_callback(called.append)
    job.add_done_callback(lambda _: over.set())
    jobs.start()
    assert over.wait(LIMIT_S)
    assert job.result() == "at last"
    assert called == [job]


# -- cancelling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["put", "submit"])
def test_cancelling_what_waits(make, how):
    jobs, ran = make(1, auto_start=False), qmill.Queue()
    first, job, last = (getattr(jobs, how)(ran.put, number) for number in range(3))
    assert job.cancel()
    assert job.cancel()
    assert (job.cancelled(), job.done(), job.running()) == (True, True, False)
    for ask in (job.result, job.exception):
        with pytest.raises(CancelledError):
            ask()
    jobs.start()
    first.result()
    last.result()
    assert ran.get_many(3) == [0, 2]


def test_cancelling_wakes_who_waits_for_the_result(make):
    job = make(1, auto_start=False).submit(int)
    call = blocked(job.result)
    job.cancel()
    with pytest.raises(CancelledError):
        call.result()


def test_cancelling_what_is_over(jobs):
    good, bad = jobs.submit(int), jobs.submit(fail)
    assert (good.result(), type(bad.exception())) == (0, KeyError)
    assert not good.cancel()
    assert not bad.cancel()
    assert not good.cancelled()


def test_cancelling_what_runs_in_a_thread(gate):
    with qmill.JobQueue(1, engine="thread") as jobs:
        job = jobs.submit(gate.hold)
        gate.wait_for_start()
        assert not job.cancel()
        gate.permits.put("goes on")
        assert job.result() == "goes on"


def test_cancelling_what_runs_in_a_process(gate):
    with qmill.JobQueue(1) as jobs:
        job = jobs.submit(gate.hold)
        gate.wait_for_start()
        assert job.cancel()
        assert job.cancelled()
        with pytest.raises(CancelledError):
            job.result()
        assert jobs.submit(int).result() == 0


# -- references -----------------------------------------------------------------------------------


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


# -- queues in jobs, start methods, forks ---------------------------------------------------------


@pytest.mark.parametrize("inner", ENGINES)
def test_a_job_may_have_a_queue_of_its_own(jobs, inner):
    def nest(base):
        with qmill.JobQueue(2, engine=inner) as nested:
            return list(nested.map(operator.add, [base] * 3, range(3)))

    some = [jobs.submit(nest, base) for base in (10, 20, 30)]
    assert [job.result() for job in some] == [[b, b + 1, b + 2] for b in (10, 20, 30)]


def test_three_levels_of_queues():
    def nest(level):
        if not level:
            return [os.getpid()]
        with qmill.JobQueue(1) as jobs:
            return [os.getpid(), *jobs.submit(nest, level - 1).result()]

    assert len(set(nest(3))) == 4


def test_a_queue_cannot_be_sent_into_its_jobs():
    with qmill.JobQueue(1) as jobs:
        with pytest.raises(qmill.SerializationError):
            jobs.submit(len, [jobs]).result()
        with pytest.raises(qmill.SerializationError):
            jobs.submit(lambda: jobs.size()).result()
        assert jobs.submit(int).result() == 0


def describe_process():
    return os.getppid(), getattr(sys, "set_by_the_test", None)


def check_start_method(start_method, parent, inherited):
    assert (parent == os.getpid()) == (start_method != "forkserver")
    assert (inherited == "inherited") == (start_method == "fork")


@pytest.mark.parametrize("start_method", launch.METHODS)
def test_start_methods(monkeypatch, start_method):
    monkeypatch.setattr(sys, "set_by_the_test", "inherited", raising=False)
    with qmill.JobQueue(1, start_method=start_method) as jobs:
        check_start_method(start_method, *jobs.submit(describe_process).result())
        assert jobs.submit(multiplier(3), 5).result() == 15
        assert type(jobs.submit(raise_special).exception()) is SpecialError


@pytest.mark.parametrize("start_method", launch.METHODS)
def test_the_start_method_of_a_context(monkeypatch, start_method):
    monkeypatch.setattr(sys, "set_by_the_test", "inherited", raising=False)
    context = multiprocessing.get_context(start_method)
    with qmill.JobQueue(1, mp_context=context) as jobs:
        check_start_method(start_method, *jobs.submit(describe_process).result())


def test_the_start_method_in_force(monkeypatch):
    monkeypatch.setattr(sys, "set_by_the_test", "inherited", raising=False)
    monkeypatch.setenv("QMILL_START_METHOD", "fork")
    with qmill.JobQueue(1) as jobs:
        check_start_method("fork", *jobs.submit(describe_process).result())


def test_workers_see_the_parents_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SET_BY_THE_TEST", "seen")
    monkeypatch.chdir(tmp_path)
    with qmill.JobQueue(1) as jobs:
        assert jobs.submit(os.getenv, "SET_BY_THE_TEST").result() == "seen"
        assert jobs.submit(os.getcwd).result() == os.getcwd()


FORK = """
import os, sys
import qmill

def refused(name, call):
    try:
        call()
    except RuntimeError:
        print(name, "refused", flush=True)
    else:
        print(name, "done", flush=True)

permits = qmill.Queue()
jobs = qmill.JobQueue(1, engine={engine!r}, start_method={start_method!r})
assert jobs.submit(pow, 2, 3).result() == 8
running, waiting = jobs.put(permits.get), jobs.submit(pow, 2, 4)
child = os.fork()
if not child:
    refused("submit", lambda: jobs.submit(pow, 2, 3))
    refused("put", lambda: jobs.put(pow, (2, 3)))
    refused("map", lambda: list(jobs.map(abs, [1])))
    refused("starmap", lambda: jobs.starmap(pow, [(2, 3)]))
    with qmill.JobQueue(2, engine={engine!r}, start_method={start_method!r}) as own:
        print("child", own.submit(pow, 2, 5).result(), *own.map(abs, [-1, -2]), flush=True)
    print("child", *qmill.map(abs, [-3, -4], engine={engine!r}), flush=True)
    {end}
_, status = os.waitpid(child, 0)
print("status", status)
permits.put("permitted")
print("parent", running.result(), waiting.result(), jobs.submit(pow, 2, 6).result())
jobs.shutdown()
"""

FORKED = """\
submit refused
put refused
map refused
starmap refused
child 32 1 2
child 3 4
status 0
parent permitted 16 64
"""


@pytest.mark.parametrize(
    ("start_method", "end"),
    [
        ("forkserver", "os._exit(0)"),
        ("forkserver", "sys.exit(0)"),
        ("fork", "sys.exit(0)"),
        ("fork", "del jobs; sys.exit(0)"),
        ("spawn", "sys.exit(0)"),
    ],
)
def test_a_fork_of_a_process_with_a_queue_of_processes(start_method, end):
    source = FORK.format(engine="process", start_method=start_method, end=end)
    assert programs.run("-c", source) == FORKED


@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit(0)", "del jobs; sys.exit(0)"])
def test_a_fork_of_a_process_with_a_queue_of_threads(end):
    source = FORK.format(engine="thread", start_method=None, end=end)
    assert programs.run("-c", source) == FORKED


FORK_AND_WAIT = """
import os
import qmill

CALLS = {{
    "wait": lambda: jobs.wait(),
    "get": lambda: jobs.get(),
    "as_completed": lambda: list(jobs.as_completed()),
}}

permits = qmill.Queue()
jobs = qmill.JobQueue(1, engine={engine!r})
job = jobs.put(permits.get)
child = os.fork()
if not child:
    try:
        print("returned", CALLS[{call!r}](), flush=True)
    except RuntimeError:
        print("refused", flush=True)
    os._exit(0)
os.waitpid(child, 0)
permits.put("permitted")
print(job.result())
jobs.shutdown()
"""


@pytest.mark.parametrize("call", ["wait", "get", "as_completed"])
def test_a_forked_child_cannot_wait_for_jobs_of_its_parent(engine, call):
    source = FORK_AND_WAIT.format(engine=engine, call=call)
    assert programs.run("-c", source) == "refused\npermitted\n"


FORK_WHILE_STARTING = """
import os, signal, threading
import qmill

# A module that another thread is importing at the fork is locked in the child for ever.
qmill.JobQueue(1, start_method={start_method!r}).shutdown()

def start_workers():
    while not over.is_set():
        with qmill.JobQueue(2, start_method={start_method!r}) as jobs:
            jobs.submit(int).result()

over = threading.Event()
thread = threading.Thread(target=start_workers)
thread.start()
for number in range(10):
    child = os.fork()
    if not child:
        signal.alarm(10)
        with qmill.JobQueue(1, start_method={start_method!r}) as own:
            own.submit(int).result()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print("status", status, flush=True)
    if status:
        break
over.set()
thread.join()
"""


@pytest.mark.parametrize("start_method", ["forkserver", "fork"])
def test_a_fork_while_another_thread_starts_workers(start_method):
    source = FORK_WHILE_STARTING.format(start_method=start_method)
    assert programs.run("-c", source) == "status 0\n" * 10


FORK_IN_A_BLOCK = """
import os, sys
import qmill

with qmill.JobQueue(1, engine={engine!r}) as jobs:
    assert jobs.submit(pow, 2, 3).result() == 8
    permits = qmill.Queue()
    running = jobs.submit(permits.get)
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        print("status", status)
        permits.put("permitted")
        print("parent", running.result(), jobs.submit(pow, 2, 4).result())
    else:
        {leave}
if not child:
    os._exit(0)
"""


@pytest.mark.parametrize("leave", ["sys.exit(0)", "pass"])
def test_a_forked_child_that_leaves_the_block_hurts_nobody(engine, leave):
    """It has no workers to wait for: it may say so (RuntimeError), but neither hang nor kill."""
    source = FORK_IN_A_BLOCK.format(engine=engine, leave=leave)
    assert programs.run("-c", source) == "status 0\nparent permitted 16\n"
