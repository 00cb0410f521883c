"""The transport for any platform: a mailbox in the process that made the queue, behind a broker.

In that process a queue is a `LocalAccess`. The first time that it is pickled, or that the process
forks, the broker (broker.py) begins to listen, and a handle elsewhere is a `RemoteAccess`:

    RemoteAccess ──> Endpoint ──> sockets ──> broker thread ──> Mailbox

An `Endpoint` is this process's end of one broker, for any number of queues: an anchor and a pool of
connections, so that threads, and a `__del__` in the middle of a call, never share one. Over the
anchor go notes that say which queues this process holds; the broker keeps these meanwhile.

A forked child has a copy of its parent's memory and nothing else: each handle notices that the fork
generation has changed, and connects to the mailbox from outside. The child has an anchor from
birth, made before the fork, so that its queues are held even if its parent ends. All modules that
the child needs for that are imported here, at the top: a module that another thread was importing
at the fork is locked for ever.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from _thread import get_ident
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakValueDictionary, finalize

from ...errors import Empty, Full, QueueGone, ShutDown
from ...packing import serialize
from ...packing.standard_library import starting
from ...system import frames, lifecycle, native
from ..api import END, Statistics
from ..checks import check_name, check_new_maxsize
from ..local.access import Access, LocalAccess, MailboxQueue, _UnpackingReader
from ..local.mailbox import Mailbox
from . import addresses
from .broker import Broker, hosted_here, take_born, this_broker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ...system.frames import Blob
    from ..api import Reader
    from ..local.access import AccessReader
    from .addresses import Address

_DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)  # without it, small frames may wait
_FAREWELL_S = 1.0  # a broker that runs reads in less
_HEIR_S = 1.0  # a broker that runs answers in less
_LOOK_S = 0.2  # how often to check a broker that has not answered in time

_ERRORS: dict[str, type[Exception]] = {
    error.__name__: error for error in (ShutDown, ValueError, KeyError, MemoryError, QueueGone)
}


class HeldUp(Exception):
    """A broker does not answer: its process is stopped, as the text says."""


class Connection:
    """One socket to a broker, `sock`; one request under way at most."""

    def __init__(self, address: Address, sock: socket.socket | None = None) -> None:
        try:
            self.sock: socket.socket = sock or addresses.connect(address)
        except (ConnectionError, FileNotFoundError) as error:
            raise _gone(error) from None
        self._frames = frames.FrameReader()

    def send(self, *head: Any, blobs: list[Blob] | None = None) -> None:
        """Send one frame."""
        self.send_parts(frames.encode(head, blobs or []))

    def send_parts(self, parts: list[Blob]) -> None:
        """Send the parts of a frame."""
        while parts:
            parts = frames.send_some(self.sock, parts)

    def send_now(self, parts: list[Blob]) -> list[Blob]:
        """Send as much as is possible without waiting, and return the rest."""
        try:
            while parts:
                parts = frames.send_some(self.sock, parts, _DONT_WAIT)
        except BlockingIOError:
            pass
        return parts

    def has_hung_up(self) -> bool:
        """Whether the other side has ended an anchor's connection, over which no frames come."""
        try:
            return not self.sock.recv(1, socket.MSG_PEEK | _DONT_WAIT) if _DONT_WAIT else False
        except BlockingIOError:
            return False
        except OSError:
            return True

    def receive(self) -> tuple[tuple[Any, ...], list[Blob]]:
        """Wait for one frame."""
        while (frame := self._frames.receive(self.sock)) is None:
            pass
        return frame

    def exchange(
        self, parts: list[Blob], timeout: float | None
    ) -> tuple[tuple[Any, ...], list[Blob]]:
        """Send a request and wait for the answer.

        Args:
            parts: The request.
            timeout: Seconds until the request is cancelled. 0.0: the request is one that does not
                wait, and is not cancelled. None: no limit.

        Raises:
            HeldUp: Time is up, and the broker is stopped. Without a timeout, that is logged.
        """
        if timeout:
            return self._exchange_timed(parts, timeout)
        is_told = False
        while True:
            try:
                while parts:
                    parts = frames.send_some(self.sock, parts)
                return self.receive()
            except BlockingIOError:  # no step for `addresses.LOOK_S`
                told = not is_told and self._told_if_stopped()
            if told:
                if timeout is not None:
                    raise HeldUp(told)
                is_told = True
                _warn(told)

    def _exchange_timed(
        self, parts: list[Blob], timeout: float
    ) -> tuple[tuple[Any, ...], list[Blob]]:
        deadline = time.monotonic() + timeout
        is_cancelled = False
        try:
            while True:
                left = deadline - time.monotonic()
                self.sock.settimeout(min(left, native.LONGEST_WAIT_S) if left > 0 else _LOOK_S)
                try:
                    if parts:
                        parts = frames.send_some(self.sock, parts)
                    elif (frame := self._frames.receive(self.sock)) is not None:
                        return frame
                    continue
                except TimeoutError:
                    if time.monotonic() < deadline:
                        continue
                if told := self._told_if_stopped():
                    raise HeldUp(told)
                if not parts and not is_cancelled:
                    is_cancelled = True
                    parts = frames.encode(("cancel",))
        finally:
            self.sock.settimeout(None)

    def _told_if_stopped(self) -> str | None:
        """Return the text of an error if the broker's process is stopped by a signal, else None."""
        pid = addresses.peer_pid(self.sock)
        try:
            with open(f"/proc/{pid}/stat", errors="replace") as file:
                name, _, rest = file.read().partition("(")[2].rpartition(") ")
        except OSError:  # it has ended, which the socket shows; or there is no /proc
            return None
        if rest[0] not in "Tt":
            return None
        return (
            f"process {pid} ({name}), which keeps this queue, is stopped, by SIGSTOP or a "
            "debugger: it has to go on, or to be killed"
        )

    def limit_waits(self, timeout: float | None) -> None:
        """Have every send and receive raise TimeoutError after so many seconds."""
        self.sock.settimeout(timeout)

    def end(self) -> None:
        """End the connection for both sides, even if a forked child has a copy of the socket."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()

    def close(self) -> None:
        """Close this process's copy of the socket."""
        self.sock.close()


