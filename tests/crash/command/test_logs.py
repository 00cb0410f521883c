"""Logs of the command."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path

import pytest

from ..programs import wait_until
from .running import EVIL, Running, qmill, range_of, rows

MARKED = "echo {} >> marks; echo {}"


def marks():
    return Counter(Path("marks").read_text().split()) if Path("marks").exists() else Counter()


def test_a_log_has_a_row_for_each_job():
    given = ["1", "2", 'a "b"\n, c']
    done = qmill("run", "-k", "--log", "log.csv", "test 2 != {}", *given)
    assert done.returncode == 1
    found = {
        row["args"]: (row["state"], row["exitcode"], row["function"]) for row in rows("log.csv")
    }
    assert found == {
        repr([item]): ("failed", "1", "test 2 != {}")
        if item == "2"
        else ("done", "0", "test 2 != {}")
        for item in given
    }


def test_resume_leaves_out_what_is_done_and_tries_again_what_failed():
    arguments = [
        "run",
        "-k",
        "--log",
        "log.csv",
        "--resume",
        "test ! {} -lt 3 || test -e ok && echo {}",
    ]
    assert qmill(*arguments, *"1234").stdout == b"3\n4\n"
    Path("ok").touch()
    assert qmill(*arguments, *"12345").stdout == b"1\n2\n5\n"
    assert qmill(*arguments, *"112345").stdout == b"1\n"  # which is there once more
    assert qmill(*arguments[:-1], "echo {}", "1").stdout == b"1\n"  # another command


def test_resume_knows_the_command_of_a_log_for_a_spreadsheet():
    arguments = ["run", "--log", "log.csv", "--spreadsheet", "--resume", "\necho {}", "1"]
    assert qmill(*arguments).stdout == b"1\n"
    assert [row["function"] for row in rows("log.csv")] == ["'\necho {}"]
    assert qmill(*arguments).stdout == b""


def test_a_log_for_a_spreadsheet_has_to_be_named():
    done = qmill("run", "--spreadsheet", "echo", "1")
    assert done.returncode == 2
    assert b"--spreadsheet needs --log FILE.csv" in done.stderr


def test_resume_knows_inputs_of_any_bytes():
    given = [item for item in EVIL if item]
    arguments = ["run", "-k", "--log", "log.csv", "--resume", "printf '%s\\0' {}", "--", *given]
    assert os.fsdecode(qmill(*arguments).stdout).split("\0")[:-1] == given
    assert qmill(*arguments).stdout == b""


@pytest.mark.parametrize("order", [[], ["-k"]], ids=["", "keep order"])
def test_a_run_that_was_killed_is_resumed(order):
    count = 60
    script = f"{MARKED}; if [ {{}} = 30 ] && [ ! -e again ]; then echo > fifo; sleep 600; fi"
    arguments = ["run", "-j", "3", *order, "--log", "log.csv", "--resume", script]
    with Running(*arguments, *range_of(count)) as running:
        running.hear()
        wait_until(lambda: len(marks()) > 40 or order)
        running.kill_tree()
    before = marks()
    done_before = {row["name"] for row in rows("log.csv") if row["state"] == "done"}
    data = Path("log.csv").read_bytes()
    Path("log.csv").write_bytes(data[: len(data) - 7])  # as if it had been cut short
    cut = set() if data.endswith(b"\r\n") and not done_before else {rows_of(data)[-1]}
    Path("again").touch()
    done = qmill(*arguments, *range_of(count))
    assert done.returncode == 0
    for number in range_of(count):
        is_done = number in done_before - cut
        assert marks()[number] == (before[number] if is_done else before[number] + 1)
        assert before[number] <= 1
    again = qmill(*arguments, *range_of(count))
    assert (again.stdout, again.returncode) == (b"", 0)


def rows_of(data):
    """Return the names in a log's rows."""
    return [row["name"] for row in csv.DictReader(data.decode().splitlines())]
