"""Packs objects of `multiprocessing` by its own reducers, which plain pickle lacks.

| object | to a process that is being started | on a queue, as an argument of a job |
| --- | --- | --- |
| locks and all that has one, shared ctypes | by name, by descriptor | refused |
| ends of a pipe, sockets | by descriptor | by multiprocessing's resource sharer |
| proxies of a manager | with the key that opens it | without |

Plain pickle takes an end of a pipe for an object with a number, which is another file elsewhere. So
what names one is packed with care, as is all of `multiprocessing` for a process that is started.

Nothing here imports multiprocessing: its objects exist only where it has been imported. Another
thread may be doing so just now, hence the looks at what a module has so far.
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
        """A process that is about to be started, as multiprocessing's reducers ask for it."""

        def duplicate_for_child(self, descriptor: int) -> int:
            """Hand on a descriptor, and return its number for `DupFd`."""

        def DupFd(self, number: int) -> Any:  # noqa: N802 (multiprocessing's name)
            """Return what is rebuilt as an object whose `detach` returns the descriptor there."""

        def keep(self, obj: Any) -> None:
            """Keep an object alive until the process has it."""


class _Starting(threading.local):
    """For which process this thread packs: `heir`, or None."""

    heir: Heir | None = None


starting = _Starting()

_CONNECTION = "multiprocessing.connection"
_WITH_DESCRIPTORS = frozenset((_CONNECTION, "multiprocessing.heap", "multiprocessing.sharedctypes"))


def needs_care(pickled: bytes | bytearray) -> bool:
    """Whether plain pickle may have taken what only multiprocessing's reducers do right."""
    if starting.heir is not None:
        return b"multiprocessing." in pickled
    return _CONNECTION in sys.modules and b"multiprocessing.connection" in pickled


def dispatch_table(base: ChainMap[type, Any]) -> ChainMap[type, Any]:
    """Extend a pickler's dispatch table by multiprocessing's reducers."""
    return ChainMap(*base.maps, _Reducers())


def probing_table(base: ChainMap[type, Any]) -> ChainMap[type, Any]:
    """Do the same for a pickle that nobody reads: no descriptor is duplicated for it."""
    return ChainMap(*base.maps, _ProbingReducers())


class _Reducers(dict[type, "Callable[[Any], Any]"]):
    """multiprocessing's reducers by class, looked up anew each time: it registers them later."""

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
    """Return the reducer of a class that plain pickle refuses or gets wrong; None of others."""
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
    # The others of its reducers are for what plain pickle and cloudpickle do as well.
    return reducer if reducer.__module__ in _WITH_DESCRIPTORS or _is_socket(cls) else None


def _so_far(module: str, name: str) -> Any:
    """Return what a module has of that name, if it is loaded or being loaded; else None."""
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
        starting.heir.keep(semaphore)  # its end takes the name from the system
    return reduced


_FORK_CONTEXT = (
    "A SemLock created in a fork context is being shared with a process in a spawn context. This "
    "is not supported."
)


def _reduce_proxy(proxy: Any) -> Any:
    if starting.heir is not None:
        starting.heir.keep(proxy)  # its end takes the object from the manager
    return proxy.__reduce_ex__(5)


def _reduce_ctype(obj: Any) -> Any:
    """Reduce a ctypes object in shared memory; others of its type are pickled as ever."""
    if not hasattr(obj, "_wrapper"):
        return obj.__reduce_ex__(5)
    reducers = _so_far("multiprocessing.reduction", "ForkingPickler")._extra_reducers
    return reducers[type(obj)](obj)


def _reduce_socket(sock: Any) -> Any:
    """Reduce a socket as multiprocessing does, which need not be imported for it."""
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
    """Whether an object is one of multiprocessing's own, whose parts are nobody else's business."""
    return type(obj).__module__.startswith("multiprocessing.")


def remedy(error: BaseException, *, is_remote: bool = False) -> str | None:
    """Return what to do about a refusal of multiprocessing's; None if the error is none."""
    told = str(error) if isinstance(error, RuntimeError) else ""
    if is_remote and (_OTHER_CONTEXT in told or _ONLY_INHERITED in told):
        return (
            "It is for the processes of one machine, and a job of a cluster may run on another: "
            "use what the cluster has for it, such as distributed.Lock, Event or Variable"
        )
    if _OTHER_CONTEXT in told:
        return (
            "Start the worker with start_method='fork', or make the object with "
            "multiprocessing.get_context('spawn'), whose objects every start method takes"
        )
    if _ONLY_INHERITED in told:
        return (
            "Give it to the worker when that starts: as an argument of qmill.run or qmill.Worker, "
            "or to the workers of a JobQueue in initargs, for an initializer that binds it to a "
            "global name"
        )
    return None
