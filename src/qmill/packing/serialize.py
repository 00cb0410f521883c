"""Objects to bytes and back: pickle, else cloudpickle; definitions of `__main__` by value.

A packed object begins with pickle's own first byte (0x80) if plain pickle was enough, else with a
flag byte:

    0x80... | name                             a pickle, and the type's name unless it is built in
    flags | pickle                             DEFINITIONS: the pickle names definitions by key
    flags | n | n lengths | pickle | buffers   BUFFERS: large buffers out of band (pickle 5)

Plain pickle refers to classes and functions by name, also to those of `__main__`. But `__main__` is
another module in another process. So an object whose pickle mentions `__main__` is packed a second
time, by a careful pickler:

- a class or function of `__main__`, or an object that pickles as a name there, becomes a reference
  (key, qualified name) to its *definition*;
- an `Exports` remembers which definitions a channel has carried; each crosses once, by value, or
  not at all where the readers import the script (see `_script`);
- the reader uses its own original if it has one (it sent the definition itself, or its `__main__`
  has that name); else it asks its channel for the definition and builds it, once.

So a class keeps its identity when an instance comes back to the sender, and a message costs a
reference instead of 200 us. Without a channel, each object that cannot be imported goes by value,
complete, each time that it is sent.

A function that goes by value includes the globals that it uses, except those of a module that the
reader can import. For a job worker it includes none: `_environment` sends the globals, once.

Source: PEP 574 (pickle 5 and out-of-band buffers); the cloudpickle project (functions by value).
"""

from __future__ import annotations

import copyreg
import io
import os
import struct
import sys
import threading
from functools import partial
from types import CodeType, FunctionType
from weakref import WeakKeyDictionary, WeakValueDictionary, ref

from ..errors import LocalQueueSent, SerializationError
from ..system import pickling as pickle
from ..system.interrupts import let_interrupt_through
from . import main_module, standard_library
from .explain import describe, explain, traceback_text

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
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


OUT_OF_BAND_BYTES = 1 << 14
"""Buffers of this size and more are sent after the pickle instead of inside it."""

_DEFINITIONS = 1
_BUFFERS = 2
_ALIGNMENT = 64
_U32 = struct.Struct("!I")

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


class InlineExports:
    """Puts each definition inside the object that refers to it: for objects that are sent once."""

    def __init__(self, names: int = Names.INSTEAD, *, apart: bool = False) -> None:
        self._names = names
        self.apart = apart

    def add(self, obj: Any) -> tuple[bytes, str, bool | None, bytes | None]:
        """Return a reference to a class or function that includes its definition."""
        return *_identify(obj), _body(obj, self._names, self.apart)


class Exports:
    """Definitions that a sender has made on one channel.

    `pending` maps the key of each definition that packed objects refer to, and that the channel
    does not have yet, to the packed definition. The caller sends these, then calls `sent`. `done`
    holds the keys of the definitions that the channel has.

    Args:
        names: How the channel's readers get the names that the script defines; see `Names`.
        apart: Whether functions are packed without the globals that they use.
    """

    def __init__(self, names: int = Names.ELSE, *, apart: bool = False) -> None:
        self._names = names
        self.apart = apart
        self.pending: dict[bytes, bytes] = {}
        self.done: set[bytes] = set()
        self.nameless: set[bytes] = set()  # definitions that a child can only inherit by fork

    def add(self, obj: Any) -> Definition:
        """Return a reference to a class or function; define it if the channel does not have it."""
        if not self.apart and type(obj) is FunctionType and has_key(obj):
            from .environment import has_changed

            if has_changed(obj):
                renew(obj)
        definition = _identify(obj)
        key = definition[0]
        if key not in self.done and key not in self.pending:
            packing.num_kept += 1
            try:
                body = _body(obj, self._names, self.apart)
            finally:
                packing.num_kept -= 1
            if body is None:
                self.done.add(key)
                if self._names == Names.FORKED:
                    self.nameless.add(key)
            else:
                self.pending[key] = body
        return definition

    def sent(self, keys: list[bytes]) -> None:
        """Note that the channel now has these definitions."""
        self.done.update(keys)
        for key in keys:
            self.pending.pop(key, None)


class _Destination(threading.local):
    """The destination of the objects that this thread packs. Engines set it while they pack a job.

    Attributes:
        shares: Collects the shared values (`qmill.shared`) to which the packed objects refer. None:
            the destination has no shared values.
        is_remote: Whether the destination may be another machine.
        reducers: Functions that reduce objects of some types, by type, as for `copyreg.pickle`.
            They apply to the arguments of a job, and in a worker to its results.
    """

    shares: Any = None
    is_remote = False
    reducers: Mapping[type, Callable[[Any], Any]] | None = None


