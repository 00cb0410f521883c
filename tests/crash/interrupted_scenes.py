"""Scenes in which a call of messages, workers or maps is interrupted at every place.

    python -m tests.crash.interrupted_scenes SCENE FIRST STEP

A scene is a generator: it sets all up, yields the call that is interrupted, is given what that
returned (an empty list if nothing), and sees that all is right then.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import select
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError
from typing import Any, NamedTuple

import qmill
from qmill.compat import ezq
from qmill.processes import launch
from qmill.workers import api

from .functions import add
from .interruptions import Interrupted, Interruption, num_files, unraisable
from .programs import LIMIT_S

Scene = Generator[tuple[Any, ...], list[Any], None]

NUM_MESSAGES = 4


def messages(first: int = 0) -> list[qmill.Msg]:
    """Make messages that are told apart."""
    return [qmill.Msg(f"data {n}", "kind", n) for n in range(first, first + NUM_MESSAGES)]


def filled(kind: str) -> qmill.Q:
    """Make a queue with messages in it."""
    q = qmill.Q(kind)
    q.put_many(messages())
    return q


def rest(q: qmill.Q) -> list[qmill.Msg]:
    """Take all that is left, and see that the queue has counted right, and works."""
    assert q.statistics().leased == 0, q.statistics()
    left = [q.get_nowait() for _ in range(q.qsize())]
    assert q.empty()
    assert q.put("another").get().data == "another"
    q.close()
    return left


def check_taken(returned: list[Any], left: list[qmill.Msg], count: int = 1) -> None:
    """See that each message was returned or is left, in order."""
    taken = messages()[:count] if returned else []
    assert [*taken, *left] == messages(), (returned, left)


# -- Q -----------------------------------------------------------------------------------------


def put(kind: str) -> Scene:
    q = filled(kind)
    [one, *_] = messages(NUM_MESSAGES)
    returned = yield q.put, one
    assert rest(q) == messages() + [one] * len(returned)


def put_in_parts(kind: str) -> Scene:
    def call() -> None:
        q.put("data 4", kind="kind", order=4, timeout=9)

    q = filled(kind)
    yield (call,)
    left = rest(q)
    assert left[:NUM_MESSAGES] == messages()
    assert left[NUM_MESSAGES:] in ([], messages(NUM_MESSAGES)[:1])


def put_many(kind: str) -> Scene:
    q = filled(kind)
    returned = yield q.put_many, messages(NUM_MESSAGES)
    left = rest(q)
    assert left == messages() + (messages(NUM_MESSAGES) if returned else [])


def end(kind: str) -> Scene:
    q = filled(kind)
    returned = yield (q.end,)
    left = rest(q)
    assert left == messages() + [qmill.END_MSG] * len(returned)


def get(kind: str) -> Scene:
    q = filled(kind)
    returned = yield (q.get,)
    check_taken(returned, rest(q))


def get_many(kind: str) -> Scene:
    q = filled(kind)
    returned = yield q.get_many, 3
    check_taken(returned, rest(q), 3)


def peek(kind: str) -> Scene:
    q = filled(kind)
    yield (q.peek,)
    assert rest(q) == messages()


def step(kind: str) -> Scene:
    q = filled(kind)
    loop = iter(q)
    returned = yield next, loop
    del loop
    check_taken(returned, rest(q))


def second_step(kind: str) -> Scene:
    q = filled(kind)
    loop = iter(q)
    first = next(loop)
    returned = yield next, loop
    del loop
    left = rest(q)  # an interrupted step may have told that the first one is done, or not yet
    assert first == messages()[0]
    assert left == messages()[2 if returned else 1 :] or left == messages(), left


def in_order(kind: str) -> Scene:
    q = qmill.Q(kind)
    for message in reversed(messages()):
        q.put(message)
    loop = q.sorted()
    returned = yield next, loop
    del loop
    left = rest(q)
    assert returned == messages()[: len(returned)]
    assert sorted(m.order for m in [*returned, *left]) == list(range(NUM_MESSAGES)), left


def items(kind: str) -> Scene:
    q = filled(kind)
    returned = yield (q.items,)
    returned.clear()
    assert rest(q)[:NUM_MESSAGES] == messages()


def items_in_order(kind: str) -> Scene:
    q = filled(kind)
    handled: list[qmill.Msg] = []

    def handle() -> None:
        handled.extend(q.items(sort=True))

    yield (handle,)
    left = [message for message in rest_after_exception(q) if message != qmill.END_MSG]
    assert [m.order for m in [*handled, *left]] == list(range(NUM_MESSAGES)), (handled, left)


def items_cached(kind: str) -> Scene:
    q = filled(kind)
    returned = yield (lambda: list(q.items(cache=True)),)
    assert returned in ([], [messages()])
    assert list(q.items(cache=True)) == messages()
    assert rest(q) == []


def release(kind: str) -> Scene:
    q = filled(kind)
    loop = iter(q)
    first = next(loop)
    returned = yield q.release, first
    loop.close()  # type: ignore[attr-defined]
    del loop, first
    q.statistics()
    left = rest_after_exception(q)
    assert sorted(m.order for m in left) == list(range(NUM_MESSAGES)) or not returned, left
    assert [m.order for m in left][-3:] == [1, 2, 3]


def rest_after_exception(q: qmill.Q) -> list[qmill.Msg]:
    q.put("is a call")  # says that what was left is done
    return [m for m in rest(q) if m.data != "is a call"]


def task_done(kind: str) -> Scene:
    q = filled(kind)
    q.get()
    returned = yield (q.task_done,)
    assert NUM_MESSAGES - 1 <= q.unfinished_tasks <= NUM_MESSAGES - len(returned)
    rest(q)


def shutdown(kind: str) -> Scene:
    q = filled(kind)
    returned = yield (q.shutdown,)
    assert q.is_shutdown or not returned
    assert q.get_many(9) == messages()
    q.close()


def close(kind: str) -> Scene:
    q = filled(kind)
    yield (q.close,)
    q.close()
    try:
        q.get_nowait()
    except ValueError:
        return
    raise AssertionError("not closed")


def make(kind: str) -> Scene:
    returned = yield qmill.Q, kind
    if returned:
        rest(returned.pop())


def make_named(kind: str) -> Scene:
    if kind == "thread":
        return
    returned = yield (lambda: qmill.Q(name="named"),)
    if returned:
        q = returned.pop().put(1)
        assert [m.data for m in rest(q)] == [1]
    q = qmill.Q(name="named")
    assert q.empty()
    q.close()


OF_Q: list[Callable[[str], Scene]] = [
    put,
    put_in_parts,
    put_many,
    end,
    get,
    get_many,
    peek,
    step,
    second_step,
    in_order,
    items,
    items_in_order,
    items_cached,
    release,
    task_done,
    shutdown,
    close,
    make,
    make_named,
]


# -- workers -----------------------------------------------------------------------------------


def read_all(q: qmill.Q, out: Any) -> None:
    for message in q:
        out.put(message.data)


def read_and_return(q: qmill.Q) -> list[Any]:
    return [message.data for message in q]


def add_up(q: qmill.Q, out: Any) -> int:
    """Add up the data of all messages."""
    total = 0
    for message in q:
        total += message.data
        out.put(total)
    return total


def await_threads() -> None:
    """Wait until no other thread is left."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(LIMIT_S)
            assert not thread.is_alive(), thread


