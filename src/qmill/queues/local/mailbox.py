"""The state of one queue inside one process: its records, leases and waiting callers.

    put ──> [waiting records] ──take──> leased to a reader ──done──> finished
                 ^                          │
                 └── died, or gave it back ─┘   (after 3 deaths: set aside as poison)

A record is one message, or one END. A record that was given back with a delay is among the
`_delayed` until it is due. Nothing here waits for that moment: callers in this process and the
broker ask for `next_due`, and call `admit_due`.

Both transports of this folder are a `Mailbox` with something around it: `ThreadQueue` gives it
objects, `PortableQueue` bytes and, through the broker, callers in other processes.

An operation that may have to wait is a *call* (`GetCall`, `PutCall`, `JoinCall`). It is done at
once, or it joins a line, is `pending`, and its `answer` is called once: by the operation that makes
the answer possible, which may be the call's own. A call without an answer does not wait. An answer
must not block: it is called with the lock held. Callers in this process wait on a `LocalAnswer`.

Invariants, whenever the lock is free:
- calls in a line cannot be served: no call waits while there is a record to take or room to put;
- `unfinished` = put - done, and 0 releases the joiners;
- records are taken in the order of their numbers, but for those that came back: these go first.

A garbage collection can run anywhere, also with the lock held, and its `__del__` methods may call
this very queue. A plain lock would then wait for itself. Here such a call is put off until the
lock is free (`put`, which then ignores the limit; `close_reader`), or it is refused (every
operation that would have to wait for an answer).
"""

from __future__ import annotations

import sys
from _thread import allocate_lock, get_ident
from collections import deque
from heapq import heappop, heappush
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any

