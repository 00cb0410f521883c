"""Tasks of Dask, and the values of their futures, which come to the dispatcher's thread."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from .client import Connection


class Answers:
    """The finished futures of one node whose values are being fetched, in order of their ends."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.done: list[tuple[Any, Callable[[Any], None]]] = []
        self.is_fetching = False


class Tasks:
    """Calls functions of `on_worker`, in tasks and outside of them.

    Args:
        connection: The connection to the scheduler.
        session: The job queue.
        tell: Has the dispatcher call a function.
    """

    def __init__(
        self, connection: Connection, session: str, tell: Callable[[Callable[[], None]], None]
    ) -> None:
        self._connection = connection
        self._client = connection.client
        self._session = session
        self._tell = tell

    def submit(self, address: str, function: Callable[..., Any], key: Any, *args: Any) -> Any:
        """Submit a task that only one Dask worker may run; return its future."""
        return self._client.submit(
            function,
            self._session,
            address,
            *args,
            key=f"qmill-{self._session}-{key}",
            workers=[address],
            allow_other_workers=False,
            retries=0,
            pure=False,
            fifo_timeout=0,  # strictly first come, first served
        )

    def run(
        self,
        address: str,
        take: Callable[[Any, BaseException | None], None],
        function: Callable[..., Any],
        *args: Any,
    ) -> None:
        """Call a function on a Dask worker, outside its tasks.

        Args:
            address: The worker.
            take: Called by the dispatcher with either the reply or the exception.
            function: The function to call; its first arguments are the session and the address.
            *args: Its further arguments.
        """

        async def run() -> None:
            reply, error = None, None
            try:
                replies = await self._client.run(
                    function, self._session, address, *args, workers=[address], asynchronous=True
                )
                reply = replies[address]
            except Exception as why:
                error = why
            self._tell(partial(take, reply, error))

        self._connection.call(run())

    def follow(self, answers: Answers, future: Any, take: Callable[[Any], None]) -> None:
        """Have the dispatcher call `take` with a future's value; an exception counts as one.

        Values of a node are taken in the order in which its tasks ended, since a value may need
        definitions of an earlier one.
        """
        # A callback that refers to the engine would be kept, with the engine, by the client.
        future.add_done_callback(partial(self._fetch, answers, take))

    def _fetch(self, answers: Answers, take: Callable[[Any], None], future: Any) -> None:
        """Fetch the value of a finished future, and those of others that finish meanwhile."""
        with answers.lock:
            answers.done.append((future, take))
            if not answers.is_fetching:
                answers.is_fetching = True
                self._connection.call(self._fetch_all(answers))

    async def _fetch_all(self, answers: Answers) -> None:
        while True:
            with answers.lock:
                batch, answers.done = answers.done, []
                if not batch:
                    answers.is_fetching = False
                    return
            values = await self._values_of([future for future, _ in batch])
            for (_, take), value in zip(batch, values, strict=True):
                self._tell(partial(take, value))
            del batch, values, take, value

    async def _values_of(self, futures: list[Any]) -> list[Any]:
        """Return the values of finished futures; None for a future whose value is lost."""
        good = {i: future for i, future in enumerate(futures) if future.status == "finished"}
        try:
            values = await self._client.gather(good, errors="skip", asynchronous=True)
            for index, future in enumerate(futures):
                if future.status == "error":
                    values[index] = await future.exception(asynchronous=True)
        except OSError:  # the scheduler is gone
            values = {}
        return [values.get(index) for index in range(len(futures))]
