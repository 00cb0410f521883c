"""joblib on qmill in programs of every kind, and what is left when one is ended from outside."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from . import programs
from .test_mains import run_jupyter, run_script, run_stdin

# Each paragraph is a cell of a notebook.
PROGRAM = """
import joblib
import numpy as np
import qmill.compat.joblib

print("top level")

qmill.compat.joblib.register()
config = joblib.parallel_config(backend="qmill", n_jobs=2, max_nbytes=1000)

FACTOR = 2

class Pair:
    def __init__(self, number):
        self.number = number

def scale(pair):
    return Pair(pair.number * FACTOR)

def numbers(pairs):
    return [type(pair) is Pair and pair.number for pair in pairs]

def call(function, items):
    return joblib.Parallel()(joblib.delayed(function)(item) for item in items)

print(numbers(call(scale, map(Pair, range(5)))))

FACTOR = 3

print(numbers(call(scale, map(Pair, range(5)))))

def scale(pair):
    return Pair(-pair.number)

print(numbers(call(scale, map(Pair, range(5)))))

print(call(lambda array: (type(array).__name__, int(array.sum())), [np.ones(1000, int)] * 2))

def nested(number):
    return sum(joblib.Parallel(n_jobs=2, backend="qmill")([joblib.delayed(abs)(-number)] * 3))

print(call(nested, range(3)))
"""

EXPECTED = [
    "top level",
    "[0, 2, 4, 6, 8]",
    "[0, 3, 6, 9, 12]",
    "[0, -1, -2, -3, -4]",
    "[('memmap', 1000), ('memmap', 1000)]",
    "[0, 3, 6]",
]

GUARDED = """
import joblib, qmill.compat.joblib
import numpy as np

TABLE = np.arange(3)

def look_up(index):
    return int(TABLE[index])

if __name__ == "__main__":
    qmill.compat.joblib.register()
    print("top level")
    with joblib.parallel_config(backend="qmill", n_jobs=2):
        print(joblib.Parallel()(joblib.delayed(look_up)(index) for index in range(3)))
"""


@pytest.mark.parametrize("run", [run_script, run_stdin, run_jupyter])
def test_tasks_find_what_main_defines(
    run: Callable[[Path, dict[str, str], str], str], tmp_path: Path
) -> None:
    assert run(tmp_path, {}, PROGRAM).splitlines() == EXPECTED


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_guarded_script_runs_with_every_start_method(method: str, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(GUARDED, encoding="utf-8")
    output = programs.run(str(script), env={"QMILL_START_METHOD": method})
    assert output.splitlines() == ["top level", "[0, 1, 2]"]


ENDED = """
import os, signal, sys
import joblib, numpy as np
import qmill, qmill.compat.joblib

signal.signal(signal.SIGINT, signal.default_int_handler)
qmill.compat.joblib.register()
started, never = qmill.Queue(), qmill.Queue()
array = np.ones(100_000)

def hold(array):
    started.put(os.getpid())
    never.get()

def tell():
    pids = [started.get(), started.get()]
    print(*pids, flush=True)

import threading
threading.Thread(target=tell).start()
try:
    with joblib.parallel_config(backend="qmill", n_jobs=2, temp_folder=sys.argv[1], max_nbytes=10):
        joblib.Parallel()([joblib.delayed(hold)(array)] * 4)
except KeyboardInterrupt:
    left = os.listdir(sys.argv[1])
    with joblib.parallel_config(backend="qmill", n_jobs=2):
        print(left, joblib.Parallel()([joblib.delayed(abs)(-1)] * 3))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_a_program_that_is_ended_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    """At Ctrl-C it goes on; in any case its workers end and no file is left."""
    folder = tmp_path / "arrays"
    program = programs.start("-c", ENDED, str(folder))
    assert program.stdout is not None
    workers = [os.pidfd_open(int(pid)) for pid in program.stdout.readline().split()]
    assert len(workers) == 2
    program.send_signal(number)
    output, errors = program.communicate(timeout=programs.TIMEOUT_S)
    for worker in workers:
        assert select.select([worker], [], [], programs.TIMEOUT_S)[0], "a worker has not ended"
        os.close(worker)
    assert list(folder.iterdir()) == []
    if number == signal.SIGINT:
        assert (output, errors, program.returncode) == ("[] [1, 1, 1]\n", "", 0)
    else:
        assert program.returncode == -number
