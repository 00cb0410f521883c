"""The transport for any platform: a mailbox in the process that made the queue, behind a broker.

In that process a queue is a `LocalAccess`. The first time that it is pickled, or that the process
forks, the broker (broker.py) begins to listen, and a handle elsewhere is a `RemoteAccess`:

    RemoteAccess ──> Endpoint ──> sockets ──> broker thread ──> Mailbox

An `Endpoint` is this process's end of one broker, whatever the number of queues: an anchor and a
pool of connections, so that threads, and a `__del__` in the middle of a call, never share one.

A forked child shares its parent's memory as it was and nothing else: each handle notices that the
fork generation has changed, and reaches for the mailbox from outside. What that needs is imported
here, at the top: a module that another thread was importing at the fork is locked for ever.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, WeakValueDictionary, finalize

from .. import _native, serialize
from ..errors import QmillError, QueueGone, ShutDown
from . import exits, wire
from .access import Access, LocalAccess, MailboxQueue, _UnpackingReader
from .base import END, Statistics, check_name, check_new_maxsize
from .broker import Broker, end_broker, hosted_here, this_broker
from .mailbox import Mailbox

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .access import AccessReader
    from .base import Reader
    from .wire import Address, Blob

_ERRORS: dict[str, type[Exception]] = {
    error.__name__: error for error in (ShutDown, ValueError, KeyError, MemoryError, QueueGone)
}


class Connection:
    """One socket to a broker; one request under way at most."""

    def __init__(self, address: Address) -> None:
        try:
            self._sock: socket.socket = wire.connect(address)
        except (ConnectionError, FileNotFoundError) as error:
            raise _gone(error) from None
        self._frames = wire.FrameReader()

    def send(self, *head: Any, blobs: list[Blob] | None = None) -> None:
        """Send one frame."""
        parts = wire.encode(head, blobs or [])
        while parts:
            parts = wire.send_some(self._sock, parts)

    def receive(self) -> tuple[tuple[Any, ...], list[Blob]]:
        """Wait for one frame."""
        while (frame := self._frames.receive(self._sock)) is None:
            pass
        return frame

    def receive_or_cancel(self, timeout: float) -> tuple[tuple[Any, ...], list[Blob]]:
        """Wait for one frame; when time is up, for the answer to a cancellation."""
        deadline = time.monotonic() + timeout
        try:
            while (left := deadline - time.monotonic()) > 0:
                self._sock.settimeout(min(left, _native.LONGEST_WAIT_S))
                try:
                    if (frame := self._frames.receive(self._sock)) is not None:
                        return frame
                except TimeoutError:
                    continue
        finally:
            self._sock.settimeout(None)
        self.send("cancel")
        return self.receive()

    def limit_waits(self, timeout: float) -> None:
        """Have sending and receiving raise TimeoutError that take longer, in seconds."""
        self._sock.settimeout(timeout)

    def end(self) -> None:
        """End the connection for both sides, even if a forked child has a copy of the socket."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._sock.close()

    def close(self) -> None:
        """Close this process's copy of the socket."""
        self._sock.close()


def _gone(error: BaseException) -> QueueGone:
    return QueueGone(f"the process that kept the queue is gone ({error!r})")


