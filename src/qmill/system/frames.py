"""Frames: how tuples and blobs travel through a stream socket.

A frame is a head, a pickled tuple and the blobs that belong to it:

    !I length of the tuple | !Q length of all blobs | tuple, blob sizes last | blobs

Only programs of the same user get as far as a frame that is unpickled: see `queues.portable`.
"""

from __future__ import annotations

import pickle
import socket
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    Blob = bytes | bytearray | memoryview

HEAD = struct.Struct("!IQ")
_SMALL_BYTES = 1 << 12  # a blob below this is copied out of its frame
_SKIP_STEP_BYTES = 1 << 20
_MAX_PARTS = 512  # of one sendmsg; the kernel takes 1024
_MAX_TUPLE_BYTES = 1 << 28


class FrameError(Exception):
    """The other side sent bytes that are no frame."""


class TooLargeError(Exception):
    """A frame for which there was no memory; it has been skipped."""


def encode(head: tuple[Any, ...], blobs: Sequence[Blob] = ()) -> list[Blob]:
    """Turn a tuple and blobs into the parts of one frame."""
    sizes = [len(blob) for blob in blobs]
    total = sum(sizes)
    body = pickle.dumps((*head, sizes), 5)
    first = HEAD.pack(len(body), total) + body
    if len(blobs) > _MAX_PARTS // 8 and total // len(blobs) < _SMALL_BYTES:
        return [b"".join((first, *blobs))]
    return [first, *blobs]


def send_some(sock: socket.socket, parts: list[Blob], flags: int = 0) -> list[Blob]:
    """Send as much as one call takes, and return the remaining parts."""
    if hasattr(sock, "sendmsg"):
        sent = sock.sendmsg(parts[:_MAX_PARTS], (), flags)
    else:
        sent = sock.send(parts[0], flags)
    for index, part in enumerate(parts):
        if sent < len(part):
            return [memoryview(part)[sent:], *parts[index + 1 :]]
        sent -= len(part)
    return []


def send_all(sock: socket.socket, parts: list[Blob]) -> None:
    """Send all parts, waiting as long as that takes."""
    while parts:
        parts = send_some(sock, parts)


class FrameReader:
    """Splits the bytes that a socket receives into frames."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._into = memoryview(bytearray(HEAD.size))
        self._filled = 0
        self._tuple_bytes = -1  # of the frame whose body is being read
        self._skip_bytes = 0  # still to come of a frame for which there is no memory

    def receive(self, sock: socket.socket) -> tuple[tuple[Any, ...], list[Blob]] | None:
        """Receive once; return the frame that this completes, or None.

        Raises:
            EOFError: The stream has ended.
            TooLargeError: The end of a frame has come for which there was no memory.
            FrameError: The bytes are no frame.
            OSError: The socket's own; BlockingIOError when no bytes are there.
        """
        if self._skip_bytes:
            self._skip(sock)
            return None
        got = sock.recv_into(self._into[self._filled :])
        if not got:
            raise EOFError
        self._filled += got
        if self._filled < len(self._into):
            return None
        if self._tuple_bytes < 0:
            self._begin_body()
            return None
        body, tuple_bytes = self._into, self._tuple_bytes
        self._begin()
        return _cut(body, tuple_bytes)

    def _begin_body(self) -> None:
        self._tuple_bytes, blob_bytes = HEAD.unpack(self._into)
        if not 0 < self._tuple_bytes <= _MAX_TUPLE_BYTES:
            raise FrameError(f"a frame's tuple of {self._tuple_bytes} bytes")
        size = self._tuple_bytes + blob_bytes
        self._filled = 0
        try:
            self._into = memoryview(bytearray(size))
        except (MemoryError, OverflowError):
            self._skip_bytes = size

    def _skip(self, sock: socket.socket) -> None:
        got = len(sock.recv(min(self._skip_bytes, _SKIP_STEP_BYTES)))
        if not got:
            raise EOFError
        self._skip_bytes -= got
        if not self._skip_bytes:
            self._begin()
            raise TooLargeError


def _cut(body: memoryview, tuple_bytes: int) -> tuple[tuple[Any, ...], list[Blob]]:
    *head, sizes = pickle.loads(body[:tuple_bytes])
    if tuple_bytes + sum(sizes) != len(body):
        raise FrameError(f"blobs of {sizes} bytes in a body of {len(body)}")
    blobs: list[Blob] = []
    start = tuple_bytes
    for size in sizes:
        part = body[start : start + size]
        blobs.append(part if size >= _SMALL_BYTES else bytes(part))
        start += size
    return tuple(head), blobs
