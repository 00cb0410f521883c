"""A job: one call of a function, its outcome and its times, as a `concurrent.futures.Future`.

A `Future` has a condition and two lists, 1.2 kB, that most jobs never need. Here they are made on
first use, under one lock for all jobs. `_settle` takes the same lock before it decides that no
thread is waiting. So a thread that begins to wait either finds the outcome or is notified of it.
"""

from __future__ import annotations

import logging
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

from ..system import native
from ..system.generic import T
from . import fields
from .failures import Failure, UnseenError, forget_unseen

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable
    from datetime import datetime

    from .kept import Remains


logger = logging.getLogger("qmill")

PENDING, RUNNING, CANCELLED, FINISHED = (
    "PENDING",
    "RUNNING",
    "CANCELLED_AND_NOTIFIED",
    "FINISHED",
)

HAS_WAITERS, HAS_CALLBACKS = 1, 2  # bits of `_watched`

# Reentrant, as are all locks here: a garbage collection may call a `__del__` at any point, and
# that method may use a job.
_watch_lock = native.RLock()


class _Late:
    """A part of a Future that is made when it is first read.

    A `__getattr__` of `Job` would make every read of any attribute take ten times as long.
    """

    # No `__set_name__`: Ctrl-C in it, while the module is imported, would become a RuntimeError.
    def __init__(self, name: str, make: Callable[[], Any], bit: int) -> None:
        self._name = name
        self._make = make
        self._bit = bit

    def __get__(self, job: Any, _: Any = None) -> Any:
        if job is None:
            return self
        parts = job._parts
        if parts is None or self._name not in parts:
            with _watch_lock:
                parts = job._parts = {} if job._parts is None else job._parts
                if self._name not in parts:
                    parts[self._name] = self._make()
                    job._watched |= self._bit
        return parts[self._name]

    def __set__(self, job: Any, value: Any) -> None:
        with _watch_lock:
            job._parts = {**(job._parts or {}), self._name: value}


class Options(NamedTuple):
    """Options of a job other than its function, arguments and priority; see `JobQueue.put`."""

    name: Any = None
    lane: Any = None
    timeout: float | None = None
    retries: int = 0
    backoff: float = 0.0
    retry_timeouts: bool = False
    suppress_errors: bool = False
    stop_on_lane_error: bool = False


DEFAULT_OPTIONS = Options()


class Owner(Protocol):
    """The interface through which a job uses its queue."""

    qid: str

    def cancel(self, job: Job) -> bool:
        """Cancel a job of this queue; see `Job.cancel`."""

    def log_later(self, what: str, error: BaseException) -> None:
        """Have a failure logged from a thread that may wait for a log handler."""

    def wall_time(self, moment_s: float) -> datetime:
        """Return the date and time of a moment of the monotonic clock."""

    def host_of(self, worker: str | None) -> str | None:
        """Return the name of the machine that a worker runs on."""


