"""Why an object cannot be pickled: which part of it, and how to get there.

Only looked for when pickling has failed, in objects that may be broken in any way: whatever they
raise while they are looked at is taken for nothing to see.
"""

from __future__ import annotations

import threading
from types import FunctionType

from ._pickling import PicklingError
from .errors import SerializationError

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_MAX_PARTS = 2000
"""So many parts are tried; the culprit of a larger object may be named from farther away."""

_REDUCE_BY_ATTRIBUTES: tuple[Any, ...] = (object.__reduce__, BaseException.__reduce__)

_MAX_STEPS = 20
"""A path is shown by its first and last steps, half of this each."""


def explain(obj: Any, error: BaseException) -> SerializationError:
    """Say which part of an object cannot be pickled, and why.

    Args:
        obj: What was to be pickled.
        error: What pickling raised.
    """
    steps, part = _culprit(obj)
    if len(steps) > _MAX_STEPS:
        half = _MAX_STEPS // 2
        steps = [*steps[:half], f" ... ({len(steps) - _MAX_STEPS} more) ... ", *steps[-half:]]
    where = "obj" + "".join(steps) if steps else "the object"
    if isinstance(error, (TypeError, PicklingError)):
        reason = describe(error, str)
    else:
        reason = f"{type(error).__name__}: {describe(error, str)}"
    return SerializationError(
        f"cannot pickle {where}, a {type(part).__module__}.{type(part).__qualname__} "
        f"({describe(part)}): {reason}. Leave it out (__getstate__), send what it can be made "
        "from, or use kind='thread' or start_method='fork' to share it"
    )


def describe(thing: Any, how: Callable[[Any], str] | None = None) -> str:
    """Return `repr` or `str` of anything, cut short, even if it raises.

    Args:
        thing: Anything. Of a large container of a built-in type `repr` sees only the beginning.
        how: `str`; None is `repr`.
    """
    try:
        shown = _short_repr(thing) if how is None else how(thing)
    except BaseException as error:
        let_interrupt_through(error)
        return f"its {'repr' if how is None else how.__name__} raises {type(error).__name__}"
    limit = _REPR_CHARS if how is None else 500
    return shown if len(shown) <= limit else shown[:limit] + "..."


_REPR_CHARS = 80


def _short_repr(thing: Any) -> str:
    """Return at least the first `_REPR_CHARS` of a repr, without all that would follow."""
    kind = type(thing)
    if kind in (str, bytes, bytearray):
        return repr(thing[: _REPR_CHARS + 1])
    if kind in (list, tuple, dict, set, frozenset):
        import reprlib

        short = reprlib.Repr()
        short.maxlist = short.maxtuple = short.maxdict = short.maxset = _REPR_CHARS // 2
        short.maxfrozenset = short.maxdeque = short.maxarray = _REPR_CHARS // 2
        short.maxstring = short.maxother = short.maxlong = 2 * _REPR_CHARS
        return short.repr(thing)
    return repr(thing)


def add_note(error: BaseException, note: str, instead_of: str | None = None) -> None:
    """Add a note to an exception, also to one that has attributes do anything, if at all possible.

    Args:
        error: The exception.
        note: The note.
        instead_of: The note whose place it takes, if that very string is the last one.
    """
    try:
        notes = list(getattr(error, "__notes__", ()))
        if notes and notes[-1] is instead_of:
            del notes[-1]
        # By the base class, since an exception's own class may refuse it.
        BaseException.__setattr__(error, "__notes__", [*notes, note])
    except BaseException as why:
        let_interrupt_through(why)


def traceback_text(error: BaseException) -> str:
    """Return an exception's traceback as Python prints it, even if the exception is strange."""
    import traceback

    try:
        return "".join(traceback.format_exception(error)).rstrip()
    except Exception as why:  # it may have a strange __str__, or strange notes
        return f"{type(error).__name__} ({type(why).__name__} when it was to be told)"


def _culprit(obj: Any) -> tuple[list[str], Any]:
    """Walk down to the innermost part that cannot be pickled."""
    steps: list[str] = []
    seen: set[int] = set()
    while (found := _refused_part(obj, seen)) is not None:
        step, obj = found
        steps.append(step)
    return steps, obj


def _refused_part(obj: Any, seen: set[int]) -> tuple[str, Any] | None:
    import cloudpickle

    for step, part in _parts(obj):
        if len(seen) >= _MAX_PARTS:
            return None
        if id(part) in seen:
            continue
        seen.add(id(part))
        try:
            cloudpickle.dumps(part, protocol=5)
        except BaseException as error:
            let_interrupt_through(error)
            return step, part
    return None


def _parts(obj: Any) -> Iterator[tuple[str, Any]]:
    """List what an object holds, each with the step that leads there."""
    for kind in (_elements, _function_parts, _method_parts, _attributes):
        try:
            yield from kind(obj)
        except (Exception, SystemExit):
            continue  # a broken object: what it does not show is not to be seen


def _elements(obj: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(obj, dict):
        for key, value in list(obj.items()):
            yield f"[{describe(key)}]", value
            yield f" key {describe(key)}", key
    elif isinstance(obj, (list, tuple)):
        yield from ((f"[{index}]", part) for index, part in enumerate(obj))
    elif isinstance(obj, (set, frozenset)):
        yield from ((" element", part) for part in obj)


def _function_parts(obj: Any) -> Iterator[tuple[str, Any]]:
    if type(obj) is not FunctionType:
        return
    for name, cell in zip(obj.__code__.co_freevars, obj.__closure__ or (), strict=True):
        try:
            yield f" closure variable {name!r}", cell.cell_contents
        except ValueError:  # not bound yet
            continue
    for name in obj.__code__.co_names:
        if name in obj.__globals__:
            yield f" global {name!r}", obj.__globals__[name]
    yield from ((f" default {describe(part)}", part) for part in obj.__defaults__ or ())


def _method_parts(obj: Any) -> Iterator[tuple[str, Any]]:
    if (function := getattr(obj, "__func__", None)) is not None:
        yield ".__self__", obj.__self__
        yield ".__func__", function


def _attributes(obj: Any) -> Iterator[tuple[str, Any]]:
    if type(obj) is FunctionType or type(obj).__reduce__ not in _REDUCE_BY_ATTRIBUTES:
        return  # what it is made of is its own business
    yield from ((f".{name}", part) for name, part in list(getattr(obj, "__dict__", {}).items()))
    for base in type(obj).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            try:
                yield f".{slot}", getattr(obj, slot)
            except AttributeError:  # not set
                continue


def let_interrupt_through(error: BaseException) -> None:
    """Raise Ctrl-C again, which comes to the main thread and nowhere else.

    Whatever else an object raises while it is packed or rebuilt is its own failure.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and isinstance(error, KeyboardInterrupt):
        raise error
