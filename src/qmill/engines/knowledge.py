"""The knowledge of one worker: the definitions that it has, and those that it needs before a job.

    codec: functions, environments, definitions, shared values ── Lesson ──> worker: `Learnt`
                                                  └── what this worker lacks, by its `Knowledge`

This module has no clock, threads or files.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..jobs.job import Job
    from ..packing.environment import Numbered
    from .codec import Codec


class Lesson(NamedTuple):
    """Definitions that a worker gets before a job needs them, and those that it may release.

    Attributes:
        files: Modules that are loaded from their files.
        functions: Packed functions, environments and values, by number.
        definitions: Packed definitions, by key.
        shares: Shared values by key: handles, or the content if they leave the machine.
        gone_functions: Numbers that no job needs any more.
        gone_shares: Keys that no job needs any more.
    """

    files: dict[str, tuple[str, bool]] = {}
    functions: dict[int, Any] = {}
    definitions: dict[bytes, Any] = {}
    shares: dict[int, Any] = {}
    gone_functions: list[int] = []
    gone_shares: list[int] = []


_EMPTY = Lesson()


class Knowledge:
    """The definitions that one worker has got.

    Args:
        codec: Has packed all that workers may need.
        inherited: The numbers of the functions and values that the worker has from its start.
        num_files: How many modules that are loaded from their files the worker has from its start.
    """

    __slots__ = ("_codec", "_functions", "_num_definitions", "_num_files", "_num_shares", "_shares")

    def __init__(self, codec: Codec, inherited: Iterable[int] = (), num_files: int = 0) -> None:
        self._codec = codec
        self._functions = set(inherited)
        self._shares: set[int] = set()
        self._num_files = num_files
        self._num_definitions = self._num_shares = 0  # of all that the codec has had

    def suffices_for(self, job: Job) -> bool:
        """Return whether the worker can run a job without a lesson."""
        subject, environment, known = job._subject, job._environment, self._functions
        return (
            (subject is None or subject.number in known)
            and (environment is None or environment.number in known)
            and self._num_definitions == len(self._codec.exports.pending)
            and self._num_shares == self._codec.shares.num_added
        )

    def lesson_for(self, job: Job) -> Lesson | None:
        """Return the lesson that a job needs, perhaps an empty one; the worker counts as told.

        None if the job needs a function that only workers forked from now on inherit.
        """
        codec, known = self._codec, self._functions
        files = codec.files()
        if (
            self.suffices_for(job)
            and self._num_files == len(files)
            and not codec.functions.gone_of(known)
            and not codec.shares.gone_of(self._shares)
        ):
            return _EMPTY  # that of nearly all jobs
        functions = {n.number: n.packed for n in needs(job) if n.number not in known}
        if None in functions.values():
            return None
        known.update(functions)
        pending = codec.exports.pending
        definitions = dict(islice(list(pending.items()), self._num_definitions, None))
        lesson = Lesson(
            dict(islice(list(files.items()), self._num_files, None)),
            functions,
            definitions,
            self._new_shares(),
            codec.functions.gone_of(known),
            codec.shares.gone_of(self._shares),
        )
        self._num_files += len(lesson.files)
        self._num_definitions += len(definitions)
        known.difference_update(lesson.gone_functions)
        self._shares.update(lesson.shares)
        self._shares.difference_update(lesson.gone_shares)
        return lesson

    def _new_shares(self) -> dict[int, Any]:
        shares = self._codec.shares
        if self._num_shares == shares.num_added:
            return {}
        self._num_shares = shares.num_added
        return {handle.key: handle for handle in shares.new_for(self._shares)}


def needs(job: Job) -> tuple[Numbered, ...]:
    """List the functions and environments that a worker needs before a job, in that order."""
    environment, subject = job._environment, job._subject
    if environment is None:
        return () if subject is None else (subject,)
    return (*environment.needs, environment) + (() if subject is None else (subject,))
