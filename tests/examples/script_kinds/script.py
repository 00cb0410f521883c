"""Puts the parts together as one script, guarded or not, and runs it."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
PARTS = ["functions", "classes", "typed", "values", "packages", "syntax_312"]
NEEDS = {"packages": ["attrs", "msgspec", "pydantic", "numpy"]}
MIN_PYTHON = {"syntax_312": (3, 12)}


class Outcome(NamedTuple):
    """What a kind came to: `wrong` is empty, or an error's type and text."""

    wrong: tuple[str, str] | None
    refused: str | None


def parts() -> list[str]:
    """Return the parts that this interpreter, with its packages, can run."""
    return [
        part
        for part in PARTS
        if sys.version_info >= MIN_PYTHON.get(part, (3, 0))
        and all(importlib.util.find_spec(package) for package in NEEDS.get(part, ()))
    ]


def write(path: Path, *, is_guarded: bool) -> Path:
    """Write the script."""
    pieces = [(HERE / f"{name}.py").read_text() for name in ["declare", *parts(), "runner"]]
    text = re.sub(r"^from \.declare import .*\n", "", "\n".join(pieces), flags=re.MULTILINE)
    check_names(text)
    end = 'if __name__ == "__main__":\n    main()\n' if is_guarded else "main()\n"
    path.write_text(f"{text}\n\n{end}")
    return path


def check_names(text: str) -> None:
    """Raise if two parts define the same global name, so that one would change the other."""
    defined: Counter[str] = Counter()
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            defined[node.name] += 1
        elif not isinstance(node, (ast.For, ast.With, ast.AugAssign)):
            defined.update(
                part.id
                for part in ast.walk(node)
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
            )
    again = [name for name, count in defined.items() if count > 1 and name not in ("_", "halved")]
    if again:
        raise ValueError(f"defined twice: {again}")


def run(script: Path, column: str, *names: str, timeout_s: float = 300) -> dict[str, Outcome]:
    """Run the script's kinds in one of the ways, some or all of them."""
    done = subprocess.run(
        [sys.executable, script, column, *names],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        timeout=timeout_s,
        check=True,
    )
    outcomes = {}
    for line in done.stdout.splitlines():
        if line.startswith("["):
            name, wrong, refused = json.loads(line)
            outcomes[name] = Outcome(tuple(wrong) if wrong else None, refused)
    return outcomes
