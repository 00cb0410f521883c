"""Running totals of a queue's jobs, in constant memory: bookkeeping, with no thread and no clock.

Every job that ends is added once, on the dispatcher's hottest path. There only the job's times are
stored; the rest is done for a few hundred jobs at once. Each call of a `map` counts as a job, even
if several were sent as a chunk.
"""

from __future__ import annotations

import copy
import heapq
import math
import sys
from array import array
from collections import Counter
from types import WrapperDescriptorType
from typing import TYPE_CHECKING, Any, NamedTuple

from . import fields
from .failures import failure_of
from .job import CANCELLED, FINISHED, PENDING, RUNNING, Job

if TYPE_CHECKING:
    from collections.abc import Iterable


STATES = "waiting", "working", "done", "failed", "died", "timed out", "cancelled"
"""The values of `Job.state`."""

MAX_WORKERS = 256
"""At most this many workers are listed by name; later ones are added up as `OTHERS`."""

MAX_ERRORS = 64
"""At most this many types of errors are listed by name, likewise."""

OTHERS = "others"

NUM_SLOWEST = 10

_BATCH = 512
_ALL_COUNTED = 16 * _BATCH  # up to this count, every value enters the histogram
_STEP = 7  # after that, each seventh; a prime, so as not to coincide with a period of the jobs

_TOP = 3 if sys.byteorder == "little" else 0
_MAX_TEXT = 200


