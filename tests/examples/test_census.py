"""The census of the standard library agrees with a plain count of the same files."""

from __future__ import annotations

import ast
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


def test_census_agrees_with_a_plain_count() -> None:
    output = programs.run(str(CENSUS), "--limit", str(LIMIT), "--workers", "2")
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