destination = _Destination()


def check_stays_here() -> None:
    """Raise LocalQueueSent if this thread is packing a queue for another machine."""
    if destination.is_remote:
        raise LocalQueueSent(
            "a queue of qmill lives on one machine, and a job of a cluster may run on another: "
            "return the values from the job (as_completed gives each result as it comes), pass "
            "large inputs as qmill.shared(value), and let jobs that must talk to each other use a "
            "service that all machines reach, such as Redis or distributed.Queue"
        )


# -- packing -----------------------------------------------------------------------------------


class _Packing(threading.local):
    """The state of the packing that this thread does now.

    Attributes:
        depth: Not 0 while an object is packed for a channel of qmill.
        num_kept: Not 0 while an object is packed that its sender keeps as long as a reader may need
            it: a function, the globals that it uses, the arguments of a job. A queue inside then
            adds no key for this one pickle, so packing the object twice gives equal bytes.
    """

    depth = 0
    num_kept = 0


packing = _Packing()


def dumps(
    obj: Any,
    exports: Exports | InlineExports | None = None,
    touched: list[Any] | None = None,
) -> bytes | bytearray:
    """Pack an object.

    Args:
        obj: The object.
        exports: Collects the definitions. None: objects that cannot be imported go by value each
            time, for a reader that has nothing of this program yet.
        touched: Is extended by the functions and classes in the object that cannot be imported.

    Raises:
        SerializationError: Neither pickle nor cloudpickle can pack the object. The text names the
            part that failed and the path to it.
    """
    parts = dump_parts(obj, exports, touched)
    return bytes(parts[0]) if len(parts) == 1 else bytearray().join(parts)


def dump_parts(
    obj: Any,
    exports: Exports | InlineExports | None = None,
    touched: list[Any] | None = None,
    sent: dict[int, Any] | None = None,
    *,
    is_environment: bool = False,
    reducers: Mapping[type, Callable[[Any], Any]] | None = None,
) -> list[bytes | memoryview]:
    """Pack an object without copying its large buffers.

    Args:
        obj: As for `dumps`.
        exports: As for `dumps`.
        touched: As for `dumps`.
        sent: Maps the `id` of an object that the reader already has to the key by which the reader
            finds it (the argument of `value_of` of its imports).
        is_environment: Whether the object holds values of global names, whose identity may matter.
        reducers: How objects of exactly these types are reduced; see `destination`.

    Returns:
        The bytes that `dumps` returns, in consecutive pieces. Some pieces are the object's own
        memory, so the caller must write them before the object may change.

    Raises:
        SerializationError: As `dumps`.
    """
    is_kept = is_environment or (exports is not None and exports.apart)
    packing.depth += 1
    packing.num_kept += is_kept
    try:
        return _dump_parts(obj, exports, touched, sent, is_environment, reducers)
    finally:
        packing.depth -= 1
        packing.num_kept -= is_kept


def _dump_parts(
    obj: Any,
    exports: Exports | InlineExports | None,
    touched: list[Any] | None,
    sent: dict[int, Any] | None,
    is_environment: bool,
    reducers: Mapping[type, Callable[[Any], Any]] | None,
) -> list[bytes | memoryview]:
    buffers: list[memoryview] = []
    keep = _collector(buffers)
    flags = 0
    data = b"__main__"  # stays if plain pickle fails: the careful pickler is tried next
    if not is_environment:
        try:
            if reducers is None:
                data = pickle.dumps(obj, 5, buffer_callback=keep)
            else:
                data = _dump_reducing(obj, keep, reducers)
        except SerializationError:
            raise
        except RecursionError as error:
            raise explain(obj, error) from error  # the careful pickler would recurse as deep
        except BaseException as error:
            let_interrupt_through(error)
    if b"__main__" in data or b"__mp_main__" in data or standard_library.needs_care(data):
        del buffers[:]
        data = _dump_carefully(obj, exports, keep, touched, sent, reducers)
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


def _dump_reducing(
    obj: Any,
    keep: Callable[[pickle.PickleBuffer], bool],
    reducers: Mapping[type, Callable[[Any], Any]],
) -> bytes:
    file = io.BytesIO()
    pickler = pickle.Pickler(file, 5, buffer_callback=keep)
    pickler.dispatch_table = {**copyreg.dispatch_table, **reducers}
    pickler.dump(obj)
    return file.getvalue()


