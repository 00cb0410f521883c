"""A call on its way to a worker process and back: how a job is packed, and its answer rebuilt."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from .. import serialize
from ..errors import SerializationError
from ..jobs.job import DEFAULT_OPTIONS
from . import _packets as packets
from .base import DONE, FAILED

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..jobs.job import Job
    from ._functions import Functions

AHEAD_BYTES = packets.BESIDE_BYTES
"""Larger jobs are not sent ahead: each would take a file."""

_SIMPLE = frozenset((int, float, str, bytes, bool, type(None)))  # plain pickle does for them


def pack(
    job: Job,
    functions: Functions,
    exports: serialize.Exports,
    join: Callable[[list[Any]], bytes | memoryview] = b"".join,
) -> None:
    """Pack a job's arguments, and its function if that is new.

    Args:
        job: The job.
        functions: Those that were sent.
        exports: Where definitions go.
        join: Makes one of the parts of a packed object.

    Raises:
        SerializationError: One of them cannot be sent.
    """
    options = job._options
    subject = functions.of(job.function, exports)
    named = () if options.name is None else (options.name,)
    kind = packets.CHUNK if job.is_chunk else packets.JOB
    if subject is None:
        call = (job.function, job.args, job.kwargs, *named)
        job._packet = lay_out(kind, 0, job.id, join(serialize.dump_parts(call, exports)))
        return
    packed: bytes | memoryview
    simple = options is DEFAULT_OPTIONS and not job.kwargs
    if simple and _SIMPLE.issuperset(map(type, job.args or ())):
        packed = pickle.dumps((job.args, None), 5)
    else:
        packed = join(serialize.dump_parts((job.args, job.kwargs, *named), exports))
    job._subject = subject
    job._packet = lay_out(kind, subject.number, job.id, packed)
    job._may_wait = (
        len(packed) <= AHEAD_BYTES
        and options.timeout is None
        and options.lane is None
        and (not options.retries or job.is_of_map)
    )


def lay_out(kind: int, number: int, job: int, packed: bytes | memoryview) -> Any:
    """Return a job's message, or its head and what is to go beside the channel."""
    if len(packed) > packets.BESIDE_BYTES:
        return packets.MESSAGE.pack(kind | packets.BESIDE, number, job, 0), packed
    return packets.MESSAGE.pack(kind, number, job, len(packed)) + packed


def rebuild(imports: serialize.Imports, kind: int, data: Any) -> tuple[int, int, Any]:
    """Rebuild an answer: DONE or FAILED, the exit code, and the result or the exception."""
    try:
        if kind != packets.VALUE:
            return FAILED, 1, serialize.load_error(data)
        return DONE, 0, serialize.loads(data, imports)
    except SerializationError as error:
        return FAILED, 1, error
    except BaseException as error:  # whatever an object does when it is rebuilt
        why = f"the result could not be rebuilt: {type(error).__name__} was raised"
        return FAILED, 1, SerializationError(why)
