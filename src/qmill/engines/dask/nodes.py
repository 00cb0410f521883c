"""The engine's view of the cluster's workers: each is a node, with the jobs that it has."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from ..ahead import NEVER, Load
from ..knowledge import Knowledge
from .tasks import Answers

if TYPE_CHECKING:
    from ...jobs.job import Job
    from ..codec import Codec

LONG_S = 0.25
"""Seconds without an answer after which a worker's jobs that were sent ahead are taken back."""


class State(Enum):
    """The states of a node."""

    CLOSED = 0  # it has no runner
    OPENING = 1  # its runner is starting
    OPEN = 2  # its runner takes jobs
    CLOSING = 3  # its runner is ending
    BAD = 4  # it cannot have a runner


class Sent:
    """A job that a node has; `future` is Dask's, None until the job is sent."""

    __slots__ = ("cost_s", "future", "is_taken_back", "job", "token")

    def __init__(self, job: Job, token: int, cost_s: float) -> None:
        self.job = job
        self.token = token
        self.cost_s = cost_s
        self.future: Any = None
        self.is_taken_back = False


class Node(Load):
    """The engine's view of one Dask worker; its `jobs` are by token.

    Attributes:
        state: Its state; it gets jobs while it is OPEN.
        runner: Its runner's name; each new runner has a new name.
        presence: The future that keeps the runner alive.
        parked: Those of `jobs` that wait until a lesson has arrived.
        num_lessons: How many lessons are under way.
        error: The reason why it is BAD.
    """

    def __init__(self, address: str, threads: int, codec: Codec) -> None:
        self.address = address
        self.num_slots = threads
        self._codec = codec
        self.answers = Answers()
        self.forget()

    def forget(self) -> None:
        """Reset the view: there is no runner any more."""
        super().__init__(Knowledge(self._codec), self.num_slots)
        self.state = State.CLOSED
        self.runner = ""
        self.presence: Any = None
        self.parked: list[Sent] = []
        self.num_lessons = 0
        self.error: BaseException | None = None
        self.answers = Answers()


def long_from(node: Node) -> float:
    """Return the moment at which the jobs behind a node's running jobs have waited too long."""
    is_done = all(sent.is_taken_back for sent in node.jobs.values())
    return NEVER if is_done else node.overdue_from(LONG_S)
