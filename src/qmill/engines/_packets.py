"""The messages between the process engine and its workers, and their layout.

    engine ── messages: functions, jobs ──> channel (SOCK_STREAM) ──> worker
           <── records: results, errors, log ─
           ── permits: ids of jobs ──────────> permits (SOCK_STREAM) ──>

A worker may begin a job when it has taken its permit, 8 bytes that the engine can take back as long
as the worker has not. So the job itself need not be taken back: one whose permit does not come is
dropped when the next one's does.

What is larger than `BESIDE_BYTES` goes beside the channel: through shared memory (`_beside`), or in
a nameless file, whose descriptor travels on the channel.
"""

from __future__ import annotations

import array
import mmap
import os
import socket
import struct
from typing import TYPE_CHECKING

from ..queues import wire

if TYPE_CHECKING:
    from collections import deque

    from ..jobs.job import Job
    from ..queues.wire import Blob

MESSAGE = struct.Struct("<BIIQI")
"""Kind, number of the function (0: it comes with the arguments), number of the environment (0: it
needs none), id of the job, bytes to follow."""

JOB, CHUNK, FUNCTION, FORGET, DEFINITION, BUNDLE, SHARE, UNSHARE, MEMORY, TO_DO, FILES = range(11)
"""Arguments of a job; those of a chunk; a packed function, environment, or tuple of values that
environments refer to; its end; a key and what it defines;
messages, in a file; a shared value, in a file, whose key stands for the job's id; its end; the
memory through which large payloads come; which calls of a chunk are to be made; modules that are
loaded by their files."""

PERMIT = struct.Struct("<Q")
"""The id of the job that may begin, and above it, for a chunk, the version of what it is to do: its
TO_DO message has the same number. 0 tells the worker to end."""

ID_BITS = 48
ID = (1 << ID_BITS) - 1

RECORD = struct.Struct("<BQddI")
"""Kind, id of the job, moments of its start and end in seconds, bytes that follow."""

READY, VALUE, ERROR, UNSENT, LOG, DEFINED, NOT_READY, SENT_MEMORY, LINGERS = range(9)
SENT_KEPT, SOME, ONE = range(9, 12)
"""These are of chunks: the memory that keeps their results; a part of the results, or one large
result, before all calls are made. Of a chunk a VALUE is the last part; see `_kept`."""

BESIDE = 0x80  # of a kind: what belongs to it is in a file of its own
SPENT = 0x40  # of a record's kind: the worker has grown too large and is to be replaced
SHARED = 0x20  # of a kind: what belongs to it is in shared memory
KIND = 0x1F

BESIDE_BYTES = 1 << 16
CONTROL_BYTES = 1 << 12  # messages that are no jobs go as a bundle if they are more
RECORD_BYTES = 1 << 14  # one `send` of so many is not mixed with what a job's children send
KEY_BYTES = 16  # of a definition

CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_FDS = array.array("i")
FDS_SPACE = socket.CMSG_SPACE(16 * _FDS.itemsize) if hasattr(socket, "CMSG_SPACE") else 0


def read_file(descriptor: int) -> memoryview:
    """Return a file's content, which becomes this process's own; closes the descriptor."""
    flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
    try:
        size = os.fstat(descriptor).st_size
        return memoryview(mmap.mmap(descriptor, size, flags))
    finally:
        os.close(descriptor)


def take_file(files: deque[int]) -> memoryview:
    """Return the content of the next file that has come, as `read_file`.

    Raises:
        OSError: There was no descriptor for it, or there is no memory left to map it.
    """
    if not files:
        raise wire.file_lost()
    try:
        return read_file(files.popleft())
    except OSError as error:
        raise wire.shortage(error, None) from None


def descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors that came with a message."""
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def message(kind: int, function: int, job: int, *parts: Blob, environment: int = 0) -> bytes:
    """Lay out a message."""
    return MESSAGE.pack(kind, function, environment, job, sum(map(len, parts))) + b"".join(parts)


def permit(job: Job) -> int:
    """Return the number of the permit for a job."""
    return job.id | job._version << ID_BITS


def shared(head: bytes, ticket: bytes) -> bytes:
    """Turn the head of a message that has a file into one whose payload is in shared memory."""
    kind, function, environment, job, _ = MESSAGE.unpack(head)
    return message(kind & ~BESIDE | SHARED, function, job, ticket, environment=environment)
