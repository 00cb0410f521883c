"""A queue of each kind, and its reader."""

from __future__ import annotations

import pytest

from qmill import Q

from ...limits import _no_test_hangs  # noqa: F401 (a fixture)


@pytest.fixture(params=["process", "thread"])
def kind(request):
    return request.param


@pytest.fixture
def q(kind):
    return Q(kind)


@pytest.fixture(params=[iter, Q.sorted], ids=["iter", "sorted"])
def read(request):
    return request.param
