"""The scheduler: which job runs next, and when the next deadline is; with no thread and no clock.

    add ──> waiting ──take──> working ──finish──> (complete) ──> completed ──pop──>
              ^  ^               │
              │  └─── return ────┤   sent ahead, but never begun
              └── after backoff ─┘   retry

Jobs compete by (priority, id), the lower first. Of a lane only the head competes, and only while no
job of the lane works or backs off. A job is in one heap at a time, and refers to its entry there.

An entry cannot be removed from the middle of a heap, so it is marked as abandoned. Abandoned
entries are removed when they come up, or when they are most of the heap. Every operation takes
O(log n), amortised.

Moments are floats of seconds on the caller's clock.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from typing import TYPE_CHECKING, Any

from .job import DEFAULT_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .job import Job

BACKOFF_MAX_S = 3600.0
"""The longest backoff."""


class JobHeap:
    """Jobs by a key and their id; any job can be removed.

    Most jobs are added in the order in which they will run. They are kept in a *run*, a deque in
    which each key is larger than the one before, at a tenth of the cost of the heap. All other jobs
    are in the heap. `_entry` of a job is this object if the job is in the run, or its entry in the
    heap. A place in the run or the heap that disagrees with `_entry` is abandoned. `size` is the
    number of jobs.

    A signal handler may raise after any call. So the assignments of `_entry` and `size`, which
    make a change effective, have no call between them.
    """

    def __init__(self) -> None:
        self._run: deque[Job] = deque()
        self._run_end: tuple[Any, int] | None = None  # key and id of the last job of the run
        self._heap: list[tuple[Any, int, Job, JobHeap]] = []
        self.size = 0

    def __contains__(self, job: Job) -> bool:
        entry = job._entry
        return entry is self or (type(entry) is tuple and entry[3] is self)

    def __iter__(self) -> Iterator[Job]:
        run = [(job.priority, job.id, job) for job in self._run if job._entry is self]
        heap = [entry[:3] for entry in self._heap if entry[2]._entry is entry]
        return (job for _, _, job in sorted([*run, *heap]))

    def append(self, job: Job) -> None:
        """Add a job that has never been in this object, with its priority as the key."""
        key = job.priority, job.id
        if not self._run or key > self._run_end:  # type: ignore[operator]
            self._run_end = key
            self._run.append(job)
            job._entry = self
            self.size += 1
        else:
            self.push(job.priority, job)

    def push(self, key: Any, job: Job) -> None:
        """Add a job with a key."""
        entry = key, job.id, job, self
        heapq.heappush(self._heap, entry)
        job._entry = entry
        self.size += 1

    def first(self) -> Job | None:
        """Return the first job without removing it, or None."""
        run, heap = self._run, self._heap
        while run and run[0]._entry is not self:
            run.popleft()
        if not heap:
            return run[0] if run else None
        while heap and heap[0][2]._entry is not heap[0]:
            heapq.heappop(heap)
        if not heap or (run and (run[0].priority, run[0].id) < heap[0][:2]):
            return run[0] if run else None
        return heap[0][2]

    def first_key(self) -> Any:
        """Return the first job's key, or None."""
        job = self.first()
        if job is None:
            return None
        return job.priority if job._entry is self else job._entry[0]

    def pop(self) -> Job:
        """Remove and return the first job; there must be one."""
        job = self.first()
        assert job is not None
        is_in_run = job._entry is self
        job._entry = None
        self.size -= 1
        if is_in_run:
            self._run.popleft()
        else:
            heapq.heappop(self._heap)
        return job

    def discard(self, job: Job) -> None:
        """Remove a job, which must be in this object."""
        job._entry = None
        self.size -= 1
        if len(self._heap) + len(self._run) > 2 * self.size:
            heap = [entry for entry in self._heap if entry[2]._entry is entry]
            heapq.heapify(heap)
            self._heap = heap
            self._run = deque(job for job in self._run if job._entry is self)


