"""Functions that run in the workers for joblib: their initializer, and the job of a batch."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from ..packing import remote_errors, serialize

if TYPE_CHECKING:
    from collections.abc import Callable


class Variables:
    """Environment variables of a worker, which are set when this object is unpickled there.

    They must be set early: libraries read their number of threads when they are loaded, and
    unpickling the initializer, which follows, may load them.
    """

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values

    def __reduce__(self) -> Any:
        return _set, (self._values,)


def _set(values: dict[str, str]) -> Variables:
    os.environ.update(values)
    return Variables(values)


def begin(_: Variables, initializer: Callable[..., Any] | None, initargs: Any) -> None:
    """Register the backend, since tasks may use it, and call the user's initializer."""
    from . import joblib

    joblib.register()
    if initializer is not None:
        initializer(*initargs)


class Ended(NamedTuple):
    """A task has raised SystemExit or KeyboardInterrupt, which joblib raises in the program."""

    packed: bytes


def run_batch(batch: Callable[[], Any]) -> Any:
    """Run tasks of joblib; memory-mapped arrays in their results are returned as ordinary ones."""
    try:
        result = batch()
    except (SystemExit, KeyboardInterrupt) as error:
        return Ended(remote_errors.dump_error(error))
    if serialize.destination.reducers is None and "numpy" in sys.modules:
        from . import _mapped_arrays

        serialize.destination.reducers = _mapped_arrays.result_reducers()
    return result
