"""Prints the table of `docs/compatibility.md`: python -m tests.examples.script_kinds."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from . import script

COLUMNS = {  # the column's title: the way, and whether the script is guarded
    "fork": ("fork", True),
    "spawn": ("spawn", True),
    "loky": ("loky", False),
    "qmill guarded": ("qmill", True),
    "qmill without guard": ("qmill", False),
}


def main() -> None:
    titles = sys.argv[1:] or list(COLUMNS)
    columns = []
    with tempfile.TemporaryDirectory() as folder:
        for title in titles:
            way, is_guarded = COLUMNS[title]
            path = script.write(Path(folder) / "script.py", is_guarded=is_guarded)
            columns.append(script.run(path, way, timeout_s=3600))
    print(f"| kind | {' | '.join(titles)} |")
    print("| --- " * (1 + len(titles)) + "|")
    for name in columns[0]:
        cells = [tell(column.get(name)) for column in columns]
        print(f"| {name.replace('|', chr(92) + '|')} | {' | '.join(cells)} |")
    sums = [sum(outcome.wrong is None for outcome in column.values()) for column in columns]
    print(f"| **{len(columns[0])} kinds, of which ok** | {' | '.join(map(str, sums))} |")


def tell(outcome: script.Outcome | None) -> str:
    if outcome is None:
        return "ended"
    return "ok" if outcome.wrong is None else outcome.wrong[0]


if __name__ == "__main__":
    main()
