"""What seeing costs: a chart of many jobs as a PNG, and the running totals of each job.

python -m benchmarks.plots [--jobs 20000]

It needs `pip install 'qmill[plot]'`.
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

import qmill
from qmill.jobs.job import DEFAULT_OPTIONS, FINISHED, RUNNING, Job
from qmill.jobs.totals import Totals

BATCH = 32  # jobs that end together, where they are so short that it matters


def records(count: int) -> list[dict[str, object]]:
    """Make up records of jobs in seven lanes, on fifty workers."""
    rng, start = random.Random(0), datetime(2030, 1, 1)

    def moment(seconds: float) -> datetime:
        return start + timedelta(seconds=seconds)

    made = []
    for number in range(count):
        begin = 1 + number / 50 + rng.random()
        end = begin + rng.uniform(0.5, 1.5)
        made.append(
            {
                "qid": "made up",
                "id": number + 1,
                "lane": number % 7,
                "submitted": moment(number / 1000),
                "started": moment(begin),
                "ended": moment(end),
                "processed": moment(end + 0.5),
            }
        )
    return made


def chart_s(jobs: list[dict[str, object]]) -> float:
    """Return the seconds from records to a file."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        qmill.Plot(jobs, color_by="lane").build().save(Path(folder, "gantt.png"))
        return time.perf_counter() - begin


def totals_s(count: int) -> float:
    """Return the seconds that the totals take for a job."""
    outcomes = []
    for number in range(1000):
        job = Job(number, abs, (1,), None, 100, DEFAULT_OPTIONS, None, number * 1e-5)
        job._started, job._state, job.worker = number * 1e-5 + 1e-3, RUNNING, f"w-{number % 4}"
        job._ended = job._started + random.expovariate(1e5)
        outcomes.append((job, FINISHED, None, None))
    batches = [outcomes[i : i + BATCH] for i in range(0, len(outcomes), BATCH)]
    totals = Totals()
    rounds = max(1, count // len(outcomes))
    begin = time.perf_counter()
    for _ in range(rounds):
        for batch in batches:
            totals.add(batch, 1.0)
    return (time.perf_counter() - begin) / (rounds * len(outcomes))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=20_000, help="default: %(default)s")
    count = parser.parse_args().jobs
    seconds = chart_s(records(count))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"a chart of {count:,} jobs: {seconds:.1f} s, {peak_mb:.0f} MB at most")
    best = min(totals_s(10 * count) for _ in range(5))
    print(f"running totals: {best * 1e6:.2f} us a job")


if __name__ == "__main__":
    main()
