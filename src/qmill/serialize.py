"""Objects to bytes and back: pickle first, cloudpickle for what it refuses, `__main__` by value.

A packed object begins with pickle's own first byte (0x80) where plain pickle was enough, else with
a flag byte:

    0x80... | name                             a pickle, and the type's name unless it is built in
    flags | pickle                             DEFINITIONS: it refers to definitions by key
    flags | n | n lengths | pickle | buffers   BUFFERS: large buffers out of band (pickle 5)

Plain pickle refers to classes and functions by name, also to those of `__main__`, which is another
module in another process. So whatever pickle says about `__main__` is packed again, with care:

- a class or function of `__main__` becomes a reference (key, qualified name) to its *definition*;
- an `Exports` remembers which definitions a channel has carried; each crosses once, by value;
- the reader takes its own original if it has one (it sent it, or its `__main__` has that name),
  else asks its channel for the definition and builds it, once.

So classes keep their identity on the way back, and a message costs a reference instead of 200 us.
Without a channel everything that is not importable goes by value: whole and anew to a process that
has nothing of this program yet, by reference with the definition beside it to one that may have.

Source: PEP 574 (pickle 5 and out-of-band buffers); the cloudpickle project (functions by value).
"""

from __future__ import annotations

import io
import struct
import sys
import threading
from types import FunctionType
from weakref import WeakKeyDictionary, WeakValueDictionary

from . import _pickling as pickle
from ._explain import describe, explain, let_interrupt_through, traceback_text
from .errors import LocalQueueSent, SerializationError

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Protocol

    class Imports(Protocol):
        """Where a reader finds definitions."""

        def fetch(self, key: bytes) -> bytes:
            """Return a packed definition, or raise KeyError."""

        def keep(self, key: bytes, built: Any) -> None:
            """Keep a definition alive that has been built, so that it is fetched once."""


OUT_OF_BAND_BYTES = 1 << 14
"""Buffers of this size and more travel beside the pickle."""

_DEFINITIONS = 1
_BUFFERS = 2
_MAINS = ("__main__", "__mp_main__")
_ALIGNMENT = 64
_U32 = struct.Struct("!I")

Definition = tuple[bytes, str, bool]
"""A definition's key, its qualified name, and whether it is a class."""


class InlineExports:
    """Definitions that travel inside the object that refers to them: for what is sent once."""

    def add(self, obj: Any) -> tuple[bytes, str, bool, bytes]:
        """Refer to a class or function, its definition included."""
        return *_identify(obj), _by_value(obj)


class Exports:
    """What a sender has defined on one channel.

    `pending` are the definitions that packed objects refer to and that the channel does not have
    yet: (key, packed definition). Whoever sends them calls `sent`. `done` are those it has.
    """

    def __init__(self) -> None:
        self.pending: dict[bytes, bytes] = {}
        self.done: set[bytes] = set()

    def add(self, obj: Any) -> Definition:
        """Refer to a class or function, defining it if this channel has not seen it."""
        definition = _identify(obj)
        key = definition[0]
        if key not in self.done and key not in self.pending:
            self.pending[key] = _by_value(obj)
        return definition

    def sent(self, keys: list[bytes]) -> None:
        """Tell that these definitions have reached the channel."""
        self.done.update(keys)
        for key in keys:
            self.pending.pop(key, None)


class _Destination(threading.local):
    """Where the objects go that this thread packs; an engine sets it while it packs a job.

    Attributes:
        shares: What is told of the shared values that they refer to (`qmill.shared`); None: they
            go where there are no such values.
        is_remote: Whether that may be another machine.
    """

    shares: Any = None
    is_remote = False


destination = _Destination()


def check_stays_here() -> None:
    """Raise LocalQueueSent if what is being packed, a queue, would go to another machine."""
    if destination.is_remote:
        raise LocalQueueSent(
            "a queue of qmill lives on one machine, and a job of a cluster may run on another: "
            "return what the job has to tell (as_completed gives each result as it comes), give "
            "large inputs as qmill.shared(value), and let jobs that must talk to each other use a "
            "service that all machines reach, such as Redis or distributed.Queue"
        )


# -- packing -----------------------------------------------------------------------------------


