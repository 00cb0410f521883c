"""Packs classes by value, as a copy of their finished state.

The reader makes the class by `type.__new__`, with its slots. The hooks `__init_subclass__` and
`__set_name__`, and the metaclass's `__prepare__`, `__new__` and `__init__`, do not run again: their
effects are part of the state. A class may contain references to itself, so it is rebuilt in two
steps: it is made, then filled. cloudpickle would run the hooks again, and loses slots and other
things that only a class statement makes.
"""

from __future__ import annotations

import abc
import copyreg
import enum
import sys
import typing
from types import (
    BuiltinFunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    WrapperDescriptorType,
)
from typing import Any

from ..system.interrupts import let_interrupt_through
from .tracked import is_importable, tracked, unfilled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def reduce_class(cls: Any) -> Any:
    """Reduce a class that cannot be imported; return NotImplemented for any other class."""
    is_in_c = not cls.__flags__ & _HEAP_TYPE or cls.__flags__ & _IMMUTABLE_TYPE
    if is_in_c or is_importable(cls):
        return NotImplemented
    meta = type(cls)
    first, left_out = _first_attributes(cls)
    args: tuple[Any, ...] = meta, cls.__name__, cls.__qualname__, cls.__bases__, first
    if not _is_in_c(meta):
        state = _class_state(cls, left_out)
        if issubclass(cls, enum.Enum):
            return _reduce_enum(cls, args, state)
        return tracked(cls, _make_class, args, state, _fill_class)
    first.pop("__slots__", None)
    if meta.__module__ == "_ctypes":
        fields = {name for name, one in vars(cls).items() if type(one).__module__ == "_ctypes"}
        state = _class_state(cls, left_out | fields)
        return tracked(cls, _make_ctypes_class, args[1:], state, _fill_by_setattr)
    if meta.__module__.partition(".")[0] == "msgspec":
        args = *args, _struct_fields(cls), _struct_config(cls)
        state = _class_state(cls, left_out)
        state["attributes"]["__annotations__"] = _evaluated_annotations(cls)
        return tracked(cls, _make_struct, args, state, _fill_by_setattr)
    return NotImplemented


_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement, or by an extension like one
_IMMUTABLE_TYPE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE: made by an extension

_MADE_ANEW = {
    "__module__",
    "__dict__",
    "__weakref__",
    "__slotnames__",  # copyreg's cache
    "_abc_impl",
    # The storage of annotations in Python 3.14; their values are packed instead.
    "__annotate_func__",
    "__annotations_cache__",
}
"""Names in a class's dict that are not copied: a new class has them already, or they are caches."""


def _is_in_c(meta: type) -> bool:
    """Whether a metaclass makes its classes in C code of an extension, not by `type.__new__`."""
    return any(
        isinstance(vars(base).get("__new__"), BuiltinFunctionType)
        or isinstance(vars(base).get("__init__"), WrapperDescriptorType)
        for base in meta.__mro__
        if base not in (type, object)
    )


def _first_attributes(cls: type) -> tuple[dict[str, Any], set[str]]:
    """Return the attributes with which a class must be made, and the names that this creates."""
    attributes = vars(cls)
    first = {name: attributes[name] for name in ("__module__",) if name in attributes}
    if isinstance(attributes.get("__dict__"), property):
        first["__dict__"] = attributes["__dict__"]
    made = {
        value.__name__
        for value in attributes.values()
        if isinstance(value, (MemberDescriptorType, GetSetDescriptorType))
        and value.__objclass__ is cls
    }
    if "__slots__" in attributes:
        first["__slots__"] = sorted(made)
    return first, made


def _class_state(cls: Any, left_out: set[str]) -> dict[str, Any]:
    """Return the state of a class: all of it except its name, bases and slots."""
    attributes = {
        name: value
        for name, value in list(vars(cls).items())
        if name not in _MADE_ANEW and name not in left_out
    }
    slots = attributes.get("__slots__")
    if not isinstance(slots, (str, tuple, list, dict, set, frozenset)):  # an iterator
        attributes.pop("__slots__", None)
    if sys.version_info >= (3, 14) and (annotations := _annotations(cls)):
        attributes["__annotations__"] = annotations
    registry = []
    if isinstance(cls, abc.ABCMeta):
        registry = [one for ref in abc._get_dump(cls)[0] if (one := ref()) is not None]  # type: ignore[attr-defined]
    return {
        "attributes": attributes,
        "registry": registry,
        "abcs": [one for one in _stdlib_abcs() if _is_registered(cls, one)],
        "reducer": copyreg.dispatch_table.get(cls),
    }


