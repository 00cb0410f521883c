"""Count the functions of Python's standard library, in parallel, and check the count serially.

    main ── put(examine, file) ──▶ waiting, the largest first ──▶ worker 1..N ──▶ reports
                                                                      └──▶ out/jobs.csv
                                                                             └──▶ out/gantt.png

Every file is one job. Its priority is its size, so that no worker is left with a large file when
the others are done. The record of each job is a row of a CSV file: when it began and ended, on
which worker, with what result. The chart of all jobs is drawn from it.

It needs `pip install 'qmill[progress,plot]'`. With `--engine dask` the jobs run on a Dask cluster
that it starts on this machine; that needs `qmill[dask]`.
"""

from __future__ import annotations

import argparse
import ast
import heapq
import io
import os
import sys
import sysconfig
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import qmill

WIDTH = 80
LONGEST = 10
STDLIB = Path(sysconfig.get_path("stdlib"))


class Function(NamedTuple):
    lines: int
    name: str


class Report(NamedTuple):
    """What one file holds. Only the longest functions travel; the others are a number."""

    file: str
    lines: int
    functions: int
    longest: list[Function]
    error: str | None


# --- the work: one file in, one report out


def examine(file: str) -> Report:
    source = (STDLIB / file).read_bytes()
    lines = source.count(b"\n")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes and the like are the library's business
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Report(file, lines, 0, [], describe(error))
    functions = list(functions_of(tree))
    return Report(file, lines, len(functions), heapq.nlargest(LONGEST, functions), None)


def functions_of(tree: ast.Module) -> Iterator[Function]:
    """Find all functions and methods, with a stack of our own: files may nest deeply."""
    stack: list[tuple[ast.AST, str]] = [(tree, "")]
    while stack:
        node, prefix = stack.pop()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                name = prefix + child.name
                yield Function((child.end_lineno or child.lineno) - child.lineno + 1, name)
                stack.append((child, name + "."))
            elif isinstance(child, ast.ClassDef):
                stack.append((child, prefix + child.name + "."))
            elif isinstance(child, (ast.stmt, ast.excepthandler, ast.match_case)):
                stack.append((child, prefix))  # an expression cannot hold a def


def describe(error: Exception) -> str:
    if isinstance(error, SyntaxError) and error.lineno:
        return f"line {error.lineno}: {error.msg}"
    return f"{type(error).__name__}: {error}"


# --- the two ways to do it


def census_serial(files: list[str]) -> list[Report]:
    return [examine(file) for file in files]


def census_parallel(queue: qmill.JobQueue, files: list[str]) -> list[Report]:
    with queue:
        jobs = {
            file: queue.put(examine, file, name=file, priority=-size_of(file))
            for file in sorted(files, key=size_of, reverse=True)  # so are their rows in the chart
        }
    return [jobs[file].result() for file in files]


def size_of(file: str) -> int:
    return (STDLIB / file).stat().st_size


# --- finding, comparing, telling


def stdlib_files(limit: int | None) -> list[str]:
    """List the library's files, and read each once so that neither run has to wait for the disk."""
    found = []
    for folder, subfolders, names in os.walk(STDLIB):
        subfolders[:] = [s for s in subfolders if s not in ("site-packages", "dist-packages")]
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    files = sorted(path.relative_to(STDLIB).as_posix() for path in found if path.is_file())[:limit]
    for file in files:
        (STDLIB / file).read_bytes()
    return files


def first_difference(serial: list[Report], parallel: list[Report]) -> str | None:
    if len(serial) != len(parallel):
        return f"{len(serial)} reports serially, {len(parallel)} in parallel"
    for expected, actual in zip(serial, parallel, strict=True):
        if expected != actual:
            return f"{expected.file}\n  serially:    {expected}\n  in parallel: {actual}"
    return None


def draw(log_file: Path, picture: Path) -> None:
    """Draw when each file was parsed, and by which worker."""
    plot = qmill.Plot(log_file, color_by="worker", title="The standard library, file by file")
    plot.build().save(picture)