def dumps(obj: Any, exports: Exports | InlineExports | None = None) -> bytes | bytearray:
    """Pack an object.

    Args:
        obj: The object.
        exports: Where definitions go. None packs what is not importable by value and anew, as fits
            a process that has nothing of this program yet.

    Raises:
        SerializationError: Neither pickle nor cloudpickle takes it. Names the part and the path.
    """
    parts = dump_parts(obj, exports)
    return bytes(parts[0]) if len(parts) == 1 else bytearray().join(parts)


def dump_parts(
    obj: Any, exports: Exports | InlineExports | None = None
) -> list[bytes | memoryview]:
    """Pack an object without copying its large buffers.

    Returns:
        What `dumps` returns, in pieces that are to follow one another; they are the object's own
        memory, so they must be written before it may change.

    Raises:
        SerializationError: As `dumps`.
    """
    buffers: list[memoryview] = []
    keep = _collector(buffers)
    flags = 0
    try:
        data = pickle.dumps(obj, 5, buffer_callback=keep)
    except SerializationError:
        raise
    except BaseException as error:
        let_interrupt_through(error)
        data = b"__main__"  # refused: the careful way may do it
    if b"__main__" in data or b"__mp_main__" in data:
        del buffers[:]
        data = _dump_carefully(obj, exports, keep)
        if exports is not None:
            flags |= _DEFINITIONS
    cls = type(obj)
    if cls.__module__ != "builtins":  # for the error message of a reader that cannot rebuild it
        data += f"{cls.__module__}.{cls.__qualname__}".encode()
    if buffers:
        return _lay_out(flags | _BUFFERS, data, buffers)
    return [bytes((flags,)) + data if flags else data]


def _collector(buffers: list[memoryview]) -> Callable[[pickle.PickleBuffer], bool]:
    def in_band(buffer: pickle.PickleBuffer) -> bool:
        with memoryview(buffer) as view:
            if view.nbytes < OUT_OF_BAND_BYTES:
                return True
        buffers.append(buffer.raw())
        return False

    return in_band


def _dump_carefully(
    obj: Any,
    exports: Exports | InlineExports | None,
    keep: Callable[[pickle.PickleBuffer], bool] | None,
) -> bytes:
    file = io.BytesIO()
    try:
        _careful_pickler()(file, exports, keep).dump(obj)
    except SerializationError:
        raise
    except BaseException as error:
        let_interrupt_through(error)
        raise explain(obj, error) from error
    return file.getvalue()


def _careful_pickler() -> Any:
    """Make the pickler's class on first use: cloudpickle takes a while to import."""
    global _careful_pickler_class
    if _careful_pickler_class is None:
        import cloudpickle

        from . import _reducers

        class CarefulPickler(cloudpickle.Pickler):  # type: ignore[misc]
            def __init__(
                self, file: Any, exports: Exports | InlineExports | None, keep: Any
            ) -> None:
                super().__init__(file, protocol=5, buffer_callback=keep)
                self._exports = exports

            def reducer_override(self, obj: Any) -> Any:
                if self._exports is not None and _is_definition(obj):
                    return _defined, self._exports.add(obj)
                reduced = _reducers.reduce(obj)
                if reduced is NotImplemented and isinstance(obj, (type, FunctionType)):
                    reduced = _reducers.complete(obj, super().reducer_override(obj))
                return reduced

        _careful_pickler_class = CarefulPickler
    return _careful_pickler_class


_careful_pickler_class: Any = None


def _lay_out(flags: int, data: bytes, buffers: list[memoryview]) -> list[bytes | memoryview]:
    """Put a head before a pickle and its buffers, and padding between: each is aligned."""
    sizes = [len(data), *(buffer.nbytes for buffer in buffers)]
    head = bytes((flags,)) + _U32.pack(len(sizes)) + struct.pack(f"!{len(sizes)}Q", *sizes)
    parts: list[bytes | memoryview] = [head]
    end = len(head)
    bodies: list[bytes | memoryview] = [data, *buffers]
    for offset, size, part in zip(_offsets(end, sizes), sizes, bodies, strict=True):
        if offset > end:
            parts.append(bytes(offset - end))
        parts.append(part)
        end = offset + size
    return parts


