"""Programs that PyInstaller and cx_Freeze have made, run as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import qmill
from qmill.queues.names import listing

from ..crash.programs import Watch
from ..limits import _no_test_hangs  # noqa: F401 (a fixture)

pytest.importorskip("PyInstaller", reason="make test-all installs it")
pytest.importorskip("cx_Freeze", reason="make test-all installs it")

SOURCE = Path(__file__).with_name("program.py")
LIMIT_S = 60.0

# What qmill would use, if the program did, and what is here for other tests.
LEFT_OUT = ["IPython", "attrs", "distributed", "matplotlib", "numpy", "pandas", "plotnine", "tqdm"]

# PyInstaller asks this package for its hooks in a process of its own.
WITHOUT_HOOK = "from qmill import _pyinstaller; _pyinstaller.hook_folders = list"


def pyinstaller(folder, *options):
    command = [sys.executable, "-m", "PyInstaller", *options, "--name=program", str(SOURCE)]
    command += [f"--exclude-module={name}" for name in LEFT_OUT]
    subprocess.run(
        [*command, *(f"--{kind}path={folder / kind}" for kind in ("dist", "work", "spec"))],
        check=True,
        capture_output=True,
        env=os.environ
        | {"PYINSTALLER_CONFIG_DIR": str(folder / "cache"), "PYTHONPATH": str(folder)},
    )
    return folder / "dist"


def one_folder(folder):
    return pyinstaller(folder, "--onedir") / "program" / "program"


def one_folder_without_hook(folder):
    (folder / "sitecustomize.py").write_text(WITHOUT_HOOK)
    return one_folder(folder)


def one_file(folder):
    return pyinstaller(folder, "--onefile") / "program"


def cx_freeze(folder):
    command = [sys.executable, "-m", "cx_Freeze", "build", f"--script={SOURCE}", "--silent"]
    command += [f"--excludes={','.join(LEFT_OUT)}"]
    subprocess.run([*command, f"--build-exe={folder}"], check=True, capture_output=True)
    return folder / "program"


HOOKED = [one_folder, one_file]
WAYS = [*HOOKED, one_folder_without_hook, cx_freeze]


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: way.__name__)
def way(request):
    return request.param


@pytest.fixture(scope="module")
def made(way, tmp_path_factory):
    """The program, made in one of the ways."""
    return way(tmp_path_factory.mktemp(way.__name__))


@pytest.fixture
def start(made, tmp_path):
    """Starts the program; all its processes end with the test."""
    programs = []

    def start(*arguments, support):
        program = subprocess.Popen(
            [made, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"SUPPORT": support, "COUNTS": str(tmp_path / "counts")},
            encoding="utf-8",
            start_new_session=True,
        )
        programs.append(program)
        return program

    yield start
    for program in programs:
        try:
            os.killpg(program.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        program.communicate()


def finish(program):
    return *program.communicate(timeout=LIMIT_S), program.returncode


@pytest.mark.parametrize("support", ["qmill", "multiprocessing", "none"])
def test_all_that_a_program_does(start, way, support, tmp_path):
    output, errors, status = finish(start("work", "-c", "import", "--", support=support))
    assert (errors, status) == ("", 0)
    told = json.loads(output)
    knows = support == "qmill" or way in HOOKED
    has_core = qmill.core_info().core and told.pop("memfd")  # cx_Freeze has its own Python
    assert told == {
        "method": "forkserver" if knows else "fork",
        "core": has_core,
        "jobs": [0, 2, 4],
        "point": 2,
        "argv": ["-c", "import", "--"],
        "death": "WorkerDied",
        "map": [0, 2, 4],
        "run": 4,
        **({"shared": "shared"} if has_core else {}),
        "portable": "portable",
        **({} if support == "none" else {"executor": [0, 2, 4]}),
        "spawn": 2 if knows else True,
        "forkserver": 2 if knows else True,
    }
    assert (tmp_path / "counts").read_text() == "\n"  # the program ran once


@pytest.mark.parametrize("support", ["qmill", "none"])
def test_a_program_that_is_killed_leaves_no_process(start, support):
    program = start("hold", support=support)
    own, *workers = map(int, program.stdout.readline().split())
    watch = Watch(workers)
    os.kill(own, signal.SIGKILL)  # PyInstaller's one file has a process above it
    assert watch.wait() == []
    finish(program)


@pytest.mark.parametrize("support", ["qmill", "none"])
def test_ctrl_c(start, way, support):
    program = start("hold", support=support)
    pids = map(int, program.stdout.readline().split())
    if way is one_file:  # the process above it hands on what the terminal sends: two are too many
        for pid in pids:
            os.kill(pid, signal.SIGINT)
    else:
        os.killpg(program.pid, signal.SIGINT)
    _, errors, _ = finish(program)
    assert errors.count("Traceback") == errors.count("KeyboardInterrupt\n") == 1


@pytest.mark.parametrize("support", ["qmill", "none"])
def test_a_broker_outlives_the_program_that_started_it(start, support):
    """Also what one file was unpacked into, which goes with that program."""
    first, second = (start("keep", support=support) for _ in range(2))
    assert [first.stdout.readline(), second.stdout.readline()] == ["[]\n", "[]\n"]
    assert finish(first) == ("", "", 0)
    assert second.communicate("one\ntwo\n", timeout=LIMIT_S) == ("1\n2\n", "")
    assert finish(start("keep", support=support)) == ("['one', 'two']\n", "", 0)
    listing.remove_queue("frozen and kept")
