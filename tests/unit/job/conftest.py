"""Threads that switch often, and log messages."""

from __future__ import annotations

import logging
import sys

import pytest

from ...limits import _no_test_hangs  # noqa: F401 (a fixture)


@pytest.fixture
def fast_switching():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def told(caplog):
    """Return what was logged of failures since the last time."""
    caplog.set_level(logging.WARNING, logger="qmill")

    def messages():
        found = [record for record in caplog.records if record.name.startswith("qmill")]
        caplog.clear()
        return found

    return messages