def _offsets(start: int, sizes: list[int]) -> Iterator[int]:
    for size in sizes:
        start = -(-start // _ALIGNMENT) * _ALIGNMENT
        yield start
        start += size


# -- unpacking ---------------------------------------------------------------------------------


def loads(data: bytes | bytearray | memoryview, imports: Imports | None = None) -> Any:
    """Rebuild an object.

    Args:
        data: What `dumps` returned. Writable memory becomes part of the object: large buffers are
            not copied.
        imports: Where definitions are found that this process has not.

    Raises:
        SerializationError: It cannot be rebuilt here. Names its type.
    """
    flags = data[0]
    try:
        if flags == 0x80:
            return pickle.loads(data) if _globals is None else _unpickle(data)
        view = memoryview(data)
        buffers: list[memoryview] = []
        if flags & _BUFFERS:
            view, *buffers = _split(view)
        else:
            view = view[1:]
        if not flags & _DEFINITIONS:
            return _unpickle(view, buffers)
        unpickler = _DefinitionUnpickler(io.BytesIO(view), buffers=buffers)
        unpickler.imports = imports
        return unpickler.load()
    except SerializationError:
        raise
    except BaseException as error:  # an object must not end its reader
        let_interrupt_through(error)
        raise not_rebuilt(_type_name(data), error) from error


def writable(data: bytes | bytearray | memoryview) -> bytes | bytearray | memoryview:
    """Return what `dumps` returned in memory that arrays can be part of, as they may be changed."""
    if data[0] & _BUFFERS and memoryview(data).readonly:
        return bytearray(data)
    return data


def not_rebuilt(name: str, error: BaseException) -> SerializationError:
    """Return what to raise for an object of a type of this name."""
    return SerializationError(
        f"an object of type {name} could not be rebuilt in this process: "
        f"{type(error).__name__}: {describe(error, str)}"
    )


def _split(view: memoryview) -> list[memoryview]:
    (number,) = _U32.unpack_from(view, 1)
    head = 1 + _U32.size + 8 * number
    sizes = list(struct.unpack_from(f"!{number}Q", view, 1 + _U32.size))
    return [
        view[offset : offset + size]
        for offset, size in zip(_offsets(head, sizes), sizes, strict=True)
    ]


class _DefinitionUnpickler(pickle.Unpickler):
    """Unpickles with references to definitions; `imports` is set before `load`."""

    imports: Imports | None = None

    def find_class(self, module: str, name: str) -> Any:
        if name == "_defined" and module == __name__:
            return self._defined
        if _globals is not None and module == "cloudpickle.cloudpickle" and name in _SHARING:
            return _SHARING[name]
        return super().find_class(module, name)

    def _defined(self, key: bytes, name: str, is_class: bool, packed: bytes | None = None) -> Any:
        return _resolve((key, name, is_class), self.imports, packed)


def _unpickle(data: bytes | bytearray | memoryview, buffers: list[memoryview] | None = None) -> Any:
    """Rebuild a pickle without references to definitions."""
    if _globals is None or not _find_cloudpickle(data):
        return pickle.loads(data, buffers=buffers)
    return _DefinitionUnpickler(io.BytesIO(data), buffers=buffers).load()


def _type_name(data: bytes | bytearray | memoryview) -> str:
    """Name the object's type, or if that is built in, the first class inside."""
    import pickletools

    strings: list[str] = []
    inside = ""
    try:
        view = memoryview(data)
        if view[0] != 0x80:
            view = _split(view)[0] if view[0] & _BUFFERS else view[1:]
        for opcode, argument, position in pickletools.genops(bytes(view)):
            if opcode.name == "STACK_GLOBAL" and not inside:
                inside = ".".join(strings[-2:])
            if opcode.name == "STOP" and position is not None:
                return bytes(view[position + 1 :]).decode() or inside or "unknown"
            if isinstance(argument, str):
                strings.append(argument)
    except Exception:
        pass
    return "unknown (the data is damaged)"


# -- definitions -------------------------------------------------------------------------------

_keys: WeakKeyDictionary[Any, Definition] = WeakKeyDictionary()
_known: WeakValueDictionary[bytes, Any] = WeakValueDictionary()


def _defined(key: bytes, name: str, is_class: bool, packed: bytes | None = None) -> Any:
    """Stand in a pickle for a definition; the unpickler has its own method in its place."""
    return _resolve((key, name, is_class), None, packed)


def know_namespace(namespace: dict[str, Any]) -> None:
    """Have a program's global names found here that is no module, such as a console's."""
    known = any(namespace is one for one in _namespaces)
    if not known and namespace.get("__name__", "__main__") not in sys.modules:
        _namespaces.append(namespace)


_namespaces: list[dict[str, Any]] = []


def _is_main(module: object) -> bool:
    """Whether a module of this name is the program itself, which others cannot import."""
    return module in _MAINS or module not in sys.modules


def _is_definition(obj: Any) -> bool:
    """Whether to refer to this object by key: a class of `__main__`, or a function there."""
    if isinstance(obj, type):
        return _is_main(obj.__module__)
    if type(obj) is not FunctionType:
        return False
    return obj in _keys or (_is_main(obj.__module__) and _find_in_mains(obj.__qualname__) is obj)


def _identify(obj: Any) -> Definition:
    found = _keys.get(obj)
    if found is None:
        from uuid import uuid4

        found = uuid4().bytes, obj.__qualname__, isinstance(obj, type)
        _remember(found, obj)
    return found


def _remember(definition: Definition, obj: Any) -> None:
    _keys[obj] = definition
    _known[definition[0]] = obj


def _by_value(obj: Any) -> bytes:
    return _dump_carefully(obj, None, None)


def _resolve(definition: Definition, imports: Imports | None, packed: bytes | None) -> Any:
    """Find a definition: the original, this program's own of that name, or one built by value."""
    key, name, is_class = definition
    if (found := _known.get(key)) is not None:
        return found
    if isinstance(found := _find_in_mains(name), type if is_class else FunctionType):
        return found
    if packed is None:
        try:
            if imports is None:
                raise KeyError(key)
            packed = imports.fetch(key)
        except KeyError:
            raise SerializationError(f"__main__.{name} is not defined in this process") from None
    built = _unpickle(packed)
    _remember(definition, built)
    if imports is not None:
        imports.keep(key, built)
    return built


def _find_in_mains(qualname: str) -> Any:
    """Return this program's own class or function of that name, or None."""
    first, *rest = qualname.split(".")
    mains = [vars(sys.modules[main]) for main in _MAINS if main in sys.modules]
    for names in [*mains, *_namespaces]:
        found = names.get(first)
        for part in rest:
            found = getattr(found, part, None)
        # A fork server's __main__ holds other modules' functions: those are not of that name.
        if isinstance(found, (type, FunctionType)) and _is_main(found.__module__):
            return found
    return None


# -- plain instances ---------------------------------------------------------------------------
#
# Of a class that changes nothing in how it is pickled, an instance is the class and the attributes.
# The native codec (`_core/_codec.c`) writes such ones by itself.


class _Plain:
    pass


_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement


def plan_of(cls: type) -> tuple[bytes, dict[str, Any] | None, str, bytes | None] | None:
    """Tell how a class is named to a reader, if its instances are no more than their attributes.

    Returns:
        Its name for `class_of`; the namespace and the name there under which it must be found for
        that to be right; of a class of `__main__` the key of its definition. Or None.
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
    ):
        return None
    if _is_main(module):
        key = _identify(cls)[0]
        packed, namespace = b"K" + key + name.encode(), None
    else:
        key, packed, namespace = None, f"M{module}\n{name}".encode(), vars(sys.modules[module])
    return (packed, namespace, name, key) if len(packed) < 256 else None


def class_of(packed: bytes, imports: Imports | None) -> tuple[type, dict[str, Any] | None, str]:
    """Find the class of a name that `plan_of` gave.

    Returns:
        The class, and where it is found under which name as long as it is the right one.
    """
    if packed[:1] == b"K":
        name = packed[17:].decode()
        found = _resolve((packed[1:17], name, True), imports, None)
        spaces = [vars(sys.modules[main]) for main in _MAINS if main in sys.modules]
        namespaces = [space for space in spaces if space.get(name) is found]
        namespace = namespaces[0] if namespaces else None
    else:
        module, _, name = packed[1:].decode().partition("\n")
        __import__(module)
        found = getattr(sys.modules[module], name)
        namespace = vars(sys.modules[module])
    if plan_of(found) is None:
        raise TypeError(f"{found!r} here defines how it is unpickled, and there it did not")
    return found, namespace, name


# -- functions that share their globals --------------------------------------------------------
#
# cloudpickle gives each function that it rebuilds globals of its own. In a worker that keeps its
# functions that would be wrong: what an initializer binds, the jobs' functions are to see. So there
# all functions of one module get one dict, and a name keeps what the worker's code has bound it to.

_globals: dict[str, dict[str, Any]] | None = None  # by module's name; None: not shared
_find_cloudpickle: Any = None  # in a pickle, once they are shared
_from_sender: dict[str, dict[str, Any]] = {}  # what was last put there for the sender


def share_globals() -> None:
    """Have all functions that are rebuilt in this process from now on share their globals."""
    global _globals, _find_cloudpickle
    import re  # here: a queue does without

    _find_cloudpickle = re.compile(rb"cloudpickle\.cloudpickle").search
    _globals = {}


def _make_function(code: Any, own: dict[str, Any], *rest: Any) -> Any:
    """Make a function as cloudpickle does, with the globals of its module."""
    from cloudpickle import cloudpickle

    assert _globals is not None
    shared = _globals.setdefault(own.get("__name__", "__main__"), own)
    return cloudpickle._make_function(code, shared, *rest)


def _set_function_state(function: FunctionType, state: Any) -> None:
    """Fill a function as cloudpickle does; globals that were bound here stay as they are."""
    from cloudpickle import cloudpickle

    attributes, slots = state
    shared = function.__globals__
    sent = _from_sender.setdefault(shared.get("__name__", "__main__"), {})
    for name, value in slots["__globals__"].items():
        if name not in shared or (name in sent and shared[name] is sent[name]):
            shared[name] = sent[name] = value
    cloudpickle._function_setstate(function, (attributes, {**slots, "__globals__": {}}))


_SHARING: dict[str, Any] = {
    "_make_function": _make_function,
    "_function_setstate": _set_function_state,
}


# -- errors that cross -------------------------------------------------------------------------


class RemoteTraceback(Exception):
    """The traceback of another process, as the cause of the exception that it raised there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n\n{self.text}"


def dump_error(error: BaseException) -> bytes:
    """Pack an exception with its traceback's text; never fails."""
    text = traceback_text(error)
    described = f"{type(error).__module__}.{type(error).__qualname__}: {describe(error, str)}"
    _drop_tracebacks(error)
    try:
        packed: bytes | bytearray | None = dumps(error, InlineExports())
    except BaseException as why:
        let_interrupt_through(why)
        packed = None
    return pickle.dumps((packed, described, text), 5)


def _drop_tracebacks(error: BaseException) -> None:
    """Take away what pickle leaves behind, but not in a program that has told it otherwise.

    tblib, which comes with distributed, packs each frame: that of deep recursions fails.
    """
    seen, left = set(), [error]
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        # By the base class, since an exception's own class may have attributes do anything.
        BaseException.with_traceback(each, None)
        links: tuple[Any, ...] = BaseException.__cause__, BaseException.__context__
        for link in links:
            if (other := link.__get__(each)) is not None:
                left.append(other)
        if issubclass(type(each), BaseExceptionGroup):
            left += BaseExceptionGroup.exceptions.__get__(each)


def load_error(data: bytes | bytearray | memoryview) -> BaseException:
    """Rebuild an exception, its remote traceback as its cause.

    One that cannot be rebuilt here comes as a `SerializationError` that tells its type and text.
    """
    packed, described, text = pickle.loads(data)
    error: BaseException
    try:
        if packed is None:
            raise SerializationError("it could not be pickled")
        error = loads(packed)
        if not isinstance(error, BaseException):
            raise SerializationError(f"it was rebuilt as {type(error).__name__}")
    except BaseException as why:
        let_interrupt_through(why)
        error = SerializationError(
            f"an exception was raised that cannot be rebuilt in this process ({why}): {described}"
        )
    # Not by an assignment, which an exception may refuse.
    BaseException.__setattr__(error, "__cause__", RemoteTraceback(text))
    return error