class Job(Future[T]):
    """One call of a function, returned by `JobQueue.put` and `submit`.

    A `concurrent.futures.Future` with a record. `result()` raises the function's exception, with
    the remote traceback as its cause, or `WorkerDied`, `JobTimeout`, `LaneError`,
    `SerializationError`, `CancelledError`.

    Attributes:
        id (int): Its number in its queue, from 1.
        priority: Jobs with lower numbers run first.
        function: The function to call; None after a job of `submit` or `map` has ended.
        args: Its positional arguments, a tuple; None when `function` is. After the job has ended,
            if they take more than 64 KiB, a short text replaces each large one (see `keep_args` of
            `JobQueue`).
        kwargs: Its keyword arguments, a dict or None; otherwise as `args`.
        exitcode (int | None): 0; 1 for an exception; else the exit code of the worker process.
        attempts (int): How often the job was begun.
        worker (str | None): The name of the worker that ran it last.
    """

    __slots__ = (
        "_callback",
        "_ended",
        "_entry",
        "_environment",
        "_exception",
        "_failure",
        "_kept",
        "_may_wait",
        "_options",
        "_owner",
        "_packet",
        "_parts",
        "_processed",
        "_remains",
        "_result",
        "_started",
        "_state",
        "_submitted",
        "_unseen",
        "_subject",
        "_watched",
        "args",
        "attempts",
        "exitcode",
        "function",
        "id",
        "kwargs",
        "priority",
        "worker",
    )

    _condition: Any = _Late("_condition", native.Condition, HAS_WAITERS)
    _waiters: Any = _Late("_waiters", list, HAS_WAITERS)
    _done_callbacks: Any = _Late("_done_callbacks", list, HAS_CALLBACKS)

    _is_chunk = False
    """Whether it makes several calls, as a chunk of a `map` does."""

    _is_of_map = False
    """Whether it belongs to a `map`, with one item or several."""

    _num_calls = 1
    """The number of calls that it makes."""

    _sink: deque[Job] | None = None
    """For a job of `map`: the job is appended here when it has ended."""

    _num_to_do = 1
    """The number of calls that its next attempt makes."""

    _to_do: list[int] | None = None
    """For a chunk that was run before: the places of the calls that are still to be made."""

    _version = 0
    """The number of changes of `_to_do`."""

    def __init__(
        self,
        number: int,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        priority: float,
        options: Options,
        owner: Owner,
        submitted_s: float,
    ) -> None:
        self.id: int = number
        self.function: Callable[..., Any] | None = function
        self.args: tuple[Any, ...] | None = args
        self.kwargs: dict[str, Any] | None = kwargs
        self.priority: float = priority
        self.exitcode: int | None = None
        self.attempts: int = 0
        self.worker: str | None = None
        self._options = options
        self._owner: Owner = owner
        self._submitted = submitted_s
        self._started: float | None = None
        self._ended: float | None = None
        self._processed: float | None = None
        self._state = PENDING
        self._result: Any = None
        self._exception: BaseException | None = None
        self._failure: Failure | None = None
        self._callback: Any = None  # the queue's callback; then its return value
        self._kept = True  # whether it enters the completed queue
        self._watched = 0
        self._parts: dict[str, Any] | None = None  # the parts that `_Late` has made
        self._entry: Any = None  # the scheduler's: the job's place in one of its heaps
        self._may_wait = False  # the engine's: whether a short job may be sent ahead
        self._packet: Any = None  # the engine's: the data to send
        self._remains: Remains | None = None  # kept after its end; None: all
        self._subject: Any = None  # the engine's: its knowledge about the function
        self._environment: Any = None  # the engine's: the globals that the job uses
        self._unseen: UnseenError | bool | None = None  # False: the outcome was asked for

    def __repr__(self) -> str:
        return f"<qmill.Job {self.name} {self._state_word()}>"

    def __reduce__(self) -> Any:
        raise TypeError(
            "a Job belongs to the process of its queue and cannot be sent; "
            "send job.output or job.to_dict()"
        )

    # -- the record ----------------------------------------------------------------------------

    @property
    def name(self) -> Any:
        """Its name in records and messages; its id unless a name was given."""
        return self.id if self._options.name is None else self._options.name

    @property
    def _title(self) -> str:
        """Its name as part of a sentence."""
        return f"job {self.name}"

    @property
    def lane(self) -> Any:
        """The lane it runs in, or None."""
        return self._options.lane

    @property
    def timeout(self) -> float | None:
        """Seconds that it may run before it is killed; None is no limit."""
        return self._options.timeout

    @property
    def state(self) -> str:
        """Its state.

        One of "waiting", "working", "done", "failed" (the function raised), "died" (the worker
        did), "timed out", "cancelled".
        """
        self._see()
        return self._state_word()

    def _state_word(self) -> str:
        if self._state == FINISHED:
            return self._failure.value if self._failure else "done"
        if self._state == CANCELLED:
            return "cancelled"
        return "working" if self._state == RUNNING else "waiting"

    @property
    def output(self) -> T | None:
        """The result of the function; None while there is none, or if it failed."""
        output: T | None = self._result
        return output

    @property
    def submitted(self) -> datetime:
        """The time at which it was put."""
        return self._owner.wall_time(self._submitted)

    @property
    def started(self) -> datetime | None:
        """The time at which its last attempt began."""
        return self._wall_time(self._started)

    @property
    def ended(self) -> datetime | None:
        """The time at which it ended."""
        return self._wall_time(self._ended)

    @property
    def processed(self) -> datetime | None:
        """The time at which the queue's callback returned."""
        return self._wall_time(self._processed)

    @property
    def runtime(self) -> float | None:
        """Seconds from start to end of the last attempt."""
        if self._started is None or self._ended is None:
            return None
        return self._ended - self._started

    @property
    def host(self) -> str | None:
        """The name of the machine on which it was last run."""
        return self._owner.host_of(self.worker)

    @property
    def callback(self) -> Any:
        """The result of the queue's callback, or the exception that it raised."""
        return None if self._processed is None else self._callback

    def to_dict(self) -> dict[str, Any]:
        """Return the job's record.

        Returns:
            The fields of `jobs.fields.SCHEMA`, in their order: those of ezpq (qid to callback),
            then qmill's own. Moments are naive local datetimes.
        """
        self._see()
        return fields.to_dict(self)

    def _wall_time(self, moment_s: float | None) -> datetime | None:
        return None if moment_s is None else self._owner.wall_time(moment_s)

    # -- the future ----------------------------------------------------------------------------

    def cancel(self) -> bool:
        """Cancel the job, even while it runs if the engine can kill.

        A running job is killed with the processes that it has started (SIGTERM, after 2 seconds
        SIGKILL), and is not retried. The job counts as cancelled at once.

        Returns:
            False if it has ended, or is running and cannot be killed (in a thread).
        """
        return self._owner.cancel(self)

    def result(self, timeout: float | None = None) -> T:
        """Wait for the function's result.

        Args:
            timeout: Seconds to *wait* at most; None is no limit. The job continues after them: to
                kill it, use the `timeout` of `JobQueue.put`.

        Raises:
            TimeoutError: The job has not ended in time. (A job that was killed for its timeout
                raises `JobTimeout`, which is a TimeoutError, too: `done()` tells them apart.)
            CancelledError: The job was cancelled; `LaneError` if it was cancelled because the job
                before it in its lane has failed.
            WorkerDied: The process that ran it ended.
            SerializationError: Its function, an argument or its result cannot be pickled.
            Exception: The exception of the function.
        """
        if self._state == FINISHED and self._exception is None:
            result: T = self._result
            return result
        try:
            return super().result(timeout)
        except CancelledError as error:
            raise (self._exception or error) from None
        finally:
            self._see()
            self = None  # type: ignore[assignment]  # no reference cycle with the traceback

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end, and return the exception that `result` would raise, or None.

        Args:
            timeout: Seconds to wait at most; None is no limit.

        Raises:
            TimeoutError: The job has not ended in time.
            CancelledError: The job was cancelled.
        """
        try:
            return super().exception(timeout)
        except CancelledError as error:
            raise (self._exception or error) from None
        finally:
            self._see()
            self = None  # type: ignore[assignment]

    def __await__(self) -> NoReturn:
        """Raise an error that explains how to await a job.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "a Job cannot be awaited; write await asyncio.wrap_future(job), which makes "
            "an awaitable of it"
        )

    # -- for the queue -------------------------------------------------------------------------

    def _fail_loudly(self, error: BaseException | None = None) -> None:
        """Have its failure, which is about to be settled, logged unless it is asked for later."""
        if self._unseen is None:
            self._unseen = UnseenError(self, error or self._exception)

    def _see(self) -> None:
        """Mark the outcome as asked for."""
        if self._state == FINISHED:
            if isinstance(self._unseen, UnseenError):
                self._unseen.error = None
            self._unseen = False

    def _settle(self, state: str, result: Any, exception: BaseException | None) -> bool:
        """Set the outcome and notify waiting threads; False if it was settled before."""
        with _watch_lock:
            if not self._watched:
                return self._set(state, result, exception)
        with self._condition:
            if not self._set(state, result, exception):
                return False
            for waiter in self._waiters:
                if state == CANCELLED:
                    waiter.add_cancelled(self)
                elif exception is not None:
                    waiter.add_exception(self)
                else:
                    waiter.add_result(self)
            self._condition.notify_all()
        return True

    def _set(self, state: str, result: Any, exception: BaseException | None) -> bool:
        if self._state in (FINISHED, CANCELLED):
            return False
        self._result = result
        self._exception = exception
        self._state = state
        return True

    def _call_back(self) -> None:
        """Call the callbacks of `add_done_callback`, once."""
        if not self._watched & HAS_CALLBACKS:
            return
        with self._condition:
            callbacks, self._done_callbacks = self._done_callbacks, []
        for callback in callbacks:
            try:
                callback(self)
            except BaseException:  # must not end the reporter's thread
                logger.exception("a done callback of job %s failed", self.name)

    def _let_go_of_much(self) -> None:
        """Release large arguments, as was decided by `put`."""
        assert self._remains is not None
        self.function, self.args, self.kwargs = self._remains
        self._remains = self._subject = None

    def _let_go(self) -> None:
        """Release the function and its arguments; a job of `submit` or `map` needs them no more."""
        self.function = self.args = self.kwargs = self._subject = None


