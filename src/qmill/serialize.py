"""Objects to bytes and back: pickle first, cloudpickle for what it refuses, `__main__` by value.

A packed object begins with pickle's own first byte (0x80) where plain pickle was enough, else with
a flag byte:

    0x80... | name                             a pickle, and the type's name unless it is built in
    flags | pickle                             DEFINITIONS: it refers to definitions by key
    flags | n | n lengths | pickle | buffers   BUFFERS: large buffers out of band (pickle 5)

Plain pickle refers to classes and functions by name, also to those of `__main__`, which is another
module in another process. So whatever pickle says about `__main__` is packed again, with care:

- a class or function of `__main__`, or an object that pickles as a name there, becomes a reference
  (key, qualified name) to its *definition*;
- an `Exports` remembers which definitions a channel has carried; each crosses once, by value, or
  not at all where the readers import the script (see `_script`);
- the reader takes its own original if it has one (it sent it, or its `__main__` has that name),
  else asks its channel for the definition and builds it, once.

So classes keep their identity on the way back, and a message costs a reference instead of 200 us.
Without a channel everything that is not importable goes by value, whole and anew.

A function that goes by value takes the globals along that it uses, but not those of a module that
the reader can import. To a job worker it goes without any: `_environment` sends them, once.

Source: PEP 574 (pickle 5 and out-of-band buffers); the cloudpickle project (functions by value).
"""

from __future__ import annotations

import copyreg
import io
import struct
import sys
import threading
from functools import partial
from types import CodeType, FunctionType
from weakref import WeakKeyDictionary, WeakValueDictionary, ref

from . import _multiprocessing, _pickling as pickle, _script
from ._explain import describe, explain, let_interrupt_through, traceback_text
from .errors import LocalQueueSent, SerializationError

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any, Protocol

    class Imports(Protocol):
        """Where a reader finds definitions.

        With an attribute `by_value_first` that is true, a definition goes before an object of this
        process that has its name.
        """

        def fetch(self, key: bytes) -> bytes:
            """Return a packed definition, or raise KeyError."""

        def keep(self, key: bytes, built: Any) -> None:
            """Keep a definition alive that has been built, so that it is fetched once."""


OUT_OF_BAND_BYTES = 1 << 14
"""Buffers of this size and more travel beside the pickle."""

_DEFINITIONS = 1
_BUFFERS = 2
_ALIGNMENT = 64
_U32 = struct.Struct("!I")

Definition = tuple[bytes, str, "bool | None"]
"""A definition's key, its qualified name, and whether it is a class; None: no function, either."""


class Names:
    """Ways in which a channel's reader comes by the names of this program's script.

    INSTEAD: it imports the script, so nothing else is sent. ELSE: it may be another program, so a
    definition goes by value, and by name only if that cannot be. NEVER: it has no such script.
    FORKED: it has everything that there was when it was forked; the rest goes by value.
    """

    INSTEAD, ELSE, NEVER, FORKED = range(4)


class InlineExports:
    """Definitions that travel inside the object that refers to them: for what is sent once."""

    def __init__(self, names: int = Names.INSTEAD, *, apart: bool = False) -> None:
        self._names = names
        self.apart = apart

    def add(self, obj: Any) -> tuple[bytes, str, bool | None, bytes | None]:
        """Refer to a class or function, its definition included."""
        return *_identify(obj), _body(obj, self._names, self.apart)


