"""Results of a chunk's calls, in memory that outlives the worker process.

    worker ── keep(result) ──> shared memory ── at the worker's death ──> engine
                                    └────────── at the chunk's end ─────> channel

A worker may die during any call of a chunk. The results of earlier calls must not be lost, and
these calls must not be made again. So each result is written, before the next call begins, into
memory that the engine maps, too. The number of results also shows during which call the worker
died. The native codec writes small objects of built-in types as quickly as pickle writes a list of
them. Every other result is pickled by itself.

    permit | used | count | first | entry, entry, ...     words of 8 bytes, then `used` bytes

`first` is the place in the chunk of the first entry's call. The bytes from `first` on are a *part*.
A part is sent over the channel when the memory is full, and at the chunk's end. A large result is
sent at once, by itself. An entry is a scalar, as the codec writes it, or

    p e | length (4 bytes) | data       a result or an exception, as `serialize` packs them
    c | length (4 bytes) | data         a container or an instance, as the codec writes them

Invariants: `used` is the last word that is written for a result, so an entry is either complete or
absent; `used` is 0 before `first` changes, so entries that were sent twice can be recognised.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import TYPE_CHECKING, Any

from ...errors import SerializationError
from ...packing import definitions, remote_errors, serialize
from ...packing.explain import describe
from ...system import nameless_files
from ..api import ONE, SOME, Event, Outcome
from . import protocol as packets

try:
    from ...queues.shared.core import _kept as native
except ImportError:  # no native core: each result is pickled
    native = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..learnt import Definitions

HAS_CODEC = native is not None

SIZE_BYTES = 1 << 18
LARGE_BYTES = serialize.OUT_OF_BAND_BYTES
"""A result whose pickled form has at least this size is sent over the channel at once."""

_PERMIT, _USED, _COUNT, _FIRST = range(4)
_WORD = struct.Struct("=Q")
_PART_AT, _ENTRIES_AT = _FIRST * 8, 32
_BLOB = struct.Struct("=BI")
_PACKED, _ERROR, _CODEC = b"pec"

Part = tuple[Event, Any]
"""SOME and a part, or ONE and a packed result."""


def part(place: int, packed: list[Any] | None = None, *, is_error: bool = False) -> list[Any]:
    """Return a part with the result or exception of one call, or of none.

    Args:
        place: The place of the call in its chunk; without a call, how many were made.
        packed: The result or exception, packed by `serialize`, in pieces.
        is_error: Whether it is an exception.
    """
    if packed is None:
        return [_WORD.pack(place)]
    blob = _BLOB.pack(_ERROR if is_error else _PACKED, sum(map(len, packed)))
    return [_WORD.pack(place), blob, *packed]


class Keeper:
    """The worker's side: writes results.

    Args:
        exports: The definitions that the engine has or is to get.
        define: Sends those that the engine does not have.
        send: Sends SOME with a part, or ONE with a result: `send(event, job, parts)`.
        tell: Sends the descriptor of the memory.
        codec: Whether the engine has the native codec.

    Raises:
        OSError: There is no memory or no descriptor left.
    """

    def __init__(
        self,
        exports: serialize.Exports,
        define: Callable[[], None],
        send: Callable[[Event, int, list[Any]], None],
        tell: Callable[[int], None],
        codec: bool,
    ) -> None:
        self._exports = exports
        self._define = define
        self._send = send
        descriptor = nameless_files.write_file([])
        try:
            os.ftruncate(descriptor, SIZE_BYTES)
            self._memory = mmap.mmap(descriptor, SIZE_BYTES)
            tell(descriptor)
        except OSError as error:
            raise nameless_files.shortage(error, SIZE_BYTES) from None
        finally:
            os.close(descriptor)
        self._words = memoryview(self._memory)[:_ENTRIES_AT].cast("Q")
        self._job = 0
        self.keep: Callable[[Any], None] = self._keep_packed
        self._write_blob: Callable[[int, Any], bool] = self._write_slowly
        if HAS_CODEC:
            writer = native.Writer(self._memory, exports.done, self._keep_packed)
            self._write_blob = writer.write
            if codec:
                self.keep = writer.keep

    def begin(self, permit: int) -> None:
        """Begin to keep the results of another chunk, the one with this permit."""
        words = self._words
        words[_USED] = words[_COUNT] = words[_FIRST] = 0
        words[_PERMIT] = permit
        self._job = permit & packets.ID

    def fail(self, error: BaseException) -> None:
        """Keep the exception of a call."""
        self._write(_ERROR, remote_errors.dump_error(error))

    def rest(self) -> memoryview:
        """Return the part that was not sent; `begin` overwrites it."""
        return memoryview(self._memory)[_PART_AT : _ENTRIES_AT + self._words[_USED]]

    def _keep_packed(self, result: Any) -> None:
        parts = serialize.dump_result(result, self._exports)
        if self._exports.pending:
            self._define()
        if len(parts) == 1 and len(parts[0]) < LARGE_BYTES:  # large buffers are further parts
            self._write(_PACKED, parts[0])
            return
        self._flush()
        self._send(ONE, self._job, parts)
        self._words[_FIRST] += 1

    def _write(self, tag: int, packed: bytes | memoryview) -> None:
        if self._write_blob(tag, packed):
            return
        self._flush()
        if not self._write_blob(tag, packed):  # too large even for the empty memory
            place, is_error = self._words[_FIRST], tag == _ERROR
            self._send(SOME, self._job, part(place, [packed], is_error=is_error))
            self._words[_FIRST] += 1

    def _write_slowly(self, tag: int, packed: bytes | memoryview) -> bool:
        words, blob = self._words, _BLOB.pack(tag, len(packed)) + packed
        start = _ENTRIES_AT + words[_USED]
        if len(blob) > SIZE_BYTES - start:
            return False
        self._memory[start : start + len(blob)] = blob
        words[_COUNT] += 1
        words[_USED] += len(blob)
        return True

    def _flush(self) -> None:
        """Send the entries that are in the memory, and empty it."""
        words = self._words
        if words[_USED]:
            self._send(SOME, self._job, [self.rest()])
            words[_USED] = 0
            words[_FIRST] += words[_COUNT]
            words[_COUNT] = 0


def open_memory(descriptor: int) -> mmap.mmap:
    """Map a worker's memory in the engine; closes the descriptor.

    Raises:
        OSError, ValueError: The descriptor is not one of such memory.
    """
    try:
        return mmap.mmap(descriptor, SIZE_BYTES, prot=mmap.PROT_READ)
    finally:
        os.close(descriptor)


def rest_of(memory: mmap.mmap | None, permit: int) -> list[Part] | None:
    """Return the results that a dead worker has kept of a chunk; None if it made no call of it."""
    if memory is None:
        return None
    words = memoryview(memory)[:_ENTRIES_AT].cast("Q")
    if words[_PERMIT] != permit:
        return None
    return [(SOME, memory[_PART_AT : _ENTRIES_AT + words[_USED]])]


class Rebuilder:
    """The engine's side: rebuilds the outcomes of chunks.

    Args:
        imports: The definitions to which results refer.
    """

    def __init__(self, imports: Definitions) -> None:
        self._imports = imports
        self._has_failed = False
        self._read: Callable[[Any, Callable[[int, Any], Any]], list[Any]] = _read_packed
        if HAS_CODEC:
            classes: dict[bytes, Any] = {}
            self._read = native.Reader(classes, _resolver(classes, imports)).read

    def outcome(self, parts: list[Part], num_calls: int, death: BaseException | None) -> Outcome:
        """Rebuild the outcome of a chunk.

        Args:
            parts: Its parts, in the order in which they came.
            num_calls: How many calls the chunk was to make.
            death: The error of its worker's death; None if it has not died.
        """
        results: list[Any] = []
        errors: dict[int, BaseException] = {}
        self._has_failed = False
        try:
            for what, data in parts:
                self._add_part(results, what, data)
        except (RuntimeError, ValueError, struct.error) as why:  # a job has written to the memory
            error = SerializationError(f"the results of this call and others are damaged: {why}")
            while len(results) < num_calls:
                errors[len(results)] = error
                results.append(None)
        del results[num_calls:]
        if self._has_failed:
            for place, result in enumerate(results):
                if type(result) is _Failure:
                    errors[place] = result.error
                    results[place] = None
        if death is not None and len(results) < num_calls:
            errors[len(results)] = death
            results.append(None)
        return results, errors

    def _add_part(self, results: list[Any], what: Event, data: Any) -> None:
        if what is ONE:
            results.append(self._rebuild_one(_PACKED, data))
            return
        (first,) = _WORD.unpack_from(data)
        if first > len(results):
            raise ValueError("some are missing")
        found = self._read(memoryview(data)[_WORD.size :], self._rebuild_one)
        results += found[len(results) - first :]

    def _rebuild_one(self, tag: int, data: Any) -> Any:
        try:
            if tag == _PACKED:
                return serialize.loads(data, self._imports, True)
            if tag == _ERROR:
                failure = remote_errors.load_error(data)
            else:
                why = f"{type(data).__name__}: {describe(data, str)}"
                failure = SerializationError(f"the result could not be rebuilt here: {why}")
        except BaseException as error:  # rebuilding an object may raise anything
            failure = remote_errors.not_rebuilt(error)
        self._has_failed = True
        return _Failure(failure)


def _resolver(classes: dict[bytes, Any], imports: definitions.Imports) -> Callable[[bytes], type]:
    def resolve(name: bytes) -> type:
        classes[name] = found = definitions.class_of(name, imports)
        return found[0]

    return resolve


class _Failure:
    """Stands for the result of a call that failed."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _read_packed(data: memoryview, one: Callable[[int, bytes], Any]) -> list[Any]:
    """Read entries without the native codec; those that the codec has written are an error."""
    results, at = [], 0
    while at < len(data):
        tag, size = _BLOB.unpack_from(data, at)
        at += _BLOB.size + size
        if tag not in (_PACKED, _ERROR) or at > len(data):
            raise ValueError("a result is cut off")
        results.append(one(tag, bytes(data[at - size : at])))
    return results
