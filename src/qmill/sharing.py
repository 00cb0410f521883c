"""Values that many jobs use and that reach each worker once: `qmill.shared`.

    handle ── pickled, in a job ──> a key ──> the worker's handle of that key ──> .value
       └── packed once ──> a nameless file ── its descriptor, once to each worker ──┘

Worker processes of one machine map the same file, so there is one copy of its large buffers for all
of them. A thread's job has the very object. To a worker of a cluster the content of the file is
sent, once, and its processes share it there.

Whoever packs jobs puts a `Shares` into `serialize.destination`, which is told of each handle.
"""

from __future__ import annotations

import mmap
import os
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from . import _native, serialize
from ._generic import Generic, T
from .errors import SerializationError
from .queues import wire

if TYPE_CHECKING:
    from collections.abc import Iterator

_lock = _native.RLock()
_NOTHING = object()


def shared(value: T) -> Shared[T]:
    """Make a handle of a value that many jobs are to use, and that is to travel only once.

    Give the handle to jobs: as an argument, inside another one, in a `functools.partial` or in a
    closure. They find the value in its `value`.

    >>> table = qmill.shared(numpy.load("table.npy"))  # doctest: +SKIP
    >>> jobs.map(functools.partial(look_up, table), words)  # doctest: +SKIP

    Args:
        value: Any object that can be sent to a worker. Do not change it after it was sent.

    Returns:
        The handle. The value is there for jobs as long as the handle lives, or a job that has it.

    What a job's `value` is: the object itself in a thread; in a process, a copy, rebuilt when a job
    first asks for it and kept for those that follow. Large buffers of such a copy, as those of
    NumPy arrays, are one memory for all processes of a machine, and are read-only.
    """
    return Shared(secrets.randbits(63), value)


class Shared(Generic[T]):
    """A handle of a value that jobs share; `shared` makes it."""

    __slots__ = ("__weakref__", "_files", "_value", "key")

    def __init__(self, key: int, value: Any = _NOTHING, file: int | None = None) -> None:
        self.key = key
        self._value = value
        # By whether it is for another machine; here, what was packed elsewhere is for both.
        self._files = {} if file is None else dict.fromkeys((False, True), file)

    @property
    def value(self) -> T:
        """The value.

        Raises:
            SerializationError: It cannot be rebuilt in this process.
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
                "a shared value travels to workers with a job's function and arguments, and "
                "nowhere else: send its .value"
            )
        shares.add(self)
        return _find, (self.key,)

    def fileno(self, is_remote: bool = False) -> int:
        """Return the descriptor of the file that has the packed value; it stays this handle's.

        Args:
            is_remote: Whether it is for another machine, where no script can be imported.

        Raises:
            SerializationError: The value cannot be packed.
            OSError: There is no memory or no descriptor for it.
        """
        with _lock:
            if is_remote not in self._files:
                before = serialize.destination.shares
                serialize.destination.shares = None  # a handle inside would not be told to others
                names = serialize.Names.NEVER if is_remote else serialize.Names.INSTEAD
                try:
                    parts = serialize.dump_parts(self._value, serialize.InlineExports(names))
                finally:
                    serialize.destination.shares = before
                self._files[is_remote] = wire.write_file(parts)
            return self._files[is_remote]

    def packed(self, is_remote: bool = False) -> memoryview:
        """Return the packed value: the memory of the file, which cannot be written."""
        file = self.fileno(is_remote)
        return memoryview(mmap.mmap(file, os.fstat(file).st_size, access=mmap.ACCESS_READ))

    def __del__(self) -> None:
        files, self._files = self._files, {}
        for file in set(files.values()):
            os.close(file)


class Shares:
    """The shared values that the jobs of one pool refer to; it keeps none of them alive.

    Args:
        is_remote: Whether the pool's workers may be on other machines.

    Attributes:
        num_added: How many there were so far.
    """

    def __init__(self, *, is_remote: bool = False) -> None:
        self._is_remote = is_remote
        self._handles: WeakValueDictionary[int, Shared] = WeakValueDictionary()
        self.num_added = 0

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Have handles told to this object that this thread packs meanwhile."""
        destination = serialize.destination
        before = destination.shares, destination.is_remote
        destination.shares, destination.is_remote = self, self._is_remote
        try:
            yield
        finally:
            destination.shares, destination.is_remote = before

    def add(self, handle: Shared) -> None:
        """Know a handle from now on, and see to it that its value is packed."""
        if handle.key not in self._handles:
            handle.fileno(self._is_remote)
            self._handles[handle.key] = handle
            self.num_added += 1

    def new_for(self, known: set[int]) -> list[Shared]:
        """Return the handles that somebody does not know who knows these keys."""
        return [handle for key, handle in list(self._handles.items()) if key not in known]

    def gone_of(self, known: set[int]) -> list[int]:
        """Return those keys whose handles do not live any more."""
        return [key for key in known if key not in self._handles] if known else []


# -- in a worker -------------------------------------------------------------------------------

_received: dict[int, Shared] = {}


def receive(key: int, file: int) -> None:
    """Have a handle of that key found here; the file becomes its own."""
    _received[key] = Shared(key, file=file)


def forget(key: int) -> None:
    """Have it found no more; jobs that have it keep it."""
    _received.pop(key, None)


def from_packed(key: int, packed: bytes | memoryview) -> Shared:
    """Make a handle of a value that was packed elsewhere."""
    return Shared(key, file=wire.write_file([packed]))


def _find(key: int) -> Shared:
    """Stand in a pickle for a handle."""
    try:
        return _received[key]
    except KeyError:
        raise SerializationError(
            "a shared value is gone: keep the handle that qmill.shared returned as long as jobs "
            "need it"
        ) from None