def _dump_carefully(
    obj: Any,
    exports: Exports | InlineExports | None,
    keep: Callable[[pickle.PickleBuffer], bool] | None,
    touched: list[Any] | None,
    sent: dict[int, Any] | None,
    reducers: Mapping[type, Callable[[Any], Any]] | None,
) -> bytes:
    apart = exports is not None and exports.apart
    try:
        return _pack(obj, exports, keep, touched, sent, apart, reducers=reducers)
    except SerializationError:
        raise
    except BaseException as error:
        let_interrupt_through(error)
        raise explain(obj, error, is_remote=destination.is_remote) from error


class _TooLargeError(Exception):
    """An object needs more bytes than the limit."""


class _LimitedFile(io.BytesIO):
    """A file in memory that holds `limit` bytes at most."""

    limit = 0

    def write(self, data: Any) -> int:
        if self.tell() + memoryview(data).nbytes > self.limit:
            raise _TooLargeError
        return super().write(data)


def dump_limited(
    obj: Any, exports: Exports | InlineExports, touched: list[Any] | None, limit: int
) -> bytes | None:
    """Pack an object, buffers included, unless that needs more than `limit` bytes.

    Args:
        obj: As for `dumps`.
        exports: As for `dumps`.
        touched: As for `dumps`.
        limit: The most bytes.

    Returns:
        A pickle that is equal for equal content; None if it would be longer than `limit`.

    Raises:
        SerializationError: As `dumps`.
    """
    packing.num_kept += 1
    try:
        return _dump_limited(obj, exports, touched, limit)
    finally:
        packing.num_kept -= 1


def _dump_limited(
    obj: Any, exports: Exports | InlineExports, touched: list[Any] | None, limit: int
) -> bytes | None:
    for make in (pickle.Pickler, careful_pickler()):
        file = _LimitedFile()
        file.limit = limit
        is_last = make is not pickle.Pickler
        more = (exports, None, touched, exports.apart) if is_last else (5,)
        try:
            make(file, *more).dump(obj)
        except _TooLargeError:
            return None
        except SerializationError:
            raise
        except BaseException as error:
            let_interrupt_through(error)
            if is_last or isinstance(error, RecursionError):
                raise explain(obj, error) from error
            continue
        data = file.getvalue()
        is_plain = b"__main__" not in data and b"__mp_main__" not in data
        if is_plain and not standard_library.needs_care(data):
            break
    return data


def _pack(
    obj: Any,
    exports: Exports | InlineExports | None,
    keep: Callable[[pickle.PickleBuffer], bool] | None,
    touched: list[Any] | None,
    sent: dict[int, Any] | None,
    apart: bool,
    whole: Any = None,
    reducers: Mapping[type, Callable[[Any], Any]] | None = None,
) -> bytes:
    file = io.BytesIO()
    plain, looking_up = _careful_picklers()
    pickler = (looking_up if sent else plain)(file, exports, keep, touched, apart)
    if sent:
        pickler.sent = sent
    if whole is not None:
        pickler.whole = whole
    if reducers is not None:
        pickler.reducers = reducers
    pickler.dump(obj)
    return file.getvalue()


def careful_pickler() -> Any:
    """Return the pickler class that packs every object that can be sent."""
    return _careful_picklers()[0]