def run(kind: str) -> Scene:
    """The worker reads a queue, so a process that was not returned would stay for ever."""
    start = qmill.run if kind == "process" else qmill.run_thread
    q, out = qmill.Q(kind).put(1).put(2), qmill.Queue(kind=kind)
    returned = yield start, add_up, q, out
    if returned:
        worker = returned.pop()
        q.stop(worker)
        assert worker.result(LIMIT_S) == 3
        assert out.get_many(9) == [1, 3]
        worker.join()
    elif kind == "thread":  # it may have begun
        q.end()
    q.close()
    out.close()


def make_worker(kind: str) -> Scene:
    returned = yield (lambda: qmill.Worker(add, (1,), {"b": 2}, kind=kind, name="it"),)
    if returned:
        assert returned[0].result(LIMIT_S) == 3
        returned.pop().join()
    for worker in list(api._running):  # one that was started, and not returned
        worker.join()


def result(kind: str) -> Scene:
    worker = qmill.Worker(add, (1, 2), kind=kind)
    returned = yield (worker.result,)
    assert returned in ([], [3])
    assert worker.result(LIMIT_S) == 3
    worker.join()
    assert worker.exitcode == 0


def join(kind: str) -> Scene:
    worker = qmill.Worker(add, (1, 2), kind=kind)
    yield (worker.join,)
    worker.join()
    assert (worker.is_alive(), worker.exitcode, worker.result()) == (False, 0, 3)


