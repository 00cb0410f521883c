"""Queues with a name: a broker in a process of its own, which lives while anybody has one open.

    open_named ──lock──> somebody listens there? ──yes──> connect
                                   │no
                                   └──> start the broker's process, then connect

The lock is a file in the user's runtime folder, held by whoever opens a queue and by a broker that
is about to end, so that neither sees the other half way. A persistent queue's broker ends, too,
when nobody has it open; what is unread then waits in a file beside the lock. As long as a broker
lives, a file with the queue's name is there, by which it is listed.

Crash: an opener's death frees the lock; a program's death is the end of its connection. If the
broker's process itself is killed, its queue is gone, and so is what was unread (a persistent
queue's file holds what was unread when it was last closed by all).
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import NotSupported, QueueGone
from . import portable, wire
from .base import Statistics
from .broker import Broker, Connection
from .mailbox import Mailbox
from .portable import Endpoint, identified

if TYPE_CHECKING:
    from collections.abc import Iterator

try:
    import fcntl
except ImportError as _error:  # Windows
    raise NotSupported("named queues need file locks; this platform has none") from _error

_NO_SECRET = bytes(wire.SECRET_BYTES)
"""A name is no secret: the place of a named broker is closed to other users by itself."""


def open_named(name: str, maxsize: int, persistent: bool) -> tuple[Endpoint, wire.Address]:
    """Open the queue of this name, or create it.

    Raises:
        ValueError: It exists with another maxsize.
        PermissionError: Another user holds its place, or the runtime folder is not private.
        NotSupported: The platform has no file locks.
    """
    folder = wire.runtime_folder()
    place = _place(folder, name)
    with _locked(folder):
        anchor = _connect(place) or _start(folder, name, place, maxsize)
        end = Endpoint(wire.Address(place, _NO_SECRET, b""), anchor)
        try:
            anchor.send("open", 0, maxsize, persistent)
            (status, *values), _ = anchor.receive()
        except (EOFError, ConnectionError) as error:
            raise QueueGone(f"the broker of the queue {name!r} has died ({error})") from None
        if status != "ok":
            raise ValueError(f"the queue {name!r} is in use: {values[1]}")
        address = wire.Address(place, _NO_SECRET, values[0])
        return identified(end, address), address


def _place(folder: str, name: str) -> str:
    token = hashlib.sha256(f"{os.path.realpath(folder)}\0{name}".encode()).hexdigest()[:32]
    place = wire.private_place(token)
    if not isinstance(place, str):
        raise NotSupported("named queues need Unix sockets, which this platform does not have")
    return place


def _connect(place: str) -> portable.Connection | None:
    try:
        return portable.Connection(wire.Address(place, _NO_SECRET, b""))
    except QueueGone:
        return None


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    descriptor = _lock(folder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        _unlock(descriptor)


def _unlock(descriptor: int) -> None:
    """Unlock and close; the closing alone would not do if a forked child has a copy."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _lock(folder: str, how: int) -> int:
    """Lock the folder and return the lock's descriptor.

    A broker that ends removes the file while it holds the lock, so one that was waited for may
    be another file by now.
    """
    path = os.path.join(folder, "lock")
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(descriptor, how)
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _start(folder: str, name: str, place: str, maxsize: int) -> portable.Connection:
    """Start the broker's process and wait until it listens."""
    settings = json.dumps({"folder": folder, "name": name, "place": place, "maxsize": maxsize})
    code = f"import sys; sys.path[:] = {sys.path!r}; import {__name__} as n; n.main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, settings],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        start_new_session=True,
    ) as process:
        out, errors = process.communicate()
    if out != b"ready":
        text = errors.decode(errors="replace").strip()
        raise QueueGone(f"the broker of the queue {name!r} did not start: {text}")
    connection = _connect(place)
    if connection is None:
        raise QueueGone(f"the broker of the queue {name!r} ended at once")
    return connection


# -- listing -----------------------------------------------------------------------------------

OPEN, SAVED, ABANDONED, SILENT = "open", "saved", "abandoned", "silent"

_ANSWER_S = 5.0  # a broker needs microseconds


class Found(NamedTuple):
    """A named queue of this user, or what is left of one.

    Attributes:
        name: Its name.
        state: "open": processes have it open; "saved": what is unread is in a file; "abandoned":
            its broker was killed; "silent": its broker does not answer, perhaps it is stopped.
        size: How many messages wait in it; None if that is not known.
        maxsize: Its limit; None if that is not known.
        is_persistent: Whether it is kept when nobody has it open.
        broker: The broker's process, if it is open.
        holders: The processes that have it open.
    """

    name: str
    state: str
    size: int | None = None
    maxsize: int | None = None
    is_persistent: bool = False
    broker: int | None = None
    holders: tuple[int, ...] = ()


