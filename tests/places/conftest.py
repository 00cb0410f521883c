"""Fixtures of the tests in odd places."""

from __future__ import annotations

import pytest

from qmill.processes import launch

from ..limits import _no_test_hangs  # noqa: F401 (a fixture)


@pytest.fixture(params=launch.METHODS)
def method(request):
    return request.param