def _warn(told: str) -> None:
    import logging  # takes as long to import as all of this, and is hardly ever needed

    logging.getLogger("qmill").warning("%s", told)


def _gone(error: BaseException) -> QueueGone:
    return QueueGone(f"the process that kept the queue is gone ({error!r})")


class Anchor:
    """The connection by which a broker knows this process: notes in order, without answers.

    Any thread may send a note at any moment, also in a garbage collection. Sending never waits: a
    note that the socket does not take is sent with the next one.
    """

    def __init__(self, connection: Connection, identity: bytes) -> None:
        self.connection = connection
        self.identity = identity
        self.unsaid: deque[list[Blob]] = deque()
        self.is_over = False
        self._lock = native.Lock()

    def say(self, *note: Any) -> None:
        """Send a note; it is dropped if the broker has ended."""
        self.unsaid.append(frames.encode(note))
        self.flush()

    def flush(self) -> None:
        """Send the notes that were not sent yet, without waiting."""
        # `unsaid` is checked again after the release, as in `Mailbox._run_put_off`.
        while self.unsaid and self._lock.acquire(False):
            try:
                while self.unsaid:
                    self.unsaid[0] = self.connection.send_now(self.unsaid[0])
                    if self.unsaid[0]:
                        return
                    self.unsaid.popleft()
            except OSError:
                self.unsaid.clear()
            finally:
                self._lock.release()

    def end(self) -> None:
        """Say good-bye and end the connection."""
        self.say("bye")
        self.is_over = True
        self.connection.limit_waits(_FAREWELL_S)
        try:
            while self.unsaid:
                self.connection.send_parts(self.unsaid.popleft())
        except OSError:
            pass
        self.connection.end()


class Heir(NamedTuple):
    """The anchor of an endpoint for a child that is about to be forked, and its holds."""

    end: Endpoint
    anchor: Anchor
    holds: set[int]


