"""Which job runs next, and when something is due: bookkeeping, with no thread and no clock.

    add ──> waiting ──take──> working ──finish──> (complete) ──> completed ──pop──>
              ^  ^               │
              │  └─── return ────┤   it was sent ahead and never begun
              └── after backoff ─┘   retry

Jobs compete by (priority, id), the lower first. Of a lane only the head competes, and only while no
job of the lane works or backs off. A job is in one heap at a time, and knows its entry there.

A heap cannot give up what is in its middle, so an entry is only abandoned: it is thrown away when
it comes up, or when most of a heap is such. Every operation is O(log n), amortised.

Moments are floats of seconds on whatever clock the caller uses.
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
"""No backoff grows beyond this."""


class JobHeap:
    """Jobs by a key and their id, from which any can be taken out.

    Most jobs come in the order in which they are to go. Those are kept in a *run*, a line in which
    each has a larger key than the one before, at a tenth of the cost of the heap; all others are in
    the heap. A job knows where it is by `_entry`: this object, or its entry in the heap. Whatever
    does not agree with that is abandoned.

    A signal handler may raise after each call, so a change happens by the two assignments, of
    `_entry` and `_size`, between which there is none.
    """

    def __init__(self) -> None:
        self._run: deque[Job] = deque()
        self._run_end: tuple[Any, int] | None = None  # the last key in the run, and the id
        self._heap: list[tuple[Any, int, Job, JobHeap]] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, job: Job) -> bool:
        entry = job._entry
        return entry is self or (type(entry) is tuple and entry[3] is self)

    def __iter__(self) -> Iterator[Job]:
        run = [(job.priority, job.id, job) for job in self._run if job._entry is self]
        heap = [entry[:3] for entry in self._heap if entry[2]._entry is entry]
        return (job for _, _, job in sorted([*run, *heap]))

    def append(self, job: Job) -> None:
        """Add a job by its priority that has never been in here."""
        key = job.priority, job.id
        if not self._run or key > self._run_end:  # type: ignore[operator]
            self._run_end = key
            self._run.append(job)
            job._entry = self
            self._size += 1
        else:
            self.push(job.priority, job)

    def push(self, key: Any, job: Job) -> None:
        """Add a job by a key."""
        entry = key, job.id, job, self
        heapq.heappush(self._heap, entry)
        job._entry = entry
        self._size += 1

    def first(self) -> Job | None:
        """Return the first job, which stays."""
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
        """Take out the first job; there must be one."""
        job = self.first()
        assert job is not None
        is_in_run = job._entry is self
        job._entry = None
        self._size -= 1
        if is_in_run:
            self._run.popleft()
        else:
            heapq.heappop(self._heap)
        return job

    def discard(self, job: Job) -> None:
        """Take out a job that is here."""
        job._entry = None
        self._size -= 1
        if len(self._heap) + len(self._run) > 2 * self._size:
            heap = [entry for entry in self._heap if entry[2]._entry is entry]
            heapq.heapify(heap)
            self._heap = heap
            self._run = deque(job for job in self._run if job._entry is self)


def _heap_of(job: Job) -> JobHeap | None:
    entry = job._entry
    heap: JobHeap | None = entry[3] if type(entry) is tuple else entry
    return heap


class _Lane:
    """The jobs of one lane: its head competes with all others, the rest wait behind it."""

    def __init__(self) -> None:
        self.head: Job | None = None  # the one in the queue's own heap
        self.busy: Job | None = None  # the one that works or backs off
        self.rest = JobHeap()
        self.waiting: dict[int, Job] = {}  # the head and the rest: what holds when these do not


class Scheduler:
    """The waiting, working and completed jobs of one queue.

    Args:
        uniform: Returns a random float in [0, 1), for the jitter of backoffs.
    """

    def __init__(self, uniform: Callable[[], float] = random.random) -> None:
        self._uniform = uniform
        self._heads = JobHeap()  # what competes
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
        """Jobs that are put and not begun, or wait for their next attempt."""
        return len(self._heads) + self._in_rest + len(self._backing_off)

    @property
    def num_working(self) -> int:
        """Jobs that were taken and have not finished."""
        return len(self.working)

    @property
    def num_completed(self) -> int:
        """Jobs that nobody has fetched yet."""
        return len(self._completed)

    def is_waiting(self, job: Job) -> bool:
        """Whether a job waits for its first or its next attempt."""
        return job._entry is not None and _heap_of(job) is not self._completed

    # -- waiting -------------------------------------------------------------------------------

    def add(self, job: Job) -> None:
        """Let a new job compete, at once or when its turn in its lane has come."""
        if (key := job._options.lane) is None:
            self._heads.append(job)
            return
        try:
            self._add_again(job)
        except BaseException:
            self._put_right(key)
            raise

    def _add_again(self, job: Job) -> None:
        """Let a job compete, perhaps not for the first time."""
        if job._options.lane is None:
            self._heads.push(job.priority, job)
            return
        lane = self._lanes.setdefault(job._options.lane, _Lane())
        lane.waiting[job.id] = job
        lane.rest.push(job.priority, job)
        self._in_rest += 1
        self._choose_head(lane)

    def _choose_head(self, lane: _Lane) -> None:
        """Let the first of an idle lane compete for it."""
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
        """Return the job that is to run next, which stays; None if none can."""
        return self._heads.first()

    def take(self, now: float, *, keep_time: bool = True) -> Job:
        """Take the first job, to run it from now on; there must be one.

        Args:
            now: This moment.
            keep_time: Whether `due` is to tell when its timeout is over.
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
        """Take out a waiting job for good, as one that is cancelled; False if it does not wait."""
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
        """Make a lane's heaps anew: a signal handler has raised in the middle of a change."""
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
        self._in_rest = sum(len(each.rest) for each in self._lanes.values())
        self._go_on(key, lane)

    def remove_all(self) -> list[Job]:
        """Take out all waiting jobs, in the order in which they would have run."""
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
        if heap is self._backing_off:  # its key is a moment
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
        """Take a job off the working ones for good.

        Args:
            job: One that works.
            failed: Whether jobs behind it in its lane are to be stopped that ask for it.

        Returns:
            Those jobs, in order; they wait no more and never run.
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
        if lane.head is None and lane.busy is None and not len(lane.rest):
            del self._lanes[key]

    def retry(self, job: Job, now: float, *, backs_off: bool = True) -> float:
        """Let a job that works wait for its next attempt, its lane with it.

        Args:
            job: The job.
            now: The moment.
            backs_off: Whether its backoff is to pass before that.

        Returns:
            The seconds until then: the job's backoff, doubled with each attempt, times a random
            factor from a half to one and a half so that jobs that failed together do not come
            back together.
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

    # -- what is due ---------------------------------------------------------------------------

    def _set_deadline(self, job: Job, deadline: float) -> None:
        self._deadline_of[job.id] = deadline
        heapq.heappush(self._deadlines, (deadline, job.id))

    def next_due(self) -> float | None:
        """Return the moment at which `due` has something to do, or None."""
        deadlines = self._deadlines
        while deadlines and self._deadline_of.get(deadlines[0][1]) != deadlines[0][0]:
            heapq.heappop(deadlines)
        moments = [deadlines[0][0]] if deadlines else []
        if len(self._backing_off):
            moments.append(self._backing_off.first_key())
        return min(moments, default=None)

    def due(self, now: float) -> list[Job]:
        """Let those compete whose backoff is over, and return those whose time to run is up.

        Each is returned once; it works until it is finished.
        """
        while len(self._backing_off) and self._backing_off.first_key() <= now:
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
        """Fetch the completed job of the lowest priority number, or None."""
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
