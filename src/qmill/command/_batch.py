"""A job for each input, and what became of it told in whole pieces: the heart of `run` and `map`.

    main thread: inputs ──> JobQueue ──> jobs
    reporter:    job ──> (its turn) ──> stdout, stderr ──> log, trace, bar

An input's row is in the log only when its output has been written, so that a run that is resumed
leaves out nothing that nobody has seen. So many inputs are read ahead, and so many outputs may wait
for their turn, as the window is large.
"""

from __future__ import annotations

import ast
import contextlib
import os
import select
import shlex
import signal
import stat
import subprocess
import tempfile
from collections import Counter
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from .. import _native
from ..engines.program import Output, pieces
from ..errors import JobTimeout, WorkerDied
from ..job_queue import JobQueue
from ..jobs.records import RecordLog, as_text, cut, read_log
from ..observe.trace import TraceWriter
from ._template import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ..engines.base import Engine
    from ..jobs.job import Job

MOST_TOLD = 101
"""The exit status when more than 100 jobs have failed."""

TROUBLE = 255
"""The exit status when it cannot go on."""

CLOSED_PIPE = 128 + 13
"""The exit status when nobody reads the output any more: that of a program that SIGPIPE ended."""

AHEAD = 200
"""So many inputs are read, and outputs kept, beyond four for each job that may run."""

_PIPE_BYTES = select.PIPE_BUF  # what a pipe takes without blocking when it is ready
_FILE_BYTES = 1 << 16
_SHOWN_CHARACTERS = 60


class UsageError(Exception):
    """The command line asks for what cannot be done; nothing has been run."""


class Stopped(BaseException):
    """The run ends before its inputs do."""


class Plan(NamedTuple):
    """The work for each input, and where its outcome is written.

    Attributes:
        function: What each job calls with its input.
        name: What records call the function.
        qid: What records call the queue.
        read_output: Returns what a job has written.
        engine: What runs the jobs.
        max_jobs: How many run at a time.
        priority, lane: Texts in which `mark` stands for the input; lane may be None.
        timeout: Seconds for each job, or None.
        retries: How often a failed job is tried again.
        keep_order: Whether outputs come in the order of the inputs.
        fail_fast: Whether the first failure ends everything.
        mark: What stands for the input.
        log, trace, plot: Paths of files to write, or None.
        resume: Whether to leave out inputs that the log has as done.
        progress: Whether to show a progress bar.
        spreadsheet: Whether texts in the log are to be none that a spreadsheet evaluates.
    """

    function: Callable[[str], Any]
    name: str
    qid: str
    read_output: Callable[[Job], Output]
    engine: Engine | str
    max_jobs: int
    priority: str = "100"
    lane: str | None = None
    timeout: float | None = None
    retries: int = 0
    keep_order: bool = False
    fail_fast: bool = False
    mark: str = "{}"
    log: str | None = None
    trace: str | None = None
    plot: str | None = None
    resume: bool = False
    progress: bool = False
    spreadsheet: bool = False


