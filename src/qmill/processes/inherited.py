"""Passes objects of `multiprocessing` to a process that is being started.

    parent                                               child
    ──────                                               ─────
    pack: reducers number their descriptors
    start ── setup (authkey, start method, tracker) ──>  adopt
          ── descriptors (SCM_RIGHTS), in batches ────>  receive
          ── packed work ─────────────────────────────>  unpack: DupFd(number).detach()

While the work of a new process is packed, this thread is "spawning" in multiprocessing's sense: its
locks, connections and the like can be pickled, and add their descriptors to an `Estate`. A forked
process inherits all of these objects without this module.

A child shares its parent's resource tracker. At its exit, a tracker of its own would unlink objects
that the parent still uses, and warn of leaks.
"""

from __future__ import annotations

import errno
import os
import pickle
import socket
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import LockSent, SerializationError
from ..packing import serialize
from ..packing.standard_library import starting
from ..system import interpreter, lifecycle, native, threads
from ..system.alive import Alive
from ..system.opened import duplicate

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import FileIO

    from ..system.generic import T

_BATCH = 250
"""The most descriptors in one message; the limit of Linux is 253."""

_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Settings(NamedTuple):
    """State of the parent's `multiprocessing` that is passed to a child."""

    authkey: bytes
    start_method: str | None
    tracker: int | None  # the number of the resource tracker's descriptor
    tools: bytes | None  # objects of tools that follow processes, which a child unpacks


class _Descriptor:
    """Represents, in packed work, a descriptor that is sent separately."""

    def __init__(self, number: int) -> None:
        self._number = number

    def detach(self) -> int:
        """Return the descriptor; the caller must close it.

        Raises:
            OSError: The descriptor has not arrived: this process has as many open files as it may.
        """
        return _received.take(self._number)


class Estate:
    """Descriptors for a process that is about to be started, and objects that it will look up.

    It has the role of multiprocessing's `Popen` objects while these spawn a process.

    Attributes:
        kept: Objects that must stay alive until the process has found them by name.
    """

    DupFd = _Descriptor

    def __init__(self) -> None:
        self._files: list[FileIO] = []  # each owns its descriptor, also if `close` is interrupted
        self.kept: list[Any] = []
        with native.fork_lock:
            _open.add(self)

    def __enter__(self) -> Estate:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._files)

    def pack(self, pack: Callable[[Any], T], obj: Any) -> T:
        """Call a function that packs an object; collect the descriptors in the object."""
        context = sys.modules.get("multiprocessing.context")
        # Another thread may be importing the module just now; it defines the second one last.
        is_loaded = hasattr(context, "set_spawning_popen") and hasattr(context, "assert_spawning")
        before = starting.heir
        spawning = context.get_spawning_popen() if is_loaded else None  # type: ignore[union-attr]
        try:
            starting.heir = self
            if is_loaded:
                context.set_spawning_popen(self)  # type: ignore[union-attr]
            return pack(obj)
        finally:  # no calls, within which a signal handler could raise
            starting.heir = before
            if is_loaded:
                context._tls.spawning_popen = spawning  # type: ignore[union-attr]

    def duplicate_for_child(self, descriptor: int) -> int:
        """Add a duplicate of a descriptor, and return its number."""
        with native.fork_lock:  # a forked child must see the duplicate, to close it
            self._files.append(duplicate(descriptor))
        return len(self._files) - 1

    def keep(self, obj: Any) -> None:
        """Keep an object alive."""
        self.kept.append(obj)

    def send(self, channel: socket.socket) -> None:
        """Send the descriptors."""
        for first in range(0, len(self), _BATCH):
            files = self._files[first : first + _BATCH]
            socket.send_fds(channel, [b"d"], [file.fileno() for file in files])

    def close(self) -> None:
        """Close the descriptors."""
        with native.fork_lock:
            for file in self._files:
                file.close()


_open = Alive()


def needs_fork(obj: Any) -> bool:
    """Whether an object has a lock of a fork context, which only a forked process can inherit."""
    if "multiprocessing.synchronize" not in sys.modules or not hasattr(os, "fork"):
        return False
    with Estate() as estate:
        try:
            estate.pack(serialize.dump_parts, obj)
        except LockSent:
            return True
        except SerializationError:  # starting the process will raise it again
            pass
    return False


def settings_for(estate: Estate) -> Settings | None:
    """Return the settings of multiprocessing for a child; None if it is not imported here."""
    current_process = getattr(sys.modules.get("multiprocessing.process"), "current_process", None)
    if current_process is None:
        return None
    default = getattr(sys.modules.get("multiprocessing.context"), "_default_context", None)
    method = None if default is None else default.get_start_method(allow_none=True)
    tracker = run_tracker()
    number = None if tracker is None else estate.duplicate_for_child(tracker)
    return Settings(bytes(current_process().authkey), method, number, _tools())


