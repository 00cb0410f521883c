"""`multiprocessing.pool` on qmill."""

from __future__ import annotations

from multiprocessing import pool as _stdlib
from typing import Any

from ...job_queue.pool import Pool, ThreadPool
from ...job_queue.pool_results import (
    ApplyResult,
    AsyncResult,
    IMapIterator,
    IMapUnorderedIterator,
    MapResult,
)

__all__ = [
    "ApplyResult",
    "AsyncResult",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
    "Pool",
    "ThreadPool",
]


def __getattr__(name: str) -> Any:
    return getattr(_stdlib, name)
