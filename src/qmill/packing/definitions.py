"""Definitions: classes and functions of `__main__`, under names that other processes know.

A definition is referred to by a key and its qualified name. A reader uses its own original if it
has one, else it builds the definition once from its packed form.
"""

from __future__ import annotations

import copyreg
import os
import sys
from types import FunctionType
from weakref import WeakKeyDictionary, WeakValueDictionary, ref

from ..errors import SerializationError
from ..system.interrupts import let_interrupt_through
from . import main_module, standard_library
from .explain import explain

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    class Imports(Protocol):
        """The place in which a reader finds definitions.

        If it has a true attribute `by_value_first`, a definition is preferred to an object of this
        process that has the same name.
        """

        def fetch(self, key: bytes) -> bytes:
            """Return a packed definition, or raise KeyError."""

        def keep(self, key: bytes, built: Any) -> None:
            """Keep a built definition alive, so that it is fetched only once."""


Definition = tuple[bytes, str, "bool | None"]
"""A definition's key, its qualified name, and True for a class, False for a function, None else."""


class Names:
    """Ways in which a channel's reader gets the names that this program's script defines.

    INSTEAD: the reader imports the script, so their definitions are not sent.
    ELSE: the reader may be another program, so a definition goes by value, and by name only if it
        cannot be packed by value.
    NEVER: the reader does not have the script.
    FORKED: the reader has all objects that existed when it was forked. A definition goes by value
        if it can be packed; else the reader uses the one that it inherited.
    """

    INSTEAD, ELSE, NEVER, FORKED = range(4)


# -- definitions -------------------------------------------------------------------------------

_keys: WeakKeyDictionary[Any, Definition] = WeakKeyDictionary()
_known: WeakValueDictionary[bytes, Any] = WeakValueDictionary()
# The same tables for objects that pickle as a name of `__main__`. Such objects may be neither
# hashable nor weakly referable, so these tables keep them alive.
_objects: dict[int, tuple[Any, Definition]] = {}
_known_objects: dict[bytes, Any] = {}


def look_up_definition(
    key: bytes, name: str, is_class: bool | None, packed: bytes | None = None
) -> Any:
    """Resolve a reference in a pickle; a `_DefinitionUnpickler` calls `look_up_definition_of`."""
    return _resolve((key, name, is_class), None, packed)


def look_up_definition_of(
    imports: Imports | None,
    key: bytes,
    name: str,
    is_class: bool | None,
    packed: bytes | None = None,
) -> Any:
    """Resolve a reference in a pickle, with a place in which to find its definition."""
    return _resolve((key, name, is_class), imports, packed)


def know_namespace(namespace: dict[str, Any]) -> None:
    """Search also this dict for names of `__main__`: the globals of a console, say."""
    known = any(namespace is one for one in _namespaces)
    if not known and namespace.get("__name__", "__main__") not in sys.modules:
        _namespaces.append(namespace)


_namespaces: list[dict[str, Any]] = []


def is_definition(obj: Any) -> bool:
    """Whether to refer to an object by key: a class or a global function of `__main__`."""
    if isinstance(obj, type):
        return main_module.is_main(obj.__module__)
    if type(obj) is not FunctionType:
        return False
    return obj in _keys or (
        main_module.is_main(obj.__module__) and _find_in_mains(obj.__qualname__) is obj
    )


def main_name(obj: Any) -> str | None:
    """Return the name of `__main__` as which an object pickles; None if it pickles otherwise."""
    cls: Any = type(obj)
    if cls in copyreg.dispatch_table:
        return None
    if cls.__reduce__ is object.__reduce__ and cls.__reduce_ex__ is object.__reduce_ex__:
        return _name_of_sentinel(obj)
    try:
        name = obj.__reduce_ex__(5)
    except Exception as error:  # the pickler will raise it again
        let_interrupt_through(error)
        return None
    if not isinstance(name, str):
        return None
    module = getattr(obj, "__module__", None)
    if module is None:
        return name if _look_up(name) is obj else None
    return name if main_module.is_main(module) else None


def _name_of_sentinel(obj: Any) -> str | None:
    """Return the global name of a sentinel: an object without state, which is compared by `is`."""
    cls: Any = type(obj)
    if cls is not object:
        if not main_module.is_main(cls.__module__) or cls.__basicsize__ > _Plain.__basicsize__:
            return None
        if getattr(obj, "__dict__", None) or cls.__getstate__ is not object.__getstate__:
            return None
    for names in main_module.namespaces():
        for name, value in names.items():
            if value is obj:
                return name
    return None


