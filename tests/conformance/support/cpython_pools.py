"""CPython's tests of pools and processes, on `qmill.compat.multiprocessing`.

A group is a start method, or "threads" for `ThreadPool`.
"""

from __future__ import annotations

import multiprocessing
import unittest

from cpython_tests import bind, has

import qmill.compat.multiprocessing as ours

LEFT_OUT = {
    "test_unpickleable_result": "the lambda that it returns can be sent",
    "test_parent_process": "a process does not outlive its parent, so as to tell of its end",
}

if has("_test_multiprocessing"):
    from test import _test_multiprocessing as suite

    suite.multiprocessing = ours  # the one import that is changed
    suite.multiprocessing.pool = ours.pool

    class OfProcesses(suite.ProcessesMixin):
        current_process = staticmethod(multiprocessing.current_process)
        parent_process = staticmethod(multiprocessing.parent_process)
        active_children = staticmethod(multiprocessing.active_children)
        Process = ours.Process
        Pool = staticmethod(ours.Pool)
        Queue = staticmethod(ours.Queue)
        JoinableQueue = staticmethod(ours.JoinableQueue)

    class OfThreads(suite.ThreadsMixin):
        Pool = staticmethod(ours.pool.ThreadPool)

    for tests in (
        "_TestPool",
        "_TestPoolWorkerErrors",
        "_TestPoolWorkerLifetime",
        "_TestProcess",
        "_TestSubclassingProcess",
    ):
        bases = [getattr(suite, tests), OfProcesses, unittest.TestCase]
        bind(globals(), f"Processes{tests}", bases, LEFT_OUT)
    bind(globals(), "Threads_TestPool", [suite._TestPool, OfThreads, unittest.TestCase], {})


def run(group, outcomes):
    """Run the tests of a group."""
    if group != "threads":
        multiprocessing.set_start_method(group, force=True)
    prefix = "Threads" if group == "threads" else "Processes"
    outcomes.run(*(each for name, each in globals().items() if name.startswith(f"{prefix}_")))
