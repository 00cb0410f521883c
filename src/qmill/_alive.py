"""A set of objects that does not keep them alive, which no signal handler interrupts as one goes.

The sets of the standard library run Python code then, in which CPython prints and drops whatever a
handler raises.
"""

from __future__ import annotations

from functools import partial
from weakref import ref

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


class Alive:
    """Objects, told apart by what they are and not by what they equal, while they are alive."""

    def __init__(self) -> None:
        self._refs: dict[int, ref[Any]] = {}

    def add(self, obj: Any) -> None:
        """Add an object. Its number is nobody else's before this function in C has run."""
        self._refs[id(obj)] = ref(obj, partial(self._refs.pop, id(obj)))

    def __iter__(self) -> Iterator[Any]:
        found = [each() for each in list(self._refs.values())]
        return iter([obj for obj in found if obj is not None])