def goes_by_name(obj: Any) -> bool:
    """Whether a process that imports this program's script gets this object, unchanged."""
    script = main_module.importable()
    if script is None:
        return False
    if not isinstance(obj, (type, FunctionType)):
        own = main_name(obj)
        return own is not None and script.has(own) and _look_up(own) is obj
    name = obj.__qualname__
    return script.has(name) and _find_in_mains(name) is obj


def identify(obj: Any) -> Definition:
    """Return the definition of a class, function or named object; a new one if it has none."""
    if isinstance(obj, (type, FunctionType)):
        found = _keys.get(obj)
    else:
        found = _objects[id(obj)][1] if id(obj) in _objects else None
    if found is None:
        found = renew(obj)
    return found


def renew(obj: Any) -> Definition:
    """Give a class or function a new key. Readers keep the definition that has the old key."""
    definition: Definition
    if isinstance(obj, (type, FunctionType)):
        definition = os.urandom(16), obj.__qualname__, isinstance(obj, type)
    else:
        definition = os.urandom(16), main_name(obj) or "", None
    _remember(definition, obj)
    return definition


def _remember(definition: Definition, obj: Any) -> None:
    if definition[2] is None:
        _objects[id(obj)] = obj, definition
        _known_objects[definition[0]] = obj
    else:
        _keys[obj] = definition
        _known[definition[0]] = obj


def know_mains() -> None:
    """Give keys to the definitions of `__main__`, so that a child forked now knows them by key."""
    for names in [*main_module.namespaces(), *_namespaces]:
        for name, obj in list(names.items()):
            is_code = isinstance(obj, (type, FunctionType))
            if is_code and main_module.is_main(obj.__module__) and obj.__qualname__ == name:
                _know_with_parts(obj)


def _know_with_parts(obj: Any) -> None:
    try:
        identify(obj)
    except TypeError:  # a metaclass whose classes cannot be hashed
        return
    if isinstance(obj, type):
        for part in list(vars(obj).values()):
            if isinstance(part, type) and part.__qualname__.startswith(f"{obj.__qualname__}."):
                _know_with_parts(part)


def packed_by_value(obj: Any, names: int, apart: bool) -> bytes | None:
    """Pack a definition by value; return None if readers are to find it by name."""
    by_name = names in (Names.INSTEAD, Names.ELSE) and goes_by_name(obj)
    if by_name and names == Names.INSTEAD:
        return None
    try:
        return _by_value(obj, apart)
    except SerializationError:
        if by_name or names == Names.FORKED:
            return None
        raise


def key_of(obj: Any) -> bytes | None:
    """Return the key by which readers know a function or class; None if it has no key."""
    return _keys[obj][0] if has_key(obj) else None


def has_key(obj: Any) -> bool:
    """Whether readers know a function or class by a key."""
    try:
        return obj in _keys
    except TypeError:
        return False


def _by_value(obj: Any, apart: bool) -> bytes:
    from .serialize import pickle_parts  # which imports this module

    touched: list[Any] = []
    try:
        packed = pickle_parts(obj, None, None, touched, None, apart, whole=obj)
    except BaseException as error:
        let_interrupt_through(error)
        raise explain(obj, error) from error
    if apart and isinstance(obj, (type, FunctionType)):
        _parts[obj] = [ref(part) for part in touched if part is not obj]
    return packed


_parts: WeakKeyDictionary[Any, list[ref[Any]]] = WeakKeyDictionary()


def parts_of(obj: Any) -> list[Any]:
    """List the functions and classes that were packed inside a definition without their globals."""
    if not has_key(obj):
        return []
    return [part for each in _parts.get(obj, ()) if (part := each()) is not None]


def _resolve(definition: Definition, imports: Imports | None, packed: bytes | None) -> Any:
    """Find a definition: the original, this program's own of that name, or one built from bytes."""
    from .serialize import unpickle  # which imports this module

    key, name, is_class = definition
    found = _known_objects.get(key) if is_class is None else _known.get(key)
    if found is not None:
        return found
    # A definition that was sent by value differs from the one of that name in the script.
    by_value_first = packed is not None or getattr(imports, "by_value_first", False)
    found = None if by_value_first else _find_by_name(name, is_class)
    if found is None:
        packed = packed or _fetch(key, imports)
        if packed is not None:
            found = unpickle(packed)
            if imports is not None:
                imports.keep(key, found)
        elif by_value_first:
            found = _find_by_name(name, is_class)
    if found is None:
        raise SerializationError(f"__main__.{name} is not defined in this process")
    _remember(definition, found)
    return found


