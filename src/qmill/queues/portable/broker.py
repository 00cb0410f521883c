"""The broker: one thread that serves this process's mailboxes to other processes.

    other process                          this process
    ─────────────                          ────────────
    anchor ──────────────────────────────> "this client lives"
    connection ── request ───────────────> broker thread ──> Mailbox
               <─ reply ────────────────── the thread that answers the call: the broker
                                           thread, or a thread of this process that puts

A client is a process. It has one *anchor*, a connection that carries only notes on the queues it
holds and its good-bye, and any number of connections with one request under way each. Its messages
are settled when the anchor ends: those under a lease go back, and without a good-bye with one more
death; those that it took otherwise count as done, and without a good-bye as lost.

The broker never waits for one client: sockets do not block, the rest of a reply that does not fit
waits in its connection, and a client that is stopped or slow keeps only itself waiting.

A mailbox lives as long as it can be reached: from a handle in this process; from a client, whose
notes on its anchor say which queues it holds; or from a pickle that has not been loaded yet (see
`Kept`). A child that is forked has an anchor from birth, which holds the queues of this process.

Invariants:
- a reply is written by the thread that answers the call, and a connection has one call at most, so
  no two threads write to one socket;
- a connection ends for the mailbox before its socket is closed, whose number may be used again;
- records sent in a reply are given back unless the client acknowledges that they have come.
"""

from __future__ import annotations

import itertools
import os
import selectors
import socket
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

from ...packing.explain import shown
from ...system import lifecycle, native, threads
from ..leases import log_set_aside
from ..local.mailbox import Mailbox
from . import addresses
from .served import Connection, Kept, RemoteClient, complain

if TYPE_CHECKING:
    from collections.abc import Callable


_RETRY_S = 0.1  # seconds until the next try to accept, without a free descriptor
_END_GRACE_S = 1.0  # the broker's thread needs microseconds, unless the machine is starved


class Born(NamedTuple):
    """The state of the parent's broker in a forked child."""

    address: addresses.Address
    identity: bytes  # the child's
    queues: tuple[int, ...]  # that it holds
    anchor: socket.socket


