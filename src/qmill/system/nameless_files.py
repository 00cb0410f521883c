"""Nameless files that carry large data, and the errors for resources that have run out."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .frames import Blob

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