class Endpoint:
    """This process's end of one broker.

    Attributes:
        accesses: The queues that are used here, by number of the queue.
        inherited: Numbers of queues that this process has held since it was forked.
    """

    def __init__(self, address: Address, anchor: Anchor | None = None) -> None:
        self.address = address
        self.accesses: WeakValueDictionary[int, RemoteAccess] = WeakValueDictionary()
        self.inherited: tuple[int, ...] = ()
        self.numbers = itertools.count(1)
        self.pickles = itertools.count(1)
        self._use(anchor or greet(address, Connection(address)))
        lifecycle.end_with_multiprocessing()

    def _use(self, anchor: Anchor) -> None:
        self.anchor = anchor
        self._idle: deque[Connection] = deque()
        self._end = finalize(self, _say_bye, anchor, self._idle, os.getpid())
        self._end.atexit = False  # `leave` does it, when nothing needs the queues any more
        self.forked_away = False

    def access(self, queue_number: int, named: bool = False) -> RemoteAccess:
        """Return the access to a queue; the broker keeps the queue while the access exists."""
        found = self.accesses.get(queue_number)
        if found is None:
            made = RemoteAccess(self, queue_number, named)
            found = self.accesses.setdefault(queue_number, made)
        return found

    def call(
        self,
        request: str,
        *arguments: Any,
        blobs: list[Blob] | None = None,
        timeout: float | None = None,
        acknowledge: bool = False,
    ) -> tuple[Any, list[Blob]]:
        """Make a request, and return the reply: a value and blobs, or (END, []).

        Args:
            request: Its name, as in `broker.Connection`.
            *arguments: Its arguments.
            blobs: The blobs of its frame.
            timeout: See `Connection.exchange`.
            acknowledge: Whether to acknowledge that the blobs, or the END, have come.

        Raises:
            QueueGone: The broker's process is gone, or the queue.
            HeldUp: See `Connection.exchange`.
            ShutDown, ValueError, KeyError, MemoryError: The broker has replied with it.
        """
        connection = self._connection()
        try:
            frame = connection.exchange(frames.encode((request, *arguments), blobs or []), timeout)
            if acknowledge and (frame[1] or frame[0][0] == "end"):
                connection.send("received")
        except (EOFError, ConnectionError) as error:
            connection.close()
            raise _gone(error) from None
        except BaseException:  # Ctrl-C: the broker takes back a message that is not acknowledged
            connection.end()
            raise
        self._idle.append(connection)
        (status, *values), received = frame
        if status == "ok":
            return values[0], received
        if status == "end":
            return END, []
        raise _ERRORS.get(values[0], RuntimeError)(values[1])

    def tell(self, request: str, *arguments: Any) -> None:
        """Send a request that has no reply; do nothing if the broker has ended."""
        if self.forked_away:
            return
        try:
            connection = self._connection()
        except OSError:
            return
        try:
            connection.send(request, *arguments)
        except OSError:
            connection.close()
        else:
            self._idle.append(connection)

    def _connection(self) -> Connection:
        if self.anchor.unsaid:
            self.anchor.flush()
        try:
            return self._idle.pop()
        except IndexError:
            connection = Connection(self.address)
        lifecycle.end_with_multiprocessing()
        try:
            connection.send("hello", self.anchor.identity, False, self.address.broker)
        except ConnectionError as error:
            connection.close()
            raise _gone(error) from None
        return connection

    def leave(self) -> None:
        """Say good-bye; works also after the interpreter's finalizers have run."""
        if self._end.detach() is not None:
            _say_bye(self.anchor, self._idle, os.getpid())

    # -- fork -----------------------------------------------------------------------------------

    def make_heir(self) -> Heir | None:
        """Make the anchor of a child that is about to be forked; None if the child needs none."""
        if self.forked_away or not (self.accesses or self.inherited):
            return None
        try:
            connection = Connection(self.address)
            connection.limit_waits(_HEIR_S)
            anchor = greet(self.address, connection)
            holds = {access.hold: number for number, access in list(self.accesses.items())}
            for hold, number in [*holds.items(), *((-1 - n, n) for n in self.inherited)]:
                connection.send("hold", number, hold)
            connection.send("ping")
        except (OSError, QueueGone):
            return None
        return Heir(self, anchor, set(holds))

    def use_heir(self, heir: Heir | None) -> None:
        """Use the anchor that was made for this process, which was just forked."""
        self.forget_in_child()
        if heir is None:
            return
        self._use(heir.anchor)
        for number, access in list(self.accesses.items()):
            access.left = []  # the leases are the parent's
            if access.hold not in heir.holds:
                access.say_hold(number)

    def forget_in_child(self) -> None:
        """Give up the broker in a forked child, without a good-bye: the anchor is the parent's."""
        self.forked_away = True
        self._end.detach()
        self._idle.clear()


