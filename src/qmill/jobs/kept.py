"""Arguments of jobs that have ended: small ones are kept, large ones are replaced by a short text.

A completed job waits until it is fetched, and its record until it is read. Both shall show the
job's arguments, and neither shall hold a gigabyte for that.
"""

from __future__ import annotations

import functools
import sys
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from ..packing.explain import describe

if TYPE_CHECKING:
    from .job import Job

KEPT_BYTES = 1 << 16
"""Arguments that take no more memory than this are kept."""

BOUND = (functools.partial, MethodType)
"""Functions that carry arguments."""

_SMALL = (int, float, bool, type(None))
_MAX_CHARACTERS = 200  # of a text that is kept as it is
_FEW = 32  # arguments; this many texts of `_MAX_CHARACTERS` take less than KEPT_BYTES
_TEXTS = (str, bytes)
_WITHOUT_PARTS = (str, bytes, bytearray, *_SMALL)
_SHARED = (type, ModuleType, FunctionType, BuiltinFunctionType)  # their modules hold them anyway
_MAX_DIMENSIONS = 8

Remains = tuple[Any, tuple[Any, ...], dict[str, Any] | None]
"""The function, arguments and keyword arguments that a job keeps."""


def remains_of(job: Job, has_large_arguments: bool) -> Remains | None:
    """Return the function and arguments that a job keeps when it has ended; None if it keeps all.

    Args:
        job: The job.
        has_large_arguments: Whether its arguments take more than `KEPT_BYTES`.
    """
    function, args, kwargs = job.function, job.args or (), job.kwargs
    if type(function) in BOUND and takes_much(function):
        function = _unbound(function)
    elif not has_large_arguments:
        return None
    if has_large_arguments:
        args = tuple(map(_short, args))
        kwargs = kwargs and {name: _short(value) for name, value in kwargs.items()}
    return function, args, kwargs


def _unbound(function: Any) -> Any:
    """Return a function without the arguments that it carries."""
    while type(function) in BOUND:
        function = function.__func__ if type(function) is MethodType else function.func
    return function


def _short(value: Any) -> Any:
    """Return a small, plain value as it is, and a text for any other one."""
    if type(value) in _SMALL or (type(value) in _TEXTS and len(value) <= _MAX_CHARACTERS):
        return value
    try:
        shape = value.shape
    except Exception:
        shape = None
    if type(shape) is tuple and len(shape) <= _MAX_DIMENSIONS:  # the repr of an array is slow
        return f"<{type(value).__module__}.{type(value).__qualname__} of shape {shape}>"
    return describe(value)


def are_large(args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> bool:
    """Return whether arguments take more than `KEPT_BYTES` of memory, by an estimate."""
    if not kwargs and len(args) <= _FEW:
        for arg in args:  # the quick check, which suffices for most jobs
            kind = type(arg)
            if kind not in _SMALL and not (kind in _TEXTS and len(arg) <= _MAX_CHARACTERS):
                break
        else:
            return False
    return takes_much(args, kwargs)


def takes_much(*things: Any) -> bool:
    """Return whether objects take more than `KEPT_BYTES` of memory, without pickling them.

    The estimate counts builtin containers, attributes of instances, and the `nbytes` of arrays. An
    object that is larger than it seems is only kept for as long as its job.
    """
    left = KEPT_BYTES
    parts, seen = list(things), set()
    while parts:
        part = parts.pop()
        kind = type(part)
        if kind in _SMALL or isinstance(part, _SHARED) or id(part) in seen:
            continue
        seen.add(id(part))
        left -= _size(part)
        if left < 0:
            return True
        if kind not in _WITHOUT_PARTS:
            parts += _parts(part)
    return False


def _size(part: Any) -> int:
    try:
        size = sys.getsizeof(part)
        nbytes = getattr(part, "nbytes", 0)  # the size of an array's data, even of a view
        return max(size, nbytes) if isinstance(nbytes, int) else size
    except Exception:  # `__sizeof__` or `nbytes` of a class may raise anything
        return 0


def _parts(part: Any) -> list[Any]:
    """Return the objects that an object holds; [] if they cannot be listed."""
    try:
        if isinstance(part, dict):
            return [*part.keys(), *part.values()]
        if isinstance(part, (list, tuple, set, frozenset)):
            return list(part)
        if isinstance(part, functools.partial):
            return [part.args, part.keywords]
        if isinstance(part, MethodType):
            return [part.__self__]
        return [vars(part)] if hasattr(part, "__dict__") else []
    except Exception:  # another thread changes the object, or its class is broken
        return []
