"""Frames on a socket, and the addresses of brokers: the code that both sides share.

A frame is a head, a pickled tuple and the blobs that belong to it:

    !I length of the tuple | !Q length of all blobs | tuple, blob sizes last | blobs

Only programs of the same user get as far as a frame that is unpickled: the address is private to
the user where the platform can (a Linux abstract socket is checked by the peer's uid, a socket
file lies in a 0700 folder), and a connection begins with the broker's secret. A client that knows
the secret may have another user, such as a worker that has given up its privileges. The broker may
be root's.
"""

from __future__ import annotations

import errno
import os
import pickle
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import _native
from .._alive import Alive

if TYPE_CHECKING:
    from collections.abc import Sequence

    Blob = bytes | bytearray | memoryview

HEAD = struct.Struct("!IQ")
SECRET_BYTES = 32
_SMALL_BYTES = 1 << 12  # a blob below this is copied out of its frame
_SKIP_STEP_BYTES = 1 << 20
_MAX_PARTS = 512  # of one sendmsg; the kernel takes 1024
_MAX_TUPLE_BYTES = 1 << 28
BACKLOG = 1024  # connections that wait to be accepted


_LOOK = struct.pack("@2l", 1, 0)  # one second, as a timeval


fork_lock = _native.RLock()
"""Held while a process forks, and while descriptors are made that a forked child must close."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=fork_lock.acquire,
        after_in_parent=fork_lock.release,
        after_in_child=fork_lock.release,  # by the child's only thread, which has acquired it
    )


class Address(NamedTuple):
    """The address at which a broker listens, and the secret for connecting to it."""

    place: str | tuple[str, int]
    secret: bytes
    broker: bytes  # its identity: 16 random bytes


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


_SHORTAGES = {
    errno.EFBIG: "is more than a file of this process may have (RLIMIT_FSIZE{}, `ulimit -f`), and "
    "what is sent goes through one: raise that limit, or send it in smaller parts",
    errno.EMFILE: "needs a descriptor, and this process has none left (RLIMIT_NOFILE{}, `ulimit "
    "-n`): close files and sockets that are not needed, or raise that limit",
    errno.ENFILE: "needs a descriptor, and the system has none left (fs.file-max): something here "
    "has too many files open",
    errno.ENOMEM: "needs memory that is not there (RLIMIT_AS{}, `ulimit -v`, a control group's "
    "memory.max, or all of the system's): free some, raise that limit, or send it in smaller parts",
    errno.ENOSPC: "needs room that is not there (memory, or the disk of the temporary files): free "
    "some, or send it in smaller parts",
    errno.EDQUOT: "is more than the user's quota has room for: free some, or send it in smaller "
    "parts",
}
_LIMITS = {
    errno.EFBIG: "RLIMIT_FSIZE",
    errno.EMFILE: "RLIMIT_NOFILE",
    errno.ENOMEM: "RLIMIT_AS",
}


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that the process or the system has run out of a resource."""
    return isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno in _SHORTAGES
    )


def shortage(error: OSError, size: int | None) -> OSError:
    """Return an error of an exhausted resource with a text that names the limit and the remedy.

    Args:
        error: The system's error; one that is no shortage is returned as it is.
        size: How many bytes were to be sent or received; None if that is not known.
    """
    if error.errno not in _SHORTAGES:
        return error
    what = "what was sent here" if size is None else f"what is to be sent, {size} bytes,"
    text = _SHORTAGES[error.errno].format(_limit(error.errno))
    return OSError(error.errno, f"{os.strerror(error.errno)}: {what} {text}")


def file_lost() -> OSError:
    """Return the error for a file that was sent here when there was no descriptor left."""
    return shortage(OSError(errno.EMFILE, ""), None)


def _limit(number: int) -> str:
    try:
        import resource  # which takes a descriptor

        limit = resource.getrlimit(getattr(resource, _LIMITS[number]))[0]
    except (ImportError, KeyError, OSError):
        return ""
    return "" if limit == resource.RLIM_INFINITY else f" is {limit}"


