"""The calls of a map: makes their jobs, and names their items in errors."""

from __future__ import annotations

from concurrent.futures import CancelledError
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..errors import SerializationError, WorkerDied
from ..packing.explain import add_note, describe

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable
    from typing import TypeAlias

    from ..engines.api import Outcome
    from ..jobs.job import Chunk, MapCall

    MapJob: TypeAlias = Chunk | MapCall

_SHOWING_S = (
    1.0  # seconds that a map may spend on descriptions of items; the last one may exceed it
)


class MapCalls:
    """The calls of one map, one for each item; a job of several calls is a chunk.

    Args:
        submit: Makes a job of a list of items and the index of the first.
        unpack: Whether each item is a tuple of arguments.

    Attributes:
        num_read: How many items have become calls.
    """

    def __init__(self, submit: Callable[[list[Any], int], MapJob], unpack: bool) -> None:
        self._submit = submit
        self._unpack = unpack
        self.num_read = 0
        self._last_note: str | None = None
        self._showing_s = 0.0

    def make(self, items: list[Any]) -> list[MapJob]:
        """Make a job of the next items; if it cannot be pickled, make one job for each item."""
        index = self.num_read
        self.num_read += len(items)
        job = self._submit(items, index)
        if len(items) > 1 and isinstance(job._packet, SerializationError):
            return [self._submit([item], index + place) for place, item in enumerate(items)]
        return [job]

    def settle(self, job: MapJob, jobs: deque[MapJob]) -> Outcome | None:
        """Return the outcome of a job's calls, or replace the job by one job for each call.

        A chunk is replaced if none of its calls could be made: unpickling one of the items may
        end a worker or raise, and the other items then still get their calls.

        Args:
            job: A job that is done.
            jobs: The new jobs are inserted at the left of it.

        Returns:
            The outcome; None if there are new jobs.
        """
        failure = _failure_of(job)
        if failure is None or job._num_calls == 1:
            return self._outcome_of(job, failure)
        if job.args is not None and not isinstance(failure, CancelledError):
            items = enumerate(job.args[0], job.index)
            try:
                parts = [self._submit([item], index) for index, item in items]
            except RuntimeError:  # the queue was shut down
                pass
            else:
                jobs.extendleft(reversed(parts))
                return None
        self.add_note(failure, job._title)
        return [None] * job._num_calls, dict.fromkeys(range(job._num_calls), failure)

    def _outcome_of(self, job: MapJob, failure: BaseException | None) -> Outcome:
        results: list[Any] = [job._result]
        errors = {} if failure is None else {0: failure}
        if job._is_chunk:
            results, errors = job._result
        return results, {place: self._named(job, place, error) for place, error in errors.items()}

    # -- which item ----------------------------------------------------------------------------

    def _named(self, job: MapJob, place: int, error: BaseException) -> BaseException:
        """Return the exception with the item's index and description in a note."""
        index, shown = job.index + place, self._shown(job, place)
        if type(error) is WorkerDied:
            notes = getattr(error, "__notes__", ())
            pid, exitcode, signal, _, *more = error.args
            error = WorkerDied(pid, exitcode, signal, f"item {index}{_in_brackets(shown)}", *more)
            error.index = index
            for note in notes:
                error.add_note(note)
        self.add_note(error, self.note_of(job, place, shown))
        return error

    def note_of(self, job: MapJob, place: int, shown: str | None = None) -> str:
        """Return the text that names the item at a place of a job."""
        shown = self._shown(job, place) if shown is None else shown
        return f"item {job.index + place} of map" + (shown and f": {shown}")

    def _shown(self, job: MapJob, place: int) -> str:
        """Return an item in brief; "" if the job has released it, or describing takes too long."""
        args = job.args
        if args is None or self._showing_s > _SHOWING_S:
            return ""
        before = monotonic()
        if job._is_chunk:
            shown = describe(args[0][place])
        else:
            shown = describe(args if self._unpack else args[0])
        self._showing_s += monotonic() - before
        return shown

    def add_note(self, error: BaseException, note: str) -> None:
        """Add a note to an exception; it replaces the last note that was added here."""
        # A function may raise one object again and again: notes must not pile up on it.
        add_note(error, note, instead_of=self._last_note)
        self._last_note = note


def _failure_of(job: MapJob) -> BaseException | None:
    """Return the exception of a finished job as a whole, or None."""
    try:
        return job.exception()
    except CancelledError as error:
        return error


def _in_brackets(shown: str) -> str:
    if not shown:
        return ""
    return f" {shown}" if shown[0] + shown[-1] == "()" else f" ({shown})"
