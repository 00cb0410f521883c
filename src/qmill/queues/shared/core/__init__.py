"""The native core: checks whether it can be used here, and chooses the transport of queues."""

from __future__ import annotations

import errno
import os
import sys

from ....errors import NotSupported


def why_not() -> str | None:
    """Return the reason why queues cannot be in shared memory here; None if they can."""
    if sys.platform != "linux":
        return f"it needs Linux; this is {sys.platform}"
    try:
        from . import _ring  # noqa: F401
    except ImportError as error:
        return f"it was not built when qmill was installed ({error})"
    return _why_not_found()


def _why_not_found() -> str | None:
    """Return the reason why no process can open this one's files; None if one can, or unknown."""
    try:
        if os.stat("/proc/self/fd").st_uid != os.geteuid():
            return (
                "this process is not dumpable, as after a setuid: other processes cannot open its "
                "files under /proc, by which they find queues"
            )
    except OSError as error:
        return f"processes find each other's queues under /proc, which is not there ({error})"
    if not hasattr(os, "memfd_create"):
        return "this Python was built without os.memfd_create, as that of cx_Freeze's programs is"
    global _has_tried
    if not _has_tried:
        try:
            file = os.memfd_create("qmill", os.MFD_CLOEXEC)
            try:
                os.close(os.open(f"/proc/self/fd/{file}", os.O_RDWR | os.O_CLOEXEC))
            finally:
                os.close(file)
        except OSError as error:
            if error.errno not in _SHORTAGES:
                return f"the system refuses files without a name, or to open them again ({error})"
        else:
            _has_tried = True
    return None


_has_tried = False
_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


MODULES = {"portable": "queues.portable.portable_queue", "shared": "queues.shared.queue"}
"""The transports between processes, and the module of each."""


def choose() -> str:
    """Return the transport of new queues between processes, one of `MODULES`.

    Raises:
        NotSupported: `QMILL_TRANSPORT` names no transport, or one that cannot be used here.
    """
    wanted = os.environ.get("QMILL_TRANSPORT") or None
    if wanted not in (None, *MODULES):
        names = " or ".join(map(repr, MODULES))
        raise NotSupported(f"QMILL_TRANSPORT must be {names}, not {wanted!r}")
    if wanted not in (None, "shared"):
        return wanted
    reason = why_not()
    if wanted == "shared" and reason is not None:
        raise NotSupported(
            f"QMILL_TRANSPORT='shared', but the native core cannot be used: {reason}"
        )
    return "shared" if reason is None else "portable"