def list_queues() -> list[Found]:
    """List this user's named queues, by name.

    Raises:
        PermissionError: The runtime folder is not private.
    """
    folder = wire.runtime_folder()
    with _listing(folder):
        return _found_in(folder)


def remove_leftovers() -> list[str]:
    """Remove what killed brokers have left; what was saved is kept. Returns the queues' names.

    Raises:
        PermissionError: The runtime folder is not private.
    """
    folder = wire.runtime_folder()
    with _listing(folder):
        names = [found.name for found in _found_in(folder) if found.state == ABANDONED]
        for name in names:
            _remove(_file(folder, name, ".live"))
        for entry in os.listdir(folder):
            if entry.endswith(".queue.new"):
                _remove(os.path.join(folder, entry))
        return names


def remove_queue(name: str) -> None:
    """Remove a queue that nobody has open, with what is unread in it.

    Args:
        name: Its name.

    Raises:
        LookupError: There is none of this name.
        ValueError: Somebody has it open.
        PermissionError: The runtime folder is not private.
    """
    folder = wire.runtime_folder()
    with _listing(folder):
        found = next((each for each in _found_in(folder) if each.name == name), None)
        if found is None:
            raise LookupError(f"there is no queue of the name {name!r}")
        if found.state in (OPEN, SILENT):
            by = ", ".join(map(str, found.holders))
            raise ValueError(
                f"the queue {name!r} is open{' in ' * bool(by)}{by}; "
                "Queue(name=...).unlink() takes its name from whoever has it open"
            )
        for ending in (".live", ".queue", ".queue.new"):
            _remove(_file(folder, name, ending))