class Exports:
    """Definitions that a sender has made on one channel.

    `pending` are the definitions that packed objects refer to and that the channel does not have
    yet: (key, packed definition). Whoever sends them calls `sent`. `done` are those it has.

    Args:
        names: How its readers come by what an import of the script gives; see `Names`.
        apart: Whether functions go without the globals that they use.
    """

    def __init__(self, names: int = Names.ELSE, *, apart: bool = False) -> None:
        self._names = names
        self.apart = apart
        self.pending: dict[bytes, bytes] = {}
        self.done: set[bytes] = set()
        self.nameless: set[bytes] = set()  # those that only a fork hands on

    def add(self, obj: Any) -> Definition:
        """Refer to a class or function, defining it if this channel has not seen it."""
        if not self.apart and type(obj) is FunctionType and has_key(obj):
            from ._environment import has_changed

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
        reducers: How objects of some types are to be reduced among the arguments of a job, and in a
            worker among its results: functions as for `copyreg.pickle`, by type.
    """

    shares: Any = None
    is_remote = False
    reducers: Mapping[type, Callable[[Any], Any]] | None = None


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


class _Packing(threading.local):
    """The destination for which this thread packs.

    Attributes:
        depth: Not 0 within what goes through a channel of qmill.
        num_kept: Not 0 within what its sender has as long as a reader may need it: a function, the
            globals that it uses, the arguments of a job. Packed twice, that is twice the same.
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
        exports: Where definitions go. None packs what is not importable by value and anew, as fits
            a process that has nothing of this program yet.
        touched: Takes the functions and classes that were found in it and are not importable.

    Raises:
        SerializationError: Neither pickle nor cloudpickle takes it. Names the part and the path.
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
        sent: By whose `get` the `id` of an object that the reader has gives how it finds that
            (`value_of` of its imports).
        is_environment: Whether these are values of global names, whose identity may matter.
        reducers: How objects of exactly these types are reduced; see `destination`.

    Returns:
        What `dumps` returns, in pieces that are to follow one another; they are the object's own
        memory, so they must be written before it may change.

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
    data = b"__main__"  # refused: the careful way may do it
    if not is_environment:
        try:
            if reducers is None:
                data = pickle.dumps(obj, 5, buffer_callback=keep)
            else:
                data = _dump_reducing(obj, keep, reducers)
        except SerializationError:
            raise
        except RecursionError as error:
            raise explain(obj, error) from error  # the careful way would go as deep
        except BaseException as error:
            let_interrupt_through(error)
    if b"__main__" in data or b"__mp_main__" in data or _multiprocessing.needs_care(data):
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
    """An object packs into more than is wanted."""


class _LimitedFile(io.BytesIO):
    """Takes in `limit` bytes at most."""

    limit = 0

    def write(self, data: Any) -> int:
        if self.tell() + memoryview(data).nbytes > self.limit:
            raise _TooLargeError
        return super().write(data)


def dump_limited(
    obj: Any, exports: Exports | InlineExports, touched: list[Any] | None, limit: int
) -> bytes | None:
    """Pack an object, buffers included, unless that takes more than `limit` bytes.

    Args:
        obj: As for `dumps`.
        exports: As for `dumps`.
        touched: As for `dumps`.
        limit: The most bytes.

    Returns:
        A pickle, which is the same as long as the content is; None if it would be too long.

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
        if is_plain and not _multiprocessing.needs_care(data):
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
    """Return the class of picklers that pack all that can be sent."""
    return _careful_picklers()[0]


def _careful_picklers() -> Any:
    """Make the picklers' classes on first use: cloudpickle takes a while to import."""
    global _careful_pickler_classes
    if _careful_pickler_classes is None:
        import cloudpickle

        from . import _reducers

        class CarefulPickler(cloudpickle.Pickler):  # type: ignore[misc]
            """Packs what is not importable as references to definitions, or by value.

            Attributes:
                whole: The definition that is packed, by value.
                reducers: How objects of some types are reduced; see `dump_parts`.
            """

            whole: Any = None
            reducers: Mapping[type, Callable[[Any], Any]] | None = None

            dispatch_table = _multiprocessing.dispatch_table(cloudpickle.Pickler.dispatch_table)

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
                if _multiprocessing.reducer_of(type(obj)) is not None:
                    return NotImplemented  # it is in the dispatch table
                if obj is not self.whole and main_name(obj) is not None:
                    exports = self._exports or InlineExports(Names.NEVER, apart=self._apart)
                    if self._touched is not None and _script.is_main(type(obj).__module__):
                        self._touched.append(type(obj))
                    return _defined, exports.add(obj)
                return _reducers.reduce(obj)

            def _reduce_code(self, obj: Any) -> Any:
                """Reduce a function or a class."""
                exports = self._exports
                by_key = exports is not None and _is_definition(obj)
                if exports is not None and by_key:
                    reduced: Any = _defined, exports.add(obj)
                else:
                    reduced = _reducers.reduce(obj)
                    if reduced is NotImplemented:
                        reduced = _reducers.complete(obj, super().reducer_override(obj))
                if reduced is NotImplemented:  # it is importable
                    return reduced
                if self._touched is not None:
                    self._touched.append(obj)
                is_function = not by_key and type(obj) is FunctionType
                return _settle_globals(obj, reduced, self._apart) if is_function else reduced

        class LookingUp(CarefulPickler):
            """Refers to objects that the reader has already; `sent` is set before `dump`."""

            sent: dict[int, Any]

            def persistent_id(self, obj: Any) -> Any:
                return self.sent.get(id(obj))

        _careful_pickler_classes = CarefulPickler, LookingUp
    return _careful_pickler_classes


