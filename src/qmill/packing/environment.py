"""Finds the globals that a program's functions use, watches them for changes, and packs them.

    function ──> names in its code ──> values ──> functions and classes among them ──> names ...

Functions of the program go to job workers without their globals. The global names that a job's
functions and their helpers use, each with its value at the moment of the call, make an
`Environment`. Before it runs a job, a worker binds the names of the job's environment that are
bound to other values. So a waiting job keeps the globals of the moment at which it was submitted,
even if other jobs run first.

A value is sent when it is new: when its name was bound to another object, or when the content of a
mutable object has changed. Content is compared if it packs into `CONTENT_BYTES`; a larger object is
compared by identity only. Values that are sent together are packed together, and refer to values
that were sent before, so objects that share parts also share them in the worker.

If workers import the script (`_script`) and the import gives a value for a name, the value is sent
only if it can be packed, and the worker uses it only if its content differs from the import's.
"""

from __future__ import annotations

import itertools
import sys
from types import FunctionType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from ..errors import SerializationError
from . import definitions, function_globals, limited, main_module, serialize
from .explain import describe
from .search import Attributes, Search, Slot, State, is_imported
from .watch import (
    ABSENT,
    CONTENT_BYTES,
    Content,
    Watch,
    is_code,
    is_fixed,
    is_wrapper,
    watch_code,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import TypeVar

    _Thing = TypeVar("_Thing", bound="Numbered")


class Numbered:
    """A packed object that workers keep under a number, as long as this object lives.

    Attributes:
        number: The number.
        packed: The bytes to send; None if a worker can only inherit it by fork.
        needs: The other packed objects that a worker must have first, those that they need
            included, in an order in which they can be sent.
    """

    __slots__ = ("__weakref__", "needs", "number", "packed")

    def __init__(
        self, number: int, packed: bytes | bytearray | None, needs: tuple[Numbered, ...] = ()
    ) -> None:
        self.number = number
        self.packed = packed
        self.needs = needs


class Values(Numbered):
    """Values that were packed together.

    Attributes:
        values: The objects, if a worker can only inherit them by fork; else None.
    """

    __slots__ = ("values",)

    def __init__(
        self,
        number: int,
        packed: Any,
        values: list[Any] | None = None,
        needs: tuple[Numbered, ...] = (),
    ) -> None:
        super().__init__(number, packed, needs)
        self.values = values


def with_needs(things: Iterable[Numbered]) -> tuple[Numbered, ...]:
    """List things and their needs, each once and after all things that it needs."""
    found: dict[int, Numbered] = {}
    for thing in things:
        found.update((needed.number, needed) for needed in thing.needs)
        found[thing.number] = thing
    return tuple(found.values())


class Environment(Numbered):
    """The values of global names for a job.

    It is packed as a list of (label of the namespace, name, number of the `Values`, index there).

    Attributes:
        bindings: Maps (label of the namespace, name) to the place of the value: the number of its
            `Values`, and its index there.
    """

    __slots__ = ("bindings",)

    def __init__(
        self,
        number: int,
        packed: bytes | bytearray,
        needs: tuple[Numbered, ...],
        bindings: dict[tuple[str, str], tuple[int, int]],
    ) -> None:
        super().__init__(number, packed, needs)
        self.bindings = bindings


class Globals:
    """The globals that the functions of one pool use, as they were when they were last sent.

    Args:
        number: Gives a new `Numbered` its number.
        exports: Collects the definitions.
        by_name: Whether workers import the program's script.
        inherit: Whether workers are forked, so that they inherit values that cannot be packed.
    """

    def __init__(
        self,
        number: Callable[[Numbered], None],
        exports: serialize.Exports | serialize.InlineExports,
        *,
        by_name: bool,
        inherit: bool,
    ) -> None:
        self._number = number
        self._exports = exports
        self.by_name = by_name
        self._inherit = inherit
        self._slots: dict[tuple[int, str], Slot] = {}
        self._states: WeakKeyDictionary[Any, State] = WeakKeyDictionary()
        self._classes: WeakKeyDictionary[type, Attributes] = WeakKeyDictionary()
        self._merged: WeakValueDictionary[tuple[int, int], Environment] = WeakValueDictionary()

    def pack(self, value: Any) -> bytes | None:
        """Pack an object, to compare its content; return None if it is large.

        Raises:
            SerializationError: The object cannot be packed.
        """
        return limited.dump_limited(value, self._exports, None, CONTENT_BYTES)

    def of(self, roots: Iterable[Any]) -> tuple[Environment | None, Watch]:
        """Return the environment of functions and classes now, and a watch on all its parts.

        The environment is None if they use no globals that are sent.

        Raises:
            SerializationError: A value cannot be packed, and workers do not get it by an import.
        """
        search = Search(self, roots)
        search.run()
        slots = [slot for slot in search.slots.values() if slot.values is not None]
        return self._make(slots) if slots else None, search.watch

    def _make(self, slots: Iterable[Slot]) -> Environment:
        bindings = {}
        needs: dict[int, Values] = {}
        for slot in slots:
            assert slot.values is not None
            bindings[slot.label, slot.name] = slot.where
            needs[slot.values.number] = slot.values
        return self._environment(bindings, with_needs(needs.values()))

    def _environment(
        self, bindings: dict[tuple[str, str], tuple[int, int]], needs: tuple[Numbered, ...]
    ) -> Environment:
        # In the order in which the values were packed: a value comes after those it refers to.
        in_order = sorted(bindings.items(), key=lambda binding: binding[1])
        packed = [(*name, *value) for name, value in in_order]
        return self._numbered(Environment(0, serialize.dumps(packed), needs, bindings))

    def _numbered(self, thing: _Thing) -> _Thing:
        self._number(thing)
        return thing

    def merged(self, first: Environment | None, second: Environment | None) -> Environment | None:
        """Join two environments; where both bind a name, the second one's value counts."""
        if first is None or second is None or first is second:
            return second or first
        if first.bindings.items() <= second.bindings.items():
            return second
        merged = self._merged.get((first.number, second.number))
        if merged is None:
            bindings = {**first.bindings, **second.bindings}
            merged = self._environment(bindings, with_needs((*first.needs, *second.needs)))
            self._merged[first.number, second.number] = merged
        return merged

    def state_of(self, code: Any) -> State | None:
        """Return the state of a function, a class or a wrapper; after a change it is a new object.

        Workers know functions by a key, so a function that has changed gets a new key.
        """
        try:
            state = self._states.get(code)
        except TypeError:  # it cannot be hashed
            return None
        if state is None or not state.watch.is_unchanged(self.pack):
            if state is not None and type(code) is FunctionType and definitions.has_key(code):
                definitions.renew(code)
            state = State(watch_code(code, self.pack, by_name=self.by_name))
            try:
                self._states[code] = state
            except TypeError:  # it cannot be referred to weakly
                return None
        return state

    def changed_attributes(self, cls: type) -> set[str]:
        """Return the names of a class's attributes that have changed since the first call."""
        try:
            known = self._classes.get(cls)
            if known is None:
                known = self._classes[cls] = Attributes(cls, self)
        except TypeError:  # it cannot be hashed
            return set()
        return known.changed(cls, self.pack)

    def slot_of(self, names: Any, name: str, value: Any) -> Slot | None:
        """Return the known slot of a name, or None if there is none or its value has changed."""
        slot = self._slots.get((id(names), name))
        if slot is None or slot.names is not names or slot.value is not value:
            return None
        if slot.state is not None and slot.state is not self.state_of(value):
            return None
        content = slot.content
        if content is not None and content.data is not None:
            try:
                if self.pack(value) != content.data:
                    return None
            except SerializationError:
                return None
        return slot

    def send(self, slots: list[Slot], sent: dict[int, Slot], touched: list[Any]) -> None:
        """Pack the values of new slots.

        Args:
            slots: The slots.
            sent: The slots of objects that workers have, by the objects' id; is extended by the
                new ones.
            touched: Is extended by the functions and classes in the values.
        """
        inherited = [slot for slot in slots if slot.is_inherited]
        if inherited:
            objects = [_to_send(slot) for slot in inherited]
            self._place(inherited, self._numbered(Values(0, None, objects)))
        for group in self._groups([slot for slot in slots if not slot.is_inherited]):
            # Looking up every part of a large object among the sent ones would take too long.
            known = _Known() if group[0].is_large else _Known(sent)
            data = self._pack_group(group, known, touched)
            if group:
                self._place(group, self._numbered(Values(0, data, needs=known.used())))
                sent.update((id(slot.value), slot) for slot in group if slot.can_be_referred_to)

    def _pack_group(self, slots: list[Slot], sent: _Known, touched: list[Any]) -> bytes | bytearray:
        """Pack values together. Remove slots whose values cannot be packed but come by an import.

        Raises:
            SerializationError: A value cannot be packed, and workers do not get it by an import.
        """
        try:
            return _pack_values([_to_send(slot) for slot in slots], self._exports, touched, sent)
        except SerializationError as error:
            refused = [slot for slot in slots if not self._can_pack(slot, sent)]
            for slot in refused or slots:
                if not self._comes_otherwise(slot):
                    raise _refusal(slot, error) from error
                slots.remove(slot)
                self.keep(slot)
            return self._pack_group(slots, sent, touched)

    def _can_pack(self, slot: Slot, sent: _Known) -> bool:
        try:
            _pack_values([_to_send(slot)], self._exports, [], sent)
        except SerializationError:
            return False
        return True

    def _comes_otherwise(self, slot: Slot) -> bool:
        """Whether workers get the value by an import of the script, if it cannot be sent."""
        script = self._script_of(slot)
        return script is not None and is_imported(script, slot.name)

    def _script_of(self, slot: Slot) -> main_module.Script | None:
        """Return the script whose import binds a name in workers."""
        return main_module.importable() if self.by_name and slot.label == "__main__" else None

    def _groups(self, slots: list[Slot]) -> Iterable[list[Slot]]:
        """Split slots into groups that are packed together, in the order of packing.

        A forked worker, or one that imports the script, has values of its own, and may keep some
        of them. So for such workers each value is packed alone, small values first: a part of
        another object is smaller than that object, so the larger one can refer to it. Functions
        are packed together, since they may share variables.
        """
        if self._inherit or (self.by_name and main_module.importable() is not None):
            code = [slot for slot in slots if slot.state is not None]
            others = sorted((slot for slot in slots if slot.state is None), key=Slot.size)
            return [group for group in (code, *([slot] for slot in others)) if group]
        small = [slot for slot in slots if not slot.is_large]
        large = [[slot] for slot in slots if slot.is_large]
        return [small, *large] if small else large

    def _place(self, slots: list[Slot], values: Values) -> None:
        for place, slot in enumerate(slots):
            slot.values, slot.place = values, place
            self.keep(slot)

    def keep(self, slot: Slot) -> None:
        """Remember the slot of a name."""
        self._slots[id(slot.names), slot.name] = slot

    def judge(self, slot: Slot) -> bool:
        """Examine the value of a new slot, and return whether it must be sent.

        Raises:
            SerializationError: The value cannot be packed, and workers do not get it by an import.
        """
        value = slot.value
        if value is ABSENT or is_fixed(value) or is_wrapper(value):
            slot.state = self.state_of(value) if is_code(value) else None
            return True
        if (module := main_module.module_with(slot.name, value)) is not None:
            slot.module = module
            return True
        script = self._script_of(slot)
        what = f"the global {slot.name!r}, a {type(value).__name__},"
        try:
            data = limited.dump_limited(value, self._exports, slot.touched, CONTENT_BYTES)
            content = Content(value, data, what)
        except SerializationError as error:
            if self._comes_otherwise(slot):
                return False
            if not self._inherit:
                raise _refusal(slot, error) from error
            slot.is_inherited = True
        else:
            slot.content = content
            if data is None:
                slot.is_inherited = self._inherit
                if script is not None and script.has(slot.name):
                    return False
        return True


def _to_send(slot: Slot) -> Any:
    value = function_globals.UNBOUND if slot.value is ABSENT else slot.value
    if isinstance(slot.names, type):
        return slot.names, value
    if slot.module is not None:
        return _OfModule(slot.module, slot.name)
    return value


class _OfModule:
    """Represents an object of an importable module; packs as the module's name and its own."""

    def __init__(self, module: str, name: str) -> None:
        self._where = module, name

    def __reduce__(self) -> Any:
        return _get_of_module, self._where


def _get_of_module(module: str, name: str) -> Any:
    from importlib import import_module

    return getattr(import_module(module), name)


def _refusal(slot: Slot, error: SerializationError) -> SerializationError:
    """Return an error that says by which path the job needs a value, and what to do instead."""
    if isinstance(error, _Refusal):
        return error
    why = str(error).partition(". Leave it out")[0]
    remedies = ["define it in a module that the function imports", "make it in an initializer"]
    if main_module.importable() is None and hasattr(sys.modules.get("__main__"), "__file__"):
        remedies.insert(1, 'give the script an `if __name__ == "__main__":` below it')
    kind = "attribute" if isinstance(slot.names, type) else "global"
    value = slot.value
    return _Refusal(
        f"{slot.path}: the job needs the {kind} {slot.name!r}, a {type(value).__module__}."
        f"{type(value).__qualname__} ({describe(value)}), which cannot be sent to a worker: {why}. "
        f"{', '.join(remedies).capitalize()}, or use start_method='fork'"
    )


class _Refusal(SerializationError):
    """A SerializationError whose text already names the global."""


_Refusal.__name__ = _Refusal.__qualname__ = "SerializationError"
_Refusal.__module__ = SerializationError.__module__


# -- functions in messages ---------------------------------------------------------------------


class _Watcher(Globals):
    """Finds the globals that functions use, but packs none of them for sending."""

    def send(self, slots: list[Slot], sent: dict[int, Slot], touched: list[Any]) -> None:
        """Send nothing."""


class _Known(dict[int, "Slot"]):
    """The slots of objects that readers have, by the objects' id; notes which of them are used."""

    def __init__(self, slots: Mapping[int, Slot] | None = None) -> None:
        super().__init__(slots or {})
        self._used: dict[int, Values] = {}

    def get(self, key: int, default: Any = None) -> Any:
        """Return the place of an object in readers (see `Slot.where`), and note its use."""
        slot = super().get(key)
        if slot is None or slot.values is None:
            return default
        self._used[slot.values.number] = slot.values
        return slot.where

    def used(self) -> tuple[Numbered, ...]:
        """Return all values that a reader needs to rebuild the packed objects."""
        return with_needs(self._used.values())


def has_changed(function: FunctionType) -> bool:
    """Whether a function or its globals have changed since the last call; False at the first."""
    global _watcher
    if _watcher is None:
        exports = serialize.InlineExports()
        _watcher = _Watcher(lambda _: None, exports, by_name=False, inherit=True)
    before = _watches.get(function)
    if before is not None and before.is_unchanged(_watcher.pack):
        return False
    _, watch = _watcher.of([function])
    watch.include(watch_code(function, _watcher.pack, by_name=False))
    _watches[function] = watch
    return before is not None


_watcher: Globals | None = None
_watches: WeakKeyDictionary[FunctionType, Watch] = WeakKeyDictionary()


class Contents:
    """Mutable objects that an initializer finds under global names, as they were before its call.

    Objects that the initializer changes belong to the worker from then on, like the names that it
    binds: the environment of a later job does not replace them.

    Args:
        call: The initializer, and its arguments.
    """

    def __init__(self, call: Iterable[Any]) -> None:
        watcher = _Watcher(lambda _: None, serialize.InlineExports(), by_name=False, inherit=True)
        search = Search(watcher, [each for each in call if callable(each)])
        search.run()
        self._pack = watcher.pack
        self._slots = [slot for slot in search.slots.values() if slot.content is not None]

    def keep_changed(self) -> None:
        """Mark the objects that have changed since as the worker's own."""
        for slot in self._slots:
            if not isinstance(slot.names, type) and self._has_changed(slot):
                function_globals.keep_own(slot.label, slot.name)

    def _has_changed(self, slot: Slot) -> bool:
        assert slot.content is not None
        try:
            return slot.content.data not in (None, self._pack(slot.value))
        except SerializationError:  # it can no longer be packed: it holds a lock now, say
            return True


# -- packing -----------------------------------------------------------------------------------


def _pack_values(
    values: list[Any],
    exports: serialize.Exports | serialize.InlineExports,
    touched: list[Any],
    sent: _Known,
) -> bytes | bytearray:
    parts = serialize.dump_parts(values, exports, touched, sent, is_environment=True)
    return bytes(parts[0]) if len(parts) == 1 else bytearray().join(parts)


# -- for a new process ---------------------------------------------------------------------------


def dumps_for_process(job: Any) -> tuple[bytes | bytearray, Any]:
    """Pack the work of a new process, for `bindings.loads_in_process`.

    Returns:
        The packed object, and its globals. The globals are None if the functions include them:
        they do unless the process imports the script.

    Raises:
        SerializationError: The object or a global that it uses cannot be packed.
    """
    if main_module.importable() is None:
        return serialize.dumps(job), None
    touched: list[Any] = []
    exports = serialize.InlineExports(apart=True)
    packed = serialize.dumps(job, exports, touched)
    numbers = itertools.count(1)

    def number(thing: Numbered) -> None:
        thing.number = next(numbers)

    found = Globals(number, exports, by_name=True, inherit=False)
    environment, _ = found.of(touched)
    if environment is None:
        return packed, (0, {})
    things = {thing.number: thing.packed for thing in (environment, *environment.needs)}
    return packed, (environment.number, things)