def stop(kind: str) -> Scene:
    q, out = filled(kind), qmill.Queue(kind=kind)
    readers = [qmill.Worker(read_all, (q, out), kind=kind) for _ in range(2)]
    yield q.stop, readers
    q.stop(readers)
    assert sorted(out.get_many(99)) == [m.data for m in messages()]
    assert rest(q) == []
    out.close()


def large_result(kind: str) -> Scene:
    """One that comes in a file."""
    worker = qmill.Worker(bytes, (1 << 20,), kind=kind)
    returned = yield (worker.result,)
    assert returned in ([], [bytes(1 << 20)])
    assert worker.result(LIMIT_S) == bytes(1 << 20)
    worker.join()


def exception(kind: str) -> Scene:
    worker = qmill.Worker(len, (), kind=kind)
    yield (worker.exception,)
    assert type(worker.exception(LIMIT_S)) is TypeError
    worker.join()
    assert worker.exitcode == 1


OF_WORKERS: list[Callable[[str], Scene]] = [result, large_result, exception, join, stop]

OF_STARTS: list[Callable[[str], Scene]] = [run, make_worker]


# -- job queues --------------------------------------------------------------------------------


def check_and_end(jobs: qmill.JobQueue) -> None:
    """See that a queue still works, and end it."""
    assert jobs.put(add, (1, 2)).result(LIMIT_S) == 3
    jobs.shutdown()
    assert jobs.size(waiting=True, working=True) == 0


def make_jobs(kind: str) -> Scene:
    returned = yield (lambda: qmill.JobQueue(1, engine=kind),)
    if returned:
        check_and_end(returned.pop())


def put_job(kind: str) -> Scene:
    jobs = qmill.JobQueue(1, engine=kind)
    first = jobs.put(add, (1, 2))
    returned = yield jobs.put, add, (3, 4)
    assert first.result(LIMIT_S) == 3
    assert [job.result(LIMIT_S) for job in returned] == [7] * len(returned)
    check_and_end(jobs)


def submit_first(kind: str) -> Scene:
    """It starts the worker, too."""
    jobs = qmill.JobQueue(1, engine=kind)
    returned = yield jobs.submit, add, 3, 4
    assert [job.result(LIMIT_S) for job in returned] == [7] * len(returned)
    check_and_end(jobs)


def result_of_job(kind: str) -> Scene:
    jobs = qmill.JobQueue(1, engine=kind)
    job = jobs.submit(add, 3, 4)
    returned = yield (job.result,)
    assert returned in ([], [7])
    assert job.result(LIMIT_S) == 7
    check_and_end(jobs)


def get_job(kind: str) -> Scene:
    jobs = qmill.JobQueue(1, engine=kind)
    job = jobs.put(add, (3, 4))
    returned = yield (jobs.get,)
    assert (returned or [jobs.get(timeout=LIMIT_S)]) == [job]
    check_and_end(jobs)


