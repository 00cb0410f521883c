"""Notices how a loop over a queue was left, where there is no native core that does.

Python code cannot ask whether an exception is in flight while an object is freed. But the current
instruction of the loop's frame shows it: after `break` and `return` that is one that drops a value;
after an exception it is the one that raised it.
"""

from __future__ import annotations

import dis
import sys
from typing import TYPE_CHECKING, Any

from .leases import leave

if TYPE_CHECKING:
    from collections.abc import Generator

    from .leases import Hold


class Loop:
    """Iterates over a generator's messages, and settles the loop's hold when the loop is left.

    Args:
        messages: The generator.
        hold: The loop's hold.
    """

    __slots__ = ("_hold", "_is_over", "_next")

    def __init__(self, messages: Generator[Any, None, None], hold: Hold) -> None:
        self._next = messages.__next__
        self._hold = hold
        self._is_over = False

    def __iter__(self) -> Loop:
        return self

    def __next__(self) -> Any:
        return self._next()

    def close(self) -> None:
        """Leave the loop, as an exception does: a generator that is closed calls this, too."""
        if not self._is_over:
            self._is_over = True
            leave(self._hold, True)

    def __del__(self) -> None:
        if not self._is_over and not sys.is_finalizing():
            frame = sys._getframe(1)
            leave(self._hold, not _drops(frame.f_code.co_code[frame.f_lasti]))


def _drops(opcode: int) -> bool:
    """Whether an instruction only drops a value, and so raises nothing."""
    return dis.opname[opcode].startswith(("POP_", "END_", "STORE_FAST", "DELETE_FAST", "RETURN_"))
