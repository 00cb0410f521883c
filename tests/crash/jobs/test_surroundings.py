"""Workers have the environment, the folder and the path of their parent."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import qmill

from .. import job_functions
from ..programs import LIMIT_S, ROOT


def test_libraries_get_their_share_of_the_processors(method, monkeypatch):
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"]
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for num_workers in (1, 2, 2 * qmill.NUM_CPUS):
        share = str(max(1, qmill.NUM_CPUS // num_workers))
        with qmill.JobQueue(num_workers) as jobs:
            told = jobs.submit(job_functions.library_threads, names).result()
            assert told == dict.fromkeys(names, share)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with qmill.JobQueue(2) as jobs:
        told = jobs.submit(job_functions.library_threads, names).result()
        assert told["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_a_queue_in_a_job(method):
    with qmill.JobQueue(2) as jobs:
        some = [jobs.submit(job_functions.nested_sum, number) for number in (10, 100)]
        assert [job.result(LIMIT_S) for job in some] == [45, 4950]


UNGUARDED = """
import qmill
class Odd(Exception):
    pass
offset = 3
def shift(x):
    if x > 100:
        raise Odd(x)
    return x + offset
jobs = qmill.JobQueue(2)
some = [jobs.put(shift, i) for i in range(5)]
print([job.result() for job in some], list(qmill.map(lambda x: x * offset, range(4))))
try:
    jobs.put(shift, 200).result()
except Odd as error:
    print("odd", error)
jobs.shutdown()
"""


@pytest.mark.parametrize("how", ["script", "-", "-c"])
def test_an_unguarded_main(method, how, tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(UNGUARDED)
    command = {"script": [str(script)], "-": ["-"], "-c": ["-c", UNGUARDED]}[how]
    done = subprocess.run(
        [sys.executable, *command],
        input=UNGUARDED if how == "-" else "",
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=os.environ | {"PYTHONPATH": str(ROOT), "QMILL_START_METHOD": method},
    )
    assert done.stderr == ""
    assert done.stdout == "[3, 4, 5, 6, 7] [0, 3, 6, 9]\nodd 200\n"
