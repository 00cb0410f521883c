"""`qmill.compat.ezpq` and `ezpq01`: what programs written for ezpq do with them."""

from __future__ import annotations

import csv
import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conformance_support import output_of

import qmill
from qmill.compat import ezpq, ezpq01
from tests.limits import _no_test_hangs  # noqa: F401

both = pytest.mark.parametrize("module", [ezpq, ezpq01], ids=["ezpq", "ezpq01"])
runners = pytest.mark.parametrize(
    "runner", [multiprocessing.Process, threading.Thread], ids=["process", "thread"]
)

_CALL = ["timeout", "function", "args", "kwargs"]
_TIMES = ["submitted", "started", "ended", "processed"]
_END = ["exitcode", "cancelled", "runtime", "output"]
KEYS_01 = ["id", "name", "priority", *_CALL, *_TIMES, *_END, "callback"]
KEYS_02 = ["qid", "id", "name", "priority", "lane", *_CALL, *_TIMES, *_END, "exception", "callback"]


def double(x: int) -> int:
    return 2 * x


def reciprocal(x: float) -> float:
    return 1 / x


def wait_for(gate: qmill.Queue) -> Any:
    return gate.get()


def wait_for_signal(begun: qmill.Queue) -> None:
    begun.put("begun")
    signal.pause()


# -- records ---------------------------------------------------------------------------------------


@both
@runners
def test_a_record_has_the_keys_and_types_of_the_original(module: ModuleType, runner: Any) -> None:
    before = datetime.now() - timedelta(seconds=1)
    with module.Queue(job_runner=runner, n_workers=2) as q:
        assert q.put(double, [4], {}, priority=3) == 1
        assert q.put(double, args=5, name="five", timeout=0) == 2
        assert q.wait() == 0
        first, second = q.collect()
    assert list(first) == (KEYS_02 if module is ezpq else KEYS_01)
    known = {
        "id": 1,
        "name": 1,
        "priority": 3,
        "timeout": 0,
        "function": "double",
        "args": [4],
        "exitcode": 0,
        "cancelled": False,
        "output": 8,
        "callback": None,
    }
    assert {key: first[key] for key in known} == known
    assert before < first["submitted"] <= first["started"] <= first["ended"] <= first["processed"]
    assert first["runtime"] == pytest.approx(
        (first["ended"] - first["started"]).total_seconds(), abs=1e-5
    )
    assert (second["id"], second["name"], second["args"], second["kwargs"]) == (
        2,
        "five",
        [5],
        None,
    )


def test_records_of_02_have_a_queue_a_lane_and_an_exception() -> None:
    with ezpq.Queue(2, qid="mine") as q:
        q.put(reciprocal, 0, lane="fast")
        q.put(double, 1)
        q.wait()
        failed, done = q.collect()
    assert (failed["qid"], failed["lane"], done["lane"]) == ("mine", "fast", None)
    assert (failed["exitcode"], failed["output"], failed["cancelled"]) == (1, None, False)
    assert "ZeroDivisionError: division by zero" in failed["exception"]
    assert failed["exception"].startswith("Traceback")
    assert done["exception"] is None


def test_the_output_of_a_job_of_01_that_raised_is_the_message() -> None:
    with ezpq01.Queue(n_workers=1) as q:
        q.put(reciprocal, 0)
        q.wait()
        (record,) = q.collect()
    assert (record["output"], record["exitcode"]) == ("division by zero", 1)


@pytest.mark.parametrize(
    ("args", "in_02", "in_01"),
    [
        (None, [], []),
        ([1, 2], [1, 2], [1, 2]),
        ((1, 2), [1, 2], [(1, 2)]),
        (7, [7], [7]),
        (range(3), [0, 1, 2], [range(3)]),
    ],
)
def test_args_are_taken_as_the_original_takes_them(args: Any, in_02: Any, in_01: Any) -> None:
    for module, expected in ((ezpq, in_02), (ezpq01, in_01)):
        with module.Queue(n_workers=1, job_runner=threading.Thread) as q:
            q.put(lambda *args, **kwargs: [list(args), kwargs], args, {"key": 1})
            q.wait()
            (record,) = q.collect()
        assert record["output"] == [expected, {"key": 1}]
        assert record["args"] == (expected or None)


