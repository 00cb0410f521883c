"""Exit hooks: give back this process's leases and close its handles, once.

The hooks run after multiprocessing has joined its children, which may still use the queues.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

leavers: list[Callable[[], None]] = []
"""The transports' exit functions; a transport adds its own when it is imported."""

_AFTER_CHILDREN = -100  # exit functions of a priority below 0 run after multiprocessing's joins
_hook: Any = None


def loaded(name: str) -> Any:
    """Return a module if its import is complete, else None.

    The import system puts a module into `sys.modules` before it runs the module's code, and another
    thread may be importing it just now. The attributes are still missing then. To wait for that
    thread would last for ever in a forked child, which does not have it.

    Args:
        name: The module's full name.
    """
    module = sys.modules.get(name)
    is_half = getattr(getattr(module, "__spec__", None), "_initializing", False)
    return None if is_half else module


def leave() -> None:
    """Give back this process's leases, and close its handles of every queue."""
    for leaver in leavers:
        leaver()


def leave_at_exit() -> None:
    """Call `leave` when multiprocessing has joined its children, which may still use the queues."""
    util = loaded("multiprocessing.util")
    if util is None or getattr(util, "_exiting", True):
        leave()
    else:
        util.Finalize(None, leave, exitpriority=_AFTER_CHILDREN)


def hook_exit() -> None:
    """Have `leave` called in a child of multiprocessing, which does not run exit functions."""
    global _hook
    if _hook is None and (util := loaded("multiprocessing.util")) is not None:
        _hook = util.Finalize(None, leave, exitpriority=_AFTER_CHILDREN)


def _after_fork_in_child() -> None:
    global _hook
    _hook = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
