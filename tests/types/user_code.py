"""Code of users, for type checkers (`make check`): each result has the type that is asserted.

A line with `type: ignore` is a mistake that a checker has to find: one that it does not find is
reported, as a comment that is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, assert_type

import pandas as pd

import qmill


def text_of(number: int) -> str:
    return str(number)


def add(left: int, right: float) -> float:
    return left + right


# -- queues ----------------------------------------------------------------------------------------

numbers = qmill.Queue[int](maxsize=3)
assert_type(numbers, qmill.Queue[int])
assert_type(numbers.get(timeout=1), int)
assert_type(numbers.get_nowait(), int)
assert_type(numbers.get_many(10), list[int])
assert_type(numbers.peek(), int)
assert_type(numbers.poisoned(), list[int])
assert_type(numbers.put_many([1, 2]), int)
for number in numbers:
    assert_type(number, int)
    numbers.release(number, delay=1.5)
numbers.put(1)
numbers.put("one")  # type: ignore[arg-type]
numbers.put_many(["one"])  # type: ignore[list-item]

declared: qmill.Queue[str] = qmill.Queue(name="words")
assert_type(declared.get(), str)
anything = qmill.Queue()
assert_type(anything, qmill.Queue[Any])
assert_type(anything.statistics(), qmill.Statistics)
assert_type(anything.statistics().lost, int)
assert_type(qmill.core_info().core, bool)
assert_type(qmill.core_info().why, str)

# -- messages and workers --------------------------------------------------------------------------

inbox = qmill.Q[int]()
assert_type(inbox.put(1).put(2, order=3).end(), qmill.Q[int])
inbox.put(qmill.Msg(3, kind="odd"))
inbox.put("three")  # type: ignore[arg-type]
for message in inbox:
    assert_type(message, qmill.Msg[int])
    assert_type(message.data, int)
    assert_type(message.kind, str)
for message in inbox.sorted():
    assert_type(message.order, int)
assert_type(list(inbox.items(sort=True)), list[qmill.Msg[int]])
assert_type(inbox.get(), qmill.Msg[int])
assert_type(qmill.Msg("x"), qmill.Msg[str])

worker = qmill.run(text_of, 3)
assert_type(worker, qmill.Worker[str])
assert_type(worker.result(), str)
assert_type(worker.exception(), BaseException | None)
assert_type(qmill.run_thread(add, 1, right=2.5).result(), float)
assert_type(qmill.Worker(text_of, (3,)).result(), str)
inbox.stop(worker).stop([worker])
qmill.run(text_of, "three")  # type: ignore[arg-type]
qmill.run(text_of)  # type: ignore[call-arg]
qmill.run_thread(add, 1, lift=2.5)  # type: ignore[call-arg]

# -- jobs ------------------------------------------------------------------------------------------

with qmill.JobQueue(2) as jobs:
    assert_type(jobs, qmill.JobQueue)
    job = jobs.put(text_of, (3,), priority=1, lane="a")
    assert_type(job, qmill.Job[str])
    assert_type(job.result(), str)
    assert_type(job.output, str | None)
    assert_type(jobs.submit(text_of, 3).result(), str)
    assert_type(jobs.submit(add, 1, right=2.5), qmill.Job[float])
    assert_type(jobs.options(priority=1).submit(text_of, 3), qmill.Job[str])
    assert_type(jobs.starmap(add, [(1, 2.5)]), list[qmill.Job[float]])
    assert_type(jobs.get(), qmill.Job[Any] | None)
    assert_type(jobs.frame(), pd.DataFrame)
    assert_type(qmill.frame(jobs), pd.DataFrame)
    jobs.submit(text_of, "three")  # type: ignore[arg-type]
    jobs.submit(add, 1, lift=2.5)  # type: ignore[call-arg]
    jobs.options(priority=1).submit(text_of, "three")  # type: ignore[arg-type]
    jobs.put(text_of, (3,), timeot=3)  # type: ignore[call-arg]
    qmill.JobQueue(2, nosuch=1)  # type: ignore[call-arg]

    future: Future[str] = jobs.submit(text_of, 1)
    executor: Executor = jobs
    job.settle  # type: ignore[attr-defined]
    job.let_go  # type: ignore[attr-defined]

# -- maps ------------------------------------------------------------------------------------------

assert_type(qmill.map(text_of, [1, 2]), Iterator[str])
assert_type(qmill.map(add, [1, 2], [1.5, 2.5], max_workers=2, ordered=False), Iterator[float])
assert_type(jobs.map(text_of, range(3), chunksize=2, timeout=5), Iterator[str])
assert_type(jobs.options(lane="a").map(text_of, range(3)), Iterator[str])
assert_type(jobs.map(lambda number: number + 1, [1]), Iterator[int])
assert_type(qmill.map(text_of, [1], return_exceptions=True), Iterator[str | BaseException])


def of_three(a: int, b: str, c: bytes) -> list[int]:
    return [a, len(b), len(c)]


def of_five(a: int, b: int, c: int, d: int, e: str) -> str:
    return e * (a + b + c + d)


def of_seven(*numbers: int) -> int:
    return sum(numbers)


assert_type(qmill.map(of_three, [1], "a", [b"b"]), Iterator[list[int]])
assert_type(jobs.map(of_five, [1], [2], [3], [4], "e"), Iterator[str])
assert_type(qmill.map(of_seven, [1], [2], [3], [4], [5], [6], [7]), Iterator[int])
qmill.map(text_of, ["three"])  # type: ignore[arg-type]
qmill.map(of_three, [1], [2], [b"b"])  # type: ignore[arg-type]
qmill.map(text_of, [1], workers=3)  # type: ignore[call-overload]
jobs.map(add, [1])  # type: ignore[arg-type]


@qmill.parallel(max_workers=6)
def shrink(path: str, size: int = 128) -> bytes:
    return path.encode()[:size]


assert_type(shrink(["a", "b"], size=3), list[qmill.Job[bytes]])
plain: Callable[[Iterable[int]], list[qmill.Job[str]]] = qmill.parallel(text_of)
shrink([1])  # type: ignore[list-item]
shrink(["a"], width=3)  # type: ignore[call-arg]

# -- the rest --------------------------------------------------------------------------------------

table = qmill.shared({"a": 1})
assert_type(table.value, dict[str, int])
assert_type(qmill.NUM_CPUS, int)
qmill.engines.Dask()
try:
    job.result(timeout=1)
except (qmill.WorkerDied, qmill.JobTimeout, qmill.LaneError) as error:
    raise qmill.QmillError("no") from error
