"""Functions that go by value, and the globals that they share in a process that runs jobs."""

from __future__ import annotations

import sys
from types import CodeType, FunctionType

from ..errors import SerializationError
from . import main_module
from .definitions import identify

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any


# -- functions and their globals ---------------------------------------------------------------
#
# cloudpickle gives each function that it rebuilds globals of its own. That would be wrong in a
# worker: the functions of jobs must see the global names that an initializer binds. So in a worker
# all functions of one module share one dict, and a name that the worker's code has bound keeps
# its value.

shared_globals: dict[str, dict[str, Any]] | None = None  # by module's name; None: not shared
find_cloudpickle: Any = None  # searches a pickle; set once globals are shared
_from_sender: dict[str, dict[str, Any]] = {}  # the values that the sender last bound, by label


def share_globals(*, is_forked: bool) -> None:
    """Let all functions that this process rebuilds from now on share globals, one dict a module.

    Args:
        is_forked: Whether this process has inherited its parent's `__main__`.
    """
    global shared_globals, find_cloudpickle
    if find_cloudpickle is None:
        import re  # imported here, since a process that only uses queues does not need it

        find_cloudpickle = re.compile(rb"cloudpickle\.cloudpickle").search
    shared_globals = {}
    if is_forked:
        _from_sender["__main__"] = dict(vars(sys.modules["__main__"]))


def with_shared_globals(call: Callable[[], Any]) -> Any:
    """Call a function. Functions that are rebuilt during the call share globals by module."""
    global shared_globals
    if shared_globals is not None:
        return call()
    share_globals(is_forked=False)
    try:
        return call()
    finally:
        shared_globals = None


CLASS = "class "
"""The first characters of a class's label."""


def label_of(names: dict[str, Any] | type) -> str:
    """Return the label of a module's globals, for `namespace` in a worker; or that of a class."""
    if isinstance(names, type):
        return CLASS + identify(names)[0].hex()
    name = names.get("__name__")
    return "__main__" if name in main_module.MAINS or not isinstance(name, str) else name


def namespace(label: str) -> dict[str, Any]:
    """Return, in a job worker, the dict of globals that the functions of one module share.

    Raises:
        ImportError: The module is the script, and the script cannot be imported.
    """
    assert shared_globals is not None
    if label != "__main__":
        return shared_globals.setdefault(label, {"__name__": label})
    main_module.import_main()
    return vars(sys.modules["__main__"])


def _sent_to(label: str) -> dict[str, Any]:
    """Return the names of a namespace that came from the sender or from importing its script."""
    sent = _from_sender.setdefault(label, {})
    if label == "__main__":
        for name, value in main_module.take_imported().items():
            sent.setdefault(name, value)
    return sent


def bind(label: str, name: str, value: Any, *, is_first: bool) -> Any:
    """Bind a global name in a job worker for its functions.

    Args:
        label: The label of the namespace.
        name: The name.
        value: The value; `UNBOUND` deletes the name.
        is_first: Whether the sender binds the name here for the first time. Then a value that the
            worker's own code has bound stays, and so does an equal value from an import.

    Returns:
        The object that represents the value here: the value itself, or the import's equal one.
    """
    names = namespace(label)
    before = _sent_to(label)
    if is_first and name in names:
        if name not in before or names[name] is not before[name]:
            return value
        if names[name] is value or _are_equal(names[name], value):
            return names[name]
    if value is UNBOUND:
        names.pop(name, None)
    else:
        names[name] = before[name] = value
    return value


def keep_own(label: str, name: str) -> None:
    """Treat the value of a worker's global name as if the worker's own code had bound it."""
    _sent_to(label).pop(name, None)


def set_attribute(cls: type, name: str, value: Any) -> None:
    """Set or delete an attribute of a class, without calling its metaclass's methods."""
    if value is not UNBOUND:
        type.__setattr__(cls, name, value)
    elif name in vars(cls):
        type.__delattr__(cls, name)


