"""Results of the calls of a `Pool`, which may not be there yet: `AsyncResult` and iterators."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool as stdlib_pool
import threading
import types
from collections import deque
from concurrent.futures import CancelledError
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..errors import SerializationError
from ..packing import remote_errors
from ..system import native

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .map_calls import MapCalls, MapJob
    from .pool import Pool


# -- results -----------------------------------------------------------------------------------


class ApplyResult:
    """The result of a call, perhaps of one that still runs; returned by `Pool.apply_async`.

    It is `ready` only after its callbacks have returned.
    """

    def __init__(
        self,
        pool: Pool,
        jobs: Iterable[Any],
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        self._in_threads = pool._in_threads
        self._jobs: deque[Any] = deque(jobs)
        self._lock = threading.RLock()
        self._success = True
        self._value: Any = None
        self._callbacks = callback, error_callback
        self._told = native.Event() if callback or error_callback else None

    def ready(self) -> bool:
        """Return whether the call has ended."""
        return self._wait(0)

    def successful(self) -> bool:
        """Return whether the call has returned a value.

        Raises:
            ValueError: The call has not ended.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._success

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the call has ended, or for `timeout` seconds."""
        self._wait(timeout)

    def get(self, timeout: float | None = None) -> Any:
        """Wait for the call's result.

        Args:
            timeout: Seconds to wait at most; None is no limit.

        Raises:
            multiprocessing.TimeoutError: The call has not ended in time.
            multiprocessing.ProcessError: The pool was terminated first.
            WorkerDied: The process that ran the call died.
            Exception: The exception of the call.
        """
        if not self._wait(timeout):
            raise multiprocessing.TimeoutError
        if self._success:
            return self._value
        raise self._value

    __class_getitem__: Any = classmethod(types.GenericAlias)

    def _wait(self, timeout: float | None) -> bool:
        """Wait for the outcome; False if the timeout expired first."""
        return self._collect(timeout) if self._told is None else self._told.wait(timeout)

    def _collect(self, timeout: float | None) -> bool:
        """Take in the outcomes of the jobs; False if one of them is not done in time."""
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            with self._lock:
                if not self._jobs:
                    return True
                job = self._jobs[0]
            if not _wait_for(job, deadline):
                return False
            with self._lock:
                if self._jobs and self._jobs[0] is job:  # not taken by another thread meanwhile
                    self._jobs.popleft()
                    self._take(job)

    def _take(self, job: Any) -> None:
        """Take in the outcome of one job."""
        try:
            self._value = job.result()
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Set the failure, unless there is one already."""
        if self._success:
            self._success = False
            self._value = _as_raised(error, self._in_threads)

    def _tell_when_done(self, _: object = None) -> None:
        """Call the callback once all jobs are done, in the thread that settles the last one."""
        if self._told is None:
            return
        if not self._collect(0):
            self._jobs[0].add_done_callback(self._tell_when_done)
            return
        callback = self._callbacks[0 if self._success else 1]
        try:
            if callback is not None:
                callback(self._value)
        finally:
            self._told.set()


AsyncResult = ApplyResult