class Batch:
    """The jobs of one command.

    Args:
        plan: What to do.

    Raises:
        UsageError: A file cannot be written, or is no log.

    Attributes:
        wake: A descriptor that has something to be read from it when the batch is about to stop.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._window = AHEAD + 4 * plan.max_jobs
        self._changed = _native.Condition()
        self._num_open = 0  # jobs that were put and not told of yet
        self._num_told = 0
        self._num_failed = 0
        self._status: int | None = None  # why it stops: an exit status
        self._is_stopping = False
        self._held: dict[int, Job] = {}  # those that wait for their turn
        self._next = 1
        self._bar: Any = None
        self.wake, self._wake_there = os.pipe()
        self._files = contextlib.ExitStack()
        self._files.callback(os.close, self.wake)
        self._files.callback(os.close, self._wake_there)
        try:
            self._open_files()
        except BaseException:
            self._files.close()
            raise

    def _open_files(self) -> None:
        plan = self._plan
        self._done: Counter[str] = Counter()
        self._log = self._trace = self._plotted = None
        check_paths(plan)
        if plan.resume:
            assert plan.log is not None
            with as_usage_error(f"cannot resume from {plan.log!r}"):
                self._done = inputs_done(plan.log, plan.name)
        if plan.log is not None:
            with as_usage_error(f"cannot write the log {plan.log!r}"):
                self._log = RecordLog(plan.log, spreadsheet=plan.spreadsheet)
                self._files.callback(self._log.close)
        if plan.trace is not None:
            with as_usage_error(f"cannot write the trace {plan.trace!r}"):
                self._trace = self._files.enter_context(TraceWriter(plan.trace))
        if plan.plot is not None:
            check_plot(plan.plot)
            folder = self._files.enter_context(tempfile.TemporaryDirectory(prefix="qmill-"))
            self._rows = os.path.join(folder, "jobs.csv")
            self._plotted = RecordLog(self._rows)
            self._files.callback(self._plotted.close)
        if plan.progress:
            self._bar = make_bar()

    # -- the main thread -----------------------------------------------------------------------

    def run(self, inputs: Iterable[str]) -> int:
        """Run a job for each input; returns the exit status.

        Ctrl-C, SIGTERM and SIGHUP end the jobs that run, with what they have started.
        """
        with self._files:
            try:
                with stopped_by_signals(self._stop):
                    self._run(inputs)
            except Stopped:
                pass
            except KeyboardInterrupt:
                self._status = 128 + signal.SIGINT
            self._sum_up()
        return min(self._num_failed, MOST_TOLD) if self._status is None else self._status

    def _run(self, inputs: Iterable[str]) -> None:
        plan = self._plan
        with JobQueue(
            plan.max_jobs,
            engine=plan.engine,
            callback=self._job_ended,
            auto_remove=True,
            name=plan.qid,
        ) as jobs:
            try:
                for given in self._read(inputs):
                    self._put(jobs, given)
                self._wait_until(lambda: not self._num_open)
            except BaseException:
                self._stop(None)  # also who writes to somebody that does not read
                raise

    def _sum_up(self) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._num_failed:
            say(f"{self._num_failed:,} of {self._num_told:,} jobs failed")
        self._draw()

    def _read(self, inputs: Iterable[str]) -> Iterator[str]:
        try:
            yield from inputs
        except OSError as error:
            self._stop(TROUBLE, f"cannot read the inputs: {error.strerror}")
            raise Stopped from None

    def _put(self, jobs: JobQueue, given: str) -> None:
        if self._done[given] > 0:
            self._done[given] -= 1
            return
        self._wait_until(lambda: self._num_open < self._window)
        plan = self._plan
        with self._changed:
            self._num_open += 1
        jobs.put(
            plan.function,
            (given,),
            name=given,
            priority=self._priority(given),
            lane=None if plan.lane is None else plan.lane.replace(plan.mark, given),
            timeout=plan.timeout,
            retries=plan.retries,
            retry_timeouts=True,
            suppress_errors=True,
        )

    def _priority(self, given: str) -> float:
        text = self._plan.priority.replace(self._plan.mark, given)
        try:
            number = float(text)
        except ValueError:
            self._stop(TROUBLE, f"{shown(given)}: its priority is no number: {text!r}")
            raise Stopped from None
        return int(number) if number.is_integer() else number

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for what the reporter does; raises Stopped if that is to stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopping or condition())
            if self._is_stopping:
                raise Stopped

    def _stop(self, status: int | None, why: str = "") -> None:
        """Have everything end; any thread."""
        with self._changed:
            if self._is_stopping:
                return
            self._is_stopping = True
            self._status = status
            os.write(self._wake_there, b"s")
            self._changed.notify_all()
        if why:
            say(why)

    # -- the reporter --------------------------------------------------------------------------

    def _job_ended(self, job: Job) -> None:
        """Tell of a job, or keep it until those before it have ended."""
        try:
            if self._is_stopping:
                self._plan.read_output(job)
                self._note(job.to_dict())
            elif self._plan.keep_order:
                self._held[job.id] = job
                while (first := self._held.pop(self._next, None)) is not None:
                    self._next += 1
                    self._tell(first)
            else:
                self._tell(job)
        except Stopped:
            pass
        except BaseException as error:
            self._stop(TROUBLE, f"cannot go on: {type(error).__name__}: {error}")

    def _tell(self, job: Job) -> None:
        output = self._plan.read_output(job)
        error = None if job.cancelled() else job.exception()
        is_silent = not output.stderr
        if self._bar is not None:
            self._bar.clear()
        try:
            self._write(1, output.stdout)
            self._write(2, output.stderr)
        except BrokenPipeError:
            self._stop(CLOSED_PIPE)
            raise Stopped from None
        except OSError as why:
            self._stop(TROUBLE, f"cannot write the output: {why.strerror}")
            raise Stopped from None
        if error is not None:
            self._tell_failure(job, error, is_silent)
        self._note(job.to_dict(), self._log)
        with self._changed:
            self._num_told += 1
            self._num_open -= 1
            self._changed.notify_all()
        if self._bar is not None:
            self._bar.total = self._num_told + self._num_open
            self._bar.update()

    def _tell_failure(self, job: Job, error: BaseException, is_silent: bool) -> None:
        self._num_failed += 1
        why = reason(error)
        if not why and (is_silent or self._plan.fail_fast):
            why = f"failed with exit status {job.exitcode}"
        if self._plan.fail_fast:
            self._stop(None, f"{shown(job.name)}: {why}; the other jobs are ended")
        elif why:
            say(f"{shown(job.name)}: {why}")

    def _note(self, record: dict[str, Any], log: RecordLog | None = None) -> None:
        """Write a job's record where it is wanted."""
        try:
            for each in (log, self._plotted):
                if each is not None:
                    each.write([record])
            if self._trace is not None:
                self._trace.add(record)
        except OSError as why:
            self._stop(TROUBLE, f"cannot write the records: {why.strerror}")
            raise Stopped from None

    def _write(self, descriptor: int, written: bytes | IO[bytes]) -> None:
        """Write everything, unless the batch stops meanwhile.

        Raises:
            Stopped: It does.
            OSError: It cannot be written.
        """
        for piece in pieces(written):
            write(descriptor, piece, self.wake)

    def _draw(self) -> None:
        plot = self._plan.plot
        if plot is None or not self._num_told:
            return
        from ..observe.plot import Plot

        try:
            Plot(self._rows, color_by="state").build().save(plot)
        except (OSError, ValueError) as error:
            say(f"cannot write the plot: {error}")
            self._status = TROUBLE


