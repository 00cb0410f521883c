"""The engine's side of one worker process: sends messages, reads answers, closes at its end.

It handles sockets, files and signals, and does not decide which job runs where.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any

from ...errors import Empty, QueueGone
from ...packing import remote_errors
from ...packing.environment import dumps_for_process
from ...packing.shared_values import Shared
from ...processes import launch
from ...system import lifecycle, nameless_files, native
from ..api import DONE, FAILED, ONE, SENT_KEPT, SENT_MEMORY, Event, Report
from . import kept_results, protocol as packets, worker_main
from .large_payloads import Inbox, Outbox

if TYPE_CHECKING:
    from ...jobs.job import Job
    from ..codec import Codec
    from ..knowledge import Lesson

_READ_BYTES = 1 << 16
_READ_FLAGS = int(socket.MSG_DONTWAIT | packets.CLOSE_ON_EXEC)


class GarbledError(Exception):
    """The bytes of a worker's channel are no answer of the worker: a job has written there."""


_CUT_OFF = int(socket.MSG_CTRUNC)  # an int, as each `&` of the enum runs three functions


class Link:
    """One worker process.

    Args:
        settings: The settings of the worker.
        method: The start method of its process.
        codec: Rebuilds its answers.

    Attributes:
        process: The process.

    Raises:
        OSError: The system refuses another process, or has no descriptors left.
        SerializationError: The settings cannot be sent.
    """

    def __init__(self, settings: worker_main.WorkerSettings, method: str, codec: Codec) -> None:
        self.name = settings.name
        self._codec = codec
        self._outgoing: deque[tuple[int, bytes, Any]] = deque()  # job, message, payload beside it
        self._outbox, self._inbox = Outbox(), Inbox(copies=True)
        self._data = b""  # the beginning of an answer
        self._files: deque[int] = deque()  # descriptors that came with answers
        self._has_lost_files = False  # there were no descriptors left for them
        self._kept: Any = None  # the memory in which it keeps the results of chunks
        self._parts: dict[int, list[kept_results.Part]] = {}  # of unfinished chunks, by the id
        # Not under `fork_lock`: a forked worker would have it locked for ever.
        self._permits, self._permits_there = ends = native.socketpair()
        _half_open.add(ends)
        try:
            self.process = launch.start(
                "qmill.engines.process.worker_main:work", settings, method, dumps_for_process
            )
        except BaseException:
            self._permits.close()
            self._permits_there.close()
            raise
        finally:
            _half_open.discard(ends)
        self.channel = self.process.channel
        self.sentinel = self.process.sentinel
        with contextlib.suppress(OSError):  # the worker has died already, which its sentinel shows
            socket.send_fds(self.channel, [b"i"], [self._permits_there.fileno()])

    # -- to the worker -------------------------------------------------------------------------

    def teach(self, lesson: Lesson) -> None:
        """Send a lesson; shared values as files of their own."""
        if not any(lesson):
            return
        shares, lesson = lesson.shares, lesson._replace(shares={})
        if any(lesson):
            packed = pickle.dumps(lesson, 5)
            if len(packed) > packets.LESSON_BYTES:
                head = packets.MESSAGE.pack(packets.LESSON | packets.BESIDE, 0, 0, 0, 0)
                self._outgoing.append((0, head, packed))
            else:
                self._outgoing.append((0, packets.message(packets.LESSON, 0, 0, packed), None))
        for key, handle in shares.items():
            head = packets.MESSAGE.pack(packets.SHARE | packets.BESIDE, 0, 0, key, 0)
            self._outgoing.append((0, head, handle))

    def send(self, jobs: list[Job]) -> None:
        """Send jobs, and the permits for them.

        Raises:
            OSError: There is no memory or no descriptor left for a large job.
        """
        for job in jobs:
            if job._to_do is not None:
                to_do = pickle.dumps(job._to_do, 5)
                message = packets.message(packets.TO_DO, 0, packets.permit(job), to_do)
                self._outgoing.append((job.id, message, None))
            packet = job._packet
            head, beside = packet if type(packet) is tuple else (packet, None)
            self._outgoing.append((job.id, head, beside))
        self.push()
        self.permit([job.id | job._version << packets.ID_BITS for job in jobs])

    def permit(self, numbers: list[int]) -> None:
        """Send permits, by their numbers; 0 has the worker end."""
        self._permits.send(struct.pack(f"<{len(numbers)}Q", *numbers))

    def push(self) -> None:
        """Send queued messages as far as the channel takes them; see `num_outgoing`."""
        outgoing = self._outgoing
        try:
            while outgoing:
                _, head, beside = outgoing[0]
                if beside is not None:
                    is_file = isinstance(beside, Shared)
                    ticket = None if is_file else self._outbox.put([beside], self._tell_memory)
                    if ticket is None:
                        self._push_file(head, beside)
                        outgoing.popleft()
                    else:
                        outgoing[0] = outgoing[0][0], packets.shared(head, ticket), None
                    continue
                heads = [head for _, head, _ in itertools.takewhile(_is_inline, outgoing)]
                sent = self.channel.send(b"".join(heads), socket.MSG_DONTWAIT)
                for head in heads:
                    if sent < len(head):
                        # The rest of a message must follow even if its job is taken back: 0 is
                        # no job, so `drop` keeps it.
                        outgoing[0] = 0 if sent else outgoing[0][0], head[sent:], None
                        break
                    sent -= len(head)
                    outgoing.popleft()
        except BlockingIOError:
            pass
        except ConnectionError:  # the worker has died, which its sentinel shows
            outgoing.clear()

    def _tell_memory(self, descriptor: int) -> None:
        head = packets.message(packets.MEMORY, 0, 0)
        socket.send_fds(self.channel, [head], [descriptor], socket.MSG_DONTWAIT)

    def _push_file(self, head: bytes, data: bytes | memoryview | Shared) -> None:
        if isinstance(data, Shared):
            socket.send_fds(self.channel, [head], [data.fileno()], socket.MSG_DONTWAIT)
            return
        with native.fork_lock:
            descriptor = nameless_files.write_file([data])
            try:
                socket.send_fds(self.channel, [head], [descriptor], socket.MSG_DONTWAIT)
            finally:
                os.close(descriptor)

    @property
    def num_outgoing(self) -> int:
        """The number of messages that the channel has not taken yet."""
        return len(self._outgoing)

    def take_back(self) -> list[int]:
        """Take back all permits that the worker has not taken; return ids, in order of sending."""
        taken = b""
        with contextlib.suppress(BlockingIOError):
            while data := self._permits_there.recv(_READ_BYTES, socket.MSG_DONTWAIT):
                taken += data
        whole = len(taken) - len(taken) % packets.PERMIT.size  # a job may have written there, too
        numbers = [n & packets.ID for (n,) in packets.PERMIT.iter_unpack(taken[:whole])]
        if self._outgoing:
            self.drop(set(numbers))
        return numbers

    def drop(self, numbers: set[int]) -> None:
        """Remove jobs from the messages that the channel has not taken yet."""
        self._outgoing = deque(item for item in self._outgoing if item[0] not in numbers)

    # -- from the worker -----------------------------------------------------------------------

    def read(self, jobs: dict[int, Job], reports: list[Report]) -> bool:
        """Read the worker's reports, with one receive.

        Args:
            jobs: The jobs for which an answer may come, by id.
            reports: The reports are added here, also those before an error.

        Returns:
            False at the end of the channel, when no more can come.

        Raises:
            BlockingIOError: No bytes are there now.
            GarbledError: The bytes are no report of a worker.
            OSError: There is no descriptor or no memory left for an answer.
        """
        try:
            data, ancillary, flags, _ = self.channel.recvmsg(
                _READ_BYTES, packets.FDS_SPACE, _READ_FLAGS
            )
        except ConnectionError:
            return False
        if ancillary:
            self._files.extend(packets.descriptors(ancillary))
        self._has_lost_files |= bool(flags & _CUT_OFF)
        if data:
            self._cut(self._data + data, jobs, reports)
        return bool(data)

    def _cut(self, data: bytes, jobs: dict[int, Job], reports: list[Report]) -> None:
        start, end, head_bytes = 0, len(data), packets.RECORD.size
        unpack, events = packets.RECORD.unpack_from, packets.EVENTS
        name, parts, answer = self.name, self._parts, self._codec.answer
        while start + head_bytes <= end:
            kind, number, started, ended, size = unpack(data, start)
            event = kind & packets.KIND_BITS
            if size > packets.BESIDE_BYTES or event >= len(events):
                raise GarbledError(f"a frame of kind {kind} and {size} bytes")
            what = events[event]
            body = start + head_bytes
            start = body + size
            if start > end:
                start = body - head_bytes
                break
            payload: Any = data[body:start]
            if kind & packets.BESIDE:
                what, payload = self._take_file(what)
            elif kind & packets.SHARED:
                payload = self._take_shared(payload)
            job = jobs.get(number)
            if what > ONE:
                self._take_other(what, payload, reports)
            elif job is None:
                raise GarbledError(f"{what.name} for job {number}, which it does not have")
            elif what > FAILED:
                parts.setdefault(number, []).append((what, payload))
            else:
                before = parts.pop(number) if number in parts else ()
                reports.append(answer(what, job, payload, started, ended, name, before))
        self._data = data[start:]

    def _take_other(self, what: Event, data: Any, reports: list[Report]) -> None:
        """Take in a frame that is of no job."""
        if what is SENT_MEMORY:
            self._open_inbox()
        elif what is SENT_KEPT:
            self._open_kept()
        elif (report := self._codec.take(self.name, what, data)) is not None:
            reports.append(report)

    def _take_file(self, what: Event) -> tuple[Event, Any]:
        """Return a report's event and value; a result for which there is no room is an error."""
        self._check_files()
        try:
            return what, packets.take_file(self._files)
        except OSError as error:
            if what not in (DONE, FAILED):
                raise
            return FAILED, remote_errors.dump_error(error)

    def _check_files(self) -> None:
        if not (self._files or self._has_lost_files):
            raise GarbledError("a frame without its file")

    def _next_file(self) -> int:
        self._check_files()
        if not self._files:
            raise nameless_files.file_lost()
        return self._files.popleft()

    def _open_inbox(self) -> None:
        try:
            self._inbox.open(self._next_file())
        except QueueGone as error:
            raise GarbledError(f"shared memory that is none: {error!r}") from None

    def _open_kept(self) -> None:
        try:
            self._kept = kept_results.open_memory(self._next_file())
        except ValueError as error:
            raise GarbledError(f"memory for results that is none: {error!r}") from None

    def died(self, death: Report) -> Report:
        """Return the report of a job that the dead worker ran, with the results of a chunk."""
        job = death.job
        assert job is not None
        rest = kept_results.rest_of(self._kept, packets.permit(job)) if job._is_chunk else None
        if rest is None:
            return death
        return self._codec.chunk(death, [*self._parts.pop(job.id, ()), *rest])

    def _take_shared(self, ticket: bytes) -> memoryview:
        try:
            return self._inbox.take(ticket)
        except (AttributeError, Empty, RuntimeError) as error:
            raise GarbledError(f"a frame without its payload: {error!r}") from None

    # -- its end -------------------------------------------------------------------------------

    def close(self) -> None:
        """Close everything; the process has ended."""
        self._forget_memory()
        self._permits.close()
        self._permits_there.close()
        self.process.close()
        while self._files:
            os.close(self._files.popleft())

    def forget_in_child(self) -> None:
        """Close the link in a forked child, without ending the parent's worker."""
        self._forget_memory()
        self._permits.close()
        self._permits_there.close()
        self.process.forget_in_child()

    def _forget_memory(self) -> None:
        """Release the shared memory; results that are views of it keep it while they live."""
        self._outbox, self._inbox = Outbox(), Inbox(copies=True)
        self._kept = None


def _is_inline(item: tuple[int, bytes, Any]) -> bool:
    return item[2] is None


_half_open: set[tuple[socket.socket, socket.socket]] = set()  # of links that are being made


def _after_fork_in_child() -> None:
    """Close the parent's sockets of links that were being made, perhaps that of this worker."""
    while _half_open:
        for end in _half_open.pop():
            end.close()


lifecycle.at_fork(lifecycle.LINKS, in_child=_after_fork_in_child)
