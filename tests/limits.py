"""A limit for each test that may wait for ever: it is interrupted, and the others run."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

HUNG_AFTER_S = 60
LONG_AFTER_S = 900  # of those that are marked chaos


@pytest.fixture(autouse=True)
def _no_test_hangs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Interrupt a test that hangs, as Ctrl-C would."""
    seconds = LONG_AFTER_S if request.node.get_closest_marker("chaos") else HUNG_AFTER_S

    def interrupt(*_: object) -> None:
        raise TimeoutError(f"the test hung for {seconds} s")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
