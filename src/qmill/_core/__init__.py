"""The native core: whether this installation has it, and if not, why."""

from __future__ import annotations

import os
import sys

from ..errors import NotSupported


def why_not() -> str | None:
    """Return why queues in shared memory cannot be had here; None if they can."""
    if sys.platform != "linux":
        return f"it needs Linux; this is {sys.platform}"
    try:
        from . import _ring  # noqa: F401
    except ImportError as error:
        return f"it was not built when qmill was installed ({error})"
    return None


def choose() -> str:
    """Return the transport of new queues: "shared" or "portable".

    Raises:
        NotSupported: `QMILL_TRANSPORT` names another, or one that cannot be had here.
    """
    wanted = os.environ.get("QMILL_TRANSPORT") or None
    if wanted not in (None, "portable", "shared"):
        raise NotSupported(f"QMILL_TRANSPORT must be 'portable' or 'shared', not {wanted!r}")
    if wanted == "portable":
        return wanted
    reason = why_not()
    if wanted == "shared" and reason is not None:
        raise NotSupported(f"QMILL_TRANSPORT='shared', but there is no native core: {reason}")
    return "shared" if reason is None else "portable"


def core_info() -> dict[str, object]:
    """Tell which transport `qmill.Queue` uses, and why.

    Returns:
        `transport`: "portable", "shared", or None if what `QMILL_TRANSPORT` asks for cannot be had;
        `core`: whether the native core is there; `why`: a sentence.
    """
    reason = why_not()
    try:
        transport = choose()
    except NotSupported as error:
        return {"transport": None, "core": reason is None, "why": str(error)}
    if os.environ.get("QMILL_TRANSPORT"):
        why = f"QMILL_TRANSPORT={transport}"
    elif reason is None:
        why = "the native core is there"
    else:
        why = f"there is no native core: {reason}"
    return {"transport": transport, "core": reason is None, "why": why}
