"""The schema of a job's record: the name, type, source and meaning of each field.

`Job.to_dict`, the columns of the log and of a frame, their types, and the columns that may colour
a plot are derived from `SCHEMA`. The table in docs/jobs.md is compared with it by a test.
"""

from __future__ import annotations

import functools
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from ..packing.explain import traceback_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from .job import Job


class Type(Enum):
    """The type of a field, and of its column in a frame."""

    TEXT = "text"
    ID = "integer"
    INTEGER = "integer or None"
    NUMBER = "number"
    FLAG = "bool"
    MOMENT = "datetime"
    CATEGORY = "any hashable object"
    STATE = "state"
    OBJECT = "any object"


class Field(NamedTuple):
    """One field of a record.

    Attributes:
        name: Its key in a record, and its column.
        type: Its type.
        of: Returns its value for a job.
        meaning: Its description in docs/jobs.md.
        is_group: Whether a plot may group jobs by it, in colours or panels.
    """

    name: str
    type: Type
    of: Callable[[Job], Any]
    meaning: str
    is_group: bool = True


def _args_of(job: Job) -> list[Any] | None:
    return None if job.args is None else list(job.args)


SCHEMA = (
    Field("qid", Type.TEXT, lambda job: job._owner.qid, "the queue's name"),
    Field("id", Type.ID, lambda job: job.id, "the job's number in its queue, from 1"),
    Field("name", Type.OBJECT, lambda job: job.name, "the `name` given to `put`, or the id"),
    Field("priority", Type.NUMBER, lambda job: job.priority, "the lower goes first"),
    Field("lane", Type.CATEGORY, lambda job: job.lane, "the lane, or None"),
    Field("timeout", Type.NUMBER, lambda job: job.timeout, "seconds that it may run, or None"),
    Field("function", Type.TEXT, lambda job: function_name(job.function), "the function's name"),
    Field("args", Type.OBJECT, _args_of, "the positional arguments, a list", False),
    Field("kwargs", Type.OBJECT, lambda job: job.kwargs, "the keyword arguments, a dict", False),
    Field("submitted", Type.MOMENT, lambda job: job.submitted, "when it was put", False),
    Field("started", Type.MOMENT, lambda job: job.started, "when it was last begun", False),
    Field("ended", Type.MOMENT, lambda job: job.ended, "when it ended", False),
    Field("processed", Type.MOMENT, lambda job: job.processed, "when its callback returned", False),
    Field(
        "exitcode",
        Type.INTEGER,
        lambda job: job.exitcode,
        "0; 1 for an exception; minus the number of the signal that ended its worker, or the "
        "worker's exit code",
    ),
    Field("cancelled", Type.FLAG, lambda job: job.cancelled(), "whether it was cancelled"),
    Field(
        "runtime",
        Type.NUMBER,
        lambda job: job.runtime,
        "seconds from start to end of the last attempt",
        False,
    ),
    Field("output", Type.OBJECT, lambda job: job.output, "the result of the function"),
    Field(
        "exception",
        Type.TEXT,
        lambda job: exception_text(job._exception),
        "the traceback of its failure, as text",
    ),
    Field("callback", Type.OBJECT, lambda job: job.callback, "the result of the queue's callback"),
    Field(
        "state",
        Type.STATE,
        lambda job: job._state_word(),
        '"waiting", "working", "done", "failed", "died", "timed out" or "cancelled"',
    ),
    Field("worker", Type.TEXT, lambda job: job.worker, "the name of the worker that ran it last"),
    Field("attempts", Type.INTEGER, lambda job: job.attempts, "how often it was begun"),
    Field("host", Type.TEXT, lambda job: job.host, "the name of that worker's machine"),
)

FIELDS = tuple(field.name for field in SCHEMA)
"""The keys of a record, in their order."""


def to_dict(job: Job) -> dict[str, Any]:
    """Return a job's record; the keys are `FIELDS`."""
    return {field.name: field.of(job) for field in SCHEMA}


def function_name(function: Any) -> str | None:
    """Return the name of a function in a record."""
    if function is None:
        return None
    while isinstance(function, functools.partial):
        function = function.func
    try:
        return str(function.__name__)
    except Exception:
        return type(function).__name__


def exception_text(error: BaseException | None) -> str | None:
    """Return the traceback of an exception where it was raised; of a local one, its own text."""
    if error is None:
        return None
    remote = getattr(error.__cause__, "text", None)
    if isinstance(remote, str):
        return remote
    return traceback_text(error)