class Broker:
    """Serves mailboxes by number.

    Args:
        place: The address to listen at; None for a private one.
        secret: The bytes with which a connection begins; None for random ones.
    """

    def __init__(
        self, place: str | tuple[str, int] | None = None, secret: bytes | None = None
    ) -> None:
        self._identity = os.urandom(16)
        self._place = place
        self._secret = secret or os.urandom(addresses.SECRET_BYTES)
        self._numbers = itertools.count()
        self._mailboxes: dict[int, ref[Mailbox]] = {}
        self._kept = Kept()  # for pickles that this process has made
        self._pickles = itertools.count(1)
        self._clients: dict[bytes, RemoteClient] = {}
        self._calls: deque[Callable[[], None]] = deque()
        self.greeting: set[Connection] = set()  # of no client yet; and all anchors
        self._settled: list[Callable[[], None]] = []  # called after the present round of events
        self._delaying: set[ref[Mailbox]] = set()  # those in which something may be delayed
        self._accepting = True
        self._starved = False  # of descriptors, at the last try to accept
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._running = False
        self.address: addresses.Address | None = None
        self.name: str | None = None

    def add(self, mailbox: Mailbox) -> int:
        """Give a mailbox a number; the caller keeps it alive."""
        number = next(self._numbers)
        # The callback is no Python function: a signal handler could run in one.
        self._mailboxes[number] = ref(mailbox, partial(self._mailboxes.pop, number))
        self._watch_delays(mailbox)
        return number

    def replace(self, number: int, mailbox: Mailbox) -> None:
        """Put another mailbox in the place of one."""
        self._mailboxes[number] = ref(mailbox)
        self._watch_delays(mailbox)

    def _watch_delays(self, mailbox: Mailbox) -> None:
        weak = ref(mailbox)

        def on_delay() -> None:
            self._delaying.add(weak)
            if self._running:  # its thread may just be about to forget it
                self.call_soon(lambda: self._delaying.add(weak))

        mailbox.on_delay = on_delay

    def find(self, number: int) -> Mailbox | None:
        """Return a mailbox by its number, if it still exists."""
        found = self._mailboxes.get(number)
        return found() if found is not None else None

    def publish(self) -> addresses.Address:
        """Let other processes reach the mailboxes here."""
        with native.fork_lock:
            address = self._listen()
            self._start_thread()
            return address

    def keep(self, mailbox: Mailbox, is_sent: bool) -> tuple[bytes, int]:
        """Keep a mailbox for a new pickle of this process; return the argument for `loaded`."""
        number = next(self._pickles)
        self._kept.add(number, mailbox, is_sent)
        return b"", number

    def loaded(self, pickle: tuple[bytes, int]) -> None:
        """Release the mailbox that was kept for a pickle: the pickle was loaded.

        Args:
            pickle: The identity of the client that made it, empty for this process; its number.
        """
        identity, number = pickle
        if not identity:
            self._kept.loaded(number)
        elif (client := self._clients.get(identity)) is not None:
            client.kept.loaded(number)

    # -- the loop -------------------------------------------------------------------------------

    def _listen(self) -> addresses.Address:
        if self.address is None:
            place = self._place or addresses.private_place(self._identity.hex())
            self._listener = addresses.listen(place)
            self._listener.setblocking(False)
            if not isinstance(place, str):
                place = self._listener.getsockname()
            native.check_threads("a queue that is not in shared memory")
            self._selector = native.default_selector()
            self._wake_in, self._wake_out = native.socketpair()
            self._wake_in.setblocking(False)
            self._wake_out.setblocking(False)
            self._selector.register(self._wake_in, selectors.EVENT_READ, self._on_wake)
            self._selector.register(self._listener, selectors.EVENT_READ, self._on_connect)
            self.address = addresses.Address(place, self._secret, self._identity)
        return self.address

    def _start_thread(self) -> None:
        if self._thread is None:
            self._thread = threads.Thread(self.run, "qmill-broker")
            self._thread.start()

    def run(self) -> None:
        """Serve until `stop`; clients whose requests are not answered then get an end of stream."""
        self._running = True
        try:
            while self._running:
                for key, events in self._selector.select(self._patience()):
                    try:
                        key.data(events)
                    except Exception:  # no error with one client may stop the others
                        complain("the queue broker met an error")
                self._accept_again()
                self._admit_due()
                while self._settled:
                    self._settled.pop()()
                self.on_settled()
        finally:
            self._close_sockets()

    def _admit_due(self) -> None:
        for weak in list(self._delaying):
            if (mailbox := weak()) is not None:
                mailbox.admit_due()

    def _patience(self) -> float | None:
        """Return the most seconds to wait for events: until a delay is over or a retry is due."""
        least = None if self._accepting else _RETRY_S
        for weak in list(self._delaying):
            mailbox = weak()
            due = mailbox.next_due() if mailbox is not None else None
            if due is None:
                self._delaying.discard(weak)
            elif least is None or due < least:
                least = due
        return least

    def stop(self) -> None:
        """Make `run` return; called by its own thread."""
        self._running = False

    def on_settled(self) -> None:
        """Called after each round of events; a named broker ends itself here."""

    def on_unlink(self) -> None:
        """Called when a client gives up the queue's name."""
        raise ValueError("the queue has no name to unlink")

    def end(self) -> None:
        """Finish the present round of events, and stop: answers under way still arrive."""
        thread = self._thread
        if thread is not None and thread.is_alive():
            self.call_soon(self.stop)
            thread.join(_END_GRACE_S)

    def settle(self) -> None:
        """Wait until the broker has handled all requests that have come to its sockets."""
        thread = self._thread
        if thread is not None and thread.is_alive():
            done = threading.Event()
            self.call_soon(lambda: self.when_settled(done.set))
            while not done.wait(_END_GRACE_S) and thread.is_alive():
                pass

    def when_settled(self, call: Callable[[], None]) -> None:
        """Make a call after this round of events; by the broker's thread."""
        self._settled.append(call)

    def call_soon(self, call: Callable[[], None]) -> None:
        """Have the broker's thread make a call."""
        self._calls.append(call)
        try:
            self._wake_out.send(b"\0")
        except BlockingIOError:
            pass  # it has been woken often enough

    def _on_wake(self, events: int) -> None:
        self._wake_in.recv(4096)
        while self._calls:
            self._calls.popleft()()

    def _on_connect(self, events: int) -> None:
        assert self._listener is not None
        with native.fork_lock:  # a child must find the socket among those to close
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError:  # no more file descriptors: try again when one may be free
                if not self._starved:
                    complain("the queue broker cannot accept a connection until this ends")
                self._selector.unregister(self._listener)
                self._accepting, self._starved = False, True
                return
            self._starved = False
            if not any(self._secret) and not addresses.same_user(sock):  # the name is no secret
                sock.close()
                return
            sock.setblocking(False)
            connection = Connection(self, sock)
        connection.watch()

    def _accept_again(self) -> None:
        if not self._accepting and self._listener is not None:
            self._accepting = True
            self._selector.register(self._listener, selectors.EVENT_READ, self._on_connect)

    def watch(self, connection: Connection) -> None:
        """Call the connection when something has come."""
        self._selector.register(connection.sock, selectors.EVENT_READ, connection.on_event)

    def forget(self, sock: socket.socket) -> None:
        """Stop watching a socket, which is about to be closed."""
        self._selector.unregister(sock)

    def watch_writing(self, connection: Connection, wanted: bool) -> None:
        """Call the connection also when its socket takes more."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0)
        self._selector.modify(connection.sock, events, connection.on_event)

    # -- clients --------------------------------------------------------------------------------

    def before_open(self, opener: Connection, maxsize: int | None, persistent: bool) -> None:
        """Called when a client opens the queue by its name."""
        raise ValueError("the queue has no name to open it by")

    def inspect(self) -> tuple[Any, ...]:
        """Called when a process lists named queues; a named broker returns facts on its queue."""
        raise ValueError("the queue has no name to list it by")

    def holders(self) -> list[int]:
        """List the processes that have a queue of this broker open, if the platform knows them."""
        pids = (addresses.peer_pid(each.sock) for each in self.greeting if each.is_anchor)
        return sorted(pid for pid in pids if pid is not None)

    def is_secret(self, secret: bytes) -> bool:
        """Whether these bytes are the secret of this broker."""
        return addresses.secrets_equal(secret, self._secret)

    def is_called(self, identity: bytes) -> bool:
        """Whether a client means this broker; when it opens a name, it does not know the identity.

        Args:
            identity: The broker's identity as the client knows it, or empty.
        """
        return not identity or identity == self._identity

    def client(self, identity: bytes) -> RemoteClient:
        """Return the client of this identity, new or known."""
        found = self._clients.get(identity)
        if found is None:
            found = self._clients[identity] = RemoteClient()
        return found

    def client_ended(self, identity: bytes, clean: bool) -> None:
        """Settle a process's messages, after all requests that it has sent were handled."""
        client = self._clients.pop(identity, None)
        if client is None:
            return
        for connection in list(client.connections):
            connection.drain_and_close()
        for mailbox in client.mailboxes:
            readers = [reader for box, reader in client.readers.values() if box is mailbox]
            for record in mailbox.client_gone(client, readers, clean):
                log_set_aside(self.name, shown(record.payload), record.deaths)
        client.held, client.kept = {}, Kept()  # its last connection may be in hand for a while

    @property
    def client_count(self) -> int:
        """The number of processes that have a queue of this broker open."""
        return len(self._clients)

    # -- fork -----------------------------------------------------------------------------------

    def before_fork(self) -> Born | None:
        """Register the child as a client that holds every mailbox; None if there is no mailbox."""
        held = {-1 - n: box for n in self._mailboxes.copy() if (box := self.find(n)) is not None}
        if not held:
            return None
        address, identity = self._listen(), os.urandom(16)
        ours, theirs = native.socketpair()
        ours.setblocking(False)
        connection = Connection(self, ours, identity)
        self.client(identity).held = held
        self.call_soon(connection.watch)
        return Born(address, identity, tuple(-1 - hold for hold in held), theirs)

    def after_fork_in_parent(self) -> None:
        """Start the thread that the child may need."""
        if self.address is not None:
            self._start_thread()

    def after_fork_in_child(self) -> None:
        """Close the parent's sockets here; `address` stays, by which the parent is reached."""
        self._thread = None
        if self.address is not None:
            self._close_sockets()

    def _close_sockets(self) -> None:
        self._selector.close()
        for sock in (self._listener, self._wake_in, self._wake_out):
            if sock is not None:
                sock.close()
        connections = [c for client in self._clients.values() for c in client.connections]
        for connection in [*connections, *self.greeting]:
            connection.sock.close()


