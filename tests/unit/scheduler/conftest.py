"""A bench, and its scheduler."""

from __future__ import annotations

import pytest

from ...limits import _no_test_hangs  # noqa: F401 (a fixture)
from .bench import Bench


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture
def scheduler(bench):
    return bench.scheduler