def greet(address: Address, connection: Connection) -> Anchor:
    """Make a connection an anchor."""
    anchor = Anchor(connection, os.urandom(16))
    try:
        connection.send("hello", anchor.identity, True, address.broker)
    except OSError as error:
        connection.close()
        raise _gone(error) from None
    return anchor


def _say_bye(anchor: Anchor, idle: deque[Connection], pid: int) -> None:
    """End the client: the messages that it holds count as done."""
    if pid != os.getpid():
        return
    anchor.end()
    while idle:
        idle.pop().end()


_endpoints: WeakValueDictionary[bytes, Endpoint] = WeakValueDictionary()
_takers: set[Endpoint] = set()
"""Endpoints through which `get` has taken a message: this process is their client until it ends.

Not those of named queues, whose brokers have to end when no process has them open.
"""

_inherited: list[Endpoint] = []
"""Endpoints that hold the queues which this process has inherited by a fork."""

_fork_generation = 0


def endpoint(address: Address) -> Endpoint:
    """Return this process's end of a broker.

    Raises:
        QueueGone: The broker has ended.
    """
    found = _endpoints.get(address.broker)
    if found is None:
        with native.fork_lock:  # a child must find it among those to close
            found = _endpoints.get(address.broker)
            if found is None:
                found = _endpoints[address.broker] = Endpoint(address)
    return found


def identified(end: Endpoint, address: Address) -> Endpoint:
    """Register an endpoint whose broker's identity is known now; return the older one if any."""
    end.address = address
    return _endpoints.setdefault(address.broker, end)


def _has_taken(end: Endpoint) -> None:
    """Stay a client of a broker until this process ends, or the broker."""
    if end not in _takers:
        for other in [other for other in _takers if other.anchor.connection.has_hung_up()]:
            _takers.discard(other)
        _takers.add(end)


def leave() -> None:
    """Give back this process's leases of every queue."""
    for end in list(_endpoints.values()):
        end.leave()
    _takers.clear()


def disown() -> None:
    """Give up every queue, in a forked process that is no part of this program any more."""
    addresses.close_in_child(())
    for end in list(_endpoints.values()):
        end.forget_in_child()
    _endpoints.clear()
    _inherited.clear()


_heirs: dict[int, list[Heir]] = {}
"""Of the forks under way, by thread."""


def _before_fork() -> None:
    heirs = _heirs[get_ident()] = []
    for end in list(_endpoints.values()):
        if (heir := end.make_heir()) is not None:
            heirs.append(heir)
    for heir in heirs:
        try:
            heir.anchor.connection.receive()  # else the parent might end before the queue is held
        except (OSError, EOFError):
            pass  # its broker is dead, or stopped
        heir.anchor.connection.limit_waits(None)


def _after_fork_in_parent() -> None:
    for heir in _heirs.pop(get_ident(), ()):
        heir.anchor.connection.close()


def _after_fork_in_child() -> None:
    global _fork_generation
    _fork_generation += 1
    heirs = {heir.end: heir for heir in _heirs.pop(get_ident(), ())}
    _heirs.clear()
    addresses.close_in_child([heir.anchor.connection.sock for heir in heirs.values()])
    for end in list(_endpoints.values()):
        end.use_heir(heirs.get(end))
        if end.forked_away:
            _endpoints.pop(end.address.broker, None)
    _takers.clear()
    if (born := take_born()) is not None:
        address, identity, queues, sock = born
        end = Endpoint(address, Anchor(Connection(address, sock), identity))
        end.inherited = queues
        _endpoints[address.broker] = end
        _inherited.append(end)


