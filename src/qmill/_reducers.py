"""How objects of a script that cannot be imported are taken apart, where cloudpickle is not enough.

cloudpickle rebuilds a class by making an empty one of the same bases and setting its attributes.
That runs the hooks of metaclasses and bases a second time, and loses what only the class statement
makes: slots, members of enumerations. It refuses functions that keep a cache with a lock or with
weak references: `lru_cache`, `singledispatch`. The reducers here come before it:

- A class is a picture of its finished state. It is made by `type.__new__`, with its slots, and no
  hook runs again: `__init_subclass__`, `__set_name__`, the metaclass's `__prepare__`, `__new__` and
  `__init__` have left their traces in that state.
- An object that can lead to itself comes in two steps: first it is made, then it is filled.
- A class that a process has made, or has sent, is found there again by its tracker's id, and is not
  filled a second time. Sentinels, context variables and type variables are tracked likewise.

`serialize` asks `reduce` before cloudpickle, and `complete` after it. Whether a script is imported
instead is decided there.
"""

from __future__ import annotations

import abc
import copyreg
import dis
import enum
import functools
import gc
import io
import struct
import sys
import typing
from contextvars import Context, ContextVar
from threading import RLock
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    WrapperDescriptorType,
)
from typing import Any
from weakref import WeakKeyDictionary

from cloudpickle import cloudpickle

from ._pickling import PicklingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MAINS = ("__main__", "__mp_main__")


def reduce(obj: Any) -> Any:
    """Take an object apart, if that is done here.

    Returns:
        A reduce value, as of `pickle.Pickler.reducer_override`; NotImplemented leaves the object to
        cloudpickle and to pickle.

    Raises:
        PicklingError: It must not go by value.
    """
    cls = type(obj)
    try:
        reducer = _reducers[cls]
    except KeyError:
        reducer = _reducers[cls] = _choose(cls)
    except Exception:  # a metaclass may have a strange __hash__
        reducer = _choose(cls)
    return NotImplemented if reducer is None else reducer(obj)


_reducers: WeakKeyDictionary[type, Callable[[Any], Any] | None] = WeakKeyDictionary()


def _choose(cls: type) -> Callable[[Any], Any] | None:
    """Choose the reducer of a type's instances; None if there is none here."""
    if (reducer := _BY_TYPE.get(cls)) is not None:
        return reducer
    if issubclass(cls, type):
        return _reduce_class
    if cls in copyreg.dispatch_table:
        return None
    for base, reducer in _BY_BASE.items():
        if base in cls.__mro__[1:] and cls.__reduce_ex__ is base.__reduce_ex__:
            return reducer if isinstance(cls.__reduce__, _IN_C) else None
    is_in_c = isinstance(cls.__reduce_ex__, _IN_C) and isinstance(cls.__reduce__, _IN_C)
    return None if is_in_c else _reduce_by_its_method


_IN_C = (MethodDescriptorType, WrapperDescriptorType)


def _is_importable(obj: Any, name: str | None = None) -> bool:
    """Whether other processes get a class, a function or the like by importing its module."""
    if getattr(obj, "__module__", None) in _MAINS:
        return False
    found = cloudpickle._lookup_module_and_qualname(obj, name=name)
    return found is not None and not cloudpickle._is_registered_pickle_by_value(found[0])


# -- objects that are one in each process ---------------------------------------------------------


def _tracked(
    obj: Any,
    make: Callable[..., Any],
    args: tuple[Any, ...],
    state: Any = None,
    fill: Callable[[Any, Any], None] | None = None,
) -> Any:
    """Reduce an object to one that is made once in each process, and is itself in its own."""
    make_args = _tracker_id(obj), make, args
    if fill is None:
        return _find_or_make, (*make_args, False)
    return _find_or_make, (*make_args, True), (fill, state), None, None, _fill_once


