"""Summaries of a log file: one for each queue that has written records to it."""

from __future__ import annotations

import heapq
import os
from datetime import datetime

from ..jobs.records import read_log
from ..jobs.totals import MAX_ERRORS, NUM_SLOWEST, OTHERS, SlowJob, Totals
from .summary import Summary


def summaries(path: str | os.PathLike[str]) -> list[Summary]:
    """Summarise the jobs of a log, for each queue that has written to it.

    Args:
        path: A log of `JobQueue(log_file=...)`; it is read row by row.

    Returns:
        The summaries, in the order in which the queues first appear in the log. `max_workers` is
        the number of workers that appear in it.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is not a log of jobs.
    """
    totals: dict[str, Totals] = {}
    for row in read_log(path):
        _add(totals.setdefault(row["qid"], Totals()), row)
    found = []
    for qid, each in totals.items():
        each.fold()
        wall_s = max(0.0, each.last_ended_s - each.first_submitted_s)
        found.append(Summary.of(qid, max(1, len(each.busy)), each, {}, wall_s))
    return found


def _add(totals: Totals, row: dict[str, str]) -> None:
    state, worker = row["state"], row["worker"]
    totals.states[state] += 1
    totals.num_retries += max(0, int(row["attempts"] or 0) - 1)
    submitted, started, ended = (_seconds(row[key]) for key in ("submitted", "started", "ended"))
    if submitted is not None:
        totals.first_submitted_s = min(totals.first_submitted_s, submitted)
    if ended is not None:
        totals.last_ended_s = max(totals.last_ended_s, ended)
    if None not in (submitted, started, ended):
        assert submitted is not None
        assert started is not None
        assert ended is not None
        running = ended - started
        totals.waiting.add([started - submitted])
        totals.running.add([running])
        totals.busy[worker] = totals.busy.get(worker, 0.0) + running
        slow = SlowJob(running, -int(row["id"]), row["name"], row["function"], state)
        push = heapq.heappush if len(totals.slowest) < NUM_SLOWEST else heapq.heappushpop
        push(totals.slowest, slow)
    if row["exception"] and state != "cancelled":
        _add_error(totals, row["exception"])


def _add_error(totals: Totals, text: str) -> None:
    """Count an error under its type, which the last line of its traceback begins with."""
    last = text.strip().splitlines()[-1]
    kind, _, message = last.partition(":")
    kind = kind.rpartition(".")[2]
    if kind not in totals.errors and len(totals.errors) >= MAX_ERRORS:
        kind = OTHERS
    count, first = totals.errors.get(kind, (0, None))
    totals.errors[kind] = count + 1, first or message.strip() or None


def _seconds(moment: str) -> float | None:
    """Return a local time as seconds since 1970; only differences of these are meaningful."""
    return (datetime.fromisoformat(moment) - _EPOCH).total_seconds() if moment else None


_EPOCH = datetime(1970, 1, 1)