def wait_for_jobs(kind: str) -> Scene:
    jobs = qmill.JobQueue(1, engine=kind)
    put = [jobs.put(add, (n, 1)) for n in range(3)]
    yield (jobs.wait,)
    assert [job.result(LIMIT_S) for job in put] == [1, 2, 3]
    check_and_end(jobs)


def map_of_jobs(kind: str) -> Scene:
    jobs = qmill.JobQueue(1, engine=kind)
    returned = yield (lambda: list(jobs.map(add, range(3))),)
    assert returned in ([], [[0, 1, 2]])
    check_and_end(jobs)


def with_jobs(kind: str) -> Scene:
    def call() -> list[int]:
        with qmill.JobQueue(1, engine=kind) as jobs:
            put.append(jobs.put(add, (3, 4)))
        return [job.result() for job in put]

    put: list[qmill.Job[int]] = []
    returned = yield (call,)
    assert returned in ([], [[7]])
    for job in put:  # done or cancelled, but over
        with contextlib.suppress(CancelledError):
            assert job.result(LIMIT_S) == 7


def shut_down(kind: str) -> Scene:
    jobs = qmill.JobQueue(1, engine=kind)
    job = jobs.put(add, (3, 4))
    yield (jobs.shutdown,)
    assert job.result(LIMIT_S) == 7
    jobs.shutdown()


def map_all(kind: str) -> Scene:
    returned = yield (lambda: list(qmill.map(add, range(3), max_workers=1, engine=kind)),)
    assert returned in ([], [[0, 1, 2]])


def map_one(kind: str) -> Scene:
    """The iterator is left in the middle."""
    results = qmill.map(add, range(3), max_workers=1, engine=kind)
    returned = yield next, results
    assert returned in ([], [0])
    assert list(results) == ([1, 2] if returned else [])


OF_JOBS: list[Callable[[str], Scene]] = [
    make_jobs,
    put_job,
    submit_first,
    result_of_job,
    get_job,
    wait_for_jobs,
    map_of_jobs,
    with_jobs,
    shut_down,
    map_all,
    map_one,
]


# -- the names of ezq --------------------------------------------------------------------------


def ezq_run(kind: str) -> Scene:
    start = ezq.run if kind == "process" else ezq.run_thread
    returned = yield start, add, 1, 2
    for worker in returned:
        worker.join()
        assert not worker.is_alive()
    returned.clear()
    for process in multiprocessing.active_children():  # one that was started, and not returned
        process.join()


def ezq_stop(kind: str) -> Scene:
    q, out = ezq.Q(kind), qmill.Queue(kind=kind)
    for message in messages():
        q.put(message)
    start = ezq.run if kind == "process" else ezq.run_thread
    reader = start(read_all, q, out)
    yield q.stop, reader
    q.stop(reader)
    assert out.get_many(99) == [m.data for m in messages()]
    q.close()
    out.close()


def ezq_map(kind: str) -> Scene:
    returned = yield (lambda: list(ezq.map(add, range(3), num=1, kind=kind)),)
    assert returned in ([], [[0, 1, 2]])


OF_EZQ: list[Callable[[str], Scene]] = [ezq_run, ezq_stop, ezq_map]


class Scenes(NamedTuple):
    """Scenes that are played with one kind of queue or worker.

    Attributes:
        scenes: These.
        kind: "thread" or "process".
        transport: Of queues between processes.
        step: How many instructions are left out between two interruptions in `make test`.
    """

    scenes: list[Callable[[str], Scene]]
    kind: str
    transport: str
    step: int


