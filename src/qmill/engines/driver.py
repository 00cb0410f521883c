"""The loop that drives an engine: the one thread that calls it.

orders of other threads ─┐
jobs ── offer_to ────────┴──> engine ── reports ──> take
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..jobs.job import Job
    from .api import Engine, Report

END_S = -1.0
"""Returned by `Jobs.rest`: the loop ends."""


class Jobs(ABC):
    """Offers jobs to an engine, and takes its reports."""

    @abstractmethod
    def offer_to(self, engine: Engine) -> tuple[Iterable[Job], int]:
        """Offer jobs until the engine refuses one.

        Returns:
            The jobs that have run for too long and are to be killed, and how many jobs wait that
            the engine has no room for.
        """

    @abstractmethod
    def rest(self, num_refused: int) -> float | None:
        """Return how many seconds to wait for reports; None is no limit, END_S ends the loop."""

    @abstractmethod
    def take(self, reports: list[Report]) -> None:
        """Take in reports of the engine."""


class Driver:
    """Drives an engine.

    Args:
        engine: The engine.
        jobs: Offers it jobs.

    Attributes:
        orders: Calls of the engine that its thread is to make; any thread may append one, and
            then wakes the engine.
    """

    def __init__(self, engine: Engine, jobs: Jobs) -> None:
        self._engine = engine
        self._jobs = jobs
        self.orders: deque[Callable[[], None]] = deque()

    def drive(self) -> None:
        """Drive the engine until `rest` ends it."""
        engine, jobs, orders = self._engine, self._jobs, self.orders
        while True:
            if orders:
                while orders:
                    orders.popleft()()
                jobs.take(engine.wait(0))  # jobs taken back go before jobs put later
            late, num_refused = jobs.offer_to(engine)
            for job in late:
                engine.kill(job)
            engine.flush()
            if num_refused:
                engine.grow(num_refused)
            timeout = jobs.rest(num_refused)
            if timeout == END_S:
                return
            jobs.take(engine.wait(timeout))
