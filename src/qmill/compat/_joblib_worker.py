"""Workers for joblib: how they begin, and how they run a batch of tasks."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import serialize

if TYPE_CHECKING:
    from collections.abc import Callable


class Variables:
    """Variables of a worker's environment: they are set as soon as this has arrived there.

    Libraries read how many threads to use when they are loaded, which an initializer that is
    unpacked after this may cause.
    """

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values

    def __reduce__(self) -> Any:
        return _set, (self._values,)


def _set(values: dict[str, str]) -> Variables:
    os.environ.update(values)
    return Variables(values)


def begin(_: Variables, initializer: Callable[..., Any] | None, initargs: Any) -> None:
    """Know the backend, as tasks may ask for it, and call the user's initializer."""
    from . import joblib

    joblib.register()
    if initializer is not None:
        initializer(*initargs)


class Ended(NamedTuple):
    """A task has raised SystemExit or KeyboardInterrupt: joblib raises that in the program."""

    packed: bytes


def run_batch(batch: Callable[[], Any]) -> Any:
    """Run tasks of joblib, and have arrays among their results returned as ordinary ones."""
    try:
        result = batch()
    except (SystemExit, KeyboardInterrupt) as error:
        return Ended(serialize.dump_error(error))
    if serialize.destination.reducers is None and "numpy" in sys.modules:
        from . import _mapped_arrays

        serialize.destination.reducers = _mapped_arrays.result_reducers()
    return result
