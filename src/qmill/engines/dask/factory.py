"""A Dask cluster as the engine of job queues, for users."""

from __future__ import annotations

import threading
from typing import Any

from ...workers import api
from ..api import ALL, Engine, EngineFactory, Settings
from .client import Connection, import_distributed
from .engine import DaskEngine


class Dask(EngineFactory):
    """A Dask cluster as the engine of job queues: `JobQueue(engine=qmill.engines.Dask(...))`.

    Args:
        client_or_address: The scheduler's address, such as "tcp://10.0.0.1:8786"; or a
            `distributed.Client`, whose scheduler is used; or None, which starts a cluster in this
            process, with as many threads as the first queue has workers.

    The connection is made for the first queue and closed with the last; a `with` block keeps it
    open between queues. Workers need the same versions of Python and qmill.

    Raises:
        TypeError: `client_or_address` is none of these.
        ImportError: distributed is not installed: `pip install 'qmill[dask]'`.

    A `JobQueue` that uses it raises:
        OSError: The scheduler cannot be reached.
        NotSupported: The queue was given a start method.
        SerializationError: The initializer or its arguments cannot be pickled.
    """

    def __init__(self, client_or_address: Any = None) -> None:
        distributed = import_distributed()
        if isinstance(client_or_address, distributed.Client):
            self._where = client_or_address.scheduler.address
            self._security = client_or_address.security
        elif client_or_address is None or isinstance(client_or_address, str):
            self._where = client_or_address
            self._security = None
        else:
            raise TypeError(
                "Dask takes a scheduler's address, a distributed.Client or None; got "
                f"{type(client_or_address).__name__} {client_or_address!r}"
            )
        self._lock = threading.RLock()
        self._connection: Connection | None = None
        self._num_users = 0

    def __repr__(self) -> str:
        return f"qmill.engines.Dask({'' if self._where is None else repr(self._where)})"

    def make(self, settings: Settings) -> Engine:
        """Make the engine of one queue; see `EngineFactory`."""
        connection = self._acquire(settings.max_workers)
        try:
            return DaskEngine(settings, connection, self._release)
        except BaseException:
            self._release()
            raise

    def __enter__(self) -> Dask:
        self._acquire(ALL)
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def _acquire(self, max_workers: int) -> Connection:
        with self._lock:
            if self._connection is None:
                num_threads = api.NUM_CPUS if max_workers == ALL else max_workers
                self._connection = Connection(self._where, self._security, num_threads)
            self._num_users += 1
            return self._connection

    def _release(self) -> None:
        with self._lock:
            self._num_users -= 1
            if self._num_users == 0 and self._connection is not None:
                self._connection.close()
                self._connection = None
