"""A limit for each test that may wait for ever: it is interrupted, and the others run."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

HUNG_AFTER_S = 60


@pytest.fixture(autouse=True)
def _no_test_hangs() -> Iterator[None]:
    """Interrupt a test that hangs, as Ctrl-C would."""

    def interrupt(*_: object) -> None:
        raise TimeoutError(f"the test hung for {HUNG_AFTER_S} s")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(HUNG_AFTER_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