def _careful_picklers() -> Any:
    """Make the picklers' classes on first use: cloudpickle takes a while to import."""
    global _careful_pickler_classes
    if _careful_pickler_classes is None:
        import cloudpickle

        from . import reductions

        class CarefulPickler(cloudpickle.Pickler):  # type: ignore[misc]
            """Packs objects that cannot be imported as references to definitions, or by value.

            Attributes:
                whole: The definition that is being packed by value.
                reducers: How objects of some types are reduced; see `dump_parts`.
            """

            whole: Any = None
            reducers: Mapping[type, Callable[[Any], Any]] | None = None

            dispatch_table = standard_library.dispatch_table(cloudpickle.Pickler.dispatch_table)

            def __init__(
                self,
                file: Any,
                exports: Exports | InlineExports | None,
                keep: Any,
                touched: list[Any] | None,
                apart: bool,
            ) -> None:
                super().__init__(file, protocol=5, buffer_callback=keep)
                self._exports = exports
                self._touched = touched
                self._apart = apart

            def reducer_override(self, obj: Any) -> Any:
                if self.reducers is not None and type(obj) in self.reducers:
                    return self.reducers[type(obj)](obj)
                if isinstance(obj, (type, FunctionType)):
                    return self._reduce_code(obj)
                if isinstance(obj, CodeType):
                    return _reduce_code_object(obj)
                if standard_library.reducer_of(type(obj)) is not None:
                    return NotImplemented  # it is in the dispatch table
                if obj is not self.whole and main_name(obj) is not None:
                    exports = self._exports or InlineExports(Names.NEVER, apart=self._apart)
                    if self._touched is not None and main_module.is_main(type(obj).__module__):
                        self._touched.append(type(obj))
                    return _defined, exports.add(obj)
                return reductions.reduce(obj)

            def _reduce_code(self, obj: Any) -> Any:
                """Reduce a function or a class."""
                exports = self._exports
                by_key = exports is not None and _is_definition(obj)
                if exports is not None and by_key:
                    reduced: Any = _defined, exports.add(obj)
                else:
                    reduced = reductions.reduce(obj)
                    if reduced is NotImplemented:
                        reduced = reductions.complete(obj, super().reducer_override(obj))
                if reduced is NotImplemented:  # it is importable
                    return reduced
                if self._touched is not None:
                    self._touched.append(obj)
                is_function = not by_key and type(obj) is FunctionType
                return _settle_globals(obj, reduced, self._apart) if is_function else reduced

        class LookingUp(CarefulPickler):
            """Packs references to objects that the reader already has; set `sent` before `dump`."""

            sent: dict[int, Any]

            def persistent_id(self, obj: Any) -> Any:
                return self.sent.get(id(obj))

        _careful_pickler_classes = CarefulPickler, LookingUp
    return _careful_pickler_classes


_careful_pickler_classes: Any = None


def _lay_out(flags: int, data: bytes, buffers: list[memoryview]) -> list[bytes | memoryview]:
    """Put a header before a pickle and its buffers, and padding that aligns each of them."""
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
        data: A packed object, from `dumps`. If its memory is writable, it becomes part of the
            object: large buffers are not copied.
        imports: Where to find definitions that this process does not have.

    Raises:
        SerializationError: The object cannot be rebuilt in this process. The text names its type.
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
    except BaseException as error:  # even SystemExit: an object must not end its reader
        let_interrupt_through(error)
        raise not_rebuilt(_type_name(data), error) from error


def writable(data: bytes | bytearray | memoryview) -> bytes | bytearray | memoryview:
    """Return a packed object, copied if its buffers are read-only: arrays must be writable."""
    if data[0] & _BUFFERS and memoryview(data).readonly:
        return bytearray(data)
    return data


def not_rebuilt(name: str, error: BaseException) -> SerializationError:
    """Return the error to raise when an object, given its type's name, cannot be rebuilt."""
    return SerializationError(
        f"an object of type {name} could not be rebuilt in this process: "
        f"{type(error).__name__}: {describe(error, str)}"
    )


class _PlainUnpickler(pickle.Unpickler):
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
            # Not a bound method: that would be a cycle, and keep the data until a collection.
            return partial(_defined_by, self.imports)
        if _globals is not None and module == "cloudpickle.cloudpickle" and name in _SHARING:
            return _SHARING[name]
        return super().find_class(module, name)

    def persistent_load(self, sent: Any) -> Any:
        """Find an object that was sent before; only environments contain such references."""
        imports: Any = self.imports
        return imports.value_of(sent)


def _unpickle(data: bytes | bytearray | memoryview, buffers: list[memoryview] | None = None) -> Any:
    """Rebuild a pickle without references to definitions."""
    if _globals is None or not _find_cloudpickle(data):
        return pickle.loads(data, buffers=buffers)
    return _DefinitionUnpickler(io.BytesIO(data), buffers=buffers).load()


def _type_name(data: bytes | bytearray | memoryview) -> str:
    """Return the name of a packed object's type; if that is built in, of the first class inside."""
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
    except Exception as error:
        let_interrupt_through(error)
    return "unknown (the data is damaged)"


# -- definitions -------------------------------------------------------------------------------

_keys: WeakKeyDictionary[Any, Definition] = WeakKeyDictionary()
_known: WeakValueDictionary[bytes, Any] = WeakValueDictionary()
# The same tables for objects that pickle as a name of `__main__`. Such objects may be neither
# hashable nor weakly referable, so these tables keep them alive.
_objects: dict[int, tuple[Any, Definition]] = {}
_known_objects: dict[bytes, Any] = {}


def _defined(key: bytes, name: str, is_class: bool | None, packed: bytes | None = None) -> Any:
    """Resolve a reference in a pickle. `_DefinitionUnpickler` calls `_defined_by` in its place."""
    return _resolve((key, name, is_class), None, packed)