class Endpoint:
    """This process's end of one broker."""

    def __init__(self, address: Address, anchor: Connection | None = None) -> None:
        self.address = address
        self._identity = os.urandom(16)
        self._idle: deque[Connection] = deque()
        self._anchor = anchor or Connection(address)
        try:
            self._anchor.send("hello", self._identity, True, address.broker)
        except ConnectionError as error:
            self._anchor.close()
            raise _gone(error) from None
        self._end = finalize(self, _say_bye, self._anchor, self._idle, os.getpid())
        self._end.atexit = False  # `leave` does it, after whoever may still need it
        exits.hook_exit()
        self.reader_numbers = itertools.count(1)
        self.left: dict[int, list[Any]] = {}  # of each queue: see leases.py
        self.forked_away = False

    def call(
        self,
        request: str,
        *arguments: Any,
        blobs: list[Blob] | None = None,
        timeout: float | None = None,
        acknowledge: bool = False,
    ) -> tuple[Any, list[Blob]]:
        """Make a request, and return what came back: a value and blobs, or (END, []).

        Args:
            request: Its name, as in `broker.Connection`.
            *arguments: What it takes.
            blobs: What goes with it.
            timeout: Seconds until it is cancelled; None for never.
            acknowledge: Whether to tell that the blobs, or the END, have come.

        Raises:
            QueueGone: The broker's process is gone, or the queue.
            ShutDown, ValueError, KeyError, MemoryError: As the broker says.
        """
        connection = self._connection()
        try:
            connection.send(request, *arguments, blobs=blobs)
            if timeout:
                frame = connection.receive_or_cancel(timeout)
            else:
                frame = connection.receive()
            if acknowledge and (frame[1] or frame[0][0] == "end"):
                connection.send("received")
        except (EOFError, ConnectionError) as error:
            connection.close()
            raise _gone(error) from None
        except BaseException:  # Ctrl-C: the broker takes back what this has not acknowledged
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
        """Send what has no reply, and forget it if nobody is there."""
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
        try:
            return self._idle.pop()
        except IndexError:
            connection = Connection(self.address)
        try:
            connection.send("hello", self._identity, False, self.address.broker)
        except ConnectionError as error:
            connection.close()
            raise _gone(error) from None
        return connection

    def leave(self) -> None:
        """Say good-bye, also when finalizers are over."""
        if self._end.detach() is not None:
            _say_bye(self._anchor, self._idle, os.getpid())

    def forget_in_child(self) -> None:
        """Close the parent's sockets in a forked child, without a good-bye."""
        self.forked_away = True
        self._end.detach()
        self._anchor.close()
        while self._idle:
            self._idle.pop().close()


def _say_bye(anchor: Connection, idle: deque[Connection], pid: int) -> None:
    """End the client: what it holds counts as done."""
    if pid != os.getpid():
        return
    try:
        anchor.send("bye")
    except OSError:
        pass
    anchor.end()
    while idle:
        idle.pop().end()


_endpoints: WeakValueDictionary[bytes, Endpoint] = WeakValueDictionary()
_takers: set[Endpoint] = set()
"""Ends through which this process has taken something: it is this process's until it ends.

Not those of named queues, which have to end when nobody has them open.
"""

_named: WeakSet[PortableQueue] = WeakSet()
"""Handles of named queues, which a forked child has open, too."""

_fork_generation = 0


def endpoint(address: Address) -> Endpoint:
    """Return this process's end of a broker.

    Raises:
        QueueGone: Nobody is there.
    """
    found = _endpoints.get(address.broker)
    if found is None:
        with wire.fork_lock:  # a child must find it among those to close
            found = _endpoints.get(address.broker)
            if found is None:
                found = _endpoints[address.broker] = Endpoint(address)
    return found


def identified(end: Endpoint, address: Address) -> Endpoint:
    """Register an end whose broker has told who it is; the older one wins if there is one."""
    end.address = address
    return _endpoints.setdefault(address.broker, end)


def leave() -> None:
    """End this process's part in every queue."""
    for end in list(_endpoints.values()):
        end.leave()
    _takers.clear()
    end_broker()


exits.leavers.append(leave)


def disown() -> None:
    """Have no queue open by name any more, in a process that was forked to be no part of this."""
    _named.clear()


