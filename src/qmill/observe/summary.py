"""A summary of a queue's work so far: counts, times, workers, errors."""

from __future__ import annotations

import dataclasses
import sys
from typing import IO, TYPE_CHECKING, Any

from ..jobs.totals import STATES, Histogram, Totals

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_LINES = 16  # for workers and for errors, in print
_BAR = 20


@dataclasses.dataclass(frozen=True)
class Times:
    """The distribution of waiting or running times, in seconds; None if no job has such a time.

    The percentiles come from a histogram and are accurate to 3 %.
    """

    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None

    @classmethod
    def of(cls, histogram: Histogram) -> Times:
        """Return the figures of a histogram."""
        if not histogram.count:
            return cls(None, None, None, None, None)
        mean = histogram.total / histogram.count
        p50, p95, p99 = histogram.quantiles(0.5, 0.95, 0.99)
        return cls(mean, p50, p95, p99, histogram.max)


@dataclasses.dataclass(frozen=True)
class SlowJob:
    """One of the jobs that ran longest; for a job of `map`, the mean of its calls."""

    id: int
    name: str
    function: str | None
    state: str
    running_s: float


@dataclasses.dataclass(frozen=True)
class Errors:
    """The failures with one type of exception: their count, and the text of the first one."""

    count: int
    first: str | None


