"""A client of a Dask scheduler, which reports Dask workers that come and go.

This is the only module that imports distributed.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from .engine import DaskEngine


def import_distributed() -> Any:
    """Import distributed and return it.

    Raises:
        ImportError: distributed is not installed; the message says how to install it.
    """
    try:
        import distributed
    except ImportError as error:
        raise ImportError(
            "engines.Dask needs distributed, which is not installed: pip install 'qmill[dask]'"
        ) from error
    return distributed


class Connection:
    """A client of a scheduler, for all queues of one `Dask`; reports workers to their engines.

    Attributes:
        client: The `distributed.Client`.
        lost: The error if the scheduler cannot be reached any more, or None.
    """

    def __init__(self, where: str | None, security: Any, num_threads: int) -> None:
        distributed = import_distributed()
        self._cluster: Any = None
        if where is None:
            # In this process, as all jobs run in children; so no process imports `__main__`.
            self._cluster = distributed.LocalCluster(
                n_workers=1,
                threads_per_worker=num_threads,
                processes=False,
                memory_limit=0,
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address="127.0.0.1:0",
            )
        else:
            _check_answers(where, security)
        target = where if where is not None else self._cluster
        self.client = distributed.Client(target, security=security, set_as_default=False)
        self.lost: ConnectionError | None = None
        self._where = self.client.scheduler.address
        self._lock = threading.RLock()
        self._engines: list[DaskEngine] = []
        self._threads: dict[str, int] = {}
        self.client.subscribe_topic("all", self._take_event)
        for address, threads in self.client.nthreads().items():
            self._join(address, threads)
        self._alive = distributed.Event(f"qmill-{uuid.uuid4().hex}", client=self.client)
        self.call(self._watch())

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the client's event loop; return a concurrent future."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.client.loop.asyncio_loop)

    def add(self, engine: DaskEngine) -> None:
        """Report the current workers to an engine, and changes from now on."""
        with self._lock:
            self._engines.append(engine)
            for address, threads in self._threads.items():
                engine.tell(partial(engine.join, address, threads))

    def remove(self, engine: DaskEngine) -> None:
        """Report no more changes to an engine."""
        with self._lock:
            self._engines.remove(engine)

    def _take_event(self, event: tuple[float, Any]) -> None:
        message = event[1]
        action = message.get("action") if isinstance(message, dict) else None
        if action == "remove-worker":
            self._leave(message["worker"])
        elif action == "add-worker":
            self.call(self._look_at(message["worker"]))

    async def _look_at(self, address: str) -> None:
        found = await self.client.nthreads(workers=[address], asynchronous=True)
        if found.get(address):
            self._join(address, found[address])

    def _join(self, address: str, threads: int) -> None:
        with self._lock:
            self._threads[address] = threads
            for engine in self._engines:
                engine.tell(partial(engine.join, address, threads))

    def _leave(self, address: str) -> None:
        with self._lock:
            self._threads.pop(address, None)
            for engine in self._engines:
                engine.tell(partial(engine.leave, address))

    async def _watch(self) -> None:
        """Wait until `close`; an error before that means that the scheduler is gone."""
        try:
            await self._alive.wait()
        except OSError:  # CommClosedError is one
            self.lost = ConnectionError(f"the Dask scheduler at {self._where} is gone")
            for address in list(self._threads):
                self._leave(address)

    def close(self) -> None:
        """Close the client, and the cluster if this object has started it."""
        if self.lost is None:
            self.client.unsubscribe_topic("all")
            self._alive.set()
        self.client.close()
        if self._cluster is not None:
            self._cluster.close()


def _check_answers(where: str, security: Any) -> None:
    """Raise OSError if no scheduler answers: a client that fails leaves a thread behind."""
    distributed = import_distributed()
    security = security if security is not None else distributed.Security()

    async def connect() -> None:
        comm = await distributed.comm.connect(where, **security.get_connection_args("client"))
        await comm.close()

    try:
        distributed.utils.LoopRunner().run_sync(connect)
    except OSError as error:
        raise OSError(f"no Dask scheduler answers at {where}: {error}") from error
