"""`qmill summary`, `plot`, `trace` and `queues`: reports on a log, and the named queues."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ._batch import as_usage_error, check_plot, say

if TYPE_CHECKING:
    import argparse

    from ..queues.names.name_files import Found


def summary(options: argparse.Namespace) -> int:
    """Print a summary of the jobs of a log."""
    from ..observe.logged import summaries

    with as_usage_error(f"cannot read the log {options.log!r}"):
        found = summaries(options.log)
    if not found:
        print(f"{options.log}: no jobs")
    for number, each in enumerate(found):
        if number:
            print()
        each.print()
    return 0


def plot(options: argparse.Namespace) -> int:
    """Draw a Gantt chart of a log."""
    check_plot(options.output)
    from ..observe.plot import Plot

    with as_usage_error(f"cannot plot the log {options.log!r}"):
        chart = Plot(
            options.log, color_by=options.color_by, facet_by=options.facet_by, title=options.title
        ).build()
    with as_usage_error(f"cannot write the plot {options.output!r}"):
        chart.save(options.output)
    return 0


def trace(options: argparse.Namespace) -> int:
    """Turn a log into a trace."""
    from ..observe.trace import trace as write_trace

    with as_usage_error(f"cannot make {options.output!r} of the log {options.log!r}"):
        write_trace(options.log, options.output)
    return 0


def queues(options: argparse.Namespace) -> int:
    """List named queues, or remove some."""
    from ..queues.names import listing

    if options.clean:
        for name in listing.remove_leftovers():
            print(f"removed the leftovers of {name}")
    for told in listing.odd_entries():
        say(f"skipped: {told}")
    status = 0
    for name in options.remove:
        try:
            listing.remove_queue(name)
            print(f"removed {name}")
        except (LookupError, ValueError) as error:
            say(str(error.args[0]))
            status = 1
    if not options.clean and not options.remove:
        _list(listing.list_queues())
    return status


def _list(found: list[Found]) -> None:
    if not found:
        print("no named queues")
        return
    rows = [("NAME", "ITEMS", "MAXSIZE", "OPEN IN", "FILE")]
    for each in found:
        size = "?" if each.size is None else f"{each.size:,}"
        limit = "-" if not each.maxsize else f"{each.maxsize:,}"
        files = ", ".join(map(_plain, each.files))
        rows.append((_plain(each.name), size, limit, _state(each), files))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for name, size, limit, state, files in rows:
        numbers = f"{size:>{widths[1]}}  {limit:>{widths[2]}}"
        print(f"{name:<{widths[0]}}  {numbers}  {state:<{widths[3]}}  {files}")
    if any(each.state == "abandoned" for each in found):
        say("abandoned: its last process was killed; qmill queues --clean removes its leftovers")


def _state(queue: Found) -> str:
    if queue.state != "open":
        return {"saved": "no process, saved", "silent": "?, its broker does not answer"}.get(
            queue.state, queue.state
        )
    return ", ".join(f"{pid} ({_program(pid)})" for pid in queue.holders) or "no process any more"


def _program(pid: int) -> str:
    try:
        return _plain(Path(f"/proc/{pid}/comm").read_text(errors="replace").strip())
    except OSError:
        return "ended"


def _plain(text: str) -> str:
    """Return a text without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in text)
