"""The path of a file of records."""

from __future__ import annotations

import pytest

from ...limits import _no_test_hangs  # noqa: F401 (a fixture)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "jobs.csv"
