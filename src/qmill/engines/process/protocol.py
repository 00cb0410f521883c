"""The messages between the process engine and its workers, and their layout.

    engine ── messages: functions, jobs ──> channel (SOCK_STREAM) ──> worker
           <── messages: results, errors, log ──
           ── permits: ids of jobs ──────────> permits (SOCK_STREAM) ──>

A worker may begin a job when it has taken its permit, 8 bytes that the engine can take back until
then. So the job itself need not be taken back: the worker discards a job without a permit when it
takes the permit of a later job.

Payloads larger than `BESIDE_BYTES` do not go over the channel but through shared memory
(`large_payloads`), or in a nameless file whose descriptor is sent over the channel.
"""

from __future__ import annotations

import array
import mmap
import os
import socket
import struct
from enum import IntEnum
from typing import TYPE_CHECKING

from ...system import nameless_files
from ..api import Event

if TYPE_CHECKING:
    from collections import deque

    from ...jobs.job import Job
    from ...system.frames import Blob

MESSAGE = struct.Struct("<BIIQI")
"""The head of a message to the worker: kind; number of the function (0: it comes with the
arguments); number of the environment (0: none is needed); id of the job; bytes that follow."""


class Kind(IntEnum):
    """The kinds of messages to the worker."""

    JOB = 0  # the arguments of a job
    CHUNK = 1  # those of a chunk
    LESSON = 2  # see `knowledge`
    SHARE = 3  # a shared value, in a file, with its key in the place of the job's id
    MEMORY = 4  # the shared memory for large payloads
    TO_DO = 5  # the calls of a chunk that are to be made


JOB, CHUNK, LESSON = Kind.JOB, Kind.CHUNK, Kind.LESSON
SHARE, MEMORY, TO_DO = Kind.SHARE, Kind.MEMORY, Kind.TO_DO

PERMIT = struct.Struct("<Q")
"""The id of the job that may begin; above it, for a chunk, the version of its list of calls, which
is also in its TO_DO message. 0 asks the worker to exit."""

ID_BITS = 48
ID = (1 << ID_BITS) - 1

RECORD = struct.Struct("<BQddI")
"""The head of a report to the engine: number of the event; id of the job; its start and end in
seconds; bytes that follow. The result of a chunk is its last part; see `kept_results`."""

EVENTS = tuple(event for event in Event if event <= Event.SENT_KEPT)
"""The events that workers report, by their numbers."""

BESIDE = 0x80  # bit of a kind: the payload is in a file of its own
SHARED = 0x20  # bit of a kind: the payload is in shared memory
KIND_BITS = 0x1F

BESIDE_BYTES = 1 << 16
LESSON_BYTES = 1 << 12  # larger lessons go beside the channel
RECORD_BYTES = 1 << 14  # one `send` of up to this is not mixed with writes of a job's children
KEY_BYTES = 16  # of a definition

CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_FDS = array.array("i")
FDS_SPACE = socket.CMSG_SPACE(16 * _FDS.itemsize) if hasattr(socket, "CMSG_SPACE") else 0


def read_file(descriptor: int) -> memoryview:
    """Return a file's content, as memory that belongs to this process; closes the descriptor."""
    flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
    try:
        size = os.fstat(descriptor).st_size
        return memoryview(mmap.mmap(descriptor, size, flags))
    finally:
        os.close(descriptor)


def take_file(files: deque[int]) -> memoryview:
    """Return the content of the next file that was received; see `read_file`.

    Raises:
        OSError: Its descriptor was lost, or there is no memory left to map it.
    """
    if not files:
        raise nameless_files.file_lost()
    try:
        return read_file(files.popleft())
    except OSError as error:
        raise nameless_files.shortage(error, None) from None


def descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors that came with a message."""
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def message(kind: int, function: int, job: int, *parts: Blob, environment: int = 0) -> bytes:
    """Return a message: its head and its parts."""
    return MESSAGE.pack(kind, function, environment, job, sum(map(len, parts))) + b"".join(parts)


def permit(job: Job) -> int:
    """Return the number of the permit for a job."""
    return job.id | job._version << ID_BITS


def shared(head: bytes, ticket: bytes) -> bytes:
    """Return the message that says that a payload is in shared memory, from the head for a file."""
    kind, function, environment, job, _ = MESSAGE.unpack(head)
    return message(kind & ~BESIDE | SHARED, function, job, ticket, environment=environment)
