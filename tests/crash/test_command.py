"""The command: real processes, files and pipes, and what is left when they break."""

from __future__ import annotations

import csv
import json
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from qmill import core_info

from .programs import LIMIT_S, ROOT, Watch, wait_until, wait_until_asleep

COMMAND = [sys.executable, "-m", "qmill"]

EVIL = [
    "a b",
    "",
    "$(touch hacked)",
    "`touch hacked`",
    "; touch hacked",
    "' ; touch hacked; '",
    '" ; touch hacked; "',
    "*",
    "-n",
    "{}",
    "$HOME",
    "\\",
    "a\nb",
    "a\\nb",
    "#",
    "\udcff",
]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def qmill(*arguments, stdin=b"", **options):
    """Run the command to its end."""
    if isinstance(stdin, bytes):
        options["input"] = stdin
    else:
        options["stdin"] = stdin
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.run(
        [*COMMAND, *arguments], timeout=LIMIT_S, start_new_session=True, **(streams | options)
    )


def lines(*items):
    return b"".join(os.fsencode(str(item)) + b"\n" for item in items)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


class Running:
    """The command while it runs, with a fifo into which its jobs write."""

    def __init__(self, *arguments, **options):
        os.mkfifo("fifo")
        # Open for writing, too: it has no end while this process looks.
        self.fifo = open(os.open("fifo", os.O_RDWR), "rb", buffering=0)  # noqa: SIM115
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], start_new_session=True, **(streams | options)
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self.fifo.close()

    def hear(self, number=1):
        """Return what jobs wrote first, each a line."""
        data = b""
        while data.count(b"\n") < number:
            data += self.fifo.read(4096)
        return data.decode().split()

    def signal_group(self, number):
        os.killpg(self.process.pid, number)

    def kill_tree(self):
        """Kill the command and its jobs, and wait until nobody of them is there."""
        self.process.send_signal(signal.SIGSTOP)  # it starts no more
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
        path = Path(f"/proc/{self.process.pid}/task")
        texts = [child.read_text() for child in path.glob("*/children")]
        jobs = [int(pid) for text in texts for pid in text.split()]
        watch = Watch(jobs)
        for job in jobs:
            os.killpg(job, signal.SIGKILL)
        self.process.kill()
        self.process.wait(LIMIT_S)
        assert watch.wait() == []

    def finish(self):
        out, err = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, out, err


# -- inputs are data ------------------------------------------------------------------------------

PLACES = {
    "appended": "printf '%s\\0'",
    "plain": "printf '%s\\0' {}",
    "in single quotes": "printf '%s\\0' '{}'",
    "in double quotes": "printf '%s\\0' \"{}\"",
    "in a substitution": "printf '%s\\0' \"$(printf '%s.' {})\"",
    "in quotes in a substitution in quotes": "printf '%s\\0' \"$(printf '%s.' \"{}\")\"",
    "in backquotes": "printf '%s\\0' \"`printf '%s.' {}`\"",
    "in a subshell": "(printf '%s\\0' {})",
    "as $1": "printf '%s\\0' \"$1\"",
    "as ${1}": "printf '%s\\0' \"${1}\"",
    "as $@": "printf '%s\\0' \"$@\"",
    "as $1 in a substitution": "printf '%s\\0' \"$(printf '%s.' \"$1\")\"",
    "as $1 in a here-document in a substitution": "printf '%s\\0' \"$(cat <<E\n$1.\nE\n)\"",
    "as $1 in a here-document, don't mind quotes": "cat <<E | tr -d '\\n'\n$1, \"don't\"\nE\n"
    "printf '\\r%s\\0' \"$1\"",
    "before a here-document": "printf '%s\\0' {} <<E\ndon't\nE",
    "$1 in single quotes": 'sh -c \'printf "%s\\0" "$1"\' sh',
    "$1 behind a backslash": 'sh -c "printf \'%s\\0\' \\"\\$1\\"" sh',
    "$1 in a comment": "printf '%s\\0' {} # $1",
    "after a comment": "printf '%s\\0' {} # don't",
}


