"""Reducers for objects of a script that cannot be imported, where cloudpickle is not enough.

cloudpickle refuses functions whose cache has a lock or weak references (`lru_cache`,
`singledispatch`), sends sentinels by a name that the reader does not have, and separates closures
that share a variable. Its classes lose slots and members, see `_class_values`.

`serialize` calls `reduce` before cloudpickle, and `complete` after it. `serialize` also decides
whether the reader imports the script instead. An object that may contain a reference to itself is
rebuilt in two steps: it is made, then filled.
"""

from __future__ import annotations

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
    CellType,
    CodeType,
    FunctionType,
    MemberDescriptorType,
    MethodDescriptorType,
    WrapperDescriptorType,
)
from typing import Any
from weakref import WeakKeyDictionary

from ..system.interrupts import let_interrupt_through
from ..system.pickling import PicklingError
from .class_values import builtin_base, reduce_class, reduce_member
from .main_module import MAINS
from .tracked import is_importable, keep, tracked, tracker_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def reduce(obj: Any) -> Any:
    """Reduce an object, if this module has a reducer for its type.

    Returns:
        A reduce value, as of `pickle.Pickler.reducer_override`; NotImplemented if cloudpickle or
        pickle is to reduce the object.

    Raises:
        PicklingError: The object must not be sent by value.
    """
    cls = type(obj)
    try:
        reducer = _reducers[cls]
    except KeyError:
        reducer = _reducers[cls] = _choose(cls)
    except Exception as error:  # a metaclass may have a strange __hash__
        let_interrupt_through(error)
        reducer = _choose(cls)
    return NotImplemented if reducer is None else reducer(obj)


_reducers: WeakKeyDictionary[type, Callable[[Any], Any] | None] = WeakKeyDictionary()


def _choose(cls: Any) -> Callable[[Any], Any] | None:
    """Choose the reducer for instances of a type; None if this module has none."""
    if (reducer := _BY_TYPE.get(cls)) is not None:
        return reducer
    if issubclass(cls, type):
        return reduce_class
    if cls in copyreg.dispatch_table:
        return None
    for base, reducer in _BY_BASE.items():
        if base in cls.__mro__[1:] and cls.__reduce_ex__ is base.__reduce_ex__:
            return reducer if isinstance(cls.__reduce__, _IN_C) else None
    is_in_c = isinstance(cls.__reduce_ex__, _IN_C) and isinstance(cls.__reduce__, _IN_C)
    return None if is_in_c else _reduce_by_its_method


_IN_C = (MethodDescriptorType, WrapperDescriptorType)


# -- functions ------------------------------------------------------------------------------------


