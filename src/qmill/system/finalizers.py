"""A `__del__` in which no exception of a signal handler is lost.

CPython discards an exception that leaves a `__del__`, also one that a signal handler has raised
there, such as Ctrl-C. A `finalizer` is called again until it has done its work, and the exception
is then raised in the main thread, by a pending call of the interpreter. That needs a function of C,
so without a compiler the exception is lost, as in any `__del__`. It is also lost if the interpreter
makes the call inside a `__del__` of the program.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

try:
    from ._finalizers import finalizer
except ImportError:  # it was not built

    def finalizer(function: Callable[[Any], None]) -> Callable[[Any], None]:
        """Turn a function into a `__del__`."""
        return function


__all__ = ["finalizer"]
