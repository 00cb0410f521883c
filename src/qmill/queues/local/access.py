"""The access of a queue to its mailbox, in this or another process, and a `Queue` built on it.

    MailboxQueue ──packs objects──> Access ──> Mailbox
                                      │
                      LocalAccess: in this process, a thread waits on a lock
                      RemoteAccess (portable.py): in another one, behind a socket

An access deals with payloads, not objects. Its calls wait: `timeout` None is no limit, 0.0 does
not wait.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from ...errors import Empty, Full, ShutDown
from ...system.interrupts import is_interrupt
from .. import leases
from ..api import END, Queue, Reader
from ..checks import check_items, check_max_items, check_maxsize, check_wait
from .calls import LOCAL, GetCall, JoinCall, LocalAnswer, MailReader, PutCall
from .mailbox import Mailbox

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..statistics import Statistics


class AccessReader(Protocol):
    """A reader's leases, wherever they are kept."""

    def take(self, done: int) -> tuple[int, Any]:
        """End the lease `done`, wait for a record, and return its lease and payload or END."""

    def done(self, lease: int) -> None:
        """End one lease."""

    def release(self, lease: int, delay: float) -> bool:
        """End one lease, whose message waits again after the delay."""

    def close(self, done: Iterable[int] = ()) -> None:
        """End the leases in `done`, and give back all others. May run in a garbage collection."""


class Access(Protocol):
    """The interface of a mailbox, near or far, for `MailboxQueue`."""

    left: list[Any]  # see leases.py

    def put(self, payloads: list[Any], timeout: float | None) -> int:
        """Put payloads, and return how many were put."""

    def get(self, limit: int, timeout: float | None, peek: bool) -> list[Any]:
        """Take or look at up to `limit` payloads; empty when time is up."""

    def put_back(self, payloads: list[Any]) -> None:
        """Return payloads that were just taken to the front of the queue."""

    def reader(self) -> AccessReader:
        """Return a new reader."""

    def end(self, number: int, tag: bytes) -> None:
        """Put ENDs."""

    def withdraw_ends(self, tag: bytes) -> int:
        """Take back ENDs."""

    def task_done(self) -> None:
        """Count one message as done."""

    def join(self) -> None:
        """Wait until nothing is unfinished."""

    def shutdown(self, immediate: bool) -> None:
        """Refuse further puts."""

    def is_shutdown(self) -> bool:
        """Whether further puts are refused."""

    def set_maxsize(self, maxsize: int) -> None:
        """Set the most messages that may wait."""

    def full(self) -> bool:
        """Whether a put would have to wait."""

    def statistics(self) -> Statistics:
        """Return the counts."""

    def settle(self) -> None:
        """Wait until every event so far, such as a death, is counted."""

    def set_aside(self, only_new: bool) -> list[tuple[int, Any]]:
        """List the payloads that were set aside, with their numbers."""

    def requeue(self, number: int) -> bool:
        """Put a payload that is set aside back; return whether it still was."""