_careful_pickler_classes: Any = None


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


class _PlainUnpickler(pickle.Unpickler):
    """Rebuilds what consists of built-in types, and runs no code of others."""

    def find_class(self, module: str, name: str) -> Any:
        raise LookupError(f"{module}.{name}")


def shown(data: bytes | bytearray | memoryview) -> str:
    """Show a message in brief, without rebuilding what could run code: that may be what kills."""
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
            # No method of this object: what it has read would then live until a collection.
            return partial(_defined_by, self.imports)
        if _globals is not None and module == "cloudpickle.cloudpickle" and name in _SHARING:
            return _SHARING[name]
        return super().find_class(module, name)

    def persistent_load(self, sent: Any) -> Any:
        """Find an object that was sent before; only environments refer to such."""
        imports: Any = self.imports
        return imports.value_of(sent)


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
    except Exception as error:
        let_interrupt_through(error)
    return "unknown (the data is damaged)"


# -- definitions -------------------------------------------------------------------------------

_keys: WeakKeyDictionary[Any, Definition] = WeakKeyDictionary()
_known: WeakValueDictionary[bytes, Any] = WeakValueDictionary()
# The same for objects that pickle as a name of `__main__`, which may be neither hashable nor
# weakly referable; they live as long as the name.
_objects: dict[int, tuple[Any, Definition]] = {}
_known_objects: dict[bytes, Any] = {}


def _defined(key: bytes, name: str, is_class: bool | None, packed: bytes | None = None) -> Any:
    """Stand in a pickle for a definition; the unpickler has another function in its place."""
    return _resolve((key, name, is_class), None, packed)


def _defined_by(
    imports: Imports | None,
    key: bytes,
    name: str,
    is_class: bool | None,
    packed: bytes | None = None,
) -> Any:
    """Do the same where definitions may be found."""
    return _resolve((key, name, is_class), imports, packed)


def know_namespace(namespace: dict[str, Any]) -> None:
    """Have a program's global names found here that is no module, such as a console's."""
    known = any(namespace is one for one in _namespaces)
    if not known and namespace.get("__name__", "__main__") not in sys.modules:
        _namespaces.append(namespace)


_namespaces: list[dict[str, Any]] = []


def _is_definition(obj: Any) -> bool:
    """Whether to refer to this object by key: a class of `__main__`, or a function there."""
    if isinstance(obj, type):
        return _script.is_main(obj.__module__)
    if type(obj) is not FunctionType:
        return False
    return obj in _keys or (
        _script.is_main(obj.__module__) and _find_in_mains(obj.__qualname__) is obj
    )


def main_name(obj: Any) -> str | None:
    """Return the name of `__main__` that an object pickles as; None if it does not."""
    cls: Any = type(obj)
    if cls in copyreg.dispatch_table:
        return None
    if cls.__reduce__ is object.__reduce__ and cls.__reduce_ex__ is object.__reduce_ex__:
        return _name_of_sentinel(obj)
    try:
        name = obj.__reduce_ex__(5)
    except Exception as error:  # the pickler will say so
        let_interrupt_through(error)
        return None
    if not isinstance(name, str):
        return None
    module = getattr(obj, "__module__", None)
    if module is None:
        return name if _look_up(name) is obj else None
    return name if _script.is_main(module) else None


def _name_of_sentinel(obj: Any) -> str | None:
    """Return the global name of an object that is nothing but itself: its identity may be asked."""
    cls: Any = type(obj)
    if cls is not object:
        if not _script.is_main(cls.__module__) or cls.__basicsize__ > _Plain.__basicsize__:
            return None
        if getattr(obj, "__dict__", None) or cls.__getstate__ is not object.__getstate__:
            return None
    for names in _script.namespaces():
        for name, value in names.items():
            if value is obj:
                return name
    return None


