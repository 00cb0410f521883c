"""Parallel work with queues in Python: messages, workers and jobs.

    qmill.Queue     any object between threads, processes and programs
    qmill.Q         messages with an end, read by workers
    qmill.run       a function in a process of its own
    qmill.run_thread  ... in a thread
    qmill.JobQueue  function calls with priorities, timeouts and records
    qmill.map       a function over many items
    qmill.shared    a value that many jobs use, sent once
    qmill.engines   further places where jobs run: a Dask cluster
    qmill.frame, qmill.Plot  when jobs waited and ran, as a table and as a chart

The parts load when they are first used: `qmill.Queue` alone stays light.
"""

from __future__ import annotations

import os
import sys
from _frozen_importlib import _find_spec  # type: ignore[attr-defined]

from .system import lifecycle as _lifecycle  # its exit hook is the first: it runs last

__version__ = "0.1.0"

_WHERE = {
    "END_MSG": "queues.messages",
    "Empty": "errors",
    "Full": "errors",
    "Job": "jobs.job",
    "JobQueue": "job_queue.queue",
    "JobTimeout": "errors",
    "LaneError": "errors",
    "Msg": "queues.messages",
    "NUM_CPUS": "workers.api",
    "NUM_THREADS": "workers.api",
    "NotSupported": "errors",
    "Plot": "observe.plot",
    "Poisoned": "errors",
    "Q": "queues.messages",
    "QmillError": "errors",
    "Queue": "queues.api",
    "QueueGone": "errors",
    "SerializationError": "errors",
    "ShutDown": "errors",
    "Statistics": "queues.statistics",
    "Worker": "workers.api",
    "WorkerDied": "errors",
    "core_info": "queues.shared.core.info",
    "frame": "observe.frame",
    "freeze_support": "system.frozen",
    "get_start_method": "processes.launch",
    "map": "job_queue.mapping",
    "parallel": "job_queue.mapping",
    "run": "workers.api",
    "run_thread": "workers.api",
    "set_start_method": "processes.launch",
    "shared": "packing.shared_values",
    "trace": "observe.trace",
}

__all__ = ["__version__", "engines", *_WHERE]

TYPE_CHECKING = False
if TYPE_CHECKING:
    # PyInstaller and cx_Freeze put into a program the modules that import statements name: they do
    # not see the names in `_WHERE`, nor what a compiled module imports. A test has each of them.
    from . import engines
    from .job_queue import mapping, queue
    from .observe import frame, plot, trace
    from .packing import shared_values
    from .processes import launch
    from .queues import loops, messages, statistics
    from .queues.local import access
    from .queues.names import listing
    from .queues.shared.core import _kept, _ring, info
    from .system import _finalizers, frozen
    from .workers import standard


_first_folder: str | None
"""The working directory at the time of the first import of qmill."""

try:
    _first_folder = os.getcwd()
except OSError:  # it has been removed
    _first_folder = None


def __getattr__(name: str) -> object:
    if name == "engines":
        return __import__("qmill.engines", fromlist=["engines"])
    try:
        module = _WHERE[name]
    except KeyError:
        told = f"module 'qmill' has no attribute {name!r}"
        if not _is_module(name):
            from .packing.guesses import explain_name

            told = explain_name(name)
        raise AttributeError(told, name=name, obj=sys.modules[__name__]) from None
    value = getattr(__import__(f"qmill.{module}", fromlist=[name]), name)
    globals()[name] = value
    return value


def _is_module(name: str) -> bool:
    """Return whether a name is a module here: `from` asks for an attribute before it imports."""
    path = os.path.join(__path__[0], name)
    if os.path.exists(f"{path}.py") or os.path.isdir(path):
        return True
    # A frozen program or a zip file has no such files.
    return _find_spec(f"{__name__}.{name}", __path__) is not None


def __dir__() -> list[str]:
    return __all__
