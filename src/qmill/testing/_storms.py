"""Storms: processes use a queue and are killed at random instants; every message is accounted for.

    producers ──put──> queue ──read──> consumers
        │                                  │
        └──> its own log     its own log <─┘        files, written before and after each operation
                 └─────── account ──────┘

Each process reports progress after a random number of operations. On a report, the storm ends a
process. So each end follows on progress, and hits the victim at any of its steps. A log survives
its writer: one `write` of a few bytes is done whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import struct
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..workers.api import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_KILLED_WITHIN_S = 60.0  # SIGKILL always ends a process, though not at once on a busy machine

ENDINGS = {
    "kill": signal.SIGKILL,
    "interrupt": signal.SIGINT,
    "terminate": signal.SIGTERM,
    "exec": signal.SIGUSR1,
}
"""The signals by which a storm ends processes, by the names of the endings."""

_RECEIPT = struct.Struct("=II")  # producer, number of its message
_NEWS = struct.Struct("=I")  # the number of the process that reports progress
_LAST = (0, 0)  # the message that ends the last consumer
_CORRUPT = (0xFFFFFFFF, 0xFFFFFFFF)  # the receipt of an item that differs from the one put
_LIFE = 20  # a producer ends by itself after as many times `every` messages
_JITTER_S = 0.002
_LULL_S = 0.2


@dataclass
class StormReport:
    """The fate of a storm's messages.

    Attributes:
        seed: The seed of the choice of victims and instants. The same seed makes a similar storm,
            not the same one, as the system's scheduler differs each time.
        killed_producers: How many were ended, in any way, while they might be putting.
        killed_consumers: How many were ended, in any way, while they might be holding a message.
        put: Messages whose `put` had returned.
        received: Deliveries to consumers, each message counted as often as it came.
        lost: Messages whose `put` had returned and that no consumer saw.
        duplicated: Deliveries of messages that had been delivered before.
        invented: Deliveries of messages that no producer put.
        corrupt: Deliveries of items that differ from those put.
        overtaken: Deliveries to a consumer that had received a later message of that producer.
        longest_pause_s: The longest time in which no process reported progress.
        hung: The processes that made no progress until the storm's patience was over; None if all
            did.
    """

    seed: int
    killed_producers: int = 0
    killed_consumers: int = 0
    put: int = 0
    received: int = 0
    lost: int = 0
    duplicated: int = 0
    invented: int = 0
    corrupt: int = 0
    overtaken: int = 0
    longest_pause_s: float = 0.0
    hung: str | None = None

    def assert_at_least_once(self, set_aside: int = 0) -> None:
        """Check the promise of late acknowledgement: no message is lost, few come twice.

        Args:
            set_aside: How many messages the queue has set aside as poison.

        Raises:
            AssertionError: The storm hung; a message was lost, corrupt or invented; more messages
                came twice or late than consumers were killed.
        """
        self._check(lost=set_aside, duplicated=self.killed_consumers)

    def assert_at_most_once(self) -> None:
        """Check the promise of a plain `get`: no message comes twice, few are lost.

        Raises:
            AssertionError: The storm hung; a message came twice, or was corrupt or invented; more
                messages were lost, or came late, than consumers were killed. (A message that was
                sent to a consumer which died before it read it may go back, and so come late.)
        """
        self._check(lost=self.killed_consumers, duplicated=0)

    def _check(self, lost: int, duplicated: int) -> None:
        if self.hung is not None:
            raise AssertionError(f"{self.hung}: {self}")
        limits = {
            "lost": lost,
            "duplicated": duplicated,
            "overtaken": self.killed_consumers,
            "invented": 0,
            "corrupt": 0,
        }
        wrong = [
            f"{getattr(self, name)} {name} (at most {most})"
            for name, most in limits.items()
            if getattr(self, name) > most
        ]
        if wrong:
            raise AssertionError(f"of the messages {', '.join(wrong)}: {self}")


def get_each(queue: Any) -> Iterator[Any]:
    """Read a queue by `get`, and call `task_done` after each item if the queue has it."""
    done = getattr(queue, "task_done", None)
    while True:
        item = queue.get()
        try:
            yield item
        finally:
            if done is not None:
                done()


def iterate(q: Any) -> Iterator[Any]:
    """Read a `qmill.Q` in a loop: a message is done when the next one is asked for."""
    return map(attrgetter("data"), q)  # no generator: its end gives back the last message


def storm(
    queue: Any,
    *,
    kills: int = 200,
    producers: int = 2,
    consumers: int = 2,
    seed: int | None = None,
    read: Callable[[Any], Iterable[Any]] = get_each,
    payload: Callable[[int], Any] = int,
    every: int = 100,
    start_method: str = "fork",
    patience_s: float = 10.0,
    endings: Sequence[str] = ("kill",),
) -> StormReport:
    """End processes that use a queue, at random instants, and account for every message.

    A process that was ended is replaced. After the last end all processes have to make progress
    once more. Then all are killed at once, and a fresh consumer reads the rest. The seed is
    printed.

    Args:
        queue: An empty queue for this storm alone: any object with `put` and the methods that
            `read` uses.
        kills: How many processes to end, before all are killed.
        producers: How many processes put.
        consumers: How many processes read.
        seed: The seed of all random choices; None for a new one.
        read: The way in which a consumer reads: a function that is called with the queue and
            returns its items, one by one; a consumer that asks for the next is done with the last.
            `get_each` or `iterate`, or a function of your own.
        payload: Makes the payload of a producer's n-th message; it is compared by `==`.
        every: Mean number of operations of a process between its reports. Lower for large payloads.
        start_method: How the processes start; "fork" takes queues that cannot be pickled.
        patience_s: Seconds without any progress, after which the storm counts as hung.
        endings: The ways in which processes are ended, one of which is chosen each time: "kill"
            (SIGKILL); "interrupt" (SIGINT, KeyboardInterrupt); "terminate" (SIGTERM, whose handler
            raises SystemExit); "exec" (the process becomes another program, which stays until the
            rest has been read).

    Returns:
        The account. It is not checked: see `assert_at_least_once` and `assert_at_most_once`.

    Raises:
        ValueError: An unknown ending.
        Exception: A producer or consumer has raised it.
    """
    if unknown := set(endings) - set(ENDINGS):
        raise ValueError(f"endings must be of {', '.join(ENDINGS)}, not {sorted(unknown)}")
    if seed is None:
        seed = secrets.randbelow(1 << 32)
    print(f"qmill.testing.storm: seed={seed}", flush=True)
    storm = _Storm(queue, seed, read, payload, every, start_method, patience_s, endings)
    with storm as one:
        try:
            one.rage(kills, producers, consumers)
            one.read_what_is_left()
        except _Hung as error:
            one.report.hung = str(error)
            one.kill_all()
        return one.account()


# -- in the processes -----------------------------------------------------------------------------


class _Teller:
    """Reports progress to the storm, after a random number of operations each time."""

    def __init__(self, number: int, folder: str, every: int, seed: int) -> None:
        # Never written to: the storm sees that it is closed, when this process ends or `exec`s. It
        # is opened first, since a pipe that no process has opened yet is not closed, either.
        self._life = os.open(_life_of(folder, number), os.O_WRONLY)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, _exit)
        signal.signal(signal.SIGUSR1, _become_another_program)
        self._news = os.open(os.path.join(folder, "news"), os.O_WRONLY)
        self._random = random.Random(f"{seed} {number}")
        self._number = number
        self._mean = every
        self._left = self._next()

    def _next(self) -> int:
        return self._random.randint(1, 2 * self._mean)

    def count(self) -> None:
        self._left -= 1
        if not self._left:
            self.tell()
            self._left = self._next()

    def tell(self) -> None:
        os.write(self._news, _NEWS.pack(self._number))


def _exit(*_: object) -> NoReturn:
    raise SystemExit(1)


def _become_another_program(*_: object) -> NoReturn:
    os.execvp("sleep", ["sleep", "1000000"])


def _life_of(folder: str, number: int) -> str:
    return os.path.join(folder, f"life of {number}")


def _open_log(folder: str, number: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    return os.open(os.path.join(folder, str(number)), flags, 0o600)


def _produce(
    queue: Any, number: int, folder: str, every: int, seed: int, payload: Callable[[int], Any]
) -> None:
    log = _open_log(folder, number)
    teller = _Teller(number, folder, every, seed)
    for message in range(1, _LIFE * every + 1):
        data = payload(message)
        os.write(log, b"(")
        queue.put((number, message, data))
        os.write(log, b")")
        teller.count()


def _consume(
    queue: Any,
    number: int,
    folder: str,
    every: int,
    seed: int,
    payload: Callable[[int], Any],
    read: Callable[[Any], Iterable[Any]],
) -> None:
    log = _open_log(folder, number)
    teller = _Teller(number, folder, every, seed)
    for item in read(queue):
        receipt = _receipt(item, payload)
        del item  # before the next one is asked for: the item may be a view of the queue's memory
        if receipt == _LAST:
            break
        os.write(log, _RECEIPT.pack(*receipt))
        teller.count()


def _receipt(item: Any, payload: Callable[[int], Any]) -> tuple[int, int]:
    """Return the producer and number of an item's message; `_CORRUPT` if it is not as put."""
    try:
        producer, message, data = item
        is_right = (producer, message) == _LAST or bool(data == payload(message))
    except Exception:
        return _CORRUPT
    return (producer, message) if is_right else _CORRUPT