def goes_by_name(obj: Any) -> bool:
    """Whether a process that imports this program's script has this object, as it is here."""
    script = _script.importable()
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
    """Make a new key for a class or function: readers of the old one keep what that stands for."""
    from uuid import uuid4

    definition: Definition
    if isinstance(obj, (type, FunctionType)):
        definition = uuid4().bytes, obj.__qualname__, isinstance(obj, type)
    else:
        definition = uuid4().bytes, main_name(obj) or "", None
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
    """Make keys for what `__main__` defines, by which a child that is forked now will know it."""
    for names in [*_script.namespaces(), *_namespaces]:
        for name, obj in list(names.items()):
            is_code = isinstance(obj, (type, FunctionType))
            if is_code and _script.is_main(obj.__module__) and obj.__qualname__ == name:
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
    """Pack a definition by value; None if readers are to find it by name."""
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
    """Return the key by which readers know a function or class; None if they do not."""
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
    """List the functions and classes that a definition has brought along without their globals."""
    if not has_key(obj):
        return []
    return [part for each in _parts.get(obj, ()) if (part := each()) is not None]


def _resolve(definition: Definition, imports: Imports | None, packed: bytes | None) -> Any:
    """Find a definition: the original, this program's own of that name, or one built by value."""
    key, name, is_class = definition
    found = _known_objects.get(key) if is_class is None else _known.get(key)
    if found is not None:
        return found
    # A sender whose reader has the script sends what the script does not have under that name.
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
    """Return what this program has under a name that another process means; None if nothing."""
    script = _script.importable()
    if _script.is_stand_in():
        if script is None or not script.has(name):
            return None
        _script.import_main()
    found = _look_up(name) if is_class is None else _find_in_mains(name)
    if is_class is None or isinstance(found, type if is_class else FunctionType):
        return found
    return None


def _find_in_mains(qualname: str) -> Any:
    """Return this program's own class or function of that name, or None."""
    # A fork server's __main__ holds other modules' functions: those are not of that name.
    return _look_up(
        qualname,
        lambda found: isinstance(found, (type, FunctionType)) and _script.is_main(found.__module__),
    )


def _look_up(qualname: str, is_wanted: Callable[[Any], bool] | None = None) -> Any:
    """Return this program's own object of that name, or None."""
    first, *rest = qualname.split(".")
    for names in [*_script.namespaces(), *_namespaces]:
        found = names.get(first)
        for part in rest:
            found = getattr(found, part, None)
        if found is not None and (is_wanted is None or is_wanted(found)):
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
        or cls in copyreg.dispatch_table
        or _multiprocessing.reducer_of(cls) is not None
    ):
        return None
    if _script.is_main(module):
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
        namespaces = [space for space in _script.namespaces() if space.get(name) is found]
        namespace = namespaces[0] if namespaces else None
    else:
        module, _, name = packed[1:].decode().partition("\n")
        __import__(module)
        found = getattr(sys.modules[module], name)
        namespace = vars(sys.modules[module])
    if plan_of(found) is None:
        raise TypeError(f"{found!r} here defines how it is unpickled, and there it did not")
    return found, namespace, name


# -- functions and their globals ---------------------------------------------------------------
#
# cloudpickle gives each function that it rebuilds globals of its own. In a worker that keeps its
# functions that would be wrong: what an initializer binds, the jobs' functions are to see. So there
# all functions of one module get one dict, and a name keeps what the worker's code has bound it to.

_globals: dict[str, dict[str, Any]] | None = None  # by module's name; None: not shared
_find_cloudpickle: Any = None  # in a pickle, once they are shared
_from_sender: dict[str, dict[str, Any]] = {}  # what was last put there for the sender, by label


def share_globals(*, is_forked: bool) -> None:
    """Have all functions that are rebuilt in this process from now on share their globals.

    Args:
        is_forked: Whether this process has its parent's `__main__`.
    """
    global _globals, _find_cloudpickle
    if _find_cloudpickle is None:
        import re  # here: a queue does without

        _find_cloudpickle = re.compile(rb"cloudpickle\.cloudpickle").search
    _globals = {}
    if is_forked:
        _from_sender["__main__"] = dict(vars(sys.modules["__main__"]))


def with_shared_globals(call: Callable[[], Any]) -> Any:
    """Call a function meanwhile functions that are rebuilt share their globals."""
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
    """Name a namespace of global names, as `namespace` finds it in a worker; or a class."""
    if isinstance(names, type):
        return CLASS + _identify(names)[0].hex()
    name = names.get("__name__")
    return "__main__" if name in _script.MAINS or not isinstance(name, str) else name


