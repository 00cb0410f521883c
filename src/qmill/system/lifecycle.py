"""The lock that orders forks with the making of descriptors that a forked child must close."""

from __future__ import annotations

import os

from . import native

fork_lock = native.RLock()
"""Held while a process forks, and while descriptors are made that a forked child must close."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=fork_lock.acquire,
        after_in_parent=fork_lock.release,
        after_in_child=fork_lock.release,  # by the child's only thread, which has acquired it
    )
