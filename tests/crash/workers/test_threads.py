"""Workers of a process that has threads."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
import threading

import pytest

import qmill
from qmill.processes import trees

from .. import functions
from ..programs import LIMIT_S, Watch, descriptors, wait_until
from .leftovers import STARTS_OTHERS, pids_left_by


class Churn:
    """Threads that are, at any moment, inside everybody's locks."""

    def __init__(self):
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(action,), daemon=True)
            for action in (self._log, self._import, self._allocate, self._lock, self._put)
        ]
        self._shared = threading.RLock()
        self._q = qmill.Q()
        self._logger = logging.getLogger("churn")
        self._logger.propagate = False
        self._handler = logging.FileHandler(os.devnull)
        self._logger.addHandler(self._handler)

    def __enter__(self):
        self._interval = sys.getswitchinterval()
        sys.setswitchinterval(0.0005)
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        sys.setswitchinterval(self._interval)
        self._logger.removeHandler(self._handler)
        self._handler.close()

    def _repeat(self, action):
        while not self._stop.is_set():
            action()

    def _log(self):
        self._logger.warning("churning")

    def _import(self):
        sys.modules.pop("json.tool", None)
        importlib.import_module("json.tool")

    def _allocate(self):
        [bytearray(size) for size in (1, 100, 10_000, 1_000_000)]

    def _lock(self):
        with self._shared:
            os.environ["QMILL_TEST_CHURN"] = "on"

    def _put(self):
        self._q.put(1)
        self._q.get()


@pytest.mark.parametrize(("start_method", "times"), [(None, 25), ("spawn", 3)])
def test_a_process_with_busy_threads_starts_workers(start_method, times, monkeypatch):
    monkeypatch.delenv("QMILL_START_METHOD", raising=False)
    monkeypatch.setenv("QMILL_TEST_CHURN", "on")
    with Churn():
        for _ in range(times):
            worker = qmill.Worker(functions.busy_start, start_method=start_method)
            assert worker.result(LIMIT_S) == worker.pid
            worker.join(LIMIT_S)
            assert worker.exitcode == 0


def test_descriptors_are_given_back(method):
    work = [functions.add, functions.fail, functions.many_bytes]

    def start_many(times):
        """Start workers, and keep the last one."""
        for number in range(times):
            worker = qmill.run(work[number % 3], 99_999)
            if number % 2:
                worker.exception()
            worker.join()
            worker.exception()
        gc.collect()
        return worker

    few = start_many(6)
    before = descriptors()
    del few
    many = start_many(50 if method != "spawn" else 12)
    assert descriptors() == before
    assert many.exitcode is not None


def test_descriptors_of_a_start_that_was_refused_are_given_back(method):
    before = descriptors()
    for _ in range(5):
        with pytest.raises(ValueError):
            qmill.Worker(functions.nothing, start_method="no such")
        if method != "fork":
            with pytest.raises(qmill.SerializationError):
                qmill.run(functions.add, threading.Lock())
    assert descriptors() == before


STARTS_MANY = """
import subprocess
def start_many(told):
    script = "echo; while :; do sleep 600 & sleep 0.01; done"
    shell = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE)
    shell.stdout.readline()
    told.put(shell.pid)
    shell.wait()
told = qmill.Queue()
own = subprocess.Popen(["sleep", "600"])
workers = [qmill.run(start_many, told) for _ in range(2)]
tell(own.pid, *[told.get() for _ in workers])
signal.pause()
"""


def test_what_starts_others_all_the_time_ends_and_what_is_the_programs_own_stays(start_program):
    program = start_program(STARTS_MANY)
    own, *shells = program.hear_pids()
    watch = Watch(shells)
    program.kill()
    assert watch.wait() == []
    wait_until(lambda: trees._members(program.pid) == [own])


def test_a_guard_that_was_killed_is_replaced(start_program):
    program = start_program(
        STARTS_OTHERS
        + """
from qmill.processes import launch
workers = [qmill.run(start_another, 0)]
guard = launch._guardian._process
if guard is not None:
    guard.kill()
    guard.wait()
assert workers[0].is_alive()
workers.append(qmill.run(start_another, 1))
signal.pause()
"""
    )
    assert pids_left_by(program) == []
