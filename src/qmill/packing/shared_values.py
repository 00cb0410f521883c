"""Values that many jobs use, sent to each worker once: `qmill.shared`.

    handle ── pickled, in a job ──> a key ──> the worker's handle of that key ──> .value
       └── packed once ──> a nameless file ── its descriptor, once to each worker ──┘

Worker processes of one machine map the same file, so they share one copy of its large buffers. A
job in a thread gets the original object. A worker of a cluster gets the content of the file, once,
and its processes share it.

An engine that packs jobs puts a `Shares` into `serialize.destination`, which collects the handles.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ..errors import SerializationError
from ..system import nameless_files, native
from ..system.generic import Generic, T
from ..system.opened import Descriptor, owned
from . import definitions, serialize

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import FileIO
    from typing import ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")

_lock = native.RLock()
_NOTHING = object()


def shared(value: T) -> Shared[T]:
    """Make a handle of a value that many jobs use; the value is sent to each worker only once.

    Pass the handle to jobs: as an argument, inside another argument, in a `functools.partial` or in
    a closure. The function of a job reads the value from the handle's attribute `value`.

    >>> table = qmill.shared(numpy.load("table.npy"))  # doctest: +SKIP
    >>> jobs.map(functools.partial(look_up, table), words)  # doctest: +SKIP

    Args:
        value: Any object that can be sent to a worker. Do not change it after it was sent.

    Returns:
        The handle. Jobs can use the value as long as the handle, or a job that has it, lives.

    In a thread, a job's `value` is the object itself. In a process it is a copy, rebuilt when the
    first job reads it and kept for later jobs. Large buffers in the copy, such as those of NumPy
    arrays, are shared by all processes of a machine, and are read-only.
    """
    return Shared(int.from_bytes(os.urandom(8), "big") >> 1, value)


class Shared(Generic[T]):
    """A handle of a value that jobs share; made by `shared`."""

    __slots__ = ("__weakref__", "_files", "_value", "key")

    def __init__(self, key: int, value: Any = _NOTHING, file: FileIO | None = None) -> None:
        self.key = key
        self._value = value
        # By `is_remote` of `fileno`. A file that was packed elsewhere is used for both.
        self._files: dict[bool, FileIO]
        self._files = {} if file is None else dict.fromkeys((False, True), file)

    @property
    def value(self) -> T:
        """The value.

        Raises:
            SerializationError: The value cannot be rebuilt in this process.
        """
        if self._value is _NOTHING:
            with _lock:
                if self._value is _NOTHING:
                    self._value = serialize.loads(self.packed())
        value: T = self._value
        return value

    def __repr__(self) -> str:
        what = "not loaded" if self._value is _NOTHING else type(self._value).__name__
        return f"<qmill.shared {what} {self.key:#x}>"

    def __reduce__(self) -> Any:
        shares = serialize.destination.shares
        if shares is None:
            raise TypeError(
                "a shared value can be sent only to a worker, in a job's function or arguments: "
                "send its .value"
            )
        shares.add(self)
        return _find, (self.key,)

    def fileno(self, is_remote: bool = False) -> int:
        """Return the descriptor of the file with the packed value; the handle will close it.

        Args:
            is_remote: Whether the file is for another machine, where no script can be imported.

        Raises:
            SerializationError: The value cannot be packed.
            OSError: There is not enough memory, or no free descriptor.
        """
        with _lock:
            if is_remote not in self._files:
                before = serialize.destination.shares
                serialize.destination.shares = None  # so that a handle inside the value is refused
                names = definitions.Names.NEVER if is_remote else definitions.Names.INSTEAD
                try:
                    parts = serialize.dump_parts(self._value, serialize.InlineExports(names))
                finally:
                    serialize.destination.shares = before
                self._files[is_remote] = owned(nameless_files.write_file, parts)
            return self._files[is_remote].fileno()

    def packed(self, is_remote: bool = False) -> memoryview:
        """Return the packed value: a read-only map of the file."""
        file = self.fileno(is_remote)
        return memoryview(mmap.mmap(file, os.fstat(file).st_size, access=mmap.ACCESS_READ))


class Shares:
    """The shared values to which the jobs of one pool refer. It refers to the handles weakly.

    Args:
        is_remote: Whether the pool's workers may be on other machines.

    Attributes:
        num_added: The number of handles added so far.
    """

    def __init__(self, *, is_remote: bool = False) -> None:
        self._is_remote = is_remote
        self._handles: WeakValueDictionary[int, Shared] = WeakValueDictionary()
        self.num_added = 0

    def collect(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function, and collect the handles in all objects that it packs."""
        destination = serialize.destination
        before = destination.shares, destination.is_remote
        destination.shares, destination.is_remote = self, self._is_remote
        try:
            return function(*args, **kwargs)
        finally:
            destination.shares, destination.is_remote = before

    def add(self, handle: Shared) -> None:
        """Add a handle, and pack its value if it is new."""
        if handle.key not in self._handles:
            handle.fileno(self._is_remote)
            self._handles[handle.key] = handle
            self.num_added += 1

    def new_for(self, known: set[int]) -> list[Shared]:
        """Return the handles whose keys are not among the known ones."""
        return [handle for key, handle in list(self._handles.items()) if key not in known]

    def gone_of(self, known: set[int]) -> list[int]:
        """Return those of the known keys whose handles no longer exist."""
        return [key for key in known if key not in self._handles] if known else []


# -- in a worker -------------------------------------------------------------------------------

_received: dict[int, Shared] = {}


def receive(key: int, file: int) -> None:
    """Register a handle of a key in this worker; the handle then owns the file's descriptor."""
    _received[key] = Shared(key, file=Descriptor(file))


def forget(key: int) -> None:
    """Remove the handle of a key from this worker; jobs that already hold it can still use it."""
    _received.pop(key, None)


def from_packed(key: int, packed: bytes | memoryview) -> Shared:
    """Make a handle of a value that was packed elsewhere."""
    return Shared(key, file=owned(nameless_files.write_file, [packed]))


def _find(key: int) -> Shared:
    """Return this worker's handle of a key; a pickled handle is a call of this function."""
    try:
        return _received[key]
    except KeyError:
        raise SerializationError(
            "a shared value is no longer available: keep a reference to the handle from "
            "qmill.shared as long as jobs need it"
        ) from None
