"""Queues between processes and threads, against those of the standard library, in one run.

    python -m benchmarks.queues                            all tables, three interleaved repetitions
    python -m benchmarks.queues --only ints --repeat 5     one

Each figure is taken from the first message to the last one received, with processes already
running. The machine drifts: read medians and ratios, and take less than a fifth for nothing.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import queue
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import qmill
from benchmarks import harness

SPAWN = multiprocessing.get_context("spawn")
DICT = {"id": 12345, "name": "a name of some length", "value": 1.5, "ok": True, "tags": ["x", "y"]}


class Peer(NamedTuple):
    """A queue to measure: how to make one, and what runs at its other end."""

    name: str
    make: Callable[[], Any]
    threads: bool = False


class Workload(NamedTuple):
    """What travels, and how many of it; `unit` says what the figure counts."""

    name: str
    item: Any
    count: int
    unit: str = "messages/s"
    threads: bool = False


PEERS = [
    Peer("multiprocessing.Queue", SPAWN.Queue),
    Peer("multiprocessing.SimpleQueue", SPAWN.SimpleQueue),
    Peer("qmill.Queue", qmill.Queue),
    Peer("Manager().Queue", lambda: manager().Queue()),
    Peer("queue.Queue", queue.Queue, threads=True),
    Peer("qmill.Queue(kind='thread')", lambda: qmill.Queue(kind="thread"), threads=True),
]
WORKLOADS = [
    Workload("ints", 12345, 20_000),
    Workload("dicts", DICT, 20_000),
    Workload("1 MiB bytes", bytes(1 << 20), 200),
    Workload("ping-pong", 12345, 2_000, "round trips/s"),
    Workload("ints between threads", 12345, 50_000, threads=True),
]

_manager: Any = None


def manager() -> Any:
    """Start one manager process for all its queues."""
    global _manager
    if _manager is None:
        _manager = SPAWN.Manager()
    return _manager


def produce(items: Any, ready: Any, item: Any, count: int) -> None:
    """Put `count` items, once told to."""
    ready.get()
    for _ in range(count):
        items.put(item)


def echo(items: Any, answers: Any) -> None:
    """Return every item, until None."""
    while (item := items.get()) is not None:
        answers.put(item)


def stream(peer: Peer, item: Any, count: int) -> float:
    """Return how many items a second go from a producer to this process."""
    items, ready = peer.make(), peer.make()
    with Running(peer, produce, items, ready, item, count):
        ready.put("go")
        items.get()
        started = time.perf_counter()
        for _ in range(count - 1):
            items.get()
        return (count - 1) / (time.perf_counter() - started)


def ping_pong(peer: Peer, item: Any, count: int) -> float:
    """Return how many times a second an item goes to a process and back."""
    items, answers = peer.make(), peer.make()
    with Running(peer, echo, items, answers):
        items.put(item)
        answers.get()
        started = time.perf_counter()
        for _ in range(count):
            items.put(item)
            answers.get()
        taken = time.perf_counter() - started
        items.put(None)
        return count / taken


class Running:
    """A process or thread that runs while the block does."""

    def __init__(self, peer: Peer, fn: Callable[..., None], *args: Any) -> None:
        kind: Any = threading.Thread if peer.threads else SPAWN.Process
        self._other = kind(target=fn, args=args, daemon=True)

    def __enter__(self) -> None:
        gc.collect()
        self._other.start()

    def __exit__(self, *_: object) -> None:
        self._other.join()


def measure(
    workload: Workload, peers: list[Peer], repeat: int, scale: float
) -> dict[str, list[float]]:
    """Measure the peers in turn, `repeat` times."""
    stream_or_echo = ping_pong if workload.name == "ping-pong" else stream
    count = max(2, int(workload.count * scale))
    figures: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for _ in range(repeat):
        for peer in peers:
            figures[peer.name].append(stream_or_echo(peer, workload.item, count))
    return figures


def report(workload: Workload, figures: dict[str, list[float]]) -> None:
    """Print a table, the first peer being 1x."""
    base = statistics.median(next(iter(figures.values())))
    ratios = {name: statistics.median(values) / base for name, values in figures.items()}
    shown = {name: harness.shown_ratio(ratio) for name, ratio in ratios.items()}
    harness.print_table(workload.name, workload.unit, figures, {"ratio": shown})


def run(options: argparse.Namespace) -> int:
    """Measure what the command line asks for; return 0, for what fails here raises."""
    for workload in WORKLOADS:
        peers = [peer for peer in PEERS if peer.threads == workload.threads]
        chosen = harness.choose([peer.name for peer in peers], options)
        if workload.name in options.only and chosen:
            peers = [peer for peer in peers if peer.name in chosen]
            report(workload, measure(workload, peers, options.repeat, options.scale))
    if _manager is not None:
        _manager.shutdown()
    return 0


def section() -> harness.Section:
    """Return what this file measures."""
    names = [workload.name for workload in WORKLOADS]
    return harness.Section(names, [peer.name for peer in PEERS], run)


if __name__ == "__main__":
    harness.main(__doc__, section())