@both
def test_a_timed_out_job_is_cancelled_and_was_terminated(module: ModuleType) -> None:
    begun = qmill.Queue()
    with module.Queue(n_workers=1) as q:
        job = module.Job(wait_for_signal, [begun], timeout=0.2)
        q.submit(job)
        begun.get()
        assert job.is_running()
        q.wait()
        (record,) = q.collect()
    assert (record["cancelled"], record["exitcode"], record["output"]) == (True, -15, None)
    assert record.get("exception") is None
    assert record["runtime"] >= 0.2
    assert record["timeout"] == 0.2


@both
def test_a_job_whose_process_exits_tells_how(module: ModuleType) -> None:
    with module.Queue(n_workers=1) as q:
        q.put(os._exit, 3)
        q.wait()
        (record,) = q.collect()
    assert (record["exitcode"], record["cancelled"]) == (3, False)
    assert "3" in str(record["exception" if module is ezpq else "output"])


def test_suppressed_errors_have_the_exit_code_of_the_original(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with ezpq.Queue(1) as q:
        q.put(reciprocal, 0, suppress_errors=True)
        q.put(double, 1, suppress_errors=True)
        q.wait()
        codes = [record["exitcode"] for record in q.collect()]
    assert codes == [-1, 0]
    assert not caplog.records


def test_what_nobody_has_fetched_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with ezpq.Queue(1) as q:
        q.put(reciprocal, 0)
        q.wait()
    gc.collect()
    assert "ZeroDivisionError" in caplog.text


# -- a job -----------------------------------------------------------------------------------------


@both
def test_a_job_can_be_asked_at_any_time(module: ModuleType) -> None:
    gate, begun = qmill.Queue(), qmill.Queue()
    job = module.Job(lambda: [begun.put(1), gate.get()][1], name="asked", priority=5)
    told = [job.is_running(), job.is_expired(), job.is_processed(), job.get_exitcode()]
    assert told == [False, False, False, None]
    assert [job.get_submit_time(), job.run_time(), job.waiting_time(), job.total_time()] == [
        None
    ] * 4
    assert {key: job.to_dict()[key] for key in ("id", "name", "function", "cancelled")} == {
        "id": None,
        "name": "asked",
        "function": "<lambda>",
        "cancelled": False,
    }
    with module.Queue(n_workers=1) as q:
        assert q.submit(job) == 1
        begun.get()
        assert job.is_running()
        assert not job.is_expired()
        assert job.run_time() is None
        assert job.total_time() >= job.waiting_time() >= 0
        gate.put("output")
        q.wait()
        assert (job.is_running(), job.is_processed(), job.get_exitcode()) == (False, True, 0)
        times = job.get_submit_time(), job.get_start_time(), job.get_end_time()
        assert sorted(times) == list(times)
        assert job.get_processed_time() >= times[-1]
        assert job.total_time() == pytest.approx(job.waiting_time() + job.run_time(), abs=1e-3)
        assert q.get() == job.to_dict()
        assert str(job) == str(job.to_dict())


@both
def test_a_job_without_a_name_is_named_by_its_id(module: ModuleType) -> None:
    job = module.Job(double, 1)
    with module.Queue(n_workers=1) as q:
        q.put(double, 0)
        q.submit(job)
        assert job.name == 2
        q.wait()


# -- processes -------------------------------------------------------------------------------------

setting = 0


def tell_setting() -> tuple[int, int]:
    return setting, os.getpid()


@both
def test_each_job_is_a_fork_of_the_program_as_it_is_then(module: ModuleType) -> None:
    global setting
    with module.Queue(n_workers=2) as q:
        for value in range(4):
            setting = value
            q.put(tell_setting)
            q.wait()
        outputs = [record["output"] for record in q.collect()]
    assert [value for value, _ in outputs] == [0, 1, 2, 3]
    assert len({pid for _, pid in outputs} | {os.getpid()}) == 5


@both
def test_arguments_that_cannot_be_pickled_are_inherited(module: ModuleType) -> None:
    context = multiprocessing.get_context("fork")
    queue, lock, generator = context.SimpleQueue(), context.Lock(), iter([5])

    def work(queue: Any, lock: Any, generator: Any) -> int:
        with lock:
            queue.put("from a job")
        return int(next(generator))

    with module.Queue(n_workers=1) as q:
        for _ in range(2):
            q.put(work, [queue, lock, generator])
        q.wait()
        assert [record["output"] for record in q.collect()] == [5, 5]
        assert [queue.get(), queue.get()] == ["from a job"] * 2
    queue.close()


@both
def test_large_results_hang_nobody(module: ModuleType) -> None:
    with module.Queue(n_workers=2) as q:
        for _ in range(4):
            q.put(bytes, 1_000_000)
        q.wait()
        assert [len(record["output"]) for record in q.collect()] == [1_000_000] * 4


# -- order -----------------------------------------------------------------------------------------


@both
def test_jobs_run_and_are_collected_by_priority(module: ModuleType) -> None:
    began: list[int] = []
    with module.Queue(n_workers=1, job_runner=threading.Thread, auto_start=False) as q:
        for number in range(20):
            q.put(began.append, number, priority=number % 3)
        q.start()
        q.wait()
        collected = [record["args"][0] for record in q.collect()]
    expected = sorted(range(20), key=lambda number: number % 3)
    assert began == expected
    assert collected == expected


def test_jobs_of_a_lane_run_one_after_another_and_stop_at_an_error() -> None:
    def work(x: int) -> float:
        return 1 / x

    with ezpq.Queue(4) as q:
        for lane in range(2):
            for x in (1, lane, 2):
                q.put(work, x, lane=lane, suppress_errors=True, stop_on_lane_error=True)
            q.put(work, 4, lane=lane)
        q.wait()
        records = q.collect()
    assert [record["output"] for record in records] == [1, None, None, 0.25, 1, 1, 0.5, 0.25]
    stopped = records[2]
    assert (stopped["exitcode"], stopped["cancelled"], stopped["started"]) == (-1, True, None)
    assert (stopped["ended"], stopped["runtime"]) == (None, None)
    assert "failed" in stopped["exception"]
    lane = records[4:]
    assert all(a["ended"] <= b["started"] for a, b in zip(lane, lane[1:], strict=False))


# -- waiting and fetching --------------------------------------------------------------------------


@both
def test_get_waits_only_if_it_is_told_to(module: ModuleType) -> None:
    gate = qmill.Queue()
    with module.Queue(n_workers=1) as q:
        assert q.get() is None
        assert q.get(timeout=30) is None  # no job is there that could end
        assert q.get(poll=0.1) is None
        q.put(wait_for, [gate])
        assert q.get() is None
        assert q.get(timeout=0.01) is None
        gate.put(1)
        assert q.get(timeout=30)["output"] == 1
        q.put(double, 1)
        assert q.get(poll=0.1)["output"] == 2
    assert q.get() is None


def test_get_of_02_has_a_wait_of_its_own() -> None:
    with ezpq.Queue(1) as q:
        q.put(double, 3)
        assert q.get(wait=True)["output"] == 6
        assert q.get(wait=True) is None


def test_wait_of_01_waits_for_so_many() -> None:
    gate = qmill.Queue()
    with ezpq01.Queue(n_workers=4) as q:
        for _ in range(4):
            q.put(wait_for, [gate])
        assert q.wait(n=2, timeout=0.01) == 2
        assert q.wait(timeout=0.01) == 4
        gate.put_many("ab")
        assert [q.get(timeout=30)["output"] for _ in "ab"] != [None, None]
        gate.put_many("cd")  # `wait` counts from now on, but never more jobs than there are
        assert q.wait(n=2) == 0
        assert q.wait(n=10) == 0
        assert q.size(completed=True) == 2


def test_wait_of_02_tells_how_many_are_left() -> None:
    gate = qmill.Queue()
    with ezpq.Queue(2) as q:
        for _ in range(3):
            q.put(wait_for, [gate])
        assert q.wait(timeout=0.01) == 3
        assert q.wait(0.5, 0.01) == 3
        gate.put_many("abc")
        assert q.wait() == 0


@both
def test_wait_worker_tells_whether_a_worker_is_free(module: ModuleType) -> None:
    gate = qmill.Queue()
    with module.Queue(n_workers=2) as q:
        assert q.wait_worker()
        q.put(wait_for, [gate])
        assert q.wait_worker()
        q.put(wait_for, [gate])
        assert not q.wait_worker(timeout=0.01)
        assert q.is_busy()
        gate.put(1)
        assert q.wait_worker()
        gate.put(1)
        q.wait()


@both
def test_collect_takes_up_to_so_many(module: ModuleType) -> None:
    with module.Queue(n_workers=2) as q:
        for number in range(5):
            q.put(double, number)
        q.wait()
        assert [record["id"] for record in q.collect(2)] == [1, 2]
        assert q.size() == 3
        assert [record["id"] for record in q.collect()] == [3, 4, 5]
        assert q.collect() == []


# -- counts and states -----------------------------------------------------------------------------


@both
def test_sizes_and_states_tell_what_there_is(module: ModuleType) -> None:
    begun, gate = qmill.Queue(), qmill.Queue()
    with module.Queue(n_workers=2) as q:
        assert q.is_empty()
        assert (q.n_workers(), q.n_workers_free()) == (2, 2)
        for _ in range(3):
            q.put(lambda: [begun.put(1), gate.get()])
        begun.get_many(1), begun.get_many(1)
        parts = q.size(waiting=True), q.size(working=True), q.size(completed=True)
        assert (parts, q.size(), q.size(True, True)) == ((1, 2, 0), 3, 3)
        assert q.is_working()
        assert q.is_busy()
        assert q.n_workers_free() == 0
        assert (q.n_submitted(), q.n_completed(), q.remaining_jobs()) == (3, 0, 3)
        gate.put_many("abc")
        q.wait()
        assert (q.n_submitted(), q.n_completed(), q.remaining_jobs()) == (3, 3, 0)
        assert not q.is_working()
        assert not q.is_busy()
        assert not q.is_empty()


def test_01_has_words_for_its_parts() -> None:
    q = ezpq01.Queue(n_workers=1, auto_start=False)
    assert (q.is_started(), q.has_waiting(), q.has_work(), q.has_completed()) == (False,) * 4
    q.put(double, 1)
    assert (q.has_waiting(), q.has_work(), q.has_completed()) == (True, True, False)
    q.start()
    assert q.is_started()
    q.wait()
    assert (q.has_waiting(), q.has_work(), q.has_completed()) == (False, False, True)
    q._stop()
    assert not q.is_started()
    q.clear()
    assert q.is_empty()
    assert q.n_submitted() == 0


@both
def test_a_full_queue_refuses_jobs_until_some_are_fetched(module: ModuleType) -> None:
    with module.Queue(max_size=2, n_workers=1) as q:
        q.put(double, 1)
        assert not q.is_full()
        q.put(double, 2)
        assert q.is_full()
        q.wait()
        with pytest.raises(Exception, match=r"^Max size exceeded\.$") as raised:
            q.put(double, 3)
        assert raised.type is Exception
        q.get()
        assert q.put(double, 3) == 3
        q.wait()


@both
def test_workers_can_be_added_while_jobs_run(module: ModuleType) -> None:
    begun, gate = qmill.Queue(), qmill.Queue()
    with module.Queue(n_workers=1) as q:
        for _ in range(2):
            q.put(lambda: [begun.put(1), gate.get()])
        begun.get()
        q.set_workers(2)
        begun.get()
        assert (q.n_workers(), q.size(working=True)) == (2, 2)
        gate.put_many("ab")
        q.wait()


@both
def test_arguments_that_the_original_asserts_are_refused(module: ModuleType) -> None:
    with pytest.raises(AssertionError, match="job_runner"):
        module.Queue(job_runner=multiprocessing.Pool)
    with (
        module.Queue(job_runner=threading.Thread) as q,
        pytest.raises(AssertionError, match="kill"),
    ):
        q.put(double, 1, timeout=5)
    with module.Queue(auto_remove=True, n_workers=1) as q:
        q.put(double, 1)
        q.wait()
        assert q.size() == 0
        with pytest.raises(AssertionError, match="auto_remove"):
            q.get()


# -- starting and ending ---------------------------------------------------------------------------


@both
def test_nothing_runs_before_start(module: ModuleType) -> None:
    with module.Queue(auto_start=False, n_workers=1) as q:
        q.put(double, 1)
        assert q.wait(timeout=0.01) == 1
        q.start()
        assert q.wait() == 0
        q._stop()
        q.put(double, 1)
        assert q.wait(timeout=0.01) == 1


def test_is_running_tells_whether_02_runs_jobs() -> None:
    q = ezpq.Queue(1, auto_start=False)
    assert not q.is_running
    q.start()
    assert q.is_running
    q.dispose()
    with ezpq.Queue(1, auto_stop=True) as q:
        q.put(double, 1)
        q.wait()
        assert not q.is_running


def test_stop_all_of_02_ends_what_waits_and_what_runs() -> None:
    begun = qmill.Queue()
    with ezpq.Queue(1) as q:
        for _ in range(3):
            q.put(wait_for_signal, [begun])
        begun.get()
        q.stop_all()
        records = q.collect()
    assert [(r["exitcode"], r["cancelled"]) for r in records] == [
        (-15, True),
        (None, True),
        (None, True),
    ]
    assert [r["ended"] is None for r in records] == [False, True, True]


def test_stop_all_of_01_lets_those_that_wait_run() -> None:
    begun = qmill.Queue()
    with ezpq01.Queue(n_workers=1) as q:
        q.put(wait_for_signal, [begun])
        q.put(double, 4)
        begun.get()
        q.stop_all(wait=True)
        assert [record["output"] for record in q.collect()] == [None, 8]


def test_clear_waiting_leaves_alone_what_runs() -> None:
    begun, gate = qmill.Queue(), qmill.Queue()
    with ezpq.Queue(1) as q:
        q.put(lambda: [begun.put(1), gate.get()][1])
        q.put(double, 1)
        begun.get()
        q.clear_waiting()
        assert q.size(waiting=True) == 0
        gate.put("done")
        q.wait()
        assert [record["output"] for record in q.collect()] == ["done", None]
        assert q.remaining_jobs() == 0


@both
def test_leaving_the_block_ends_what_runs(module: ModuleType) -> None:
    begun = qmill.Queue()
    with module.Queue(n_workers=1) as q:
        q.put(wait_for_signal, [begun])
        q.put(wait_for_signal, [begun])
        begun.get()
    assert (q.size(), q.n_submitted()) == (0, 0)
    assert begun.empty()


@both
def test_a_queue_can_be_used_again_after_dispose(module: ModuleType) -> None:
    q = module.Queue(n_workers=1)
    for _ in range(2):
        assert q.put(double, 1) == 1
        q.wait()
        q.dispose()
    q.dispose()


# -- the decorator, and maps -----------------------------------------------------------------------


@pytest.mark.parametrize(("module", "name"), [(ezpq, "iterable"), (ezpq01, "items")])
def test_a_decorated_function_can_be_called_as_often_as_you_like(
    module: ModuleType, name: str
) -> None:
    @module.Queue(n_workers=2)
    def power(x: int, k: int = 1) -> int:
        return x**k

    assert [r["output"] for r in power(range(4), 2)] == [0, 1, 4, 9]
    assert [r["output"] for r in power(**{name: [2, 3]}, k=3)] == [8, 27]


def test_maps_collect_the_records_in_order() -> None:
    with ezpq.Queue(2) as q:
        mapped = q.map(pow, range(3), args=2)
        assert [r["output"] for r in mapped] == [0, 1, 4]
        assert [r["args"] for r in q.map(max, [1, 5], args=[3, 4])] == [[1, 3, 4], [5, 3, 4]]
        assert [r["output"] for r in q.starmap(pow, [[2, 3], (3, 2)], timeout=30)] == [8, 9]
        assert [r["output"] for r in q.starmap(pow, [[2], [3]], args=[2])] == [4, 9]
        keyed = q.starmapkw(dict, [{"a": 1}, {"a": 2}], kwargs={"b": 3})
        assert [r["output"] for r in keyed] == [{"a": 1, "b": 3}, {"a": 2, "b": 3}]


# -- callbacks and logs ----------------------------------------------------------------------------


@both
def test_the_callback_gets_the_record_of_each_job_that_ran(module: ModuleType) -> None:
    told: list[dict[str, Any]] = []

    def callback(record: dict[str, Any]) -> str:
        told.append(record)
        if record["output"] == 2:
            raise ValueError("not this one")
        return "told"

    with module.Queue(n_workers=1, callback=callback) as q:
        q.put(double, 0)
        q.put(double, 1)
        q.wait()
        records = q.collect()
    assert [record["output"] for record in told] == [0, 2]
    assert [(type(record), record["processed"]) for record in told] == [(dict, None)] * 2
    assert [record["callback"] for record in records] == ["told", "not this one"]


def test_the_callback_is_not_told_of_jobs_that_never_ran() -> None:
    told: list[Any] = []
    with ezpq.Queue(1, auto_start=False, callback=told.append) as q:
        q.put(double, 0)
        q.clear_waiting()
        q.wait()
        assert len(q.collect()) == 1
    assert told == []


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@both
def test_the_log_has_the_columns_of_the_original(module: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    for _ in range(2):
        with module.Queue(n_workers=1, log_file=str(path)) as q:
            q.put(double, 21)
            q.wait()
    rows = read(path)
    assert list(rows[0]) == (KEYS_02 if module is ezpq else KEYS_01)
    assert [(row["function"], row["output"], row["timeout"]) for row in rows] == [
        ("double", "42", "0")
    ] * 2


@both
def test_log_csv_writes_a_record(module: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    assert module.Queue.log_csv({"a": 1, "b": "x"}, path) == 0
    assert module.Queue.log_csv({"a": 2, "b": None}, path) == 0
    assert read(path) == [{"a": "1", "b": "x"}, {"a": "2", "b": ""}]
    assert module.Queue.log_csv({"c": 3}, path, append=False) == 0
    assert read(path) == [{"c": "3"}]
    assert module.Queue.log_csv({"c": 3}, tmp_path) == -1
    assert module.Queue.log_csv({"d": 3}, path) == -1  # its rows are others
    assert read(path) == [{"c": "3"}]


@both
def test_a_log_file_of_somebody_else_is_refused(module: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "accounts.csv"
    path.write_text("id,amount\n1,5\n")
    with pytest.raises(ValueError, match="'id,amount'"):
        module.Queue(n_workers=1, log_file=str(path))
    assert path.read_text() == "id,amount\n1,5\n"


@both
def test_logging_tells_what_happens(module: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), module.Queue(n_workers=1) as q:
        q.put(double, 1)
        q.wait()
    for line in ("Initialized queue with 1 workers.", "Queued job: '1'", "Completed job: '1'"):
        assert line in caplog.text


# -- programs --------------------------------------------------------------------------------------

PROGRAM = """
import sys, qmill.compat.{module}
sys.modules["ezpq"] = qmill.compat.{module}

import ezpq
from ezpq import Job, Queue

@ezpq.Queue(n_workers=2)
def double(x):
    return FACTOR * x

FACTOR = 2
print([job["output"] for job in double(range(4))])
Q = Queue()  # never disposed of
for x in range(3):
    Q.submit(Job(lambda x: x * x, args=x))
Q.wait()
print([job["output"] for job in Q.collect()])
"""


@pytest.mark.parametrize("module", ["ezpq", "ezpq01"])
@pytest.mark.parametrize("how", ["file", "-c", "-"])
def test_a_program_runs_unchanged_under_the_old_name(module: str, how: str, tmp_path: Path) -> None:
    printed = output_of(PROGRAM.format(module=module), how, tmp_path)
    assert printed == ("[0, 2, 4, 6]\n[0, 1, 4]\n", "")


# -- plots and progress ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def records() -> dict[ModuleType, list[dict[str, Any]]]:
    collected = {}
    for module in (ezpq, ezpq01):
        with module.Queue(n_workers=1, job_runner=threading.Thread) as q:
            for number in range(4):
                q.put(reciprocal, [number], priority=number % 2)
            q.wait()
            collected[module] = q.collect()
    return collected


def saved(chart: Any, path: Path) -> bool:
    chart.save(path, verbose=False, width=4, height=3, dpi=50)
    return path.stat().st_size > 1000


def test_a_plot_of_02_takes_its_look_when_it_is_built(
    records: dict[ModuleType, list[dict[str, Any]]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plot = ezpq.Plot(records[ezpq])
    assert list(plot.jobs_df["id"]) == [1, 3, 2, 4]
    look = {"color_by": "exitcode", "facet_by": "priority", "title": "Errors", "theme": "538"}
    chart = plot.build(**look, show_legend=False, color_pal=["red", "blue"])
    assert saved(chart, tmp_path / "chart.png")
    assert not caplog.records
    chart = plot.build(**look, color_pal=["red"])
    assert "color_pal is not used" in caplog.text
    with pytest.raises(ValueError, match="color_by"):
        plot.build(color_by="no such thing")


def test_a_plot_of_01_takes_its_look_when_it_is_made(
    records: dict[ModuleType, list[dict[str, Any]]], tmp_path: Path
) -> None:
    chart = ezpq01.Plot(records[ezpq01], color_by="exitcode", title="Errors").build()
    assert saved(chart, tmp_path / "chart.png")
    assert chart.labels.title == "Errors"


def test_progress_is_shown_where_somebody_sees_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with ezpq.Queue(1) as q:
        assert [r["output"] for r in q.map(double, range(3), show_progress=True)] == [0, 2, 4]
        q.put(double, 1)
        assert q.wait(show_progress=True) == 0
        q.put(double, 1)
        assert q.waitpb() == 0
    assert "3/3" in capsys.readouterr().err
