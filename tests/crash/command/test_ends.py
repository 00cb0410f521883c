"""The command is interrupted, killed or hung up on."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ..programs import LIMIT_S, Watch, wait_until_asleep
from .running import COMMAND, Running, lines, qmill, rows

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