def write_file(data: Sequence[Blob]) -> int:
    """Return the descriptor of a nameless file with this content, to be sent and closed.

    Raises:
        OSError: There is no descriptor or no room for it; the text names the limit (`shortage`).
    """
    try:
        return _write_file(data)
    except OSError as error:
        raise shortage(error, sum(map(len, data))) from None


def _write_file(data: Sequence[Blob]) -> int:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("qmill")
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        for blob in data:
            view = memoryview(blob)
            while len(view):
                view = view[os.write(descriptor, view) :]
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


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


# -- addresses ---------------------------------------------------------------------------------


def private_place(token: str) -> str | tuple[str, int]:
    """Return the address to listen at for a broker called `token`."""
    if sys.platform == "linux":
        return f"\0qmill-{os.getuid()}-{token}"
    if hasattr(socket, "AF_UNIX"):
        return os.path.join(runtime_folder(), f"{token}.sock")
    return ("127.0.0.1", 0)


def runtime_folder() -> str:
    """Return this user's folder for the sockets of brokers, made if need be.

    `QMILL_DIR` if set, else a folder of mode 0700 below `XDG_RUNTIME_DIR` or the temporary folder.

    Raises:
        PermissionError: Another user owns the folder, or other users can write to it.
    """
    folder = os.environ.get("QMILL_DIR")
    if not folder:
        import tempfile

        parent = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
        folder = os.path.join(parent, f"qmill-{user}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    state = os.lstat(folder)
    if hasattr(os, "getuid") and (state.st_uid != os.getuid() or state.st_mode & 0o022):
        raise PermissionError(
            f"the folder {folder} must belong to this user and be writable by nobody else; "
            "set QMILL_DIR to one that is"
        )
    return folder


def listen(place: str | tuple[str, int]) -> socket.socket:
    """Open a listening socket."""
    family = socket.AF_UNIX if isinstance(place, str) else socket.AF_INET
    sock: socket.socket = _native.original("socket", "socket")(family, socket.SOCK_STREAM)
    try:
        sock.bind(place)
        if isinstance(place, str) and not place.startswith("\0"):
            os.chmod(place, 0o600)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def connect(address: Address) -> socket.socket:
    """Connect to a broker and show the secret.

    On Linux the socket raises BlockingIOError when it has waited for a second, so that the caller
    can check whether the broker's process is stopped.

    Raises:
        PermissionError: A process of another user listens there.
        OSError: No process listens there.
    """
    place = address.place
    family = socket.AF_UNIX if isinstance(place, str) else socket.AF_INET
    with fork_lock:
        sock: socket.socket = _native.original("socket", "socket")(family, socket.SOCK_STREAM)
        _to_brokers.add(sock)
    try:
        if sys.platform == "linux":
            for way in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
                sock.setsockopt(socket.SOL_SOCKET, way, _LOOK)
        sock.connect(place)
        if not same_user(sock, or_root=True):
            raise PermissionError(f"{place!r} is held by another user")
        sock.sendall(address.secret)
    except BaseException:
        sock.close()
        raise
    return sock


_to_brokers = Alive()


def close_in_child(heirs: Sequence[socket.socket]) -> None:
    """Close the parent's connections to brokers in a forked child, except those made for it."""
    for sock in list(_to_brokers):
        if sock not in heirs:
            sock.close()


def same_user(sock: socket.socket, *, or_root: bool = False) -> bool:
    """Whether the other side of a connection is this user's; True where that cannot be known."""
    if sys.platform != "linux" or sock.family != socket.AF_UNIX:
        return True  # the folder's mode and the secret decide
    user = _peer(sock)[1]
    return user == os.geteuid() or (or_root and user == 0)


def peer_pid(sock: socket.socket) -> int | None:
    """Return the id of the process at the other side of a Unix socket; None where not known."""
    if sys.platform != "linux" or sock.family != socket.AF_UNIX:
        return None
    return _peer(sock)[0]


def _peer(sock: socket.socket) -> tuple[int, int]:
    """Return the process and the user at the other side of a Unix socket."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, user, _ = struct.unpack("3i", credentials)
    return pid, user


def secrets_equal(one: bytes, other: bytes) -> bool:
    """Compare two secrets of one length in constant time."""
    return sum(a ^ b for a, b in zip(one, other, strict=True)) == 0
