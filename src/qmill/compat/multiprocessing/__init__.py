"""`multiprocessing` with qmill's pools, queues and processes.

    import qmill.compat.multiprocessing as multiprocessing

Pool, Process, and the three queues             qmill's, with multiprocessing's names and arguments
get_context                                     returns contexts that have these classes
active_children                                 also lists the workers of pools
freeze_support                                  is `qmill.freeze_support`
all other names and submodules                  are the standard library's own

A `ProcessPoolExecutor` with such a context gets the standard library's `SimpleQueue`, since it
waits for the pipe inside.
"""

from __future__ import annotations

import multiprocessing as _stdlib
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from multiprocessing import context as _context
from types import ModuleType
from typing import Any, cast

from ...job_queue.pool import active_workers
from ...queues.api import Queue as _Queue
from ...system.frozen import freeze_support as freeze_support
from ...workers import standard
from . import pool as pool, queues as queues

__all__ = list(_stdlib.__all__)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    return getattr(_stdlib, name)


class Process(standard.PlainProcess):
    """A process of the default start method; see `qmill.workers.standard.PlainProcess`."""


def Queue(maxsize: int = 0) -> _Queue:  # noqa: N802
    """Make a `qmill.Queue`, which has all methods of `multiprocessing.Queue`."""
    return _Queue(maxsize or 0)


JoinableQueue = Queue


def SimpleQueue() -> _Queue:  # noqa: N802
    """Make a `qmill.Queue`."""
    return _Queue()


def Pool(  # noqa: N802
    processes: int | None = None,
    initializer: Callable[..., Any] | None = None,
    initargs: Iterable[Any] = (),
    maxtasksperchild: int | None = None,
) -> pool.Pool:
    """Make a pool of processes of the default start method."""
    return pool.Pool(processes, initializer, initargs, maxtasksperchild, get_context())


def active_children() -> list[Any]:
    """Return the running child processes, including the workers of pools."""
    return [*_stdlib.active_children(), *active_workers()]


class _Context:
    """The names of a context that qmill replaces."""

    def Pool(  # noqa: N802
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
    ) -> pool.Pool:
        """Make a pool of processes of this start method."""
        return pool.Pool(processes, initializer, initargs, maxtasksperchild, self)

    Queue = staticmethod(Queue)
    JoinableQueue = staticmethod(JoinableQueue)
    active_children = staticmethod(active_children)
    freeze_support = staticmethod(freeze_support)

    def SimpleQueue(self) -> Any:  # noqa: N802
        """Make a `qmill.Queue`; for a `ProcessPoolExecutor`, the standard library's queue."""
        if sys._getframe(1).f_globals.get("__name__") == "concurrent.futures.process":
            return _context.BaseContext.SimpleQueue(cast(_context.BaseContext, self))
        return _Queue()

    def get_context(self, method: str | None = None) -> Any:
        """Return this context, or the context of another start method."""
        return self if method is None else get_context(method)


_contexts: dict[str, Any] = {}


def _make_context(method: str) -> None:
    name = {"fork": "Fork", "spawn": "Spawn", "forkserver": "ForkServer"}[method]
    process = type(f"{name}Process", (Process,), {"_start_method": method, "__module__": __name__})
    context = type(
        f"{name}Context",
        (_Context, getattr(_context, f"{name}Context")),
        {"Process": process, "__module__": __name__},
    )
    globals()[process.__name__] = process
    globals()[context.__name__] = context
    _contexts[method] = context()


for _method in _stdlib.get_all_start_methods():
    _make_context(_method)


def get_context(method: str | None = None) -> Any:
    """Return the context of a start method.

    Args:
        method: "fork", "spawn" or "forkserver"; None for the default start method.

    Raises:
        ValueError: This system has no such start method.
    """
    return _contexts[_stdlib.get_context(method).get_start_method()]


class _Finder(MetaPathFinder):
    """Finds the standard library's submodules under the name of this package.

    If a program has put this package into `sys.modules["multiprocessing"]`, it also finds them
    under their own names.
    """

    def find_spec(
        self, fullname: str, path: object = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is __path__ and fullname.startswith("multiprocessing."):
            return PathFinder.find_spec(fullname, _stdlib.__path__)
        name = fullname.removeprefix(f"{__name__}.")
        if name == fullname or find_spec(f"multiprocessing.{name}") is None:
            return None
        return ModuleSpec(fullname, _Loader(import_module(f"multiprocessing.{name}")))


class _Loader(Loader):
    """Loads a module that exists already, unchanged."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


sys.meta_path.insert(0, cast(MetaPathFinder, _Finder()))
