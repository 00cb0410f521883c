"""Wakes a dispatcher that waits in a selector."""

from __future__ import annotations

import os

from ..system import native
from ..system.opened import pipe


class WakePipe:
    """A pipe in a selector, through which other threads end its wait; it never blocks."""

    def __init__(self) -> None:
        self._lock = native.RLock()
        self._woken = False
        self._out, self._in = pipe()
        for end in (self._out, self._in):
            os.set_blocking(end.fileno(), False)

    def fileno(self) -> int:
        """Return the end that is to be watched."""
        return self._out.fileno()

    def wake(self) -> None:
        """End the wait, from any thread; nothing once it is closed."""
        with self._lock:
            if not self._woken and not self._in.closed:
                self._woken = True
                self._in.write(b"w")

    def clear(self) -> None:
        """Be ready for the next wake: called when the pipe can be read."""
        with self._lock:
            self._woken = False
            self._out.read(16)

    def close(self) -> None:
        """Close both ends."""
        with self._lock:
            self._out.close()
            self._in.close()

    def forget_in_child(self) -> None:
        """Close a forked child's copies; a thread that is not there may hold the lock."""
        self._lock = native.RLock()
        self.close()
