"""Standard output and error across a fork: each text that a program prints comes out once.

A text that is still in a stream's buffer at a fork is in both processes. The parent writes it out
before the fork; the child, which may find what another thread has printed since, or what the parent
could not write, empties its copy. It empties the buffer that is there, rather than to put another
stream in its place, since a logging handler or a module may hold the stream.

Only the standard streams are treated so. What other open files of the parent have in their buffers
is left alone, as `multiprocessing` does: a child ends by `os._exit`, which writes none of it.
"""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any


def flush() -> None:
    """Write out what has been printed, as far as the streams can."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        if sys.__stdout__ is sys.stdout and sys.__stderr__ is sys.stderr:
            return  # the usual case, of which each job is one
    except Exception:  # None, closed, a full disk, or whatever a program has put there
        pass
    for stream in _streams():
        with contextlib.suppress(Exception):
            stream.flush()


def empty() -> None:
    """Drop, in a forked child, what its parent has printed and not written."""
    for stream in _streams():
        with contextlib.suppress(Exception):  # whatever a program has put there
            _empty(stream)


def _streams() -> list[Any]:
    return [sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__]


def _empty(stream: Any) -> None:
    buffer: Any = stream.buffer
    for kind in (io.BufferedWriter, io.BufferedRandom):
        if isinstance(buffer, kind) and not buffer.closed:
            begin: Any = kind.__init__
            raw = buffer.raw
            # Its beginning anew empties it, and replaces its lock, which a thread of the parent
            # may have held. The text that the stream itself holds back goes nowhere in between.
            begin(buffer, _Nowhere())
            try:
                if isinstance(stream, io.TextIOWrapper):
                    io.TextIOWrapper.flush(stream)
            finally:
                begin(buffer, raw)


class _Nowhere(io.RawIOBase):
    """A file that takes everything and keeps nothing."""

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return 0

    def write(self, data: Any) -> int:
        return len(data)
