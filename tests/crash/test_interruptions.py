"""An exception of a signal handler at any place: nothing is lost, doubled or left open."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from qmill.queues.local import mailbox

from .interrupted_scenes import SCENES
from .interruptions import TRANSPORTS

_SEED = int(os.environ.get("QMILL_CHAOS_SEED", random.SystemRandom().randrange(1 << 16)))
_EVERY = 9  # so many instructions are left out between two, but for `make chaos`

is_compiled = pytest.mark.skipif(
    mailbox.__file__.endswith(".py"), reason="handlers run within what is not compiled"
)


def run(transport: str, first: int, step: int, *cases: str) -> None:
    """Run the program of interruptions."""
    kind = "portable" if transport.endswith("portable") else "shared"
    subprocess.run(
        [sys.executable, "-m", "tests.crash.interruptions", transport, str(first), str(step)]
        + [*cases],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "QMILL_TRANSPORT": kind},
        stdout=subprocess.DEVNULL,
        check=True,
    )


def play(scenes: str, first: int, step: int) -> None:
    """Run the program of scenes."""
    subprocess.run(
        [sys.executable, "-m", "tests.crash.interrupted_scenes", scenes, str(first), str(step)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        check=True,
    )


@is_compiled
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_some_interruptions(transport):
    """Each run interrupts other instructions than the last one, told by its seed."""
    print("QMILL_CHAOS_SEED =", _SEED)
    step = _EVERY * 5 if transport == "named-portable" else _EVERY  # each starts a process
    run(transport, 1 + _SEED % step, step)


@is_compiled
@pytest.mark.parametrize("scenes", SCENES)
def test_some_scenes(scenes):
    """Each run interrupts other instructions than the last one, told by its seed."""
    print("QMILL_CHAOS_SEED =", _SEED)
    step = SCENES[scenes].step
    play(scenes, 1 + _SEED % step, step)


@is_compiled
@pytest.mark.chaos
@pytest.mark.parametrize("scenes", SCENES)
def test_every_scene(scenes):
    play(scenes, 1, 1)


@is_compiled
@pytest.mark.chaos
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_interruption(transport):
    run(transport, 1, 1)
