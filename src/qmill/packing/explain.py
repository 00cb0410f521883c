"""Explains why an object cannot be pickled: names the part that failed, and the path to it.

This code runs only after pickling has failed, on objects that may be broken in any way. If an
object raises while it is examined, it counts as having no parts.
"""

from __future__ import annotations

import io
from collections import deque
from itertools import islice
from types import FunctionType, ModuleType

from ..errors import LockSent, SerializationError
from ..system.interrupts import let_interrupt_through
from ..system.pickling import PicklingError, Unpickler
from . import standard_library

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Step = tuple[str, Any]
    """A step on the path to a part: its text, and the key shown in the text, or `_NOTHING`."""

_MAX_PARTS = 100_000
"""The most parts that are examined. In a larger object, a part around the culprit may be named."""

_MAX_LEVELS = 1000
"""The deepest level to which nested objects are examined; Python 3.11 packs some 300 levels."""

_MIN_LEVELS = 20
"""An object of fewer levels is not the cause of a RecursionError."""

_MAX_FRAMES = 50
"""The most frames in the traceback of a RecursionError that nesting caused.

C code packs nested objects and adds no frames; a longer traceback is of Python code that recurses.
"""

_MAX_TRIES = 8
"""The most parts that are packed alone, to find the one that cannot be packed."""

_ATOMS = (str, bytes, int, float, bool, type(None))
"""Types that are never refused."""

_REDUCE_BY_ATTRIBUTES: tuple[Any, ...] = (object.__reduce__, BaseException.__reduce__)

_REMEDY = (
    "Leave it out (__getstate__), send the data from which it can be made, or use kind='thread' or "
    "start_method='fork' to share it"
)

_MAX_STEPS = 20
"""The most steps of a path that are shown: half of them its first ones, half its last ones."""

_NOTHING = object()


def explain(obj: Any, error: BaseException, *, is_remote: bool = False) -> SerializationError:
    """Return an error that says which part of an object cannot be pickled, and why.

    The work is bounded for objects of any size and depth: the object is packed once more, up to
    `_MAX_PARTS` parts, and sometimes a few of its parts alone.

    Args:
        obj: The object that could not be pickled.
        error: The exception that pickling raised.
        is_remote: Whether the object's destination may be another machine.
    """
    is_recursion = _is_recursion(error)
    if is_recursion and len(steps := _deepest(obj)) >= _MIN_LEVELS:
        return _too_deep(obj, steps, error)
    steps, part = _culprit(obj)
    if isinstance(error, MemoryError):
        reason = "there is no memory left for its packed form (RLIMIT_AS, a control group's limit?)"
    elif isinstance(error, (TypeError, PicklingError)):
        reason = describe(error, str)
    else:
        reason = f"{type(error).__name__}: {describe(error, str)}"
    where = _shown(steps) if steps else "the object"
    look = "" if is_recursion else f" ({describe(part)})"  # repr would recurse, too
    remedy = standard_library.remedy(error, is_remote=is_remote)
    kind = SerializationError if remedy is None else LockSent
    if isinstance(error, MemoryError):
        remedy = "Send it in smaller parts, or write it to a file and send the path"
    return kind(
        f"cannot pickle {where}, {_kind(part)}{look}: {reason.rstrip('.')}. {remedy or _REMEDY}"
    )


def _too_deep(obj: Any, steps: list[Step], error: BaseException) -> SerializationError:
    levels = f"more than {_MAX_LEVELS}" if len(steps) >= _MAX_LEVELS else str(len(steps) + 1)
    return SerializationError(
        f"cannot pickle the object, {_kind(obj)}: it is nested too deeply ({levels} levels, at "
        f"{_shown(steps)}: {describe(error, str)}). Send it in a flat form, such as a list of its "
        "parts, or use kind='thread' or start_method='fork' to share it"
    )


def _kind(part: Any) -> str:
    return f"a {type(part).__module__}.{type(part).__qualname__}"


