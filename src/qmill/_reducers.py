"""Stub until the reducers arrive."""

from typing import Any


def reduce(obj: Any) -> Any:
    return NotImplemented


def reduce_sentinel(obj: Any) -> Any:
    return object.__reduce_ex__(obj, 5)
