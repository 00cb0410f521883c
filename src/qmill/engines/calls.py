"""A call on its way to a worker process and back: pickles jobs, and rebuilds their answers."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from ..errors import SerializationError
from ..jobs.job import DEFAULT_OPTIONS
from ..packing import remote_errors, serialize
from .api import DONE, FAILED
from .process import protocol as packets

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..jobs.job import Job
    from ..packing.environment import Numbered
    from .functions import Functions, Moment

AHEAD_BYTES = packets.BESIDE_BYTES
"""Larger jobs are not sent ahead, as each would take up a file."""

_SIMPLE = frozenset((int, float, str, bytes, bool, type(None)))  # plain pickle suffices for these


def pack(
    job: Job,
    functions: Functions,
    exports: serialize.Exports,
    join: Callable[[list[Any]], bytes | memoryview] = b"".join,
    moment: Moment | None = None,
) -> None:
    """Pickle a job's arguments, and those parts of its function and globals that have changed.

    Args:
        job: The job.
        functions: The functions that were sent.
        exports: Collects definitions.
        join: Joins the parts of a pickled object.
        moment: The state of the function to use; None is its present state.

    Raises:
        SerializationError: The function, an argument or a global cannot be pickled.
    """
    options = job._options
    subject, environment = functions.of(job.function) if moment is None else moment
    job._environment = environment
    named = () if options.name is None else (options.name,)
    kind = packets.CHUNK if job._is_chunk else packets.JOB
    if subject is None:
        call = (job.function, job.args, job.kwargs, *named)
        packed = _pack_objects(call, job, functions, exports, join)
        job._packet = lay_out(kind, 0, job, packed)
        return
    simple = options is DEFAULT_OPTIONS and not job.kwargs
    if simple and _SIMPLE.issuperset(map(type, job.args or ())):
        packed = pickle.dumps((job.args, None), 5)
    else:
        packed = _pack_objects((job.args, job.kwargs, *named), job, functions, exports, join)
    job._subject = subject
    job._packet = lay_out(kind, subject.number, job, packed)
    job._may_wait = (
        len(packed) <= AHEAD_BYTES
        and options.timeout is None
        and options.lane is None
        and (not options.retries or job._is_of_map)
    )


def _pack_objects(
    objects: tuple[Any, ...],
    job: Job,
    functions: Functions,
    exports: serialize.Exports,
    join: Callable[[list[Any]], bytes | memoryview],
) -> bytes | memoryview:
    """Pickle objects; if they refer to functions or classes, the job needs the globals of these."""
    touched: list[Any] = []
    reducers = serialize.destination.reducers
    parts = serialize.dump_parts(objects, exports, touched, reducers=reducers)
    if touched:
        job._environment = functions.with_objects(job._environment, touched)
    return join(parts)


def lay_out(kind: int, number: int, job: Job, packed: bytes | memoryview) -> Any:
    """Return a job's message; if it is large, its head and the payload to send separately."""
    environment = job._environment
    place = 0 if environment is None else environment.number
    if len(packed) > packets.BESIDE_BYTES:
        return packets.MESSAGE.pack(kind | packets.BESIDE, number, place, job.id, 0), packed
    return packets.MESSAGE.pack(kind, number, place, job.id, len(packed)) + packed


def needs(job: Job) -> tuple[Numbered, ...]:
    """List the functions and environments that a worker needs before a job, in that order."""
    environment, subject = job._environment, job._subject
    if environment is None:
        return () if subject is None else (subject,)
    return (*environment.needs, environment) + (() if subject is None else (subject,))


def are_large(job: Job) -> bool | None:
    """Return whether a job's arguments take more than `jobs.kept.KEPT_BYTES`, which is AHEAD_BYTES.

    None if its packet does not show that: it could not be pickled, or it includes the function.
    """
    if type(job._packet) is bytes:
        return False
    return True if type(job._packet) is tuple and job._subject is not None else None


def rebuild(imports: serialize.Imports, kind: int, data: Any) -> tuple[int, int, Any]:
    """Rebuild an answer: DONE or FAILED, the exit code, and the result or the exception."""
    try:
        if kind != packets.VALUE:
            return FAILED, 1, remote_errors.load_error(data)
        return DONE, 0, serialize.loads(data, imports)
    except SerializationError as error:
        return FAILED, 1, error
    except BaseException as error:  # rebuilding an object may raise anything
        why = f"the result could not be rebuilt: {type(error).__name__} was raised"
        return FAILED, 1, SerializationError(why)
