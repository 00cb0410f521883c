"""The census of the standard library agrees with a plain count of the same files."""

from __future__ import annotations

import ast
import csv
import re
import sysconfig
import warnings
from pathlib import Path

from . import programs

CENSUS = programs.ROOT / "examples" / "stdlib_census.py"
LIMIT = 60


def stdlib_files() -> list[Path]:
    """Return the first files of the standard library, in the order of their relative paths."""
    root = Path(sysconfig.get_path("stdlib"))
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    return [root / n for n in names if not {"site-packages", "dist-packages"} & {*n.split("/")}][
        :LIMIT
    ]


def count_functions(files: list[Path]) -> tuple[int, int]:
    """Return how many functions there are in the files that parse, and the lines of the longest."""
    count, longest = 0, 0
    for file in files:
        try:
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count += 1
                longest = max(longest, (node.end_lineno or 0) - node.lineno + 1)
    return count, longest


def number_before(words: str, output: str) -> int:
    found = re.search(rf"([\d,]+) {words}$", output, re.MULTILINE)
    assert found, f"no {words!r} in\n{output}"
    return int(found[1].replace(",", ""))


def run_census(out: Path) -> str:
    return programs.run(str(CENSUS), "--limit", str(LIMIT), "--workers", "2", "--out", str(out))


def test_census_agrees_with_a_plain_count(tmp_path: Path) -> None:
    output = run_census(tmp_path)
    count, longest = count_functions(stdlib_files())
    assert number_before("files", output) == LIMIT
    assert number_before("functions and methods", output) == count
    assert "10 longest functions" in output
    lengths = re.findall(r"^ +([\d,]+)  \S+ +\S+\.py$", output, re.MULTILINE)
    assert len(lengths) == 10
    assert lengths[0] == f"{longest:,}"
    assert "fail to parse" in output
    assert re.search(
        r"Speed-up \d+\.\d+ with 2 worker processes; both gave the same answer", output
    )


def test_census_records_a_job_for_each_file_the_largest_first(tmp_path: Path) -> None:
    out = tmp_path / "made by the census"
    for _ in range(2):  # the second run replaces the records of the first
        assert f"records are in {out / 'jobs.csv'}" in run_census(out)
    with open(out / "jobs.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    root = Path(sysconfig.get_path("stdlib"))
    sizes = {file.relative_to(root).as_posix(): file.stat().st_size for file in stdlib_files()}
    assert {row["name"]: -int(row["priority"]) for row in rows} == sizes
    by_number = sorted(rows, key=lambda row: int(row["id"]))
    assert [sizes[row["name"]] for row in by_number] == sorted(sizes.values(), reverse=True)
    assert {(row["state"], row["exitcode"], row["attempts"]) for row in rows} == {
        ("done", "0", "1")
    }
    assert len({row["worker"] for row in rows}) <= 2
    # The two workers get the two largest files; which of their later jobs begins before the other
    # worker's first one depends on how soon that worker gets a processor.
    first = min(rows, key=lambda row: row["started"])
    assert sizes[first["name"]] in sorted(sizes.values())[-2:]
