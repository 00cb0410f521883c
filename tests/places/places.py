"""Programs in odd places: each is a script in the folder `programs`, and says `done` at its end."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
LIMIT_S = 60.0


def run(*command: str, cwd: Path | str = PROGRAMS, script: str = "exec", **environ: str) -> str:
    """Run Python with arguments, and return what it prints.

    Args:
        command: What stands behind `python`.
        cwd: Where.
        script: Shell commands that make the place, the last of which gets the program.
        environ: Further variables.
    """
    python = shlex.join([sys.executable, *command])
    done = subprocess.run(
        ["sh", "-c", f"{script} {python}"],
        cwd=cwd,
        env=os.environ | environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert not done.stderr, done.stderr
    return done.stdout


def may_unshare() -> bool:
    """Whether this user may have mounts of its own."""
    if sys.platform != "linux":
        return False
    try:
        made = subprocess.run(
            ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/proc"],
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError:
        return False
    return made.returncode == 0


def in_own_mounts(*commands: str) -> str:
    """Return the script for a place with mounts of its own that commands change."""
    inner = " && ".join([*commands, 'exec "$@"'])
    return f"exec unshare --mount sh -c {shlex.quote(inner)} sh"


def opened_to_all(path: str, at: Path) -> list[str]:
    """Return commands for own mounts after which every user may reach an interpreter.

    And these tests, which may lie in a folder that is their owner's alone.

    Args:
        path: The interpreter.
        at: An empty folder.
    """
    closed: dict[Path, set[str]] = {}
    for wanted in (os.path.realpath(path), os.path.abspath(path), __file__):
        for folder in Path(wanted).parents:
            if not folder.stat().st_mode & 0o001:
                closed.setdefault(folder, set()).add(Path(wanted).relative_to(folder).parts[0])
    commands = []
    for number, folder in enumerate(sorted(closed)):  # what is inside of another one comes later
        place = at / str(number)
        place.mkdir()
        commands += [
            f"mount --rbind {folder} {place}",
            f"mount -t tmpfs -o mode=755 none {folder}",
        ]
        for below in closed[folder]:
            commands += [
                f"mkdir {folder}/{below}",
                f"mount --rbind {place}/{below} {folder}/{below}",
            ]
    return commands
