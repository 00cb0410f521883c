"""The transport between threads of one process: references to the objects, nothing is pickled."""

from __future__ import annotations

from typing import Any, NoReturn

from ...errors import ThreadQueueSent
from ...packing.serialize import check_stays_here
from ..checks import check_new_maxsize
from .access import LocalAccess, MailboxQueue
from .mailbox import Mailbox


class ThreadQueue(MailboxQueue):
    """A queue between the threads of this process. See `qmill.Queue`."""

    def __init__(
        self,
        maxsize: int | None = None,
        *,
        kind: str = "thread",
        name: str | None = None,
        persistent: bool = False,
    ) -> None:
        self._local = LocalAccess(Mailbox(check_new_maxsize(maxsize) or 0))

    @property
    def _access(self) -> LocalAccess:
        return self._local

    def __repr__(self) -> str:
        maxsize = self._local.mailbox.maxsize
        return f"<qmill.Queue kind='thread' maxsize={maxsize} at {id(self):#x}>"

    def _pack(self, obj: Any) -> Any:
        return obj

    def _unpack(self, payload: Any, peeked: bool = False) -> Any:
        return payload

    @property
    def name(self) -> None:
        """None: a queue between threads has no name."""
        return None

    def unlink(self) -> NoReturn:
        raise ValueError(f"{self!r} has no name to unlink")

    def __reduce__(self) -> NoReturn:
        self._check_sendable()

    def _check_sendable(self) -> NoReturn:
        check_stays_here()
        raise ThreadQueueSent(
            "a queue of kind='thread' cannot be sent to another process; "
            "use kind='process' for both sides"
        )