def _shown(steps: list[Step]) -> str:
    """Return a path as text, without its middle if it is long."""
    left_out = len(steps) - _MAX_STEPS
    if left_out <= 0:
        return "obj" + "".join(map(_text, steps))
    first, last = steps[: _MAX_STEPS // 2], steps[-_MAX_STEPS // 2 :]
    return f"obj{''.join(map(_text, first))} ... ({left_out} more) ... {''.join(map(_text, last))}"


def _text(step: Step) -> str:
    text, key = step
    return text if key is _NOTHING else text % describe(key)


def describe(thing: Any, how: Callable[[Any], str] = repr) -> str:
    """Return `repr` or `str` of any object, cut short; if that raises, a text that says so.

    Only the beginning of a container is examined.
    """
    try:
        shown = _bounded_repr(thing) if how is repr else how(thing)
    except BaseException as error:
        let_interrupt_through(error)
        return f"its {how.__name__} raises {type(error).__name__}"
    limit = 80 if how is repr else 500
    return shown if len(shown) <= limit else shown[:limit] + "..."


def _bounded_repr(thing: Any) -> str:
    if type(thing) in (str, bytes):
        return repr(thing[:_LOOK])
    if type(thing) not in _CONTAINERS:
        return repr(thing)
    import reprlib  # imported here, since it is needed for errors only

    bounded = reprlib.Repr()
    bounded.maxlevel = 4
    bounded.maxlist = bounded.maxtuple = bounded.maxdict = 20
    bounded.maxset = bounded.maxfrozenset = 20
    bounded.maxstring = bounded.maxlong = bounded.maxother = 100
    return bounded.repr(thing)


_LOOK = 81  # one more than is shown, so that a longer text gets its "..."
_CONTAINERS = (list, tuple, dict, set, frozenset)


def add_note(error: BaseException, note: str, instead_of: str | None = None) -> None:
    """Add a note to an exception, if possible also to one whose class overrides attributes.

    Args:
        error: The exception.
        note: The note.
        instead_of: An earlier note. It is replaced if it is the last one (the same object).
    """
    try:
        notes = list(getattr(error, "__notes__", ()))
        if notes and notes[-1] is instead_of:
            del notes[-1]
        # Through the base class, since an exception's own class may refuse the assignment.
        BaseException.__setattr__(error, "__notes__", [*notes, note])
    except BaseException as why:
        let_interrupt_through(why)


def traceback_text(error: BaseException) -> str:
    """Return an exception's traceback as Python prints it, even if the exception is strange."""
    import traceback

    try:
        return "".join(traceback.format_exception(error)).rstrip()
    except Exception as why:  # it may have a strange __str__, or strange notes
        return f"{type(error).__name__} (no traceback: formatting it raised {type(why).__name__})"


# -- nested too deeply -------------------------------------------------------------------------


def _is_recursion(error: BaseException | None) -> bool:
    """Whether an object may be nested too deeply: pickling recursed, and not in Python code.

    A long traceback shows that Python code has recursed, such as a `__reduce__`.
    """
    while error is not None and not isinstance(error, RecursionError):
        error = error.__cause__  # cloudpickle wraps a RecursionError in a PicklingError
    trace = None if error is None else error.__traceback__
    for _ in range(_MAX_FRAMES):
        if trace is None:
            break
        trace = trace.tb_next
    return error is not None and trace is None


def _deepest(obj: Any) -> list[Step]:
    """Walk down as pickle does. Return the path to the deepest part, or to a part deep enough."""
    path: list[Step] = []
    deepest: list[Step] = []
    seen = {id(obj): obj}
    ways = [_inner_parts(obj)]
    for _ in range(_MAX_PARTS):
        if not ways or len(path) >= _MAX_LEVELS:
            break
        step, part = next(ways[-1], _END)
        if step is None:
            if len(path) > len(deepest):
                deepest = path.copy()
            ways.pop()
            del path[-1:]
        elif id(part) not in seen and type(part) not in _ATOMS:
            seen[id(part)] = part
            path.append(step)
            ways.append(_inner_parts(part))
    return max(path, deepest, key=len)


_END = None, None


def _inner_parts(obj: Any) -> Iterator[tuple[Step | None, Any]]:
    """List the parts that are packed with an object; modules, classes and functions have none."""
    if isinstance(obj, (type, ModuleType, FunctionType)):
        return iter(())
    return _parts(obj, (_elements, _attributes))


# -- the culprit -------------------------------------------------------------------------------


def _culprit(obj: Any) -> tuple[list[Step], Any]:
    """Find the innermost part that cannot be pickled, and the path to it."""
    packed = _pack(obj)
    if not packed:
        return [], obj
    ways = _ways(obj, packed)
    # The last part that was packed is the culprit, unless no path leads to it: a `__reduce__` may
    # return new objects. Then the culprit is inside a part before it, which fails alone, too.
    seen = (packed[key] for key in reversed(packed) if key in ways)
    for part in islice((part for part in seen if type(part) not in _ATOMS), _MAX_TRIES):
        if _pack(part) is not None:
            return _way_to(part, ways), part
    return [], obj


def _pack(obj: Any) -> dict[int, Any] | None:
    """Pack an object, and return the parts that were packed until one failed, by id, in order.

    Returns:
        The parts; the last one is the part that failed. None if no part failed, or none of the
        first `_MAX_PARTS`.
    """
    packed: dict[int, Any] = {}
    try:
        _watched_pickler()(packed).dump(obj)
    except _TooManyError:
        return None
    except BaseException as error:
        let_interrupt_through(error)
        return packed
    return None


class _TooManyError(Exception):
    """An object has more than `_MAX_PARTS` parts."""


def _watched_pickler() -> Any:
    """Make the pickler's class on first use: cloudpickle takes a while to import."""
    global _watched_pickler_class
    if _watched_pickler_class is None:
        import cloudpickle

        from . import serialize  # imported here, since it imports this module

        class WatchedPickler(serialize.careful_pickler()):  # type: ignore[misc]
            """Discards the packed bytes, and notes each object it is given, in order."""

            dispatch_table = standard_library.probing_table(cloudpickle.Pickler.dispatch_table)

            def __init__(self, packed: dict[int, Any]) -> None:
                super().__init__(_Nowhere(), None, _keep_out, None, False)
                self._packed = packed

            def persistent_id(self, obj: Any) -> None:
                """Note an object that is about to be packed."""
                packed = self._packed
                packed.setdefault(id(obj), obj)
                if len(packed) > _MAX_PARTS:
                    raise _TooManyError

        _watched_pickler_class = WatchedPickler
    return _watched_pickler_class


_watched_pickler_class: Any = None


class _Nowhere:
    def write(self, data: Any) -> None:
        """Discard the data."""


def _keep_out(_: Any) -> bool:
    return False  # out of band: its content is not packed


def _ways(obj: Any, packed: dict[int, Any]) -> dict[int, tuple[int, Step]]:
    """Find the shortest paths to packed parts: for each part's id, the container's id and step."""
    root, aim = id(obj), next(reversed(packed))
    ways: dict[int, tuple[int, Step]] = {}
    parts = deque([obj])
    num_left = _MAX_PARTS
    while parts and num_left > 0:
        whole = parts.popleft()
        for step, part in islice(_parts(whole), num_left):
            num_left -= 1
            key = id(part)
            if key in packed and key not in ways and key != root:
                ways[key] = id(whole), step
                if key == aim:
                    return ways
                parts.append(part)
    return ways


def _way_to(part: Any, ways: dict[int, tuple[int, Step]]) -> list[Step]:
    key, steps = id(part), []
    while key in ways:  # up to the object itself, which is not in `ways`
        key, step = ways[key]
        steps.append(step)
    return steps[::-1]


# -- the parts of an object --------------------------------------------------------------------


def _parts(obj: Any, kinds: tuple[Any, ...] = ()) -> Iterator[tuple[Step, Any]]:
    """List the parts of an object, each with the step that leads to it."""
    if standard_library.is_of_multiprocessing(obj):
        return
    for kind in kinds or (_elements, _function_parts, _method_parts, _attributes):
        try:
            yield from kind(obj)
        except (Exception, SystemExit):
            continue  # a broken object: it counts as having no parts of this kind


def _elements(obj: Any) -> Iterator[tuple[Step, Any]]:
    if isinstance(obj, dict):
        for key, value in obj.items():
            yield ("[%s]", key), value
            yield (" key %s", key), key
    elif isinstance(obj, (list, tuple)):
        for index, part in enumerate(obj):
            yield (f"[{index}]", _NOTHING), part
    elif isinstance(obj, (set, frozenset)):
        for part in obj:
            yield (" element", _NOTHING), part


def _function_parts(obj: Any) -> Iterator[tuple[Step, Any]]:
    if type(obj) is not FunctionType:
        return
    for name, cell in zip(obj.__code__.co_freevars, obj.__closure__ or (), strict=True):
        try:
            yield (f" closure variable {name!r}", _NOTHING), cell.cell_contents
        except ValueError:  # not bound yet
            continue
    for name in obj.__code__.co_names:
        if name in obj.__globals__:
            yield (f" global {name!r}", _NOTHING), obj.__globals__[name]
    for part in obj.__defaults__ or ():
        yield (" default %s", part), part


def _method_parts(obj: Any) -> Iterator[tuple[Step, Any]]:
    if (function := getattr(obj, "__func__", None)) is not None:
        yield (".__self__", _NOTHING), obj.__self__
        yield (".__func__", _NOTHING), function


def _attributes(obj: Any) -> Iterator[tuple[Step, Any]]:
    if type(obj) is FunctionType or type(obj).__reduce__ not in _REDUCE_BY_ATTRIBUTES:
        return  # its own `__reduce__` decides which parts are packed
    for name, part in getattr(obj, "__dict__", {}).items():
        yield (f".{name}", _NOTHING), part
    for base in type(obj).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            try:
                yield (f".{slot}", _NOTHING), getattr(obj, slot)
            except AttributeError:  # not set
                continue


class _PlainUnpickler(Unpickler):
    """Rebuilds objects of built-in types only, so it runs no code of other modules."""

    def find_class(self, module: str, name: str) -> Any:
        raise LookupError(f"{module}.{name}")


def shown(data: bytes | bytearray | memoryview) -> str:
    """Return a short text for a message. Runs none of its code, which may have killed a reader."""
    body = memoryview(data)
    try:
        if body[0] in (0, 0x80):
            plain = _PlainUnpickler(io.BytesIO(body if body[0] else body[1:]))
            return describe(plain.load())
    except Exception:
        pass  # it has more than built-in types
    return f"{len(body):,} bytes that begin with {bytes(body[:24])!r}"