@contextmanager
def _listing(folder: str) -> Iterator[None]:
    """Hold the lock, and leave no file of it where no broker would remove it."""
    descriptor = _lock(folder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if not any(entry.endswith(".live") for entry in os.listdir(folder)):
            os.unlink(os.path.join(folder, "lock"))
        _unlock(descriptor)


def _found_in(folder: str) -> list[Found]:
    found: dict[str, Found] = {}
    for entry in sorted(os.listdir(folder)):
        path = os.path.join(folder, entry)
        if entry.endswith(".live"):
            with open(path, encoding="utf-8", errors="surrogatepass") as file:
                name = file.read()
            found[entry.removesuffix(".live")] = _ask(name, _place(folder, name))
        elif entry.endswith(".queue"):
            found.setdefault(entry.removesuffix(".queue"), _saved(path))
    return sorted(found.values())


def _ask(name: str, place: str) -> Found:
    """Ask a broker what its queue is."""
    connection = _connect(place)
    if connection is None:
        return Found(name, ABANDONED)
    connection.limit_waits(_ANSWER_S)
    try:
        connection.send("hello", os.urandom(16), False, b"")
        connection.send("inspect", 0)
        (_, told), _ = connection.receive()
    except (OSError, EOFError, ValueError):
        return Found(name, SILENT)
    finally:
        connection.end()
    is_persistent, broker, holders, counts = told
    counts = Statistics(*counts)
    return Found(name, OPEN, counts.size, counts.maxsize, is_persistent, broker, tuple(holders))


def _saved(path: str) -> Found:
    with open(path, "rb") as file:
        saved = pickle.load(file)
    name = saved.get("name") or os.path.basename(path).removesuffix(".queue")
    return Found(name, SAVED, len(saved["payloads"]), saved["maxsize"], True)


def _file(folder: str, name: str, ending: str) -> str:
    return os.path.join(folder, _file_name(name) + ending)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


# -- in the broker's process -------------------------------------------------------------------


class NamedBroker(Broker):
    """The broker of one named queue.

    Args:
        folder: The user's runtime folder.
        name: The queue's name.
        place: Where to listen.
        maxsize: Its limit, if it is new.
    """

    def __init__(self, folder: str, name: str, place: str, maxsize: int) -> None:
        super().__init__(place, _NO_SECRET)
        self._folder = folder
        self._name = name
        self._file = _file(folder, name, ".queue")
        self._live_file = _file(folder, name, ".live")
        self.persistent = False
        self._used = False  # whether somebody has had it open
        self._unlinked = False
        self._mailbox = self._load(maxsize)
        self.add(self._mailbox)

    def before_open(self, opener: Connection, maxsize: int, persistent: bool) -> None:
        """Begin anew if all who had the queue open are gone, else check that it is the same.

        Raises:
            ValueError: The queue is in use with another maxsize.
        """
        for connection in list(self.greeting):  # good-byes that have come, but were not read
            if connection is not opener:
                connection.drain()
        if self._used and self.client_count == 1 and not self.persistent:
            self._begin_anew(maxsize)
        if maxsize != self._mailbox.maxsize:
            raise ValueError(
                f"maxsize must be {self._mailbox.maxsize}, with which it was made, not {maxsize}"
            )
        self._used = True
        self.persistent = self.persistent or persistent

    def _begin_anew(self, maxsize: int) -> None:
        self._mailbox = Mailbox(maxsize)
        self.replace(0, self._mailbox)
        self._identity = os.urandom(16)
        assert self.address is not None
        self.address = self.address._replace(broker=self._identity)

    def listen(self) -> None:
        """Begin to accept clients."""
        self._remove_socket()  # left by a broker that was killed; the opener holds the lock
        descriptor = os.open(self._live_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(self._name)
        self._listen()

    def _load(self, maxsize: int) -> Mailbox:
        try:
            with open(self._file, "rb") as file:
                saved = pickle.load(file)
        except FileNotFoundError:
            return Mailbox(maxsize)
        mailbox = Mailbox(saved["maxsize"])
        mailbox.definitions.update(saved["definitions"])
        mailbox.restore(saved["payloads"])
        self.persistent = True
        return mailbox

    def _save(self) -> None:
        saved = {
            "name": self._name,
            "maxsize": self._mailbox.maxsize,
            "definitions": {key: bytes(d) for key, d in self._mailbox.definitions.items()},
            "payloads": [bytes(payload) for payload in self._mailbox.snapshot()],
        }
        temporary = f"{self._file}.new"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            pickle.dump(saved, file, 5)
        os.replace(temporary, self._file)

    def on_settled(self) -> None:
        """End when nobody has the queue open, unless somebody is just opening it."""
        if not self.greeting:
            self._on_connect(0)  # somebody may stand at the door
        if self.greeting:  # all anchors are among them
            return
        try:
            descriptor = _lock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.settle_when_unlocked()
            return
        self.finish()
        self._remove_lock(descriptor)

    def clean_up(self) -> None:
        """Leave nothing in the folder; called when the broker has ended and nobody waits for it."""
        if self._unlinked:
            self._remove_lock(_lock(self._folder, fcntl.LOCK_EX))

    def _remove_lock(self, descriptor: int) -> None:
        os.unlink(os.path.join(self._folder, "lock"))
        _unlock(descriptor)

    def settle_when_unlocked(self) -> None:
        """Look again once the present opener is through, or dead."""

        def wait() -> None:
            with _locked(self._folder):
                pass
            self.call_soon(lambda: None)

        threading.Thread(target=wait, daemon=True).start()

    def finish(self) -> None:
        """Save what is to be kept, give up the place and end."""
        if self.persistent:
            self._save()
        self._give_up_place()

    def inspect(self) -> tuple[Any, ...]:
        """Tell what `list_queues` shows."""
        counts = tuple(self._mailbox.statistics())
        return self.persistent, os.getpid(), self.holders(), counts

    def on_unlink(self) -> None:
        """Forget everything and end."""
        self.persistent = False
        _remove(self._file)
        self._give_up_place()
        self._unlinked = True

    def _give_up_place(self) -> None:
        assert self._listener is not None
        self._listener.close()
        self._remove_socket()
        _remove(self._live_file)
        self.stop()

    def _remove_socket(self) -> None:
        assert isinstance(self._place, str)
        if not self._place.startswith("\0"):
            _remove(self._place)


def _file_name(name: str) -> str:
    """Make a name that any file system takes, and that a person recognises."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)
    return f"{plain[:60]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def main() -> None:
    """Run a broker with the settings of the command line, away from whoever started it."""
    broker = NamedBroker(**json.loads(sys.argv[1]))
    broker.listen()
    os.write(sys.stdout.fileno(), b"ready")
    if os.fork():
        os._exit(0)
    with open(os.devnull, "r+b") as nowhere:
        for standard in range(3):
            os.dup2(nowhere.fileno(), standard)
    signal.signal(signal.SIGTERM, lambda *_: broker.call_soon(broker.finish))
    broker.settle_when_unlocked()
    broker.run()
    broker.clean_up()