def _tools() -> bytes | None:
    """Return, packed, the objects by which tools follow a child; unpacking them installs the tools.

    A tool that follows processes, such as coverage, replaces multiprocessing's function
    `get_preparation_data` by one that adds such objects to the data for a child.
    """
    spawn = sys.modules.get("multiprocessing.spawn")
    tell = getattr(spawn, "get_preparation_data", None)
    if tell is None or tell.__module__ == "multiprocessing.spawn":
        return None
    context = sys.modules["multiprocessing.context"]._default_context
    before = context._actual_context  # the function fixes the start method as a side effect
    try:
        told = tell("qmill")
    finally:
        context._actual_context = before
    return pickle.dumps([value for key, value in told.items() if key not in _OF_MULTIPROCESSING], 5)


_OF_MULTIPROCESSING = frozenset(
    ("log_to_stderr", "authkey", "log_level", "name", "sys_path", "sys_argv", "orig_dir", "dir")
    + ("start_method", "init_main_from_name", "init_main_from_path")
)


def run_tracker() -> int | None:
    """Return the descriptor of the resource tracker, and start it if needed; None without one."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    tracker = getattr(module, "_resource_tracker", None)
    if tracker is None:
        return None
    # Started early, as multiprocessing does, so that memory made by a child outlives the child.
    is_needed = hasattr(sys.modules.get("multiprocessing.shared_memory"), "SharedMemory")
    if tracker._fd is None and not (is_needed and interpreter.is_known_to_multiprocessing()):
        return None
    threads.shielded(tracker.ensure_running, id)
    return int(tracker.getfd())


# -- in the child ------------------------------------------------------------------------------


class _Received:
    """The descriptors that this process has received, by number."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []
        self._unclaimed: set[int] = set()

    def receive(self, channel: socket.socket, number: int) -> None:
        for left in range(number, 0, -_BATCH):
            data, descriptors, _, _ = socket.recv_fds(channel, 1, min(left, _BATCH), _CLOSE_ON_EXEC)
            if not data:
                raise EOFError
            self._descriptors += descriptors
        self._unclaimed.update(self._descriptors)

    def take(self, number: int) -> int:
        if number >= len(self._descriptors):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self._unclaimed.discard(self._descriptors[number])
        return self._descriptors[number]

    def close(self) -> None:
        while self._unclaimed:
            os.close(self._unclaimed.pop())


_received = _Received()


def receive(channel: socket.socket, number: int) -> None:
    """Receive a number of descriptors, in the child.

    Raises:
        EOFError: The parent has closed the channel or has ended.
        OSError: The connection to the parent is broken.
    """
    _received.receive(channel, number)


def adopt(settings: Settings | None) -> None:
    """Apply the parent's settings of multiprocessing to this process."""
    if settings is None:
        return
    from multiprocessing import context, process

    process.current_process().authkey = settings.authkey
    if settings.start_method is not None:
        context._default_context.set_start_method(settings.start_method, force=True)
    if settings.tracker is not None:
        from multiprocessing import resource_tracker

        tracker: Any = resource_tracker._resource_tracker
        tracker._fd = _received.take(settings.tracker)
    if settings.tools is not None:
        pickle.loads(settings.tools)


def call_followed(function: Callable[[], int], finish: Callable[[], None]) -> int:
    """Call a function inside the wrapper that a tool has put around multiprocessing's processes.

    Args:
        function: The function; it returns an exit code.
        finish: The exit actions of the process. If there is a tool, they run inside the wrapper
            too, so that the tool follows them; otherwise this function does not call them.

    Returns:
        The exit code.
    """
    process = sys.modules.get("multiprocessing.process")
    bootstrap = getattr(getattr(process, "BaseProcess", None), "_bootstrap", None)
    if bootstrap is None or bootstrap.__module__ == "multiprocessing.process":
        return function()
    return _Followed(function, finish, process).call(bootstrap)


class _Followed:
    """A process object for `BaseProcess._bootstrap`, whose `run` calls a function.

    While the function runs, `multiprocessing.current_process()` is the same as in other workers.
    """

    _start_method = None
    _parent_name = name = "qmill"

    def __init__(
        self, function: Callable[[], int], finish: Callable[[], None], process: Any
    ) -> None:
        self._function = function
        self._finish = finish
        self._process = process
        self._known = process._current_process, process._parent_process
        self._parent_pid = os.getppid()
        self._outcome: int | BaseException = 1

    def call(self, bootstrap: Callable[[Any], int]) -> int:
        """Call the function through `bootstrap`; return its exit code or raise its exception."""
        bootstrap(self)
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome

    def run(self) -> None:
        """Call the function; `bootstrap` calls this method."""
        self._process._current_process, self._process._parent_process = self._known
        try:
            self._outcome = self._function()
            self._finish()
        except BaseException as error:
            self._outcome = error

    def _after_fork(self) -> None:
        """Do nothing: this process has already run its after-fork functions."""


def unpack(loads: Callable[[], Any]) -> Any:
    """Rebuild packed work, and close the descriptors that no object in it has claimed."""
    try:
        return loads()
    finally:
        _received.close()


def _after_fork_in_child() -> None:
    for estate in _open:
        estate.close()


lifecycle.at_fork(lifecycle.INHERITANCE, in_child=_after_fork_in_child)
