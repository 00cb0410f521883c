"""coverage counts the lines that workers run, as it is usually set."""

from __future__ import annotations

import json

import pytest

from qmill.processes import launch

from . import places

METHODS = list(launch.METHODS)


@pytest.fixture
def missing(tmp_path):
    """Runs the program and returns which functions' lines were not counted."""
    (tmp_path / "covering.py").write_text((places.PROGRAMS / "covering.py").read_text())
    (tmp_path / "covered.py").write_text((places.PROGRAMS / "covered.py").read_text())

    def missing(settings, *methods, started=("-m", "coverage", "run"), **environ):
        lines = ["[run]", "parallel = True", "sigterm = True", "include = covered.py", *settings]
        lines.append("disable_warnings = no-data-collected")  # of workers that run nothing of it
        (tmp_path / ".coveragerc").write_text("\n".join(lines))
        places.run(*started, "covering.py", *methods, cwd=tmp_path, **environ)
        places.run("-m", "coverage", "combine", "-q", cwd=tmp_path)
        places.run("-m", "coverage", "json", "-q", "-o", "told.json", cwd=tmp_path)
        functions = json.loads((tmp_path / "told.json").read_text())["files"]["covered.py"][
            "functions"
        ]
        return {name for name, told in functions.items() if told["missing_lines"]}

    return missing


def test_it_follows_multiprocessing(missing):
    assert missing(["concurrency = multiprocessing, thread"], *METHODS) == set()


def test_it_follows_programs(missing):
    """Forked workers are followed as it follows all that leave by `os._exit`."""
    assert missing(["patch = subprocess, _exit"], *METHODS) == set()


def test_it_begins_in_every_interpreter(missing, tmp_path):
    started = {"COVERAGE_PROCESS_START": str(tmp_path / ".coveragerc")}
    assert missing([], "forkserver", "spawn", started=(), **started) == {"by_fork"}
