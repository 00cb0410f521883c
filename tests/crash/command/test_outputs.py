"""Outputs, and the exit status."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from qmill.command._parser import _make_parser

from ..programs import Watch, wait_until_asleep
from .running import COMMAND, Running, lines, qmill, range_of, rows

# -- outputs --------------------------------------------------------------------------------------


def test_outputs_are_never_mixed():
    script = "for i in 1 2 3 4 5 6 7 8; do echo {} $i; echo {} $i >&2; done"
    done = qmill("run", "-j", "4", script, stdin=lines(*range(60)))
    for told in (done.stdout, done.stderr):
        words = told.decode().split("\n")[:-1]
        blocks = [words[start : start + 8] for start in range(0, len(words), 8)]
        assert len(blocks) == 60
        for block in blocks:
            number = block[0].split()[0]
            assert block == [f"{number} {i}" for i in range(1, 9)]


def test_large_outputs_come_whole_and_in_order():
    script = "head -c 1000000 /dev/zero | tr '\\0' {}"
    done = qmill("run", "-k", "-j", "2", script, "a", "b", "c")
    assert done.stdout == b"a" * 1_000_000 + b"b" * 1_000_000 + b"c" * 1_000_000


def test_keep_order_holds_what_comes_early():
    # The first ends when the second has: it waits for what that writes.
    os.mkfifo("fifo")
    script = "if [ {} = 1 ]; then read x < fifo; else echo x > fifo; fi; echo {}"
    assert qmill("run", "-k", "-j", "2", script, "1", "2").stdout == b"1\n2\n"
    assert qmill("run", "-j", "2", script, "1", "2").returncode == 0


def test_a_thousand_jobs():
    done = qmill("run", "-j", "8", "echo {}", stdin=lines(*range(1000)))
    assert sorted(map(int, done.stdout.split())) == list(range(1000))
    assert (done.returncode, done.stderr) == (0, b"")


def peak_bytes(count, *arguments):
    """Return the most memory that a command had with so many inputs."""
    with open("inputs", "wb+") as file:
        file.write(lines(*range(count)))
        file.seek(0)
        process = subprocess.Popen([*COMMAND, *arguments], stdin=file, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


@pytest.mark.parametrize(
    ("count", "arguments"),
    [(10_000, ["run", "-j", "2", "echo {}"]), (10_000, ["map", "-j", "2", "builtins:str"])],
    ids=["run", "map"],
)
def test_memory_is_flat(count, arguments):
    few, many = peak_bytes(500, *arguments), peak_bytes(count, *arguments)
    assert many - few < 200 * (count - 500)  # a job that is kept is larger


def test_an_endless_input_is_read_as_it_is_needed():
    with subprocess.Popen(["yes"], stdout=subprocess.PIPE) as yes:
        done = qmill("run", "--fail-fast", "-j", "2", "false", stdin=yes.stdout)
        yes.stdout.close()
        yes.wait()
    assert done.returncode == 1


# -- exit status ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "status"), [(0, 0), (3, 3), (100, 100), (120, 101)])
def test_the_exit_status_is_the_number_of_failures(count, status):
    done = qmill("run", "-j", "4", "test {} = ok", "ok", *["no"] * count)
    assert done.returncode == status
    *told, summed_up = done.stderr.decode().splitlines() or [""]
    assert summed_up == (f"qmill: {count} of {count + 1} jobs failed" if count else "")
    assert told == ["qmill: no: failed with exit status 1"] * count


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("exit 3", "qmill: x: failed with exit status 3\n"),
        ("echo out; exit 3", "qmill: x: failed with exit status 3\n"),
        ("echo why >&2; exit 3", "why\n"),
        ("head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 3", "x" * 1_000_000),
        ("exec >&- 2>&-; exit 3", "qmill: x: failed with exit status 3\n"),
    ],
    ids=["silent", "prints", "says why", "says much", "cannot say"],
)
def test_a_job_that_fails_silently_is_told(script, told):
    done = qmill("run", f": {{}}; {script}", "x")
    assert done.stderr.decode() == f"{told}qmill: 1 of 1 jobs failed\n"


@pytest.mark.parametrize(
    ("script", "options", "why"),
    [
        ("kill -9 $$", [], "qmill: x: was killed by SIGKILL"),
        ("sleep 600 & wait", ["--timeout", "0.2"], "ran longer than its timeout of 0.2 s"),
        ("trap '' TERM; sleep 600; sleep 600", ["--timeout", "0.2"], "ran longer than its"),
    ],
    ids=["a signal", "a timeout", "a timeout, SIGTERM ignored"],
)
def test_what_a_job_cannot_say_itself_is_told(script, options, why):
    done = qmill("run", *options, f": {{}}; echo begun; {script}", "x")
    assert done.returncode == 1
    assert why in done.stderr.decode()
    assert done.stdout == b"begun\n"


def test_a_failed_job_is_tried_again():
    script = "mkdir {} && exit 3; echo the second time"
    done = qmill("run", "--retries", "1", "--log", "log.csv", f"{script} 2>&1", "there")
    assert (done.returncode, done.stdout) == (0, b"the second time\n")
    (row,) = rows("log.csv")
    assert (row["attempts"], row["state"], row["exitcode"]) == ("2", "done", "0")


def test_fail_fast_ends_what_runs_and_begins_no_more():
    script = "if [ {} = 1 ]; then echo $$ > fifo; sleep 600; else read x < go; exit 3; fi; touch {}"
    os.mkfifo("go")
    with Running("run", "-j", "2", "--fail-fast", script, "1", "2", "3", "4") as running:
        watch = Watch(map(int, running.hear()))
        with open("go", "w") as go:
            go.write("go\n")
        status, _, told = running.finish()
    assert watch.wait() == []
    assert status == 1
    assert told.decode().splitlines()[0] == (
        "qmill: 2: failed with exit status 3; the other jobs are ended"
    )
    assert {path.name for path in Path().iterdir()} == {"fifo", "go"}


def test_jobs_of_one_lane_run_one_after_another():
    script = "mkdir {}.d && rmdir {}.d"
    done = qmill("run", "-j", "4", "--lane", "{}", script, *["same"] * 30)
    assert (done.returncode, done.stderr) == (0, b"")
    done = qmill("run", "-j", "4", "--lane", "fixed", "mkdir d && rmdir d #{}", *range_of(30))
    assert (done.returncode, done.stderr) == (2, done.stderr)  # {} in a comment takes no input
    done = qmill("run", "-j", "4", "--lane", "fixed", ": {}; mkdir d && rmdir d", *range_of(30))
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_lower_priority_number_goes_first():
    os.mkfifo("go")
    # While the first one runs, the others wait; then they go by their numbers.
    script = "if [ {} = 0 ]; then echo > fifo; read x < go; fi; echo {}"
    inputs = ["0", "3", "1", "2", "0.5"]
    with Running("run", "-j", "1", "--priority", "{}", script, *inputs) as running:
        running.hear()
        wait_until_asleep(running.process.pid)
        with open("go", "w") as go:
            go.write("go\n")
        status, told, _ = running.finish()
    assert (status, told.split()) == (0, [b"0", b"0.5", b"1", b"2", b"3"])


USAGE = {
    "no command": ([], "required: COMMAND"),
    "an unknown command": (["runn", "x"], "runn"),
    "nothing to run": (["run"], "required: COMMAND"),
    "an unknown option": (["run", "--frobnicate", "echo"], "run: there is no option --frobnicate"),
    "its help": (["run", "--frobnicate", "echo"], "Try 'qmill run --help'"),
    "one of map": (["map", "--frobnicate=3", "f:x"], "map: there is no option --frobnicate\n"),
    "one of no command": (["--frobnicate", "run", "x"], "qmill: there is no option --frobnicate\n"),
    "one of queues": (["queues", "--frobnicate"], "Try 'qmill queues --help'"),
    "an option of parallel": (["run", "--joblog", "x", "true", "1"], "--log FILE.csv writes"),
    "an option of xargs": (["run", "-P4", "true", "1"], "-P4: -j N sets"),
    "no jobs at a time": (["run", "-j", "0", "echo"], "from 1, not '0'"),
    "a timeout of nothing": (["run", "--timeout", "0", "echo"], "above 0"),
    "a negative number": (["run", "--retries", "-1", "echo"], "--retries"),
    "resuming from nowhere": (["run", "--resume", "echo"], "--resume needs --log"),
    "an option behind the command": (["run", "rm", "a", "--dry-run"], "after the command"),
    "its short form": (["run", "rm", "a", "-n"], "after the command"),
    "an open quote": (["run", "echo 'a", "x"], "the shell cannot read"),
    "an input as a program": (["run", "echo a;", "x"], "say with {} where it goes"),
    "an empty command": (["run", "", "x"], "say with {} where it goes"),
    "an input in arithmetic": (["run", "echo $(( {} + 1 ))", "1"], "$(( ))"),
    "a comment": (["run", "echo # ", "1"], "comment"),
    "a log nowhere": (["run", "--log", "no/where.csv", "echo", "a"], "No such file"),
    "a full log": (["run", "--log", "/dev/full", "echo", "a"], "No space left"),
    "a trace nowhere": (["run", "--trace", "no/where.json", "echo", "a"], "No such file"),
    "a plot nowhere": (["run", "--plot", "no/where.png", "echo", "a"], "not a writable folder"),
    "a log of something else": (["run", "--resume", "--log", "notes", "echo", "a"], "not a log"),
    "a log of somebody else": (["run", "--log", "notes", "echo", "a"], "its header is 'a,b'"),
    "map's log": (["map", "--log", "notes", "os:fspath", "a"], "Name a new file, or move"),
    "a trace over the log": (["run", "--log", "x", "--trace", "./x", "echo"], "would overwrite"),
    "a plot over the log": (["run", "--log", "x.png", "--plot", "x.png", "echo"], "of --log"),
    "a plot over the trace": (["run", "--trace", "x.png", "--plot", "x.png", "echo"], "of --trace"),
    "a name without folder": (["run", "cp {} {/}", "a"], "{/} belongs to GNU parallel: for the"),
    "a job's number": (["run", "cp {} '{#}'", "a"], "jobs have no number here"),
    "a slot": (["run", 'echo "{%}"', "a"], "slots have no number here"),
    "two extensions": (["run", "echo $(echo {..})", "a"], "{..} belongs to GNU parallel"),
    "the first input": (["run", "cp {1} {2}", "a"], "each job gets one input, and {} stands"),
    "a part of it": (["run", "cp {1/.}", "a"], "write name="),
    "perl": (["run", "cp {} {= s/a/b/ =}", "a"], "belongs to GNU parallel"),
    "a lane of parallel": (["run", "--lane", "{//}", "echo", "a"], "--lane: {//} belongs to GNU"),
    "a priority of parallel": (
        ["map", "--priority", "{#}", "os:fspath"],
        "--priority: {#} belongs to",
    ),
    "inputs of parallel": (["run", "rm -r {}", ":::", "a"], "::: belongs to GNU parallel: write"),
    "inputs in a file": (["run", "echo {}", "::::", "notes"], "by < FILE"),
    "inputs two by two": (["run", "echo {}", "a", ":::+", "b"], "each job gets one input"),
    "inputs two by two in files": (["map", "os:fspath", "::::+", "b"], "each job gets one input"),
    "inputs and no command": (["run", ":::", "a"], "::: belongs to GNU parallel"),
    "a command in pieces": (["run", "echo", "{}", "a"], "the whole command into one pair of"),
    "a mark in pieces": (["run", "-I", "%", "echo", "%", "a"], "% comes after the command"),
    "a function's $1": (["run", 'f() { echo "$1"; }; f', "a"], "say with {} where the input goes"),
    "$1 in arithmetic": (["run", "echo $(( $1 + 1 ))", "1"], "$(( ))"),
    "a here-document": (["run", "cat <<E\n{}\nE", "a"], "write $1 for the input there"),
    "one with quotes": (["run", "cat <<'E'\ndon't {}\nE", "a"], "write $1 for the input there"),
    "one behind a comment": (["run", "cat <<-E # {}\n\t{}\nE", "a"], "write $1 for the input"),
    "none in a here-document": (["run", "cat <<E\nx\nE", "a"], "part of the here-document"),
    "no function": (["map", "math", "1"], "module:function"),
    "an unknown module": (["map", "nosuch:f", "1"], "ModuleNotFoundError"),
    "an unknown function": (["map", "math:nosuch", "1"], "AttributeError"),
    "what cannot be called": (["map", "math:pi", "1"], "cannot be called"),
    "no log to sum up": (["summary", "nowhere.csv"], "No such file"),
    "no log to draw": (["plot", "nowhere.csv", "-o", "x.png"], "No such file"),
    "no log to trace": (["trace", "nowhere.csv", "-o", "x.json"], "No such file"),
    "a trace over its log": (["trace", "notes", "-o", "notes"], "would overwrite"),
}


@pytest.mark.parametrize("case", USAGE)
def test_a_wrong_command_line_is_told_and_runs_nothing(case):
    arguments, why = USAGE[case]
    Path("notes").write_text("a,b\n1,2\n")
    done = qmill(*arguments, stdin=b"x\n")
    assert (done.returncode, done.stdout) == (2, b"")
    assert why in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_an_input_may_look_like_an_option_behind_two_dashes():
    given = ["--log", "-", "-k", ":::", "{}", "{.}"]
    done = qmill("run", "-k", "echo", "--", *given)
    assert done.stdout.decode().splitlines() == given
    assert qmill("run", "-k", "echo", stdin=lines(*given)).stdout == done.stdout


def commands():
    (action,) = (each for each in _make_parser()._actions if each.dest == "command")
    return list(action.choices)


@pytest.mark.parametrize("command", ["", *commands()])
def test_help_has_examples(command):
    done = qmill(*command.split(), "--help")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"example" in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.decode().splitlines())