def _after_fork_in_child() -> None:
    global _fork_generation
    _fork_generation += 1
    for end in list(_endpoints.values()):
        end.forget_in_child()
    _endpoints.clear()
    _takers.clear()
    for queue in [queue for queue in _named if not queue._closed]:
        try:
            queue._access  # noqa: B018 (it opens the queue)
        except (QmillError, OSError):
            pass  # its next call will say so


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class RemoteReader:
    """A reader whose leases are kept by a broker."""

    def __init__(self, end: Endpoint, queue_number: int) -> None:
        self._endpoint = end
        self._queue = queue_number
        self._number = next(end.reader_numbers)

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
    """A mailbox behind a broker. The methods are those of `Access`."""

    def __init__(self, end: Endpoint, queue_number: int, named: bool = False) -> None:
        self.endpoint = end
        self._queue = queue_number
        self._named = named
        self.left = end.left.setdefault(queue_number, [])

    def _call(self, request: str, *arguments: Any, blobs: list[Blob] | None = None) -> Any:
        return self.endpoint.call(request, self._queue, *arguments, blobs=blobs)[0]

    def put(self, payloads: list[Any], timeout: float | None) -> int:
        admitted, _ = self.endpoint.call(
            "put", self._queue, timeout != 0, blobs=payloads, timeout=timeout
        )
        return int(admitted)

    def get(self, limit: int, timeout: float | None, peek: bool) -> list[Any]:
        lease, blobs = self.endpoint.call(
            "get", self._queue, limit, timeout != 0, peek, timeout=timeout, acknowledge=not peek
        )
        if blobs and not peek and not self._named:
            _takers.add(self.endpoint)
        return [END] if lease is END else blobs

    def put_back(self, payloads: list[Any]) -> None:
        self._call("put_back", blobs=payloads)

    def reader(self) -> AccessReader:
        return RemoteReader(self.endpoint, self._queue)

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
            self._reached: Any = RemoteAccess(end, 0, named=True)
            _named.add(self)
        else:
            mailbox = Mailbox(limit or 0)
            self._broker = this_broker()
            self._number = self._broker.add(mailbox)
            self._reached = PortableAccess(mailbox)

    def _set_up(self) -> None:
        self._exports = serialize.Exports()
        self._definitions: dict[bytes, Any] = {}  # keeps what it has built alive
        self._generation = _fork_generation

    @classmethod
    def _attach(cls, address: Address, number: int, name: str | None) -> PortableQueue:
        """Rebuild a handle from its pickle."""
        queue: PortableQueue = object.__new__(cls)
        queue._set_up()
        queue._name = name
        queue._broker = None
        queue._address = address
        queue._number = number
        queue._reached = None
        if name is not None:  # to have it open keeps a named queue alive
            queue._reached = RemoteAccess(endpoint(address), number, named=True)
            _named.add(queue)
        return queue

    def __reduce__(self) -> Any:
        self._check_open()
        serialize.check_stays_here()
        return _attach, (self._published(), self._number, self._name)

    def _published(self) -> Address:
        """Return where other processes find the queue."""
        if self._broker is not None:
            if self._generation == _fork_generation:
                exits.hook_exit()
                return self._broker.publish(self._number)
            assert self._broker.address is not None  # it listens since before the fork
            return self._broker.address
        return self._address

    @property
    def _access(self) -> Any:
        if self._generation != _fork_generation:
            self._address = self._published()
            self._broker = None
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
            return RemoteAccess(endpoint(self._address), self._number, named=self._name is not None)
        mailbox = here.find(self._number)
        if mailbox is None:
            raise QueueGone("the queue no longer exists")
        return PortableAccess(mailbox)

    def __repr__(self) -> str:
        about = f" name={self._name!r}" if self._name is not None else ""
        if isinstance(self._reached, PortableAccess):  # elsewhere one would have to ask
            about += f" maxsize={self._reached.mailbox.maxsize}"
        return f"<qmill.Queue kind='process'{about} at {id(self):#x}>"

    def close(self) -> None:
        self._closed = True
        self._reached = None

    @property
    def name(self) -> str | None:
        return self._name

    def unlink(self) -> None:
        """Give up the queue's name and what is unread; the next to open the name begins anew.

        Who still has it open gets `QueueGone`.

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
        """Keep what `serialize.loads` has built, as long as this handle lives."""
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


def _attach(address: Address, number: int, name: str | None) -> PortableQueue:
    """Rebuild a handle from its pickle.

    A function and no class method: cloudpickle sends these by value, with the globals they use.
    """
    return PortableQueue._attach(address, number, name)
