"""The addresses of brokers: who may listen there, and who may connect.

The address is private to the user where the platform can (a Linux abstract socket is checked by
the peer's uid, a socket file lies in a 0700 folder), and a connection begins with the broker's
secret. A client that knows the secret may have another user, such as a worker that has given up
its privileges. The broker may be root's.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import TYPE_CHECKING, NamedTuple

from ...system import native
from ...system.alive import Alive

if TYPE_CHECKING:
    from collections.abc import Sequence

SECRET_BYTES = 32
BACKLOG = 1024  # connections that wait to be accepted
_LOOK = struct.pack("@2l", 1, 0)  # one second, as a timeval


class Address(NamedTuple):
    """The address at which a broker listens, and the secret for connecting to it."""

    place: str | tuple[str, int]
    secret: bytes
    broker: bytes  # its identity: 16 random bytes


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
    sock: socket.socket = native.original("socket", "socket")(family, socket.SOCK_STREAM)
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
    with native.fork_lock:
        sock: socket.socket = native.original("socket", "socket")(family, socket.SOCK_STREAM)
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
