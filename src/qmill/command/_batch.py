"""The core of `qmill run` and `qmill map`: a job for each input, and its output in one piece.

    main thread: inputs ──> JobQueue ──> jobs
    reporter:    job ──> (its turn) ──> stdout, stderr ──> log, trace, bar

The log gets an input's row only after the input's output was written. So a resumed run skips no
input whose output is missing. The window limits how many inputs are read ahead, and how many
outputs wait for their turn.
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

from ..engines.program import Output, pieces
from ..errors import JobTimeout, WorkerDied
from ..job_queue.queue import JobQueue
from ..jobs.records import RecordLog, as_text, cut, read_log
from ..observe.trace import TraceWriter
from ..system import native
from ._template import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ..engines.api import Engine
    from ..jobs.job import Job

MOST_TOLD = 101
"""The exit status when more than 100 jobs have failed."""

TROUBLE = 255
"""The exit status if the command itself cannot continue."""

CLOSED_PIPE = 128 + 13
"""The exit status if the output's reader has closed it: that of a program ended by SIGPIPE."""

AHEAD = 200
"""The inputs that are read ahead, and outputs that are kept, in addition to four for each slot."""

_PIPE_BYTES = select.PIPE_BUF  # a pipe that is ready accepts this many bytes without blocking
_FILE_BYTES = 1 << 16
_SHOWN_CHARACTERS = 60


class UsageError(Exception):
    """The command line asks for something impossible; no job was run."""


class Stopped(BaseException):
    """The run ends before its inputs do."""


class Plan(NamedTuple):
    """The work for each input, and where its outcome is written.

    Attributes:
        function: The function that each job calls with its input.
        name: The function's name in records.
        qid: The queue's name in records.
        read_output: Returns the output of a job.
        engine: The engine that runs the jobs.
        max_jobs: How many jobs run at a time.
        priority, lane: Texts in which `mark` is replaced by the input; lane may be None.
        timeout: Seconds for each job, or None.
        retries: How often a failed job is tried again.
        keep_order: Whether outputs come in the order of the inputs.
        fail_fast: Whether the first failure ends all jobs.
        mark: The text that stands for the input.
        log, trace, plot: Paths of files to write, or None.
        resume: Whether to skip inputs that are done according to the log.
        progress: Whether to show a progress bar.
        spreadsheet: Whether to write texts so that a spreadsheet evaluates none of them.
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
        plan: The work and the options.

    Raises:
        UsageError: A file cannot be written, or is not a log.

    Attributes:
        wake: A descriptor that becomes readable when the batch is about to stop.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._window = AHEAD + 4 * plan.max_jobs
        self._changed = native.Condition()
        self._num_open = 0  # jobs that were put and whose output was not written
        self._num_told = 0
        self._num_failed = 0
        self._status: int | None = None  # the exit status, if the batch stops early
        self._is_stopping = False
        self._held: dict[int, Job] = {}  # jobs whose output waits for its turn
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
        """Run a job for each input; return the exit status.

        Ctrl-C, SIGTERM and SIGHUP end the running jobs, with the processes that they have started.
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
                self._stop(None)  # also wakes a reporter that waits for a full pipe
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
            self._stop(TROUBLE, f"{shown(given)}: its priority is not a number: {text!r}")
            raise Stopped from None
        return int(number) if number.is_integer() else number

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until the reporter has made a condition true; raises Stopped if the batch stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopping or condition())
            if self._is_stopping:
                raise Stopped

    def _stop(self, status: int | None, why: str = "") -> None:
        """Stop the batch; any thread may call this."""
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
        """Write a job's output, or keep it until the jobs before it have ended."""
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
            self._stop(TROUBLE, f"cannot continue: {type(error).__name__}: {error}")

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
        """Write a job's record to the files that were asked for."""
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
        """Write all of the data, unless the batch stops meanwhile.

        Raises:
            Stopped: The batch stops.
            OSError: The data cannot be written.
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
        descriptor: A file, a pipe or a terminal.
        data: The data.
        wake: A descriptor; the writing ends when it becomes readable.

    Raises:
        Stopped: `wake` became readable.
        OSError: The data cannot be written.
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
        with contextlib.suppress(BlockingIOError):  # another process has filled the pipe
            rest = rest[os.write(descriptor, rest[:step]) :]


def say(text: str) -> None:
    """Write a message to the standard error, in one piece."""
    with contextlib.suppress(OSError):  # the standard error is closed
        os.write(2, f"qmill: {text}\n".encode(errors="backslashreplace"))


def shown(given: str) -> str:
    """Return an input as it would be quoted for a shell, cut if it is long."""
    text = shlex.quote(given) if given.isprintable() else repr(given)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def reason(error: BaseException) -> str:
    """Return the reason why a job has failed; "" for an exit status, which the program explains."""
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
    """Count the inputs for which a function has succeeded, according to a log.

    Raises:
        OSError: The log cannot be read.
        ValueError: The file is not a log of jobs.
    """
    wanted = name.replace("\r\n", "\n").replace("\r", "\n")
    wanted = cut(wanted.encode("utf-8", "backslashreplace").decode())
    names = {wanted, as_text(wanted)}  # the log may be for a spreadsheet
    done: Counter[str] = Counter()
    with contextlib.suppress(FileNotFoundError):
        for row in read_log(path):
            if row.get("state") == "done" and row.get("function") in names:
                with contextlib.suppress(SyntaxError, ValueError):  # a cell that was cut
                    (given,) = ast.literal_eval(row["args"])
                    done[given] += 1
    return done


def check_paths(plan: Plan) -> None:
    """Check that no two files of a plan have the same path.

    Raises:
        UsageError: Two of them have.
    """
    named = {"--log": plan.log, "--trace": plan.trace, "--plot": plan.plot}
    seen: dict[str, str] = {}
    for option, path in named.items():
        if (
            path is not None
            and (other := seen.setdefault(os.path.realpath(path), option)) != option
        ):
            raise UsageError(
                f"{option} would overwrite the file of {other}: {path!r}; name another file"
            )


def check_plot(path: str) -> None:
    """Check, before jobs are run, that a plot can be written.

    Raises:
        UsageError: It cannot be written.
    """
    from importlib.util import find_spec

    for package in ("pandas", "plotnine"):
        if find_spec(package) is None:
            raise UsageError(f"a plot needs {package}: pip install 'qmill[plot]'")
    folder = os.path.dirname(path) or "."
    if not os.access(folder, os.W_OK):
        raise UsageError(f"cannot write the plot {path!r}: {folder!r} is not a writable folder")


def make_bar() -> Any:
    """Return a progress bar, or None if the standard error is no terminal.

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
    """Turn errors about a file into errors of the command line."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{what}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{what}: {error}") from None


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[int | None], None]) -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a run as Ctrl-C does, unless they are ignored."""

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