def _annotations(obj: Any) -> dict[str, Any]:
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(obj, format=annotationlib.Format.FORWARDREF)
    return vars(obj).get("__annotations__", {})  # type: ignore[no-any-return]


def _stdlib_abcs() -> Iterator[abc.ABCMeta]:
    """List the standard library's abstract classes, with which a script may register a class."""
    for name in ("collections.abc", "numbers"):
        if (module := sys.modules.get(name)) is not None:
            yield from (one for one in vars(module).values() if isinstance(one, abc.ABCMeta))


def _is_registered(cls: type, one: abc.ABCMeta) -> bool:
    return any(ref() is cls for ref in abc._get_dump(one)[0])  # type: ignore[attr-defined]


class _Caught(Exception):
    """Stops `type.__new__` before it calls the bases' `__init_subclass__`."""


class _Catch:
    """An attribute of a class that is being made, which catches the class and stops the making.

    `type.__new__` calls `__set_name__` after the class is complete, before all other hooks.
    """

    cls: Any = None

    def __set_name__(self, owner: Any, name: str) -> None:
        self.cls = owner
        raise _Caught


def _make_class(
    meta: Any, name: str, qualname: str, bases: tuple[type, ...], first: dict[str, Any]
) -> Any:
    """Make a class without attributes, and without running any code of the script."""
    catch = _Catch()
    namespace = {**first, "__qualname__": qualname, "_qmill_catch": catch}
    try:
        type.__new__(meta, name, bases, namespace)
    except Exception as error:
        let_interrupt_through(error)
        if catch.cls is None:
            raise
    cls = catch.cls
    type.__delattr__(cls, "_qmill_catch")
    if issubclass(meta, abc.ABCMeta):
        abc._abc_init(cls)  # type: ignore[attr-defined]
    return cls


def _fill_class(cls: Any, state: dict[str, Any]) -> None:
    for name, value in state["attributes"].items():
        type.__setattr__(cls, name, value)
    _register(cls, state)


def _register(cls: Any, state: dict[str, Any]) -> None:
    for one in state["registry"]:
        abc.ABCMeta.register(cls, one)
    for one in state["abcs"]:
        one.register(cls)
    if state["reducer"] is not None:
        copyreg.pickle(cls, state["reducer"])


# -- classes of extensions ------------------------------------------------------------------------


def _make_ctypes_class(
    name: str, qualname: str, bases: tuple[Any, ...], first: dict[str, Any]
) -> Any:
    """Make a structure or union without fields; setting `_fields_` adds them later."""
    return type(bases[0])(name, bases, {**first, "__qualname__": qualname})


def _fill_by_setattr(cls: Any, state: dict[str, Any]) -> None:
    for name, value in state["attributes"].items():
        if name != "__slots__":
            setattr(cls, name, value)
    _register(cls, state)


def _struct_fields(cls: Any) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return, by name, the encoded name and the default of a msgspec.Struct's own fields."""
    names, defaults = cls.__struct_fields__, cls.__struct_defaults__
    by_name = dict(zip(names[len(names) - len(defaults) :], defaults, strict=True))
    encoded = dict(zip(names, cls.__struct_encode_fields__, strict=True))
    return {
        name: (encoded[name], _struct_default(by_name.get(name, _no_default())))
        for name in _annotations(cls)
        if name in encoded
    }


def _no_default() -> Any:
    import msgspec

    return msgspec.NODEFAULT


def _struct_default(default: Any) -> dict[str, Any]:
    if default is _no_default():
        return {}
    if type(default).__name__ == "Factory":
        return {"default_factory": default.factory}
    return {"default": default}


def _struct_config(cls: Any) -> dict[str, Any]:
    config = cls.__struct_config__
    settings = {name: getattr(config, name) for name in dir(config) if not name.startswith("_")}
    own = [name for name in _annotations(cls) if name in cls.__struct_fields__]
    return {**settings, "kw_only": any(name not in cls.__match_args__ for name in own)}


def _evaluated_annotations(cls: Any) -> dict[str, Any]:
    """Return evaluated annotations.

    msgspec would look up names in strings in the class's module, which the reader does not have.
    """
    own = _annotations(cls)
    try:
        evaluated = typing.get_type_hints(cls, include_extras=True)
    except Exception as error:  # a name is not defined: msgspec raises when it needs the type
        let_interrupt_through(error)
        return own
    return {name: evaluated[name] for name in own}