# -- this process's broker ---------------------------------------------------------------------

_broker: Broker | None = None
_broker_lock = native.Lock()
_born: Born | None = None
"""Of the fork under way."""


def this_broker() -> Broker:
    """Return the broker of this process, which does nothing until something is published."""
    global _broker
    with _broker_lock:
        if _broker is None:
            _broker = Broker()
        return _broker


def end_broker() -> None:
    """End this process's broker."""
    if _broker is not None:
        _broker.end()


def hosted_here(address: addresses.Address) -> Broker | None:
    """Return this process's broker if the address is its own."""
    if _broker is not None and _broker.address == address:
        return _broker
    return None


def take_born() -> Born | None:
    """Return a forked child's share in its parent's broker; None when called again."""
    global _born
    born, _born = _born, None
    return born


def _before_fork() -> None:
    global _born
    if _broker is not None:
        _born = _broker.before_fork()


def _after_fork_in_parent() -> None:
    if (born := take_born()) is not None:
        born.anchor.close()
    if _broker is not None:
        _broker.after_fork_in_parent()


def _after_fork_in_child() -> None:
    global _broker, _broker_lock
    _broker_lock = native.Lock()
    broker, _broker = _broker, None
    if broker is not None:
        broker.after_fork_in_child()


lifecycle.at_exit(lifecycle.BROKER, end_broker)
lifecycle.at_fork(
    lifecycle.BROKER,
    before=_before_fork,
    in_parent=_after_fork_in_parent,
    in_child=_after_fork_in_child,
)