class _Unbound:
    """The type of `UNBOUND`, which stands for the value of a name that is not bound."""

    def __reduce__(self) -> str:
        return "UNBOUND"


UNBOUND = _Unbound()


def _are_equal(one: Any, other: Any) -> bool:
    """Whether two objects have the same content, so that one can replace the other."""
    from .serialize import InlineExports, dumps  # which imports this module

    if type(one) is not type(other):
        return False
    try:
        return dumps(one, InlineExports()) == dumps(other, InlineExports())
    except SerializationError:
        return False


def _make_function(code: Any, own: dict[str, Any], *rest: Any) -> Any:
    """Make a function as cloudpickle does, but with the shared globals of its module."""
    from cloudpickle import cloudpickle

    shared = namespace(label_of(own))
    for name, value in own.items():
        shared.setdefault(name, value)
    return cloudpickle._make_function(code, shared, *rest)


def _set_function_state(function: FunctionType, state: Any) -> None:
    """Set a function's state as cloudpickle does; globals that this worker has bound stay."""
    from cloudpickle import cloudpickle

    attributes, slots = state
    shared = function.__globals__
    sent = _sent_to(label_of(shared))
    for name, value in slots["__globals__"].items():
        if name not in shared or (name in sent and shared[name] is sent[name]):
            shared[name] = sent[name] = value
    cloudpickle._function_setstate(function, (attributes, {**slots, "__globals__": {}}))


SHARING: dict[str, Any] = {
    "_make_function": _make_function,
    "_function_setstate": _set_function_state,
}


def uses_globals_of(function: FunctionType) -> str | None:
    """Return the name of the importable module whose globals a function uses, or None."""
    names = function.__globals__
    module: Any = names.get("__name__")
    if main_module.is_main(module) or vars(sys.modules[module]) is not names:
        return None
    uses = any(name in names for name in global_names(function.__code__))
    return module if uses and main_module.can_import(module) else None


def global_names(code: CodeType) -> Iterable[str]:
    """List the global names that code uses, also those of functions and classes inside it."""
    from cloudpickle import cloudpickle

    from . import reductions

    names = cloudpickle._extract_code_globals(code)
    return [*names, *reductions.names_in_class_bodies(code)]


def settle_globals(function: FunctionType, reduced: Any, apart: bool) -> Any:
    """Omit from a packed function the globals that its reader has or gets in another way."""
    from cloudpickle import cloudpickle

    make, args, *rest = reduced
    if make is not cloudpickle._make_function:
        return reduced
    module = uses_globals_of(function)
    attributes, slots = rest[0]
    if slots["__module__"] in main_module.MAINS:  # the script has another name where it is imported
        slots["__module__"] = args[1]["__name__"] = "__main__"
    if module is None and not apart:
        return reduced
    rest[0] = attributes, {**slots, "__globals__": {}}
    if module is not None:
        return _make_function_of, (args[0], module, args[4]), *rest
    return make, args, *rest


def _make_function_of(code: CodeType, module: str, closure: Any) -> FunctionType:
    """Make a function whose globals are those of a module."""
    from importlib import import_module

    return FunctionType(code, vars(import_module(module)), None, None, closure)


def reduce_code_object(code: CodeType) -> Any:
    """Reduce code as cloudpickle does, but keep its file's path, or its source without a file."""
    from cloudpickle import cloudpickle

    _, args = cloudpickle._code_reduce(code)
    # Checks the type first: under `python -bb`, comparing bytes with a str raises.
    place = [isinstance(arg, str) and arg == "<dynamic-code>" for arg in args].index(True)
    path, lines = main_module.source_of(code.co_filename)
    return _make_code, ((*args[:place], path, *args[place + 1 :]), path, lines)


def _make_code(args: Any, path: str, lines: list[str] | None) -> CodeType:
    """Make a code object, and register its source for tracebacks."""
    if lines is not None:
        import linecache

        linecache.cache.setdefault(path, (sum(map(len, lines)), None, lines, path))
    return CodeType(*args)
