"""Keeps one copy of a script's object in each process, however often the object arrives there.

A process finds a class that it has made or received again by its tracker id, which cloudpickle
gives to classes. Sentinels, context variables and type variables are tracked in the same way. An
object that has arrived once is not made or filled a second time.
"""

from __future__ import annotations

import os
from typing import Any

from cloudpickle import cloudpickle

from .main_module import MAINS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def is_importable(obj: Any, name: str | None = None) -> bool:
    """Whether other processes get a class, a function or the like by importing its module."""
    if getattr(obj, "__module__", None) in MAINS:
        return False
    found = cloudpickle._lookup_module_and_qualname(obj, name=name)
    return found is not None and not cloudpickle._is_registered_pickle_by_value(found[0])


def tracked(
    obj: Any,
    make: Callable[..., Any],
    args: tuple[Any, ...],
    state: Any = None,
    fill: Callable[[Any, Any], None] | None = None,
) -> Any:
    """Reduce an object so that each process makes one copy of it, and this one finds the original.

    Args:
        obj: The object.
        make: A function that makes the copy.
        args: The arguments of `make`.
        state: The second argument of `fill`.
        fill: Called with the copy and `state`, once in each process. None: `make` returns a
            complete object.
    """
    make_args = tracker_id(obj), make, args
    if fill is None:
        return _find_or_make, (*make_args, False)
    return _find_or_make, (*make_args, True), (fill, state), None, None, _fill_once


def tracker_id(obj: Any) -> str:
    """Return the id under which an object is found in each process."""
    if _is_tracked_weakly(obj):
        return cloudpickle._get_or_create_tracker_id(obj)  # type: ignore[no-any-return]
    key = _strong_ids.setdefault(id(obj), os.urandom(16).hex())
    _strong[key] = obj
    return key


def _is_tracked_weakly(obj: Any) -> bool:
    cls: Any = type(obj)
    return cls.__weakrefoffset__ != 0 and cls.__hash__ is object.__hash__


# Objects that do not support weak references or define their own equality; they are kept alive.
# Such objects are values of a program's global names, so there are few.
_strong: dict[str, Any] = {}
_strong_ids: dict[int, str] = {}

unfilled: dict[int, Any] = {}
"""Objects that this process has made but not filled yet, by `id`."""


def keep(key: str, made: Any) -> Any:
    """Register an object under an id; if another thread was first, return that thread's object."""
    if _is_tracked_weakly(made):
        return cloudpickle._lookup_class_or_track(key, made)
    kept = _strong.setdefault(key, made)
    _strong_ids[id(kept)] = key
    return kept


def _find_or_make(
    key: str, make: Callable[..., Any], args: tuple[Any, ...], is_filled_later: bool
) -> Any:
    for known in (cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID, _strong):
        if (found := known.get(key)) is not None:
            return found
    made = make(*args)
    if is_filled_later:
        unfilled[id(made)] = made
    kept = keep(key, made)
    if kept is not made:
        unfilled.pop(id(made), None)
    return kept


def _fill_once(obj: Any, state: tuple[Callable[[Any, Any], None], Any]) -> None:
    """Fill an object that has just been made, but not one that existed before.

    Two threads that rebuild the same object at the same time both fill it, so that neither
    continues with a half-filled one.
    """
    if id(obj) in unfilled:
        fill, values = state
        fill(obj, values)
        unfilled.pop(id(obj), None)