class LocalReader:
    """A reader in the process that has the mailbox."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._reader = MailReader(LOCAL)

    def take(self, done: int) -> tuple[int, Any]:
        """See `AccessReader`."""
        if done:
            self._mailbox.lease_done(self._reader, done)
        call = GetCall(LOCAL, LocalAnswer(), reader=self._reader)
        _get(self._mailbox, call, None)
        [(lease, record)] = call.value
        return lease, record.payload

    def done(self, lease: int) -> None:
        """See `AccessReader`."""
        self._mailbox.lease_done(self._reader, lease)

    def release(self, lease: int, delay: float) -> bool:
        """See `AccessReader`."""
        return self._mailbox.release(self._reader, lease, delay)

    def close(self, done: Iterable[int] = ()) -> None:
        """See `AccessReader`."""
        self._mailbox.close_reader(self._reader, done)


class LocalAccess:
    """A mailbox in this process. The methods are those of `Access`."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self.left = mailbox.left
        self.reader = lambda: LocalReader(mailbox)
        self.withdraw_ends = mailbox.withdraw_ends
        self.shutdown = mailbox.shutdown
        self.is_shutdown = mailbox.is_shutdown
        self.set_maxsize = mailbox.set_maxsize
        self.full = mailbox.full
        self.statistics = mailbox.statistics
        self.set_aside = mailbox.set_aside
        self.requeue = mailbox.requeue

    def put(self, payloads: list[Any], timeout: float | None) -> int:
        mailbox = self.mailbox
        call = PutCall(payloads, None if timeout == 0 else LocalAnswer())
        try:
            mailbox.put(call)
            if call.pending:
                _wait(mailbox, call, timeout)
        except ShutDown:
            raise
        except BaseException:  # Ctrl-C
            mailbox.abandon(call)
            raise
        return call.admitted

    def get(self, limit: int, timeout: float | None, peek: bool) -> list[Any]:
        answer = None if timeout == 0 else LocalAnswer()
        call = GetCall(LOCAL, answer, limit, None, peek)
        _get(self.mailbox, call, timeout)
        return [record.payload for _, record in call.value]

    def put_back(self, payloads: list[Any]) -> None:
        self.mailbox.put_back(LOCAL, payloads)

    def end(self, number: int, tag: bytes) -> None:
        self.mailbox.end(number, tag, LOCAL)

    def task_done(self) -> None:
        self.mailbox.task_done(LOCAL)

    def join(self) -> None:
        call = JoinCall(LocalAnswer())
        try:
            self.mailbox.join(call)
            if call.pending:
                _wait(self.mailbox, call, None)
        except BaseException:
            self.mailbox.abandon(call)
            raise

    def settle(self) -> None:
        pass


def _get(mailbox: Mailbox, call: GetCall, timeout: float | None) -> None:
    """Make a call of this process, and wait for the records that it takes."""
    try:
        mailbox.get(call)
        if call.pending:
            _wait(mailbox, call, timeout)
    except ShutDown:
        raise
    except BaseException:  # Ctrl-C: records that came meanwhile go back
        mailbox.abandon(call)
        raise


def _wait(mailbox: Mailbox, call: GetCall | PutCall | JoinCall, timeout: float | None) -> None:
    """Wait for the answer to a call of this process; at the timeout, take it out of its line."""
    answer = call.answer
    assert isinstance(answer, LocalAnswer)
    deadline = None if timeout is None else monotonic() + timeout
    while True:
        due = mailbox.next_due()
        if answer.wait(min((s for s in (due, timeout) if s is not None), default=None)):
            break
        if deadline is not None and (timeout := deadline - monotonic()) <= 0:
            if mailbox.withdraw(call):
                return
            break
        if due is not None:
            mailbox.admit_due()
    answer.result()


