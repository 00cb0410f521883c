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
import struct
import threading
from functools import partial
from types import CodeType, FunctionType

from ..errors import LocalQueueSent, SerializationError
from ..system import native, pickling as pickle
from ..system.interrupts import let_interrupt_through
from . import function_globals, main_module, standard_library
from .definitions import (
    Definition,
    Names,
    has_key,
    identify,
    is_definition,
    look_up_definition,
    look_up_definition_of,
    main_name,
    packed_by_value,
    renew,
)
from .explain import describe, explain
from .function_globals import SHARING, reduce_code_object, settle_globals

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from .definitions import Imports


OUT_OF_BAND_BYTES = 1 << 14
"""Buffers of this size and more are sent after the pickle instead of inside it."""

_DEFINITIONS = 1
_BUFFERS = 2
_ALIGNMENT = 64
_U32 = struct.Struct("!I")


class InlineExports:
    """Puts each definition inside the object that refers to it: for objects that are sent once."""

    def __init__(self, names: int = Names.INSTEAD, *, apart: bool = False) -> None:
        self._names = names
        self.apart = apart

    def add(self, obj: Any) -> tuple[bytes, str, bool | None, bytes | None]:
        """Return a reference to a class or function that includes its definition."""
        return *identify(obj), packed_by_value(obj, self._names, self.apart)


class Exports:
    """Definitions that a sender has made on one channel.

    `pending` maps the key of each definition that packed objects refer to, and that the channel
    does not have yet, to the packed definition. The caller sends these, then calls `sent`. `done`
    holds the keys of the definitions that the channel has.

    Args:
        names: How the channel's readers get the names that the script defines; see `Names`.
        apart: Whether functions are packed without the globals that they use.
        done: The set that is to be `done`; None for a new one.
    """

    def __init__(
        self, names: int = Names.ELSE, *, apart: bool = False, done: set[bytes] | None = None
    ) -> None:
        self._names = names
        self.apart = apart
        self.pending: dict[bytes, bytes] = {}
        self.done: set[bytes] = set() if done is None else done
        self.nameless: set[bytes] = set()  # definitions that a child can only inherit by fork

    def add(self, obj: Any) -> Definition:
        """Return a reference to a class or function; define it if the channel does not have it."""
        if not self.apart and type(obj) is FunctionType and has_key(obj):
            from .environment import has_changed

            if has_changed(obj):
                renew(obj)
        definition = identify(obj)
        key = definition[0]
        if key not in self.done and key not in self.pending:
            packing.num_kept += 1
            try:
                body = packed_by_value(obj, self._names, self.apart)
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
        return pickle_parts(obj, exports, keep, touched, sent, apart, reducers=reducers)
    except SerializationError:
        raise
    except BaseException as error:
        let_interrupt_through(error)
        raise explain(obj, error, is_remote=destination.is_remote) from error


def pickle_parts(
    obj: Any,
    exports: Exports | InlineExports | None,
    keep: Callable[[pickle.PickleBuffer], bool] | None,
    touched: list[Any] | None,
    sent: dict[int, Any] | None,
    apart: bool,
    whole: Any = None,
    reducers: Mapping[type, Callable[[Any], Any]] | None = None,
) -> bytes:
    """Pickle an object by the careful pickler; see `_careful_picklers` for the arguments."""
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
        for name in ("cloudpickle", "qmill.packing.environment", "qmill.packing.reductions"):
            native.load(name)  # in any thread that puts an object; no fork comes meanwhile
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
                    return reduce_code_object(obj)
                if standard_library.reducer_of(type(obj)) is not None:
                    return NotImplemented  # it is in the dispatch table
                if obj is not self.whole and main_name(obj) is not None:
                    exports = self._exports or InlineExports(Names.NEVER, apart=self._apart)
                    if self._touched is not None and main_module.is_main(type(obj).__module__):
                        self._touched.append(type(obj))
                    return look_up_definition, exports.add(obj)
                return reductions.reduce(obj)

            def _reduce_code(self, obj: Any) -> Any:
                """Reduce a function or a class."""
                exports = self._exports
                by_key = exports is not None and is_definition(obj)
                if exports is not None and by_key:
                    reduced: Any = look_up_definition, exports.add(obj)
                else:
                    reduced = reductions.reduce(obj)
                    if reduced is NotImplemented:
                        reduced = reductions.complete(obj, super().reducer_override(obj))
                if reduced is NotImplemented:  # it is importable
                    return reduced
                if self._touched is not None:
                    self._touched.append(obj)
                is_function = not by_key and type(obj) is FunctionType
                return settle_globals(obj, reduced, self._apart) if is_function else reduced

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


