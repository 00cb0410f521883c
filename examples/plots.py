"""Draw what job queues did: quick start, serial beside parallel, priorities, lanes, lane errors.

    python examples/plots.py docs/images          # all of them
    python examples/plots.py out lanes --speed 1  # one, at its own pace

Each picture is of a real run, of jobs that sleep for about a second, or for a part of it.

It needs `pip install 'qmill[plot]'`.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qmill

WORKERS = 6
speed = 5.0  # how many of the jobs' seconds are slept in one


def nap(number: int) -> float:
    """Sleep for a time that depends on the number, of a second on average."""
    seconds = random.Random(number).uniform(0.5, 1.5) / speed
    time.sleep(seconds)
    return seconds


def reciprocal(number: int) -> float:
    """Fail for 0."""
    time.sleep(0.5 / speed)
    return 1 / number


def quick_start() -> Any:
    """Sixty jobs on six workers."""
    with qmill.JobQueue(WORKERS, name="quick start") as jobs:
        for number in range(60):
            jobs.put(nap, number)
    return qmill.Plot(jobs.collect(), title="Sixty jobs, six workers").build()


def serial_and_parallel() -> Any:
    """The same twenty jobs, one after another and on ten workers; both queues begin at once."""
    with (
        qmill.JobQueue(1, name="serial") as serial,
        qmill.JobQueue(10, name="parallel") as parallel,
    ):
        for number in range(20):
            serial.put(nap, number)
            parallel.put(nap, number)
    done = serial.collect() + parallel.collect()
    return qmill.Plot(done, title="The same jobs on one worker and on ten").build()


def priority() -> Any:
    """Every fifth job goes first."""
    with qmill.JobQueue(WORKERS, name="priority", auto_start=False) as jobs:
        for number in range(60):
            jobs.put(nap, number, priority=0 if number % 5 == 4 else 1)
        jobs.start()
    plot = qmill.Plot(jobs.collect(), color_by="priority")
    return plot.build(title="The lower priority goes first", color_pal=["#D55E00", "#0072B2"])


def lanes() -> Any:
    """Five lanes: the jobs of each run one after another."""
    with qmill.JobQueue(WORKERS, name="lanes") as jobs:
        for number in range(60):
            jobs.put(nap, number, lane=number % 5)
    plot = qmill.Plot(jobs.collect(), title="Jobs of a lane never overlap")
    return plot.build(facet_by="lane", color_by="lane", show_legend=False)


def lane_errors() -> Any:
    """A failure stops the jobs behind it in its lane."""
    divisors = random.Random(3)
    with qmill.JobQueue(WORKERS, name="lane errors") as jobs:
        for number in range(100):
            jobs.put(
                reciprocal,
                divisors.randint(0, 10),
                lane=number % 5,
                stop_on_lane_error=True,
                suppress_errors=True,
            )
    plot = qmill.Plot(jobs.collect(), title="A failure stops its lane")
    return plot.build(facet_by="lane", color_by="state")


PLOTS: dict[str, Callable[[], Any]] = {
    "quick_start": quick_start,
    "serial_and_parallel": serial_and_parallel,
    "priority": priority,
    "lanes": lanes,
    "lane_errors": lane_errors,
}


def main() -> None:
    global speed
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the pictures are written")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PLOTS) + "; or all")
    parser.add_argument(
        "--speed", type=float, default=speed, help="how many times as fast (default: %(default)s)"
    )
    arguments = parser.parse_args()
    speed = arguments.speed
    if unknown := set(arguments.names) - set(PLOTS):
        parser.error(f"there is no plot {', '.join(sorted(unknown))}; there are {', '.join(PLOTS)}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or PLOTS:
        path = arguments.folder / f"{name}.png"
        PLOTS[name]().save(path)
        print(path)


if __name__ == "__main__":
    main()
