"""Packs objects of `multiprocessing` by multiprocessing's own reducers, which plain pickle lacks.

| object | to a process that is being started | on a queue, as an argument of a job |
| --- | --- | --- |
| locks, objects with a lock, shared ctypes | by name, by descriptor | refused |
| ends of a pipe, sockets | by descriptor | by multiprocessing's resource sharer |
| proxies of a manager | with the manager's authentication key | without the key |

Plain pickle packs an end of a pipe with the number of its descriptor, which is another file in
another process. So the careful pickler packs objects that contain one, and, for a process that is
being started, all objects of `multiprocessing`.

This module does not import multiprocessing, whose objects exist only if it has been imported.
Another thread may be importing it just now, so each of its names is looked up with a default.
"""

from __future__ import annotations

import sys
import threading
from collections import ChainMap

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Protocol

    class Heir(Protocol):
        """A process that is about to be started, with the methods that the reducers call."""

        def duplicate_for_child(self, descriptor: int) -> int:
            """Pass a duplicate of a descriptor to the process; return its number for `DupFd`."""

        def DupFd(self, number: int) -> Any:  # noqa: N802 (multiprocessing's name)
            """Return an object to pickle; in the process, its `detach` returns the descriptor."""

        def keep(self, obj: Any) -> None:
            """Keep an object alive until the process has it."""


class _Starting(threading.local):
    """The process that is about to be started and for which this thread packs: `heir`, or None."""

    heir: Heir | None = None


starting = _Starting()

_CONNECTION = "multiprocessing.connection"
_WITH_DESCRIPTORS = frozenset((_CONNECTION, "multiprocessing.heap", "multiprocessing.sharedctypes"))


def needs_care(pickled: bytes | bytearray) -> bool:
    """Whether a plain pickle may contain objects that need multiprocessing's reducers."""
    if starting.heir is not None:
        return b"multiprocessing." in pickled
    return _CONNECTION in sys.modules and b"multiprocessing.connection" in pickled


def dispatch_table(base: ChainMap[type, Any]) -> ChainMap[type, Any]:
    """Extend a pickler's dispatch table by multiprocessing's reducers."""
    return ChainMap(*base.maps, _Reducers())


def probing_table(base: ChainMap[type, Any]) -> ChainMap[type, Any]:
    """Extend a dispatch table for a pickle that is thrown away: no descriptor is duplicated."""
    return ChainMap(*base.maps, _ProbingReducers())


class _Reducers(dict[type, "Callable[[Any], Any]"]):
    """multiprocessing's reducers by class, looked up each time, since it registers some later."""

    def __missing__(self, cls: type) -> Callable[[Any], Any]:
        reducer = reducer_of(cls)
        if reducer is None:
            raise KeyError(cls)
        return reducer


class _ProbingReducers(_Reducers):
    def __missing__(self, cls: type) -> Callable[[Any], Any]:
        reducer = super().__missing__(cls)
        return _reduce_to_nothing if _has_descriptor(cls) else reducer


def reducer_of(cls: type) -> Callable[[Any], Any] | None:
    """Return the reducer of a class that plain pickle refuses or packs wrongly, else None."""
    if _is_subclass(cls, "multiprocessing.synchronize", "SemLock"):
        return _reduce_semaphore
    if _is_subclass(cls, "multiprocessing.managers", "BaseProxy"):
        return _reduce_proxy
    if starting.heir is not None and _is_socket(cls):
        return _reduce_socket
    forking = _so_far("multiprocessing.reduction", "ForkingPickler")
    reducers: Mapping[type, Callable[[Any], Any]] = getattr(forking, "_extra_reducers", {})
    reducer = reducers.get(cls)
    if reducer is None:
        return None
    if reducer.__module__ == "multiprocessing.sharedctypes":
        return _reduce_ctype
    # Its other reducers are for types that plain pickle and cloudpickle pack as well.
    return reducer if reducer.__module__ in _WITH_DESCRIPTORS or _is_socket(cls) else None


def _so_far(module: str, name: str) -> Any:
    """Return a module's object of that name, if it already exists; else None."""
    return getattr(sys.modules.get(module), name, None)


def _is_subclass(cls: type, module: str, name: str) -> bool:
    base = _so_far(module, name)
    return base is not None and issubclass(cls, base)


def _is_socket(cls: type) -> bool:
    return cls is _so_far("socket", "socket")


def _has_descriptor(cls: type) -> bool:
    return _is_socket(cls) or cls.__module__ == _CONNECTION


def _reduce_semaphore(semaphore: Any) -> Any:
    reduced = semaphore.__reduce_ex__(5)
    if starting.heir is not None:
        if sys.platform != "win32" and semaphore._semlock.name is None:  # Python before 3.11.5
            raise RuntimeError(_FORK_CONTEXT)
        starting.heir.keep(semaphore)  # its finalizer removes the name from the system
    return reduced


_FORK_CONTEXT = (
    "A SemLock created in a fork context is being shared with a process in a spawn context. This "
    "is not supported."
)


def _reduce_proxy(proxy: Any) -> Any:
    if starting.heir is not None:
        starting.heir.keep(proxy)  # its finalizer removes the object from the manager
    return proxy.__reduce_ex__(5)


def _reduce_ctype(obj: Any) -> Any:
    """Reduce a ctypes object in shared memory; other objects of its type are pickled as usual."""
    if not hasattr(obj, "_wrapper"):
        return obj.__reduce_ex__(5)
    reducers = _so_far("multiprocessing.reduction", "ForkingPickler")._extra_reducers
    return reducers[type(obj)](obj)


def _reduce_socket(sock: Any) -> Any:
    """Reduce a socket as multiprocessing does, also if multiprocessing is not imported."""
    heir = starting.heir
    assert heir is not None
    descriptor = heir.DupFd(heir.duplicate_for_child(sock.fileno()))
    return _rebuild_socket, (descriptor, sock.family, sock.type, sock.proto)


def _rebuild_socket(descriptor: Any, family: int, kind: int, proto: int) -> Any:
    import socket

    return socket.socket(family, kind, proto, fileno=descriptor.detach())


def _reduce_to_nothing(obj: Any) -> Any:
    return int, ()


# -- refusals ----------------------------------------------------------------------------------

_ONLY_INHERITED = "should only be shared between processes through inheritance"
_OTHER_CONTEXT = "created in a fork context"


def is_of_multiprocessing(obj: Any) -> bool:
    """Whether an object is of a class of multiprocessing; the parts of such objects are private."""
    return type(obj).__module__.startswith("multiprocessing.")


def remedy(error: BaseException, *, is_remote: bool = False) -> str | None:
    """Return advice for an error of multiprocessing about sharing a lock; None for other errors."""
    told = str(error) if isinstance(error, RuntimeError) else ""
    if is_remote and (_OTHER_CONTEXT in told or _ONLY_INHERITED in told):
        return (
            "It is for the processes of one machine, and a job of a cluster may run on another: "
            "use an object of the cluster instead, such as distributed.Lock, Event or Variable"
        )
    if _OTHER_CONTEXT in told:
        return (
            "Start the worker with start_method='fork', or make the object with "
            "multiprocessing.get_context('spawn'), whose objects every start method accepts"
        )
    if _ONLY_INHERITED in told:
        return (
            "Give it to the worker at its start: as an argument of qmill.run or qmill.Worker, "
            "or to the workers of a JobQueue in initargs, for an initializer that binds it to a "
            "global name"
        )
    return None
