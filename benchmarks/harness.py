"""What the sections of the benchmarks share: options, turns, fresh processes and tables.

    turn 1: A B C    turn 2: A B C ...      a drift of the machine meets all peers alike
    each:   this process ── starts ──> python -c CHILD ── starts ──> its workers
                  ^                          │                           │
                  └── one line of figures ───┘    then all of them are killed

A measurement's processes are found by a mark in their environment, which they inherit.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import itertools
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
LIMIT_S = 180.0
IDLE_S = 5.0
SETTLE_S = 0.5
TRACKER_GRACE_S = 5.0

# The first argument is the section's module; its PEERS make what is measured.
CHILD = """
import sys
from importlib import import_module
name, measure, peer, count = sys.argv[1:]
section = import_module(name)
try:
    made = section.PEERS[peer]()
    figures = getattr(section, measure)(made, int(count))
except ModuleNotFoundError as error:
    figures = {"missing": error.name}
print(figures, flush=True)
sys.stdin.read()
"""
MARK = "QMILL_BENCHMARK"
_numbers = itertools.count(1)


class Section(NamedTuple):
    """Some tables: their names, whose figures they have, and what prints them.

    `run` takes the options and returns how many measurements failed.
    """

    workloads: list[str]
    peers: list[str]
    run: Callable[[argparse.Namespace], int]


class Seen(NamedTuple):
    """What the measuring process knows of a measurement: when it began, and its mark."""

    started: float
    mark: str
    scale: float


class Workload(NamedTuple):
    """One table; the first peer is its baseline, if ratios make sense.

    `measure` names a function of the section's module: measure(peer, count) returns figures by
    name, "value" being the one that is compared. `outside`, where there is one, makes the figures
    from those and what is seen from outside. `slow` has peers that take a fraction of the count.
    """

    name: str
    title: str
    measure: str
    peers: list[str]
    count: int
    outside: Callable[[dict[str, float], Seen], dict[str, float]] | None = None
    slow: Mapping[str, float] = {}
    has_ratio: bool = True


class Failed(Exception):
    """A measurement that gave no figures; its text says why."""


# -- options -----------------------------------------------------------------------------------


def main(description: str, *sections: Section) -> None:
    """Print the tables that the command line asks for."""
    workloads = [name for section in sections for name in section.workloads]
    peers = {name for section in sections for name in section.peers}
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=workloads, metavar="TABLE", default=workloads)
    parser.add_argument("--peers", nargs="+", metavar="PEER", help="those whose names begin so")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of items")
    options = parser.parse_args()
    for start in options.peers or ():
        if not any(name.startswith(start) for name in peers):
            parser.error(f"no peer begins with {start!r}; there are {', '.join(sorted(peers))}")
    num_failed = sum(section.run(options) for section in sections)
    if num_failed:
        sys.exit(f"{num_failed} failed; the reasons are below the tables")


def choose(peers: list[str], options: argparse.Namespace) -> list[str]:
    """Return those that are asked for, after the baseline; none if it would be alone."""
    if options.peers is None:
        return peers
    wanted = [name for name in peers if name.startswith(tuple(options.peers))]
    return [peers[0], *(name for name in wanted if name != peers[0])] if wanted else []


# -- tables ------------------------------------------------------------------------------------


def section(module: str, workloads: list[Workload]) -> Section:
    """Make a section of workloads that are measured in fresh processes."""

    def run(options: argparse.Namespace) -> int:
        # As if it were installed by pip, which compiles: reading source would be half of a start.
        for folder in (ROOT / "src", ROOT / "benchmarks"):
            compileall.compile_dir(folder, quiet=2)
        chosen = [workload for workload in workloads if workload.name in options.only]
        return sum(run_workload(module, workload, options) for workload in chosen)

    peers = {peer: None for workload in workloads for peer in workload.peers}
    return Section([workload.name for workload in workloads], list(peers), run)


def run_workload(module: str, workload: Workload, options: argparse.Namespace) -> int:
    """Measure peers in turns and print the table; return how many peers failed."""
    peers = choose(workload.peers, options)
    if not peers:
        return 0
    figures: dict[str, list[dict[str, float]]] = {peer: [] for peer in peers}
    missing: dict[str, str] = {}
    failed: dict[str, str] = {}
    for _ in range(options.repeat):
        for peer in peers:
            if peer in missing or peer in failed:
                continue
            try:
                found = measure(module, workload, peer, options.scale)
            except Failed as error:
                failed[peer] = str(error)
                continue
            if "missing" in found:
                missing[peer] = str(found["missing"])
            else:
                figures[peer].append(found)
    print_figures(workload, {peer: found for peer, found in figures.items() if found})
    if missing:
        print(f"\nLeft out, for it is not installed: {', '.join(sorted(set(missing.values())))}.")
    for peer, reason in failed.items():
        print(f"\nFAILED, {peer}: {reason}")
    sys.stdout.flush()
    return len(failed)


def print_figures(workload: Workload, figures: dict[str, list[dict[str, float]]]) -> None:
    """Print a table with each turn's ratio to the baseline, and columns for further figures."""
    values = {peer: [found["value"] for found in runs] for peer, runs in figures.items()}
    more: dict[str, dict[str, str]] = {}
    if workload.has_ratio:
        base = values.get(workload.peers[0], [])
        more["ratio"] = {peer: shown_ratio(median_ratio(values[peer], base)) for peer in values}
    for peer, runs in figures.items():
        for key in runs[0]:
            if key != "value":
                middle = statistics.median(found[key] for found in runs)
                more.setdefault(key, {})[peer] = shown(middle)
    print_table(workload.name, workload.title, values, more)


