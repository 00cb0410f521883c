"""Fixtures of the crash tests."""

from __future__ import annotations

import shutil
import subprocess

import pytest

import qmill
from qmill.processes import launch

from ..limits import _no_test_hangs  # noqa: F401 (a fixture)
from . import native
from .programs import Program


@pytest.fixture(params=launch.METHODS)
def method(request, monkeypatch):
    """Each start method, in force for this test and its workers."""
    monkeypatch.setenv("QMILL_START_METHOD", request.param)
    return request.param


@pytest.fixture
def workers():
    """A list of workers that end with the test, however it ends."""
    crew = []
    yield crew
    for worker in crew:
        if worker.kind == "process":
            worker.kill()
            worker.join()
            worker.exception()  # so that nobody logs it


@pytest.fixture
def run(workers):
    """`qmill.run`, of workers that end with the test."""

    def run(fn, /, *args, **kwargs):
        workers.append(qmill.run(fn, *args, **kwargs))
        return workers[-1]

    return run


@pytest.fixture
def start_program(method):
    """Starts a program of its own, under each start method."""
    programs = []

    def start(source):
        programs.append(Program(source, method))
        return programs[-1]

    yield start
    for program in programs:
        program.clean_up()


@pytest.fixture(scope="session")
def audit(tmp_path_factory):
    """Look through a queue's file, by a program in C: blocks and memory are accounted for."""
    if shutil.which("gcc") is None:
        return lambda queue: None
    program = native.build("audit", tmp_path_factory.mktemp("native"))

    def audit(queue):
        command = [program, native.file_of(queue)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) == 1, "somebody who is dead has a slot"

    return audit