def _tracker_id(obj: Any) -> str:
    if _is_tracked_weakly(obj):
        return cloudpickle._get_or_create_tracker_id(obj)  # type: ignore[no-any-return]
    from uuid import uuid4

    key = _strong_ids.setdefault(id(obj), uuid4().hex)
    _strong[key] = obj
    return key


def _is_tracked_weakly(obj: Any) -> bool:
    cls = type(obj)
    return cls.__weakrefoffset__ != 0 and cls.__hash__ is object.__hash__


# Objects without weak references, or with an equality of their own. They are a program's global
# names, so there are few.
_strong: dict[str, Any] = {}
_strong_ids: dict[int, str] = {}

_unfilled: dict[int, Any] = {}
"""What was made here and has no state yet, by `id`."""


def _find_or_make(
    tracker_id: str, make: Callable[..., Any], args: tuple[Any, ...], is_filled_later: bool
) -> Any:
    for known in (cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID, _strong):
        if (found := known.get(tracker_id)) is not None:
            return found
    made = make(*args)
    if is_filled_later:
        _unfilled[id(made)] = made
    if _is_tracked_weakly(made):
        kept = cloudpickle._lookup_class_or_track(tracker_id, made)
    else:
        kept = _strong.setdefault(tracker_id, made)
        _strong_ids[id(kept)] = tracker_id
    if kept is not made:  # another thread was faster
        _unfilled.pop(id(made), None)
    return kept


def _fill_once(obj: Any, state: tuple[Callable[[Any, Any], None], Any]) -> None:
    """Fill what was made here, but nothing that came before or is this process's own.

    Two threads that rebuild the same object at the same time both fill it, so that neither goes on
    with a half-filled one.
    """
    if id(obj) in _unfilled:
        fill, values = state
        fill(obj, values)
        _unfilled.pop(id(obj), None)


def _set_state(obj: Any, state: Any) -> None:
    """Set a state as of `object.__getstate__`, whatever the class does when attributes are set."""
    if hasattr(obj, "__setstate__"):
        if state is not None:
            obj.__setstate__(state)
        return
    attributes, slots = state if isinstance(state, tuple) else (state, None)
    if attributes:
        obj.__dict__.update(attributes)
    for name, value in (slots or {}).items():
        object.__setattr__(obj, name, value)


# -- classes --------------------------------------------------------------------------------------


def _reduce_class(cls: Any) -> Any:
    is_in_c = not cls.__flags__ & _HEAP_TYPE or cls.__flags__ & _IMMUTABLE_TYPE
    if is_in_c or _is_importable(cls):
        return NotImplemented
    meta = type(cls)
    first, left_out = _first_attributes(cls)
    args: tuple[Any, ...] = meta, cls.__name__, cls.__qualname__, cls.__bases__, first
    if not _is_in_c(meta):
        state = _class_state(cls, left_out)
        if issubclass(cls, enum.Enum):
            args = *args, _simple_members(cls)
            return _tracked(cls, _make_enum, args, (state, _member_states(cls)), _fill_enum)
        return _tracked(cls, _make_class, args, state, _fill_class)
    first.pop("__slots__", None)
    if meta.__module__ == "_ctypes":
        state = _class_state(cls, left_out)
        return _tracked(cls, _make_ctypes_class, args[1:], state, _fill_by_setattr)
    if meta.__module__.partition(".")[0] == "msgspec":
        args = *args, _struct_fields(cls), _struct_config(cls)
        return _tracked(cls, _make_struct, args, _class_state(cls, left_out), _fill_by_setattr)
    return NotImplemented


_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement, or by an extension like one
_IMMUTABLE_TYPE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE: made by an extension

_MADE_ANEW = {
    "__module__",
    "__dict__",
    "__weakref__",
    "__slotnames__",  # copyreg's cache
    "_abc_impl",
    # How 3.14 keeps annotations; the values are taken.
    "__annotate_func__",
    "__annotations_cache__",
}
"""Names of a class's dict that are not set: they are there from the start, or belong to a cache."""