def loads(
    data: bytes | bytearray | memoryview, imports: Imports | None = None, writable: bool = False
) -> Any:
    """Rebuild an object.

    Args:
        data: A packed object, from `dumps`. Its memory becomes part of the object: large buffers
            are not copied.
        imports: Where to find definitions that this process does not have.
        writable: Whether to copy large buffers if they are in read-only memory, as arrays of a
            worker must be writable.

    Raises:
        SerializationError: The object cannot be rebuilt in this process. The text names its type.
    """
    flags = data[0]
    try:
        if flags == 0x80:
            return pickle.loads(data) if function_globals.shared_globals is None else unpickle(data)
        view = memoryview(data)
        buffers: list[memoryview] = []
        if flags & _BUFFERS:
            if writable and view.readonly:
                view = memoryview(bytearray(view))
            view, *buffers = _split(view)
        else:
            view = view[1:]
        if not flags & _DEFINITIONS:
            return unpickle(view, buffers)
        unpickler = _DefinitionUnpickler(io.BytesIO(view), buffers=buffers)
        unpickler.imports = imports
        return unpickler.load()
    except SerializationError:
        raise
    except BaseException as error:  # even SystemExit: an object must not end its reader
        let_interrupt_through(error)
        raise not_rebuilt(_type_name(data), error) from error


def not_rebuilt(name: str, error: BaseException) -> SerializationError:
    """Return the error to raise when an object, given its type's name, cannot be rebuilt."""
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


_LOOK_UP = look_up_definition  # the function that a careful pickler names


class _DefinitionUnpickler(pickle.Unpickler):
    """Unpickles with references to definitions; `imports` is set before `load`."""

    imports: Imports | None = None

    def find_class(self, module: str, name: str) -> Any:
        if name == _LOOK_UP.__name__ and module == _LOOK_UP.__module__:
            # Not a bound method: that would be a cycle, and keep the data until a collection.
            return partial(look_up_definition_of, self.imports)
        if (
            function_globals.shared_globals is not None
            and module == "cloudpickle.cloudpickle"
            and name in SHARING
        ):
            return SHARING[name]
        return super().find_class(module, name)

    def persistent_load(self, sent: Any) -> Any:
        """Find an object that was sent before; only environments contain such references."""
        imports: Any = self.imports
        return imports.value_of(sent)


def unpickle(data: bytes | bytearray | memoryview, buffers: list[memoryview] | None = None) -> Any:
    """Rebuild a pickle without references to definitions."""
    if function_globals.shared_globals is None or not function_globals.find_cloudpickle(data):
        return pickle.loads(data, buffers=buffers)
    return _DefinitionUnpickler(io.BytesIO(data), buffers=buffers).load()


def _type_name(data: bytes | bytearray | memoryview) -> str:
    """Return the name of a packed object's type; if that is built in, of the first class inside."""
    pickletools = native.load("pickletools")
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


_PLAIN = frozenset((type(None), bool, int, float, complex))
"""Types whose objects plain pickle packs and rebuilds in every process."""


def dump_result(value: Any, exports: Exports) -> list[Any]:
    """Pack the result of a call, as `dump_parts`; mark an error as one of a result."""
    if type(value) in _PLAIN:
        return [pickle.dumps(value, 5)]
    try:
        return dump_parts(value, exports, reducers=destination.reducers)
    except SerializationError as error:
        error.is_of_result = True
        raise
