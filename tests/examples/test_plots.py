"""The plots of the docs are drawn from real runs, and the pictures that the docs show are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from . import programs

PLOTS = programs.ROOT / "examples" / "plots.py"
NAMES = ["quick_start", "serial_and_parallel", "priority", "lanes", "lane_errors"]
PAGES = [programs.ROOT / "README.md", *sorted((programs.ROOT / "docs").glob("*.md"))]


def test_all_plots_are_drawn(tmp_path: Path) -> None:
    output = programs.run(str(PLOTS), str(tmp_path / "new folder"), "--speed", "50")
    paths = [Path(line) for line in output.splitlines()]
    assert [path.stem for path in paths] == NAMES
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_pictures_are_there_and_not_large(page: Path) -> None:
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    for name in shown:
        assert (page.parent / name).stat().st_size < 150_000


def test_all_pictures_are_shown() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in NAMES if f"images/{name}.png" not in text] == []


def test_what_plots_cost_can_be_measured() -> None:
    output = programs.run("-m", "benchmarks.plots", "--jobs", "200")
    assert re.fullmatch(
        r"a chart of 200 jobs: \d+\.\d s, \d+ MB at most\nrunning totals: \d\.\d\d us a job\n",
        output,
    )
