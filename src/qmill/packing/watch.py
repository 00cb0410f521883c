"""Watches the parts of functions and classes for changes.

A function finds values under global names, in the variables of its closure, in its defaults and
attributes; a class in its attributes. A `Watch` holds these values as they were. Names and
variables are compared by identity, and mutable objects by their packed content, if that has at
most `CONTENT_BYTES`.
"""

from __future__ import annotations

import sys
import warnings
from functools import lru_cache, partial, partialmethod, singledispatchmethod
from types import (
    BuiltinFunctionType,
    CellType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import TYPE_CHECKING, Any
from weakref import ref

from ..errors import SerializationError
from . import definitions, main_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Pack = Callable[[Any], bytes | None]

CONTENT_BYTES = 1 << 16
"""A mutable global of at most this many bytes, packed, is sent again when its content changes."""

ATOMS = frozenset((int, float, complex, bool, str, bytes, type(None), type(...), range, object))
ABSENT = object()
_CACHED: type = type(lru_cache(max))
_DESCRIPTORS = (GetSetDescriptorType, MemberDescriptorType)


class Content:
    """A mutable object, and its packed content at one moment."""

    __slots__ = ("data", "what", "value")

    def __init__(self, value: Any, data: bytes | None, what: str) -> None:
        self.value = value
        self.data = data  # None: too large to be compared
        self.what = what

    def is_unchanged(self, pack: Pack) -> bool:
        """Whether the packed content is the same; always True, with one warning, if it is large."""
        if self.data is None:
            _warn_once(self)
            return True
        return pack(self.value) == self.data


def _warn_once(large: Content) -> None:
    if large.what:
        what, large.what = large.what, ""
        warnings.warn(
            f"{what} packs into more than {CONTENT_BYTES >> 10} KiB: jobs see it as it was first "
            "sent, without later changes of its content. To send it again, bind the name to "
            "another object; qmill.shared(...) is for values that do not change",
            RuntimeWarning,
            stacklevel=_level_of_caller(),
        )


def _level_of_caller() -> int:
    """Return the `stacklevel` of the frame outside this package that has called into it."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("qmill"):
        frame, level = frame.f_back, level + 1
    return level


class Watch:
    """The parts on which an answer depends: the answer holds as long as none of them has changed.

    A watch refers to functions and classes weakly, since it may be kept as long as they live.
    """

    __slots__ = ("_codes", "_contents", "_names")

    def __init__(self) -> None:
        self._names: list[tuple[dict[str, Any], str, Any]] = []
        self._codes: list[tuple[ref[Any], tuple[Any, ...]]] = []
        self._contents: list[Content] = []

    def __bool__(self) -> bool:
        return bool(self._names or self._codes or self._contents)

    def is_unchanged(self, pack: Pack) -> bool:
        """Whether all watched names, functions, classes and contents are as they were."""
        for names, name, before in self._names:
            value = names.get(name, ABSENT)
            if value is not before and not refers_to(before, value):
                return False
        for code, before in self._codes:
            if not _are_same(before, _members(code())):
                return False
        return all(content.is_unchanged(pack) for content in self._contents)

    def include(self, other: Watch) -> None:
        """Add all parts of another watch."""
        self._names += other._names
        self._codes += other._codes
        self._contents += other._contents

    def name(self, names: dict[str, Any], name: str, value: Any) -> None:
        """Watch the binding of a global name."""
        self._names.append((names, name, weak(value)))

    def code(self, code: Any) -> None:
        """Watch the variables of a closure, and the attributes of a function or class."""
        if members := _members(code):
            self._codes.append((ref(code), tuple(map(weak, members))))

    def content(self, content: Content) -> None:
        """Watch the content of an object."""
        self._contents.append(content)

    def first_content(self) -> Content | None:
        """Return the first object whose content is watched."""
        return self._contents[0] if self._contents else None


def _members(code: Any) -> list[Any]:
    """List the parts of a function or class, except those that Python itself has put there."""
    if isinstance(code, FunctionType):
        cells = [_content_of(cell) for cell in code.__closure__ or ()]
        return [*cells, code.__code__, code.__defaults__, code.__kwdefaults__, *_own(vars(code))]
    return _own(vars(code)) if isinstance(code, type) else []


def _own(attributes: Mapping[str, Any]) -> list[Any]:
    return [
        part
        for name, value in attributes.items()
        if not (name.startswith("__") and name.endswith("__"))
        for part in (name, value)
    ]


def own_of(cls: type) -> Iterator[tuple[str, Any]]:
    """List the attributes of a class that are not Python's own."""
    own = _own(vars(cls))
    return zip(own[::2], own[1::2], strict=True)


def weak(value: Any) -> Any:
    """Return a weak reference to a function or class, and any other object itself."""
    return ref(value) if isinstance(value, (FunctionType, type)) else value


def refers_to(before: Any, value: Any) -> bool:
    """Whether a value of `weak` is a reference to this object."""
    return type(before) is ref and before() is value


def _are_same(before: tuple[Any, ...], members: list[Any]) -> bool:
    if len(before) != len(members):
        return False
    for part, value in zip(before, members, strict=True):
        if value is not part and not refers_to(part, value):
            return False
    return True


def _content_of(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return ABSENT


def is_fixed(value: Any, depth: int = 4) -> bool:
    """Whether an object's content cannot change."""
    cls = type(value)
    if cls in ATOMS:
        return True
    if cls in (tuple, frozenset):
        is_small = depth > 0 and len(value) < 100
        return is_small and all(is_fixed(part, depth - 1) and not is_code(part) for part in value)
    return isinstance(value, (ModuleType, type, FunctionType, BuiltinFunctionType))


# -- the parts of code -------------------------------------------------------------------------


def parts_of(obj: Any) -> Iterator[Any]:
    """List the parts of a function, a class or a wrapper."""
    if isinstance(obj, FunctionType):
        yield from (_content_of(cell) for cell in obj.__closure__ or ())
        yield from obj.__defaults__ or ()
        yield from (obj.__kwdefaults__ or {}).values()
        yield from vars(obj).values()
    elif isinstance(obj, type):
        yield from (*obj.__bases__, type(obj), *vars(obj).values())
    elif isinstance(obj, partial):
        yield from (obj.func, *obj.args, *obj.keywords.values())
    elif isinstance(obj, MethodType):
        yield from (obj.__func__, obj.__self__)
    elif isinstance(obj, property):
        yield from (obj.fget, obj.fset, obj.fdel)
    else:
        for name in ("__wrapped__", "__func__", "func", "dispatcher"):
            part = _attribute(obj, name)
            if callable(part) or isinstance(part, (staticmethod, classmethod)):
                yield part


def _attribute(obj: Any, name: str) -> Any:
    try:
        return object.__getattribute__(obj, name)
    except Exception:
        return None


def is_ours(obj: Any) -> bool:
    """Whether a function or class goes by value: it is of `__main__`, or cannot be imported."""
    module: Any = getattr(obj, "__module__", None)
    if main_module.is_main(module):
        return True
    found: Any = sys.modules[module]
    for part in obj.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is obj and "cloudpickle" not in sys.modules:
        return False  # answered without importing cloudpickle, which takes a while
    from cloudpickle import cloudpickle

    return not cloudpickle._should_pickle_by_reference(obj)


_WRAPPERS = (partial, partialmethod, staticmethod, classmethod, property, singledispatchmethod)


def is_wrapper(obj: Any) -> bool:
    """Whether an object only wraps functions: a partial, a property, an lru_cache or the like."""
    return isinstance(obj, _WRAPPERS) or type(obj) is _CACHED


def is_code(obj: Any) -> bool:
    """Whether an object is a function or class that goes by value, or a wrapper."""
    if isinstance(obj, (FunctionType, type)):
        return is_ours(obj)
    return is_wrapper(obj)


def watch_code(code: Any, pack: Pack, *, by_name: bool) -> Watch:
    """Watch the parts of code: variables of closures, attributes, arguments of a partial.

    Args:
        code: A function, a class or a wrapper.
        pack: Packs an object, to compare its content; returns None if it is large.
        by_name: Whether readers import the script. Its definitions are then not examined.
    """
    watch = Watch()
    seen: set[int] = set()
    left = [code]
    while left:
        obj = left.pop()
        if id(obj) in seen or not is_code(obj) or (by_name and definitions.goes_by_name(obj)):
            continue
        seen.add(id(obj))
        watch.code(obj)
        for part in parts_of(obj):
            if is_code(part):
                left.append(part)
            elif part is not ABSENT and not is_fixed(part):
                watch_content(part, watch, pack)
    return watch


def watch_content(value: Any, watch: Watch, pack: Pack) -> None:
    """Watch the content of an object that code holds, if it can be packed."""
    if isinstance(value, _DESCRIPTORS):
        return
    try:
        watch.content(Content(value, pack(value), f"a {type(value).__name__} of a function"))
    except SerializationError:
        pass  # packing the function will raise it again
