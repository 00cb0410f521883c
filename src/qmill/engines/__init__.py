"""Engines run jobs and report how they ended: in threads, in processes, on clusters.

qmill.engines.Dask    a Dask cluster, for `JobQueue(engine=...)`
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dask.factory import Dask

__all__ = ["Dask"]


def __getattr__(name: str) -> Any:
    if name == "Dask":
        from .dask.factory import Dask

        return Dask
    raise AttributeError(f"module 'qmill.engines' has no attribute {name!r}")
