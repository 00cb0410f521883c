"""Connects `Worker` with `multiprocessing.Process` and `threading.Thread`.

Process, Thread   subclasses of the standard library's that report an exception of their function
PlainProcess      a `multiprocessing.Process` that does not outlive its parent
as_worker         returns the `Worker` of a process or thread, for `Q.stop`
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from typing import TYPE_CHECKING, Any

from ..errors import WorkerDied
from ..processes import child_main, handles, launch
from ..system import threads
from .api import Worker
from .runners import let_go

if TYPE_CHECKING:
    from collections.abc import Callable

START_METHOD = "fork" if "fork" in launch.METHODS else None
"""The start method of a `Process`: "fork" if available, so that it inherits its parent's objects.

None: the default of `Worker`.
"""


class Process(multiprocessing.Process):
    """A `multiprocessing.Process` that runs as a `Worker`: it does not outlive its parent.

    Its arguments and methods are those of `multiprocessing.Process`. The `Worker` of `as_worker`
    gives the exception of its function. If the program never asks for that, it is logged.
    """

    @staticmethod
    def _Popen(process: Any) -> Any:
        return _Popen(process)


class PlainProcess(multiprocessing.Process):
    """A `multiprocessing.Process` that does not outlive its parent, even if that is killed.

    In all other respects it behaves as its base class: `run` may be overridden, and the process
    itself prints an exception.
    """

    _start_method: str | None = None  # that of multiprocessing's default context

    @staticmethod
    def _Popen(process: Any) -> Any:
        return _PlainPopen(process)


class _Popen:
    """Implements, by a worker, the interface of multiprocessing's `Popen` objects."""

    method = START_METHOD

    def __init__(self, process: Any) -> None:
        self.worker = self._start(process)
        self.pid = self.worker.pid
        self.sentinel = self.worker.sentinel

    def _start(self, process: Any) -> _ProcessWorker:
        work = (process.name, process._target, process._args, process._kwargs)
        return _ProcessWorker(_run, work, start_method=START_METHOD, name=process.name)

    @property
    def returncode(self) -> int | None:
        return self.worker.exitcode

    def poll(self, flag: int = 0) -> int | None:
        return self.worker.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self.worker.join(None if timeout is None else max(0.0, timeout))
        return self.worker.exitcode

    def terminate(self) -> None:
        self.worker.terminate()

    def kill(self) -> None:
        self.worker.kill()

    def interrupt(self) -> None:
        self.worker.interrupt()

    def close(self) -> None:
        """Do nothing: the worker closes its descriptors when it is garbage-collected."""


class _PlainPopen(_Popen):
    def _start(self, process: Any) -> _ProcessWorker:
        self.method = process._start_method or multiprocessing.get_start_method()
        worker = _PlainWorker(_bootstrap, (process,), start_method=self.method, name=process.name)
        worker._told = True  # the process itself prints an exception
        return worker


class _ProcessWorker(Worker):
    """A worker whose death is no failure if this program has killed it."""

    _was_ended = False

    def terminate(self) -> None:
        self._note_end()
        super().terminate()

    def kill(self) -> None:
        self._note_end()
        super().kill()

    def interrupt(self) -> None:
        self._note_end()
        self._runner.send_signal(signal.SIGINT)

    def _note_end(self) -> None:
        if self.is_alive():
            self._was_ended = self._told = True

    def _failure(self) -> BaseException | None:
        error = super()._failure()
        return None if self._was_ended and isinstance(error, WorkerDied) else error


class _PlainWorker(_ProcessWorker):
    ends_at_exit = False


def _bootstrap(process: Any) -> None:
    """Run a process of `multiprocessing` by its own `_bootstrap`.

    Raises:
        SystemExit: With the exit code, if that is not 0.
    """
    code = process._bootstrap(parent_sentinel=child_main.parent_sentinel)
    if code:
        raise SystemExit(code)


def _run(name: str, target: Callable[..., Any] | None, args: Any, kwargs: Any) -> None:
    """Call the target of a process. Its result is discarded, as in `multiprocessing`."""
    multiprocessing.current_process().name = name
    if target is not None:
        target(*args, **kwargs)


class Thread(threading.Thread):
    """A `threading.Thread` that keeps the exception that its function raised.

    Attributes:
        failure: The exception, or None; `threading.excepthook` has been called with it.
    """

    failure: BaseException | None = None

    def start(self) -> None:
        """Start the thread; it has started also if a signal handler raises meanwhile."""
        threads.start_thread(super().start)

    def run(self) -> None:
        """Call the function."""
        try:
            super().run()
        except SystemExit:  # ignored, as by threading.Thread
            pass
        except BaseException as error:
            self.failure = error
            told = type(error), error, error.__traceback__, self
            threading.excepthook(threading.ExceptHookArgs(told))
            let_go(error)


class _Runner:
    """The runner of a `Worker` for a process or a thread that the program started itself."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self.pid = getattr(context, "pid", None)

    @property
    def exitcode(self) -> int | None:
        if self._context.is_alive():
            return None
        code: int | None = getattr(self._context, "exitcode", 0)
        return code

    @property
    def sentinel(self) -> int:
        return int(self._context.sentinel)

    def wait(self, timeout: float | None) -> bool:
        self._context.join(timeout)
        return not self._context.is_alive()

    def outcome(self, timeout: float | None) -> tuple[str, Any] | None:
        if not self.wait(timeout):
            return None
        error = getattr(self._context, "failure", None)
        code = self.exitcode
        if error is None and code and code != -signal.SIGTERM:  # terminate() is no failure
            error = handles.death(self.pid, code, self._context.name)
        return ("result", None) if error is None else ("error", error)

    def send_signal(self, number: int) -> None:
        if number == signal.SIGTERM:
            self._context.terminate()
        else:
            self._context.kill()


def as_worker(context: Any) -> Worker:
    """Return the worker of a process or thread that has been started.

    Args:
        context: A `Worker`, a `multiprocessing.Process`, a `threading.Thread`, or an object that
            has their methods.

    Raises:
        TypeError: The object lacks the methods of a process or thread.
        ValueError: The process or thread has not been started.
    """
    if isinstance(context, Worker):
        return context
    if not callable(getattr(context, "join", None)) or not hasattr(context, "ident"):
        raise TypeError(f"workers must be processes or threads; got {context!r}")
    if context.ident is None:
        raise ValueError(f"{context!r} has not been started: call its start() first")
    if isinstance(context, Process):
        worker: Worker = context._popen.worker  # type: ignore[attr-defined]
        return worker
    kind = "thread" if isinstance(context, threading.Thread) else "process"
    return Worker.around(_Runner(context), context.name, kind)
