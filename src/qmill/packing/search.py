"""The search for the global names that functions use, and their values when they were last seen."""

from __future__ import annotations

from collections import deque
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from . import definitions, function_globals, main_module
from .explain import describe
from .watch import (
    ABSENT,
    ATOMS,
    CONTENT_BYTES,
    Content,
    Watch,
    is_code,
    is_fixed,
    is_ours,
    own_of,
    parts_of,
    refers_to,
    watch_content,
    weak,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .environment import Globals, Values


_OF_MODULES = frozenset(
    ("__builtins__", "__name__", "__file__", "__spec__", "__loader__", "__package__", "__doc__")
    + ("__path__", "__annotations__", "__cached__", "__qualname__", "__module__")
)


class State:
    """The state of a function or class, apart from the values of its global names."""

    __slots__ = ("watch",)

    def __init__(self, watch: Watch) -> None:
        self.watch = watch


class Attributes:
    """The attributes of a class, as they were when it was sent."""

    def __init__(self, cls: type, owner: Globals) -> None:
        self._before: dict[str, tuple[Any, Content | None]] = {}
        self._changed: set[str] = set()
        for name, value in own_of(cls):
            watch = Watch()
            if not is_fixed(value) and not is_code(value):
                watch_content(value, watch, owner.pack)
            self._before[name] = weak(value), watch.first_content()

    def changed(self, cls: type, pack: Callable[[Any], bytes | None]) -> set[str]:
        """Return the names of the attributes that have changed at any time since."""
        now = dict(own_of(cls))
        for name in now.keys() | self._before.keys():
            value = now.get(name, ABSENT)
            before, content = self._before.get(name, (ABSENT, None))
            is_same = value is before or refers_to(before, value)
            if not is_same or (content is not None and not content.is_unchanged(pack)):
                self._changed.add(name)
        return self._changed


class Slot:
    """A global name, and its value when it was last examined.

    Attributes:
        names: The namespace; or a class, if the name is one of its attributes.
        label: The label of the namespace or class in workers.
        name: The name.
        value: The object.
        path: The path from a function to the name, for error messages.
        state: The value's state, if it is a function, a class or a wrapper.
        module: An importable module that also has the object under this name.
        content: The packed content of the value, if it may change.
        touched: The functions and classes in the value.
        is_inherited: Whether workers can only inherit the value by fork.
        values: The `Values` in which the value was sent; None if it is not sent.
        place: Its index there.
    """

    __slots__ = (
        "content",
        "is_inherited",
        "label",
        "module",
        "name",
        "names",
        "path",
        "place",
        "state",
        "touched",
        "value",
        "values",
    )

    def size(self) -> int:
        """Return the least number of bytes that the packed value has."""
        if self.content is None or self.content.data is None:
            return (CONTENT_BYTES + 1) * self.is_large
        return len(self.content.data)

    @property
    def is_large(self) -> bool:
        """Whether the packed value is too large for its content to be compared."""
        return self.content is not None and self.content.data is None

    @property
    def where(self) -> tuple[int, int]:
        """The place of the value in workers: the number of its `Values`, and its index there."""
        assert self.values is not None
        return self.values.number, self.place

    @property
    def can_be_referred_to(self) -> bool:
        """Whether other values may refer to this one, once workers have it."""
        return self.content is not None and not isinstance(self.names, type)

    def __init__(self, names: Any, name: str, value: Any, path: str) -> None:
        self.names = names
        self.label = function_globals.label_of(names)
        self.name = name
        self.value = value
        self.path = path
        self.state: State | None = None
        self.module: str | None = None
        self.content: Content | None = None
        self.touched: list[Any] = []
        self.is_inherited = False
        self.values: Values | None = None
        self.place = 0


class Search:
    """One search for all globals that some functions use."""

    def __init__(self, owner: Globals, roots: Iterable[Any]) -> None:
        self.watch = Watch()
        self.slots: dict[tuple[int, str], Slot] = {}
        self._owner = owner
        self._new: list[Slot] = []
        self._seen: dict[int, Any] = {}
        self._left: deque[tuple[Any, str]] = deque((root, _name_of(root)) for root in roots)

    def run(self) -> None:
        """Find all names, and pack those of their values that are new."""
        while self._left:
            while self._left:
                obj, path = self._left.popleft()
                if id(obj) not in self._seen:
                    self._seen[id(obj)] = obj
                    self._visit(obj, path)
            if self._new:
                new, self._new = self._new, []
                touched: list[Any] = []
                self._owner.send(new, self._sent(), touched)
                self._left.extend((obj, _name_of(obj)) for obj in touched)

    def _sent(self) -> dict[int, Slot]:
        """Return the slots of the objects that workers have, by the objects' id."""
        return {
            id(slot.value): slot
            for slot in self.slots.values()
            if slot.values is not None and slot.can_be_referred_to
        }

    def _visit(self, obj: Any, path: str) -> None:
        """Examine an object that may use globals: a function, a class, or a wrapper of one."""
        if isinstance(obj, FunctionType) and is_ours(obj):
            self._take_names(obj, path)
        elif isinstance(obj, (FunctionType, type)) and not is_ours(obj):
            return
        for part in (*parts_of(obj), *definitions.parts_of(obj)):
            self._follow(part, path)
        if isinstance(obj, type):
            for name in self._owner.changed_attributes(obj):
                value = vars(obj).get(name, ABSENT)
                self._take(obj, name, value, f"{path} -> attribute {name!r}")

    def _follow(self, value: Any, path: str) -> None:
        """Queue a value to be visited, and its class if that is of `__main__`."""
        cls = type(value)
        if cls in ATOMS or isinstance(value, ModuleType):
            return
        self._left.append((value, path))
        if not isinstance(value, (FunctionType, type)) and main_module.is_main(cls.__module__):
            self._left.append((cls, path))

    def _take_names(self, function: FunctionType, path: str) -> None:
        if function_globals.uses_globals_of(function) is not None:
            return
        names = function.__globals__
        for name in function_globals.global_names(function.__code__):
            if name not in _OF_MODULES:
                self._take_name(names, name, path)

    def _take_name(self, names: dict[str, Any], name: str, path: str) -> None:
        where = id(names), name
        if where in self.slots:
            return
        value = names.get(name, ABSENT)
        self.watch.name(names, name, value)
        if value is not ABSENT or where in self._owner._slots:
            self._take(names, name, value, f"{path} -> global {name!r}")

    def _take(self, names: Any, name: str, value: Any, path: str) -> None:
        owner = self._owner
        slot = owner.slot_of(names, name, value)
        if slot is None:
            slot = Slot(names, name, value, path)
            if owner.judge(slot):
                self._new.append(slot)
            else:
                owner.keep(slot)
        self._left.extend((obj, path) for obj in slot.touched)
        self.slots[id(names), name] = slot
        if slot.content is not None:
            self.watch.content(slot.content)
        if slot.state is not None:
            self.watch.include(slot.state.watch)
        self._follow(value, path)


def is_imported(script: main_module.Script, name: str) -> bool:
    """Whether an import of the script gives a name a value that can replace the one here."""
    return name in script.declared or (name in script.bound and name not in script.guarded)


def _name_of(obj: Any) -> str:
    return getattr(obj, "__qualname__", None) or describe(obj)