class MailboxQueue(Queue):
    """A `Queue` on an access. A transport gives it `_access`, `_pack` and `_unpack`."""

    @property
    def _access(self) -> Access:
        """The way to the mailbox."""
        raise NotImplementedError

    def _pack(self, obj: Any) -> Any:
        """Turn an object into a payload."""
        raise NotImplementedError

    def _unpack(self, payload: Any, peeked: bool = False) -> Any:
        """Turn a payload into the object; a peeked one stays in the queue, too."""
        raise NotImplementedError

    def _next_call(self) -> Access:
        """Return the access, once messages that this thread's ended loops hold are acknowledged."""
        access = self._access
        if access.left:
            leases.acknowledge(access.left)
        return access

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        wait = check_wait(block, timeout)
        self._check_open()
        if not self._next_call().put([self._pack(obj)], wait):
            raise Full

    def put_nowait(self, obj: Any) -> None:
        self.put(obj, False)

    def put_many(
        self, items: Iterable[Any], block: bool = True, timeout: float | None = None
    ) -> int:
        wait = check_wait(block, timeout)
        self._check_open()
        return self._next_call().put([self._pack(item) for item in check_items(items)], wait)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        wait = check_wait(block, timeout)
        self._check_open()
        payloads = self._next_call().get(1, wait, False)
        if not payloads:
            raise Empty
        try:
            return self._unpack(payloads[0])
        except BaseException as error:
            if is_interrupt(error):
                self._access.put_back(payloads)
            raise

    def get_nowait(self) -> Any:
        return self.get(False)

    def get_many(
        self, max_items: int, block: bool = True, timeout: float | None = None
    ) -> list[Any]:
        limit = check_max_items(max_items)
        wait = check_wait(block, timeout)
        self._check_open()
        payloads = self._next_call().get(limit, wait, False)
        if not payloads:
            raise Empty
        items: list[Any] = []
        for payload in payloads:
            try:
                items.append(self._unpack(payload))
            except BaseException as error:
                if not isinstance(error, Exception) or is_interrupt(error):
                    self._access.put_back(payloads)
                    raise
                bad = len(items)
                self._access.put_back(payloads[bad + (bad == 0) :])
                if not items:
                    raise
                break
        return items

    def peek(self, block: bool = True, timeout: float | None = None) -> Any:
        wait = check_wait(block, timeout)
        self._check_open()
        payloads = self._access.get(1, wait, True)
        if not payloads:
            raise Empty
        return self._unpack(payloads[0], peeked=True)

    def full(self) -> bool:
        self._check_open()
        return self._access.full()

    def statistics(self) -> Statistics:
        self._check_open()
        self._access.settle()
        return self._access.statistics()

    def qsize(self) -> int:
        self._check_open()
        return self._access.statistics().size

    def empty(self) -> bool:
        return not self.qsize()

    def task_done(self) -> None:
        self._check_open()
        if not leases.task_done(self._access.left):
            self._access.task_done()

    def join(self) -> None:
        self._check_open()
        self._next_call().join()  # else it would wait for a message that this thread holds

    def shutdown(self, immediate: bool = False) -> None:
        self._check_open()
        self._access.shutdown(immediate)

    def close(self) -> None:
        self._closed = True

    @property
    def maxsize(self) -> int:
        return self.statistics().maxsize

    @maxsize.setter
    def maxsize(self, maxsize: int) -> None:
        limit = check_maxsize(maxsize)
        self._check_open()
        self._access.set_maxsize(limit)

    @property
    def is_shutdown(self) -> bool:
        self._check_open()
        return self._access.is_shutdown()

    def _settle(self) -> None:
        self._check_open()
        self._access.settle()

    def _end(self, count: int, tag: bytes) -> None:
        self._check_open()
        self._access.end(count, tag)

    def _withdraw_ends(self, tag: bytes) -> int:
        self._check_open()
        return self._access.withdraw_ends(tag)

    @property
    def _left(self) -> list[Any]:
        return self._access.left

    def _set_aside(self, only_new: bool) -> list[tuple[Any, int]]:
        self._check_open()
        found = self._access.set_aside(only_new)
        return [(self._unpack(payload, peeked=True), number) for number, payload in found]

    def _requeue(self, number: int) -> bool:
        self._check_open()
        return self._access.requeue(number)

    def _reader(self) -> Reader:
        self._check_open()
        return _UnpackingReader(self, self._access.reader())


class _UnpackingReader(Reader):
    def __init__(self, queue: MailboxQueue, reader: AccessReader) -> None:
        self._queue = queue
        self._left = queue._left
        self._reader = reader

    def take(self, done: int) -> tuple[int, Any]:
        if self._left:
            leases.acknowledge(self._left)
        lease, payload = self._reader.take(done)
        if payload is END:
            return 0, END
        try:
            return lease, self._queue._unpack(payload)
        except Exception as error:
            if not isinstance(error, MemoryError) and not is_interrupt(error):
                self._reader.done(lease)  # else it goes back when the loop has been left
            raise

    def done(self, lease: int) -> None:
        self._reader.done(lease)

    def release(self, lease: int, delay: float) -> bool:
        return self._reader.release(lease, delay)

    def close(self, done: Iterable[int] = ()) -> None:
        self._reader.close(done)