@pytest.mark.parametrize("place", PLACES)
def test_an_input_is_never_code(place):
    done = qmill("run", "-k", PLACES[place], "--", *EVIL)
    assert (done.returncode, done.stderr) == (0, b"")
    dot = "." if "substitution" in place or "backquotes" in place else ""
    words = [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]
    if "don't mind" in place:
        words = [word.partition("\r")[2] for word in words]
    assert words == [given + dot for given in EVIL]
    assert not Path("hacked").exists()


@pytest.mark.parametrize("place", PLACES)
def test_a_dry_run_writes_a_command_that_does_the_same_and_runs_nothing(place):
    shown = qmill("run", "--dry-run", PLACES[place], "--", *EVIL).stdout
    done = subprocess.run(["/bin/sh"], input=shown, capture_output=True, timeout=LIMIT_S)
    assert done.stdout == qmill("run", "-k", PLACES[place], "--", *EVIL).stdout
    assert not Path("hacked").exists()
    qmill("run", "-n", "touch {}", "hacked")
    assert not Path("hacked").exists()


def test_another_mark_than_braces():
    done = qmill("run", "-I", "%", "echo {} {.} {/} %", "a b")
    assert (done.stdout, done.stderr) == (b"{} {.} {/} a b\n", b"")


@pytest.mark.parametrize(
    "command",
    [
        "echo ${#} '{1}' x{2} {a..b} {1..3} \\{.}",
        'grep -cE "^x{2}$" {} | sed "s/[0-9]{1}/{3}/"',
        "echo {} # {.}",
    ],
)
def test_what_only_looks_like_a_mark_of_gnu_parallel_is_left_alone(command):
    Path("input").write_text("xx\n")
    plain = subprocess.run(
        [
            "/bin/sh",
            "-c",
            command.replace("{}", "input") + (" input" if "{}" not in command else ""),
        ]
        + ["sh", "input"],
        capture_output=True,
    )
    done = qmill("run", command, "input")
    assert (done.stdout, done.stderr) == (plain.stdout, b"")


@pytest.mark.parametrize(
    ("mark", "instead"),
    [
        ("{.}", '"${1%.*}"'),
        ("{/}", '"${1##*/}"'),
        ("{//}", '"$(dirname "$1")"'),
        ("{/.}", '"$(name="${1##*/}"; echo "${name%.*}")"'),
    ],
)
def test_what_is_said_to_stand_for_a_mark_of_gnu_parallel_does(mark, instead):
    expected = {"{.}": "a b/c.d", "{/}": "c.d.e", "{//}": "a b", "{/.}": "c.d"}
    done = qmill("run", f": {{}}; echo {instead}", "a b/c.d.e")
    assert done.stdout.decode() == expected[mark] + "\n"
    told = qmill("run", f"cp {{}} {mark}.bak", "x").stderr.decode()
    assert told.startswith(f"qmill run: {mark} belongs to GNU parallel: ")
    assert instead.partition("$(")[0].strip('"') in told


def test_an_input_that_is_appended_or_not_is_what_the_help_says():
    Path("a.txt").write_text("a\n")
    assert qmill("run", 'cat "$1" > "${1%.txt}.copy"', "a.txt").returncode == 0
    assert Path("a.copy").read_text() == "a\n"
    assert qmill("run", "awk '{print $1}'", "a.txt").stdout == b"a\n"
    assert qmill("run", "echo $#", "a.txt").stdout == b"1 a.txt\n"


OF_BASH = {
    "[[ -f {} ]] && echo yes": "[[",
    "if [[ -f {} ]]; then echo yes; fi": "[[",
    "source {}": "source",
    ": {} &> out": "&>",
    "cat <(echo {})": "<(",
    "cat <<< {}": "<<<",
}


