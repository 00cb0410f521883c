"""The exceptions of qmill.

    QmillError
     ├── SerializationError (pickle.PicklingError)   an object cannot cross to another process
     │    ├── ThreadQueueSent (TypeError)            ... because it is a queue for threads only
     │    ├── LocalQueueSent (NotSupported)          ... because it is a queue of this machine
     │    └── LockSent (RuntimeError)                ... because only a started process inherits it
     ├── WorkerDied (RuntimeError)                   a worker process ended without a result
     ├── JobTimeout (TimeoutError)                   a job ran too long and was killed
     ├── LaneError (CancelledError)                  a job's predecessor in its lane failed
     ├── QueueGone (OSError)                         the process that kept the queue is gone
     ├── Poisoned                                    messages that killed every reader they met
     └── NotSupported (ValueError)                   this engine or transport cannot do that

    queue.Empty, queue.Full                          the same objects as in the standard library
    ShutDown                                         queue.ShutDown where Python has it (3.13)

Where the standard library has an exception of the same meaning, it is a base class (in parentheses)
and catches the error as well.
"""

from __future__ import annotations

import queue
from queue import Empty, Full

try:
    from _pickle import PicklingError  # `import pickle` takes as long as all the rest
except ImportError:  # a Python without it
    from pickle import PicklingError

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
    """The base of exceptions whose arguments are not their text: `repr` shows the text."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class SerializationError(QmillError, PicklingError):
    """An object could not be pickled, or could not be rebuilt from its pickle.

    Attributes:
        is_of_result: Whether the object is the result of a job.
    """

    is_of_result = False


class ThreadQueueSent(SerializationError, TypeError):
    """A queue of `kind="thread"` was sent to another process."""


class LockSent(SerializationError, RuntimeError):
    """A lock of `multiprocessing`, or an object that has one, was sent to a running process.

    A lock can be passed only to a process that is being started, and a lock of a fork context only
    to a forked one. `multiprocessing` raises RuntimeError in these cases.
    """


class WorkerDied(_Told, RuntimeError):
    """A worker process ended without a result.

    Args:
        pid: The process that died.
        exitcode: The process's exit code; minus the signal's number if a signal killed it; None if
            the exit code is not known.
        signal: The number of the signal that killed it, or None.
        job: The name of the job or worker that the process was running, or None: a job's name or
            id, or a worker's name. For an exception of `map` a text with the item's index and its
            `repr`, such as "item 7 ('x.png')".
        rss_bytes: The last known resident memory of the process, in bytes, or None.
        address: The address of the cluster's worker to which the process belonged, or None. If
            there is no pid, the cluster's worker itself is gone.

    Attributes:
        index: For an exception of `map` the index, in the input, of the item that the process was
            working on; else None.
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
                "ended before it had a result, with an unknown exit code: another part of this "
                "program collected it (it ignores SIGCHLD, or waits for all children), or the fork "
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
    """The process that kept the queue is gone, and so are the queue's messages."""


class Poisoned(_Told):
    """Messages were set aside, since each reader that got one of them died.

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
            f"{len(self.messages)} message(s) killed every reader that got them, "
            f"and were set aside: {shown}{more}"
        )


class NotSupported(QmillError, ValueError):
    """An engine or transport does not support an argument or its value."""


class LocalQueueSent(SerializationError, NotSupported):
    """A queue, which only processes of its own machine can use, was sent to a job of a cluster."""


def _signal_name(number: int) -> str:
    import signal  # imported here, since it is needed for errors only

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
