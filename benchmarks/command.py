"""The command `qmill run`, against xargs and GNU parallel, in one run.

    python -m benchmarks.command                        both tables
    python -m benchmarks.command --only C1 --repeat 5   one

The same command is run for each line of standard input, two at a time, by a shell, and its output
is read. GNU parallel is left out where it is not installed (Debian: apt-get install parallel).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

JOBS = "2"


def program(name, package):
    """Return a program's path."""
    path = shutil.which(name)
    if path is None:
        raise ModuleNotFoundError(f"no {name}", name=package)
    return path


PEERS = {
    "xargs -P": lambda: [
        *(program("xargs", "findutils"), "-P", JOBS, "-I{}"),
        *("sh", "-c", 'echo "$1"', "sh", "{}"),
    ],
    "GNU parallel": lambda: [
        *(program("parallel", "GNU parallel"), "--will-cite", "-j", JOBS, "echo {}"),
    ],
    "GNU parallel -k": lambda: [
        *(program("parallel", "GNU parallel"), "--will-cite", "-k", "-j", JOBS, "echo {}"),
    ],
    "qmill run": lambda: [sys.executable, "-m", "qmill", "run", "-j", JOBS, "echo {}"],
    "qmill run -k": lambda: [sys.executable, "-m", "qmill", "run", "-k", "-j", JOBS, "echo {}"],
}


def section():
    from benchmarks import harness
    from benchmarks.harness import Workload

    workloads = [
        Workload(
            "C1",
            "a job, of many that only echo their input, ms, lower is better",
            "time_of_a_job",
            list(PEERS),
            2_000,
            slow={"GNU parallel": 0.5, "GNU parallel -k": 0.5},
        ),
        Workload(
            "C2",
            "the whole command with one job, ms, lower is better",
            "time_of_one",
            ["xargs -P", "GNU parallel", "qmill run"],
            10,
        ),
    ]
    return harness.section("benchmarks.command", workloads)


# -- what runs in the fresh process ------------------------------------------------------------


def run(command, count):
    """Run a command for so many inputs; return the seconds that it took."""
    inputs = [b"%d" % number for number in range(count)]
    started = time.perf_counter()
    done = subprocess.run(command, input=b"\n".join(inputs) + b"\n", capture_output=True)
    taken = time.perf_counter() - started
    if done.returncode or sorted(done.stdout.split()) != sorted(inputs):
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-200:]!r}")
    return taken


def time_of_a_job(command, count):
    return {"value": run(command, count) * 1000 / count}


def time_of_one(command, count):
    return {"value": min(run(command, 1) for _ in range(count)) * 1000}


if __name__ == "__main__":
    from benchmarks import harness

    harness.main(__doc__, section())