def _defined_by(
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


def _is_definition(obj: Any) -> bool:
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


def _identify(obj: Any) -> Definition:
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
        _identify(obj)
    except TypeError:  # a metaclass whose classes cannot be hashed
        return
    if isinstance(obj, type):
        for part in list(vars(obj).values()):
            if isinstance(part, type) and part.__qualname__.startswith(f"{obj.__qualname__}."):
                _know_with_parts(part)


def _body(obj: Any, names: int, apart: bool) -> bytes | None:
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
    touched: list[Any] = []
    try:
        packed = _pack(obj, None, None, touched, None, apart, whole=obj)
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
            found = _unpickle(packed)
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
        key = _identify(cls)[0]
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


# -- functions and their globals ---------------------------------------------------------------
#
# cloudpickle gives each function that it rebuilds globals of its own. That would be wrong in a
# worker: the functions of jobs must see the global names that an initializer binds. So in a worker
# all functions of one module share one dict, and a name that the worker's code has bound keeps
# its value.

_globals: dict[str, dict[str, Any]] | None = None  # by module's name; None: not shared
_find_cloudpickle: Any = None  # searches a pickle; set once globals are shared
_from_sender: dict[str, dict[str, Any]] = {}  # the values that the sender last bound, by label


def share_globals(*, is_forked: bool) -> None:
    """Let all functions that this process rebuilds from now on share globals, one dict a module.

    Args:
        is_forked: Whether this process has inherited its parent's `__main__`.
    """
    global _globals, _find_cloudpickle
    if _find_cloudpickle is None:
        import re  # imported here, since a process that only uses queues does not need it

        _find_cloudpickle = re.compile(rb"cloudpickle\.cloudpickle").search
    _globals = {}
    if is_forked:
        _from_sender["__main__"] = dict(vars(sys.modules["__main__"]))


def with_shared_globals(call: Callable[[], Any]) -> Any:
    """Call a function. Functions that are rebuilt during the call share globals by module."""
    global _globals
    if _globals is not None:
        return call()
    share_globals(is_forked=False)
    try:
        return call()
    finally:
        _globals = None


CLASS = "class "
"""The first characters of a class's label."""


def label_of(names: dict[str, Any] | type) -> str:
    """Return the label of a module's globals, for `namespace` in a worker; or that of a class."""
    if isinstance(names, type):
        return CLASS + _identify(names)[0].hex()
    name = names.get("__name__")
    return "__main__" if name in main_module.MAINS or not isinstance(name, str) else name


def namespace(label: str) -> dict[str, Any]:
    """Return, in a job worker, the dict of globals that the functions of one module share.

    Raises:
        ImportError: The module is the script, and the script cannot be imported.
    """
    assert _globals is not None
    if label != "__main__":
        return _globals.setdefault(label, {"__name__": label})
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


_SHARING: dict[str, Any] = {
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


def _settle_globals(function: FunctionType, reduced: Any, apart: bool) -> Any:
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


def _reduce_code_object(code: CodeType) -> Any:
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


def dump_result(value: Any, exports: Exports) -> list[Any]:
    """Pack the result of a call, as `dump_parts`; mark an error as one of a result."""
    try:
        return dump_parts(value, exports, reducers=destination.reducers)
    except SerializationError as error:
        error.is_of_result = True
        raise


# -- errors that cross -------------------------------------------------------------------------


class RemoteTraceback(Exception):
    """The text of a traceback in another process: the cause of the exception raised there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n\n{self.text}"


def dump_error(error: BaseException) -> bytes:
    """Pack an exception with the text of its traceback; never raises for an odd exception."""
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
    """Remove the tracebacks of an exception and of its causes and parts.

    pickle ignores tracebacks, unless tblib, which comes with distributed, has registered a reducer
    for them. That packs each frame, which fails after a deep recursion.
    """
    seen, left = set(), [error]
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        # Through the base class, since an exception's own class may override attributes.
        BaseException.with_traceback(each, None)
        links: tuple[Any, ...] = BaseException.__cause__, BaseException.__context__
        for link in links:
            if (other := link.__get__(each)) is not None:
                left.append(other)
        if issubclass(type(each), BaseExceptionGroup):
            left += BaseExceptionGroup.exceptions.__get__(each)


def load_error(data: bytes | bytearray | memoryview) -> BaseException:
    """Rebuild an exception, with its remote traceback as its cause.

    Returns:
        The exception. If it cannot be rebuilt here, a `SerializationError` that names its type and
        text.
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
    # Not by assignment, which an exception's class may refuse.
    BaseException.__setattr__(error, "__cause__", RemoteTraceback(text))
    return error
