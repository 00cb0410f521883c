"""Random programs on `qmill.compat.ezpq` and `ezpq01`, beside a plain model of what ezpq promises.

What waits runs when the program says so: then all of it, by priority, of equals the oldest first,
jobs of a lane one after another, on one worker or on several.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import Process
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings, strategies as st

from qmill.compat import ezpq, ezpq01
from tests.limits import _no_test_hangs  # noqa: F401

MAX_SIZE = 12


class Call(NamedTuple):
    """A job as the program wants it."""

    priority: int
    lane: str | None
    fails: bool
    stop_on_lane_error: bool


@dataclass
class Model:
    """What ezpq promises, without any worker."""

    has_lanes: bool
    waiting: dict[int, Call] = field(default_factory=dict)
    completed: dict[tuple[int, int], str] = field(default_factory=dict)  # by priority and id
    ran: list[int] = field(default_factory=list)
    lanes: dict[int, str | None] = field(default_factory=dict)
    num_put: int = 0

    def size(self) -> int:
        return len(self.waiting) + len(self.completed)

    def put(self, call: Call) -> int:
        self.num_put += 1
        self.waiting[self.num_put] = call
        self.lanes[self.num_put] = call.lane
        return self.num_put

    def complete(self, number: int, outcome: str) -> None:
        self.completed[self.waiting.pop(number).priority, number] = outcome

    def in_turn(self) -> list[int]:
        return sorted(self.waiting, key=lambda number: (self.waiting[number].priority, number))

    def run(self) -> None:
        while self.waiting:
            number = self.in_turn()[0]
            call = self.waiting[number]
            self.ran.append(number)
            self.complete(number, "failed" if call.fails else "done")
            if call.fails and call.lane is not None:
                self.stop_lane(call.lane)

    def stop_lane(self, lane: str) -> None:
        for number in self.in_turn():
            if self.waiting[number].lane == lane:
                if not self.waiting[number].stop_on_lane_error:
                    break
                self.complete(number, "stopped")

    def stop_all(self) -> None:
        for number in self.in_turn() if self.has_lanes else []:
            self.complete(number, "cleared")  # 0.1 stops what runs, and nothing runs now

    def collect(self, n: int) -> list[tuple[int, str]]:
        keys = sorted(self.completed)[: n or None]
        return [(key[1], self.completed.pop(key)) for key in keys]

    def dispose(self) -> None:
        self.waiting.clear()
        self.completed.clear()
        self.ran.clear()
        self.num_put = 0

    def ran_in(self, lane: str | None, ran: list[int]) -> list[int]:
        return [number for number in ran if self.lanes[number] == lane]


class Program:
    """Does the same with a queue and with the model, and compares what both tell."""

    def __init__(self, module: ModuleType, runner: Any, n_workers: int) -> None:
        self.module = module
        self.model = Model(has_lanes=module is ezpq)
        self.ran: list[int] = []
        self.in_threads = runner is threading.Thread
        self.n_workers = n_workers
        self.queue = module.Queue(
            job_runner=runner, n_workers=n_workers, max_size=MAX_SIZE, auto_start=False
        )

    def work(self, number: int, fails: bool) -> int:
        self.ran.append(number)
        if fails:
            raise ValueError("as it was told to")
        return number

    def put(self, call: Call) -> None:
        options: dict[str, Any] = {}
        if self.module is ezpq:
            options = {
                "lane": call.lane,
                "stop_on_lane_error": call.stop_on_lane_error,
                "suppress_errors": True,
            }
        else:
            call = call._replace(lane=None)
        args = [self.model.num_put + 1, call.fails]
        put = lambda: self.queue.put(self.work, args, priority=call.priority, **options)  # noqa: E731
        if self.model.size() >= MAX_SIZE:
            with pytest.raises(Exception, match="Max size exceeded"):
                put()
        else:
            assert put() == self.model.put(call)

    def run(self) -> None:
        self.queue.start()
        assert self.queue.wait() == 0
        self.queue._stop()
        self.model.run()

    def wait(self) -> None:
        assert self.queue.wait(timeout=0.001) == len(self.model.waiting)

    def stop_all(self) -> None:
        self.queue.stop_all(wait=False)
        self.model.stop_all()

    def get(self) -> None:
        record = self.queue.get()
        assert ([] if record is None else [self.told(record)]) == self.model.collect(1)

    def collect(self, n: int) -> None:
        assert [self.told(record) for record in self.queue.collect(n)] == self.model.collect(n)

    def dispose(self) -> None:
        self.end()
        self.queue._stop()
        self.model.dispose()
        self.ran.clear()

    def end(self) -> None:
        self.queue.collect()  # a failure that nobody has fetched would be logged
        self.queue.dispose()

    def told(self, record: dict[str, Any]) -> tuple[int, str]:
        if record["cancelled"]:
            assert (record["started"], record["runtime"], record["output"]) == (None, None, None)
            return record["id"], "stopped" if record["exception"] else "cleared"
        assert record["submitted"] <= record["started"] <= record["ended"] <= record["processed"]
        if record["exitcode"] == 0:
            assert record["output"] == record["id"] == record["name"]
            return record["id"], "done"
        assert record["exitcode"] == (-1 if self.module is ezpq else 1)
        return record["id"], "failed"

    def check(self) -> None:
        queue, model = self.queue, self.model
        parts = len(model.waiting), 0, len(model.completed)
        assert (queue.size(waiting=True), queue.size(working=True), queue.size(completed=True)) == (
            parts
        )
        assert queue.size() == model.size()
        assert queue.is_empty() == (model.size() == 0)
        assert queue.is_full() == (model.size() == MAX_SIZE)
        assert queue.n_submitted() == model.num_put
        assert queue.remaining_jobs() == len(model.waiting)
        assert queue.is_busy() == bool(model.waiting)
        if not self.in_threads:
            return  # those of processes stay there
        assert sorted(self.ran) == sorted(model.ran)
        if self.n_workers == 1:
            assert self.ran == model.ran
        for lane in ("a", "b"):
            assert model.ran_in(lane, self.ran) == model.ran_in(lane, model.ran)


calls = st.builds(
    Call, st.integers(-2, 2), st.sampled_from([None, "a", "b"]), st.booleans(), st.booleans()
)
steps: st.SearchStrategy[Callable[[Program], None]] = st.one_of(
    calls.map(lambda call: lambda program: program.put(call)),
    calls.map(lambda call: lambda program: program.put(call)),
    st.integers(0, 4).map(lambda n: lambda program: program.collect(n)),
    st.sampled_from([Program.get, Program.run, Program.run, Program.wait]),
    st.sampled_from([Program.stop_all, Program.dispose]),
)


def compare(
    module: ModuleType, runner: Any, n_workers: int, program: list[Callable[[Program], None]]
) -> None:
    both = Program(module, runner, n_workers)
    try:
        for step in program:
            step(both)
            both.check()
    finally:
        both.end()


@pytest.mark.parametrize("n_workers", [1, 3])
@pytest.mark.parametrize("module", [ezpq, ezpq01], ids=["ezpq", "ezpq01"])
def test_random_programs_with_threads(module: ModuleType, n_workers: int) -> None:
    @settings(max_examples=200, deadline=None)
    @given(st.lists(steps, max_size=40))
    def run(program: list[Callable[[Program], None]]) -> None:
        compare(module, threading.Thread, n_workers, program)

    run()


@pytest.mark.parametrize("module", [ezpq, ezpq01], ids=["ezpq", "ezpq01"])
def test_random_programs_with_processes(module: ModuleType) -> None:
    @settings(max_examples=20, deadline=None)
    @given(st.lists(steps, max_size=25))
    def run(program: list[Callable[[Program], None]]) -> None:
        compare(module, Process, 2, program)

    run()
