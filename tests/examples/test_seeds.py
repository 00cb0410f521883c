"""Every program in examples/seeds runs as a user runs it, and prints what it should."""

from __future__ import annotations

import ast
import secrets
from typing import NamedTuple

import pytest

from . import programs

SEEDS = programs.ROOT / "examples" / "seeds"
MAX_LINES = 50


class Case(NamedTuple):
    """A run of a program, and pieces of its output in the order in which they appear."""

    file: str
    output: list[str]
    argument: str = ""


def successor(number: int) -> int:
    return 3 * number + 1 if number % 2 else number // 2


GOT = ["> got "] * 10
TEN_SENT = [*GOT, "sent 10, received 10\n"]
SQUARES = "[0, 1, 4, 9, 16, 25, 36, 49, 64, 81]"

CASES = [
    Case("sum_messages.py", ["total: 499500\n"]),
    Case("read_and_write_threads.py", ["".join(f"{n} -> {successor(n)}\n" for n in range(40))]),
    Case("read_and_write_processes.py", ["1: 0 steps\n2: 1 steps\n3: 7 steps\n", "27: 111 steps"]),
    Case("three_queue_pipeline.py", ["can: 10\n", "a: 5\n", "canner: 3\n"]),
    Case("thread_database.py", ["100 rows, sum of squares: 328350\n"]),
    Case("items_sorted.py", ["[0, 1, 4, 9, 16, 25, ", "324, 361]\n"]),
    Case("items_cached.py", ["100 numbers with a mean of 0.", " of them above it\n"]),
    Case("ways_to_end.py", ["['by hand'] ['what is there'] ['AND', 'BY', 'WORKERS']\n"]),
    Case("queue_blocking.py", TEN_SENT),
    Case("queue_nonblocking.py", TEN_SENT),
    Case("queue_timeout.py", TEN_SENT),
    *(
        Case("queue_plain_processes.py", ["sum of squares: 285\n"], method)
        for method in ("", "fork", "forkserver", "spawn")
    ),
    Case(
        "queue_bounded.py",
        [
            "full: no room right now\nfull: no room in 10 ms either\n",
            "received [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n",
        ],
    ),
    Case("queue_none_handed_on.py", ["3 consumers stopped, total: 9900\n"]),
    Case(
        "queue_order_and_size.py",
        ["3 items, full: True, next: A\n", "got ['A', 'B', 'C'], empty: True\n"],
    ),
    *(Case("pool_argument.py", GOT, method) for method in ("", "fork", "forkserver", "spawn")),
    Case("pool_inherited_global.py", GOT),
    Case("pool_manager_queue.py", [f"manager.Queue: {SQUARES}\nqmill.Queue: {SQUARES}\n"]),
    *(
        Case("executor_argument.py", [f"10 tasks done: {SQUARES}\n"], method)
        for method in ("", "fork", "forkserver", "spawn")
    ),
    Case(
        "queue_over_queue.py",
        [
            "even: {0: 0, 2: 4, 4: 16, 6: 36, 8: 64}\n",
            "odd: {1: 1, 3: 9, 5: 25, 7: 49, 9: 81}\n",
        ],
    ),
    Case("unguarded_lambda.py", ["[11, 100]\n"]),
    Case("unguarded_closure.py", ["[0, 3, 6, 9, 12, 15, 18, 21, 24, 27]\n"]),
    Case("unguarded_class.py", ["[Point(x=0, y=0), Point(x=10, y=1), Point(x=20, y=2)]\n"]),
    Case("map_quick_start.py", ["[0, 2, 4, 6, 8, 10]\n"]),
    Case("jobs_quick_start.py", ["".join(f"{n + 1} job {n} has slept\n" for n in range(10))]),
    Case(
        "jobs_sizes.py",
        [
            "10 in all: 10 waiting, 0 working, 0 completed\n",
            "10 in all: 5 waiting, 2 working, 3 completed\n",
            "10 in all: 0 waiting, 0 working, 10 completed\n",
            "0 in all: 0 waiting, 0 working, 0 completed\n",
        ],
    ),
    Case(
        "jobs_wait_timeout.py",
        [*(f"time is up, jobs remaining: {n}\n" for n in (4, 3, 2, 1)), "jobs remaining: 0\n"],
    ),
    Case(
        "jobs_get_loop.py",
        [
            *(f"nothing yet, jobs remaining: {n}\n" for n in (4, 3, 2, 1)),
            "jobs remaining: 0, outputs: [0, 2, 4, 6]\n",
        ],
    ),
    Case(
        "jobs_collect.py",
        ["10 jobs before, 0 after\n", "[729, 512] [343, 216, 125, 64, 27, 8, 1, 0]\n"],
    ),
    Case(
        "jobs_decorator.py",
        [
            "steps: [0, 1, 7, 2, 5, 8, 16, 3, 19, 6]\nand 100: [100, 101, 107, 102, ",
            "id: 7\nfunction: collatz_steps\nargs: [7]\noutput: 16\nexitcode: 0\nstate: done\n",
        ],
    ),
    Case("jobs_priority.py", ["began: ['the last to come', 5, 10, 15, 20, 1, 2] ...\n"]),
    Case("jobs_lanes.py", [f"{p}: fetch, shrink, store\n" for p in ("cat", "dog", "owl")]),
    Case(
        "jobs_lane_error.py",
        [
            "red: compile has failed: a semicolon is missing\n",
            "red: link was cancelled\nred: ship was cancelled\nred: tidy up is done\n",
            "green: compile is done\ngreen: link is done\n",
        ],
    ),
    Case("jobs_starmap.py", ["[1024, 1000, 31]\n"]),
    Case("jobs_starmapkw.py", ["Hello, Ada!\nWelcome, Grace!\nHello, Alan!\n"]),
    Case("ezq_map.py", ["[0, 2, 4, 6, 8, 10] [32, 81, 64] [1, 2, 0]\n"]),
    Case("ezq_sum_messages.py", ["total: 499500\n"]),
    Case("ezq_read_and_write.py", ["0.0 0.0\n1.0 4.0\n2.0 1.0\n", "38.0 19.0\n39.0 118.0\n"]),
    Case("ezq_items.py", ["[30, 0, 20, 10] [0, 10, 20, 30] [('NOTE', 'as it is')]\n"]),
    Case("ezq2_sum_messages.py", ["total: 499500\n"]),
    Case("ezq2_sorted.py", ["0 0.0\n1 4\n2 1.0\n", "38 19.0\n39 118\n['LAST']\n"]),
    Case("ezq2_q.py", ["[0.0, 4, 1.0, 10, 2.0, ", " 28] [0, 2, 4, 6, 8, 10] ['a-b', 'c+d']\n"]),
    Case("ezpq_quick_start.py", ["args: [0]\nexitcode: 0\nfunction: random_sleep\nid: 1\n"]),
    Case("ezpq_jobs.py", ["sizes: 20 0 0 20\n[0, 2, 4, ", "18, 1, 3, 5, ", "19]\n"]),
    Case("ezpq_starmap.py", ["0^0 = 1, 1^1 = 1, 2^2 = 4, 3^3 = 27, 4^0 = 1, 5^1 = 5, 6^2 = 36\n"]),
    Case("ezpq_lanes.py", ["[-1, -1, ", "[(0, False, 0.3), (-15, True, 0.3)]\n"]),
    Case("ezpq_plot.py", ["1       NaN        -1\n"]),
    Case("ezpq01_decorator.py", ["id: 1\nname: 1\npriority: 100\n", "args: [0]\n"]),
    Case("ezpq01_queue.py", ["sizes: 10 0 0 10\n10 before, 0 after, 10 collected\n"]),
    Case("ezpq01_wait_and_get.py", ["jobs remain: 0; outputs: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n"]),
    Case("ezpq01_plot.py", ["0     5      4\n1    10      9\n"]),
]

