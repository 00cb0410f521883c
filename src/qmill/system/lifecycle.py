"""The end of this process and its forks: one table of phases, and all exit and fork hooks.

A process ends, and prepares a fork, from the top of the table down: each phase may still need those
below it. After a fork, parent and child pass the table from the bottom up. A phase does nothing
until the module that it belongs to has registered its functions.

    threading._shutdown     PENDING_JOBS, then Python joins the threads
    atexit                  the phases from there down to CHILDREN
    multiprocessing.util    joins its children
    last                    the phases below CHILDREN

An exit function runs among those of other libraries by the moment at which it was registered, as
with `atexit`. Among the phases the table alone decides, whatever the order of imports.
"""

from __future__ import annotations

import atexit
import os
import sys
from _functools import partial  # type: ignore[import-not-found]  # lighter than `functools`
from _operator import methodcaller

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    Function = Callable[[], object]

TABLE: list[Phase] = []
_nothing: Function = bool


class Phase:
    """A row of the table: its functions for the end of the process and for forks."""

    def __init__(self) -> None:
        self.at_exit = self.before_fork = self.in_parent = self.in_child = _nothing
        self.is_due = False  # `atexit` is going to call the exit function
        TABLE.append(self)


PENDING_JOBS = Phase()
"""Job queues finish their jobs."""
JOBLIB_POOL = Phase()
"""The pool that calls of `joblib.Parallel` share."""
MAPPED_ARRAYS = Phase()
"""Files with large arrays of such calls."""
ANSWERS = Phase()
"""In a worker of an engine: the answers to its jobs."""
JOB_QUEUES = Phase()
"""Job queues for which the exit does not wait are aborted."""
LINKS = Phase()
"""Channels to the workers of engines, half made."""
WORKERS = Phase()
"""Workers of `run` and `run_thread` are joined or terminated."""
FORK_SERVER = Phase()
"""The fork server is killed."""
GUARD = Phase()
"""The guard of this process's children is killed."""
LIFELINE = Phase()
"""The pipe that tells this process's children of its end."""
INHERITANCE = Phase()
"""Duplicates of descriptors for a child that is being started."""
CHILDREN = Phase()
"""`multiprocessing` joins its children, which may use the queues until then."""
RINGS = Phase()
"""Queues in shared memory: leases end, handles close."""
NAMES = Phase()
"""Named queues: files that no process holds any more are removed."""
CLIENTS = Phase()
"""Queues of brokers: good-byes; before a fork, the child's connections are made."""
FORK_LOCK = Phase()
"""`native.fork_lock` is held while the phases below prepare the fork, and until they are done."""
BROKER = Phase()
"""This process's broker ends; it serves all the others above."""
MAIN_MODULE = Phase()
"""The locks of imports of the script."""
THREADS = Phase()
"""The threads that `threading` does not know."""
STREAMS = Phase()
"""Standard streams that a thread was flushing."""

_ROW_OF_CHILDREN = TABLE.index(CHILDREN)


# -- the end of this process -------------------------------------------------------------------


def at_exit(phase: Phase, function: Function) -> None:
    """Register the exit function of a phase; to be called when its module is complete."""
    phase.at_exit = function
    if phase is PENDING_JOBS:
        import threading

        threading._register_atexit(function)  # type: ignore[attr-defined]
    elif TABLE.index(phase) < _ROW_OF_CHILDREN and not phase.is_due:
        atexit.register(_end_down_to, phase)
        phase.is_due = True  # last: an import that was interrupted before it registers again


def _end_down_to(phase: Phase) -> None:
    """Run the phases that are due and stand above this one, then this one."""
    phases = TABLE[: TABLE.index(phase) + 1]
    _run(map(_end, [each for each in phases if each.is_due]))


def _end(phase: Phase) -> None:
    phase.is_due = False
    phase.at_exit()


