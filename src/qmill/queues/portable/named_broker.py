"""Queues with a name: a broker in a process of its own, which lives while the queue is open.

    open_named ──lock──> does a broker listen there? ──yes──> connect
                                   │no
                                   └──> start the broker's process, then connect

The lock is a file in the user's folder of names, held by a process that opens a queue and by a
broker that is about to end, so that neither sees the other half way. A persistent queue's broker
ends, too, when no process has the queue open; the unread messages then wait in a file beside the
lock. As long as a broker lives, a file with the queue's name is there, by which it is listed.

Crash: an opener's death frees the lock; a program's death is the end of its connection. If the
broker's process itself is killed, its queue is gone with the unread messages (a persistent queue's
file holds those that were unread when the last process had closed the queue).
"""

from __future__ import annotations

import gc
import hashlib
import os
import pickle
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import NotSupported, QueueGone
from ...system import frames, interpreter, native, streams
from ...system.opened import pipe
from ..local.mailbox import Mailbox
from ..names import folders, name_files
from ..names.name_files import ABANDONED, DAMAGED, OPEN, SAVED, SILENT, Found
from ..statistics import Statistics
from . import addresses, client, connections
from .broker import Broker
from .client import Endpoint, greet, identified
from .served import Connection

if TYPE_CHECKING:
    from io import FileIO

_NO_SECRET = bytes(addresses.SECRET_BYTES)
"""A name is no secret: other users cannot connect to the address of a named broker."""


def open_named(
    name: str, maxsize: int | None, persistent: bool
) -> tuple[Endpoint, addresses.Address]:
    """Open the queue of this name, or create it.

    Raises:
        ValueError: The queue exists with another maxsize, or in shared memory.
        TimeoutError: The process that keeps it is stopped by a signal.
        PermissionError: Another user listens at its address, or there is no folder for it.
        NotSupported: The platform has no file locks.
    """
    folder = folders.names_folder()
    place = _place(folder, name)
    with name_files.locked(folder):
        name_files.check_not_odd(folder, name)
        name_files.bring(folder, name)
        _check_shared(folder, name)
        anchor = _connect(place) or _start(folder, name, place, maxsize or 0)
        address = addresses.Address(place, _NO_SECRET, b"")
        end = Endpoint(address, greet(address, anchor))
        try:
            request = frames.encode(("open", 0, maxsize, persistent))
            (status, *values), _ = anchor.exchange(request, _ANSWER_S)
        except connections.HeldUp as error:
            raise TimeoutError(f"the queue {name!r} cannot be opened: {error}") from None
        except (EOFError, ConnectionError) as error:
            raise QueueGone(f"the broker of the queue {name!r} has died ({error})") from None
        if status != "ok":
            raise ValueError(f"the queue {name!r} is in use: {values[1]}")
        address = address._replace(broker=values[0])
        return identified(end, address), address


def _check_shared(folder: str, name: str) -> None:
    """Refuse the name of a queue in shared memory: there would be two queues of one name."""
    for ending in (".ring", ".kept"):
        path = name_files.file_of(folder, name, ending)
        if os.path.lexists(path) and (ending == ".kept" or not name_files.is_file_free(path)):
            raise ValueError(
                f"the queue {name!r} was made in shared memory; this program has to use that, too "
                "(`qmill.core_info()` tells why it does not), or another name"
            )


def _place(folder: str, name: str) -> str:
    token = hashlib.sha256(f"{os.path.realpath(folder)}\0{name}".encode()).hexdigest()[:32]
    place = addresses.private_place(token)
    if not isinstance(place, str):
        raise NotSupported("named queues need Unix sockets, which this platform does not have")
    return place


def _connect(place: str) -> connections.Connection | None:
    try:
        return connections.Connection(addresses.Address(place, _NO_SECRET, b""))
    except QueueGone:
        return None


def _start(folder: str, name: str, place: str, maxsize: int) -> connections.Connection:
    """Start the broker's process and wait until it listens."""
    start = _start_interpreter if interpreter.is_known() else _fork
    told = start(folder, name, place, maxsize)
    if not told.endswith(b"ready"):  # a site's start-up may print before
        # An interrupted opener may have started another broker, which listens by now.
        if (connection := _connect(place)) is not None:
            return connection
        text = told.decode(errors="replace").strip()
        raise QueueGone(f"the broker of the queue {name!r} did not start: {text}")
    connection = _connect(place)
    if connection is None:
        raise QueueGone(f"the broker of the queue {name!r} ended at once")
    return connection