class Histogram:
    """The distribution of floats from 0, with a resolution of 6 %.

    The upper 16 bits of a double are its sign, its exponent and four bits of its mantissa. They
    number the intervals: 16 from each power of two to the next. So no logarithm is needed.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.max = 0.0
        self._first: Counter[int] = Counter()
        self._later: Counter[int] = Counter()  # of each `_STEP`th value after `_ALL_COUNTED`

    def add(self, values: list[float]) -> None:
        """Count values."""
        if not values:
            return
        all_counted = self.count < _ALL_COUNTED
        self.count += len(values)
        self.total += sum(values)
        self.max = max(self.max, *values)
        counts = self._first
        if not all_counted:
            counts, values = self._later, values[::_STEP]
        counts.update(_intervals(values))

    def add_equal(self, value: float, times: int) -> None:
        """Count one value `times` times."""
        self.count += times
        self.total += value * times
        self.max = max(self.max, value)
        self._first[_intervals([value])[0]] += times

    def quantiles(self, *shares: float) -> list[float | None]:
        """Return the quantiles for shares from 0 to 1; None for each if there are no values."""
        counts = Counter(self._first)
        for interval, count in self._later.items():
            counts[interval] += count * _STEP
        rest = [share * counts.total() for share in sorted(shares)]
        found: list[float | None] = []
        passed = 0
        for interval in sorted(counts, key=_middle):
            passed += counts[interval]
            while len(found) < len(rest) and passed >= rest[len(found)]:
                found.append(min(_middle(interval), self.max))
        return found + [None] * (len(rest) - len(found))


def _intervals(values: list[float]) -> array[int]:
    return array("H", array("d", values).tobytes())[_TOP::4]


def _middle(interval: int) -> float:
    """Return the middle of an interval of a histogram; negative values count as 0."""
    if interval == 0 or interval >= 1 << 15:
        return 0.0
    words = [0, 0, 0, 0]
    words[_TOP] = interval
    words[2 if _TOP else 1] = 1 << 15
    return array("d", array("H", words).tobytes())[0]


class SlowJob(NamedTuple):
    """One of the jobs that ran longest."""

    running_s: float
    minus_id: int  # among jobs that ran equally long, those with lower ids are kept
    name: str
    function: str | None
    state: str


class Totals:
    """Totals of a queue's jobs: how they ended, and how long they waited and ran.

    Attributes:
        states: How many jobs have ended in each state.
        waiting: Seconds from `put` to the beginning, of jobs that have begun.
        running: Seconds of the last attempt.
        num_retries: Attempts after which a job was tried again.
        first_submitted_s: The earliest `put` of the jobs that have ended; inf if there are none.
        last_ended_s: The end of the last job; -inf if there is none.
        busy: For each worker, the seconds in which it ran jobs.
        errors: For each type of error, how many, and the text of the first one, if that is known.
        slowest: The jobs that ran longest, as a heap: the shortest of them first.
    """

    def __init__(self) -> None:
        self.states: Counter[str] = Counter()
        self.waiting = Histogram()
        self.running = Histogram()
        self.num_retries = 0
        self.first_submitted_s = math.inf
        self.last_ended_s = -math.inf
        self.busy: dict[str, float] = {}
        self.errors: dict[str, tuple[int, str | None]] = {}
        self.slowest: list[SlowJob] = []
        self._slow_s = 0.0  # a job that ran longer becomes one of the slowest
        self._waits: list[float] = []
        self._runs: list[float] = []

    @property
    def num_ended(self) -> int:
        """Count the jobs that have ended."""
        return self.states.total() + len(self._runs)

    @property
    def num_failed(self) -> int:
        """Count the jobs that have failed, died or timed out."""
        states = self.states
        return states["failed"] + states["died"] + states["timed out"]

    def add(self, outcomes: Iterable[tuple[Job, str, Any, Any]], now: float) -> None:
        """Count jobs that are about to be settled.

        Args:
            outcomes: Jobs, each with the state, result and exception that it is about to get.
            now: The end of jobs whose end is not known.
        """
        add_wait, add_run, busy = self._waits.append, self._runs.append, self.busy
        slow, first = self._slow_s, self.first_submitted_s
        for job, state, result, error in outcomes:
            if error is None and state == FINISHED and job._state == RUNNING and not job._is_chunk:
                submitted, started, ended = job._submitted, job._started, job._ended
                if submitted < first:
                    self.first_submitted_s = first = submitted
                if started is None or ended is None:  # the engine has not measured them
                    started = ended = now
                add_wait(started - submitted)
                running = ended - started
                add_run(running)
                if running > slow:
                    slow = self._add_slow(job, running, "done")
                try:
                    busy[job.worker] += running  # type: ignore[index]
                except KeyError:
                    self._add_busy(job.worker, running)
            else:
                self._add_other(job, state, result, error, now)
                first = self.first_submitted_s
        self.last_ended_s = now
        if len(self._runs) >= _BATCH:
            self.fold()

    def _add_other(self, job: Job, state: str, result: Any, error: Any, now: float) -> None:
        """Count a job that has not returned normally, or the calls of a chunk."""
        ended = now if job._ended is None else job._ended
        is_cancelled = CANCELLED in (state, job._state)
        num_done, num_failed, word = 0, 0, "cancelled" if is_cancelled else "done"
        errors = [] if error is None or is_cancelled else [error]
        if job._is_chunk and not is_cancelled:
            if error is not None:  # no call was made: each becomes a job of its own
                return
            errors = list(result[1].values())
            num_done = len(result[0]) - len(errors)
            self.states["done"] += num_done
        for each in errors:
            num_failed, word = num_failed + 1, _word_of(job, each)
            self.states[word] += 1
            self._add_error(each)
        self.states["cancelled"] += job._num_calls - num_done - num_failed
        self.first_submitted_s = min(self.first_submitted_s, job._submitted)
        if job._started is None or job._state == PENDING:  # not run, or not run again
            return
        num_run = num_done + num_failed or 1
        running = ended - job._started
        self.waiting.add_equal(job._started - job._submitted, num_run)
        self.running.add_equal(running / num_run, num_run)
        if running / num_run > self._slow_s:
            self._add_slow(job, running / num_run, word)
        self._add_busy(job.worker, running)

    def add_retry(self, job: Job, num_calls: int = 1) -> None:
        """Count a failed attempt that is followed by another one; for a chunk, its failed calls."""
        self.num_retries += num_calls
        if job._started is not None and job._ended is not None:
            self._add_busy(job.worker, job._ended - job._started)

    def copy(self) -> Totals:
        """Return a copy that includes all jobs so far and does not change any more."""
        self.fold()
        return copy.deepcopy(self)

    def fold(self) -> None:
        """Move the stored times into the histograms, and count their jobs as done."""
        self.states["done"] += len(self._runs)
        self.waiting.add(self._waits)
        self.running.add(self._runs)
        self._waits.clear()
        self._runs.clear()

    def _add_slow(self, job: Job, running: float, state: str) -> float:
        """Add a job to the slowest; return how long a job must run to be one of them."""
        function = fields.function_name(job.function)
        slow = SlowJob(running, -job.id, _plain(job.name), function, state)
        (heapq.heappush if len(self.slowest) < NUM_SLOWEST else heapq.heappushpop)(
            self.slowest, slow
        )
        if len(self.slowest) == NUM_SLOWEST:
            self._slow_s = self.slowest[0].running_s
        return self._slow_s

    def _add_error(self, error: BaseException) -> None:
        kind = type(error).__name__
        if kind not in self.errors and len(self.errors) >= MAX_ERRORS:
            kind = OTHERS
        count, text = self.errors.get(kind, (0, None))
        self.errors[kind] = count + 1, text or _text_of(error)

    def _add_busy(self, worker: str | None, running: float) -> None:
        if worker is None:
            return
        if worker not in self.busy and len(self.busy) >= MAX_WORKERS:
            worker = OTHERS
        self.busy[worker] = self.busy.get(worker, 0.0) + running


def _word_of(job: Job, error: BaseException) -> str:
    failure = None if job._is_chunk else job._failure
    return (failure or failure_of(error)).value


# The following runs in the dispatcher with its lock held, so it calls no `__str__` of the user.

_PLAIN = str, int, float, bool, type(None)


def _plain(value: Any) -> str:
    return _cut(str(value)) if type(value) in _PLAIN else f"a {type(value).__name__}"


def _text_of(error: BaseException) -> str | None:
    """Return the text of an exception if its `__str__` is a builtin one; else None."""
    is_builtin = isinstance(type(error).__str__, WrapperDescriptorType)
    if is_builtin and all(type(value) in _PLAIN for value in error.args):
        return _cut(str(error))
    return None


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 3] + "..."
