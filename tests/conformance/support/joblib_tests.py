"""Makes the tests that joblib has installed with itself run on qmill: a plugin for pytest.

Where a test of theirs goes through backends and "loky" is one, "qmill" is one more. Nothing of
theirs is changed or copied, and the tests of other backends are left out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import joblib.testing
import pytest

import qmill.compat.joblib

REGISTER = "import qmill.compat.joblib; qmill.compat.joblib.register()\n"

LEFT_OUT = {
    "test_error_capture": "asks for other workers after an error; here those stay",
    "test_memmapping_leaks": "looks for names in temp_folder; the files of arrays have none",
    "test_parallel_isolated_temp_folders": "looks for folders of arrays; their files are in none",
    "test_child_raises_parent_exits_cleanly": "looks into attributes of other backends",
    "test_nested_loop[loky-qmill]": "a worker of loky knows no backend that the program registers",
    "test_backend_nesting_level[parallel_config-qmill-loky]": "the same",
    "test_backend_nesting_level[parallel_backend-qmill-loky]": "the same",
}
"""Tests that do not apply, by their names with or without parameters, and why."""

_parametrize = joblib.testing.parametrize


def parametrize(names, values, *args, **kwargs):
    """Parametrise a test, with "qmill" wherever there is "loky" by itself."""
    values = list(values)
    if "loky" in values and "qmill" not in values:
        values.append("qmill")
    return _parametrize(names, values, *args, **kwargs)


class Popen(subprocess.Popen):
    """Starts a program, which knows the backend."""

    def __init__(self, args, *more, **options):
        if isinstance(args, list) and args[0] == sys.executable:
            if args[1] == "-c":
                args = [args[0], "-c", REGISTER + args[2], *args[3:]]
            elif args[1].endswith(".py"):
                with open(args[1], "r+") as file:
                    content = file.read()
                    file.seek(0)
                    file.write(REGISTER + content)
        super().__init__(args, *more, **options)


def pytest_configure(config):
    for marker in ("thread_unsafe", "timeout"):
        config.addinivalue_line("markers", f"{marker}: a marker of joblib's")
    qmill.compat.joblib.register()
    joblib.testing.parametrize = parametrize
    subprocess.Popen = Popen


def pytest_collection_modifyitems(items):
    items[:] = [item for item in items if _is_about_qmill(item)]
    for item in items:
        reason = LEFT_OUT.get(item.name) or LEFT_OUT.get(item.originalname)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


def _is_about_qmill(item):
    params = getattr(getattr(item, "callspec", None), "params", {})
    values = [value for name, value in params.items() if "backend" in name]
    return any(value == "qmill" or type(value).__name__ == "QmillBackend" for value in values)


def pytest_runtest_logreport(report):
    """Write a line of JSON for each test that has ended: its name, its outcome and why."""
    failed_apart = report.when != "call" and report.failed
    if report.when == "call" or failed_apart or (report.when == "setup" and report.skipped):
        outcome = [report.nodeid, report.outcome, report.longreprtext]
        with open(os.environ["JOBLIB_OUTCOMES"], "a") as lines:
            lines.write(json.dumps(outcome) + "\n")