@pytest.mark.skipif(
    shutil.which("dash") is None, reason="there is no dash, and other shells know more"
)
@pytest.mark.parametrize("command", OF_BASH)
def test_what_is_of_bash_is_refused_without_it(command):
    refused = qmill("run", command, "x")
    assert (refused.returncode, refused.stdout) == (2, b"")
    why = f"dash runs the command, and {OF_BASH[command]} is syntax of bash: choose it with --shell"
    assert why in str(refused)
    Path("x").write_text("echo yes")
    assert qmill("run", "--shell", "bash", command, "x").returncode == 0
    quoted = command.replace("{}", '"$1"')
    assert (
        b"is syntax of bash"
        not in qmill("run", f"bash -c '{quoted}' bash {{}} # [[ x ]]", "x").stderr
    )


def test_a_function_that_bash_has_exported_is_told():
    def told_by(command):
        line = f'f() {{ echo "<$1>"; }}; export -f f; {" ".join(COMMAND)} run {command} a'
        done = subprocess.run(["/bin/bash", "-c", line], capture_output=True, timeout=LIMIT_S)
        return done.stdout, b"f is a function of bash" in done.stderr

    assert told_by("'f {}'") == (b"", True)
    assert told_by('"$(declare -f f); f {}"') == (b"<a>\n", False)
    assert told_by("'echo of.f x-f {}'") == (b"of.f x-f a\n", False)


@pytest.mark.parametrize(
    ("options", "stdin", "expected"),
    [
        ([], b"a b\nc\n", ["<a b>", "<c>"]),
        ([], b"a\n\nlast", ["<a>", "<>", "<last>"]),
        ([], b"\xff\xfe\r\n", ["<\udcff\udcfe\r>"]),
        (["-0"], b"a\nb\0c", ["<a\nb>", "<c>"]),
        ([], b"", []),
        ([], b"x" * 131_071, ["<" + "x" * 131_071 + ">"]),
    ],
    ids=["lines", "empty, and no end of line", "no UTF-8", "NUL", "nothing", "the longest"],
)
def test_inputs_on_standard_input(options, stdin, expected):
    done = qmill("run", "-k", *options, "printf '<%s>\\0' {}", stdin=stdin)
    assert [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]] == expected
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_dash_stands_for_standard_input():
    assert qmill("run", "echo", "-", stdin=b"a\n").stdout == b"a\n"
    assert qmill("run", "-k", "echo", "a", "-").stdout == b"a\n-\n"


@pytest.mark.parametrize(
    ("stdin", "why"),
    [
        (b"x" * 131_072 + b"\n", b"the input has 131,072 bytes"),
        (b"a\0b\n", b"a NUL byte"),
    ],
)
def test_an_input_that_no_program_can_be_given_fails_alone(stdin, why):
    done = qmill("run", "echo", stdin=b"before\n" + stdin + b"after\n")
    assert sorted(done.stdout.split()) == [b"after", b"before"]
    assert why in done.stderr
    assert done.returncode == 1


def test_an_environment_that_is_too_large_is_told():
    program = "import os, sys; from qmill.command import main; "
    program += "os.environ.update((f'X{n}', 100_000 * 'x') for n in range(100)); "
    program += "sys.exit(main(['run', 'echo', 'a', 'b']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=LIMIT_S)
    assert b"sh: Argument list too long" in done.stderr
    assert done.returncode == 2


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


def range_of(count):
    return [str(number) for number in range(count)]


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


@pytest.mark.parametrize("command", ["", "run", "map", "queues", "plot", "summary", "trace"])
def test_help_has_examples(command):
    done = qmill(*command.split(), "--help")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"example" in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.decode().splitlines())


# -- ends -----------------------------------------------------------------------------------------

BUSY = ": {}; echo $$ > fifo; sleep 600 & echo $! > fifo; wait"
STUBBORN = f"trap '' TERM; {BUSY}"