def complete(obj: Any, reduced: Any) -> Any:
    """Add the parts of a function that are missing in cloudpickle's reduce value.

    These are: the cells of the closure, so that closures that share a variable go on sharing it;
    globals that the body of a class inside the function reads; type parameters.

    Args:
        obj: The object that was reduced.
        reduced: The reduce value. It is returned unchanged if the object is not a function.
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
    """Return the names that class bodies inside a function read, and that may be globals."""
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
    if function.__code__ is not _DISPATCHER_CODE or is_importable(function):
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


_DISPATCHER_CODE = functools.singledispatch(_reduce_function).__code__  # type: ignore[attr-defined]


def _fill_dispatcher(function: Any, state: tuple[dict[type, Any], dict[str, Any]]) -> None:
    implementations, attributes = state
    for cls, implementation in implementations.items():
        function.register(cls, implementation)
    vars(function).update(attributes)


def _reduce_dispatching_method(obj: Any) -> Any:
    """Reduce a `singledispatchmethod` without the cache that it has in some Python versions."""
    attributes = {name: value for name, value in vars(obj).items() if name != "_method_cache"}
    return _make_dispatching_method, (type(obj), obj.func), attributes


def _make_dispatching_method(cls: Any, function: Any) -> Any:
    made = cls.__new__(cls)
    functools.singledispatchmethod.__init__(made, function)
    return made


def _reduce_lru_cache(function: Any) -> Any:
    if is_importable(function):
        return NotImplemented
    parameters = function.cache_parameters()
    args = function.__wrapped__, parameters["maxsize"], parameters["typed"]
    made = ("cache_parameters", "__wrapped__")
    attributes = {name: value for name, value in vars(function).items() if name not in made}
    return _make_lru_cache, args, attributes


def _make_lru_cache(function: Any, maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


def _reduce_cached_property(obj: Any) -> Any:
    """Reduce a `cached_property` of Python 3.11 without its lock."""
    attributes = {name: value for name, value in vars(obj).items() if name != "lock"}
    return _make_cached_property, (type(obj),), attributes


def _make_cached_property(cls: Any) -> Any:
    made = cls.__new__(cls)
    made.lock = RLock()
    return made


def _reduce_key_function(obj: Any) -> Any:
    """Reduce a result of `functools.cmp_to_key`; only the garbage collector shows its function."""
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


# -- type parameters and aliases ------------------------------------------------------------------


def _reduce_type_parameter(parameter: Any) -> Any:
    if is_importable(parameter, parameter.__name__):
        return NotImplemented
    if getattr(parameter, "__infer_variance__", False):
        return _reduce_declared_parameter(parameter)
    settings = {
        keyword: value
        for keyword in ("bound", "covariant", "contravariant")
        if (value := getattr(parameter, f"__{keyword}__", None))
    }
    if _has_default(parameter):
        settings["default"] = parameter.__default__
    constraints = getattr(parameter, "__constraints__", ())
    args = type(parameter), parameter.__name__, constraints, settings, parameter.__module__
    return tracked(parameter, _make_type_parameter, args, _added_to(parameter), _set_attributes)


def _has_default(parameter: Any) -> bool:
    return sys.version_info >= (3, 13) and parameter.has_default()


def _added_to(parameter: Any) -> dict[str, Any]:
    """Return the attributes that typing_extensions adds to type parameters in Python 3.12."""
    names = ("__default__", "has_default") if sys.version_info < (3, 13) else ()
    return {name: getattr(parameter, name) for name in names if hasattr(parameter, name)}


def _set_attributes(parameter: Any, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        setattr(parameter, name, value)


def _make_type_parameter(
    kind: Any, name: str, constraints: tuple[Any, ...], settings: dict[str, Any], module: str
) -> Any:
    parameter = kind(name, *constraints, **settings)
    parameter.__module__ = module
    return parameter


def _reduce_declared_parameter(parameter: Any) -> Any:
    """Reduce the `T` of `class A[T: A]`, whose bound may be a string or the class `A` itself."""
    names: dict[str, Any] = {}
    values: dict[str, Any] = {}
    declaration = _declare(parameter, "_qmill", values)
    args = declaration, parameter.__module__, names
    state = names, values, _added_to(parameter)
    return tracked(parameter, _make_declared_parameter, args, state, _fill_declared)


def _make_declared_parameter(declaration: str, module: str, names: dict[str, Any]) -> Any:
    parameter = _run_type_statement(f"_[{declaration}]", module, names).__type_params__[0]
    parameter.__module__ = module
    return parameter


def _run_type_statement(declared: str, module: str, names: dict[str, Any]) -> Any:
    """Make an alias by a `type` statement, so that its parts are evaluated late, in `names`."""
    names["__name__"] = module
    made: dict[str, Any] = {}
    exec(f"type {declared} = _qmill_value", names, made)
    (alias,) = made.values()
    return alias


def _fill_declared(
    declared: Any, state: tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
) -> None:
    names, values, attributes = state
    names.update(values)
    _set_attributes(declared, attributes)


def _reduce_args(obj: Any) -> Any:
    return getattr, (obj.__origin__, "args")


def _reduce_kwargs(obj: Any) -> Any:
    return getattr, (obj.__origin__, "kwargs")


def _reduce_generic_alias(alias: Any) -> Any:
    """Reduce `A[int]` so that rebuilding it does not use `A`, which may not be filled yet."""
    origin = alias.__origin__
    if not isinstance(origin, type) or is_importable(origin):
        return NotImplemented
    return copyreg.__newobj__, (type(alias),), vars(alias)  # type: ignore[attr-defined]


def _reduce_type_alias(alias: Any) -> Any:
    if is_importable(alias, alias.__name__):
        return NotImplemented
    names: dict[str, Any] = {}  # the namespace in which the alias is later evaluated
    values = {"_qmill_value": alias.__value__}
    declarations = []
    for number, parameter in enumerate(alias.__type_params__):
        declarations.append(_declare(parameter, f"_qmill_{number}", values))
    source = f"[{', '.join(declarations)}]" if declarations else ""
    keys = [tracker_id(parameter) for parameter in alias.__type_params__]
    args = alias.__name__, alias.__module__, source, keys, names
    return tracked(alias, _make_type_alias, args, (names, values, {}), _fill_declared)


def _declare(parameter: Any, prefix: str, values: dict[str, Any]) -> str:
    """Write a type parameter's declaration; put the objects it refers to into `values`, by name."""
    stars = {"TypeVarTuple": "*", "ParamSpec": "**"}.get(type(parameter).__name__, "")
    declaration: str = stars + parameter.__name__
    if constraints := getattr(parameter, "__constraints__", ()):
        named = {f"{prefix}_{number}": one for number, one in enumerate(constraints)}
        values.update(named)
        declaration += f": ({', '.join(named)})"
    elif not stars and parameter.__bound__ is not None:
        values[f"{prefix}_bound"] = parameter.__bound__
        declaration += f": {prefix}_bound"
    if _has_default(parameter):
        values[f"{prefix}_default"] = parameter.__default__
        declaration += f" = {prefix}_default"
    return declaration


def _make_type_alias(
    name: str, module: str, declarations: str, keys: list[str], names: dict[str, Any]
) -> Any:
    alias = _run_type_statement(name + declarations, module, names)
    for key, parameter in zip(keys, alias.__type_params__, strict=True):
        keep(key, parameter)
    return alias


# -- other objects --------------------------------------------------------------------------------