def _heap_of(job: Job) -> JobHeap | None:
    entry = job._entry
    heap: JobHeap | None = entry[3] if type(entry) is tuple else entry
    return heap


class _Lane:
    """The jobs of one lane: its head competes with all other jobs, the rest wait behind it."""

    def __init__(self) -> None:
        self.head: Job | None = None  # the job that is in the queue's own heap
        self.busy: Job | None = None  # the job that works or backs off
        self.rest = JobHeap()
        self.waiting: dict[int, Job] = {}  # head and rest; the truth if a change is interrupted


class Scheduler:
    """The waiting, working and completed jobs of one queue.

    Args:
        uniform: Returns a random float in [0, 1), for the jitter of backoffs.
    """

    def __init__(self, uniform: Callable[[], float] = random.random) -> None:
        self._uniform = uniform
        self._heads = JobHeap()  # the jobs that compete
        self._backing_off = JobHeap()  # by the moment at which they compete again
        self._lanes: dict[Any, _Lane] = {}
        self._in_rest = 0  # jobs that wait behind their lane's head
        self._deadlines: list[tuple[float, int]] = []
        self._deadline_of: dict[int, float] = {}
        self._completed = JobHeap()
        self.working: dict[int, Job] = {}

    # -- counts --------------------------------------------------------------------------------

    @property
    def num_waiting(self) -> int:
        """The number of jobs that have not begun, or wait for their next attempt."""
        return self._heads.size + self._in_rest + self._backing_off.size

    @property
    def num_completed(self) -> int:
        """The number of completed jobs that were not fetched."""
        return self._completed.size

    def is_waiting(self, job: Job) -> bool:
        """Return whether a job waits for its first or its next attempt."""
        return job._entry is not None and _heap_of(job) is not self._completed

    # -- waiting -------------------------------------------------------------------------------

    def add(self, job: Job) -> None:
        """Add a new job; it competes at once, or when its turn in its lane has come."""
        if (key := job._options.lane) is None:
            self._heads.append(job)
            return
        try:
            self._add_again(job)
        except BaseException:
            self._put_right(key)
            raise

    def _add_again(self, job: Job) -> None:
        """Add a job that may have been in this scheduler before."""
        if job._options.lane is None:
            self._heads.push(job.priority, job)
            return
        lane = self._lanes.setdefault(job._options.lane, _Lane())
        lane.waiting[job.id] = job
        lane.rest.push(job.priority, job)
        self._in_rest += 1
        self._choose_head(lane)

    def _choose_head(self, lane: _Lane) -> None:
        """Let the first job of an idle lane compete."""
        if lane.busy is not None:
            return
        first, head = lane.rest.first(), lane.head
        if first is None or (
            head is not None and (head.priority, head.id) < (first.priority, first.id)
        ):
            return
        if head is not None:
            self._heads.discard(head)
            lane.rest.push(head.priority, head)
            self._in_rest += 1
        self._take_from_rest(lane, first)
        self._heads.push(first.priority, first)
        lane.head = first

    def _take_from_rest(self, lane: _Lane, job: Job) -> None:
        lane.rest.discard(job)
        self._in_rest -= 1

    def first(self) -> Job | None:
        """Return the next job to run, without removing it; None if there is none."""
        return self._heads.first()

    def take(self, now: float, *, keep_time: bool = True) -> Job:
        """Take the first job, to run it from now on; there must be one.

        Args:
            now: The current moment.
            keep_time: Whether the scheduler watches the job's timeout; `due` then reports it.
        """
        job = self._heads.pop()
        self.working[job.id] = job
        options = job._options
        if options is DEFAULT_OPTIONS:
            return job
        if options.lane is not None:
            lane = self._lanes[options.lane]
            lane.head, lane.busy = None, job
            del lane.waiting[job.id]
        if options.timeout is not None and keep_time:
            self._set_deadline(job, now + options.timeout)
        return job

    def remove(self, job: Job) -> bool:
        """Remove a waiting job for good, to cancel it; False if it does not wait."""
        if not self.is_waiting(job):
            return False
        heap = _heap_of(job)
        assert heap is not None
        if (key := job._options.lane) is None:
            heap.discard(job)
            return True
        lane = self._lanes[key]
        try:
            lane.waiting.pop(job.id, None)
            self._leave_lane(key, lane, job, heap)
        except BaseException:
            if job in heap:
                heap.discard(job)
            self._put_right(key)
            raise
        return True

    def _leave_lane(self, key: Any, lane: _Lane, job: Job, heap: JobHeap) -> None:
        heap.discard(job)
        if heap is lane.rest:
            self._in_rest -= 1
        elif lane.head is job:
            lane.head = None
        else:
            lane.busy = None
        self._go_on(key, lane)

    def _put_right(self, key: Any) -> None:
        """Rebuild a lane's heaps after a signal handler has raised during a change."""
        lane = self._lanes.get(key)
        if lane is None:
            return
        if lane.head is not None and lane.head in self._heads:
            self._heads.discard(lane.head)
        lane.head, lane.rest = None, JobHeap()
        for job in lane.waiting.values():
            if job in self._heads:
                self._heads.discard(job)
            lane.rest.push(job.priority, job)
        if lane.busy is not None and not (
            lane.busy.id in self.working or self.is_waiting(lane.busy)
        ):
            lane.busy = None
        self._in_rest = sum(each.rest.size for each in self._lanes.values())
        self._go_on(key, lane)

    def remove_all(self) -> list[Job]:
        """Remove all waiting jobs; return them in the order in which they would have run."""
        jobs = self.waiting()
        for job in jobs:
            self.remove(job)
        return jobs

    def waiting(self) -> list[Job]:
        """List the waiting jobs, in the order in which they would run."""
        jobs = [*self._heads, *self._backing_off]
        for lane in self._lanes.values():
            jobs += lane.rest
        return sorted(jobs, key=_order)

    def reprioritise(self, job: Job, priority: float) -> bool:
        """Change a job's priority; False if it neither waits nor is completed."""
        heap = _heap_of(job)
        if heap is None:
            job.priority = priority
            return False
        if heap is self._backing_off:  # the key there is a moment, not the priority
            job.priority = priority
            return True
        key = None if heap is self._completed else job._options.lane
        try:
            heap.discard(job)
            job.priority = priority
            heap.push(priority, job)
            if key is not None:
                self._choose_head(self._lanes[key])
        except BaseException:
            if job._entry is None:
                heap.push(priority, job)
            if key is not None:
                self._put_right(key)
            raise
        return True

    # -- working -------------------------------------------------------------------------------

    def put_back(self, job: Job) -> None:
        """Let a job compete again that was taken and never begun."""
        self._stop_working(job)
        if (key := job._options.lane) is not None:
            self._lanes[key].busy = None
        self._add_again(job)

    def finish(self, job: Job, *, failed: bool) -> list[Job]:
        """Remove a working job for good.

        Args:
            job: A job that works.
            failed: Whether to stop jobs behind it in its lane that have `stop_on_lane_error`.

        Returns:
            The stopped jobs, in order; they no longer wait, and never run.
        """
        self._stop_working(job)
        if job._options is DEFAULT_OPTIONS or (key := job._options.lane) is None:
            return []
        lane = self._lanes[key]
        lane.busy = None
        stopped = []
        while failed and (first := self._first_of(lane)) is not None:
            if not first._options.stop_on_lane_error:
                break
            self._drop(lane, first)
            stopped.append(first)
        self._go_on(key, lane)
        return stopped

    def _first_of(self, lane: _Lane) -> Job | None:
        return lane.head if lane.head is not None else lane.rest.first()

    def _drop(self, lane: _Lane, job: Job) -> None:
        if job is lane.head:
            self._heads.discard(job)
            lane.head = None
        else:
            self._take_from_rest(lane, job)
        del lane.waiting[job.id]

    def _go_on(self, key: Any, lane: _Lane) -> None:
        self._choose_head(lane)
        if lane.head is None and lane.busy is None and not lane.rest.size:
            del self._lanes[key]

    def retry(self, job: Job, now: float, *, backs_off: bool = True) -> float:
        """Let a working job wait for its next attempt; its lane waits with it.

        Args:
            job: The job.
            now: The current moment.
            backs_off: Whether its backoff has to pass before that.

        Returns:
            The seconds until the next attempt: the job's backoff, doubled with each attempt, times
            a random factor from 0.5 to 1.5, so that jobs that failed together are not retried
            together.
        """
        self._stop_working(job)
        backoff = job._options.backoff
        if backoff > 0 and backs_off:
            doubled = backoff * 2.0 ** min(job.attempts - 1, 60)
            delay = min(doubled * (0.5 + self._uniform()), BACKOFF_MAX_S)
            self._backing_off.push(now + delay, job)
            return delay
        if (key := job._options.lane) is not None:
            self._lanes[key].busy = None
        self._add_again(job)
        return 0.0

    def _stop_working(self, job: Job) -> None:
        del self.working[job.id]
        if job._options.timeout is not None:
            self._deadline_of.pop(job.id, None)
            if len(self._deadlines) > 2 * len(self._deadline_of):
                self._deadlines = sorted((at, number) for number, at in self._deadline_of.items())

    # -- deadlines and backoffs ----------------------------------------------------------------

    def _set_deadline(self, job: Job, deadline: float) -> None:
        self._deadline_of[job.id] = deadline
        heapq.heappush(self._deadlines, (deadline, job.id))

    def next_due(self) -> float | None:
        """Return the moment of the next deadline or end of a backoff, or None."""
        deadlines = self._deadlines
        if not (deadlines or self._backing_off.size):
            return None
        while deadlines and self._deadline_of.get(deadlines[0][1]) != deadlines[0][0]:
            heapq.heappop(deadlines)
        moments = [deadlines[0][0]] if deadlines else []
        if self._backing_off.size:
            moments.append(self._backing_off.first_key())
        return min(moments, default=None)

    def due(self, now: float) -> list[Job]:
        """Let jobs compete whose backoff is over, and return jobs whose timeout has expired.

        Each job is returned once; it works until it is finished.
        """
        if not (self._deadlines or self._backing_off.size):
            return []
        while self._backing_off.size and self._backing_off.first_key() <= now:
            job = self._backing_off.pop()
            if (key := job._options.lane) is not None:
                self._lanes[key].busy = None
            self._add_again(job)
        expired = []
        while (moment := self.next_due()) is not None and moment <= now:
            _, number = heapq.heappop(self._deadlines)
            del self._deadline_of[number]
            expired.append(self.working[number])
        return expired

    # -- all ---------------------------------------------------------------------------------

    def held(self) -> list[Job]:
        """List the jobs that wait, work or are completed, in the order in which they were put."""
        jobs = [*self.working.values(), *self._heads, *self._backing_off, *self._completed]
        for lane in self._lanes.values():
            jobs += lane.rest
        return sorted(jobs, key=lambda job: job.id)

    # -- completed -----------------------------------------------------------------------------

    def complete(self, job: Job) -> None:
        """Keep a finished job until it is fetched."""
        self._completed.append(job)

    def pop_completed(self) -> Job | None:
        """Remove and return the completed job with the lowest priority number, or None."""
        job = self._completed.first()
        if job is not None:
            try:
                self._completed.pop()
            except BaseException:
                if job not in self._completed:
                    self._completed.append(job)
                raise
        return job


def _order(job: Job) -> tuple[float, int]:
    return job.priority, job.id