PRODUCER, CONSUMER = "named_producer.py", "named_consumer.py"
FILES = sorted(path.name for path in SEEDS.glob("*.py"))


def check_output(output: str, pieces: list[str]) -> None:
    position = 0
    for piece in pieces:
        found = output.find(piece, position)
        assert found >= 0, f"{piece!r} is missing, or out of order, in\n{output}"
        position = found + len(piece)


def starts_workers(case: Case) -> bool:
    text = (SEEDS / case.file).read_text(encoding="utf-8")
    return any(f"qmill.{name}(" in text for name in ("run", "JobQueue", "parallel", "map"))


def case_id(case: Case) -> str:
    return "-".join(filter(None, [case.file.removesuffix(".py"), case.argument]))


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_program_runs(case: Case) -> None:
    output = programs.run(str(SEEDS / case.file), *filter(None, [case.argument]))
    check_output(output, case.output)


@pytest.mark.parametrize("method", ["fork", "spawn"])  # the default is a fork server
@pytest.mark.parametrize("case", [*filter(starts_workers, CASES)], ids=case_id)
def test_program_runs_with_start_method(case: Case, method: str) -> None:
    output = programs.run(str(SEEDS / case.file), env={"QMILL_START_METHOD": method})
    check_output(output, case.output)


@pytest.mark.parametrize("first", [PRODUCER, CONSUMER, None])
def test_two_programs_share_a_queue_by_name(first: str | None) -> None:
    name = f"test-{secrets.token_hex(8)}"  # of no other run of the tests
    files = [PRODUCER, CONSUMER] if first == PRODUCER else [CONSUMER, PRODUCER]
    started = {}
    for file in files:
        started[file] = programs.start(str(SEEDS / file), name)
        if file == first:
            started[file].stdout.readline()  # it has opened the queue, and waits for the other
    outputs = {file: programs.finish(program) for file, program in started.items()}
    assert outputs[PRODUCER].endswith("all of them are done\n")
    assert outputs[CONSUMER].endswith("got 10 orders, total price: 67.5\n")


def test_every_program_is_run() -> None:
    assert sorted({case.file for case in CASES} | {PRODUCER, CONSUMER}) == FILES


@pytest.mark.parametrize("file", FILES)
def test_program_is_short_and_says_what_it_shows(file: str) -> None:
    text = (SEEDS / file).read_text(encoding="utf-8")
    summary = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    assert summary.endswith("."), f"no sentence: {summary!r}"
    assert len(text.splitlines()) <= MAX_LINES
