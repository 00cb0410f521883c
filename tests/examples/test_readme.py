"""Every Python block in README.md and docs/*.md runs as a script of its own, and says no error.

A block whose info string has `no-run` after `python` is compiled only.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from . import programs

README = programs.ROOT / "README.md"
PAGES = [README, *sorted((programs.ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r" *(?P<fence>`{3,}|~{3,}) *(?P<info>.*)")


class Block(NamedTuple):
    page: str
    line: int
    words: list[str]  # of the info string, the language first
    text: str

    @property
    def is_python(self) -> bool:
        return self.words[:1] == ["python"]

    @property
    def runs(self) -> bool:
        return "no-run" not in self.words


def blocks_of(page: str, text: str) -> Iterator[Block]:
    """Find the fenced blocks; one ends at a fence of the same kind that is as long, or longer."""
    lines = iter(enumerate(text.splitlines(), start=1))
    for number, line in lines:
        if opening := FENCE.fullmatch(line):
            inside = []
            for _, inner in lines:
                if re.fullmatch(rf" *{opening['fence']}+ *", inner):
                    break
                inside.append(inner)
            code = textwrap.dedent("\n".join(inside)) + "\n"
            yield Block(page, number, opening["info"].split(), code)


BLOCKS = [
    block
    for page in PAGES
    if page.is_file()
    for block in blocks_of(page.name, page.read_text(encoding="utf-8"))
    if block.is_python
]


def block_id(block: Block | None) -> str:
    return f"{block.page}:{block.line}" if block else "none"


def test_readme_has_a_block_that_runs() -> None:
    assert [block for block in BLOCKS if block.page == README.name and block.runs]


# An empty list would be skipped, and a README without blocks has to fail.
@pytest.mark.parametrize("block", BLOCKS or [None], ids=block_id)
def test_block(block: Block | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert block is not None, "neither README.md nor docs/*.md has a Python block"
    compile(block.text, block_id(block), "exec")
    if block.runs:
        script = tmp_path / "block.py"
        script.write_text(block.text, encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        programs.run(str(script))


def test_finding_blocks() -> None:
    page = """
Text, and `inline code`.

```python
print("```")
```

~~~~python no-run
~~~
```
~~~~

1. In a list:

   ```python
   if True:
       pass
   ```

```sh
make run
```
"""
    found = [(b.line, b.is_python, b.runs, b.text) for b in blocks_of("page", page)]
    assert found == [
        (4, True, True, 'print("```")\n'),
        (8, True, False, "~~~\n```\n"),
        (15, True, True, "if True:\n    pass\n"),
        (20, False, True, "make run\n"),
    ]
