"""A sender, a reader and the channel between them."""

from __future__ import annotations

import pytest

from .channel import POINT, Channel, Process


@pytest.fixture
def sender():
    return Process(POINT)


@pytest.fixture
def reader():
    return Process()


@pytest.fixture
def channel(sender, reader):
    return Channel(sender, reader)


@pytest.fixture
def back(sender, reader):
    return Channel(reader, sender)