class MapResult(ApplyResult):
    """The results of the calls of a `map_async`, as one list; perhaps of calls that still run."""

    def __init__(
        self,
        pool: Pool,
        calls: MapCalls,
        jobs: Iterable[MapJob],
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        super().__init__(pool, jobs, callback, error_callback)
        self._calls = calls
        self._results: list[Any] = []
        self._value = self._results

    @property
    def _number_left(self) -> int:
        """The number of chunks that are not done, for programs that show their progress with it."""
        with self._lock:
            return sum(not job.done() for job in self._jobs)

    def _take(self, job: MapJob) -> None:
        outcome = self._calls.settle(job, self._jobs)
        if outcome is not None:
            results, errors = outcome
            self._results += results
            if errors:
                self._fail(errors[min(errors)])


class IMapIterator:
    """The results of an `imap`, in the order of its items.

    A failed call raises its exception when its turn comes; later calls are not affected.
    """

    def __init__(self, pool: Pool, func: Callable[[Any], Any]) -> None:
        self._in_threads = pool._in_threads
        self._jobs: deque[Any] = deque()  # the jobs whose outcomes come next
        self._calls = self._make_calls(pool, func)
        self._outcomes: deque[tuple[bool, Any]] = deque()
        self._is_fed = False
        self._input_error: Exception | None = None

    def _make_calls(self, pool: Pool, func: Callable[[Any], Any]) -> MapCalls:
        self._changed = native.Condition()
        return pool._jobs._calls_of(func, False, stops=False)

    def __iter__(self) -> IMapIterator:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """Return the next result.

        Args:
            timeout: Seconds to wait for it at most; None is no limit.

        Raises:
            StopIteration: There are no more results.
            multiprocessing.TimeoutError: The result is not there in time.
            Exception: The exception of the call, or of reading its item.
        """
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            with self._changed:
                while not self._outcomes:
                    job = self._first_job(deadline)
                    if not job.done():
                        break
                    self._jobs.popleft()
                    self._take(job)
                else:
                    success, value = self._outcomes.popleft()
                    break
            if not _wait_for(job, deadline):
                raise multiprocessing.TimeoutError
        if success:
            return value
        raise value

    def _first_job(self, deadline: float | None) -> Any:
        """Wait for the job whose outcome comes next."""
        while not self._jobs:
            if self._is_over():
                error, self._input_error = self._input_error, None
                raise error or StopIteration
            left = native.seconds_left(deadline)
            if (left is not None and left <= 0) or not self._changed.wait(left):
                raise multiprocessing.TimeoutError
        return self._jobs[0]

    def _is_over(self) -> bool:
        return self._is_fed

    def _take(self, job: MapJob) -> None:
        """Take in the outcome of one job."""
        parts: deque[MapJob] = deque()
        outcome = self._calls.settle(job, parts)
        if outcome is None:
            self._put_first(parts)
            return
        results, errors = outcome
        for place, result in enumerate(results):
            if (error := errors.get(place)) is not None:
                self._outcomes.append((False, _as_raised(error, self._in_threads)))
            else:
                self._outcomes.append((True, result))

    def _put_first(self, jobs: deque[MapJob]) -> None:
        self._jobs.extendleft(reversed(jobs))

    def feed(self, items: list[Any]) -> None:
        """Call the function for the next items, in the background."""
        jobs = self._calls.make(items)
        with self._changed:
            self._jobs.extend(jobs)
            self._changed.notify_all()

    def end(self, error: Exception | None) -> None:
        """Mark the input as complete; `error` is the exception that it raised, or None."""
        with self._changed:
            self._input_error = None if error is None else _as_raised(error, True)
            self._is_fed = True
            self._changed.notify_all()


class IMapUnorderedIterator(IMapIterator):
    """The results of an `imap_unordered`, in the order in which the calls end."""

    _num_left = 0  # jobs whose outcomes were not taken in

    def _make_calls(self, pool: Pool, func: Callable[[Any], Any]) -> MapCalls:
        self._changed = pool._dispatcher.changed
        return pool._jobs._calls_of(func, False, stops=False, sink=self._jobs)

    def _is_over(self) -> bool:
        return self._is_fed and not self._num_left

    def _take(self, job: MapJob) -> None:
        self._num_left -= 1
        super()._take(job)

    def _put_first(self, jobs: deque[MapJob]) -> None:
        self._num_left += len(jobs)

    def feed(self, items: list[Any]) -> None:
        """Call the function for the next items, in the background."""
        num_jobs = len(self._calls.make(items))
        with self._changed:
            self._num_left += num_jobs


def _wait_for(job: Any, deadline: float | None) -> bool:
    """Wait until a job is done; False if the deadline passes first."""
    if not job.done():
        try:
            job.exception(native.seconds_left(deadline))
        except CancelledError:
            pass
        except TimeoutError:
            return bool(job.done())
    return True


def _as_raised(error: BaseException, in_threads: bool) -> Any:
    """Return the exception that `multiprocessing` raises where a job queue raises this one."""
    if isinstance(error, CancelledError):
        return multiprocessing.ProcessError("the pool was terminated before this call had returned")
    cause = error.__cause__
    if isinstance(error, SerializationError):
        is_raised = isinstance(cause, remote_errors.RemoteTraceback)
        if error.is_of_result or is_raised:
            what = "the exception" if is_raised else "the result"
            encoding = stdlib_pool.MaybeEncodingError(error, what)  # type: ignore[attr-defined]
            encoding.__cause__ = error
            return encoding
        if cause is not None:
            cause.add_note(str(error))
            return cause
    if isinstance(cause, remote_errors.RemoteTraceback) and not in_threads:
        text = f'\n"""\n{cause.text}"""'
        told = stdlib_pool.RemoteTraceback(text)  # type: ignore[attr-defined]
        BaseException.__setattr__(error, "__cause__", told)
    return error
