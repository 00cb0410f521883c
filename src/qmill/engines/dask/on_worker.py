"""Functions that run on a Dask worker: they open a runner, and pass calls, lessons and kills to it.

A runner is identified by its session, one for each job queue, and the worker's address. Its name
distinguishes it from a runner of an earlier process with this address.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import pickle
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from ...errors import WorkerDied
from ..api import DIED, Report
from .client import import_distributed
from .runner import Runner

if TYPE_CHECKING:
    from ..knowledge import Lesson


def versions() -> tuple[str, tuple[int, int]]:
    """Return the versions of qmill and Python, which have to be the same on both sides."""
    return importlib.metadata.version("qmill"), sys.version_info[:2]


_runners: dict[tuple[str, str], tuple[str, Runner]] = {}  # by session and worker's address
_ending: set[Any] = set()


def _find(session: str, address: str, name: str) -> Runner | None:
    found, runner = _runners.get((session, address), (None, None))
    return runner if found == name else None


async def open_runner(session: str, address: str, name: str, threads: int, packed: bytes) -> str:
    """Task: open a runner on this worker; return the name of the machine."""
    theirs, setup = pickle.loads(packed)
    if theirs != versions():
        ours = versions()
        raise RuntimeError(
            f"it has qmill {ours[0]} and Python {'.'.join(map(str, ours[1]))}, but the program "
            f"that puts the jobs has qmill {theirs[0]} and Python {'.'.join(map(str, theirs[1]))}: "
            "install the same versions on both sides"
        )
    worker = import_distributed().get_worker()
    log = partial(worker.log_event, f"qmill-{session}")
    runner = Runner(address, threads, setup, log)
    _runners[session, address] = name, runner
    await worker.plugin_add(_plugin_class()(session, address, name), name=f"qmill-{name}")
    return socket.gethostname()


@functools.cache
def _plugin_class() -> Any:
    """Make the class on first use, since it takes long to import distributed."""

    class RunnerPlugin(import_distributed().WorkerPlugin):  # type: ignore[misc]
        """Ends a runner with its worker, and with the program that has opened it."""

        def __init__(self, session: str, address: str, name: str) -> None:
            self._prefix = f"qmill-{session}-"
            self._key = f"{self._prefix}runner-{name}"
            self._ids = session, address, name

        async def teardown(self, worker: Any) -> None:
            await _end(*self._ids)

        def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
            """End the runner, or a call, whose task is released: the program has gone."""
            if finish not in ("released", "forgotten") or not isinstance(key, str):
                return
            if key == self._key:
                task = asyncio.get_running_loop().create_task(_end(*self._ids))
                _ending.add(task)  # an event loop holds its tasks by weak references only
                task.add_done_callback(_ending.discard)
            elif start == "executing" and key.startswith(self._prefix):
                runner = _find(*self._ids)
                if runner is not None:
                    runner.kill(int(key.removeprefix(self._prefix)))

    return RunnerPlugin


async def run(session: str, address: str, name: str, packed: bytes) -> Report:
    """Task: run a call."""
    runner = _find(session, address, name)
    if runner is None:  # the task was for an earlier process of this address
        return Report(DIED, None, WorkerDied(None, None, address=address))
    return await asyncio.wrap_future(runner.run(pickle.loads(packed)))


async def learn(
    session: str, address: str, name: str, lesson: Lesson, large: dict[int, Any]
) -> None:
    """Pass a lesson, and the packets of large calls, to a runner."""
    if (runner := _find(session, address, name)) is not None:
        runner.learn(lesson, large)


async def revoke(session: str, address: str, name: str, tokens: list[int]) -> list[int]:
    """Revoke calls that have not arrived; return their tokens."""
    runner = _find(session, address, name)
    return [] if runner is None else runner.revoke(tokens)


async def kill(session: str, address: str, name: str, token: int) -> list[int]:
    """Kill a call; return its token if it had not arrived."""
    runner = _find(session, address, name)
    return [token] if runner is not None and runner.kill(token) else []


async def close(session: str, address: str, name: str, patient: bool, dask_worker: Any) -> None:
    """End a runner, by removing the plugin that would end it later.

    Args:
        session: The runner's job queue.
        address: The worker.
        name: The runner's name.
        patient: Whether to wait for threads that calls have left.
        dask_worker: The worker; Dask passes it to a parameter of this name.
    """
    if patient and (runner := _find(session, address, name)) is not None:
        await asyncio.shield(asyncio.wrap_future(runner.close(patient=True)))
    if f"qmill-{name}" in dask_worker.plugins:
        await dask_worker.plugin_remove(f"qmill-{name}")


async def _end(session: str, address: str, name: str) -> None:
    runner = _find(session, address, name)
    if runner is not None:
        await asyncio.wrap_future(runner.close())
        _runners.pop((session, address), None)