def _put_last(queue: Any) -> None:
    queue.put((*_LAST, None))


# -- in the storm ---------------------------------------------------------------------------------


class _Hung(Exception):
    """No process has made progress for too long."""


@dataclass
class _Member:
    """A process of the storm."""

    worker: Worker
    number: int
    produces: bool
    life: int = -1  # a pipe that is at its end when the process has ended, or `exec`ed


class _Storm:
    def __init__(
        self,
        queue: Any,
        seed: int,
        read: Callable[[Any], Iterable[Any]],
        payload: Callable[[int], Any],
        every: int,
        start_method: str,
        patience_s: float,
        endings: Sequence[str],
    ) -> None:
        self.report = StormReport(seed)
        self._random = random.Random(seed)
        self._queue = queue
        self._read = read
        self._payload = payload
        self._every = every
        self._start_method = start_method
        self._patience_s = patience_s
        self._endings = endings
        self._crew: dict[int, _Member] = {}
        self._others: list[Worker] = []  # processes that have become another program
        self._resting = 0  # producers that have come to their end, and are to be replaced
        self._produced: list[int] = []  # the numbers of all producers so far
        self._consumed: list[int] = []

    def __enter__(self) -> _Storm:
        self._folder = tempfile.TemporaryDirectory(prefix="qmill-storm-")
        news = os.path.join(self._folder.name, "news")
        os.mkfifo(news, 0o600)
        self._news = os.open(news, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_all()
        for worker in self._others:
            worker.kill()
            worker.exception()
        os.close(self._news)
        self._folder.cleanup()

    # -- members

    def _start(self, produces: bool) -> int:
        number = len(self._produced) + len(self._consumed) + 1
        common = (number, self._folder.name, self._every, self.report.seed, self._payload)
        life = _life_of(self._folder.name, number)
        os.mkfifo(life, 0o600)
        function = _produce if produces else partial(_consume, read=self._read)
        worker = Worker(
            function,
            (self._queue, *common),
            start_method=self._start_method,
            name=f"storm's {'producer' if produces else 'consumer'} {number}",
        )
        self._crew[number] = _Member(
            worker, number, produces, os.open(life, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        )
        (self._produced if produces else self._consumed).append(number)
        return number

    def _end(self, members: list[_Member], ending: str) -> None:
        alive = [member for member in members if member.worker.is_alive()]
        for member in alive:
            assert member.worker.pid  # 0 would be this process group
            os.kill(member.worker.pid, ENDINGS[ending])
        patience_s = _KILLED_WITHIN_S if ending == "kill" else self._patience_s
        for member in alive:
            if not wait([member.worker.sentinel, member.life], patience_s):
                raise _Hung(f"{member.worker.name} has not ended by {ending!r}")
        for member in members:
            if ending == "exec" and member.worker.is_alive():
                self._others.append(member.worker)
            else:
                member.worker.exception()  # asks for the failure, so that it is not logged
            self._forget(member)
            if member.produces:
                self.report.killed_producers += 1
            else:
                self.report.killed_consumers += 1

    def _forget(self, member: _Member) -> None:
        del self._crew[member.number]
        if member.life >= 0:
            os.close(member.life)

    def kill_all(self) -> None:
        self._end(list(self._crew.values()), "kill")

    def _collect_ended(self) -> None:
        for member in list(self._crew.values()):
            if not member.worker.is_alive():
                self._forget(member)
                member.worker.result()
                self._resting += member.produces

    def _replace_resting(self) -> None:
        """Replace producers that have ended, unless the backlog is large already."""
        if self._resting and self._backlog() < 2 * _LIFE * self._every:
            self._wake_resting()

    def _wake_resting(self) -> None:
        for _ in range(self._resting):
            self._start(produces=True)
        self._resting = 0

    def _backlog(self) -> int:
        put = sum(self._log_size(number) // 2 for number in self._produced)
        return put - sum(self._log_size(number) // _RECEIPT.size for number in self._consumed)

    def _log_size(self, number: int) -> int:
        try:
            return os.stat(os.path.join(self._folder.name, str(number))).st_size
        except FileNotFoundError:  # it was killed before it began
            return 0

    # -- news

    def _wait_for_news(self) -> set[int]:
        """Wait until processes report progress or have ended, and return their numbers."""
        began = time.monotonic()
        while True:
            passed = time.monotonic() - began
            if passed >= self._patience_s:
                self._note_pause(passed)
                raise _Hung(f"no progress for {passed:.1f} s by {self._describe_crew()}")
            sentinels = {m.worker.sentinel: m.number for m in self._crew.values()}
            slice_s = _LULL_S if self._resting else self._patience_s - passed
            ready = wait([self._news, *sentinels], slice_s)
            if not ready and self._resting:
                self._wake_resting()  # consumers have read all messages but the lost ones
                continue
            news = {sentinels[one] for one in ready if isinstance(one, int) and one in sentinels}
            news |= self._take_news()
            if news:
                self._note_pause(time.monotonic() - began)
                self._collect_ended()
                self._replace_resting()
                return news

    def _note_pause(self, seconds: float) -> None:
        self.report.longest_pause_s = max(self.report.longest_pause_s, round(seconds, 3))

    def _take_news(self) -> set[int]:
        try:
            said = os.read(self._news, 1 << 16)
        except BlockingIOError:
            return set()
        return {number for (number,) in _NEWS.iter_unpack(said)}

    def _describe_crew(self) -> str:
        return ", ".join(f"{m.worker.name} (pid {m.worker.pid})" for m in self._crew.values())

    # -- the course of a storm

    def rage(self, kills: int, producers: int, consumers: int) -> None:
        """End `kills` processes, one or two at a time, each time after a report of progress."""
        for produces in [True] * producers + [False] * consumers:
            self._start(produces)
        killed = 0
        while killed < kills:
            self._wait_for_news()
            wait([self._news], self._random.uniform(0, _JITTER_S) * self._random.randint(0, 1))
            most = min(len(self._crew), kills - killed)
            victims = self._random.sample(
                list(self._crew.values()), min(most, self._random.choice((1, 1, 1, 2)))
            )
            self._end(victims, self._random.choice(self._endings))
            killed += len(victims)
            for victim in victims:
                self._start(victim.produces)
            while self._take_news():  # reports from before the end do not count
                pass
        silent = set(self._crew)
        while silent := silent & set(self._crew):
            silent -= self._wait_for_news()
        self.kill_all()
        self._resting = 0

    def read_what_is_left(self) -> None:
        """Have a fresh process put a last message, and another one read up to it."""
        self._start(produces=False)
        last = Worker(_put_last, (self._queue,), start_method=self._start_method)
        self._crew[-1] = _Member(last, -1, produces=False)  # it is not to be replaced
        while self._crew:
            self._wait_for_news()

    # -- the account

    def account(self) -> StormReport:
        report = self.report
        sizes = {number: self._log_size(number) for number in self._produced}
        receipts: Counter[tuple[int, int]] = Counter()
        for number in self._consumed:
            latest: dict[int, int] = {}
            for producer, message in _receipts(Path(self._folder.name, str(number))):
                if (producer, message) == _CORRUPT:
                    report.corrupt += 1
                    continue
                receipts[producer, message] += 1
                report.overtaken += message < latest.get(producer, 0)
                latest[producer] = max(message, latest.get(producer, 0))
        report.received = receipts.total() + report.corrupt
        report.duplicated = receipts.total() - len(receipts)
        for producer, size in sizes.items():
            report.put += size // 2
            report.lost += sum((producer, n) not in receipts for n in range(1, size // 2 + 1))
        report.invented = sum(
            count
            for (producer, message), count in receipts.items()
            if not 1 <= message <= (sizes.get(producer, 0) + 1) // 2
        )
        return report


def _receipts(path: Path) -> Iterator[tuple[int, int]]:
    with contextlib.suppress(FileNotFoundError):  # it was killed before it began
        yield from _RECEIPT.iter_unpack(path.read_bytes())
