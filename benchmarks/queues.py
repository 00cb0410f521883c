"""Queues between processes and threads, against those of the standard library, in one run.

    make bench                              all workloads, three interleaved repetitions
    make bench ARGS="--only ints --repeat 5"

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


def measure(workload: Workload, repeat: int, scale: float) -> dict[str, list[float]]:
    """Measure all peers in turn, `repeat` times."""
    run = ping_pong if workload.name == "ping-pong" else stream
    count = max(2, int(workload.count * scale))
    peers = [peer for peer in PEERS if peer.threads == workload.threads]
    figures: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for _ in range(repeat):
        for peer in peers:
            figures[peer.name].append(run(peer, workload.item, count))
    return figures


def report(workload: Workload, figures: dict[str, list[float]]) -> None:
    """Print a table, the first peer being 1x."""
    print(f"\n### {workload.name} ({workload.unit})\n")
    print("| queue | min | median | max | ratio |")
    print("| --- | ---: | ---: | ---: | ---: |")
    base = statistics.median(next(iter(figures.values())))
    for name, values in figures.items():
        middle = statistics.median(values)
        row = [f"{value:,.0f}" for value in (min(values), middle, max(values))]
        print(f"| {name} | {' | '.join(row)} | {middle / base:.2f}x |", flush=True)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=[workload.name for workload in WORKLOADS])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of messages")
    options = parser.parse_args()
    for workload in WORKLOADS:
        if options.only in (None, workload.name):
            report(workload, measure(workload, options.repeat, options.scale))
    if _manager is not None:
        _manager.shutdown()


if __name__ == "__main__":
    main()
