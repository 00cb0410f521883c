"""The portable transport's `Queue`: in the process that made it, and in all others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import QueueGone
from ...packing import serialize
from ...packing.standard_library import starting
from ...system import lifecycle
from ..api import END
from ..checks import check_name, check_new_maxsize
from ..local.access import Access, LocalAccess, MailboxQueue, _UnpackingReader
from ..local.mailbox import Mailbox
from . import client
from .broker import Broker, hosted_here, this_broker
from .client import endpoint

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ...system.frames import Blob
    from ..api import Reader
    from .addresses import Address


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
        self._generation = client.fork_generation

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
            if self._generation == client.fork_generation:
                lifecycle.end_with_multiprocessing()
                return self._broker.publish()
            assert self._broker.address is not None  # it listens since before the fork
            return self._broker.address
        return self._address

    @property
    def _access(self) -> Any:
        if self._generation != client.fork_generation:
            if self._broker is not None:
                self._address = self._published()
                self._broker = self._reached = None
            elif self._reached is not None and self._reached.endpoint.forked_away:
                self._reached = None
            self._generation = client.fork_generation
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
        self._generation = client.fork_generation

    def take(self, done: int) -> tuple[int, Any]:
        if self._generation != client.fork_generation:
            _ForkAwareReader.__init__(self, self._queue)  # type: ignore[arg-type]
            done = 0
        return super().take(done)

    def done(self, lease: int) -> None:
        if self._generation == client.fork_generation:
            super().done(lease)

    def release(self, lease: int, delay: float) -> bool:
        return self._generation == client.fork_generation and super().release(lease, delay)

    def close(self, done: Iterable[int] = ()) -> None:
        if self._generation == client.fork_generation:
            super().close(done)


def _attach(
    address: Address, number: int, name: str | None, pickle: tuple[bytes, int] | None = None
) -> PortableQueue:
    """Rebuild a handle from its pickle.

    A function and no class method: cloudpickle sends these by value, with the globals they use.
    """
    return PortableQueue._attach(address, number, name, pickle)