def _start_interpreter(*settings: Any) -> bytes:
    reading, writing = pipe()
    process = None
    try:
        process = interpreter.start(
            main, settings, [], stdout=writing, stderr=writing, cwd="/", start_new_session=True
        )
        writing.close()
        told = reading.readall()
        process.wait()
        return told
    except BaseException:  # Ctrl-C: the next try starts another one, at the same address
        if process is not None:
            process.kill()
            process.wait()
        raise
    finally:
        reading.close()


def _fork(*settings: Any) -> bytes:
    """Fork the broker's process, where no interpreter is known that could be started.

    Signals are blocked until `main`: a handler that raised would make the child go on as the
    program.
    """
    reading, writing = pipe()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        pid = native.fork()
        if pid == 0:
            try:
                _leave_program(writing.fileno())
                main(*settings)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    writing.close()
    with reading:
        told = reading.readall()
    os.waitpid(pid, 0)
    return told


def _leave_program(output: int) -> None:
    """Give up all that a forked broker has inherited from its program: queues, output, files."""
    streams.empty()
    client.disown()
    os.setsid()
    os.chdir("/")
    for standard in (1, 2):
        os.dup2(output, standard)
    # Not closed: objects of the program may still write to these numbers, a log handler for one.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in map(int, os.listdir("/dev/fd")):
        if descriptor > 2:
            os.dup2(nowhere, descriptor)
    sys.stdout = sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    gc.freeze()  # garbage of the program must not be finalized here, a second time


# -- listing -----------------------------------------------------------------------------------

_ANSWER_S = 5.0  # a broker needs microseconds


def found_in(folder: str) -> list[Found]:
    """List the queues in a folder, which the caller has locked."""
    found: list[Found] = []
    of_brokers = set()
    for entry in name_files.entries(folder, ".live"):
        path = os.path.join(folder, entry)
        told = _live(folder, path)
        if told.state != ABANDONED:
            of_brokers.add(entry.removesuffix(".live") + ".queue")
        found.append(told._replace(files=(path,)))
    for entry in name_files.entries(folder, ".queue"):
        if entry not in of_brokers:
            path = os.path.join(folder, entry)
            found.append(_saved(path)._replace(files=(path,)))
    return found


def _live(folder: str, path: str) -> Found:
    """Ask the broker of a file about its queue."""
    try:
        name = Path(path).read_bytes().decode("utf-8", "surrogatepass")
    except ValueError:
        name = ""
    if path != name_files.file_of(
        folder, name, ".live"
    ):  # a broker that was killed had not written it
        return Found(_shown_name(path), ABANDONED)
    return _ask(name, _place(folder, name))


def _shown_name(path: str) -> str:
    """Return the part of a queue's name that the name of its file shows."""
    return os.path.basename(path).rpartition("-")[0] or os.path.basename(path)


def _ask(name: str, place: str) -> Found:
    """Ask a broker about its queue."""
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
    is_persistent, is_left, holders, counts = told
    counts = Statistics(*counts)
    state = ABANDONED if is_left and not is_persistent else OPEN
    return Found(name, state, counts.size, counts.maxsize, is_persistent, tuple(holders))


def _saved(path: str) -> Found:
    try:
        with open(path, "rb") as file:
            saved = pickle.load(file)
        name = saved.get("name") or os.path.basename(path).removesuffix(".queue")
        return Found(name, SAVED, len(saved["payloads"]), saved["maxsize"], True)
    except Exception:  # a pickle that was cut off may raise anything
        return Found(_shown_name(path), DAMAGED, is_persistent=True)


# -- in the broker's process -------------------------------------------------------------------