def _is_in_c(meta: type) -> bool:
    """Whether a metaclass makes its classes in an extension, which `type.__new__` refuses to do."""
    return any(
        isinstance(vars(base).get("__new__"), BuiltinFunctionType)
        for base in meta.__mro__
        if base not in (type, object)
    )


def _first_attributes(cls: type) -> tuple[dict[str, Any], set[str]]:
    """Return what a class must be made with, and the names of what is made by that."""
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
    """Return all that a class is beside its name, bases and slots."""
    attributes = {
        name: value
        for name, value in list(vars(cls).items())
        if name not in _MADE_ANEW and name not in left_out and type(value).__name__ != "CField"
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
    """List the abstract classes that scripts register classes with: they go by name themselves."""
    for name in ("collections.abc", "numbers"):
        if (module := sys.modules.get(name)) is not None:
            yield from (one for one in vars(module).values() if isinstance(one, abc.ABCMeta))


def _is_registered(cls: type, one: abc.ABCMeta) -> bool:
    return any(ref() is cls for ref in abc._get_dump(one)[0])  # type: ignore[attr-defined]


class _Caught(Exception):
    """Ends the making of a class before its bases' `__init_subclass__` runs."""


class _Catch:
    """An attribute of a class to be: when it is told its name, all but the hooks has been done."""

    cls: Any = None

    def __set_name__(self, owner: Any, name: str) -> None:
        self.cls = owner
        raise _Caught


def _make_class(
    meta: Any, name: str, qualname: str, bases: tuple[type, ...], first: dict[str, Any]
) -> Any:
    """Make a class without attributes, and without any code of the script."""
    catch = _Catch()
    namespace = {**first, "__qualname__": qualname, "_qmill_catch": catch}
    try:
        type.__new__(meta, name, bases, namespace)
    except Exception:
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
    """Make a structure or union without its fields; `_fields_` makes them when it is set."""
    return type(bases[0])(name, bases, {**first, "__qualname__": qualname})


def _fill_by_setattr(cls: Any, state: dict[str, Any]) -> None:
    for name, value in state["attributes"].items():
        if name != "__slots__":
            setattr(cls, name, value)
    _register(cls, state)


def _struct_fields(cls: Any) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the fields that a msgspec.Struct adds to its bases': encoded name and default."""
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


def _make_struct(
    meta: Any,
    name: str,
    qualname: str,
    bases: tuple[type, ...],
    first: dict[str, Any],
    fields: dict[str, tuple[str, dict[str, Any]]],
    config: dict[str, Any],
) -> Any:
    """Make a class with its fields; their types, which msgspec looks at later, are set later."""
    import msgspec

    namespace = {**first, "__qualname__": qualname, "__annotations__": dict.fromkeys(fields, Any)}
    for field, (encoded, default) in fields.items():
        namespace[field] = msgspec.field(name=encoded, **default)
    return meta(name, bases, namespace, **config)


# -- enumerations ---------------------------------------------------------------------------------


def _simple_members(cls: Any) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Return what members are made of: name, value as a builtin, what equality and hash may need.

    These are there before the class has its state, since members may be keys of dicts in it.
    """
    return [
        (
            member._name_,
            _builtin_value(member),
            {name: value for name, value in vars(member).items() if type(value) in _SIMPLE},
        )
        for member in _members(cls)
    ]


_SIMPLE = (int, float, str, bytes, bool, type(None))


def _members(cls: Any) -> Iterator[Any]:
    """List the members with a name of their own, without aliases."""
    return iter({id(member): member for member in cls._member_map_.values()}.values())


def _builtin_value(member: Any) -> tuple[Any, ...]:
    """Return the arguments that make a member's value in the builtin class that it derives from."""
    base = _builtin_base(type(member))
    if base is object:
        return ()
    if base is str:
        return (str.__str__(member),)
    if base in (int, float, bytes, tuple, frozenset, complex):
        return (base(member),)
    return base.__reduce__(member)[1]  # type: ignore[no-any-return]


def _builtin_base(cls: type) -> Any:
    return next(base for base in cls.__mro__ if not base.__flags__ & _HEAP_TYPE)


def _member_states(cls: Any) -> dict[str, Any]:
    return {member._name_: object.__getstate__(member) for member in _members(cls)}


def _make_enum(
    meta: Any,
    name: str,
    qualname: str,
    bases: tuple[type, ...],
    first: dict[str, Any],
    members: list[tuple[str, tuple[Any, ...], dict[str, Any]]],
) -> Any:
    cls = _make_class(meta, name, qualname, bases, first)
    base = _builtin_base(cls)
    made = {}
    for member_name, args, attributes in members:
        made[member_name] = member = base.__new__(cls, *args)
        vars(member).update(attributes)
    type.__setattr__(cls, "_member_map_", made)
    return cls


def _fill_enum(cls: Any, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    class_state, members = state
    for name, member_state in members.items():
        attributes, slots = (
            member_state if isinstance(member_state, tuple) else (member_state, None)
        )
        vars(cls._member_map_[name]).update(attributes)
        for slot, value in (slots or {}).items():
            object.__setattr__(cls._member_map_[name], slot, value)
    _fill_class(cls, class_state)


def _reduce_member(member: Any) -> Any:
    """Refer to a member by its class and name: its class may not be filled yet."""
    cls = type(member)
    if _is_importable(cls) or cls._member_map_.get(member._name_) is not member:
        return NotImplemented
    return _find_member, (cls, member._name_)


def _find_member(cls: Any, name: str) -> Any:
    return cls._member_map_[name]


# -- functions ------------------------------------------------------------------------------------


def complete(obj: Any, reduced: Any) -> Any:
    """Add to cloudpickle's reduce value of a function: what it leaves out.

    That is: closures that share a variable go on sharing it; globals that the body of a class
    inside the function reads; type parameters.

    Args:
        obj: What was reduced.
        reduced: The reduce value; of anything but a function it is returned as it is.
    """
    if type(obj) is not FunctionType or not isinstance(reduced, tuple):
        return reduced
    make, args, (attributes, slots), *rest = reduced
    if obj.__closure__:
        args = *args[:4], obj.__closure__
        slots["__closure__"] = None
    if type_parameters := getattr(obj, "__type_params__", ()):
        slots["__type_params__"] = type_parameters
    for name in names_in_class_bodies(obj.__code__):
        if name in obj.__globals__:
            slots["__globals__"].setdefault(name, obj.__globals__[name])
    return make, args, (attributes, slots), *rest


_READS_NAME = {"LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
_class_body_names: WeakKeyDictionary[CodeType, tuple[str, ...]] = WeakKeyDictionary()


def names_in_class_bodies(code: CodeType) -> tuple[str, ...]:
    """Return names that may be globals and that only class bodies within a function read."""
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    if not inner:
        return ()
    names = _class_body_names.get(code)
    if names is None:
        found: dict[str, None] = {}
        for one in inner:
            found.update(
                (instruction.argval, None)
                for instruction in dis.get_instructions(one)
                if instruction.opname in _READS_NAME
            )
            found.update(dict.fromkeys(names_in_class_bodies(one)))
        names = _class_body_names[code] = tuple(found)
    return names


def _reduce_cell(cell: Any) -> Any:
    try:
        contents = cell.cell_contents
    except ValueError:  # not bound yet
        return CellType, ()
    return CellType, (), (contents,), None, None, _fill_cell


def _fill_cell(cell: Any, state: tuple[Any]) -> None:
    (cell.cell_contents,) = state


def _reduce_function(function: Any) -> Any:
    if function.__code__ is not _DISPATCHER_CODE or _is_importable(function):
        return NotImplemented
    implementations = dict(function.registry)
    original = getattr(function, "__wrapped__", implementations[object])
    attributes = {
        name: value
        for name, value in vars(function).items()
        if name not in ("registry", "register", "dispatch", "_clear_cache", "__wrapped__")
    }
    state = implementations, attributes
    return functools.singledispatch, (original,), state, None, None, _fill_dispatcher


_DISPATCHER_CODE = functools.singledispatch(_reduce_function).__code__


def _fill_dispatcher(function: Any, state: tuple[dict[type, Any], dict[str, Any]]) -> None:
    implementations, attributes = state
    for cls, implementation in implementations.items():
        function.register(cls, implementation)
    vars(function).update(attributes)


def _reduce_lru_cache(function: Any) -> Any:
    if _is_importable(function):
        return NotImplemented
    parameters = function.cache_parameters()
    args = function.__wrapped__, parameters["maxsize"], parameters["typed"]
    made = ("cache_parameters", "__wrapped__")
    attributes = {name: value for name, value in vars(function).items() if name not in made}
    return _make_lru_cache, args, attributes


def _make_lru_cache(function: Any, maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


def _reduce_cached_property(obj: Any) -> Any:
    """Reduce a `cached_property` of Python 3.11, which has a lock of its own."""
    attributes = {name: value for name, value in vars(obj).items() if name != "lock"}
    return _make_cached_property, (type(obj),), attributes


def _make_cached_property(cls: Any) -> Any:
    made = cls.__new__(cls)
    made.lock = RLock()
    return made


def _reduce_key_function(obj: Any) -> Any:
    """Reduce what `functools.cmp_to_key` gives, which shows its function to nobody else."""
    for part in gc.get_referents(obj):
        if callable(part) and part is not type(obj):
            return functools.cmp_to_key, (part,)
    return NotImplemented


# -- descriptors ----------------------------------------------------------------------------------


def _reduce_property(obj: Any) -> Any:
    return _reduce_descriptor(obj, property, (obj.fget, obj.fset, obj.fdel, obj.__doc__))


def _reduce_classmethod(obj: Any) -> Any:
    return _reduce_descriptor(obj, classmethod, (obj.__func__,))


def _reduce_staticmethod(obj: Any) -> Any:
    return _reduce_descriptor(obj, staticmethod, (obj.__func__,))


def _reduce_descriptor(obj: Any, base: type, args: tuple[Any, ...]) -> Any:
    state = object.__getattribute__(obj, "__dict__") if hasattr(obj, "__dict__") else None
    return _make_descriptor, (type(obj), base), (args, state), None, None, _fill_descriptor


def _make_descriptor(cls: Any, base: Any) -> Any:
    return base.__new__(cls)


def _fill_descriptor(obj: Any, state: tuple[tuple[Any, ...], Any]) -> None:
    args, attributes = state
    base: Any = next(one for one in type(obj).__mro__ if one in _DESCRIPTORS)
    base.__init__(obj, *args)
    if attributes:
        vars(obj).update(attributes)


_DESCRIPTORS = (property, classmethod, staticmethod)


# -- type variables and what `typing` makes of classes --------------------------------------------


def _reduce_type_parameter(parameter: Any) -> Any:
    if _is_importable(parameter, parameter.__name__):
        return NotImplemented
    settings = {
        keyword: value
        for keyword in ("bound", "covariant", "contravariant", "infer_variance")
        if (value := getattr(parameter, f"__{keyword}__", None))
    }
    if hasattr(parameter, "has_default") and parameter.has_default():
        settings["default"] = parameter.__default__
    constraints = getattr(parameter, "__constraints__", ())
    args = type(parameter), parameter.__name__, constraints, settings, parameter.__module__
    return _tracked(parameter, _make_type_parameter, args)


def _make_type_parameter(
    kind: Any, name: str, constraints: tuple[Any, ...], settings: dict[str, Any], module: str
) -> Any:
    parameter = kind(name, *constraints, **settings)
    parameter.__module__ = module
    return parameter


def _reduce_args(obj: Any) -> Any:
    return getattr, (obj.__origin__, "args")


def _reduce_kwargs(obj: Any) -> Any:
    return getattr, (obj.__origin__, "kwargs")


def _reduce_generic_alias(alias: Any) -> Any:
    """Reduce `A[int]` without asking `A`, whose parameters may not be there yet."""
    origin = alias.__origin__
    if not isinstance(origin, type) or _is_importable(origin):
        return NotImplemented
    return copyreg.__newobj__, (type(alias),), vars(alias)  # type: ignore[attr-defined]


def _reduce_type_alias(alias: Any) -> Any:
    if _is_importable(alias, alias.__name__):
        return NotImplemented
    names: dict[str, Any] = {}  # the namespace in which the alias is evaluated, late
    values = {"_qmill_value": alias.__value__}
    declarations = []
    for number, parameter in enumerate(alias.__type_params__):
        declarations.append(_declare(parameter, f"_qmill_{number}", values))
    source = f"[{', '.join(declarations)}]" if declarations else ""
    parameters = [_tracker_id(parameter) for parameter in alias.__type_params__]
    args = alias.__name__, alias.__module__, source, parameters, names
    return _tracked(alias, _make_type_alias, args, (names, values), _fill_type_alias)


def _declare(parameter: Any, prefix: str, values: dict[str, Any]) -> str:
    """Write a type parameter's declaration, with names for what it refers to."""
    stars = {"TypeVarTuple": "*", "ParamSpec": "**"}.get(type(parameter).__name__, "")
    declaration = stars + parameter.__name__
    if constraints := getattr(parameter, "__constraints__", ()):
        named = {f"{prefix}_{number}": one for number, one in enumerate(constraints)}
        values.update(named)
        declaration += f": ({', '.join(named)})"
    elif not stars and parameter.__bound__ is not None:
        values[f"{prefix}_bound"] = parameter.__bound__
        declaration += f": {prefix}_bound"
    if hasattr(parameter, "has_default") and parameter.has_default():
        values[f"{prefix}_default"] = parameter.__default__
        declaration += f" = {prefix}_default"
    return declaration


def _make_type_alias(
    name: str, module: str, declarations: str, parameters: list[str], names: dict[str, Any]
) -> Any:
    """Make an alias by its statement: only so is its value looked up late, as it may be recursive."""
    names["__name__"] = module
    made: dict[str, Any] = {}
    exec(f"type {name}{declarations} = _qmill_value", names, made)
    for tracker_id, parameter in zip(parameters, made[name].__type_params__, strict=True):
        cloudpickle._lookup_class_or_track(tracker_id, parameter)
    return made[name]


def _fill_type_alias(alias: Any, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    names, values = state
    names.update(values)


# -- other objects --------------------------------------------------------------------------------


def _reduce_by_its_method(obj: Any) -> Any:
    """Reduce an object as its class says; if that is by a name of the script, by value."""
    reduced = obj.__reduce_ex__(5)
    if not isinstance(reduced, str) or _is_importable(obj, reduced):
        return reduced
    make, args, state = reduce_sentinel(obj)
    return _tracked(obj, make, args, state, _set_state)


def reduce_sentinel(obj: Any) -> tuple[Any, tuple[Any, ...], Any]:
    """Reduce an object whose `__reduce__` is a name to its class and state.

    Returns:
        A function that makes it, its arguments, and what `object.__getstate__` gives.
    """
    cls = type(obj)
    if hasattr(obj, "__getnewargs_ex__"):
        args, kwargs = obj.__getnewargs_ex__()
        make = copyreg.__newobj_ex__  # type: ignore[attr-defined]
        return make, (cls, args, kwargs), obj.__getstate__()
    args = obj.__getnewargs__() if hasattr(obj, "__getnewargs__") else ()
    return copyreg.__newobj__, (cls, *args), obj.__getstate__()  # type: ignore[attr-defined]


def _reduce_exception(error: Any) -> Any:
    """Reduce an exception of the script without a call of its `__init__`.

    Pickle calls the class with `args`, which are those of `BaseException.__init__`: an `__init__`
    with other parameters cannot take them.
    """
    cls = type(error)
    if _is_importable(cls) or not isinstance(cls.__init__, FunctionType):
        return NotImplemented
    base = _builtin_base(cls)
    _, args, *state = base.__reduce__(error)
    slots = {
        name: getattr(error, name)
        for name in copyreg._slotnames(cls)  # type: ignore[attr-defined]
        if hasattr(error, name)
    }
    return _make_exception, (cls, base, args), (*(state or [None]), slots), None, None, _fill_error


def _make_exception(cls: Any, base: Any, args: tuple[Any, ...]) -> Any:
    error = base.__new__(cls, *args)
    base.__init__(error, *args)
    return error


def _fill_error(error: Any, state: tuple[dict[str, Any] | None, dict[str, Any]]) -> None:
    attributes, slots = state
    for name, value in (attributes or {}).items():
        if isinstance(getattr(_builtin_base(type(error)), name, None), MemberDescriptorType):
            slots[name] = value  # such as the `name` and `path` of an ImportError
        else:
            error.__dict__[name] = value
    for name, value in slots.items():
        object.__setattr__(error, name, value)


def _reduce_context_variable(variable: Any) -> Any:
    if (place := _find_in_modules(variable)) is not None:
        return _get_from_module, place
    try:
        default = (Context().run(variable.get),)
    except LookupError:
        default = ()
    return _tracked(variable, _make_context_variable, (variable.name, default))


def _make_context_variable(name: str, default: tuple[Any, ...]) -> Any:
    return ContextVar(name, default=default[0]) if default else ContextVar(name)


def _find_in_modules(obj: Any) -> tuple[str, str] | None:
    """Return the module and the name of an object that does not know them; not of the script."""
    for module_name, module in list(sys.modules.items()):
        if module_name not in _MAINS and module is not None:
            for name, value in list(getattr(module, "__dict__", {}).items()):
                if value is obj:
                    return module_name, name
    return None


def _get_from_module(module: str, name: str) -> Any:
    __import__(module)
    return getattr(sys.modules[module], name)


def _reduce_file(file: Any) -> Any:
    """Refuse an open file: cloudpickle would send its contents as another kind of object."""
    if file in (sys.stdout, sys.stderr):
        return NotImplemented
    raise PicklingError(f"cannot pickle '{type(file).__name__}' object: an open file")


def _reduce_struct(obj: Any) -> Any:
    return struct.Struct, (obj.format,)


_BY_TYPE: dict[type, Callable[[Any], Any]] = {
    FunctionType: _reduce_function,
    CellType: _reduce_cell,
    functools._lru_cache_wrapper: _reduce_lru_cache,
    type(functools.cmp_to_key(len)): _reduce_key_function,
    typing.TypeVar: _reduce_type_parameter,
    typing.ParamSpec: _reduce_type_parameter,
    typing.TypeVarTuple: _reduce_type_parameter,
    typing.ParamSpecArgs: _reduce_args,
    typing.ParamSpecKwargs: _reduce_kwargs,
    typing._GenericAlias: _reduce_generic_alias,  # type: ignore[attr-defined]
    ContextVar: _reduce_context_variable,
    io.TextIOWrapper: _reduce_file,
    struct.Struct: _reduce_struct,
}
if sys.version_info < (3, 12):
    _BY_TYPE[functools.cached_property] = _reduce_cached_property
if sys.version_info >= (3, 12):
    _BY_TYPE[typing.TypeAliasType] = _reduce_type_alias

_BY_BASE: dict[type, Callable[[Any], Any]] = {
    enum.Enum: _reduce_member,
    BaseException: _reduce_exception,
    property: _reduce_property,
    classmethod: _reduce_classmethod,
    staticmethod: _reduce_staticmethod,
}
if sys.version_info < (3, 12):
    _BY_BASE[functools.cached_property] = _reduce_cached_property
