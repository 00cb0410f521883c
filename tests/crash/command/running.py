"""The command: run to its end, or watched while it runs."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

from ..programs import LIMIT_S, Watch

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


def range_of(count):
    return [str(number) for number in range(count)]