class NamedBroker(Broker):
    """The broker of one named queue.

    Args:
        folder: The user's folder of names.
        name: The queue's name.
        place: The address to listen at.
        maxsize: The queue's limit, if it is new.
    """

    def __init__(self, folder: str, name: str, place: str, maxsize: int) -> None:
        super().__init__(place, _NO_SECRET)
        self.name = name
        self._folder = folder
        self._name = name
        self._file = name_files.file_of(folder, name, ".queue")
        self._live_file = name_files.file_of(folder, name, ".live")
        self.persistent = False
        self._used = False  # whether a process has had it open
        self._unlinked = False
        self._mailbox = self._load(maxsize)
        self.add(self._mailbox)

    def before_open(self, opener: Connection, maxsize: int | None, persistent: bool) -> None:
        """Begin a new queue if all processes that had it open are gone, else check its limit.

        Raises:
            ValueError: The queue is in use with another maxsize.
        """
        self._hear_good_byes(opener)
        if self._used and self.client_count == 1 and not self.persistent:
            self._begin_anew(maxsize or 0)
        if maxsize not in (None, self._mailbox.maxsize):
            raise ValueError(f"maxsize must be {self._mailbox.maxsize}, its limit, not {maxsize}")
        self._used = True
        self.persistent = self.persistent or persistent

    def _hear_good_byes(self, speaker: Connection | None = None) -> None:
        """Handle good-byes that have come and were not read yet; leaves out `speaker`.

        Args:
            speaker: A connection that is being read just now.
        """
        for connection in list(self.greeting):
            if connection is not speaker:
                connection.drain()

    def _begin_anew(self, maxsize: int) -> None:
        self._mailbox = Mailbox(maxsize)
        self.replace(0, self._mailbox)
        self._identity = os.urandom(16)
        assert self.address is not None
        self.address = self.address._replace(broker=self._identity)

    def listen(self) -> None:
        """Begin to accept clients."""
        self._remove_socket()  # a broker that was killed has left it; the opener holds the lock
        descriptor = os.open(self._live_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(self._name)
        self._listen()

    def own_listener(self) -> None:
        """Listen again after a fork, so that clients see this process's id as the broker's."""
        assert self._listener is not None
        self._listener.listen(addresses.BACKLOG)

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
        """End when no process has the queue open, unless one is just opening it."""
        if not self.greeting:
            self._on_connect(0)  # a connection may wait to be accepted
        if self.greeting:  # all anchors are among them
            return
        try:
            lock = name_files.lock(self._folder, wait=False)
        except BlockingIOError:
            self.settle_when_unlocked()
            return
        self.finish()
        self._remove_lock(lock)

    def clean_up(self) -> None:
        """Remove the lock from an empty folder; called when the broker has ended."""
        if self._unlinked:
            self._remove_lock(name_files.lock(self._folder))

    def _remove_lock(self, lock: FileIO) -> None:
        name_files.tidy(self._folder)
        lock.close()

    def settle_when_unlocked(self) -> None:
        """Call `on_settled` again once the process that holds the folder's lock releases it."""

        def wait() -> None:
            with name_files.locked(self._folder):
                pass
            self.call_soon(lambda: None)

        threading.Thread(target=wait, daemon=True).start()

    def finish(self) -> None:
        """Save a persistent queue's messages, stop listening, and end."""
        if self.persistent:
            self._save()
        self._give_up_place()

    def inspect(self) -> tuple[Any, ...]:
        """Return the facts that `list_queues` shows."""
        self._hear_good_byes()
        counts = tuple(self._mailbox.statistics())
        return self.persistent, not self.greeting, self.holders(), counts

    def on_unlink(self) -> None:
        """Remove the queue's saved messages and its file, and end."""
        self.persistent = False
        name_files.remove(self._file)
        self._give_up_place()
        self._unlinked = True

    def _give_up_place(self) -> None:
        assert self._listener is not None
        self._listener.close()
        self._remove_socket()
        name_files.remove(self._live_file)
        self.stop()

    def _remove_socket(self) -> None:
        assert isinstance(self._place, str)
        if not self._place.startswith("\0"):
            name_files.remove(self._place)


def main(folder: str, name: str, place: str, maxsize: int) -> None:
    """Run a broker, detached from the process that started it, and from its blocked signals."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    broker = NamedBroker(folder, name, place, maxsize)
    broker.listen()
    os.write(1, b"ready")
    if os.fork():
        os._exit(0)
    broker.own_listener()
    with open(os.devnull, "r+b") as nowhere:
        for standard in range(3):
            os.dup2(nowhere.fileno(), standard)
    signal.signal(signal.SIGTERM, lambda *_: broker.call_soon(broker.finish))
    broker.settle_when_unlocked()
    broker.run()
    broker.clean_up()