@pytest.fixture
def no_nohup():
    """Children get SIGHUP even if these tests are run by nohup, which has them ignore it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("no_nohup")
@pytest.mark.parametrize("script", [BUSY, STUBBORN], ids=["", "that ignore SIGTERM"])
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_the_jobs(number, status, script):
    with Running("run", "-j", "2", script, "1", "2", "3") as running:
        watch = Watch(map(int, running.hear(4)))
        running.signal_group(number)
        assert running.finish() == (status, b"", b"")
    assert watch.wait() == []


def test_ctrl_c_ends_it_while_it_waits_for_inputs():
    with Running("run", "echo {} > fifo") as running:
        running.process.stdin.write(b"a\n")
        running.process.stdin.flush()
        running.hear()
        wait_until_asleep(running.process.pid)
        running.signal_group(signal.SIGINT)
        assert running.process.wait(LIMIT_S) == 130


def test_ctrl_c_ends_it_while_nobody_reads_its_output():
    reading, writing = os.pipe()
    script = ": {}; head -c 1000000 /dev/zero; echo > fifo"
    with Running("run", script, "a", stdout=writing) as running:
        running.hear()
        select.select([reading], [], [])
        wait_until_asleep(running.process.pid)
        running.signal_group(signal.SIGINT)
        assert running.process.wait(LIMIT_S) == 130
    os.close(reading)
    os.close(writing)


def test_the_jobs_of_a_command_that_is_killed_die_with_it():
    with Running("run", "-j", "2", STUBBORN, "1", "2") as running:
        watch = Watch(map(int, running.hear(4)))
        running.process.kill()
        running.process.wait(LIMIT_S)
        assert watch.wait() == []


def test_what_a_job_leaves_running_on_purpose_outlives_the_command():
    done = qmill("run", "sleep 600 > /dev/null 2>&1 & echo $! #", "--", stdin=b"")
    assert done.returncode == 2  # the input would be part of the comment
    done = qmill("run", ": {}; sleep 600 & echo $!", "x")
    pid = int(done.stdout)
    watch = Watch([pid])
    os.kill(pid, signal.SIGKILL)  # it is there
    assert watch.wait() == []


def test_a_closed_pipe_ends_it_quietly():
    with subprocess.Popen(["yes"], stdout=subprocess.PIPE) as yes:
        command = subprocess.Popen(
            [*COMMAND, "run", "-k", "echo {}"],
            stdin=yes.stdout,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        yes.stdout.close()
        head = subprocess.run(["head", "-1"], stdin=command.stdout, capture_output=True)
        command.stdout.close()
        told = command.stderr.read()
        assert (head.stdout, told, command.wait(LIMIT_S)) == (b"y\n", b"", 141)
        command.stderr.close()


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["run", "-n", "echo"], ["--help"], ["run", "--help"]])
def test_a_closed_pipe_ends_a_dry_run_and_help_quietly(arguments, unbuffered, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    reading, writing = os.pipe()
    os.close(reading)
    done = qmill(*arguments, stdin=lines(*range(100)), stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    "command", [["run", "echo {}"], ["run", "-n", "echo"], ["map", "os:fspath"]]
)
def test_a_full_disk_is_told_and_nothing_counts_as_done(command):
    name, *rest = command
    with open("/dev/full", "wb") as full:
        done = qmill(name, "--log", "log.csv", *rest, "a", "b", stdout=full)
    assert done.returncode == 255
    assert done.stderr == b"qmill: cannot write the output: No space left on device\n"
    assert rows("log.csv") == [] if Path("log.csv").exists() else True


def test_standard_streams_may_be_closed():
    for closing, status in (("<&-", 255), (">&-", 255), ("2>&-", 0)):
        line = f"exec {closing}; exec {sys.executable} -m qmill run --log log.csv 'echo {{}}'"
        line += "" if closing == "<&-" else " a"
        done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, timeout=LIMIT_S)
        assert done.returncode == status, done
        assert done.stderr == b"" or b"Bad file descriptor" in done.stderr
    assert len(rows("log.csv")) == 1


def test_what_the_caller_ignores_or_limits():
    line = (
        f"trap '' CHLD; ulimit -n 40; exec {sys.executable} -m qmill run -j 30 'echo {{}}; exit 3'"
    )
    done = subprocess.run(
        ["/bin/bash", "-c", line], input=lines(*range(60)), capture_output=True, timeout=LIMIT_S
    )
    assert sorted(map(int, done.stdout.split())) == list(range(60))
    *told, summed_up = done.stderr.decode().splitlines()
    assert (done.returncode, summed_up) == (60, "qmill: 60 of 60 jobs failed")
    assert sorted(told) == sorted(f"qmill: {n}: failed with exit status 3" for n in range(60))


# -- logs -----------------------------------------------------------------------------------------

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


# -- map ------------------------------------------------------------------------------------------


@pytest.fixture
def module():
    Path("tasks.py").write_text(
        "import sys\n"
        "def double(x):\n    return 2 * int(x)\n"
        "def talk(x):\n    print('out', x)\n    print('err', x, file=sys.stderr)\n"
        "class Shop:\n    @staticmethod\n    def price(x):\n        return f'{x}: 1.50'\n"
    )


def test_map_prints_what_a_function_returns(module):
    assert qmill("map", "-k", "tasks:double", "1", "2", "3").stdout == b"2\n4\n6\n"
    assert qmill("map", "tasks:Shop.price", stdin=b"tea\n").stdout == b"tea: 1.50\n"
    assert qmill("map", "-k", "builtins:str", "--", *EVIL[2:]).stdout == lines(*EVIL[2:])


def test_what_a_function_prints_is_not_mixed(module):
    done = qmill("map", "-k", "-j", "2", "tasks:talk", *range_of(20))
    assert done.stdout == b"".join(b"out %d\n" % number for number in range(20))
    assert done.stderr == b"".join(b"err %d\n" % number for number in range(20))


def test_a_function_that_fails_is_told_with_its_traceback(module):
    done = qmill("map", "-k", "--log", "log.csv", "--retries", "1", "tasks:double", "1", "x", "3")
    assert (done.returncode, done.stdout) == (1, b"2\n6\n")
    told = done.stderr.decode()
    assert "in double" in told
    assert "qmill: x: ValueError: invalid literal" in told
    assert [(row["state"], row["attempts"]) for row in rows("log.csv")] == [
        ("done", "1"),
        ("failed", "2"),
        ("done", "1"),
    ]
    again = qmill("map", "--log", "log.csv", "--resume", "tasks:double", "1", "3", "4")
    assert again.stdout == b"8\n"


def test_a_dry_run_of_a_function():
    assert qmill("map", "-n", "os:remove", "a b").stdout == b"os:remove('a b')\n"


# -- a look at it ---------------------------------------------------------------------------------


def test_a_run_can_be_traced_and_plotted_and_its_log_summed_up():
    script = "test {} != 2"
    done = qmill(
        *("run", "-j", "2", "--log", "log.csv", "--trace", "trace.json", "--plot", "a.png"),
        *(script, "1", "2", "3"),
    )
    assert done.returncode == 1
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    events = json.loads(Path("trace.json").read_bytes())
    assert sorted(e["name"] for e in events if e.get("args", {}).get("state")) == ["1", "2", "3"]
    assert qmill("plot", "log.csv", "-o", "b.svg", "--color-by", "state").returncode == 0
    assert "<svg" in Path("b.svg").read_text()
    assert qmill("trace", "log.csv", "-o", "again.json").returncode == 0
    assert json.loads(Path("again.json").read_bytes()) == events
    told = qmill("summary", "log.csv").stdout.decode()
    assert ": 3" in told
    assert "CalledProcessError" in told


def test_a_progress_bar_is_for_terminals():
    done = qmill("run", "--progress", "echo {}", "a")
    assert (done.stdout, done.stderr) == (b"a\n", b"")


# -- queues ---------------------------------------------------------------------------------------

HOLDER = """
import sys, qmill
queue = qmill.Queue(name=sys.argv[1], maxsize=int(sys.argv[2]), persistent=sys.argv[3] == "yes")
queue.put("an item")
print("open", flush=True)
input()
"""


class Holder:
    """A program that has a queue open."""

    def __init__(self, name, maxsize=0, persistent="no"):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, name, str(maxsize), persistent],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout.readline() == b"open\n"
        self.pid = self.process.pid

    def end(self):
        self.process.communicate(b"\n")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("QMILL_DIR", str(tmp_path / "names"))
    return tmp_path / "names"


TRANSPORTS = ["portable", "shared"] if core_info().core else ["portable"]


@pytest.fixture(params=TRANSPORTS)
def transport(request, monkeypatch):
    """Each transport of named queues that this installation has."""
    monkeypatch.setenv("QMILL_TRANSPORT", request.param)
    return request.param


@pytest.mark.usefixtures("transport")
def test_queues_lists_names_sizes_and_holders(folder):
    assert qmill("queues").stdout == b"no named queues\n"
    assert list(folder.iterdir()) == []
    first, second = Holder("orders", 10), Holder("orders", 10)
    kept = Holder("kept", persistent="yes")
    shown = qmill("queues").stdout.decode().splitlines()
    table = [re.split("  +", line) for line in shown]
    assert table[0] == ["NAME", "ITEMS", "MAXSIZE", "OPEN IN", "FILE"]
    assert all(os.path.dirname(row.pop()) == str(folder) for row in table[1:])
    pids = sorted([first.pid, second.pid])
    python = Path(f"/proc/{first.pid}/comm").read_text().strip()
    assert table[1] == ["kept", "1", "-", f"{kept.pid} ({python})"]
    assert table[2] == ["orders", "2", "10", ", ".join(f"{pid} ({python})" for pid in pids)]
    refused = qmill("queues", "--remove", "orders")
    assert (refused.returncode, str(pids[0]) in refused.stderr.decode()) == (1, True)
    for holder in (first, second, kept):
        holder.end()
    wait_until(lambda: not list(folder.glob("*.live")))
    assert b"kept      1        -  no process, saved" in qmill("queues").stdout
    assert qmill("queues", "--remove", "kept").stdout == b"removed kept\n"
    assert qmill("queues", "--remove", "kept").returncode == 1
    assert list(folder.iterdir()) == []


def test_queues_removes_what_a_killed_broker_has_left(folder, monkeypatch):
    monkeypatch.setenv("QMILL_TRANSPORT", "portable")
    holder = Holder("orders")
    (broker,) = (
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if repr(str(folder)).encode() in path.read_bytes()
    )
    watch = Watch([broker])
    os.kill(broker, signal.SIGKILL)
    assert watch.wait() == []
    assert b"abandoned" in qmill("queues").stdout
    assert qmill("queues", "--clean").stdout == b"removed the leftovers of orders\n"
    assert qmill("queues").stdout == b"no named queues\n"
    holder.process.communicate(b"\n")
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("transport")
def test_the_files_of_a_name_are_private(folder):
    holder = Holder("orders")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    assert len(modes) == 2, modes  # the lock, and the queue's
    holder.end()
    wait_until(lambda: not list(folder.iterdir()))


@pytest.mark.parametrize("transport", TRANSPORTS[1:], indirect=True)
@pytest.mark.usefixtures("transport")
def test_queues_removes_what_killed_programs_have_left(folder):
    holder, kept = Holder("orders"), Holder("kept", persistent="yes")
    for each in (holder, kept):
        each.process.kill()
        each.process.communicate()
    assert b"abandoned" in qmill("queues").stdout
    assert qmill("queues", "--clean").stdout == b"removed the leftovers of orders\n"
    assert b"kept      1        -  no process, saved" in qmill("queues").stdout
    assert qmill("queues", "--remove", "kept").stdout == b"removed kept\n"
    assert list(folder.iterdir()) == []
