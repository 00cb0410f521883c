"""Two programs that share a queue by its name lose nothing when one of them is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from qmill import core_info

from . import programs

EXAMPLE = programs.ROOT / "examples" / "two_programs.py"


@pytest.mark.parametrize("transport", ["portable", *["shared"] * bool(core_info().core)])
def test_nothing_is_lost(tmp_path: Path, transport: str) -> None:
    output = programs.run(
        str(EXAMPLE), env={"QMILL_DIR": str(tmp_path), "QMILL_TRANSPORT": transport}
    )
    assert output.splitlines() == [
        "1000 orders were written",
        "the first reader was killed with order 300; the second began with 300",
        "missing: 0, twice: 1",
    ]
