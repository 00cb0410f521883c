"""Both kinds of workers."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["process", "thread"])
def kind(request):
    return request.param