def _run(calls: Iterator[object]) -> None:
    """Make all calls, then raise the exception that one of them has raised; print any others.

    `list` makes the calls in C code: no signal handler can raise between two of them.
    """
    try:
        list(calls)
    except BaseException:
        raised = sys.exc_info()
        try:
            _run(calls)  # the rest
        except BaseException:
            sys.excepthook(*raised)
            raise
        raise


def end_children_and_queues() -> None:
    """Run the phases from CHILDREN on, in a process that leaves without `Py_Finalize`."""
    _run(map(methodcaller("at_exit"), TABLE[_ROW_OF_CHILDREN:]))


def _end_queues() -> None:
    _run(map(methodcaller("at_exit"), TABLE[_ROW_OF_CHILDREN + 1 :]))


_AFTER_CHILDREN = -100  # multiprocessing calls finalizers of a priority below 0 after its joins
_finalizer: Any = None


def end_with_multiprocessing() -> None:
    """Have the queues end in a child of `multiprocessing`, which calls no exit functions."""
    global _finalizer
    if _finalizer is None and (util := loaded("multiprocessing.util")) is not None:
        _finalizer = util.Finalize(None, _end_queues, exitpriority=_AFTER_CHILDREN)


def _end_queues_last() -> None:
    """End the queues, now or when `multiprocessing` has joined its children."""
    util = loaded("multiprocessing.util")
    if util is None or getattr(util, "_exiting", True):
        _end_queues()
    else:
        util.Finalize(None, _end_queues, exitpriority=_AFTER_CHILDREN)


# The first exit function of this package, and of all that was registered after it, runs last.
atexit.register(_end_queues_last)


def _end_children() -> None:
    if (util := loaded("multiprocessing.util")) is not None:
        util._exit_function()


CHILDREN.at_exit = _end_children


def begin_in_child() -> None:
    """Forget the exit functions of the parent's program in a forked child; keep the table's.

    The child ends by `end_children_and_queues`.
    """
    import weakref

    atexit._clear()
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False
    atexit.register(weakref.finalize._exitfunc)  # type: ignore[attr-defined]
    for phase in reversed(TABLE[1:_ROW_OF_CHILDREN]):
        if phase.at_exit is not _nothing:
            phase.is_due = True
            atexit.register(_end_down_to, phase)
    if (util := loaded("multiprocessing.util")) is not None:
        util._finalizer_registry.clear()
        util._run_after_forkers()
        sys.modules["multiprocessing.process"]._children = set()  # type: ignore[attr-defined]


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


# -- forks -------------------------------------------------------------------------------------


def at_fork(
    phase: Phase,
    *,
    before: Function = _nothing,
    in_parent: Function = _nothing,
    in_child: Function = _nothing,
) -> None:
    """Register the functions of a phase for forks; to be called when its module is complete.

    Args:
        phase: The phase.
        before: Called in the parent before a fork.
        in_parent: Called in the parent after a fork.
        in_child: Called in the child.
    """
    phase.before_fork, phase.in_parent, phase.in_child = before, in_parent, in_child
    list(_hooks)  # in C code: an import that is interrupted here has made all hooks or none


def _hook(phase: Phase) -> Function:
    """Return a function that has Python call the functions of a phase at forks.

    Each phase has hooks of its own, which call its functions from C code: an exception in one phase
    skips no other, and no signal handler can raise before a lock is acquired or released.
    """
    hook: Function = partial(
        os.register_at_fork,
        before=partial(methodcaller("before_fork"), phase),
        after_in_parent=partial(methodcaller("in_parent"), phase),
        after_in_child=partial(methodcaller("in_child"), phase),
    )
    return hook


_hooks: Iterable[object] = ()
"""Makes all hooks for forks, once. Python calls those before a fork in reverse order."""

if hasattr(os, "register_at_fork"):
    _hooks = map(methodcaller("__call__"), list(map(_hook, reversed(TABLE))))


def _forget_finalizer() -> None:
    global _finalizer
    _finalizer = None


CHILDREN.in_child = _forget_finalizer