SCENES = {
    "q-thread": Scenes(OF_Q, "thread", "shared", 5),
    "q-shared": Scenes(OF_Q, "process", "shared", 50),
    "q-portable": Scenes(
        [scene for scene in OF_Q if scene is not make_named], "process", "portable", 100
    ),
    "names-portable": Scenes([make_named], "process", "portable", 500),  # it starts a process
    "threads": Scenes(OF_WORKERS, "thread", "shared", 10),
    "starts-thread": Scenes(OF_STARTS, "thread", "shared", 40),
    "ezq-thread": Scenes(OF_EZQ, "thread", "shared", 300),
    "ezq-process": Scenes(OF_EZQ, "process", "shared", 1500),
    "jobs-thread": Scenes(OF_JOBS, "thread", "shared", 400),
    "jobs-process": Scenes(OF_JOBS, "process", "shared", 1500),
    **{
        method: Scenes([*OF_WORKERS, *OF_STARTS], "process", "shared", 500)
        for method in launch.METHODS
    },
}


# -- the driver --------------------------------------------------------------------------------


_LEAKS = {"subprocess.py"}
"""Modules of the standard library that leave descriptors open which they have just opened."""


def await_end(pids: set[int]) -> None:
    """Wait for the end of processes that end by themselves."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            with open(os.pidfd_open(pid), "rb") as ended:
                select.select([ended], [], [], LIMIT_S)


def children() -> set[int]:
    """List the child processes of this one, also those that have ended and were not waited for."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return set(map(int, file.read().split()))


def play(scene: Callable[[str], Scene], kind: str, first: int, step: int) -> int:
    """Interrupt the call of a scene at each so-many-th instruction; return at how many it was."""
    interruption = Interruption()
    number, places = 0, set()
    before: tuple[int, set[int]] | None = None
    while True:
        act = scene(kind)
        call = next(act, None)
        if call is None:
            return 0
        returned, error = interruption.make(*call, number=number)
        reached, at = interruption.reached, interruption.raised_at
        try:
            assert error is None or type(error) is Interrupted, repr(error)
            assert returned or error is not None
            assert not reached or error is not None, "nobody was told of the interruption"
            error = call = None
            gc.collect()  # the exception's frames
            interruption.check_canaries()
            for _ in ["the rest"]:
                try:
                    act.send(returned)
                except StopIteration:
                    break
            del act
            returned.clear()
            gc.collect()
            await_threads()
            api.forget_ended()
            now = num_files(), children()
            # If this call has ended the fork server, another call starts the next one: so these
            # are never less than with a fork server.
            if before is None:
                before = now
            elif _LEAKS & interruption.raised_within:
                before = max(now[0], before[0]), max(now[1], before[1], key=len)
            else:
                if (more := now[1] - before[1]) and len(now[1]) > len(before[1]):
                    await_end(more)
                    gc.collect()
                    api.forget_ended()
                    now = num_files(), children()
                assert now[0] <= before[0], ("descriptors", before, now)
                assert len(now[1]) <= len(before[1]), ("processes", before, now)
                before = before[0], max(now[1], before[1], key=len)
        except BaseException as wrong:
            wrong.add_note(f"in {scene.__name__} at {number}: raised at {at}")
            raise
        if number and not reached and interruption.is_over:
            return len(places)
        number = number + step if number else first
        places.add(at)


def main(which: str, first: str, step: str, *chosen: str) -> None:
    """Play some scenes."""
    scenes, kind, transport, _ = SCENES[which]
    os.environ["QMILL_TRANSPORT"] = transport
    if which in launch.METHODS:
        os.environ["QMILL_START_METHOD"] = which
    has_failed = False
    with tempfile.TemporaryDirectory() as os.environ["QMILL_DIR"], unraisable() as lost:
        for scene in scenes:
            if chosen and scene.__name__ not in chosen:
                continue
            try:
                found = play(scene, kind, int(first), int(step))
                print(scene.__name__, found, flush=True)
            except Exception:
                has_failed = True
                traceback.print_exc(limit=-3)
                gc.collect()
    assert not lost, lost
    sys.exit(has_failed)


if __name__ == "__main__":
    main(*sys.argv[1:])