class RemoteReader:
    """A reader whose leases are kept by a broker."""

    def __init__(self, access: RemoteAccess, queue_number: int) -> None:
        self._access = access  # so that the queue is held while this reader exists
        self._endpoint = access.endpoint
        self._queue = queue_number
        self._number = next(self._endpoint.numbers)

    def take(self, done: int) -> tuple[int, Any]:
        """See `AccessReader`."""
        lease, blobs = self._endpoint.call(
            "take", self._queue, self._number, done, acknowledge=True
        )
        return (0, END) if lease is END else (lease, blobs[0])

    def done(self, lease: int) -> None:
        """See `AccessReader`."""
        self._endpoint.call("lease_done", self._queue, self._number, lease)

    def release(self, lease: int, delay: float) -> bool:
        """See `AccessReader`."""
        return bool(self._endpoint.call("release", self._queue, self._number, lease, delay)[0])

    def close(self, done: Iterable[int] = ()) -> None:
        """See `AccessReader`."""
        self._endpoint.tell("close_reader", self._queue, self._number, tuple(done))


class RemoteAccess:
    """A mailbox behind a broker, held while this exists. The methods are those of `Access`.

    Attributes:
        endpoint: This process's end of the broker.
        hold: The number of this hold on the queue, by which the broker knows it.
        left: The holds of loops that were left by an exception; see leases.py.
    """

    def __init__(self, end: Endpoint, queue_number: int, named: bool = False) -> None:
        self.endpoint = end
        self.hold = next(end.numbers)
        self.left: list[Any] = []
        self._queue = queue_number
        self._named = named
        self.say_hold(queue_number)

    def say_hold(self, queue_number: int) -> None:
        """Have the broker keep the queue of this number."""
        self.endpoint.anchor.say("hold", queue_number, self.hold)

    def __del__(self) -> None:
        if not (self.endpoint.forked_away or self.endpoint.anchor.is_over):
            self.endpoint.anchor.say("drop", self.hold)

    def keep(self, is_sent: bool) -> tuple[bytes, int]:
        """Have the broker keep the queue for a new pickle; return the argument for `loaded`."""
        end = self.endpoint
        number = next(end.pickles)
        end.anchor.say("keep", self._queue, number, is_sent)
        return end.anchor.identity, number

    def loaded(self, pickle: tuple[bytes, int] | None) -> None:
        """Tell the broker that a pickle was loaded: it need not keep the queue for it any more.

        Args:
            pickle: The identity of the process that made it, and its number. None: the sender of
                the pickle keeps the queue, so this waits until the broker has noted the hold.
        """
        if pickle is not None:
            self.endpoint.anchor.say("loaded", pickle)
        else:
            self.settle()

    def _call(self, request: str, *arguments: Any, blobs: list[Blob] | None = None) -> Any:
        return self.endpoint.call(request, self._queue, *arguments, blobs=blobs)[0]

    def put(self, payloads: list[Any], timeout: float | None) -> int:
        try:
            admitted, _ = self.endpoint.call(
                "put",
                self._queue,
                timeout != 0,
                timeout is not None,
                blobs=payloads,
                timeout=timeout,
            )
        except HeldUp as error:
            raise Full(*error.args) from None
        return int(admitted)

    def get(self, limit: int, timeout: float | None, peek: bool) -> list[Any]:
        try:
            lease, blobs = self.endpoint.call(
                "get", self._queue, limit, timeout != 0, peek, timeout=timeout, acknowledge=not peek
            )
        except HeldUp as error:
            raise Empty(*error.args) from None
        if blobs and not peek and not self._named:
            _has_taken(self.endpoint)
        return [END] if lease is END else blobs

    def put_back(self, payloads: list[Any]) -> None:
        self._call("put_back", blobs=payloads)

    def reader(self) -> AccessReader:
        return RemoteReader(self, self._queue)

    def end(self, number: int, tag: bytes) -> None:
        self._call("end", number, tag)

    def withdraw_ends(self, tag: bytes) -> int:
        return int(self._call("withdraw_ends", tag))

    def task_done(self) -> None:
        self._call("task_done")

    def join(self) -> None:
        self._call("join")

    def shutdown(self, immediate: bool) -> None:
        self._call("shutdown", bool(immediate))

    def is_shutdown(self) -> bool:
        return bool(self._call("is_shutdown"))

    def set_maxsize(self, maxsize: int) -> None:
        self._call("set_maxsize", maxsize)

    def settle(self) -> None:
        self._call("settle")

    def full(self) -> bool:
        return bool(self._call("full"))

    def statistics(self) -> Statistics:
        return Statistics(*self._call("statistics"))

    def set_aside(self, only_new: bool) -> list[tuple[int, Any]]:
        numbers, payloads = self.endpoint.call("set_aside", self._queue, only_new)
        return list(zip(numbers, payloads, strict=True))

    def requeue(self, number: int) -> bool:
        return bool(self._call("requeue", number))

    def define(self, definitions: dict[bytes, bytes]) -> None:
        """Give the queue definitions that messages will refer to."""
        self._call("define", list(definitions), blobs=list(definitions.values()))

    def fetch(self, key: bytes) -> Blob:
        """Return a definition, or raise KeyError."""
        return self.endpoint.call("fetch", self._queue, key)[1][0]

    def unlink(self) -> None:
        """Give up the queue's name."""
        self._call("unlink")


