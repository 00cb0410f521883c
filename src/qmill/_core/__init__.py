"""The native core: whether this installation has it, and if not, why."""

from __future__ import annotations

import sys


def why_not() -> str | None:
    """Return why queues in shared memory cannot be had here; None if they can."""
    if sys.platform != "linux":
        return f"it needs Linux; this is {sys.platform}"
    try:
        from . import _ring  # noqa: F401
    except ImportError as error:
        return f"it was not built when qmill was installed ({error})"
    return None


def core_info() -> dict[str, object]:
    """Tell which transport `qmill.Queue` uses by default, and why.

    Returns:
        `transport`: "shared" or "portable"; `core`: whether the native core is there; `why`: a
        sentence.
    """
    reason = why_not()
    if reason is None:
        why = "the native core is there: queues are in shared memory"
    else:
        why = f"there is no native core: {reason}"
    return {
        "transport": "portable" if reason else "shared",
        "core": reason is None,
        "why": why,
    }
