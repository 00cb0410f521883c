"""Chunks: cuts the input of a `map` into jobs, and joins their results.

    items ──> [chunk] [chunk] [chunk] ──> jobs ──> results, in order or as calls end

A chunk has as many calls as run for `CHUNK_S`, from measured durations. Until there is a
measurement, a chunk is one call. Then chunks grow in steps, so that a few quick calls at the start
do not lead to one huge chunk. Near the end of an input of known length chunks become smaller, so
that the workers finish together.
"""

from __future__ import annotations

import itertools
from collections import deque
from concurrent.futures import CancelledError
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..engines.api import CHUNK_S
from ..system import native
from ..system.interrupts import let_interrupt_through

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator

    from ..jobs.job import Job
    from .map_calls import MapCalls, MapJob

MIN_CHUNK_S = 0.0005
"""Chunks near the end of the input take at least this: shorter ones cost more than they save."""

MAX_CHUNK_ITEMS = 25_000
MAX_CHUNK_BYTES = 1 << 18

_SLOW_INPUT_S = 0.010  # after reading for this long, the items read so far are sent
_GROWTH = 8  # a chunk has at most this many times the items of the largest one measured
_SMOOTHING = 0.5


class ChunkedMap:
    """One call of `map`: makes jobs of its input, and yields their results.

    Args:
        calls: Makes the jobs.
        cancel: Cancels those of the given jobs that have not begun.
        items: The input.
        length: The number of items; -1 if it is not known.
        ended: The jobs that have ended, the oldest first; used by `as_completed`.
        num_workers: How many jobs run at a time.
        chunksize: Calls in each job; None chooses.
        window: The most items whose results were not yielded; None chooses.
        lazy: Whether to submit jobs only as the window has room, rather than all at once.
        mean_s: The mean duration of a call in seconds, if it is known.
        return_exceptions: Whether the exception of a call is yielded in place of its result.
    """

    def __init__(
        self,
        calls: MapCalls,
        cancel: Callable[[Iterable[MapJob]], None],
        items: Iterator[Any],
        length: int,
        ended: deque[Job],
        *,
        num_workers: int,
        chunksize: int | None,
        window: int | None,
        lazy: bool,
        mean_s: float | None,
        return_exceptions: bool,
    ) -> None:
        self._calls = calls
        self._cancel = cancel
        self._items = items
        self._left = length
        self._ended_jobs = ended
        self._num_workers = num_workers
        self._chunksize = chunksize
        self._window = window
        self._lazy = lazy
        self._mean_s = mean_s
        self._mean_bytes = 0.0
        self._largest = 1 if mean_s is None else MAX_CHUNK_ITEMS
        self._return_exceptions = return_exceptions
        self._jobs: deque[MapJob] = deque()
        self._under_way = 0  # items in `_jobs`
        self._ended = False
        self._input_error: Exception | None = None

    # -- in ------------------------------------------------------------------------------------

    def fill(self) -> None:
        """Submit jobs until the window is full, or the input ends.

        Raises:
            Exception: The exception of the input, unless the map is lazy. A lazy map raises it
                after the results of the items before it.
        """
        while not self._ended:
            size = self._next_size()
            if self._lazy:
                size = min(size, self._room(size))
                if size <= 0:
                    return
            items: list[Any] = []
            try:
                self._read_into(items, size)
            except Exception as error:
                let_interrupt_through(error)
                where = f"item {self._calls.num_read + len(items)} of map"
                self._calls.add_note(error, f"{where} could not be read from its input")
                if not self._lazy:
                    self._drop()
                    raise
                self._input_error = error
                self._ended = True
            if items:
                self._submit_items(items)
            if self._left > 0:
                self._left = max(0, self._left - len(items))

    def _read_into(self, items: list[Any], size: int) -> None:
        """Read `size` items, or as many as come in a short time."""
        deadline = monotonic() + _SLOW_INPUT_S
        step = size // 16 + 1
        while len(items) < size and monotonic() < deadline:
            wanted = min(step, size - len(items))
            before = len(items)
            items.extend(itertools.islice(self._items, wanted))
            if len(items) < before + wanted:
                self._ended = True
                return

    def _room(self, size: int) -> int:
        window = self._window
        probing = self._chunksize is None and size >= self._largest
        if probing and len(self._jobs) >= 2 * self._num_workers:
            return 0  # until the duration of these calls is known
        if window is None:
            window = 2 * self._num_workers * size
        return window - self._under_way

    def _next_size(self) -> int:
        if self._chunksize is not None:
            return self._chunksize
        if self._mean_s is None:
            return 1
        mean = max(self._mean_s, 1e-9)
        size = min(int(CHUNK_S / mean), self._largest, MAX_CHUNK_ITEMS)
        if self._mean_bytes:
            size = min(size, int(MAX_CHUNK_BYTES / self._mean_bytes))
        if self._window is not None:
            size = min(size, self._window // (2 * self._num_workers))
        if self._left >= 0:
            share = self._left // (2 * self._num_workers) + 1
            size = min(size, max(share, int(MIN_CHUNK_S / mean)))
        return max(1, size)

    def _submit_items(self, items: list[Any]) -> None:
        self._under_way += len(items)
        jobs = self._calls.make(items)
        self._jobs.extend(jobs)
        job, *more = jobs
        if more:
            return
        packet = job._packet
        if isinstance(packet, bytes):
            self._mean_bytes = len(packet) / job._num_calls
        elif isinstance(packet, tuple):
            self._mean_bytes = len(packet[1]) / job._num_calls

    # -- out -----------------------------------------------------------------------------------

    def in_order(self, deadline: float | None) -> Iterator[Any]:
        """Yield None first if lazy, then results in the order of the items."""
        return self._yield_all(self._next_in_order(deadline))

    def _next_in_order(self, deadline: float | None) -> Iterator[MapJob]:
        while self._jobs:
            try:
                self._jobs[0].exception(native.seconds_left(deadline))
            except TimeoutError as error:
                self._calls.add_note(error, self._calls.note_of(self._jobs[0], 0))
                raise
            except CancelledError:
                pass
            yield self._jobs.popleft()

    def as_completed(self, deadline: float | None, changed: threading.Condition) -> Iterator[Any]:
        """Yield None first if lazy, then results as jobs end; `changed` is notified of each end."""
        return self._yield_all(self._next_done(deadline, changed))

    def _next_done(self, deadline: float | None, changed: threading.Condition) -> Iterator[MapJob]:
        while self._jobs:
            job = self._first_ended(deadline, changed)
            self._jobs.remove(job)
            yield job

    def _first_ended(self, deadline: float | None, changed: threading.Condition) -> Any:
        with changed:
            while not self._ended_jobs:
                left = native.seconds_left(deadline)
                if left == 0 or not changed.wait(left):
                    raise TimeoutError("no result in time")
            return self._ended_jobs.popleft()

    def _yield_all(self, done: Iterator[MapJob]) -> Iterator[Any]:
        """Yield None first if lazy, then the results of jobs that are done."""
        try:
            if self._lazy:
                yield None
            yield from itertools.chain.from_iterable(self._batches(done))
        finally:
            self._drop()

    def _batches(self, done: Iterator[MapJob]) -> Iterator[Iterable[Any]]:
        """Yield the results of each job as one iterable, which C code iterates over."""
        for job in done:
            outcome = self._calls.settle(job, self._jobs)
            if outcome is None:
                continue
            num_calls = job._num_calls
            results, error = self._up_to_failure(*outcome)
            self._measure(job, len(results))
            del job, outcome
            if error is None:
                self.fill()
            results.reverse()
            # `list.pop` releases each result as soon as it was taken.
            yield map(list.pop, itertools.repeat(results, len(results)))
            if error is not None:
                raise error
            self._under_way -= num_calls
            self.fill()
        if self._input_error is not None:
            raise self._input_error

    def _up_to_failure(
        self, results: list[Any], errors: dict[int, BaseException]
    ) -> tuple[list[Any], BaseException | None]:
        """Return the results up to a failure that ends the map, and that failure or None."""
        if errors and not self._return_exceptions:
            first = min(errors)
            return results[:first], errors[first]
        for place, error in errors.items():
            results[place] = error
        return results, None

    def _measure(self, job: MapJob, num_done: int) -> None:
        taken = job.runtime
        if taken is None or not num_done or job.attempts > 1:
            return
        mean = taken / num_done
        if self._mean_s is not None:
            mean = self._mean_s + _SMOOTHING * (mean - self._mean_s)
        self._mean_s = mean
        self._largest = max(self._largest, _GROWTH * num_done)

    def _drop(self) -> None:
        """Cancel the jobs that have not begun: their results are not needed any more."""
        if self._jobs:
            self._cancel(self._jobs)
            self._jobs.clear()
