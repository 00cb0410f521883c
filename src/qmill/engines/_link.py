"""The engine's side of one worker process: what goes to it, what comes from it, its end.

It knows sockets, files and signals, and nothing of what is to be run where.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import select
import signal
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any

from .. import processes, serialize
from ..queues import wire
from . import _packets as packets
from . import _worker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..jobs.job import Job

_READ_BYTES = 1 << 16
_READ_FLAGS = int(socket.MSG_DONTWAIT | packets.CLOSE_ON_EXEC)

Record = tuple[int, int, float, float, Any]
"""Kind, id of the job, moments of its start and end in seconds, payload."""


class GarbledError(Exception):
    """What a worker sent is no record: a job has written there."""


class Link:
    """One worker process.

    Args:
        settings: What the worker is told.
        method: How it starts.

    Attributes:
        known: The numbers of the functions that it has been told.
        num_definitions: How many of the pool's definitions it has been told.

    Raises:
        OSError: The system refuses another process, or has no descriptors left.
        SerializationError: The settings cannot be sent.
    """

    def __init__(self, settings: _worker.WorkerSettings, method: str) -> None:
        self.name = settings.name
        self.known = set(settings.inherited)
        self.num_definitions = 0
        self._outgoing: deque[tuple[int, bytes, Any]] = deque()  # job, message, content of a file
        self._data = b""  # the beginning of a record
        self._files: deque[int] = deque()  # descriptors that came with records
        # Not under `fork_lock`: a forked worker would have it locked for ever.
        self._permits, self._permits_there = ends = socket.socketpair()
        _half_open.add(ends)
        try:
            self.process = processes.start(
                "qmill.engines._worker:work", settings, method, serialize.dumps
            )
        except BaseException:
            self._permits.close()
            self._permits_there.close()
            raise
        finally:
            _half_open.discard(ends)
        self.channel = self.process.channel
        self.sentinel = self.process.sentinel
        with contextlib.suppress(OSError):  # it has died already, which its sentinel tells
            socket.send_fds(self.channel, [b"i"], [self._permits_there.fileno()])

    # -- to the worker -------------------------------------------------------------------------

    def tell(self, messages: list[bytes]) -> None:
        """Send messages that are no jobs."""
        if sum(map(len, messages)) > packets.CONTROL_BYTES:
            head = packets.MESSAGE.pack(packets.BUNDLE | packets.BESIDE, 0, 0, 0)
            self._outgoing.append((0, head, b"".join(messages)))
        else:
            self._outgoing += [(0, message, None) for message in messages]

    def send(self, jobs: list[Job]) -> None:
        """Send jobs, and the permits for them.

        Raises:
            OSError: There is no memory or no descriptor left for a large one.
        """
        for job in jobs:
            packet = job._packet
            head, beside = packet if type(packet) is tuple else (packet, None)
            self._outgoing.append((job.id, head, beside))
        self.push()
        self.permit([job.id for job in jobs])

    def permit(self, numbers: list[int]) -> None:
        """Allow the worker to begin jobs; 0 tells it to end."""
        self._permits.send(struct.pack(f"<{len(numbers)}Q", *numbers))

    def push(self) -> None:
        """Send what is to be sent, as far as the channel takes it; see `num_outgoing`."""
        outgoing = self._outgoing
        try:
            while outgoing:
                _, head, beside = outgoing[0]
                if beside is not None:
                    self._push_file(head, beside)
                    outgoing.popleft()
                    continue
                heads = [head for _, head, _ in itertools.takewhile(_is_inline, outgoing)]
                sent = self.channel.send(b"".join(heads), socket.MSG_DONTWAIT)
                for head in heads:
                    if sent < len(head):
                        # What is left of a message has to follow, wanted or not: it has no job.
                        outgoing[0] = 0 if sent else outgoing[0][0], head[sent:], None
                        break
                    sent -= len(head)
                    outgoing.popleft()
        except BlockingIOError:
            pass
        except ConnectionError:  # it has died, which its sentinel tells
            outgoing.clear()

    def _push_file(self, head: bytes, data: bytes | bytearray) -> None:
        with wire.fork_lock:
            descriptor = wire.write_file([data])
            try:
                socket.send_fds(self.channel, [head], [descriptor], socket.MSG_DONTWAIT)
            finally:
                os.close(descriptor)

    @property
    def num_outgoing(self) -> int:
        """How many messages the channel has not taken yet."""
        return len(self._outgoing)

    def take_back(self) -> list[int]:
        """Take back all permits that the worker has not taken: ids, in the order of sending."""
        taken = b""
        with contextlib.suppress(BlockingIOError):
            while data := self._permits_there.recv(_READ_BYTES, socket.MSG_DONTWAIT):
                taken += data
        whole = len(taken) - len(taken) % packets.PERMIT.size  # a job may have written there, too
        numbers = [number for (number,) in packets.PERMIT.iter_unpack(taken[:whole])]
        if self._outgoing:
            self.drop(set(numbers))
        return numbers

    def drop(self, numbers: set[int]) -> None:
        """Do not send jobs that are not wanted any more; a slow worker may have read none."""
        self._outgoing = deque(item for item in self._outgoing if item[0] not in numbers)

    # -- from the worker -----------------------------------------------------------------------

    def read(self) -> list[Record] | None:
        """Read once what the worker has sent.

        Returns:
            Records, perhaps none; None at the end, when nothing can come any more.

        Raises:
            BlockingIOError: Nothing is there now.
            GarbledError: It is no record.
        """
        try:
            data, ancillary, _, _ = self.channel.recvmsg(
                _READ_BYTES, packets.FDS_SPACE, _READ_FLAGS
            )
        except ConnectionError:
            return None
        if ancillary:
            self._files.extend(packets.descriptors(ancillary))
        return self._cut(self._data + data) if data else None

    def _cut(self, data: bytes) -> list[Record]:
        records = []
        start, end, head_bytes = 0, len(data), packets.RECORD.size
        unpack = packets.RECORD.unpack_from
        while start + head_bytes <= end:
            kind, number, started, ended, size = unpack(data, start)
            if size > packets.BESIDE_BYTES or kind & packets.KIND > packets.NOT_READY:
                raise GarbledError(f"a record of kind {kind} and {size} bytes")
            body = start + head_bytes
            start = body + size
            if start > end:
                start = body - head_bytes
                break
            payload: Any = data[body:start]
            if kind & packets.BESIDE:
                if not self._files:
                    raise GarbledError("a record without its file")
                payload = packets.read_file(self._files.popleft())
                kind &= ~packets.BESIDE
            records.append((kind, number, started, ended, payload))
        self._data = data[start:]
        return records

    # -- its end -------------------------------------------------------------------------------

    def close(self) -> None:
        """Close everything; the process has ended."""
        self._permits.close()
        self._permits_there.close()
        self.process.close()
        while self._files:
            os.close(self._files.popleft())

    def forget_in_child(self) -> None:
        """A forked child has no part in its parent's workers."""
        self._permits.close()
        self._permits_there.close()
        self.process.forget_in_child()