from ...errors import ShutDown
from ..api import END, POISON_DEATHS
from ..statistics import Statistics
from .calls import Client, GetCall, JoinCall, LocalAnswer, MailReader, PutCall, Record, locked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Mailbox:
    """One queue's state; every method may be called from any thread.

    Args:
        maxsize: The most messages that may wait; 0 is no limit.
        clock: Returns the time in seconds.

    Attributes:
        left: The holds of loops that were left by an exception; see leases.py.
        on_delay: Called when a record is delayed: the broker's thread may have to wake earlier.
    """

    def __init__(self, maxsize: int, clock: Callable[[], float] = monotonic) -> None:
        self.maxsize = maxsize
        self.left: list[Any] = []
        self.on_delay: Callable[[], None] | None = None
        self._clock = clock
        self._delayed: list[tuple[float, int, Record]] = []  # a heap
        self.definitions: dict[bytes, Any] = {}  # see serialize.py; entries are only added
        self._lock = allocate_lock()
        self._owner = 0  # the thread that holds the lock, 0 for none
        self._put_off: deque[Callable[[], None]] = deque()
        self._records: deque[Record] = deque()
        self._ends = 0  # how many of the records are ENDs
        self._getters: deque[GetCall] = deque()
        self._putters: deque[PutCall] = deque()
        self._joiners: list[JoinCall] = []
        self._readers: set[MailReader] = set()  # those that hold a lease
        self._leased = 0
        self._taken: dict[Client, int] = {}  # taken by `get` and not yet done
        self._aside: dict[int, Record] = {}
        self._raised = 0  # the last of these that `set_aside(only_new=True)` has returned
        self._aside_numbers = count(1)
        self._shut = False
        self._numbers = count()
        self._lease_numbers = count(1)
        self._unfinished = 0
        self._n_put = self._n_taken = self._n_done = 0
        self._n_lost = self._n_redelivered = self._n_poisoned = 0

    # -- putting ------------------------------------------------------------------------------

    def put(self, call: PutCall) -> None:
        """Put the call's payloads; `admitted` is the number put, unless the call is `pending`.

        Raises:
            ShutDown: Nothing can be put any more.
        """
        if self._owner == get_ident():
            call.admitted = len(call.payloads)
            self._later(lambda: self._force(call.payloads))
        else:
            self._put(call)

    @locked
    def _put(self, call: PutCall) -> None:
        if self._shut:
            raise ShutDown
        size = len(call.payloads)
        if not self._putters and (not self.maxsize or size <= self._room()):
            self._append(call.payloads)
            call.admitted = size
            call.answered = True
            if self._getters:
                self._pump()
        elif size:
            self._putters.append(call)
            call.pending = call.answer is not None
            self._pump()
            if not call.pending and not call.answered:
                self._leave_line(call)

    def _force(self, payloads: deque[Any]) -> None:
        if not self._shut:
            self._append(payloads)
            self._pump()

    def _append(self, payloads: Iterable[Any]) -> None:
        before = len(self._records)
        self._records.extend(
            Record(payload, number)
            for payload, number in zip(payloads, self._numbers)  # noqa: B905 (numbers go on)
        )
        added = len(self._records) - before
        self._unfinished += added
        self._n_put += added

    def _room(self) -> int:
        return (self.maxsize or sys.maxsize) - self._waiting()

    def _waiting(self) -> int:
        """The number of messages that wait."""
        return len(self._records) - self._ends + len(self._delayed)

    @locked
    def set_maxsize(self, maxsize: int) -> None:
        """Set the most messages that may wait, and admit waiting puts for which there is room."""
        self.maxsize = maxsize
        self._pump()

    @locked
    def end(self, number: int, tag: bytes, sender: Client) -> None:
        """Put `number` ENDs, also into a full queue."""
        for _ in range(number):
            self._records.append(Record(END, next(self._numbers), tag, sender))
        self._ends += number
        self._pump()

    @locked
    def withdraw_ends(self, tag: bytes) -> int:
        """Take back the unread ENDs of this tag."""
        kept = [record for record in self._records if record.tag != tag]
        withdrawn = len(self._records) - len(kept)
        if withdrawn:
            self._records = deque(kept)
            self._ends -= withdrawn
            self._pump()
        return withdrawn

    # -- getting ------------------------------------------------------------------------------

    @locked
    def get(self, call: GetCall) -> None:
        """Take records for a call: (lease, record) pairs, its `value`, unless it is `pending`.

        A record taken for a reader is leased; otherwise, and for an END, the lease is 0.

        Raises:
            ShutDown: The queue is shut down and empty.
        """
        if self._delayed:
            self._admit_due()
        if self._getters or not self._ready(call):
            self._getters.append(call)
            if call.reader is not None:
                call.reader.waiting = True
            call.pending = call.answer is not None
            self._pump()
            if call.pending:
                return
            if not call.answered:
                self._leave_line(call)
                return
        else:
            self._take(call)
            if self._putters:
                self._pump()
        if not call.value:
            raise ShutDown

    def _ready(self, call: GetCall) -> bool:
        """Whether the call can be answered now, with records or with `ShutDown`."""
        if not self._records:
            return self._shut and not self._delayed
        first = self._records[0]
        if first.tag is None:
            return True
        return not self._delayed and all(
            reader.waiting or reader.client is first.sender or reader.client is call.client
            for reader in self._readers
        )

    def _take(self, call: GetCall) -> None:
        """Take records for a call; its value stays empty if the queue is shut down and empty."""
        records, taken = self._records, call.value
        call.answered = True
        if call.peek:
            if records:
                taken.append((0, records[0]))
            return
        while records and len(taken) < call.limit:
            record = records[0]
            if record.tag is not None:
                if not taken:
                    self._ends -= 1
                    taken.append((0, records.popleft()))
                return
            records.popleft()
            lease = 0
            if call.reader is not None:
                lease = next(self._lease_numbers)
                call.reader.leases[lease] = record
                self._readers.add(call.reader)
                self._leased += 1
            else:
                self._taken[call.client] = self._taken.get(call.client, 0) + 1
            self._n_taken += 1
            taken.append((lease, record))

    def _pump(self) -> None:
        """Serve all calls in the lines that can be served."""
        while True:
            if self._putters and (self._room() > 0 or self._putters[0].answered):
                self._admit(self._putters[0])
            elif self._getters and self._ready(self._getters[0]):
                self._serve(self._getters[0])
            else:
                return

    def _serve(self, call: GetCall) -> None:
        if not call.answered and (call.is_alive is None or call.is_alive()):
            self._take(call)
            if call.answer is not None:
                call.answer(call.value, None if call.value else ShutDown())
        self._leave_line(call)  # served, or killed while it waited

    def _admit(self, call: PutCall) -> None:
        if call.answered or (call.is_alive is not None and not call.is_alive()):
            self._leave_line(call)  # killed or interrupted while it waited
            return
        admitted = [call.payloads.popleft() for _ in range(min(self._room(), len(call.payloads)))]
        self._append(admitted)
        call.admitted += len(admitted)
        if not call.payloads:
            if call.answer is not None:
                call.answer(call.admitted, None)
            self._leave_line(call)

    # -- delays ---------------------------------------------------------------------------------

    def next_due(self) -> float | None:
        """Return the seconds until `admit_due` has work to do; None if no record is delayed."""
        delayed = self._delayed
        try:
            return max(0.0, delayed[0][0] - self._clock())
        except IndexError:  # another thread has just taken the last
            return None

    @locked
    def admit_due(self) -> None:
        """Let the records whose delay is over be taken like all others."""
        self._admit_due()
        self._pump()

    def _admit_due(self) -> None:
        now = self._clock()
        while self._delayed and self._delayed[0][0] <= now:
            self._put_back(heappop(self._delayed)[2])

    def _delay(self, record: Record, delay: float) -> None:
        heappush(self._delayed, (self._clock() + delay, next(self._lease_numbers), record))
        for call in self._getters:
            if isinstance(call.answer, LocalAnswer):
                call.answer.wake()
        if self.on_delay is not None:
            self.on_delay()

    # -- leaving a line -------------------------------------------------------------------------

    @locked
    def withdraw(self, call: GetCall | PutCall | JoinCall) -> bool:
        """Take a call out of its line; False if it has been answered meanwhile."""
        if call.answered:
            return False
        self._leave_line(call)
        return True

    @locked
    def abandon(self, call: GetCall | PutCall | JoinCall) -> None:
        """Undo a call whose caller is gone: records that the caller never saw go back."""
        self._leave_line(call)
        if isinstance(call, GetCall) and not call.peek:
            for lease, record in call.value:
                if call.reader is not None and lease:
                    if call.reader.leases.pop(lease, None) is None:
                        continue
                    self._leased -= 1
                elif record.tag is None:
                    self._taken[call.client] = self._taken.get(call.client, 0) - 1
                self._n_taken -= record.tag is None
                self._put_back(record)
            if call.reader is not None and not call.reader.leases:
                self._readers.discard(call.reader)
            self._pump()

    @locked
    def put_back(self, client: Client, payloads: list[Any]) -> None:
        """Return payloads that `get` took to the front, in order."""
        self._records.extendleft(Record(payload, -1) for payload in reversed(payloads))
        self._taken[client] = self._taken.get(client, 0) - len(payloads)
        self._n_taken -= len(payloads)
        self._pump()

    def _leave_line(self, call: GetCall | PutCall | JoinCall) -> None:
        """Take a call out of its line, if it is in one."""
        line: Any
        if isinstance(call, GetCall):
            line = self._getters
            if call.reader is not None:
                call.reader.waiting = False
        elif isinstance(call, PutCall):
            line = self._putters
        else:
            line = self._joiners
        call.answered = True
        if call in line:
            line.remove(call)

    def _put_back(self, record: Record) -> None:
        """Return a record to its place by its number, at or near the front."""
        records = self._records
        at = 0
        while at < len(records) and records[at].number < record.number:
            at += 1
        records.insert(at, record)
        self._ends += record.tag is not None

    # -- finishing ----------------------------------------------------------------------------

    @locked
    def lease_done(self, reader: MailReader, lease: int) -> None:
        """End one lease of a reader: the message is finished."""
        if reader.leases.pop(lease, None) is not None:
            self._leases_ended(reader, 1)

    def _leases_ended(self, reader: MailReader, number: int) -> None:
        self._leased -= number
        if not reader.leases:
            self._readers.discard(reader)
        self._finish(number)
        if self._getters:
            self._pump()

    @locked
    def release(self, reader: MailReader, lease: int, delay: float) -> bool:
        """End one lease of a reader: its message waits again; False if there is no such lease.

        Args:
            reader: The reader.
            lease: Its lease.
            delay: Seconds for which no reader gets the message.
        """
        record = reader.leases.pop(lease, None)
        if record is None:
            return False
        self._n_redelivered += 1
        if delay:
            self._delay(record, delay)
        else:
            self._put_back(record)
        self._leased -= 1
        self._leases_ended(reader, 0)
        return True

    def close_reader(self, reader: MailReader, done: Iterable[int] = ()) -> None:
        """End all leases of a reader whose loop has ended without a death.

        Args:
            reader: The reader.
            done: Leases whose messages are finished. The loop never gave the others: they go back.
        """
        self._later(lambda: self._close_reader(reader, set(done)))

    def _close_reader(self, reader: MailReader, done: set[int]) -> None:
        if reader.waiting:  # its caller was interrupted
            for call in [call for call in self._getters if call.reader is reader]:
                self._leave_line(call)
        leases = reader.leases
        reader.leases = {}
        ended = 0
        for lease, record in leases.items():
            if lease in done:
                ended += 1
            else:
                self._leased -= 1
                self._n_taken -= 1
                self._put_back(record)
        self._leases_ended(reader, ended)

    @locked
    def client_gone(
        self, client: Client, readers: Iterable[MailReader], clean: bool
    ) -> list[Record]:
        """Settle the messages of a process that has ended: its leased ones go back.

        Args:
            client: The process.
            readers: Its readers.
            clean: The process said good-bye: it has not died, and no message it took is lost.

        Returns:
            Messages that were set aside now.
        """
        aside: list[Record] = []
        for reader in readers:
            aside += self._reader_ended(reader, died=not clean)
        taken = self._taken.pop(client, 0)
        lost = max(0, min(taken, self._unfinished - self._waiting() - self._leased))
        if not clean:
            self._n_lost += lost
        self._finish(lost)
        self._pump()
        return aside

    def _reader_ended(self, reader: MailReader, died: bool) -> list[Record]:
        leases = reader.leases
        reader.leases = {}
        self._readers.discard(reader)
        self._leased -= len(leases)
        aside = []
        for record in leases.values():
            record.deaths += died
            if record.deaths < POISON_DEATHS:
                self._n_redelivered += 1
                self._put_back(record)
            else:
                self._n_poisoned += 1
                self._aside[next(self._aside_numbers)] = record
                aside.append(record)
                self._finish(1)
        return aside

    def _finish(self, number: int) -> None:
        number = min(number, self._unfinished)
        self._unfinished -= number
        self._n_done += number
        if not self._unfinished and self._joiners:
            joiners, self._joiners = self._joiners, []
            for call in joiners:
                call.answered = True
                call.answer(None, None)

    @locked
    def task_done(self, client: Client) -> None:
        """Count one message, taken by `get`, as done."""
        if not self._unfinished:
            raise ValueError("task_done() called too many times: nothing is unfinished")
        if self._taken.get(client, 0):
            self._taken[client] -= 1
        self._finish(1)

    @locked
    def join(self, call: JoinCall) -> None:
        """Wait until nothing is unfinished: the call is `pending` if a message is."""
        if self._unfinished:
            call.pending = True
            self._joiners.append(call)
        else:
            call.answered = True

    @locked
    def shutdown(self, immediate: bool) -> None:
        """Refuse puts from now on, and with `immediate` throw away the waiting records."""
        self._shut = True
        for call in list(self._putters):
            if not call.answered and call.answer is not None:
                call.answer(call.admitted, None if call.admitted else ShutDown())
            self._leave_line(call)
        if immediate:
            thrown_away = self._waiting()
            self._records.clear()
            self._delayed.clear()
            self._ends = 0
            self._finish(thrown_away)
        self._pump()

    # -- reporting ----------------------------------------------------------------------------

    def is_shutdown(self) -> bool:
        """Whether puts are refused."""
        return self._shut

    @locked
    def statistics(self) -> Statistics:
        """Return all counts, of one moment."""
        return Statistics(
            size=len(self._records) + len(self._delayed),
            leased=self._leased,
            unfinished=self._unfinished,
            put=self._n_put,
            taken=self._n_taken,
            done=self._n_done,
            lost=self._n_lost,
            redelivered=self._n_redelivered,
            poisoned=self._n_poisoned,
            maxsize=self.maxsize,
        )

    @locked
    def full(self) -> bool:
        """Whether a put would have to wait."""
        return self._room() <= 0

    @locked
    def set_aside(self, only_new: bool) -> list[tuple[int, Any]]:
        """List the payloads that were set aside, each with its number.

        Args:
            only_new: Only those that no such call has returned before.
        """
        after = self._raised if only_new else 0
        found = [(number, each.payload) for number, each in self._aside.items() if number > after]
        if only_new and found:
            self._raised = found[-1][0]
        return found

    @locked
    def requeue(self, number: int) -> bool:
        """Put a record that is set aside back, its deaths counted anew; False if it is not."""
        record = self._aside.pop(number, None)
        if record is None:
            return False
        record.deaths = 0
        self._n_redelivered += 1
        self._n_done -= 1
        self._unfinished += 1
        self._put_back(record)
        self._pump()
        return True

    @locked
    def restore(self, payloads: list[Any]) -> None:
        """Put the payloads of a `snapshot`, also if there are more than the limit."""
        self._append(payloads)

    @locked
    def snapshot(self) -> list[Any]:
        """Return the payloads of all messages that wait, in order, delayed or not."""
        waiting = [*(record for _, _, record in self._delayed), *self._records]
        waiting.sort(key=lambda record: record.number)
        return [record.payload for record in waiting if record.tag is None]

    # -- calls from a garbage collection ----------------------------------------------------------

    def _later(self, call: Callable[[], None]) -> None:
        """Run a call under the lock: now if it is free, else when its holder releases it.

        Never waits: two threads may be in a garbage collection inside each other's queue.
        """
        self._put_off.append(call)
        self._run_put_off()

    def _run_put_off(self) -> None:
        # _put_off is checked again after the release: so a call that was appended while the lock
        # was held is always run, by the holder or by the thread that appended it.
        while self._put_off and self._lock.acquire(False):
            try:
                self._owner = get_ident()
                while self._put_off:
                    self._put_off.popleft()()
            finally:
                self._owner = 0
                self._lock.release()
