"""The broker's side of a connection: it reads requests, and answers them when it can."""

from __future__ import annotations

import selectors
import socket
import threading
from typing import TYPE_CHECKING, Any

from ...errors import ShutDown
from ...system import frames
from ...system.alive import Alive
from ..api import END
from ..local.calls import Client, GetCall, JoinCall, MailReader, PutCall, Record
from ..local.mailbox import Mailbox
from . import addresses

if TYPE_CHECKING:
    from .broker import Broker


_KEPT_SENT = 256
_KEPT_PICKLED = 16


class Kept:
    """Mailboxes that are kept for pickles of one process until each pickle was loaded once.

    As some pickles are never loaded, only the last few are kept: 256 that went into messages and
    jobs, which are read as a rule, and 16 that `pickle.dumps` itself made.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a collection of garbage may pickle a queue meanwhile
        self._sent: dict[int, Mailbox] = {}  # by number of the pickle, the older ones first
        self._pickled: dict[int, Mailbox] = {}
        self._last = 0
        self._early: set[int] = set()  # pickles loaded before the note of their sender has come

    def add(self, pickle: int, mailbox: Mailbox, is_sent: bool) -> None:
        """Keep a mailbox for a pickle with this number; the numbers of a process ascend."""
        line, limit = (self._sent, _KEPT_SENT) if is_sent else (self._pickled, _KEPT_PICKLED)
        with self._lock:
            self._last = max(self._last, pickle)
            if pickle in self._early:
                self._early.remove(pickle)
                return
            line[pickle] = mailbox
            while len(line) > limit:
                line.pop(next(iter(line)), None)

    def loaded(self, pickle: int) -> None:
        """Release the mailbox that was kept for a pickle."""
        with self._lock:
            if pickle > self._last:
                self._early.add(pickle)
            self._sent.pop(pickle, None)
            self._pickled.pop(pickle, None)

    def __len__(self) -> int:
        return len(self._sent) + len(self._pickled)


class RemoteClient(Client):
    """A process at the other end of sockets, with the mailboxes and leases that it holds here."""

    __slots__ = ("anchored", "connections", "held", "kept", "mailboxes", "readers")

    def __init__(self) -> None:
        self.anchored = False
        self.connections: set[Connection] = set()
        self.held: dict[int, Mailbox] = {}  # by number of the hold
        self.kept = Kept()
        self.mailboxes = Alive()  # those that it has used
        self.readers: dict[tuple[int, int], tuple[Mailbox, MailReader]] = {}


class Connection:
    """One socket of a client: reads requests, and keeps bytes that could not be written yet."""

    def __init__(self, broker: Broker, sock: socket.socket, heir: bytes = b"") -> None:
        self.sock = sock
        self._broker = broker
        self._frames = frames.FrameReader()
        self._secret = b""
        self._identity: bytes | None = None
        self._client: RemoteClient | None = None
        self.is_anchor = False
        self._clean = False
        self._pending: tuple[Mailbox, GetCall | PutCall | JoinCall] | None = None
        self._unsent: list[frames.Blob] = []
        self._open = True
        broker.greeting.add(self)
        if heir:
            self._secret = bytes(addresses.SECRET_BYTES)
            self._join(heir, True)

    # -- events ---------------------------------------------------------------------------------

    def watch(self) -> None:
        """Begin to read."""
        self._broker.watch(self)

    def on_event(self, events: int) -> None:
        """Write the rest of a reply if the socket takes it, and handle the requests that came."""
        if not self._open:
            return
        if events & selectors.EVENT_WRITE:
            self._write_rest()
        if events & selectors.EVENT_READ:
            self.drain()  # handle all of them, so that one round of events settles a death

    def _read(self) -> bool:
        """Handle up to one frame; False when there is nothing more to read now."""
        try:
            if len(self._secret) < addresses.SECRET_BYTES:
                return self._read_secret()
            while (frame := self._frames.receive(self.sock)) is None:
                pass
            self._handle(*frame)
            return self._open
        except BlockingIOError:
            return False
        except frames.TooLargeError:
            self._fail(MemoryError("no memory for the message in the process of the queue"))
            return True
        except (EOFError, OSError):
            pass
        except Exception:
            complain("the queue broker drops a connection that it cannot make sense of")
        self.close()
        return False

    def _read_secret(self) -> bool:
        got = self.sock.recv(addresses.SECRET_BYTES - len(self._secret))
        if not got:
            raise EOFError
        self._secret += got
        if len(self._secret) == addresses.SECRET_BYTES and not self._broker.is_secret(self._secret):
            raise EOFError
        return True

    def drain(self) -> None:
        """Handle all requests that have come."""
        while self._open and self._read():
            pass

    def drain_and_close(self) -> None:
        """Handle all requests that have come before the end, and close."""
        self.drain()
        self.close()

    def close(self) -> None:
        """End the connection; with an anchor, the client, too."""
        if not self._open:
            return
        self._open = False
        # First abandon the call: the thread that answers it would write to this socket, whose
        # number the next connection may get.
        if self._pending is not None:
            mailbox, call = self._pending
            self._pending = None
            mailbox.abandon(call)
        self._broker.greeting.discard(self)
        self._broker.forget(self.sock)
        self.sock.close()
        client = self._client
        if client is None or self._identity is None:
            return
        client.connections.discard(self)
        if self.is_anchor:
            self._broker.client_ended(self._identity, self._clean)
        elif not client.anchored and not client.connections:
            # The client's anchor had ended before this connection came.
            self._broker.client_ended(self._identity, False)

    def _is_there(self) -> bool:
        """Whether the other side still has its end open; called by any thread."""
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    # -- writing --------------------------------------------------------------------------------

    def _reply(self, *head: Any, blobs: list[frames.Blob] | None = None) -> None:
        """Send a reply; called by any thread, never blocks."""
        parts = frames.encode(head, blobs or [])
        try:
            while parts:
                parts = frames.send_some(self.sock, parts)
        except BlockingIOError:
            self._unsent = parts
            self._broker.call_soon(self._write_rest)
        except OSError:
            pass  # its end is read in its turn

    def _write_rest(self) -> None:
        if not self._open:
            return
        try:
            while self._unsent:
                self._unsent = frames.send_some(self.sock, self._unsent)
        except BlockingIOError:
            self._broker.watch_writing(self, True)
        except OSError:
            self.close()
        else:
            self._broker.watch_writing(self, False)

    def _fail(self, error: Exception) -> None:
        self._reply("error", type(error).__name__, str(error))

    # -- requests -------------------------------------------------------------------------------

    def _handle(self, head: tuple[Any, ...], blobs: list[frames.Blob]) -> None:
        request, *arguments = head
        if request == "hello":
            self._hello(*arguments)
        elif self._client is None:
            raise frames.FrameError(f"{request!r} before 'hello'")
        elif request == "bye":
            self._clean = True
        elif request == "cancel":
            self._cancel()
        elif request in ("hold", "drop", "keep", "loaded", "ping"):
            getattr(self, f"_on_{request}")(self._client, *arguments)
        elif request == "received":
            self._pending = None
        else:
            self._pending = None
            number, *arguments = arguments
            mailbox = self._broker.find(number)
            if mailbox is None:
                self._reply("error", "QueueGone", "the queue no longer exists")
                return
            self._client.mailboxes.add(mailbox)
            try:
                getattr(self, f"_on_{request}")(mailbox, blobs, number, *arguments)
            except (ShutDown, ValueError) as error:
                self._fail(error)

    def _hello(self, identity: bytes, is_anchor: bool, broker: bytes) -> None:
        if not self._broker.is_called(broker):
            raise EOFError  # an old handle of a name under which there is a new queue
        self._join(identity, is_anchor)

    def _join(self, identity: bytes, is_anchor: bool) -> None:
        self._identity = identity
        self._client = self._broker.client(identity)
        self.is_anchor = is_anchor
        if is_anchor:
            self._client.anchored = True
        else:
            self._client.connections.add(self)
            self._broker.greeting.discard(self)

    def _on_hold(self, client: RemoteClient, number: int, hold: int) -> None:
        if (mailbox := self._broker.find(number)) is not None:
            client.held[hold] = mailbox

    def _on_drop(self, client: RemoteClient, hold: int) -> None:
        client.held.pop(hold, None)

    def _on_keep(self, client: RemoteClient, number: int, pickle: int, is_sent: bool) -> None:
        if (mailbox := self._broker.find(number)) is not None:
            client.kept.add(pickle, mailbox, is_sent)

    def _on_loaded(self, client: RemoteClient, pickle: tuple[bytes, int]) -> None:
        self._broker.loaded(pickle)

    def _on_ping(self, client: RemoteClient) -> None:
        self._reply("ok", None)

    def _cancel(self) -> None:
        if self._pending is not None:
            mailbox, call = self._pending
            if mailbox.withdraw(call):
                self._reply("ok", call.admitted if isinstance(call, PutCall) else None)

    def _on_put(
        self,
        mailbox: Mailbox,
        blobs: list[frames.Blob],
        number: int,
        wait: bool,
        timed: bool = False,
    ) -> None:
        if timed and not self._is_there():
            return  # time was up while this process was stopped
        call = PutCall(blobs, self._answer_admitted if wait else None, self._is_there)
        self._pending = mailbox, call
        mailbox.put(call)
        if not call.pending:
            self._reply("ok", call.admitted)

    def _answer_admitted(self, admitted: int, error: Exception | None) -> None:
        if error is not None:
            self._fail(error)
        else:
            self._reply("ok", admitted)

    def _on_get(
        self,
        mailbox: Mailbox,
        blobs: list[frames.Blob],
        number: int,
        limit: int,
        wait: bool,
        peek: bool,
    ) -> None:
        assert self._client is not None
        answer = self._answer_records if wait else None
        call = GetCall(self._client, answer, limit, None, peek, self._is_there)
        self._pending = mailbox, call
        mailbox.get(call)
        if not call.pending:
            self._answer_records(call.value, None)

    def _on_take(
        self,
        mailbox: Mailbox,
        blobs: list[frames.Blob],
        number: int,
        reader_number: int,
        done: int,
    ) -> None:
        assert self._client is not None
        reader = self._reader(mailbox, number, reader_number)
        if done:
            mailbox.lease_done(reader, done)
        call = GetCall(self._client, self._answer_records, reader=reader, is_alive=self._is_there)
        self._pending = mailbox, call
        mailbox.get(call)
        if not call.pending:
            self._answer_records(call.value, None)

    def _answer_records(self, taken: list[tuple[int, Record]], error: Exception | None) -> None:
        if error is not None:
            self._fail(error)
        elif taken and taken[0][1].payload is END:
            self._reply("end")
        else:
            lease = taken[0][0] if taken else None
            self._reply("ok", lease, blobs=[record.payload for _, record in taken])

    def _reader(self, mailbox: Mailbox, number: int, reader_number: int) -> MailReader:
        assert self._client is not None
        reader = self._known_reader(number, reader_number)
        if reader is None:
            reader = MailReader(self._client)
            self._client.readers[number, reader_number] = mailbox, reader
        return reader

    def _known_reader(self, number: int, reader_number: int) -> MailReader | None:
        assert self._client is not None
        found = self._client.readers.get((number, reader_number))
        return found[1] if found is not None else None

    def _on_lease_done(
        self,
        mailbox: Mailbox,
        blobs: list[frames.Blob],
        number: int,
        reader_number: int,
        lease: int,
    ) -> None:
        reader = self._known_reader(number, reader_number)
        if reader is not None:
            mailbox.lease_done(reader, lease)
        self._reply("ok", None)

    def _on_close_reader(
        self,
        mailbox: Mailbox,
        blobs: list[frames.Blob],
        number: int,
        reader_number: int,
        done: tuple[int, ...],
    ) -> None:
        assert self._client is not None
        found = self._client.readers.pop((number, reader_number), None)
        if found is not None:
            mailbox.close_reader(found[1], done)

    def _on_release(
        self,
        mailbox: Mailbox,
        blobs: list[frames.Blob],
        number: int,
        reader_number: int,
        lease: int,
        delay: float,
    ) -> None:
        reader = self._known_reader(number, reader_number)
        self._reply("ok", reader is not None and mailbox.release(reader, lease, delay))

    def _on_put_back(self, mailbox: Mailbox, blobs: list[frames.Blob], number: int) -> None:
        assert self._client is not None
        mailbox.put_back(self._client, list(blobs))
        self._reply("ok", None)

    def _on_define(
        self, mailbox: Mailbox, blobs: list[frames.Blob], number: int, keys: list[bytes]
    ) -> None:
        for key, blob in zip(keys, blobs, strict=True):
            mailbox.definitions.setdefault(key, bytes(blob))
        self._reply("ok", None)

    def _on_fetch(
        self, mailbox: Mailbox, blobs: list[frames.Blob], number: int, key: bytes
    ) -> None:
        definition = mailbox.definitions.get(key)
        if definition is None:
            self._reply("error", "KeyError", key.hex())
        else:
            self._reply("ok", None, blobs=[definition])

    def _on_end(
        self, mailbox: Mailbox, blobs: list[frames.Blob], number: int, ends: int, tag: bytes
    ) -> None:
        assert self._client is not None
        mailbox.end(ends, tag, self._client)
        self._reply("ok", None)

    def _on_withdraw_ends(
        self, mailbox: Mailbox, blobs: list[frames.Blob], number: int, tag: bytes
    ) -> None:
        self._reply("ok", mailbox.withdraw_ends(tag))

    def _on_task_done(self, mailbox: Mailbox, blobs: list[frames.Blob], number: int) -> None:
        assert self._client is not None
        mailbox.task_done(self._client)
        self._reply("ok", None)

    def _on_join(self, mailbox: Mailbox, blobs: list[frames.Blob], number: int) -> None:
        call = JoinCall(self._answer_joined)
        self._pending = mailbox, call
        mailbox.join(call)
        if not call.pending:
            self._reply("ok", None)

    def _answer_joined(self, value: Any, error: Exception | None) -> None:
        self._reply("ok", None)

    def _on_settle(self, mailbox: Mailbox, blobs: list[frames.Blob], number: int) -> None:
        self._broker.when_settled(lambda: self._reply("ok", None))

    def _on_shutdown(
        self, mailbox: Mailbox, blobs: list[frames.Blob], number: int, immediate: bool
    ) -> None:
        mailbox.shutdown(immediate)
        self._reply("ok", None)

    def _on_is_shutdown(self, mailbox: Mailbox, blobs: list[frames.Blob], number: int) -> None:
        self._reply("ok", mailbox.is_shutdown())

    def _on_set_maxsize(
        self, mailbox: Mailbox, blobs: list[frames.Blob], number: int, maxsize: int
    ) -> None:
        mailbox.set_maxsize(maxsize)
        self._reply("ok", None)

    def _on_full(self, mailbox: Mailbox, blobs: list[frames.Blob], number: int) -> None:
        self._reply("ok", mailbox.full())

    def _on_statistics(self, mailbox: Mailbox, blobs: list[frames.Blob], number: int) -> None:
        self._reply("ok", tuple(mailbox.statistics()))

    def _on_set_aside(
        self, mailbox: Mailbox, blobs: list[frames.Blob], number: int, only_new: bool
    ) -> None:
        found = mailbox.set_aside(only_new)
        numbers = [aside for aside, _ in found]
        self._reply("ok", numbers, blobs=[payload for _, payload in found])

    def _on_requeue(
        self, mailbox: Mailbox, blobs: list[frames.Blob], number: int, aside: int
    ) -> None:
        self._reply("ok", mailbox.requeue(aside))

    def _on_open(
        self,
        mailbox: Mailbox,
        blobs: list[frames.Blob],
        number: int,
        maxsize: int | None,
        persistent: bool,
    ) -> None:
        self._broker.before_open(self, maxsize, persistent)
        assert self._broker.address is not None
        self._reply("ok", self._broker.address.broker)

    def _on_inspect(self, mailbox: Mailbox, blobs: list[frames.Blob], number: int) -> None:
        self._reply("ok", self._broker.inspect())

    def _on_unlink(self, mailbox: Mailbox, blobs: list[frames.Blob], number: int) -> None:
        self._broker.on_unlink()
        self._reply("ok", None)


def complain(message: str) -> None:
    """Log the exception that is being handled, if that can be done."""
    try:
        import logging  # takes as long to import as all of this, and is hardly ever needed

        logging.getLogger("qmill").exception(message)
    except Exception:
        pass  # no descriptor is left to import it with
