"""A map on each engine, and gates that hold its items."""

from __future__ import annotations

import pytest

import qmill


@pytest.fixture
def gates():
    """Ten queues of permits, one for each item."""
    queues = [qmill.Queue() for _ in range(10)]
    yield queues
    for queue in queues:
        queue.shutdown(immediate=True)


@pytest.fixture
def map_(engine):
    """`qmill.map` with two workers, whose iterators end with the test."""
    made = []

    def map_(*args, **kwargs):
        made.append(qmill.map(*args, **{"engine": engine, "max_workers": 2} | kwargs))
        return made[-1]

    yield map_
    for results in made:
        results.close()
