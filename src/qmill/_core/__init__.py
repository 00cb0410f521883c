"""The native core: whether this installation has it, and if not, why."""

from __future__ import annotations

import os
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
    """Tell which transport `qmill.Queue` uses, and why.

    Returns:
        `transport`: "portable" or "shared"; `core`: whether the native core is there; `why`: a
        sentence.
    """
    reason = why_not()
    wanted = os.environ.get("QMILL_TRANSPORT") == "shared"
    if reason is not None:
        why = f"there is no native core: {reason}"
    elif wanted:
        why = "QMILL_TRANSPORT=shared, and the native core is there"
    else:
        why = "queues in shared memory are new: set QMILL_TRANSPORT=shared to use them"
    return {
        "transport": "shared" if wanted and reason is None else "portable",
        "core": reason is None,
        "why": why,
    }