def namespace(label: str) -> dict[str, Any]:
    """Return, in a job worker, the dict of global names that functions of a namespace share.

    Raises:
        ImportError: It is that of the script, which cannot be imported.
    """
    assert _globals is not None
    if label != "__main__":
        return _globals.setdefault(label, {"__name__": label})
    _script.import_main()
    return vars(sys.modules["__main__"])


def _sent_to(label: str) -> dict[str, Any]:
    """Return what a namespace has from the sender, or from the import of the sender's script."""
    sent = _from_sender.setdefault(label, {})
    if label == "__main__":
        for name, value in _script.take_imported().items():
            sent.setdefault(name, value)
    return sent


def bind(label: str, name: str, value: Any, *, is_first: bool) -> Any:
    """Bind a global name in a job worker for its functions.

    Args:
        label: Of the namespace.
        name: The name.
        value: What to bind it to; `UNBOUND` deletes it.
        is_first: Whether the sender has not bound it here before: what the worker's own code has
            bound it to meanwhile then stays, and so does what an import gave it if that is equal.

    Returns:
        The object that stands for the value here: itself, or the equal one of the import.
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
    """Take what a worker's global name is bound to for its own, as if its code had bound it."""
    _sent_to(label).pop(name, None)


def set_attribute(cls: type, name: str, value: Any) -> None:
    """Set an attribute of a class, or delete it, whatever the class has to say to that."""
    if value is not UNBOUND:
        type.__setattr__(cls, name, value)
    elif name in vars(cls):
        type.__delattr__(cls, name)


class _Unbound:
    """The value of a name that is not bound."""

    def __reduce__(self) -> str:
        return "UNBOUND"


UNBOUND = _Unbound()


def _are_equal(one: Any, other: Any) -> bool:
    """Whether two objects have the same content, so that either does for the other."""
    if type(one) is not type(other):
        return False
    try:
        return dumps(one, InlineExports()) == dumps(other, InlineExports())
    except SerializationError:
        return False


def _make_function(code: Any, own: dict[str, Any], *rest: Any) -> Any:
    """Make a function as cloudpickle does, with the globals of its module."""
    from cloudpickle import cloudpickle

    shared = namespace(label_of(own))
    for name, value in own.items():
        shared.setdefault(name, value)
    return cloudpickle._make_function(code, shared, *rest)


def _set_function_state(function: FunctionType, state: Any) -> None:
    """Fill a function as cloudpickle does; globals that were bound here stay as they are."""
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
    """Name the importable module whose globals a function uses; None if there is none."""
    names = function.__globals__
    module: Any = names.get("__name__")
    if _script.is_main(module) or vars(sys.modules[module]) is not names:
        return None
    uses = any(name in names for name in global_names(function.__code__))
    return module if uses and _script.can_import(module) else None


def global_names(code: CodeType) -> Iterable[str]:
    """List the global names that code uses, functions and classes inside it included."""
    from cloudpickle import cloudpickle

    from . import _reducers

    names = cloudpickle._extract_code_globals(code)
    return [*names, *_reducers.names_in_class_bodies(code)]


def _settle_globals(function: FunctionType, reduced: Any, apart: bool) -> Any:
    """Leave out of a packed function the globals that its reader has, or gets otherwise."""
    from cloudpickle import cloudpickle

    make, args, *rest = reduced
    if make is not cloudpickle._make_function:
        return reduced
    module = uses_globals_of(function)
    attributes, slots = rest[0]
    if slots["__module__"] in _script.MAINS:  # where it is imported it has the other name
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
    """Reduce code as cloudpickle does, but with its file, and its source if there is no file."""
    from cloudpickle import cloudpickle

    _, args = cloudpickle._code_reduce(code)
    # Among bytes, to which `python -bb` lets no text be compared.
    place = [isinstance(arg, str) and arg == "<dynamic-code>" for arg in args].index(True)
    path, lines = _script.source_of(code.co_filename)
    return _make_code, ((*args[:place], path, *args[place + 1 :]), path, lines)


def _make_code(args: Any, path: str, lines: list[str] | None) -> CodeType:
    """Make a code object, and have tracebacks find its source."""
    if lines is not None:
        import linecache

        linecache.cache.setdefault(path, (sum(map(len, lines)), None, lines, path))
    return CodeType(*args)


def dump_result(value: Any, exports: Exports) -> list[Any]:
    """Pack what a call has returned, as `dump_parts`; an error says that it is of a result."""
    try:
        return dump_parts(value, exports, reducers=destination.reducers)
    except SerializationError as error:
        error.is_of_result = True
        raise


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
