"""Calls that wait for a mailbox, records, readers, and the clients to which they belong."""

from __future__ import annotations

from _thread import TIMEOUT_MAX, allocate_lock, get_ident
from collections import deque
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Concatenate, ParamSpec

    from .mailbox import Mailbox

    P = ParamSpec("P")
    R = TypeVar("R")
    Answer = Callable[[Any, Exception | None], None]


class Client:
    """A process that uses mailboxes; compared by identity. This process is `LOCAL`."""

    __slots__ = ("__weakref__",)


LOCAL = Client()


class Record:
    """One message, or one END (whose `tag` is not None)."""

    __slots__ = ("deaths", "number", "payload", "sender", "tag")

    def __init__(
        self, payload: Any, number: int, tag: bytes | None = None, sender: Client | None = None
    ) -> None:
        self.payload = payload
        self.number = number
        self.tag = tag
        self.sender = sender
        self.deaths = 0


class MailReader:
    """A reader's leases: lease number -> record."""

    __slots__ = ("client", "leases", "waiting")

    def __init__(self, client: Client) -> None:
        self.client = client
        self.leases: dict[int, Record] = {}
        self.waiting = False


class GetCall:
    """A call that takes up to `limit` records, or only looks at the first."""

    __slots__ = (
        "answer",
        "answered",
        "client",
        "is_alive",
        "limit",
        "peek",
        "pending",
        "reader",
        "value",
    )

    def __init__(
        self,
        client: Client,
        answer: Answer | None,
        limit: int = 1,
        reader: MailReader | None = None,
        peek: bool = False,
        is_alive: Callable[[], bool] | None = None,
    ) -> None:
        self.client = client
        self.is_alive = is_alive  # whether the caller still lives; None for a caller that does
        self.answer = answer
        self.limit = limit
        self.reader = reader
        self.peek = peek
        self.answered = False
        self.pending = False  # the call had to join the line: its answer has been or will be called
        self.value: list[tuple[int, Record]] = []


class PutCall:
    """A call that puts its payloads, the first ones at once and the others as room comes."""

    __slots__ = ("admitted", "answer", "answered", "is_alive", "payloads", "pending")

    def __init__(
        self,
        payloads: Iterable[Any],
        answer: Answer | None,
        is_alive: Callable[[], bool] | None = None,
    ) -> None:
        self.answer = answer
        self.is_alive = is_alive  # as for a GetCall
        self.payloads = deque(payloads)
        self.admitted = 0
        self.answered = False
        self.pending = False  # as of a GetCall


class JoinCall:
    """A call that waits until nothing is unfinished."""

    __slots__ = ("answer", "answered", "pending")

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.answered = False
        self.pending = False  # as of a GetCall


class LocalAnswer:
    """The answer to a call of a thread of this process, which waits for it here."""

    __slots__ = ("_lock", "error", "is_there", "value")

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()
        self.is_there = False
        self.value: Any = None
        self.error: Exception | None = None

    def __call__(self, value: Any, error: Exception | None) -> None:
        """Give the answer."""
        self.value = value
        self.error = error
        self.is_there = True
        self.wake()

    def wake(self) -> None:
        """End a `wait`, whether the answer is there or not."""
        try:
            self._lock.release()
        except RuntimeError:
            pass  # it has been woken and has not gone on yet

    def wait(self, timeout: float | None) -> bool:
        """Wait for the answer, or until `timeout` seconds have passed, or `wake` was called."""
        if timeout is None:
            self._lock.acquire()
        else:
            self._lock.acquire(True, min(timeout, TIMEOUT_MAX))
        return self.is_there

    def result(self) -> Any:
        """Return the answer or raise its error."""
        if self.error is not None:
            raise self.error
        return self.value


def locked(
    method: Callable[Concatenate[Mailbox, P], R],
) -> Callable[Concatenate[Mailbox, P], R]:
    """Run a method with the lock held, then the calls that were put off meanwhile."""

    @wraps(method)
    def run(self: Mailbox, *args: P.args, **kwargs: P.kwargs) -> R:
        me = get_ident()
        if self._owner == me:
            raise RuntimeError(
                f"{method.__name__} was called from a __del__ method or a signal handler while "
                "this thread was inside the same queue; only put can be used there"
            )
        try:
            with self._lock:
                self._owner = me
                try:
                    return method(self, *args, **kwargs)
                finally:
                    self._owner = 0
        finally:
            if self._put_off:
                self._run_put_off()

    return run  # type: ignore[return-value]  # functools.wraps hides that it is a method
