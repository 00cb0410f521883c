"""The tests, and the programs of users, do not depend on what a machine's environment has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import qmill

from . import programs

NEUTRAL = ["sh", str(programs.ROOT / "tools" / "neutral.sh")]
SEEDS = programs.ROOT / "examples" / "seeds"

# What a developer's shell, an image of a container or an editor sets for all programs.
SET_BY_SOMEBODY = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONWARNINGS": "error",
    "PYTHONHASHSEED": "0",
    "PYTHONIOENCODING": "latin-1",
    "PYTHONPATH": "/nowhere",
    "LC_ALL": "C",
    "LANG": "de_DE.UTF-8",
    "TERM": "xterm-256color",
}


def told_by_a_process() -> tuple[dict[str, str], str]:
    """Return what the environment has of the names that count, and what standard input gives."""
    found = {
        name: value
        for name, value in os.environ.items()
        if re.match("PYTHON.|LC_|LANG|TERM$", name)
    }
    return found, sys.stdin.read()


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_what_the_tests_start_inherits_nothing_of_the_machine(method: str) -> None:
    worker = qmill.Worker(told_by_a_process, start_method=method)
    assert worker.result() == ({"LANG": "C.UTF-8"}, "")
    worker.join()
    program = f"from {__name__} import told_by_a_process; print(told_by_a_process())"
    started = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {str(programs.ROOT)!r}); {program}",
        ],
        capture_output=True,
        text=True,
        timeout=programs.TIMEOUT_S,
    )
    assert (started.stdout, started.stderr) == ("({'LANG': 'C.UTF-8'}, '')\n", "")


@pytest.mark.parametrize("options", [[], ["-n", "1"]], ids=["one process", "xdist"])
@pytest.mark.parametrize("through", [NEUTRAL, []], ids=["neutral.sh", "pytest alone"])
def test_so_it_is_whatever_the_machine_has_set(through: list[str], options: list[str]) -> None:
    name = test_what_the_tests_start_inherits_nothing_of_the_machine.__name__
    told = subprocess.run(
        [*through, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
        + [f"{__file__}::{name}"],
        input="not for the tests",
        capture_output=True,
        text=True,
        timeout=programs.TIMEOUT_S,
        env=os.environ | SET_BY_SOMEBODY | ({} if through else {"PYTHONWARNINGS": "default"}),
        cwd=programs.ROOT,
    )
    assert (told.returncode, told.stderr) == (0, ""), told.stdout
    assert "3 passed" in told.stdout


def test_neutral_hands_on_the_arguments_the_status_and_other_variables() -> None:
    script = 'printf "%s|" "$@"; printf "%s|" "$PYTHON" "$QMILL_X"; cat; exit 7'
    told = subprocess.run(
        [*NEUTRAL, "sh", "-c", script, "sh", "a b", "", "*"],
        input="not for the command",
        capture_output=True,
        text=True,
        timeout=programs.TIMEOUT_S,
        env=os.environ | {"PYTHON": "python3.13", "QMILL_X": "kept\nPYTHONPATH=kept"},
    )
    assert (told.returncode, told.stderr) == (7, "")
    assert told.stdout == "a b||*|python3.13|kept\nPYTHONPATH=kept|"


@pytest.mark.parametrize("target", ["run", "test", "check", "chaos", "bench"])
def test_make_starts_python_in_the_neutral_environment(target: str) -> None:
    told = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", target],
        capture_output=True,
        text=True,
        timeout=programs.TIMEOUT_S,
        env=os.environ | {"MAKEFLAGS": ""},
        cwd=programs.ROOT,
    )
    assert told.returncode == 0, told.stderr
    started = re.findall(r"(\S+ \S+) (?:\.venvs?(?:/\w+)?/bin/\w+)", told.stdout)
    assert started
    assert set(started) - {'"the fix:'} == {"sh tools/neutral.sh"}


# -- other machines --------------------------------------------------------------------------------

MACHINES = {
    "the C locale": {"LANG": "C"},
    "POSIX, and nothing done about it": {
        "LC_ALL": "POSIX",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
    },
    "unbuffered": {"PYTHONUNBUFFERED": "1"},
    "optimised, and no bytecode": {"PYTHONOPTIMIZE": "2", "PYTHONDONTWRITEBYTECODE": "1"},
}


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    home = tmp_path / "home"
    home.mkdir()
    return MACHINES[request.param] | {"HOME": str(home)}


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize(
    ("seed", "last"),
    [
        ("queue_nonblocking.py", "sent 10, received 10"),
        ("jobs_collect.py", "[729, 512] [343, 216, 125, 64, 27, 8, 1, 0]"),
        ("map_quick_start.py", "[0, 2, 4, 6, 8, 10]"),
    ],
)
def test_a_program_does_the_same_on_another_machine(
    machine: dict[str, str], seed: str, last: str, method: str
) -> None:
    env = machine | {"QMILL_START_METHOD": method}
    assert programs.run(str(SEEDS / seed), env=env).splitlines()[-1] == last
    assert list(Path(machine["HOME"]).iterdir()) == []


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_program_in_a_folder_with_any_name(
    machine: dict[str, str], method: str, tmp_path: Path
) -> None:
    folder = os.fsencode(tmp_path) + "/\xe4 '".encode()
    os.mkdir(folder)
    with open(folder + b"/helper.py", "w") as module:
        module.write("def three(): return 3\n")
    with open(folder + b"/program.py", "w") as program:
        program.write("import qmill, helper; print(qmill.run(helper.three).result())\n")
    env = machine | {"QMILL_START_METHOD": method}
    assert programs.run(os.fsdecode(folder + b"/program.py"), env=env) == "3\n"


def test_a_named_queue_on_another_machine(machine: dict[str, str], tmp_path: Path) -> None:
    program = (
        "import qmill; q = qmill.Queue(name='f\\xfcr \\u4e00', persistent=True); "
        "q.put('\\xe4'); print(ascii(q.get())); q.unlink()"
    )
    for transport in ("", "portable"):
        env = machine | {"QMILL_DIR": str(tmp_path / "names"), "QMILL_TRANSPORT": transport}
        assert programs.run("-c", program, env=env) == "'\\xe4'\n"


@pytest.mark.parametrize("command", [["run", "-k", "echo {}"], ["map", "-k", "os:fspath"]])
def test_the_command_hands_on_any_bytes_on_another_machine(
    machine: dict[str, str], command: list[str]
) -> None:
    given = b"\xc3\xa4\n\xff\n\xe4\xb8\x80\n"
    told = subprocess.run(
        [sys.executable, "-m", "qmill", *command],
        input=given,
        capture_output=True,
        timeout=programs.TIMEOUT_S,
        env=os.environ | machine,
    )
    assert (told.returncode, told.stdout, told.stderr) == (0, given, b"")
