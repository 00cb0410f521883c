"""joblib's own tests pass on qmill, and scikit-learn gives the numbers that it gives with loky.

joblib has its tests installed. Those that do not apply are listed, with the reasons, in
`support/joblib_tests.py`. All of this takes a minute and is for `make test-all`, which installs
scikit-learn.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parent / "support"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="scikit-learn comes with make test-all"
)


@pytest.fixture
def run(tmp_path):
    """Runs Python, where loky's files are not taken for what other tests leave behind."""

    def run(*arguments, **environ):
        folder = {"JOBLIB_TEMP_FOLDER": str(tmp_path), "PYTHONPATH": str(SUPPORT)}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=os.environ | folder | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return run


@pytest.mark.parametrize(
    ("module", "words", "least"),
    [
        ("test_parallel", "generator or nest", 40),
        ("test_parallel", "not (generator or nest)", 70),
        ("test_memmapping", "", 5),
    ],
)
def test_joblib_passes_its_own_tests(run, tmp_path, module, words, least):
    outcomes = tmp_path / "outcomes"
    (tmp_path / "pytest.ini").write_text("[pytest]\n")  # nothing of this project's
    options = ["-c", "pytest.ini", "-p", "joblib_tests", "-p", "no:cacheprovider", "-q"]
    tests = ["-k", words, "--pyargs", f"joblib.test.{module}"]
    done = run("-m", "pytest", *options, *tests, JOBLIB_OUTCOMES=str(outcomes))
    lines = [json.loads(line) for line in outcomes.read_text().splitlines()]
    failed = [f"{name}\n{why}" for name, how, why in lines if how == "failed"]
    assert not failed, "\n\n".join(failed)
    assert done.returncode == 0, done.stdout
    assert sum(how == "passed" for _, how, _ in lines) >= least


def test_scikit_learn_gives_the_numbers_that_it_gives_with_loky(run):
    numbers = {}
    for backend in ("qmill", "loky", "sequential"):
        done = run("-W", "ignore", str(SUPPORT / "joblib_scores.py"), backend)
        assert done.returncode == 0, done.stdout
        numbers[backend] = json.loads(done.stdout)
    assert numbers["qmill"] == numbers["loky"] == numbers["sequential"]