def timed(function: Callable[..., list[Report]], *args: object) -> tuple[list[Report], float]:
    start = time.perf_counter()
    reports = function(*args)
    return reports, time.perf_counter() - start


def shorten(text: str, width: int, *, keep_end: bool = False) -> str:
    if len(text) <= width:
        return text
    return "..." + text[3 - width :] if keep_end else text[: width - 3] + "..."


def heading(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}")


def tell_counts(reports: list[Report]) -> None:
    heading("Counted")
    print(f"{len(reports):>9,} files")
    print(f"{sum(r.lines for r in reports):>9,} lines")
    print(f"{sum(r.functions for r in reports):>9,} functions and methods")


def tell_longest(reports: list[Report]) -> None:
    longest = heapq.nlargest(LONGEST, ((f, r.file) for r in reports for f in r.longest))
    heading(f"The {LONGEST} longest functions")
    print(f"{'lines':>9}  {'name':<36} file")
    for (lines, name), file in longest:
        file = shorten(file, WIDTH - 48, keep_end=True)
        print(f"{lines:>9,}  {shorten(name, 36):<36} {file}")


def tell_failures(reports: list[Report]) -> None:
    failed = [r for r in reports if r.error is not None]
    heading(f"Files that fail to parse: {len(failed)}")
    for report in failed:
        print(f"  {shorten(report.file, WIDTH - 2, keep_end=True)}")
        print(f"      {shorten(report.error or '', WIDTH - 6)}")


def tell_times(serial_s: float, parallel_s: float, num_workers: int) -> None:
    heading("Time")
    slower = max(serial_s, parallel_s)
    for name, time_s in (("serial", serial_s), ("parallel", parallel_s)):
        print(f"{name:>9} {time_s:>8.2f} s  {'#' * max(1, round(50 * time_s / slower))}")
    workers = f"{num_workers} worker process{'es' if num_workers != 1 else ''}"
    print(f"\nSpeed-up {serial_s / parallel_s:.2f} with {workers}; both gave the same answer.")


def fresh_file(path: Path) -> Path:
    """Make the folder of a file, and remove the file that an earlier run has left there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    return path


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--limit", type=positive, metavar="N", help="read only the first N files")
    parser.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        default=qmill.NUM_CPUS,
        help="how many worker processes (default: %(default)s, the CPUs of this machine)",
    )
    parser.add_argument(
        "--engine",
        choices=["process", "dask"],
        default="process",
        help="where the jobs run: processes of this program, or a Dask cluster on this machine",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path("out"),
        help="where jobs.csv, the jobs' records, and gantt.png are written (default: %(default)s)",
    )
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a parser's message may quote any character
    version = sys.version.partition(" ")[0]
    print(f"The standard library of Python {version}, counted with qmill")
    log_file = fresh_file(arguments.out / "jobs.csv")
    files = stdlib_files(arguments.limit)
    print(f"Parsing {len(files):,} files in parallel, then serially", flush=True)
    queue = qmill.JobQueue(
        arguments.workers,
        engine=qmill.engines.Dask() if arguments.engine == "dask" else arguments.engine,
        log_file=log_file,
        name="census",
        progress=True,
    )
    parallel, parallel_s = timed(census_parallel, queue, files)
    serial, serial_s = timed(census_serial, files)
    difference = first_difference(serial, parallel)
    if difference is not None:
        print(f"\nThe parallel answer is not the serial one: {difference}", file=sys.stderr)
        return 1
    tell_counts(parallel)
    tell_longest(parallel)
    tell_failures(parallel)
    tell_times(serial_s, parallel_s, arguments.workers)
    heading("What the jobs did")
    queue.summary().print()
    picture = arguments.out / "gantt.png"
    draw(log_file, picture)
    print(f"\nThe jobs' records are in {log_file}, and a chart of them in {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
