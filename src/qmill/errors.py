"""The exceptions of qmill.

    QmillError
     ├── SerializationError (pickle.PicklingError)   an object cannot cross to another process
     │    ├── ThreadQueueSent (TypeError)            ... because it is a queue for threads only
     │    ├── LocalQueueSent (NotSupported)          ... because it is a queue of this machine
     │    └── LockSent (RuntimeError)                ... because only a started process inherits it
     ├── WorkerDied (RuntimeError)                   a worker process ended without a result
     ├── JobTimeout (TimeoutError)                   a job ran too long and was killed
     ├── LaneError (CancelledError)                  a job's predecessor in its lane failed
     ├── QueueGone (OSError)                         whoever kept the queue is gone
     ├── Poisoned                                    messages that killed every reader they met
     └── NotSupported (ValueError)                   this engine or transport cannot do that

    queue.Empty, queue.Full                          the same objects as in the standard library
    ShutDown                                         queue.ShutDown where Python has it (3.13)

Whatever the standard library has a name for can be caught by that name.
"""

from __future__ import annotations

import queue
from queue import Empty, Full

from ._pickling import PicklingError

__all__ = [
    "Empty",
    "Full",
    "JobTimeout",
    "LaneError",
    "LocalQueueSent",
    "LockSent",
    "NotSupported",
    "Poisoned",
    "QmillError",
    "QueueGone",
    "SerializationError",
    "ShutDown",
    "ThreadQueueSent",
    "WorkerDied",
]

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from concurrent.futures import CancelledError
    from typing import Any

    class ShutDown(Exception):
        """Raised by `put` and `get` once a queue has been shut down."""

    class LaneError(CancelledError):
        """A job was cancelled because its predecessor in its lane failed."""
else:
    try:
        ShutDown = queue.ShutDown
    except AttributeError:

        class ShutDown(Exception):
            """Raised by `put` and `get` once a queue has been shut down."""


class QmillError(Exception):
    """The base of every exception that qmill defines."""


class _Told(QmillError):
    """The base of those whose arguments are no text: `repr` shows what they say."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class SerializationError(QmillError, PicklingError):
    """An object could not be turned into bytes, or bytes into an object.

    Attributes:
        is_of_result: Whether the object is what the function of a job has returned.
    """

    is_of_result = False


class ThreadQueueSent(SerializationError, TypeError):
    """A queue of `kind="thread"` was handed to another process."""


class LockSent(SerializationError, RuntimeError):
    """A lock of `multiprocessing`, or what has one, was sent where it cannot go.

    That is what `multiprocessing` raises a RuntimeError for: only a process that is being started
    can be given a lock, and only a forked one that of a fork context.
    """


class WorkerDied(_Told, RuntimeError):
    """A worker process ended without a result.

    Args:
        pid: The process that died.
        exitcode: Its exit status; minus the signal's number if a signal ended it; None if nobody
            could tell.
        signal: The signal's number, or None.
        job: The name of what it was running, or None: a job's name or id, a worker's name; for an
            exception of `map` a text with the item's index and how it is shown, "item 7 ('x.png')".
        rss_bytes: The last known resident memory of the process, or None.
        address: The worker of a cluster to which it belonged, or None. Without a pid it is that
            worker itself that is gone.

    Attributes:
        index: The index in the input of the item whose call it was running, for an exception of
            `map`; else None.
    """

    index: int | None = None

    def __init__(
        self,
        pid: int | None,
        exitcode: int | None,
        signal: int | None = None,
        job: Any = None,
        rss_bytes: int | None = None,
        address: str | None = None,
    ) -> None:
        super().__init__(pid, exitcode, signal, job, rss_bytes, address)
        self.pid = pid
        self.exitcode = exitcode
        self.signal = signal
        self.job = job
        self.rss_bytes = rss_bytes
        self.address = address

    def __str__(self) -> str:
        if self.pid is None and self.address is not None:
            what = f"the cluster's worker {self.address}"
        else:
            what = f"worker process {self.pid}" + (f" on {self.address}" if self.address else "")
        if self.job is not None:
            what += f" running {'job ' * isinstance(self.job, int)}{self.job}"
        if self.pid is None and self.address is not None:
            return f"{what} has left the cluster, or died"
        if self.signal is not None:
            how = f"was killed by {_signal_name(self.signal)}"
        elif self.exitcode is None:
            how = (
                "ended before it had a result, and how is not known: another part of this program "
                "took its exit status (it ignores SIGCHLD, or waits for all children), or the fork "
                "server was killed"
            )
        else:
            how = f"ended with exit code {self.exitcode} before it had a result"
        if self.rss_bytes is not None:
            how += f" (last known memory {self.rss_bytes / 2**20:.0f} MiB)"
        return f"{what} {how}"


class JobTimeout(QmillError, TimeoutError):
    """A job ran longer than its `timeout` and was killed."""


class QueueGone(QmillError, OSError):
    """The process that kept the queue is gone, and with it the queue's messages."""


class Poisoned(_Told):
    """Messages whose readers died each time; they were set aside.

    Args:
        messages: The messages (`qmill.Msg`), in the order in which they were put.
    """

    def __init__(self, messages: list[Any]) -> None:
        super().__init__(messages)
        self.messages = messages

    def __str__(self) -> str:
        shown = ", ".join(repr(message)[:100] for message in self.messages[:3])
        more = ", ..." if len(self.messages) > 3 else ""
        return (
            f"{len(self.messages)} message(s) killed every reader that they were given to "
            f"and were set aside: {shown}{more}"
        )


class NotSupported(QmillError, ValueError):
    """This engine or transport cannot do what an argument asks for."""


class LocalQueueSent(SerializationError, NotSupported):
    """A queue, which only the processes of one machine can reach, was handed to a cluster's job."""


def _signal_name(number: int) -> str:
    import signal  # a queue does without

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def __getattr__(name: str) -> Any:
    # LaneError is a CancelledError, and concurrent.futures is too heavy to import for a Queue.
    if name == "LaneError":
        from concurrent.futures import CancelledError

        class LaneError(QmillError, CancelledError):
            """A job was cancelled because its predecessor in its lane failed."""

        LaneError.__qualname__ = "LaneError"
        globals()["LaneError"] = LaneError
        return LaneError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
