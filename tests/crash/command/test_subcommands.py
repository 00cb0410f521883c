"""`qmill map`, progress, and `qmill queues`."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from qmill import core_info

from ..programs import Watch, wait_until
from .running import EVIL, lines, qmill, range_of, rows

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
