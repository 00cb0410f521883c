"""A job and its record, for the modules of all versions of ezpq."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ..errors import LaneError
from ..jobs.failures import Failure
from ..jobs.fields import function_name
from ..jobs.job import CANCELLED

if TYPE_CHECKING:
    from ..jobs.job import Job as QmillJob

KEYS = (
    *("qid", "id", "name", "priority", "lane", "timeout", "function", "args", "kwargs"),
    *("submitted", "started", "ended", "processed", "exitcode", "cancelled", "runtime"),
    *("output", "exception", "callback"),
)
"""The keys of a record."""


def record_of(job: QmillJob) -> dict[str, Any]:
    """Return a job's record, with the keys and values of ezpq."""
    full = job.to_dict()
    record = {key: full[key] for key in KEYS}
    error = job._exception
    was_stopped = job._failure is Failure.TIMED_OUT or job._state == CANCELLED
    record["timeout"] = job.timeout or 0
    record["args"] = full["args"] or None
    record["cancelled"] = was_stopped
    if job._started is None:  # it never ran
        record["ended"] = None
    if was_stopped:
        record["exception"] = str(error) if isinstance(error, LaneError) else None
    if isinstance(job.callback, BaseException):
        record["callback"] = str(job.callback)
    if job._options.suppress_errors and job.exitcode == 1:
        record["exitcode"] = -1
    return record


class Job:
    """A call of a function, for `Queue.submit`.

    Args:
        function: The function.
        args: Its positional arguments, or a single value.
        kwargs: Its keyword arguments.
        name: The job's name; None for its id.
        priority: A job with a lower number runs first.
        lane: Jobs of one lane run one after another.
        timeout: The job is killed after so many seconds; 0 is no limit.
        suppress_errors: Whether the exit code is -1 instead of 1 when the function raises.
        stop_on_lane_error: Whether the job is cancelled when the job before it in its lane fails.
    """

    _keys: tuple[str, ...] = KEYS
    _record_of = staticmethod(record_of)

    def __init__(
        self,
        function: Callable[..., Any],
        args: Any = None,
        kwargs: Any = None,
        name: Any = None,
        priority: Any = 100,
        lane: Any = None,
        timeout: float = 0,
        suppress_errors: bool = False,
        stop_on_lane_error: bool = False,
    ) -> None:
        self.function = function
        self.args = self._listed(args)
        self.kwargs = None if kwargs is None else dict(kwargs)
        self.name = name
        self.priority = priority
        self.lane = lane
        self.timeout = timeout
        self._suppress_errors = suppress_errors
        self._stop_on_lane_error = stop_on_lane_error
        self._job: QmillJob | None = None

    @staticmethod
    def _listed(args: Any) -> list[Any] | None:
        if args is None:
            return None
        return list(args) if hasattr(args, "__iter__") else [args]

    def is_running(self) -> bool:
        """Return whether the job is running."""
        return self._job is not None and self._job.running()

    def is_expired(self) -> bool:
        """Return whether the job is running and has exceeded its timeout."""
        started = self.get_start_time()
        if not self.is_running() or started is None or self.timeout <= 0:
            return False
        return datetime.now() - started > timedelta(seconds=self.timeout)

    def is_processed(self) -> bool:
        """Return whether the job has ended and its callback has returned."""
        return self.get_processed_time() is not None

    def get_exitcode(self) -> int | None:
        """Return the exit code: 0, or 1 or -1 after an exception; None before the job's end.

        If the job's process died, it is that process's exit code.
        """
        code: int | None = self.to_dict()["exitcode"]
        return code

    def run_time(self) -> float | None:
        """Return the seconds that the job ran; None before its end."""
        seconds: float | None = self.to_dict()["runtime"]
        return seconds

    def waiting_time(self) -> float | None:
        """Return the seconds from the job's submission to its start, or to now."""
        return self._since_submitted(self.get_start_time())

    def total_time(self) -> float | None:
        """Return the seconds from the job's submission to its end, or to now."""
        return self._since_submitted(self.get_end_time())

    def _since_submitted(self, end: datetime | None) -> float | None:
        submitted = self.get_submit_time()
        if submitted is None:
            return None
        return ((end or datetime.now()) - submitted).total_seconds()

    def get_submit_time(self) -> datetime | None:
        """Return the time of the job's submission."""
        return None if self._job is None else self._job.submitted

    def get_start_time(self) -> datetime | None:
        """Return the time of the job's start."""
        return None if self._job is None else self._job.started

    def get_end_time(self) -> datetime | None:
        """Return the time of the job's end."""
        return None if self._job is None else self._job.ended

    def get_processed_time(self) -> datetime | None:
        """Return the time at which the job's callback had returned."""
        return None if self._job is None else self._job.processed

    def _stop(self) -> None:
        if self._job is not None:
            self._job.cancel()

    def to_dict(self) -> dict[str, Any]:
        """Return the job's record, with the keys `KEYS`."""
        if self._job is not None:
            return self._record_of(self._job)
        mine = {**vars(self), "cancelled": False, "function": function_name(self.function)}
        return {key: mine.get(key) for key in self._keys}

    def __repr__(self) -> str:
        return str(self.to_dict())
