"""The client's side of a connection to a broker: requests, and the anchor of a process."""

from __future__ import annotations

import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from ...errors import QueueGone, ShutDown
from ...system import frames, native
from . import addresses

if TYPE_CHECKING:
    from ...system.frames import Blob
    from .addresses import Address


_DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)  # without it, small frames may wait
_LOOK_S = 0.2  # seconds between checks of a broker that has not answered in time

ERRORS: dict[str, type[Exception]] = {
    error.__name__: error for error in (ShutDown, ValueError, KeyError, MemoryError, QueueGone)
}
_FAREWELL_S = 1.0  # a broker that runs reads in less


class HeldUp(Exception):
    """A broker does not answer: its process is stopped, as the text says."""


class Connection:
    """One socket to a broker, `sock`; one request under way at most."""

    def __init__(self, address: Address, sock: socket.socket | None = None) -> None:
        try:
            self.sock: socket.socket = sock or addresses.connect(address)
        except (ConnectionError, FileNotFoundError) as error:
            raise queue_gone(error) from None
        self._frames = frames.FrameReader()

    def send(self, *head: Any, blobs: list[Blob] | None = None) -> None:
        """Send one frame."""
        self.send_parts(frames.encode(head, blobs or []))

    def send_parts(self, parts: list[Blob]) -> None:
        """Send the parts of a frame."""
        frames.send_all(self.sock, parts)

    def send_now(self, parts: list[Blob]) -> list[Blob]:
        """Send as much as is possible without waiting, and return the rest."""
        try:
            while parts:
                parts = frames.send_some(self.sock, parts, _DONT_WAIT)
        except BlockingIOError:
            pass
        return parts

    def has_hung_up(self) -> bool:
        """Whether the other side has ended an anchor's connection, over which no frames come."""
        try:
            return not self.sock.recv(1, socket.MSG_PEEK | _DONT_WAIT) if _DONT_WAIT else False
        except BlockingIOError:
            return False
        except OSError:
            return True

    def receive(self) -> tuple[tuple[Any, ...], list[Blob]]:
        """Wait for one frame."""
        while (frame := self._frames.receive(self.sock)) is None:
            pass
        return frame

    def exchange(
        self, parts: list[Blob], timeout: float | None
    ) -> tuple[tuple[Any, ...], list[Blob]]:
        """Send a request and wait for the answer.

        Args:
            parts: The request.
            timeout: Seconds until the request is cancelled. 0.0: the request is one that does not
                wait, and is not cancelled. None: no limit.

        Raises:
            HeldUp: Time is up, and the broker is stopped. Without a timeout, that is logged.
        """
        if timeout:
            return self._exchange_timed(parts, timeout)
        is_told = False
        while True:
            try:
                while parts:
                    parts = frames.send_some(self.sock, parts)
                return self.receive()
            except BlockingIOError:  # for a second: see `addresses.connect`
                told = not is_told and self._told_if_stopped()
            if told:
                if timeout is not None:
                    raise HeldUp(told)
                is_told = True
                _warn(told)

    def _exchange_timed(
        self, parts: list[Blob], timeout: float
    ) -> tuple[tuple[Any, ...], list[Blob]]:
        deadline = time.monotonic() + timeout
        is_cancelled = False
        try:
            while True:
                left = deadline - time.monotonic()
                self.sock.settimeout(min(left, native.LONGEST_WAIT_S) if left > 0 else _LOOK_S)
                try:
                    if parts:
                        parts = frames.send_some(self.sock, parts)
                    elif (frame := self._frames.receive(self.sock)) is not None:
                        return frame
                    continue
                except TimeoutError:
                    if time.monotonic() < deadline:
                        continue
                if told := self._told_if_stopped():
                    raise HeldUp(told)
                if not parts and not is_cancelled:
                    is_cancelled = True
                    parts = frames.encode(("cancel",))
        finally:
            self.sock.settimeout(None)

    def _told_if_stopped(self) -> str | None:
        """Return the text of an error if the broker's process is stopped by a signal, else None."""
        pid = addresses.peer_pid(self.sock)
        try:
            with open(f"/proc/{pid}/stat", errors="replace") as file:
                name, _, rest = file.read().partition("(")[2].rpartition(") ")
        except OSError:  # it has ended, which the socket shows; or there is no /proc
            return None
        if rest[0] not in "Tt":
            return None
        return (
            f"process {pid} ({name}), which keeps this queue, is stopped, by SIGSTOP or a "
            "debugger: it has to go on, or to be killed"
        )

    def limit_waits(self, timeout: float | None) -> None:
        """Have every send and receive raise TimeoutError after so many seconds."""
        self.sock.settimeout(timeout)

    def end(self) -> None:
        """End the connection for both sides, even if a forked child has a copy of the socket."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()

    def close(self) -> None:
        """Close this process's copy of the socket."""
        self.sock.close()


def _warn(told: str) -> None:
    import logging  # takes as long to import as all of this, and is hardly ever needed

    logging.getLogger("qmill").warning("%s", told)


def queue_gone(error: BaseException) -> QueueGone:
    """Return the error for a broker that has ended."""
    return QueueGone(f"the process that kept the queue is gone ({error!r})")


class Anchor:
    """The connection by which a broker knows this process: notes in order, without answers.

    Any thread may send a note at any moment, also in a garbage collection. Sending never waits: a
    note that the socket does not take is sent with the next one.
    """

    def __init__(self, connection: Connection, identity: bytes) -> None:
        self.connection = connection
        self.identity = identity
        self.unsaid: deque[list[Blob]] = deque()
        self.is_over = False
        self._lock = native.Lock()

    def say(self, *note: Any) -> None:
        """Send a note; it is dropped if the broker has ended."""
        self.unsaid.append(frames.encode(note))
        self.flush()

    def flush(self) -> None:
        """Send the notes that were not sent yet, without waiting."""
        # `unsaid` is checked again after the release, as in `Mailbox._run_put_off`.
        while self.unsaid and self._lock.acquire(False):
            try:
                while self.unsaid:
                    self.unsaid[0] = self.connection.send_now(self.unsaid[0])
                    if self.unsaid[0]:
                        return
                    self.unsaid.popleft()
            except OSError:
                self.unsaid.clear()
            finally:
                self._lock.release()

    def end(self) -> None:
        """Say good-bye and end the connection."""
        self.say("bye")
        self.is_over = True
        self.connection.limit_waits(_FAREWELL_S)
        try:
            while self.unsaid:
                self.connection.send_parts(self.unsaid.popleft())
        except OSError:
            pass
        self.connection.end()
