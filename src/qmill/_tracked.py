"""Objects of a script that are one in each process, however often and by which way they come.

A class that a process has made, or has sent, is found there again by its tracker's id, which
cloudpickle gives and keeps for classes. Sentinels, context variables and type variables are tracked
likewise. What has come once is not made or filled a second time.
"""

from __future__ import annotations

from typing import Any

from cloudpickle import cloudpickle

from ._script import MAINS

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
    """Reduce an object to one that is made once in each process, and that is itself in its own.

    Args:
        obj: What is reduced.
        make: Makes it there.
        args: The arguments of `make`.
        state: What it is filled with.
        fill: Called with the object and `state`, once in each process; None: it is whole when made.
    """
    make_args = tracker_id(obj), make, args
    if fill is None:
        return _find_or_make, (*make_args, False)
    return _find_or_make, (*make_args, True), (fill, state), None, None, _fill_once


def tracker_id(obj: Any) -> str:
    """Return the id under which an object is found in each process."""
    if _is_tracked_weakly(obj):
        return cloudpickle._get_or_create_tracker_id(obj)  # type: ignore[no-any-return]
    from uuid import uuid4

    key = _strong_ids.setdefault(id(obj), uuid4().hex)
    _strong[key] = obj
    return key


def _is_tracked_weakly(obj: Any) -> bool:
    cls: Any = type(obj)
    return cls.__weakrefoffset__ != 0 and cls.__hash__ is object.__hash__


# Objects without weak references, or with an equality of their own. They are a program's global
# names, so there are few.
_strong: dict[str, Any] = {}
_strong_ids: dict[int, str] = {}

unfilled: dict[int, Any] = {}
"""Objects that were made here and have no state yet, by `id`."""


def keep(key: str, made: Any) -> Any:
    """Have an object found by this id; if another thread was faster, return that one's."""
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
    """Fill what was made here, but nothing that came before or is this process's own.

    Two threads that rebuild the same object at the same time both fill it, so that neither goes on
    with a half-filled one.
    """
    if id(obj) in unfilled:
        fill, values = state
        fill(obj, values)
        unfilled.pop(id(obj), None)