class ProcessTree:
    """What a worker's jobs have started, to be ended with it.

    That is the worker's process group, and, as long as the worker lives, all its descendants: those
    may be in groups and sessions of their own. Who has left both is not found.

    Args:
        pid: The worker's process.

    Attributes:
        ends: A file that is ready to be read when one of them has ended; None where there is no
            such thing.
    """

    def __init__(self, pid: int) -> None:
        self._group = pid
        self._pidfds: set[int] = set()
        self.ends: select.epoll | None = None
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):  # no descriptors left
                self.ends = select.epoll()
                self._add({*_descendants(pid), *_members(pid)})

    def _add(self, pids: Iterable[int]) -> None:
        assert self.ends is not None
        for pid in pids:
            with contextlib.suppress(OSError):  # it has just ended
                pidfd = os.pidfd_open(pid)
                self._pidfds.add(pidfd)
                self.ends.register(pidfd, select.EPOLLIN)

    def signal(self, number: int) -> None:
        """Signal all of them."""
        for pidfd in self._pidfds:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(pidfd, number)
        _signal_group(self._group, number)

    def is_over(self) -> bool:
        """See whether all have ended; zombies, which nobody may ever reap, have."""
        if self.ends is None:
            return not _signal_group(self._group, 0)
        for pidfd, _ in self.ends.poll(0):
            self.ends.unregister(pidfd)  # closing does not, if a forked process has it, too
            os.close(pidfd)
            self._pidfds.discard(pidfd)
        if not self._pidfds:
            self._add(_members(self._group))  # who has come since
        return not self._pidfds

    def close(self) -> None:
        """Forget them."""
        if self.ends is not None:
            self.ends.close()
        while self._pidfds:
            os.close(self._pidfds.pop())


def _signal_group(group: int, number: int) -> bool:
    """Signal a process group; False if there is none."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _members(group: int) -> list[int]:
    """List the processes of a process group that are no zombies."""
    found: list[int] = []
    if not _signal_group(group, 0):
        return found
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            # The name, in parentheses, may contain anything; what follows the last one is regular.
            state, _, its_group = file.read().rpartition(b")")[2].split(maxsplit=3)[:3]
            if int(its_group) == group and state not in b"ZX":
                found.append(int(path.split("/")[2]))
    return found


def _is_inline(item: tuple[int, bytes, Any]) -> bool:
    return item[2] is None


def _descendants(pid: int) -> list[int]:
    """List the processes that a process has started, and those have, from the top."""
    found, parents = [], [pid]
    while parents:
        parent = parents.pop()
        for path in glob.glob(f"/proc/{parent}/task/*/children"):
            with contextlib.suppress(OSError), open(path, "rb") as file:
                children = [int(word) for word in file.read().split()]
                found += children
                parents += children
    return found


_half_open: set[tuple[socket.socket, socket.socket]] = set()  # of links that are being made


def _after_fork_in_child() -> None:
    """Close what belongs to the parent, and perhaps to this very worker's link."""
    while _half_open:
        for end in _half_open.pop():
            end.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

SIGKILL = getattr(signal, "SIGKILL", signal.SIGTERM)
