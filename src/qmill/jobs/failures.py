"""Failures of jobs: notes for the user, and the log of those that nobody has asked for."""

from __future__ import annotations

import contextlib
import logging
import weakref
from enum import Enum
from typing import TYPE_CHECKING

from ..errors import WorkerDied
from ..system.finalizers import finalizer
from . import fields

if TYPE_CHECKING:
    from .job import Job

logger = logging.getLogger("qmill")


class Failure(Enum):
    """The ways in which a job fails; the value is its state in records."""

    FAILED = "failed"
    DIED = "died"
    TIMED_OUT = "timed out"


HOW: dict[Failure | None, str] = {
    Failure.FAILED: "failed",
    Failure.DIED: "died with its worker",
    Failure.TIMED_OUT: "ran too long and was killed",
}
"""Words for a failure in messages, by `Job._failure`."""


def failure_of(error: BaseException) -> Failure:
    """Return how a call has failed, by its exception."""
    return Failure.DIED if isinstance(error, WorkerDied) else Failure.FAILED


def explain_failure(job: Job, error: BaseException) -> None:
    """Add a note to a TypeError if the function was called with an option of `JobQueue.put`."""
    if job._kept or not job.kwargs or not isinstance(error, TypeError):
        return
    with contextlib.suppress(Exception):  # `str` of the exception may raise anything
        text = str(error)
        for name in sorted({"priority", *job._options._fields}.intersection(job.kwargs)):
            if f"'{name}'" in text or "takes no keyword arguments" in text:
                error.add_note(
                    f"submit gives {name}= to the function, as all its arguments; as an option of "
                    f"the job it is jobs.options({name}={job.kwargs[name]!r}).submit(...)"
                )


class UnseenError:
    """The failure of a job that was not asked for yet; logged when the job is garbage-collected."""

    __slots__ = ("__weakref__", "_log", "error", "what")

    def __init__(self, job: Job, error: BaseException | None) -> None:
        self.what = f"job {job.name} ({fields.function_name(job.function)}) {HOW[job._failure]}"
        self.error = error
        self._log = job._owner.log_later
        _unseen.add(self)

    def tell(self) -> None:
        """Log the failure, once."""
        if (error := self.error) is not None:
            self.error = None
            log_unseen(self.what, error)

    @finalizer
    def __del__(self) -> None:
        # Runs in any thread, perhaps in one that must not wait for a log handler.
        if self.error is not None:
            self._log(self.what, self.error)
            self.error = None


def log_unseen(what: str, error: BaseException) -> None:
    """Log a failure that was not asked for."""
    logger.error("%s, and nobody has asked for its result", what, exc_info=error)


_unseen: weakref.WeakSet[UnseenError] = weakref.WeakSet()


def tell_unseen() -> None:
    """Log the failures that were not asked for; called when the program ends."""
    for unseen in list(_unseen):
        unseen.tell()


def forget_unseen() -> None:
    """Forget the failures of the parent, in a forked child."""
    for unseen in list(_unseen):
        unseen.error = None