class PortableAccess(LocalAccess):
    """A mailbox in this process, with its broker and definitions."""

    def settle(self) -> None:
        this_broker().settle()

    def keep(self, is_sent: bool) -> tuple[bytes, int]:
        """See `RemoteAccess`."""
        return this_broker().keep(self.mailbox, is_sent)

    def loaded(self, pickle: tuple[bytes, int] | None) -> None:
        """See `RemoteAccess`."""
        if pickle is not None:
            broker = this_broker()
            broker.call_soon(lambda: broker.loaded(pickle))

    def define(self, definitions: dict[bytes, bytes]) -> None:
        """Give the queue definitions that messages will refer to."""
        self.mailbox.definitions.update(definitions)

    def fetch(self, key: bytes) -> Blob:
        """Return a definition, or raise KeyError."""
        found: Blob = self.mailbox.definitions[key]
        return found


class PortableQueue(MailboxQueue):
    """A queue kept by the process that made it, or under a name. See `qmill.Queue`."""

    def __init__(
        self,
        maxsize: int | None = None,
        *,
        kind: str = "process",
        name: str | None = None,
        persistent: bool = False,
    ) -> None:
        limit = check_new_maxsize(maxsize)
        self._name = check_name(name)
        if persistent and name is None:
            raise ValueError("persistent=True needs a name, by which the queue is found again")
        self._set_up()
        self._broker: Broker | None = None
        if name is not None:
            from .named_broker import open_named

            end, self._address = open_named(name, limit, bool(persistent))
            self._number = 0
            self._reached: Any = end.access(0, named=True)
        else:
            mailbox = Mailbox(limit or 0)
            self._broker = this_broker()
            self._number = self._broker.add(mailbox)
            self._reached = PortableAccess(mailbox)

    def _set_up(self) -> None:
        self._exports = serialize.Exports()
        self._definitions: dict[bytes, Any] = {}  # keeps the objects built from them alive
        self._generation = _fork_generation

    @classmethod
    def _attach(
        cls,
        address: Address,
        number: int,
        name: str | None,
        pickle: tuple[bytes, int] | None = None,
    ) -> PortableQueue:
        """Rebuild a handle from its pickle."""
        queue: PortableQueue = object.__new__(cls)
        queue._set_up()
        queue._name = name
        queue._broker = None
        queue._address = address
        queue._number = number
        queue._reached = None
        try:
            queue._reached = queue._reach()  # from now on it is held here
            if name is None:
                queue._reached.loaded(pickle)
        except (QueueGone, OSError):
            if name is not None:
                raise
            # The next call of the queue will raise it.
        return queue

    def __reduce__(self) -> Any:
        self._check_open()
        serialize.check_stays_here()
        return _attach, (self._published(), self._number, self._name, self._keep())

    def _keep(self) -> tuple[bytes, int] | None:
        """Have the queue kept for a new pickle, unless its sender keeps it."""
        packing = serialize.packing
        if self._name is not None or (packing.num_kept and starting.heir is None):
            return None
        try:
            pickle: tuple[bytes, int] = self._access.keep(
                bool(packing.depth or starting.heir is not None)
            )
        except QueueGone:  # its receiver will learn it
            return None
        return pickle

    def _published(self) -> Address:
        """Return the address at which other processes find the queue."""
        if self._broker is not None:
            if self._generation == _fork_generation:
                lifecycle.end_with_multiprocessing()
                return self._broker.publish()
            assert self._broker.address is not None  # it listens since before the fork
            return self._broker.address
        return self._address

    @property
    def _access(self) -> Any:
        if self._generation != _fork_generation:
            if self._broker is not None:
                self._address = self._published()
                self._broker = self._reached = None
            elif self._reached is not None and self._reached.endpoint.forked_away:
                self._reached = None
            self._generation = _fork_generation
        reached = self._reached
        if reached is None:
            self._check_open()
            reached = self._reached = self._reach()
        return reached

    def _reach(self) -> Access:
        here = hosted_here(self._address)
        if here is None:
            return endpoint(self._address).access(self._number, named=self._name is not None)
        mailbox = here.find(self._number)
        if mailbox is None:
            raise QueueGone("the queue no longer exists")
        return PortableAccess(mailbox)

    def __repr__(self) -> str:
        about = f" name={self._name!r}" if self._name is not None else ""
        if isinstance(self._reached, PortableAccess):  # elsewhere this would need a request
            about += f" maxsize={self._reached.mailbox.maxsize}"
        return f"<qmill.Queue kind='process'{about} at {id(self):#x}>"

    def close(self) -> None:
        self._closed = True
        self._reached = None

    @property
    def name(self) -> str | None:
        return self._name

    def unlink(self) -> None:
        """Give up the queue's name and its unread objects; the next to open the name begins anew.

        Handles that are still open raise `QueueGone`.

        Raises:
            ValueError: The queue has no name.
        """
        self._check_open()
        if self._name is None:
            raise ValueError(f"{self!r} has no name to unlink")
        self._access.unlink()

    # -- objects and payloads ---------------------------------------------------------------------

    def _pack(self, obj: Any) -> bytes | bytearray:
        packed = serialize.dumps(obj, self._exports)
        if self._exports.pending:
            pending = self._exports.pending.copy()
            self._access.define(pending)
            self._exports.sent(list(pending))
        return packed

    def _unpack(self, payload: Any, peeked: bool = False) -> Any:
        if payload is END:
            return END
        if peeked and not isinstance(payload, bytes):
            payload = bytearray(payload)  # the object must not share memory with the message
        return serialize.loads(payload, self)

    def fetch(self, key: bytes) -> bytes:
        """Return a definition for `serialize.loads`."""
        return bytes(self._access.fetch(key))

    def keep(self, key: bytes, built: Any) -> None:
        """Keep an object that `serialize.loads` has built, as long as this handle lives."""
        self._definitions[key] = built

    def _reader(self) -> Reader:
        self._check_open()
        return _ForkAwareReader(self)