def _make_struct(
    meta: Any,
    name: str,
    qualname: str,
    bases: tuple[type, ...],
    first: dict[str, Any],
    fields: dict[str, tuple[str, dict[str, Any]]],
    config: dict[str, Any],
) -> Any:
    """Make a msgspec.Struct class with its fields; their types are set when it is filled."""
    import msgspec

    namespace = {**first, "__qualname__": qualname, "__annotations__": dict.fromkeys(fields, Any)}
    for field, (encoded, default) in fields.items():
        namespace[field] = msgspec.field(name=encoded, **default)
    return meta(name, bases, namespace, **config)


# -- enumerations ---------------------------------------------------------------------------------


def _reduce_enum(cls: Any, args: tuple[Any, ...], state: dict[str, Any]) -> Any:
    members = {member._name_: member for member in cls._member_map_.values()}
    first = {name: _first_parts(member) for name, member in members.items()}
    state["members"] = {name: object.__getstate__(member) for name, member in members.items()}
    state["attributes"]["_value2member_map_"] = {
        value: member
        for value, member in cls._value2member_map_.items()
        if cls._member_map_.get(member._name_) is member  # not a combination of flags
    }
    return tracked(cls, _make_enum, (*args, first), state, _fill_enum)


def _first_parts(member: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the first parts of a member: its builtin value, and its simple attributes.

    Hash and equality may need these. They are set before the rest of the class's state is rebuilt,
    since members may be keys of dicts there.
    """
    simple = {name: value for name, value in vars(member).items() if type(value) in _SIMPLE}
    return _builtin_value(member), simple


_SIMPLE = (int, float, str, bytes, bool, type(None))


def _builtin_value(member: Any) -> tuple[Any, ...]:
    """Return the arguments of the `__new__` of the builtin class from which a member derives."""
    base = builtin_base(type(member))
    if base is object:
        return ()
    if base is str:
        return (str.__str__(member),)
    if base in (int, float, bytes, tuple, frozenset, complex):
        return (base(member),)
    return base.__reduce__(member)[1]  # type: ignore[no-any-return]


def builtin_base(cls: type) -> Any:
    """Return the first base of a class that was not made by a class statement."""
    return next(base for base in cls.__mro__ if not base.__flags__ & _HEAP_TYPE)


def _make_enum(
    meta: Any,
    name: str,
    qualname: str,
    bases: tuple[type, ...],
    first: dict[str, Any],
    members: dict[str, tuple[tuple[Any, ...], dict[str, Any]]],
) -> Any:
    cls = _make_class(meta, name, qualname, bases, first)
    made = {member_name: _make_member(cls, *parts) for member_name, parts in members.items()}
    type.__setattr__(cls, "_member_map_", made)
    type.__setattr__(cls, "_value2member_map_", {})
    return cls


def _make_member(cls: Any, args: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
    member = builtin_base(cls).__new__(cls, *args)
    vars(member).update(attributes)
    return member


def _fill_enum(cls: Any, state: dict[str, Any]) -> None:
    for name, member_state in state["members"].items():
        member = cls._member_map_[name]
        attributes, slots = member_state if isinstance(member_state, tuple) else (member_state, {})
        vars(member).update(attributes)
        for slot, value in slots.items():
            object.__setattr__(member, slot, value)
    combinations = cls._value2member_map_
    _fill_class(cls, state)
    cls._value2member_map_.update(combinations)


def reduce_member(member: Any) -> Any:
    """Reduce a member, or a combination of flags, to its class and name, or class and value.

    When the reader rebuilds it, the class may not be filled yet.
    """
    cls = type(member)
    if is_importable(cls):
        return NotImplemented
    if cls._member_map_.get(member._name_) is member:
        return _find_member, (cls, member._name_)
    return _find_combination, (cls, member._value_, *_first_parts(member))


def _find_member(cls: Any, name: str) -> Any:
    return cls._member_map_[name]


def _find_combination(
    cls: Any, value: Any, args: tuple[Any, ...], attributes: dict[str, Any]
) -> Any:
    if id(cls) not in unfilled:
        return cls(value)
    return cls._value2member_map_.setdefault(value, _make_member(cls, args, attributes))