class MapCall(Job[Any]):
    """One call of a `map`.

    Attributes:
        index (int): The item's place in the input.
    """

    __slots__ = ("_sink", "index")

    _is_of_map = True

    def __init__(self, *args: Any, index: int = 0, sink: deque[Job] | None = None) -> None:
        super().__init__(*args)
        self.index = index
        self._sink = sink

    @property
    def _title(self) -> str:
        """Its name as part of a sentence."""
        return f"item {self.index} of map"

    def _let_go(self) -> None:
        """Release the function, and also the item unless an error is to name it."""
        if self._exception is None:
            super()._let_go()
        else:
            self.function = self._subject = None


class Chunk(Job[Any]):
    """Several calls of one function in a job; made by `map`.

    Its arguments are a list of items, whether each is a tuple of arguments, and whether to go on
    after a call that fails. Its result is an `engines.base.Outcome`. The chunk itself fails only if
    none of its calls was made.

    Attributes:
        index (int): The first item's place in the input.
        stops (bool): Whether results after a call that has failed for good are not needed.
    """

    __slots__ = (
        "_outcome",
        "_tries",
        "index",
        "_num_calls",
        "_num_to_do",
        "_sink",
        "stops",
        "_to_do",
        "_version",
    )

    _is_chunk = _is_of_map = True

    def __init__(
        self,
        *args: Any,
        index: int = 0,
        stops: bool = True,
        sink: deque[Job] | None = None,
    ) -> None:
        super().__init__(*args)
        assert self.args is not None
        self._sink = sink
        self._num_calls = self._num_to_do = len(self.args[0])
        self.index = index
        self.stops = stops
        self._to_do: list[int] | None = None
        self._version = 0
        self._outcome: tuple[list[Any], dict[int, BaseException]] | None = None
        self._tries: dict[int, int] = {}  # failures of each call that has failed

    @property
    def _title(self) -> str:
        """Its name as part of a sentence."""
        return f"items {self.index} to {self.index + self._num_calls - 1} of map"

    def is_whole(self, outcome: tuple[list[Any], dict[int, BaseException]]) -> bool:
        """Return whether an attempt was the first and all its calls have returned."""
        return self._to_do is None and not outcome[1] and len(outcome[0]) == self._num_calls

    def add(self, outcome: tuple[list[Any], dict[int, BaseException]]) -> int:
        """Add the outcome of an attempt, and set the calls that are still `_to_do`; [] if none.

        Returns:
            How many of these calls have failed and are tried again; the others were not made.
        """
        to_do = range(self._num_calls) if self._to_do is None else self._to_do
        if self._outcome is None:
            self._outcome = [None] * self._num_calls, {}
        results, errors = self._outcome
        for place, result in zip(to_do, outcome[0], strict=False):
            results[place] = result
        again = []
        for at, error in outcome[1].items():
            place = to_do[at]
            self._tries[place] = tries = self._tries.get(place, 0) + 1
            if tries <= self._options.retries:
                again.append(place)
            else:
                errors[place] = error
        left = sorted([*again, *to_do[len(outcome[0]) :]])
        if self.stops and errors:
            left = [place for place in left if place < min(errors)]
        self._to_do, self._num_to_do = left, len(left)
        self._version += 1
        return sum(place in self._tries for place in left)

    def outcome(self) -> tuple[list[Any], dict[int, BaseException]]:
        """Return the outcome of all attempts, up to a failure that ends the map."""
        assert self._outcome is not None
        (results, errors), self._outcome = self._outcome, None
        if self.stops and errors:
            first = min(errors)
            return results[: first + 1], {first: errors[first]}
        return results, errors

    def _let_go(self) -> None:
        """Release the function, and also the items unless an error is to name one."""
        if self._exception is None and not (self._result and self._result[1]):
            super()._let_go()
        else:
            self.function = self._subject = None


def after_fork_in_child() -> None:
    """Replace the lock, which a thread of the parent may hold; forget the parent's failures."""
    global _watch_lock
    _watch_lock = native.RLock()
    forget_unseen()
