"""A set of weak references whose cleanup cannot be interrupted by a signal handler.

When an object dies, `weakref.WeakSet` runs Python code. If a signal handler raises in that code,
CPython prints the exception and discards it. Here the cleanup is one call of a C function, in which
no handler runs.
"""

from __future__ import annotations

from functools import partial
from weakref import ref

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


class Alive:
    """A set of objects, compared by identity, each of which is in the set as long as it lives."""

    def __init__(self) -> None:
        self._refs: dict[int, ref[Any]] = {}

    def add(self, obj: Any) -> None:
        """Add an object. Its `id` is not reused before the cleanup, one C function, has run."""
        self._refs[id(obj)] = ref(obj, partial(self._refs.pop, id(obj)))

    def __iter__(self) -> Iterator[Any]:
        found = [each() for each in list(self._refs.values())]
        return iter([obj for obj in found if obj is not None])