def _reduce_by_its_method(obj: Any) -> Any:
    """Reduce an object by its own `__reduce_ex__`; if that gives a name of the script, by value."""
    reduced = obj.__reduce_ex__(5)
    if not isinstance(reduced, str) or is_importable(obj, reduced):
        return reduced
    make, args, state = reduce_sentinel(obj)
    return tracked(obj, make, args, state, _set_state)


def reduce_sentinel(obj: Any) -> tuple[Any, tuple[Any, ...], Any]:
    """Reduce an object whose `__reduce__` is a name to its class and state.

    Returns:
        A function that makes the object, the function's arguments, and the object's
        `__getstate__()`.
    """
    cls = type(obj)
    if hasattr(obj, "__getnewargs_ex__"):
        args, kwargs = obj.__getnewargs_ex__()
        make = copyreg.__newobj_ex__  # type: ignore[attr-defined]
        return make, (cls, args, kwargs), obj.__getstate__()
    args = obj.__getnewargs__() if hasattr(obj, "__getnewargs__") else ()
    return copyreg.__newobj__, (cls, *args), obj.__getstate__()  # type: ignore[attr-defined]


def _set_state(obj: Any, state: Any) -> None:
    """Set a state as of `object.__getstate__`, without calling the class's `__setattr__`."""
    if hasattr(obj, "__setstate__"):
        if state is not None:
            obj.__setstate__(state)
        return
    attributes, slots = state if isinstance(state, tuple) else (state, None)
    if attributes:
        obj.__dict__.update(attributes)
    for name, value in (slots or {}).items():
        object.__setattr__(obj, name, value)


def _reduce_exception(error: Any) -> Any:
    """Reduce an exception of the script so that rebuilding it does not call its `__init__`.

    Pickle would call the class with `args`, the arguments of `BaseException.__init__`, which fails
    if the class's `__init__` has other parameters.
    """
    cls = type(error)
    if is_importable(cls) or not isinstance(cls.__init__, FunctionType):
        return NotImplemented
    base = builtin_base(cls)
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
        if isinstance(getattr(builtin_base(type(error)), name, None), MemberDescriptorType):
            slots[name] = value  # such as the `name` and `path` of an ImportError
        else:
            error.__dict__[name] = value
    for name, value in slots.items():
        object.__setattr__(error, name, value)


def _reduce_context_variable(variable: Any) -> Any:
    if (place := _find_in_modules(variable)) is not None:
        return _get_from_module, place
    default: tuple[Any, ...] = ()
    try:
        default = (Context().run(variable.get),)
    except LookupError:
        pass
    return tracked(variable, _make_context_variable, (variable.name, default))


def _make_context_variable(name: str, default: tuple[Any, ...]) -> Any:
    return ContextVar(name, default=default[0]) if default else ContextVar(name)


def _find_in_modules(obj: Any) -> tuple[str, str] | None:
    """Search all modules but the script for an object; return the module's name and its name."""
    for module_name, module in list(sys.modules.items()):
        if module_name not in MAINS and module is not None:
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
    raise PicklingError(
        f"cannot pickle {file!r}: an open file belongs to the process that opened it"
    )


def _reduce_struct(obj: Any) -> Any:
    return struct.Struct, (obj.format,)


_BY_TYPE: dict[type, Callable[[Any], Any]] = {
    FunctionType: _reduce_function,
    CellType: _reduce_cell,
    functools._lru_cache_wrapper: _reduce_lru_cache,
    functools.singledispatchmethod: _reduce_dispatching_method,
    type(functools.cmp_to_key(max)): _reduce_key_function,
    typing._GenericAlias: _reduce_generic_alias,  # type: ignore[attr-defined]
    ContextVar: _reduce_context_variable,
    io.TextIOWrapper: _reduce_file,
    struct.Struct: _reduce_struct,
}
if sys.version_info < (3, 12):
    _BY_TYPE[functools.cached_property] = _reduce_cached_property
if sys.version_info >= (3, 14):  # without the namespaces in which it may be evaluated
    _BY_TYPE[typing.ForwardRef] = lambda ref: (typing.ForwardRef, (ref.__forward_arg__,))
if sys.version_info >= (3, 12):  # here these types are implemented in C
    _BY_TYPE |= {
        typing.TypeVar: _reduce_type_parameter,
        typing.ParamSpec: _reduce_type_parameter,
        typing.TypeVarTuple: _reduce_type_parameter,
        typing.ParamSpecArgs: _reduce_args,
        typing.ParamSpecKwargs: _reduce_kwargs,
        typing.TypeAliasType: _reduce_type_alias,
    }

_BY_BASE: dict[type, Callable[[Any], Any]] = {
    enum.Enum: reduce_member,
    BaseException: _reduce_exception,
    property: _reduce_property,
    classmethod: _reduce_classmethod,
    staticmethod: _reduce_staticmethod,
    functools.singledispatchmethod: _reduce_dispatching_method,
}
if sys.version_info < (3, 12):
    _BY_BASE[functools.cached_property] = _reduce_cached_property