def _fetch(key: bytes, imports: Imports | None) -> bytes | None:
    try:
        return None if imports is None else imports.fetch(key)
    except KeyError:
        return None


def _find_by_name(name: str, is_class: bool | None) -> Any:
    """Return this program's own object of a name that another process sent, or None."""
    script = main_module.importable()
    if main_module.is_stand_in():
        if script is None or not script.has(name):
            return None
        main_module.import_main()
    found = _look_up(name) if is_class is None else _find_in_mains(name)
    if is_class is None or isinstance(found, type if is_class else FunctionType):
        return found
    return None


def _find_in_mains(qualname: str) -> Any:
    """Return this program's own class or function of that name, or None."""
    # A fork server's __main__ also holds functions of other modules: those do not count.
    return _look_up(
        qualname,
        lambda found: (
            isinstance(found, (type, FunctionType)) and main_module.is_main(found.__module__)
        ),
    )


def _look_up(qualname: str, is_wanted: Callable[[Any], bool] | None = None) -> Any:
    """Return this program's own object of that name, or None."""
    first, *rest = qualname.split(".")
    for names in [*main_module.namespaces(), *_namespaces]:
        found = names.get(first)
        for part in rest:
            found = getattr(found, part, None)
        if found is not None and (is_wanted is None or is_wanted(found)):
            return found
    return None


# -- plain instances ---------------------------------------------------------------------------
#
# If a class does not change how it is pickled, its instance is packed as the class and the
# attributes. The native codec (`_core/_codec.c`) writes such instances itself.


class _Plain:
    pass


_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement


def plan_of(cls: type) -> tuple[bytes, dict[str, Any] | None, str, bytes | None] | None:
    """Return the name by which a reader finds a class, if its instances are plain.

    An instance is plain if its attributes are its whole state.

    Returns:
        A tuple, or None if the instances are not plain:

        - the packed name, for `class_of`;
        - a namespace and a name in it: the plan is valid as long as the class is found there. The
          namespace is None for a class of `__main__`;
        - for a class of `__main__` the key of its definition, else None.
    """
    name, module = cls.__qualname__, cls.__module__
    if (
        type(cls) is not type
        or cls.__basicsize__ != _Plain.__basicsize__
        or not all(base is object or base.__flags__ & _HEAP_TYPE for base in cls.__mro__)
        or any(
            getattr(cls, method) is not getattr(object, method)
            for method in ("__reduce_ex__", "__reduce__", "__getstate__", "__getattribute__")
        )
        or any(hasattr(cls, one) for one in ("__getnewargs__", "__getnewargs_ex__", "__setstate__"))
        or "." in name
        or cls in copyreg.dispatch_table
        or standard_library.reducer_of(cls) is not None
    ):
        return None
    if main_module.is_main(module):
        key = identify(cls)[0]
        packed, namespace = b"K" + key + name.encode(), None
    else:
        key, packed, namespace = None, f"M{module}\n{name}".encode(), vars(sys.modules[module])
    return (packed, namespace, name, key) if len(packed) < 256 else None


def class_of(packed: bytes, imports: Imports | None) -> tuple[type, dict[str, Any] | None, str]:
    """Find the class that has a packed name of `plan_of`.

    Returns:
        The class, a namespace or None, and a name. As long as the namespace has the class under
        that name, the answer is valid.

    Raises:
        TypeError: The class defines in this process how it is unpickled.
    """
    if packed[:1] == b"K":
        name = packed[17:].decode()
        found = _resolve((packed[1:17], name, True), imports, None)
        namespaces = [space for space in main_module.namespaces() if space.get(name) is found]
        namespace = namespaces[0] if namespaces else None
    else:
        module, _, name = packed[1:].decode().partition("\n")
        __import__(module)
        found = getattr(sys.modules[module], name)
        namespace = vars(sys.modules[module])
    if plan_of(found) is None:
        raise TypeError(
            f"{found!r} defines in this process how it is unpickled, but did not do so where its "
            "instance was packed: use the same version of the class in both processes"
        )
    return found, namespace, name
