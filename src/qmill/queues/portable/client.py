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
import threading
from _thread import get_ident
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakValueDictionary, finalize

from ...errors import Empty, Full, QueueGone
from ...system import frames, lifecycle, native
from ..api import END
from ..statistics import Statistics
from . import addresses
from .broker import take_born
from .connections import ERRORS, Anchor, Connection, HeldUp, queue_gone

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ...system.frames import Blob
    from ..local.access import AccessReader
    from .addresses import Address


_HEIR_S = 1.0  # a broker that runs answers in less


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
        has_left: Whether it has said good-bye, as the process ends.
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
        self.has_left = False
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
            if self.has_left and _may_wait_for_ever():
                _wait_for_the_end()
            raise queue_gone(error) from None
        except BaseException:  # Ctrl-C: the broker takes back a message that is not acknowledged
            connection.end()
            raise
        self._idle.append(connection)
        (status, *values), received = frame
        if status == "ok":
            return values[0], received
        if status == "end":
            return END, []
        raise ERRORS.get(values[0], RuntimeError)(values[1])

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
            raise queue_gone(error) from None
        return connection

    def leave(self) -> None:
        """Say good-bye; works also after the interpreter's finalizers have run."""
        self.has_left = True
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


def _may_wait_for_ever() -> bool:
    """Whether this thread is a daemon, and no greenlet: Python has joined the other threads."""
    return get_ident() != threading.main_thread().ident and not native.has_greenlets()


def _wait_for_the_end() -> None:
    """Keep a daemon thread waiting while the process ends, as it did before the good-bye.

    An exception would be printed, and CPython aborts a process if two threads print at its end.
    """
    lock = native.Lock()
    lock.acquire()
    lock.acquire()


def greet(address: Address, connection: Connection) -> Anchor:
    """Make a connection an anchor."""
    anchor = Anchor(connection, os.urandom(16))
    try:
        connection.send("hello", anchor.identity, True, address.broker)
    except OSError as error:
        connection.close()
        raise queue_gone(error) from None
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

fork_generation = 0


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
    global fork_generation
    fork_generation += 1
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


lifecycle.at_exit(lifecycle.CLIENTS, leave)
lifecycle.at_fork(
    lifecycle.CLIENTS,
    before=_before_fork,
    in_parent=_after_fork_in_parent,
    in_child=_after_fork_in_child,
)
