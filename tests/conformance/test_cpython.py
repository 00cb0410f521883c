"""CPython's own tests of queues, pools, processes and executors, as the interpreter has them, pass.

Those that do not apply are listed, with the reasons, in `support/cpython_queues.py`,
`support/cpython_pools.py` and `support/cpython_executors.py`. Groups of them run at the same time,
as most of the time they sleep.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conformance_support import PLACES, PROCESS_HERE
from cpython_tests import has

METHODS = multiprocessing.get_all_start_methods()
SUPPORT = Path(__file__).parent / "support"


class Group:
    """A program that runs a group of a module's tests."""

    def __init__(self, folder, module, name, transport=None):
        self.title = f"{module} {name}" + (f" {transport}" if transport else "")
        folder /= self.title
        folder.mkdir()
        self._outcomes = folder / "outcomes"
        self._output = open(folder / "output", "w+")  # noqa: SIM115 (it outlives the call)
        source = "import sys, cpython_tests; cpython_tests.main(*sys.argv[1:])"
        environ = os.environ | {"PYTHONPATH": str(SUPPORT)}
        if transport:
            environ["QMILL_TRANSPORT"] = transport
        self._process = subprocess.Popen(
            [sys.executable, "-c", source, module, name, str(self._outcomes)],
            env=environ,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    def failures(self):
        """Wait for the end, and tell what failed; and how many tests passed."""
        code = self._process.wait()
        outcomes = [json.loads(line) for line in self._outcomes.read_text().splitlines()]
        failed = [f"{self.title}: {name}\n{why}" for name, how, why in outcomes if how == "failed"]
        if code != 0:
            self._output.seek(0)
            failed.append(f"{self.title} ended with {code}\n{self._output.read()}")
        return failed, sum(how == "passed" for _, how, _ in outcomes)

    def end(self):
        self._process.kill()
        self._process.wait()
        self._output.close()


@pytest.fixture
def run(tmp_path):
    """Runs groups at the same time: in each no test may fail, and at least so many have to pass."""
    groups = []

    def run(least, made):
        groups.extend(Group(tmp_path, *each) for each in made)
        results = [group.failures() for group in groups]
        failed = [text for failures, _ in results for text in failures]
        assert not failed, "\n\n".join(failed)
        assert min(num_passed for _, num_passed in results) >= least

    yield run
    for group in groups:
        group.end()


def needs(module):
    return pytest.mark.skipif(not has(module), reason=f"this Python has no test.{module}")


@needs("test_queue")
def test_queues_do_what_those_between_threads_do(run):
    run(6, [("cpython_queues", str(place)) for place in PLACES])


@needs("_test_multiprocessing")
@pytest.mark.parametrize("place", PROCESS_HERE, ids=str)
def test_queues_do_what_those_of_multiprocessing_do(run, place):
    run(8, [("cpython_queues", method, place.transport) for method in METHODS])


@needs("test_concurrent_futures")
@pytest.mark.parametrize("groups", [["thread", "fork"], ["forkserver", "spawn"]], ids=" ".join)
def test_job_queues_do_what_executors_do(run, groups):
    run(25, [("cpython_executors", group) for group in groups if group in ("thread", *METHODS)])


@needs("_test_multiprocessing")
@pytest.mark.parametrize("groups", [["threads", "fork"], ["forkserver", "spawn"]], ids=" ".join)
def test_pools_and_processes_do_what_those_of_multiprocessing_do(run, groups):
    run(24, [("cpython_pools", group) for group in groups if group in ("threads", *METHODS)])
