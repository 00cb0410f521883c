"""Runs CPython's own tests against qmill; nothing of them is copied.

They come from the `test` package of the interpreter, as far as it has one, and are bound to qmill
in `cpython_queues` and `cpython_executors`. Each group runs in a program of its own: they count its
threads, reap its children and change modules.
"""

from __future__ import annotations

import importlib.util
import json
import unittest


def main(module, group, file):
    """Run a group of a module's tests, and write the outcome of each to a file: a line of JSON."""
    with open(file, "w") as lines:
        importlib.import_module(module).run(group, Outcomes(lines))


def has(module):
    """Whether this interpreter has a module of its own tests; without importing that."""
    try:
        return importlib.util.find_spec(f"test.{module}") is not None
    except ModuleNotFoundError:  # it has none of them
        return False


def bind(namespace, name, bases, left_out, **members):
    """Make a class of CPython's tests and of what they are to test.

    Args:
        namespace: The globals of the module that is to have it, where other processes find it.
        name: What to call it.
        bases: The tests, and what binds them.
        left_out: The tests that do not apply, and why: by their names, or by that of the first base
            and theirs, with a dot between.
        **members: What it has itself.
    """
    made = type(name, tuple(bases), {"__module__": namespace["__name__"]} | members)
    for key, reason in left_out.items():
        suite, _, test = key.rpartition(".")
        if hasattr(made, test) and suite in ("", bases[0].__name__):
            setattr(made, test, unittest.skip(reason)(lambda self: None))
    namespace[name] = made


class Outcomes(unittest.TestResult):
    """Writes a line for each test that has ended: its name, its outcome and why."""

    def __init__(self, file):
        super().__init__()
        self._file = file

    def run(self, *classes):
        for each in classes:
            unittest.defaultTestLoader.loadTestsFromTestCase(each).run(self)
            self._previousTestClass = None  # its tearDownClass has been called

    def _tell(self, test, outcome, why=""):
        self._file.write(json.dumps([test.id().partition(".")[2], outcome, why]) + "\n")
        self._file.flush()

    def addSuccess(self, test):
        self._tell(test, "passed")

    def addSkip(self, test, reason):
        self._tell(test, "skipped", reason)

    def addFailure(self, test, error):
        self._tell(test, "failed", self._exc_info_to_string(error, test))

    addError = addFailure

    def addSubTest(self, test, subtest, error):
        if error is not None:
            self.addFailure(test, error)
