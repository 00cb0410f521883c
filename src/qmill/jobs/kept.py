"""Arguments of jobs that have ended: small ones are kept, large ones give way to a short text.

A completed job waits for whoever fetches it, and its record for whoever reads it. Both shall tell
what the job was given, and neither shall hold a gigabyte for that.
"""

from __future__ import annotations

import functools
import sys
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from .._explain import describe

if TYPE_CHECKING:
    from .job import Job

KEPT_BYTES = 1 << 16
"""Arguments that take no more are kept."""

BOUND = (functools.partial, MethodType)
"""Functions with arguments of their own."""

_SMALL = (int, float, bool, type(None))
_MAX_CHARACTERS = 200  # of a text that stays as it is
_FEW = 32  # arguments; so many such texts take less than KEPT_BYTES
_TEXTS = (str, bytes)
_WITHOUT_PARTS = (str, bytes, bytearray, *_SMALL)
_SHARED = (type, ModuleType, FunctionType, BuiltinFunctionType)  # held by their modules anyway
_MAX_DIMENSIONS = 8

Remains = tuple[Any, tuple[Any, ...], dict[str, Any] | None]
"""The function, arguments and keyword arguments that a job keeps."""


def remains_of(job: Job, has_large_arguments: bool) -> Remains | None:
    """Return what a job is to keep of what it was given; None if that is all.

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
    """Return a function without its own arguments; its name stays."""
    while type(function) in BOUND:
        function = function.__func__ if type(function) is MethodType else function.func
    return function


def _short(value: Any) -> Any:
    """Return a value that is small and plain, and of another one a text."""
    if type(value) in _SMALL or (type(value) in _TEXTS and len(value) <= _MAX_CHARACTERS):
        return value
    try:
        shape = value.shape
    except Exception:
        shape = None
    if type(shape) is tuple and len(shape) <= _MAX_DIMENSIONS:  # its repr would take a while
        return f"<{type(value).__module__}.{type(value).__qualname__} of shape {shape}>"
    return describe(value)


def are_large(args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> bool:
    """Tell whether arguments take more than `KEPT_BYTES` of memory, as far as can be seen."""
    if not kwargs and len(args) <= _FEW:
        for arg in args:  # most are seen to be small at once
            kind = type(arg)
            if kind not in _SMALL and not (kind in _TEXTS and len(arg) <= _MAX_CHARACTERS):
                break
        else:
            return False
    return takes_much(args, kwargs)


def takes_much(*things: Any) -> bool:
    """Tell whether objects take more than `KEPT_BYTES` of memory, without packing them.

    Looked at are builtin containers, the attributes of instances, and what numpy's and other arrays
    say of themselves. That is enough: what seems small and is not stays as long as its job.
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
        nbytes = getattr(part, "nbytes", 0)  # of an array, also of one that is a view
        return max(size, nbytes) if isinstance(nbytes, int) else size
    except Exception:  # whatever a class does instead
        return 0


def _parts(part: Any) -> list[Any]:
    """List what an object holds; it is not more than its size shows."""
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
    except Exception:  # another thread changes it, or it is broken
        return []