def write(descriptor: int, data: bytes, wake: int | None = None) -> None:
    """Write all of the data.

    Args:
        descriptor: Where to; a file, a pipe, a terminal.
        data: What.
        wake: A descriptor that ends the writing when there is something to be read from it.

    Raises:
        Stopped: There was.
        OSError: It cannot be written.
    """
    is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    step = _FILE_BYTES if is_file else _PIPE_BYTES
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    if wake is not None:
        poll.register(wake, select.POLLIN)
    rest = memoryview(data)
    while rest:
        if any(ready == wake for ready, _ in poll.poll()):
            raise Stopped
        with contextlib.suppress(BlockingIOError):  # somebody else was quicker
            rest = rest[os.write(descriptor, rest[:step]) :]


def say(text: str) -> None:
    """Tell the user something, in one piece."""
    with contextlib.suppress(OSError):  # nobody listens
        os.write(2, f"qmill: {text}\n".encode(errors="backslashreplace"))


def shown(given: str) -> str:
    """Return an input as it would be written in a shell, if it is not too long."""
    text = shlex.quote(given) if given.isprintable() else repr(given)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def reason(error: BaseException) -> str:
    """Return why a job has failed; nothing where its program has said so itself."""
    if isinstance(error, subprocess.CalledProcessError):
        return ""
    if isinstance(error, WorkerDied):
        if error.signal is None:
            return f"its process ended with exit status {error.exitcode}"
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(error.signal).name}"
        return f"was killed by signal {error.signal}"
    if isinstance(error, JobTimeout):
        return f"ran {str(error).partition(' ran ')[2]}"
    if isinstance(error, BadInput):
        return str(error)
    return f"{type(error).__name__}: {error}"


def inputs_done(path: str, name: str) -> Counter[str]:
    """Count the inputs that a log has as done by a function.

    Raises:
        OSError: The log cannot be read.
        ValueError: It is no log.
    """
    wanted = name.replace("\r\n", "\n").replace("\r", "\n")
    wanted = cut(wanted.encode("utf-8", "backslashreplace").decode())
    names = {wanted, as_text(wanted)}  # the log may be for a spreadsheet
    done: Counter[str] = Counter()
    with contextlib.suppress(FileNotFoundError):
        for row in read_log(path):
            if row.get("state") == "done" and row.get("function") in names:
                with contextlib.suppress(SyntaxError, ValueError):  # an input that was cut
                    (given,) = ast.literal_eval(row["args"])
                    done[given] += 1
    return done


def check_paths(plan: Plan) -> None:
    """See before anything is written that no file takes the place of another one.

    Raises:
        UsageError: One would.
    """
    named = {"--log": plan.log, "--trace": plan.trace, "--plot": plan.plot}
    seen: dict[str, str] = {}
    for option, path in named.items():
        if (
            path is not None
            and (other := seen.setdefault(os.path.realpath(path), option)) != option
        ):
            raise UsageError(f"{option} would take the place of {other}: {path!r}")


def check_plot(path: str) -> None:
    """See before anything is run whether a plot can be drawn.

    Raises:
        UsageError: It cannot.
    """
    from importlib.util import find_spec

    for package in ("pandas", "plotnine"):
        if find_spec(package) is None:
            raise UsageError(f"a plot needs {package}: pip install 'qmill[plot]'")
    folder = os.path.dirname(path) or "."
    if not os.access(folder, os.W_OK):
        raise UsageError(f"cannot write the plot {path!r}: {folder!r} is no writable folder")


def make_bar() -> Any:
    """Return a progress bar, or None if nobody would see it.

    Raises:
        UsageError: tqdm is not installed.
    """
    from ..observe.progress import bar_type

    try:
        make = bar_type(True)
    except ImportError as error:
        raise UsageError(str(error)) from None
    return None if make is None else make(total=0)


@contextlib.contextmanager
def as_usage_error(what: str) -> Iterator[None]:
    """Turn what a file's opening raises into an error of the command line."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{what}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{what}: {error}") from None


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[int | None], None]) -> Iterator[None]:
    """Have SIGTERM and SIGHUP end a run as Ctrl-C does, unless they are ignored."""

    def on_signal(number: int, _: object) -> None:
        stop(128 + number)
        raise Stopped

    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            before[number] = signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
