"""Wakes a dispatcher that waits in a selector."""

from __future__ import annotations

import os

from ..system import native


class WakePipe:
    """A pipe in a selector, through which other threads end its wait; it never blocks."""

    def __init__(self) -> None:
        self._lock = native.RLock()
        self._woken = False
        self._out, self._in = os.pipe()
        os.set_blocking(self._out, False)
        os.set_blocking(self._in, False)

    def fileno(self) -> int:
        """Return the end that is to be watched."""
        return self._out

    def wake(self) -> None:
        """End the wait, from any thread; nothing once it is closed."""
        with self._lock:
            if not self._woken and self._in >= 0:
                self._woken = True
                os.write(self._in, b"w")

    def clear(self) -> None:
        """Be ready for the next wake: called when the pipe can be read."""
        with self._lock:
            self._woken = False
            os.read(self._out, 16)

    def close(self) -> None:
        """Close both ends."""
        with self._lock:
            ends = [end for end in (self._out, self._in) if end >= 0]
            self._out = self._in = -1  # before: a child forked meanwhile is not to close them again
            for end in ends:
                os.close(end)

    def forget_in_child(self) -> None:
        """Close a forked child's copies; a thread that is not there may hold the lock."""
        self._lock = native.RLock()
        self.close()
