"""Standard output and error across a fork: each text that a program prints is written once.

Text that is in a stream's buffer at a fork exists in both processes. So the parent flushes before
the fork, and the child clears its copy of the buffer, which may still hold text: another thread may
have printed, or the parent could not write. The child clears the existing buffer instead of
replacing the stream, since a logging handler or a module may hold a reference to the stream.

A fork of the program may also come while another thread of qmill flushes, and holds the locks of
the streams: the child then clears and renews them in the same way, and leaves the text to the
parent.

Only the standard streams are treated in this way. Buffers of other open files are not cleared, as
in `multiprocessing`: a child ends by `os._exit`, which does not write them.
"""

from __future__ import annotations

import contextlib
import io
import sys
from _thread import get_ident
from typing import Any

from . import lifecycle
from .interrupts import is_interrupt

_flushing: list[int] = []  # the ids of the threads that are in `flush`


def flush() -> None:
    """Flush the standard streams; ignore streams that fail."""
    thread = get_ident()
    _flushing.append(thread)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        if sys.__stdout__ is not sys.stdout or sys.__stderr__ is not sys.stderr:
            _flush_each()
    except Exception as error:  # None, closed, a full disk, or a replaced stream that raises
        if is_interrupt(error):
            raise
        _flush_each()
    finally:
        _flushing.remove(thread)


def _flush_each() -> None:
    for stream in _streams():
        try:
            stream.flush()
        except Exception as error:
            if is_interrupt(error):
                raise


def empty() -> None:
    """Clear, in a forked child, the buffered text that its parent has printed."""
    for stream in _streams():
        with contextlib.suppress(Exception):  # a program may have replaced a stream
            _empty(stream)


def _streams() -> list[Any]:
    return [sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__]


def _empty(stream: Any) -> None:
    buffer: Any = stream.buffer
    for kind in (io.BufferedWriter, io.BufferedRandom):
        if isinstance(buffer, kind) and not buffer.closed:
            begin: Any = kind.__init__
            raw = buffer.raw
            # Calling __init__ again clears the buffer and makes a new lock, since a thread of the
            # parent may have held the old one. Meanwhile the stream's own text is flushed to
            # nowhere.
            begin(buffer, _Nowhere())
            try:
                if isinstance(stream, io.TextIOWrapper):
                    io.TextIOWrapper.flush(stream)
            finally:
                begin(buffer, raw)


class _Nowhere(io.RawIOBase):
    """A file that discards all data."""

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


def _after_fork_in_child() -> None:
    """Clear the streams if another thread of the parent was flushing: it held their locks."""
    thread = get_ident()
    if any(each != thread for each in _flushing):
        empty()
        _flushing[:] = [each for each in _flushing if each == thread]


lifecycle.at_fork(lifecycle.STREAMS, in_child=_after_fork_in_child)