@dataclasses.dataclass(frozen=True)
class Summary:
    """The work of a queue up to a moment; returned by `JobQueue.summary`.

    Print it, or read its attributes. Each call of `map` counts as a job.

    Attributes:
        qid (str): The queue's name.
        states (dict[str, int]): How many jobs are in each state, in the order of `Job.state`.
        retries (int): Attempts that failed and were followed by another one.
        wall_s (float): Seconds from the first submission to the last job's end; to now if jobs are
            waiting or working.
        busy_s (float): Seconds in which jobs ran, summed over all workers.
        waiting_s (Times): The times from `put` to the (last) beginning.
        running_s (Times): The times from the (last) beginning to the end.
        max_workers (int): How many jobs may run at a time.
        workers (dict[str, float]): The share of the wall time in which each worker ran a job.
        utilisation (float | None): The share of the wall time of `max_workers` in which jobs ran.
        speedup (float | None): How many times as long the jobs would have taken one after another:
            `busy_s / wall_s`.
        slowest (list[SlowJob]): The jobs that ran longest, the longest first.
        errors (dict[str, Errors]): The failures by type of exception, the most frequent first.
    """

    qid: str
    states: dict[str, int]
    retries: int
    wall_s: float
    busy_s: float
    waiting_s: Times
    running_s: Times
    max_workers: int
    workers: dict[str, float]
    utilisation: float | None
    speedup: float | None
    slowest: list[SlowJob]
    errors: dict[str, Errors]

    @classmethod
    def of(
        cls, qid: str, max_workers: int, totals: Totals, left: dict[str, int], wall_s: float
    ) -> Summary:
        """Return the summary of a queue's totals, and of its waiting and working jobs."""
        states = totals.states | left
        busy_s = sum(totals.busy.values())
        errors = sorted(totals.errors.items(), key=lambda item: -item[1][0])
        return cls(
            qid=qid,
            states={state: states.get(state, 0) for state in STATES},
            retries=totals.num_retries,
            wall_s=wall_s,
            busy_s=busy_s,
            waiting_s=Times.of(totals.waiting),
            running_s=Times.of(totals.running),
            max_workers=max_workers,
            workers={w: s / wall_s if wall_s else 0.0 for w, s in sorted(totals.busy.items())},
            utilisation=busy_s / (wall_s * max_workers) if wall_s else None,
            speedup=busy_s / wall_s if wall_s else None,
            slowest=[
                SlowJob(-job.minus_id, job.name, job.function, job.state, job.running_s)
                for job in sorted(totals.slowest, reverse=True)
            ],
            errors={kind: Errors(*found) for kind, found in errors},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain dicts and lists; the keys are the attributes."""
        return dataclasses.asdict(self)

    def print(self, file: IO[str] | None = None) -> None:
        """Print the summary; in colours if `rich` is installed and the file is a terminal.

        Args:
            file: The file to print to; None for the standard output.
        """
        file = sys.stdout if file is None else file
        try:
            from rich.console import Console
        except ImportError:
            print(self, file=file)
            return
        console = Console(file=file, highlight=False)
        if console.is_terminal:
            console.print(self)
        else:
            print(self, file=file)

    def __str__(self) -> str:
        lines: list[str] = []
        for title, rows in self._tables():
            width = max(len(cells[0]) for cells in rows)
            lines += ["", title] if lines else [title]
            lines += [f"  {cells[0]:<{width}}  {cells[1]}".rstrip() for cells in rows]
        return "\n".join(lines)

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        parts: list[Any] = []
        for title, rows in self._tables():
            table = Table.grid(padding=(0, 2))
            for first, rest in rows:
                table.add_row(Text("  " + first, style=_STYLES.get(first, "cyan")), Text(rest))
            parts += [Text("\n" + title if parts else title, style="bold"), table]
        return Group(*parts)

    def _tables(self) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        """Yield the parts of the printed summary: a title, and rows of two cells."""
        counts = [(state, f"{n:>9,}") for state, n in self.states.items() if n]
        if self.retries:
            counts.append(("retries", f"{self.retries:>9,}"))
        yield f"Jobs of {self.qid}: {sum(self.states.values()):,}", counts or [("none", "")]
        if self.utilisation is None or self.speedup is None:
            return
        workers = f"{self.max_workers} worker{'s' if self.max_workers > 1 else ''}"
        yield (
            "Time",
            [
                ("wall", _seconds(self.wall_s)),
                ("busy", f"{_seconds(self.busy_s)}   {self.utilisation:.0%} of {workers}"),
                ("speed-up", f"{self.speedup:>8.2f}     against one job after another"),
            ],
        )
        if self.running_s.mean is not None:
            names = [field.name for field in dataclasses.fields(Times)]
            rows = [("", "".join(f"{name:>11}" for name in names))]
            for name, times in (("waiting", self.waiting_s), ("running", self.running_s)):
                rows.append((name, "".join(map(_seconds, dataclasses.astuple(times)))))
            yield "How long jobs were", [(a, b[1:]) for a, b in rows]
        if self.workers:
            yield "Workers", list(_cut(_bar_of(*item) for item in self.workers.items()))
        if self.slowest:
            yield "Slowest", [_line_of(job) for job in self.slowest]
        if self.errors:
            room = max(20, 65 - max(map(len, self.errors)))
            rows = [
                (kind, f"{errors.count:>9,}  {_one_line(errors.first, room)}")
                for kind, errors in self.errors.items()
            ]
            yield "Errors", list(_cut(rows))


_STYLES = dict.fromkeys(("failed", "died", "timed out"), "red") | {"done": "green"}


def _seconds(value: float | None) -> str:
    """Return a duration as text of 11 columns, with three significant digits."""
    if value is None:
        return f"{'-':>11}"
    for limit, unit, factor in ((1e-3, "us", 1e6), (1.0, "ms", 1e3)):
        if value < limit:
            return f"{value * factor:>8.3g} {unit}"
    return f"{value:>8.3g} s " if value < 1000 else f"{value:>8,.0f} s "


def _bar_of(worker: str, share: float) -> tuple[str, str]:
    return worker, f"{share:>8.0%}  {'#' * round(_BAR * min(share, 1.0))}"


def _line_of(job: SlowJob) -> tuple[str, str]:
    state = "" if job.state == "done" else f", {job.state}"
    name = "" if job.name == str(job.id) else f" {job.name}"
    return f"{_seconds(job.running_s).strip():>9}", _one_line(
        f"{job.id}{name}: {job.function}{state}", 65
    )


def _one_line(text: str | None, width: int) -> str:
    text = " ".join((text or "").split())
    return text if len(text) <= width else text[: width - 3] + "..."


def _cut(rows: Any) -> Iterator[tuple[str, str]]:
    rows = list(rows)
    yield from rows[:_MAX_LINES]
    if len(rows) > _MAX_LINES:
        yield f"{len(rows) - _MAX_LINES} more", ""