def median_ratio(values: list[float], base: list[float]) -> float | None:
    """Return the median of the ratios of one turn each; None where there is none."""
    ratios = [value / its_base for value, its_base in zip(values, base, strict=False) if its_base]
    return statistics.median(ratios) if ratios else None


def print_table(
    name: str,
    title: str,
    values: Mapping[str, list[float]],
    more: Mapping[str, Mapping[str, str]],
) -> None:
    """Print the smallest, middle and largest value of each peer, and further columns."""
    print(f"\n### {name} ({title})\n")
    print("| " + " | ".join(["peer", "min", "median", "max", *more]) + " |")
    print("| --- |" + " ---: |" * (3 + len(more)))
    for peer, found in values.items():
        row = [shown(value) for value in (min(found), statistics.median(found), max(found))]
        row += [column.get(peer, "") for column in more.values()]
        print(f"| {peer} | {' | '.join(row)} |", flush=True)


def shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def shown_ratio(ratio: float | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio:.2f}x" if ratio >= 0.05 else f"{ratio:.1g}x"


# -- one measurement ---------------------------------------------------------------------------


def measure(module: str, workload: Workload, peer: str, scale: float) -> dict[str, Any]:
    """Take one measurement in a process of its own, of which nothing is left then."""
    count = max(4, int(workload.count * workload.slow.get(peer, 1) * scale))
    mark = f"{os.getpid()}-{next(_numbers)}"
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", CHILD, module, workload.measure, peer, str(count)]
    with tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environ | {MARK: mark},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        try:
            figures = read_figures(child)
            if figures is None:
                errors.seek(0)
                raise Failed((errors.read().strip().splitlines() or ["no figures"])[-1])
            if workload.outside is None or "missing" in figures:
                return figures
            return workload.outside(figures, Seen(started, mark, scale))
        finally:
            end_processes(mark)
            child.communicate()


def read_figures(child: subprocess.Popen[str]) -> dict[str, Any] | None:
    """Read the line of figures; None if the process ended without it."""
    assert child.stdout is not None
    if not select.select([child.stdout], [], [], LIMIT_S)[0]:
        raise Failed(f"no figures after {LIMIT_S:.0f} s")
    line = child.stdout.readline()
    return ast.literal_eval(line) if line else None


def end_processes(mark: str) -> None:
    """Kill all, but for resource trackers, which clean up as soon as the others are gone."""
    give_up = time.monotonic() + TRACKER_GRACE_S
    while pids := marked_processes(mark):
        for pid in pids:
            if "resource_tracker" in proc_text(pid, "cmdline") and time.monotonic() < give_up:
                continue
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.005)


def marked_processes(mark: str) -> list[int]:
    """Return the running processes of one measurement."""
    wanted = f"{MARK}={mark}"
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if wanted in proc_text(pid, "environ").split("\0")]


def proc_text(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
    except OSError:  # it has ended, or belongs to somebody else
        return ""


# -- what is seen from outside -----------------------------------------------------------------


def since_start(figures: dict[str, float], seen: Seen) -> dict[str, float]:
    """Take the value for the time of an event; return how long after the start it was."""
    return {"value": figures["value"] - seen.started}


def switches_while_idle(_: dict[str, float], seen: Seen) -> dict[str, float]:
    """Count the context switches of all threads of all the measurement's processes."""
    time.sleep(SETTLE_S * min(1.0, seen.scale))
    before = context_switches(seen.mark)
    time.sleep(IDLE_S * min(1.0, seen.scale))
    after = context_switches(seen.mark)
    # A thread that has ended in between was awake at least once.
    num_ended = len(before.keys() - after.keys())
    num_switches = sum(after[thread] - before.get(thread, 0) for thread in after)
    return {"value": num_ended + num_switches, "threads": len(after)}


def context_switches(mark: str) -> dict[str, int]:
    """Return the switches so far by thread, voluntary and not."""
    switches = {}
    for pid in marked_processes(mark):
        for thread in os.listdir(f"/proc/{pid}/task"):
            lines = proc_text(pid, f"task/{thread}/status").splitlines()
            counts = [int(line.split()[1]) for line in lines if "ctxt_switches" in line]
            switches[thread] = sum(counts)
    return switches
