"""Running programs as users do: a new interpreter, its output, its exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60.0

# A program's warnings are shown, and so fail the test: but for the interpreter's own about fork in
# a process with threads, as in the configuration of pytest. A program that hangs says where.
ENVIRON = {
    "PYTHONWARNINGS": "default,ignore:This process:DeprecationWarning",
    "PYTHONFAULTHANDLER": "1",
}


def start(*arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start Python with these arguments, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=os.environ | ENVIRON | (env or {}),
        start_new_session=True,
    )


def finish(program: subprocess.Popen[str], stdin: str = "") -> str:
    """Return the standard output of a program that ends well and in time, and says nothing else."""
    try:
        output, errors = program.communicate(stdin, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        output, errors = abort(program)
        errors = f"no end after {TIMEOUT_S} s; all its processes were aborted\n{errors}"
    told = f"{str(program.args):.200}\n--- stdout\n{output}\n--- stderr\n{errors}"
    assert program.returncode == 0, f"exit status {program.returncode} of {told}"
    assert errors == "", told
    return output


def abort(program: subprocess.Popen[str]) -> tuple[str, str]:
    """End the program and its workers, which print where each thread is."""
    os.killpg(program.pid, signal.SIGABRT)
    try:
        return program.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        os.killpg(program.pid, signal.SIGKILL)
        return program.communicate()


def run(*arguments: str, stdin: str = "", env: dict[str, str] | None = None) -> str:
    """Run Python with these arguments to its end, and return its standard output."""
    return finish(start(*arguments, env=env), stdin)