class _ForkAwareReader(_UnpackingReader):
    """A reader that begins anew in a forked child: the leases are the parent's."""

    def __init__(self, queue: PortableQueue) -> None:
        super().__init__(queue, queue._access.reader())
        self._generation = _fork_generation

    def take(self, done: int) -> tuple[int, Any]:
        if self._generation != _fork_generation:
            _ForkAwareReader.__init__(self, self._queue)  # type: ignore[arg-type]
            done = 0
        return super().take(done)

    def done(self, lease: int) -> None:
        if self._generation == _fork_generation:
            super().done(lease)

    def release(self, lease: int, delay: float) -> bool:
        return self._generation == _fork_generation and super().release(lease, delay)

    def close(self, done: Iterable[int] = ()) -> None:
        if self._generation == _fork_generation:
            super().close(done)


def _attach(
    address: Address, number: int, name: str | None, pickle: tuple[bytes, int] | None = None
) -> PortableQueue:
    """Rebuild a handle from its pickle.

    A function and no class method: cloudpickle sends these by value, with the globals they use.
    """
    return PortableQueue._attach(address, number, name, pickle)


lifecycle.at_exit(lifecycle.CLIENTS, leave)
lifecycle.at_fork(
    lifecycle.CLIENTS,
    before=_before_fork,
    in_parent=_after_fork_in_parent,
    in_child=_after_fork_in_child,
)
