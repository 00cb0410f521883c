"""Ends of loops over queues, where there is no native core that notices them.

Nothing tells Python code of an exception while an object goes. But the instruction at which the
loop's frame stands does: `break` and `return` drop the iterator by one that drops something, and an
exception by whatever raised it.
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
    """Iterates over what a generator gives, and settles its hold when the loop is left.

    Args:
        messages: The generator.
        hold: What the loop has in hand.
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
    """Whether an instruction drops what it finds, and so raises nothing."""
    return dis.opname[opcode].startswith(("POP_", "END_", "STORE_FAST", "DELETE_FAST", "RETURN_"))
